//! The daemon: settings in, a member running, an exit code out. Also the two commands on snapshot files, and `etcd v2 …`,
//! tools that run no member.

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
    // The allocator asks for huge pages: a few touched bytes in each would make memory grow by half for no gain in speed.
    // Where the kernel does not know the call there is nothing to turn off.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let (settings, notices) = match settings::from_process() {
        Ok(Invocation::Run { settings, notices }) => (settings, notices),
        Ok(Invocation::Restore(asked)) => return ExitCode::from(node::restore(&asked)),
        Ok(Invocation::SnapshotStatus(asked)) => {
            return match node::snapshot_status(&asked) {
                Ok(line) => {
                    println!("{line}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("Error: {error}");
                    ExitCode::FAILURE
                }
            };
        }
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
