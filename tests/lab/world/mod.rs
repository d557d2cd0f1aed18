//! The controller's whole memory: applications, units, machines, relations, secrets, tasks.
//!
//! Nothing here runs a process, reads a clock or draws a random number: times are milliseconds handed
//! in by the caller and choices come in as values. The controller owns the only copy, behind one lock.

pub mod charm;
pub mod generation;
pub mod lease;
#[cfg(test)]
mod leaving;
pub mod lifecycle;
pub mod relation;
pub mod secret;
pub mod task;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::schedule::Op;
use charm::Charm;
use generation::Generation;
use lease::Lease;
use relation::{LocalRelation, Relation};
use secret::Secret;
use task::Task;

/// Databag contents, charm state and leader settings: text to text, as Juju keeps them.
pub type Settings = BTreeMap<String, String>;

/// The most log lines the controller keeps for `debug-log`; older lines fall off the front.
const MAX_LOG_LINES: usize = 20_000;

/// Knobs of one lab, fixed when its controller starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// Drives every random choice: delays between hooks, order among relations, who leads first.
    pub seed: u64,
    /// Mean time between `update-status` hooks, in milliseconds (Juju: five minutes).
    pub update_status_ms: u64,
    /// How long leadership outlives its holder, in milliseconds (Juju: sixty seconds).
    pub lease_ms: u64,
    /// Longest random pause before a hook, in milliseconds.
    pub jitter_ms: u64,
    /// First retry delay of a failed hook, in milliseconds (Juju: five seconds, doubling to five minutes).
    pub retry_ms: u64,
    /// The Juju the lab behaves as.
    pub generation: Generation,
    /// Agents learn that a unit has gone only when they start again or their charm is refreshed, as was seen
    /// with Juju 4.0.
    pub withhold_departures: bool,
    /// A new machine takes the lowest free number, and with it the address of one that is gone.
    pub reuse_machines: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            update_status_ms: 300_000,
            lease_ms: 60_000,
            jitter_ms: 300,
            retry_ms: 5_000,
            generation: Generation::default(),
            withhold_departures: false,
            reuse_machines: false,
        }
    }
}

/// A status word, its sentence and since when (milliseconds since the epoch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusInfo {
    /// `active`, `blocked`, … or one of the words only Juju sets.
    pub word: String,
    /// The sentence shown beside it.
    pub message: String,
    /// When the pair was set.
    pub since: u64,
}

impl StatusInfo {
    /// A status as set at `since`.
    pub fn new(word: &str, message: &str, since: u64) -> Self {
        Self { word: word.to_owned(), message: message.to_owned(), since }
    }
}

/// One deployed application.
#[derive(Debug)]
pub struct App {
    /// The name given at deploy; unit names start with it.
    pub name: String,
    /// The charm its units should run.
    pub charm: Arc<Charm>,
    /// Grows with every refresh; a unit whose own number is lower runs `upgrade-charm`.
    pub charm_revision: u32,
    /// Options the operator has set; defaults come from the charm.
    pub config: BTreeMap<String, serde_json::Value>,
    /// Names of optional storage that every new unit gets.
    pub storage: Vec<String>,
    /// Who leads, and until when that is promised.
    pub lease: Lease,
    /// The deprecated leader settings and their version.
    pub leader_settings: (u64, Settings),
    /// What the leader set with `status-set --application`, if ever.
    pub status: Option<StatusInfo>,
    /// What `application-version-set` said last.
    pub version: String,
    /// True once `remove-application` was asked for.
    pub dying: bool,
}

/// Where a unit is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Wanted.
    Alive,
    /// Told to go; still running its leaving hooks.
    Dying,
}

/// The hook that failed last and when it is tried again.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What is run again.
    pub op: Op,
    /// How many times it has failed so far.
    pub attempts: u32,
    /// When the next try is due.
    pub retry_at: u64,
}

/// A range of opened ports; `from == to` for one port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// First port.
    pub from: u16,
    /// Last port.
    pub to: u16,
    /// `tcp`, `udp` or `icmp` (then both ports are 0).
    pub protocol: String,
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.protocol.as_str(), self.from == self.to) {
            ("icmp", _) => write!(f, "icmp"),
            (protocol, true) => write!(f, "{}/{protocol}", self.from),
            (protocol, false) => write!(f, "{}-{}/{protocol}", self.from, self.to),
        }
    }
}

/// One storage instance of a unit.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `data/0`.
    pub id: String,
    /// `data`.
    pub name: String,
    /// Directory inside the machine.
    pub location: String,
    /// True after its `storage-attached` hook succeeded.
    pub attached: bool,
}

/// One unit and everything its agent remembers between hooks.
#[derive(Debug)]
pub struct Unit {
    /// `etcd/0`.
    pub name: String,
    /// The application it belongs to.
    pub app: String,
    /// The machine it runs on.
    pub machine: u32,
    /// Alive or dying.
    pub life: Life,
    /// `install` has succeeded.
    pub installed: bool,
    /// `start` has succeeded.
    pub started: bool,
    /// `stop` has succeeded.
    pub stopped: bool,
    /// `leader-elected` has run for the lease this unit holds.
    pub told_leader: bool,
    /// Version of the leader settings this unit was last told of.
    pub leader_settings_seen: u64,
    /// Revision of the charm unpacked on its machine.
    pub charm_revision: u32,
    /// Fingerprint of the configuration its last `config-changed` saw.
    pub config_seen: Option<u64>,
    /// Its own view of each relation.
    pub relations: BTreeMap<u32, LocalRelation>,
    /// A hook that runs next without an error having been shown: one that must follow another at once, or
    /// one that a signal ended.
    pub queued: Option<Op>,
    /// Units that have gone without this agent's knowledge.
    pub unaware_of: BTreeSet<String>,
    /// The agent is to be killed in the middle of the hook it runs.
    pub interrupted: bool,
    /// Set while the unit is in error.
    pub failed: Option<Failure>,
    /// Set by `resolve`: retry at once (`true`) or skip the hook (`false`).
    pub resolved: Option<bool>,
    /// What is executing now, for status.
    pub executing: Option<String>,
    /// Workload status.
    pub workload: StatusInfo,
    /// True once the charm itself has set a status.
    pub status_set: bool,
    /// Opened ports.
    pub ports: BTreeSet<PortRange>,
    /// What `state-set` keeps.
    pub state: Settings,
    /// Actions and commands waiting for this unit, oldest first.
    pub queue: VecDeque<u64>,
    /// When the next `update-status` is due.
    pub update_status_at: u64,
    /// Storage instances.
    pub storage: Vec<Storage>,
}

