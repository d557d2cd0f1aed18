//! `lab`: a small stand-in for Juju on one machine, for this project's tests and its demo.
//!
//! One executable plays three parts: the command line; the controller it starts in the background; and,
//! under the name of a hook tool, that tool inside a unit's machine. `world` is what the controller knows,
//! `schedule` decides what a unit runs next, `tools` answers hook tools, `machine` makes machines.

mod agent;
mod archive;
mod cli;
mod client;
mod context;
mod controller;
mod demo;
mod home;
mod hook;
mod hub;
mod machine;
mod requests;
mod scenario;
mod schedule;
mod status;
mod tools;
mod wire;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called_as = args.next().unwrap_or_default();
    let name = called_as.rsplit('/').next().unwrap_or_default();
    if tools::NAMES.contains(&name) {
        return ExitCode::from(tools::client::run(name, args.collect()) as u8);
    }
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ERROR {error}");
            ExitCode::FAILURE
        }
    }
}
