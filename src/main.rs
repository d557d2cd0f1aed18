//! The daemon: settings in, a member running, an exit code out.

use std::process::ExitCode;

use etcd_charm::node;
use etcd_charm::settings::{self, Invocation};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages: a few touched bytes in each would make memory grow by half for no gain in speed.
    // Where the kernel does not know the call there is nothing to turn off.
    let _ = nix::sys::prctl::set_thp_disable(true);
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
