//! Answers hook tools exactly as Juju's agent does: output, exit code, error text, buffering.
//!
//! `answer` runs inside the controller under its lock; `client` is the other half, the executable that
//! a hook finds on its PATH under each tool's name.

mod action;
pub mod client;
pub mod flags;
mod network;
pub mod output;
mod relation;
mod secret;
mod storage;
mod unit;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::world::World;
use flags::Flags;

/// Every tool the lab answers; each is a link on a hook's PATH.
pub const NAMES: [&str; 42] = [
    "action-fail",
    "action-get",
    "action-log",
    "action-set",
    "application-version-set",
    "close-port",
    "config-get",
    "credential-get",
    "goal-state",
    "is-leader",
    "juju-log",
    "juju-reboot",
    "leader-get",
    "leader-set",
    "network-get",
    "open-port",
    "opened-ports",
    "payload-register",
    "payload-status-set",
    "payload-unregister",
    "relation-get",
    "relation-ids",
    "relation-list",
    "relation-model-get",
    "relation-set",
    "resource-get",
    "secret-add",
    "secret-get",
    "secret-grant",
    "secret-ids",
    "secret-info-get",
    "secret-remove",
    "secret-revoke",
    "secret-set",
    "state-delete",
    "state-get",
    "state-set",
    "status-get",
    "status-set",
    "storage-get",
    "storage-list",
    "unit-get",
];

/// What the executable sends.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Call {
    /// `JUJU_CONTEXT_ID` of the caller.
    pub context: String,
    /// Tool name.
    pub name: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Contents of every file the arguments name (`-` is standard input), or why it could not be read.
    pub files: BTreeMap<String, Result<String, String>>,
}

/// What the executable prints and exits with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A refused call: exit code and the text after `ERROR `.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: i32,
    message: String,
}

/// Exit 2: bad flags or arguments.
pub fn usage(message: impl Into<String>) -> Refusal {
    Refusal { code: 2, message: message.into() }
}

/// Exit 1: could not be done.
pub fn failed(message: impl Into<String>) -> Refusal {
    Refusal { code: 1, message: message.into() }
}

/// One tool call in progress.
pub struct Session<'a> {
    /// The controller's memory.
    pub world: &'a mut World,
    /// The caller's context.
    pub context: &'a mut Context,
    /// Files the caller read for us.
    pub files: &'a BTreeMap<String, Result<String, String>>,
    /// Milliseconds since the epoch.
    pub now: u64,
}

impl Session<'_> {
    /// True when the calling unit leads its application now.
    pub fn leads(&self) -> bool {
        self.world.is_leader(&self.context.unit, self.now)
    }

    /// A file the arguments named.
    pub fn file(&self, path: &str) -> Result<&str, Refusal> {
        match self.files.get(path) {
            Some(Ok(text)) => Ok(text),
            Some(Err(error)) => Err(failed(format!("open {path}: {error}"))),
            None => Err(failed(format!("open {path}: no such file or directory"))),
        }
    }

    /// The text map in a `--file` argument, YAML or JSON.
    pub fn settings_file(&self, flags: &Flags) -> Result<BTreeMap<String, String>, Refusal> {
        let Some(path) = flags.value("file") else { return Ok(BTreeMap::new()) };
        let text = self.file(path)?;
        let map: Option<BTreeMap<String, serde_yaml::Value>> =
            serde_yaml::from_str(text).map_err(|error| failed(format!("cannot read {path}: {error}")))?;
        map.unwrap_or_default()
            .into_iter()
            .map(|(key, value)| match value {
                serde_yaml::Value::String(text) => Ok((key, text)),
                serde_yaml::Value::Null => Ok((key, String::new())),
                other => Err(failed(format!("yaml: cannot unmarshal {other:?} into string for key {key:?}"))),
            })
            .collect()
    }
}

