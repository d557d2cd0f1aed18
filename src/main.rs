//! The daemon: settings in, a member running, an exit code out. `etcd v2 …` are tools that run no member.

use std::process::ExitCode;

use etcd_charm::migrate;
use etcd_charm::node;
use etcd_charm::settings::{self, Invocation};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "v2") {
        return ExitCode::from(migrate::run(words));
    }
    let (settings, notices) = match settings::from_process() {
        Ok(Invocation::Run { settings, notices }) => (settings, notices),
        Ok(Invocation::Print(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(error.exit_code());
        }
    };
    ExitCode::from(node::run(*settings, &notices))
}
