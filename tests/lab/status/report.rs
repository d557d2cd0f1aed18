//! The status of everything, in the shape of `juju status --format json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{time, time_of_day};
use crate::world::{App, Life, MachineState, PortRange, StatusInfo, Unit, World};

/// Words from worst to best; an application without a status of its own shows its worst unit's.
const SEVERITY: [&str; 7] = ["error", "blocked", "maintenance", "waiting", "active", "terminated", "unknown"];

/// A status word with its sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The word.
    pub current: String,
    /// The sentence; absent when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub since: String,
}

impl Info {
    fn new(current: &str, message: &str, since: u64) -> Self {
        Self { current: current.to_owned(), message: message.to_owned(), since: time(since) }
    }
}

/// One unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UnitReport {
    /// What the charm says.
    pub workload_status: Info,
    /// What the agent does.
    pub juju_status: Info,
    /// True on the leader, absent elsewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leader: bool,
    /// Machine number.
    pub machine: String,
    /// Opened ports, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open_ports: Vec<String>,
    /// Address.
    pub public_address: String,
}

/// One application.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AppReport {
    /// Charm name.
    pub charm: String,
    /// Charm revision.
    pub charm_rev: u32,
    /// Its status.
    pub application_status: Info,
    /// Units by name.
    pub units: BTreeMap<String, UnitReport>,
    /// What `application-version-set` said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// `dying` while it is being removed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub life: String,
}

/// One machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MachineReport {
    /// State of its agent.
    pub juju_status: Info,
    /// Address.
    pub dns_name: String,
    /// Instance id.
    pub instance_id: String,
    /// What the instance does.
    pub machine_status: Info,
}

/// One relation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelationReport {
    /// `app:endpoint` of the provider, or of the peers.
    pub provider: String,
    /// The same of the requirer.
    pub requirer: String,
    /// Interface.
    pub interface: String,
    /// `peer` or `regular`.
    pub kind: String,
}

/// Model line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelReport {
    /// Name.
    pub name: String,
    /// Controller.
    pub controller: String,
    /// Cloud.
    pub cloud: String,
    /// Version spoken.
    pub version: String,
    /// Time of day.
    pub timestamp: String,
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The model.
    pub model: ModelReport,
    /// Machines by number.
    pub machines: BTreeMap<u32, MachineReport>,
    /// Applications by name.
    pub applications: BTreeMap<String, AppReport>,
    /// Relations.
    pub relations: Vec<RelationReport>,
}

/// Reads the report out of the world.
pub fn report(world: &World, cloud: &str, now: u64) -> Report {
    let apps = world.apps.values().map(|app| (app.name.clone(), app_report(world, app, now))).collect();
    let machines = world.machines.values().map(|machine| {
        let (agent, instance) = match machine.state {
            MachineState::Pending => ("pending", "allocating"),
            MachineState::Started => ("started", "running"),
            MachineState::Paused | MachineState::Down => ("down", "running"),
        };
        let report = MachineReport {
            juju_status: Info::new(agent, "", now),
            dns_name: machine.address.clone(),
            instance_id: machine.hostname.clone(),
            machine_status: Info::new(instance, &machine.message, now),
        };
        (machine.id, report)
    });
    let relations = world.relations.values().map(|relation| {
        let name = |index: usize| {
            let end = relation.ends.get(index).or(relation.ends.first());
            end.map(|end| format!("{}:{}", end.app, end.endpoint)).unwrap_or_default()
        };
        RelationReport {
            provider: name(0),
            requirer: name(1),
            interface: relation.interface.clone(),
            kind: if relation.is_peer() { "peer" } else { "regular" }.to_owned(),
        }
    });
    Report {
        model: ModelReport {
            name: "lab".to_owned(),
            controller: "etcd-charm-lab".to_owned(),
            cloud: cloud.to_owned(),
            version: world.options.generation.version().to_owned(),
            timestamp: time_of_day(now) + "Z",
        },
        machines: machines.collect(),
        applications: apps,
        relations: relations.collect(),
    }
}

fn app_report(world: &World, app: &App, now: u64) -> AppReport {
    let info = app_status(world, app, now);
    let units = world.units_of(&app.name).into_iter().map(|unit| (unit.name.clone(), unit_report(world, unit, now)));
    AppReport {
        charm: app.charm.name.clone(),
        charm_rev: app.charm_revision,
        application_status: Info::new(&info.word, &info.message, info.since),
        units: units.collect(),
        version: app.version.chars().take(15).collect(),
        life: if app.dying { "dying" } else { "" }.to_owned(),
    }
}

/// What `status-set --application` said, however the units are since then. If it was never called, the worst
/// unit's status; of several that are equally bad any one, another each time, as Juju walks an unordered map
/// (4.0 `domain/status/service/status.go`, 3.6 `core/status`).
pub fn app_status(world: &World, app: &App, now: u64) -> StatusInfo {
    if let Some(status) = &app.status {
        return status.clone();
    }
    let rank = |unit: &&Unit| {
        let word = workload(world, unit).word;
        SEVERITY.iter().position(|known| *known == word).unwrap_or(SEVERITY.len())
    };
    let units = world.units_of(&app.name);
    let worst = units.iter().map(rank).min();
    let worst: Vec<&&Unit> = units.iter().filter(|unit| Some(rank(unit)) == worst).collect();
    let shown = worst.get(now as usize % worst.len().max(1));
    shown.map_or_else(|| StatusInfo::new("unknown", "", 0), |unit| workload(world, unit))
}

/// The workload status as shown: an error hides what the charm said, a lost agent makes it unknown.
fn workload(world: &World, unit: &Unit) -> StatusInfo {
    if let Some(failed) = &unit.failed {
        let hook = crate::context::hook_name(world, &unit.name, &failed.op);
        return StatusInfo::new("error", &format!("hook failed: {hook:?}"), unit.workload.since);
    }
    if lost(world, unit) {
        let message = format!("agent lost, see 'lab debug-log' ({})", unit.workload.message);
        return StatusInfo::new("unknown", &message, unit.workload.since);
    }
    unit.workload.clone()
}

fn lost(world: &World, unit: &Unit) -> bool {
    world
        .machines
        .get(&unit.machine)
        .is_none_or(|machine| matches!(machine.state, MachineState::Down | MachineState::Paused))
}

fn unit_report(world: &World, unit: &Unit, now: u64) -> UnitReport {
    let machine = world.machines.get(&unit.machine);
    let info = workload(world, unit);
    let agent = match (&unit.executing, machine.map(|machine| machine.state)) {
        (_, None | Some(MachineState::Down | MachineState::Paused)) => {
            ("lost", "agent is not communicating with the server".to_owned())
        }
        (_, Some(MachineState::Pending)) => ("allocating", String::new()),
        (Some(what), _) => ("executing", what.clone()),
        (None, _) if unit.failed.is_some() => ("idle", String::new()),
        (None, _) => ("idle", String::new()),
    };
    let mut ports: Vec<&PortRange> = unit.ports.iter().collect();
    ports.sort();
    UnitReport {
        workload_status: Info::new(&info.word, &info.message, info.since),
        juju_status: Info::new(agent.0, &agent.1, now),
        leader: unit.life == Life::Alive && world.is_leader(&unit.name, now),
        machine: unit.machine.to_string(),
        open_ports: ports.into_iter().map(PortRange::to_string).collect(),
        public_address: machine.map(|machine| machine.address.clone()).unwrap_or_default(),
    }
}