/// State of one machine as the controller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineState {
    /// Being built or booting.
    Pending,
    /// Running.
    Started,
    /// Every process in it is stopped; nothing answers, nothing is lost.
    Paused,
    /// Died without being asked to.
    Down,
}

/// One machine.
#[derive(Debug)]
pub struct Machine {
    /// Its number.
    pub id: u32,
    /// Running, booting or dead.
    pub state: MachineState,
    /// Its IPv4 address.
    pub address: String,
    /// Prefix length of the network the address is in.
    pub prefix: u8,
    /// Host name inside.
    pub hostname: String,
    /// Network interface that carries the address.
    pub interface: String,
    /// Hardware address of that interface.
    pub mac: String,
    /// Why it is in this state, when there is something to say.
    pub message: String,
}

/// One line for `debug-log`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since the epoch.
    pub at: u64,
    /// `unit-etcd-0`, `controller`, `machine-1`.
    pub entity: String,
    /// `INFO`, `WARNING`, …
    pub level: String,
    /// `juju.worker…` in Juju; here the hook or part that speaks.
    pub module: String,
    /// The text.
    pub message: String,
}

/// Everything the controller knows.
#[derive(Debug)]
pub struct World {
    /// Knobs.
    pub options: Options,
    /// The model's identity.
    pub model_uuid: String,
    /// Applications by name.
    pub apps: BTreeMap<String, App>,
    /// Units by name.
    pub units: BTreeMap<String, Unit>,
    /// Machines by number.
    pub machines: BTreeMap<u32, Machine>,
    /// Relations by id.
    pub relations: BTreeMap<u32, Relation>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Actions and commands, done or not.
    pub tasks: BTreeMap<u64, Task>,
    /// The context of the hook each unit is running now.
    pub contexts: BTreeMap<String, Context>,
    /// Recent log lines, oldest first, and how many have ever been written.
    pub log: (u64, VecDeque<LogLine>),
    /// Next unit number per application name; survives the application.
    pub next_unit: BTreeMap<String, u32>,
    next: BTreeMap<&'static str, u64>,
}

impl World {
    /// An empty model.
    pub fn new(options: Options, model_uuid: String) -> Self {
        Self {
            options,
            model_uuid,
            apps: BTreeMap::new(),
            units: BTreeMap::new(),
            machines: BTreeMap::new(),
            relations: BTreeMap::new(),
            secrets: BTreeMap::new(),
            tasks: BTreeMap::new(),
            contexts: BTreeMap::new(),
            log: (0, VecDeque::new()),
            next_unit: BTreeMap::new(),
            next: BTreeMap::new(),
        }
    }

    /// The next number of a sequence (`relation`, `machine`, `task`, …), from 0.
    pub fn take_number(&mut self, sequence: &'static str) -> u64 {
        let slot = self.next.entry(sequence).or_insert(0);
        *slot += 1;
        *slot - 1
    }

    /// Appends to the log that `debug-log` shows.
    pub fn write_log(&mut self, line: LogLine) {
        self.log.0 += 1;
        self.log.1.push_back(line);
        if self.log.1.len() > MAX_LOG_LINES {
            self.log.1.pop_front();
        }
    }

    /// True when `unit` holds its application's lease at `now`.
    pub fn is_leader(&self, unit: &str, now: u64) -> bool {
        let app = self.units.get(unit).and_then(|unit| self.apps.get(&unit.app));
        app.is_some_and(|app| app.lease.holder_at(now) == Some(unit))
    }

    /// Units of an application, in natural order (`etcd/2` before `etcd/10`).
    pub fn units_of(&self, app: &str) -> Vec<&Unit> {
        let mut units: Vec<&Unit> = self.units.values().filter(|unit| unit.app == app).collect();
        units.sort_by_key(|unit| unit_number(&unit.name));
        units
    }

    /// True when the unit's machine runs.
    pub fn reachable(&self, unit: &Unit) -> bool {
        self.machines.get(&unit.machine).is_some_and(|machine| machine.state == MachineState::Started)
    }

    /// An application's configuration as `config-get` shows it: defaults with the operator's values on top.
    pub fn config_of(&self, app: &App) -> BTreeMap<String, serde_json::Value> {
        let mut merged: BTreeMap<String, serde_json::Value> = app
            .charm
            .options
            .iter()
            .filter(|(_, option)| !option.default.is_null())
            .map(|(name, option)| (name.clone(), option.default.clone()))
            .collect();
        merged.extend(app.config.iter().map(|(name, value)| (name.clone(), value.clone())));
        merged
    }
}

/// The number in `etcd/10`; 0 when there is none.
pub fn unit_number(name: &str) -> u32 {
    name.rsplit_once('/').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// `etcd/0` → `unit-etcd-0`.
pub fn unit_tag(name: &str) -> String {
    format!("unit-{}", name.replace('/', "-"))
}