/// Answers one call.
pub fn answer(world: &mut World, call: &Call, now: u64) -> Reply {
    let unit = world.contexts.iter().find(|(_, context)| context.id == call.context).map(|(unit, _)| unit.clone());
    let Some((unit, mut context)) = unit.and_then(|unit| world.contexts.remove_entry(&unit)) else {
        return refused(&failed(format!("bad request: unknown context id {:?}", call.context)));
    };
    let mut session = Session { world, context: &mut context, files: &call.files, now };
    let outcome = dispatch(&mut session, &call.name, &call.args);
    world.contexts.insert(unit, context);
    match outcome {
        Ok(stdout) => Reply { code: 0, stdout, stderr: String::new() },
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Reply {
    Reply { code: refusal.code, stdout: String::new(), stderr: format!("ERROR {}\n", refusal.message) }
}

fn dispatch(session: &mut Session<'_>, name: &str, args: &[String]) -> Result<String, Refusal> {
    let flags = Flags::parse(args, flags_of(name))?;
    match name {
        "action-fail" | "action-get" | "action-log" | "action-set" => action::answer(session, name, &flags),
        "network-get" | "open-port" | "close-port" | "opened-ports" => network::answer(session, name, &flags),
        "relation-get" | "relation-ids" | "relation-list" | "relation-set" | "relation-model-get" => {
            relation::answer(session, name, &flags)
        }
        "storage-get" | "storage-list" => storage::answer(session, name, &flags),
        _ if name.starts_with("secret-") => secret::answer(session, name, &flags),
        _ => unit::answer(session, name, &flags),
    }
}

/// Names of the flags that take a value, and of those that do not.
fn flags_of(name: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match name {
        "action-fail" | "action-log" | "application-version-set" | "credential-get" | "juju-reboot" => (&[], &["now"]),
        "juju-log" => (&["l", "log-level", "format", "o", "output"], &["debug"]),
        "network-get" => (
            &["r", "relation", "format", "o", "output"],
            &["bind-address", "ingress-address", "egress-subnets", "primary-address"],
        ),
        "open-port" | "close-port" => (&["endpoints", "format"], &[]),
        "opened-ports" => (&["format", "o", "output"], &["endpoints"]),
        "relation-get" => (&["r", "relation", "format", "o", "output"], &["app"]),
        "relation-list" => (&["r", "relation", "format", "o", "output"], &["app"]),
        "relation-set" => (&["r", "relation", "file", "format"], &["app"]),
        "config-get" => (&["format", "o", "output"], &["a", "all"]),
        "status-get" => (&["format", "o", "output"], &["include-data", "application"]),
        "status-set" => (&[], &["application"]),
        "state-get" => (&["format", "o", "output"], &["strict"]),
        "state-set" => (&["file"], &[]),
        "storage-get" => (&["s", "format", "o", "output"], &[]),
        "secret-add" | "secret-set" => (&["label", "description", "owner", "rotate", "expire", "file"], &[]),
        "secret-get" => (&["label", "format", "o", "output"], &["peek", "refresh"]),
        "secret-info-get" => (&["label", "format", "o", "output"], &[]),
        "secret-grant" | "secret-revoke" => (&["r", "relation", "unit", "app"], &[]),
        "secret-remove" => (&["revision"], &[]),
        _ => (&["r", "relation", "format", "o", "output"], &["include-data"]),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::schedule::Op;
    use crate::world::lifecycle::tests::deployed;

    /// A model whose unit 0 runs `start` and, if asked, leads.
    pub(crate) fn running(units: usize, leads: bool) -> World {
        let mut world = deployed(units);
        let leader = if leads { "toy/0" } else { "toy/9" };
        world.apps.get_mut("toy").unwrap().lease.claim(leader, 0, 60_000);
        let context = Context::new(&world, "toy/0", &Op::Plain("start"), "t");
        world.contexts.insert("toy/0".to_owned(), context);
        world.enter_scope(0, "toy/0");
        world.units.get_mut("toy/0").unwrap().relations.entry(0).or_default().created = true;
        world
    }

    /// Calls a tool as unit 0.
    pub(crate) fn call(world: &mut World, line: &[&str]) -> Reply {
        let args = line[1..].iter().map(|word| (*word).to_owned()).collect();
        let context = world.contexts["toy/0"].id.clone();
        answer(world, &Call { context, name: line[0].to_owned(), args, files: BTreeMap::new() }, 1)
    }

    #[test]
    fn a_call_after_the_hook_ended_is_refused() {
        let mut world = running(1, true);
        let stale = Call { context: "gone".to_owned(), name: "is-leader".to_owned(), ..Call::default() };
        assert_eq!(answer(&mut world, &stale, 1).code, 1);
    }

    #[test]
    fn every_name_is_answered_or_refused_in_words() {
        for name in NAMES {
            let reply = call(&mut running(1, true), &[name]);
            assert!(reply.code == 0 || reply.stderr.starts_with("ERROR "), "{name}: {reply:?}");
            assert!(!reply.stderr.contains("unknown command"), "{name} has no answer");
        }
    }
}
