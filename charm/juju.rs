//! The only caller of Juju's hook tools: [`Juju`] asks, [`Writer`] changes, [`Console`] tells people.
//!
//! Every answer is asked for as JSON and read from stdout alone; every map is written through
//! stdin or a private file, so that no value is trimmed and none shows up in a process list. What
//! Juju buffers (databags, secrets, ports) counts only when the hook ends well. There is a writer only
//! once nobody can ask any more: see [`Juju::close`] and `pending.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::answers;
use crate::bags::Bag;
use crate::facts::{Life, Storage, Unit};
use crate::plan::status::Word;
use crate::text::{Line, RelationId, SecretId, Version};

/// The peer relation's name in `metadata.yaml`.
pub const PEER: &str = "peer";
/// The label of the application's secret.
pub const SECRET: &str = "pki";
/// The storage's name in `metadata.yaml`.
pub const STORAGE: &str = "data";

/// A hook tool failed or answered something unreadable.
#[derive(Debug, thiserror::Error)]
pub enum JujuError {
    /// It could not be started.
    #[error("hook tool {tool} could not be started: {cause}; is this running inside a hook?")]
    Start {
        /// Its name.
        tool: &'static str,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// It exited with an error.
    #[error("hook tool {tool} failed: {message}")]
    Failed {
        /// Its name.
        tool: &'static str,
        /// Its stderr.
        message: String,
    },
    /// Its answer is not what Juju documents.
    #[error("hook tool {tool} answered something unreadable: {cause}")]
    Answer {
        /// Its name.
        tool: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// Juju did not set a variable it always sets.
    #[error("environment variable {0} is missing or unreadable: is this running inside a hook?")]
    Environment(&'static str),
}

impl JujuError {
    /// True when the tool says that the thing asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, JujuError::Failed { message, .. } if message.contains("not found"))
    }

    /// True when the tool says that the storage asked for is not ready to be used.
    #[must_use]
    pub fn is_not_provisioned(&self) -> bool {
        matches!(self, JujuError::Failed { message, .. } if message.contains("not provisioned"))
    }
}

/// The addresses Juju knows for this unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Of this machine.
    pub bind: Vec<IpAddr>,
    /// By which others reach it.
    pub ingress: Vec<IpAddr>,
}

/// Asks Juju. No answer ever holds what this program has changed, because the first change uses it up.
#[derive(Debug)]
pub struct Juju {
    unit: Unit,
}

/// Changes what Juju keeps for the application and this unit, when the program ends well.
#[derive(Debug)]
pub struct Writer(());

/// What people read: status, log, an action's results. Juju shows it at once and the charm never asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Console;

/// What Juju says of the application's secret to its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretInfo {
    /// Its URI.
    pub id: SecretId,
    /// Its latest revision.
    pub revision: u64,
}

impl Juju {
    /// Reads the environment of the hook.
    ///
    /// # Errors
    /// [`JujuError::Environment`] when `JUJU_UNIT_NAME` is missing.
    pub fn from_environment() -> Result<Self, JujuError> {
        let unit = std::env::var("JUJU_UNIT_NAME").ok().and_then(|name| Unit::parse(&name));
        Ok(Juju { unit: unit.ok_or(JujuError::Environment("JUJU_UNIT_NAME"))? })
    }

    /// Ends the asking.
    #[must_use]
    pub fn close(self) -> Writer {
        Writer(())
    }

    /// This unit.
    #[must_use]
    pub fn unit(&self) -> &Unit {
        &self.unit
    }

    /// The unit that departs, in a departed hook.
    #[must_use]
    pub fn departing(&self) -> Option<Unit> {
        std::env::var("JUJU_DEPARTING_UNIT").ok().and_then(|name| Unit::parse(&name))
    }

