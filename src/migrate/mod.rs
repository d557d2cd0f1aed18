//! The tools of `etcd v2`: a v2 tree out of a cluster into a file, from the file into a cluster, or into the v3 keyspace.
//!
//! They are clients of any server of the v2 API, etcd's own included. What holds true: an export is whole and of one
//! moment, or there is no file; nothing is written before the whole file is proven; nothing that exists is overwritten
//! unless asked for; a run that broke off can be repeated. Memory does not grow with the tree.
//!
//! `access` reaches the servers, `listing` reads a recursive answer piece by piece, `spool` keeps and proves
//! files; `export`, `import`, `copy` and `compare` are the commands.

mod access;
mod compare;
mod copy;
mod error;
mod export;
mod import;
mod listing;
mod options;
mod plan;
mod report;
mod spool;
#[cfg(test)]
mod tests;
mod writes;

use std::ffi::OsString;

pub use error::MigrateError;
use options::Command;

/// Runs one tool with the words after `v2`; the result is the exit code: 0 done, 1 not done or not alike, 2 not understood.
pub fn run(words: impl Iterator<Item = OsString>) -> u8 {
    let command = match options::read(words) {
        Ok(command) => command,
        Err((text, code)) => {
            if code == 0 {
                println!("{text}")
            } else {
                eprintln!("{text}")
            }
            return code;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("etcd v2: cannot start: {error}");
            return 1;
        }
    };
    let done = runtime.block_on(async {
        match command {
            Command::Export(options) => export::run(&options).await,
            Command::Import(options) => import::run(&options).await,
            Command::CopyToV3(options) => copy::run(&options).await,
            Command::Compare(options) => compare::run(&options),
        }
    });
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("etcd v2: {error}");
            1
        }
    }
}
