//! Actions and commands asked for by the operator.

use std::collections::BTreeMap;

use serde_json::Value;

/// What is to be run.
#[derive(Debug, Clone)]
pub enum Work {
    /// An action of the charm with its checked parameters.
    Action { name: String, params: BTreeMap<String, Value> },
    /// Shell text in a hook-like context (`juju-exec` on the unit's machine).
    Exec { script: String },
}

/// How far it has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// In the unit's queue.
    Pending,
    /// Running.
    Running,
    /// Ended well.
    Completed,
    /// Ended with `action-fail`, a non-zero exit or a failed flush.
    Failed,
    /// Its unit or machine went away.
    Aborted,
}

impl TaskState {
    /// Juju's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// One action or command and what came of it.
#[derive(Debug, Clone)]
pub struct Task {
    /// Number, shared by all operations.
    pub id: u64,
    /// The unit that runs it.
    pub unit: String,
    /// What runs.
    pub work: Work,
    /// How far it has got.
    pub state: TaskState,
    /// Failure message, if any.
    pub message: String,
    /// What `action-set` collected, nested.
    pub results: Value,
    /// Exit code, standard output and standard error of the process.
    pub exit: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// `action-log` lines.
    pub log: Vec<String>,
    /// When it was queued, started, ended (milliseconds since the epoch; 0 = not yet).
    pub times: [u64; 3],
}

impl Task {
    /// A task that waits for its unit, queued at `now`.
    pub fn new(id: u64, unit: &str, work: Work, now: u64) -> Self {
        Self {
            id,
            unit: unit.to_owned(),
            work,
            state: TaskState::Pending,
            message: String::new(),
            results: serde_json::json!({}),
            exit: None,
            stdout: String::new(),
            stderr: String::new(),
            log: Vec::new(),
            times: [now, 0, 0],
        }
    }

    /// True when nothing more will happen to it.
    pub fn is_over(&self) -> bool {
        matches!(self.state, TaskState::Completed | TaskState::Failed | TaskState::Aborted)
    }
}
