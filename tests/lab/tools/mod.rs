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
use crate::world::generation::Generation;
use crate::world::{LogLine, World, unit_tag};
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

/// The tools of one generation.
pub fn names(generation: Generation) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |name| match *name {
        "leader-get" | "leader-set" => generation.has_leader_settings(),
        name if name.starts_with("payload-") => generation.has_payloads(),
        _ => true,
    })
}

/// True for tools whose answer may depend on what the same hook has changed.
fn reads(name: &str) -> bool {
    const ASKING: [&str; 4] = ["goal-state", "is-leader", "opened-ports", "secret-ids"];
    ASKING.contains(&name)
        || name.ends_with("-get")
        || ["relation-ids", "relation-list", "storage-list"].contains(&name)
}

/// True for tools that change what Juju holds back until the hook ends.
fn writes(name: &str) -> bool {
    const CHANGING: [&str; 4] = ["close-port", "open-port", "relation-set", "state-delete"];
    let secret = ["secret-add", "secret-grant", "secret-remove", "secret-revoke", "secret-set"];
    CHANGING.contains(&name) || name == "state-set" || secret.contains(&name)
}

/// The log module under which reads after a write are told.
pub const READ_BACK: &str = "lab.read-back";

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

impl Refusal {
    /// True for bad flags or arguments.
    fn is_usage(&self) -> bool {
        self.code == 2
    }
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
    if !names(world.options.generation).any(|name| name == call.name) {
        world.contexts.insert(unit, context);
        return refused(&failed(format!("bad request: unknown command {:?}", call.name)));
    }
    if let Some(line) = note_read_back(&mut context, &call.name, now) {
        world.write_log(line);
    }
    let mut session = Session { world, context: &mut context, files: &call.files, now };
    let outcome = dispatch(&mut session, &call.name, &call.args);
    world.contexts.insert(unit, context);
    match outcome {
        Ok(stdout) => Reply { code: 0, stdout, stderr: String::new() },
        Err(refusal) => refused(&refusal),
    }
}

/// What tells of a hook that reads after it has written: what it is answered then differs between tools and
/// between Jujus, so this project's charm must not.
fn note_read_back(context: &mut Context, name: &str, now: u64) -> Option<LogLine> {
    if writes(name) {
        context.wrote.get_or_insert_with(|| name.to_owned());
        return None;
    }
    let wrote = context.wrote.as_ref().filter(|_| reads(name))?;
    Some(LogLine {
        at: now,
        entity: unit_tag(&context.unit),
        level: "WARNING".to_owned(),
        module: READ_BACK.to_owned(),
        message: format!("{} asked {name} after {wrote}", context.id),
    })
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
    fn juju_4_has_no_leader_settings_and_no_payloads() {
        let mut world = running(1, true);
        for (generation, code) in [(Generation::Juju3, 0), (Generation::Juju4, 1)] {
            world.options.generation = generation;
            for line in [["leader-get", "-"], ["leader-set", "a=b"], ["payload-unregister", "a"]] {
                assert_eq!(call(&mut world, &line).code, code, "{generation:?} {line:?}");
                assert_eq!(names(generation).any(|name| name == line[0]), code == 0);
            }
            assert_eq!(call(&mut world, &["is-leader"]).code, 0);
        }
    }

    #[test]
    fn a_read_after_a_write_is_told_in_the_log_and_a_read_before_it_is_not() {
        let mut world = running(1, true);
        call(&mut world, &["relation-get", "-r", "peer:0", "-", "toy/0"]);
        call(&mut world, &["status-set", "active"]);
        call(&mut world, &["is-leader"]);
        assert!(world.log.1.iter().all(|line| line.module != READ_BACK));
        call(&mut world, &["relation-set", "-r", "peer:0", "a=b"]);
        call(&mut world, &["relation-set", "-r", "peer:0", "c=d"]);
        assert!(world.log.1.iter().all(|line| line.module != READ_BACK));
        call(&mut world, &["relation-get", "-r", "peer:0", "-", "toy/0"]);
        let told: Vec<&String> =
            world.log.1.iter().filter(|line| line.module == READ_BACK).map(|line| &line.message).collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].ends_with("asked relation-get after relation-set"), "{told:?}");
    }

    #[test]
    fn every_name_is_answered_or_refused_in_words() {
        for name in NAMES {
            let mut world = running(1, true);
            world.options.generation = Generation::Juju3;
            let reply = call(&mut world, &[name]);
            assert!(reply.code == 0 || reply.stderr.starts_with("ERROR "), "{name}: {reply:?}");
            assert!(!reply.stderr.contains("unknown command"), "{name} has no answer");
        }
    }
}
