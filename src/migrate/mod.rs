//! The tools of `etcd v2`: export a v2 tree from a cluster to a file, import it into a cluster, copy it to v3 keys.
//!
//! They are clients of any v2 API server, including etcd. Invariants: an export is complete and a consistent snapshot,
//! or there is no file; nothing is written before the whole file is verified; nothing that exists is overwritten unless
//! requested; an interrupted run can be repeated. Memory use does not grow with the tree.
//!
//! `access` connects to servers, `listing` parses recursive responses as a stream, `spool` writes and verifies export
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

/// Runs one tool with the arguments after `v2`. Exit code: 0 success, 1 failure or difference, 2 usage error.
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