    /// True when leadership is guaranteed for the next 30 seconds.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn is_leader(&self) -> Result<bool, JujuError> {
        let answer = json("is-leader", &[])?;
        answer.as_bool().ok_or_else(|| answers::unreadable("is-leader", &answer))
    }

    /// The operator's options.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn config(&self) -> Result<BTreeMap<String, Value>, JujuError> {
        answers::map("config-get", json("config-get", &[])?)
    }

    /// This unit's addresses on the peer relation's network.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn addresses(&self) -> Result<Addresses, JujuError> {
        Ok(answers::addresses(&json("network-get", &[PEER])?))
    }

    /// The peer relation's id, once it exists.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn peer_relation(&self) -> Result<Option<RelationId>, JujuError> {
        answers::relation(&json("relation-ids", &[PEER])?)
    }

    /// The units already joined here.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn relation_units(&self, relation: &RelationId) -> Result<BTreeSet<Unit>, JujuError> {
        answers::units(&json("relation-list", &["-r", relation])?)
    }

    /// A unit's databag.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn unit_bag(&self, relation: &RelationId, unit: &Unit) -> Result<Bag, JujuError> {
        answers::bag("relation-get", &json("relation-get", &["-r", relation, "-", &unit.to_string()])?)
    }

    /// The application's databag.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn app_bag(&self, relation: &RelationId) -> Result<Bag, JujuError> {
        answers::bag("relation-get", &json("relation-get", &["-r", relation, "--app", "-", &self.unit.application])?)
    }

    /// Every unit of the application and whether it is wanted.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn goal(&self) -> Result<BTreeMap<Unit, Life>, JujuError> {
        answers::goal(&json("goal-state", &[])?, &self.unit.application)
    }

    /// The ports this unit has opened.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn opened_ports(&self) -> Result<BTreeSet<String>, JujuError> {
        Ok(answers::strings("opened-ports", &json("opened-ports", &[])?)?.into_iter().collect())
    }

    /// The latest content of the application's secret; `None` when there is none.
    ///
    /// # Errors
    /// [`JujuError`] of the tool for any other reason.
    pub fn secret(&self) -> Result<Option<Bag>, JujuError> {
        match json("secret-get", &["--label", SECRET, "--refresh"]) {
            Ok(content) => Ok(Some(answers::bag("secret-get", &content)?)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the application's secret is and how often it was changed; `None` when there is none. Leader only.
    ///
    /// # Errors
    /// [`JujuError`] of the tool for any other reason.
    pub fn secret_info(&self) -> Result<Option<SecretInfo>, JujuError> {
        match json("secret-info-get", &["--label", SECRET]) {
            Err(error) if error.is_not_found() => Ok(None),
            answer => answers::secret_info(&answer?),
        }
    }

    /// The attached storage; `None` when there is none, or it is not there yet.
    ///
    /// # Errors
    /// [`JujuError`] when Juju cannot say, also for an id or a location that is none: to go on without the
    /// storage would be to put the data elsewhere.
    pub fn storage(&self) -> Result<Option<Storage>, JujuError> {
        answers::storage(&json("storage-list", &[STORAGE])?, |id| json("storage-get", &["-s", id, "location"]))
    }

    /// An action's parameters.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn parameters(&self) -> Result<BTreeMap<String, Value>, JujuError> {
        answers::map("action-get", json("action-get", &[])?)
    }
}

impl Writer {
    /// Writes keys of this unit's databag, or of the application's; an empty value deletes.
    ///
    /// # Errors
    /// [`JujuError`] of the tool, such as when leadership was lost.
    pub fn set(&self, relation: &RelationId, app: bool, values: &Bag) -> Result<(), JujuError> {
        let mut args: Vec<&str> = vec!["-r", relation];
        if app {
            args.push("--app");
        }
        args.extend(["--file", "-"]);
        let text = serde_json::to_string(values)
            .map_err(|e| JujuError::Answer { tool: "relation-set", cause: e.to_string() })?;
        run("relation-set", &args, Some(&text)).map(drop)
    }

    /// Opens or closes a TCP port.
    ///
    /// # Errors
    /// [`JujuError`] of the tool, such as when another unit on the machine has it.
    pub fn set_port(&self, port: u16, open: bool) -> Result<(), JujuError> {
        run(if open { "open-port" } else { "close-port" }, &[&format!("{port}/tcp")], None).map(drop)
    }

    /// Makes the application's secret from a private file holding a map. Leader only.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn add_secret(&self, file: &Path) -> Result<(), JujuError> {
        let description = "certificate authorities of the etcd cluster";
        let file = file.display().to_string();
        let args = ["--label", SECRET, "--owner", "application", "--description", description, "--file", &file];
        run("secret-add", &args, None).map(drop)
    }

    /// Stores a new revision of the application's secret from a private file holding a map. Leader only.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn change_secret(&self, id: &SecretId, file: &Path) -> Result<(), JujuError> {
        let file = file.display().to_string();
        run("secret-set", &[id, "--file", &file], None).map(drop)
    }

    /// Removes one revision of the application's secret, whoever read it last; one that is gone already is
    /// no error. Leader only.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn remove_secret_revision(&self, id: &SecretId, revision: u64) -> Result<(), JujuError> {
        run("secret-remove", &[id, "--revision", &revision.to_string()], None).map(drop)
    }

    /// Shows the version of the workload.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn version(&self, version: &Version) -> Result<(), JujuError> {
        run("application-version-set", &[version], None).map(drop)
    }
}

impl Console {
    /// Shows the unit's status.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn status(&self, word: Word, sentence: &str) -> Result<(), JujuError> {
        run("status-set", &[word.text(), Line::of(sentence).text()], None).map(drop)
    }

    /// Shows the application's status. Leader only.
    ///
    /// # Errors
    /// [`JujuError`] of the tool, such as when leadership was lost.
    pub fn application_status(&self, word: Word, sentence: &str) -> Result<(), JujuError> {
        run("status-set", &["--application", word.text(), Line::of(sentence).text()], None).map(drop)
    }

    /// Writes a line to the model's log; a failure to log is not worth failing for.
    pub fn log(&self, level: &str, message: &str) {
        let line = Line::of(message);
        if let Err(error) = run("juju-log", &["-l", level, line.text()], None) {
            eprintln!("{level}: {} ({})", line.text(), Line::of(&error.to_string()).text());
        }
    }

    /// Sets one result of an action; it may have several lines.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn result(&self, key: &'static str, value: &str) -> Result<(), JujuError> {
        run("action-set", &[&format!("{key}={}", Line::several(value).text())], None).map(drop)
    }

    /// Fails the action with a message. The program must still exit 0, or Juju replaces it.
    ///
    /// # Errors
    /// [`JujuError`] of the tool.
    pub fn fail_action(&self, message: &str) -> Result<(), JujuError> {
        run("action-fail", &[Line::of(message).text()], None).map(drop)
    }
}

fn json(tool: &'static str, args: &[&str]) -> Result<Value, JujuError> {
    let mut all = vec!["--format=json"];
    all.extend(args);
    let text = run(tool, &all, None)?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).map_err(|e| JujuError::Answer { tool, cause: e.to_string() })
}

fn run(tool: &'static str, args: &[&str], stdin: Option<&str>) -> Result<String, JujuError> {
    let start = |cause| JujuError::Start { tool, cause };
    let mut child = Command::new(tool)
        .args(args)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A tool that fails at once closes its end; its own message is the better one.
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(JujuError::Failed { tool, message })
    }
}
