//! Every hook and every action of the charm: the name it was started under → what happened →
//! observe → plan → act → exit code.

mod act;
mod actions;
mod answers;
mod bags;
mod cluster;
#[cfg(test)]
mod contract;
mod event;
mod facts;
mod files;
mod host;
mod juju;
mod observe;
mod pending;
mod plan;
mod secret;
mod service;
#[cfg(test)]
mod sim;
mod text;
mod trust;

use std::process::ExitCode;

use act::CharmError;
use event::Invocation;
use host::Host;
use juju::Juju;

fn main() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(CharmError::Held(sentence)) => {
            println!("to be run again: {sentence}");
            service::end_as_interrupted()
        }
        Err(error) => {
            eprintln!("{}", text::Line::of(&error.to_string()).text());
            ExitCode::FAILURE
        }
    }
}

fn answer() -> Result<(), CharmError> {
    let path = std::env::var("JUJU_DISPATCH_PATH")
        .ok()
        .filter(|path| !path.is_empty())
        .or_else(|| std::env::args().next())
        .unwrap_or_default();
    let juju = Juju::from_environment()?;
    let host = Host::from_environment()?;
    match Invocation::read(&path, juju.unit(), juju.departing().as_ref())? {
        Invocation::Action(verb) => actions::run(verb, juju, &host),
        Invocation::Hook(_, event) => act::run(juju, &host, &event),
    }
}
