//! How applications, units and relations come and go, and what the start and end of each hook change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::charm::Charm;
use super::lease::Lease;
use super::relation::{End, LocalRelation, Member, Relation};
use super::secret::Owner;
use super::task::TaskState;
use super::{App, Failure, Life, Machine, MachineState, StatusInfo, Storage, Unit, World};
use crate::schedule::{Op, RelationHook};

/// Longest pause between retries of a failed hook.
const MAX_RETRY_MS: u64 = 300_000;

impl World {
    /// Adds an application without units.
    pub fn deploy(&mut self, name: &str, charm: Arc<Charm>) -> Result<(), String> {
        if self.apps.contains_key(name) {
            return Err(format!("cannot add application {name:?}: application already exists"));
        }
        for (endpoint, interface) in &charm.peers {
            self.add_relation(vec![End { app: name.to_owned(), endpoint: endpoint.clone() }], interface);
        }
        self.apps.insert(
            name.to_owned(),
            App {
                name: name.to_owned(),
                charm,
                charm_revision: 0,
                config: BTreeMap::new(),
                storage: Vec::new(),
                lease: Lease::default(),
                leader_settings: (0, BTreeMap::new()),
                status: None,
                version: String::new(),
                dying: false,
            },
        );
        Ok(())
    }

    /// Adds a relation and gives its id.
    pub fn add_relation(&mut self, ends: Vec<End>, interface: &str) -> u32 {
        let id = self.take_number("relation") as u32;
        let interface = interface.to_owned();
        let relation = Relation { id, ends, interface, dying: false, units: BTreeMap::new(), apps: BTreeMap::new() };
        self.relations.insert(id, relation);
        id
    }

    /// Adds a unit of `app` on a new machine; both still pending. Gives the unit's name.
    pub fn add_unit(&mut self, app: &str, now: u64) -> Result<String, String> {
        let (charm, wanted) = match self.apps.get(app) {
            Some(app) if !app.dying => (app.charm.clone(), app.storage.clone()),
            Some(_) => return Err(format!("cannot add unit: application {app:?} is being removed")),
            None => return Err(format!("application {app:?} not found")),
        };
        let number = self.next_unit.entry(app.to_owned()).or_insert(0);
        let name = format!("{app}/{number}");
        *number += 1;
        let machine = self.machine_number();
        self.machines.insert(machine, pending_machine(machine));
        let storage = self.storage_for(&charm, &wanted);
        let unit = Unit {
            name: name.clone(),
            app: app.to_owned(),
            machine,
            life: Life::Alive,
            installed: false,
            started: false,
            stopped: false,
            told_leader: false,
            leader_settings_seen: 0,
            charm_revision: 0,
            config_seen: None,
            relations: BTreeMap::new(),
            queued: None,
            unaware_of: BTreeSet::new(),
            interrupted: false,
            failed: None,
            resolved: None,
            executing: None,
            workload: StatusInfo::new("waiting", "waiting for machine", now),
            status_set: false,
            ports: BTreeSet::new(),
            state: BTreeMap::new(),
            queue: VecDeque::new(),
            update_status_at: u64::MAX,
            storage,
        };
        self.units.insert(name.clone(), unit);
        Ok(name)
    }

    /// A machine's number, from which its address follows.
    fn machine_number(&mut self) -> u32 {
        if self.options.reuse_machines {
            return (0..).find(|number| !self.machines.contains_key(number)).unwrap_or_default();
        }
        self.take_number("machine") as u32
    }

    fn storage_for(&mut self, charm: &Charm, wanted: &[String]) -> Vec<Storage> {
        let mut all = Vec::new();
        for (name, spec) in charm.storage.iter().filter(|(_, spec)| spec.kind == "filesystem") {
            for _ in 0..spec.least().max(usize::from(wanted.contains(name))) {
                all.push(self.new_storage(name, spec.location.as_deref()));
            }
        }
        all
    }

    fn new_storage(&mut self, name: &str, location: Option<&str>) -> Storage {
        let number = self.take_number("storage");
        let id = format!("{name}/{number}");
        let location = location.map_or(format!("/var/lib/juju/storage/{id}"), str::to_owned);
        Storage { id, name: name.to_owned(), location, attached: false }
    }

    /// A new storage for a unit that is there already; the caller gives it to the unit when it exists.
    pub fn add_storage(&mut self, unit: &str, name: &str) -> Result<Storage, String> {
        let state = self.units.get(unit).ok_or(format!("unit {unit:?} not found"))?;
        let charm = self.apps.get(&state.app).map(|app| Arc::clone(&app.charm)).ok_or("application not found")?;
        let spec = charm.storage.get(name).ok_or(format!("charm {:?} has no store called {name:?}", charm.name))?;
        if state.storage.iter().filter(|storage| storage.name == name).count() >= spec.most() {
            return Err(format!("cannot add storage {name:?} to {unit}: it has as many as the charm allows"));
        }
        Ok(self.new_storage(name, spec.location.as_deref()))
    }

    /// Marks a unit as leaving. A leader keeps its lease, and renews it, until it is dead.
    pub fn remove_unit(&mut self, unit: &str) -> Result<(), String> {
        self.units.get_mut(unit).ok_or(format!("unit {unit:?} not found"))?.life = Life::Dying;
        Ok(())
    }

    /// Takes a unit and its machine out of the model without any hook on it; gives the machine's number.
    pub fn forget_unit(&mut self, name: &str) -> Option<u32> {
        let unit = self.units.remove(name)?;
        self.machines.remove(&unit.machine);
        if self.options.withhold_departures {
            for other in self.units.values_mut().filter(|other| other.app == unit.app) {
                other.unaware_of.insert(name.to_owned());
            }
        }
        self.contexts.remove(name);
        for task in self.tasks.values_mut().filter(|task| task.unit == name && !task.is_over()) {
            task.state = TaskState::Aborted;
            task.message = "unit was removed".to_owned();
        }
        for relation in self.relations.keys().copied().collect::<Vec<_>>() {
            self.leave_scope(relation, name);
        }
        if let Some(app) = self.apps.get_mut(&unit.app) {
            app.lease.resign(name);
        }
        self.secrets.retain(|_, secret| secret.owner != Owner::Unit(name.to_owned()));
        for secret in self.secrets.values_mut() {
            secret.consumers.remove(name);
        }
        self.forget_finished();
        Some(unit.machine)
    }

    /// Drops relations that nobody is in any more and applications whose last unit has gone.
    pub fn forget_finished(&mut self) {
        let users: BTreeSet<u32> = self
            .units
            .values()
            .flat_map(|unit| unit.relations.iter().filter(|(_, local)| !local.left).map(|(id, _)| *id))
            .collect();
        self.relations.retain(|id, relation| !relation.dying || relation.is_peer() || users.contains(id));
        let gone: Vec<String> = self
            .apps
            .values()
            .filter(|app| app.dying && !self.units.values().any(|unit| unit.app == app.name))
            .map(|app| app.name.clone())
            .collect();
        for app in gone {
            self.apps.remove(&app);
            self.relations.retain(|_, relation| relation.endpoint_of(&app).is_none());
            self.secrets.retain(|_, secret| secret.owner != Owner::App(app.clone()));
        }
    }

    /// What changes as a hook starts: scope, membership, caches, Juju's own status sentences.
    pub fn begin(&mut self, name: &str, op: &Op, now: u64) {
        if let Op::Relation { hook: RelationHook::Created, relation, .. } = op {
            self.enter_scope(*relation, name);
        }
        let versions = self.versions(op);
        let Some(unit) = self.units.get_mut(name) else { return };
        match op {
            Op::Plain("install") if !unit.status_set => {
                unit.workload = StatusInfo::new("maintenance", "installing charm software", now);
            }
            Op::Plain("stop") => unit.workload = StatusInfo::new("maintenance", "stopping charm software", now),
            Op::Plain("remove") => {
                unit.workload = StatusInfo::new("maintenance", "cleaning up prior to charm deletion", now);
            }
            Op::Plain("leader-elected") => unit.told_leader = true,
            Op::Plain("leader-settings-changed") => {
                unit.leader_settings_seen = self.apps.get(&unit.app).map_or(0, |app| app.leader_settings.0);
            }
            Op::Relation { hook, relation, remote } => {
                let local = unit.relations.entry(*relation).or_default();
                local.begin(*hook, remote.as_deref(), &versions);
            }
            Op::SecretChanged { id } => {
                if let Some(secret) = self.secrets.get_mut(id) {
                    let latest = secret.latest();
                    secret.consumers.entry(name.to_owned()).or_default().told = latest;
                }
            }
            _ => {}
        }
    }

    /// Bag versions of everything a relation hook may be about to see.
    fn versions(&self, op: &Op) -> BTreeMap<String, u64> {
        let Op::Relation { relation, .. } = op else { return BTreeMap::new() };
        let Some(relation) = self.relations.get(relation) else { return BTreeMap::new() };
        relation.units.iter().chain(&relation.apps).map(|(name, bag)| (name.clone(), bag.version)).collect()
    }

    /// What changes once a hook has succeeded (or was skipped).
    pub fn finish(&mut self, name: &str, op: &Op, config_seen: u64, now: u64, update_status_in: u64) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let revision = self.apps.get(&unit.app).map_or(0, |app| app.charm_revision);
        unit.queued = None;
        unit.failed = None;
        unit.resolved = None;
        unit.update_status_at = now + update_status_in;
        match op {
            Op::Plain("install") => {
                unit.installed = true;
                unit.charm_revision = revision;
            }
            Op::Plain("upgrade-charm") => {
                unit.charm_revision = revision;
                unit.queued = Some(Op::Plain("config-changed"));
            }
            Op::Plain("config-changed") => {
                unit.config_seen = Some(config_seen);
                unit.queued = (!unit.started).then_some(Op::Plain("start"));
            }
            Op::Plain("start") => {
                unit.started = true;
                if !unit.status_set {
                    unit.workload = StatusInfo::new("unknown", "", now);
                }
            }
            // Juju itself has the last word, whatever the charm said in the hook.
            Op::Plain("stop") => {
                unit.stopped = true;
                unit.workload = StatusInfo::new("maintenance", "", now);
            }
            Op::Plain("remove") => {
                unit.installed = false;
                unit.workload = StatusInfo::new("terminated", "", now);
            }
            Op::Storage { attach, id } => {
                if let Some(storage) = unit.storage.iter_mut().find(|storage| storage.id == *id) {
                    storage.attached = *attach;
                }
                if !attach {
                    unit.storage.retain(|storage| storage.id != *id);
                }
            }
            Op::Relation { hook, relation, remote } => {
                unit.relations.entry(*relation).or_default().finish(*hook, remote.as_deref());
                if *hook == RelationHook::Broken {
                    self.leave_scope(*relation, name);
                    self.forget_finished();
                }
            }
            Op::SecretRemove { id, revision } => {
                if let Some(secret) = self.secrets.get_mut(id) {
                    secret.remove_told.insert((name.to_owned(), *revision));
                }
            }
            _ => {}
        }
    }

    /// The agent of a unit ends and starts again, between two hooks. It takes the latest revision of every
    /// secret it reads as the one it was told of: a `secret-changed` that was due until then never runs. It
    /// learns of the units that have gone.
    pub fn restart_agent(&mut self, name: &str) -> Result<(), String> {
        let unit = self.units.get_mut(name).ok_or(format!("unit {name:?} not found"))?;
        unit.unaware_of.clear();
        for secret in self.secrets.values_mut() {
            let latest = secret.latest();
            if let Some(reader) = secret.consumers.get_mut(name) {
                reader.told = latest;
            }
        }
        Ok(())
    }

    /// A former leader's agent notes that it leads no more. No hook tells the charm.
    pub fn note_deposition(&mut self, name: &str, now: u64) {
        let leads = self.is_leader(name, now);
        if let Some(unit) = self.units.get_mut(name).filter(|_| !leads) {
            unit.told_leader = false;
        }
    }

    /// Hands the lease to another living unit whose machine runs; gives its name.
    pub fn move_leadership(&mut self, app: &str, now: u64) -> Result<String, String> {
        let length = self.options.lease_ms;
        let holder = self.apps.get(app).and_then(|app| app.lease.holder_at(now)).map(str::to_owned);
        // Whoever was told in a hook that it leads was promised the time to finish it.
        let busy = |name: &String| self.units.get(name).is_some_and(|unit| unit.executing.is_some());
        if let Some(holder) = holder.as_ref().filter(|holder| busy(holder)) {
            return Err(format!("{holder} leads and runs a hook: try again when it has ended"));
        }
        let names: Vec<String> = self
            .units_of(app)
            .into_iter()
            .filter(|unit| unit.life == Life::Alive && unit.installed && self.reachable(unit))
            .map(|unit| unit.name.clone())
            .collect();
        let at = names.iter().position(|name| Some(name) == holder.as_ref()).map_or(0, |at| at + 1);
        let next = names.get(at % names.len().max(1)).ok_or(format!("no unit of {app:?} can lead"))?.clone();
        let lease = self.apps.get_mut(app).map(|app| &mut app.lease).ok_or(format!("application {app:?} not found"))?;
        *lease = Lease::default();
        lease.claim(&next, now, length);
        Ok(next)
    }

    /// A signal ended the hook, which says nothing about it: it runs again, and no error is shown.
    pub fn requeue(&mut self, name: &str, op: &Op) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.failed = None;
            unit.resolved = None;
            unit.queued = Some(op.clone());
        }
    }

    /// Puts a unit in error and sets the time of the next try: doubling, capped, ±20 % by `jitter` (0..=1).
    pub fn fail(&mut self, name: &str, op: &Op, now: u64, jitter: f64) {
        let first = self.options.retry_ms;
        let Some(unit) = self.units.get_mut(name) else { return };
        let attempts = unit.failed.as_ref().map_or(0, |failed| failed.attempts) + 1;
        let pause = (first << (attempts - 1).min(16)).min(MAX_RETRY_MS) as f64 * (0.8 + 0.4 * jitter);
        unit.queued = None;
        unit.failed = Some(Failure { op: op.clone(), attempts, retry_at: now + pause as u64 });
        unit.resolved = None;
    }
}

impl LocalRelation {
    fn begin(&mut self, hook: RelationHook, remote: Option<&str>, versions: &BTreeMap<String, u64>) {
        match (hook, remote) {
            (RelationHook::Joined, Some(remote)) => {
                self.members.insert(remote.to_owned(), Member::default());
            }
            (RelationHook::Changed, Some(remote)) => {
                if let Some(member) = self.members.get_mut(remote) {
                    member.cache = None;
                    member.seen = versions.get(remote).copied().unwrap_or(0);
                }
            }
            (RelationHook::Changed, None) => {
                self.apps_seen.extend(
                    versions.iter().filter(|(name, _)| !name.contains('/')).map(|(name, seen)| (name.clone(), *seen)),
                );
            }
            (RelationHook::Departed, Some(remote)) => {
                self.members.remove(remote);
            }
            _ => {}
        }
    }

    fn finish(&mut self, hook: RelationHook, remote: Option<&str>) {
        match hook {
            RelationHook::Created => self.created = true,
            RelationHook::Joined => self.pending_changed = remote.map(str::to_owned),
            RelationHook::Changed if remote.is_some() => self.pending_changed = None,
            RelationHook::Departed if self.pending_changed.as_deref() == remote => self.pending_changed = None,
            RelationHook::Broken => self.left = true,
            _ => {}
        }
    }
}

fn pending_machine(id: u32) -> Machine {
    Machine {
        id,
        state: MachineState::Pending,
        address: String::new(),
        prefix: 24,
        hostname: format!("juju-lab-{id}"),
        interface: "eth0".to_owned(),
        mac: "00:16:3e:00:00:00".to_owned(),
        message: String::new(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::schedule::{Next, fingerprint, next};
    use crate::world::Options;
    use crate::world::generation::Generation;

    /// A model with `units` units of a charm `toy` that has one peer relation `peer`.
    pub fn deployed(units: usize) -> World {
        let metadata = "name: toy\nsummary: s\npeers: {peer: {interface: toy}}\nrequires: {db: {interface: toydb}}\n";
        let charm = Arc::new(Charm::parse(metadata, None, None).unwrap());
        let mut world = World::new(Options::default(), "model".to_owned());
        world.deploy("toy", charm).unwrap();
        for _ in 0..units {
            world.add_unit("toy", 0).unwrap();
        }
        world
    }

    /// Runs one unit until it has nothing to do and gives the hook names in order.
    pub fn settle(world: &mut World, unit: &str, now: u64) -> Vec<String> {
        let mut trace = Vec::new();
        while let Next::Run(op) = next(world, &world.units[unit], now, &mut |_| 0) {
            let app = world.units[unit].app.clone();
            world.apps.get_mut(&app).unwrap().lease.claim("toy/0", now, 60_000);
            let mut line = crate::context::hook_name(world, unit, &op);
            if let Op::Relation { remote: Some(remote), .. } = &op {
                line.push_str(&format!("({remote})"));
            }
            trace.push(line);
            world.begin(unit, &op, now);
            let seen = fingerprint(&world.config_of(&world.apps[&app]));
            world.finish(unit, &op, seen, now, 1_000);
            if op == Op::Plain("remove") {
                world.forget_unit(unit);
                break;
            }
        }
        trace
    }

    #[test]
    fn first_deploy_follows_jujus_order() {
        let mut world = deployed(3);
        world.apps.get_mut("toy").unwrap().lease.claim("toy/0", 0, 60_000);
        let first = ["install", "peer-relation-created", "leader-elected", "config-changed", "start"];
        assert_eq!(settle(&mut world, "toy/0", 0), first);
        let second = [
            "install",
            "peer-relation-created",
            "config-changed",
            "start",
            "peer-relation-joined(toy/0)",
            "peer-relation-changed(toy/0)",
        ];
        assert_eq!(settle(&mut world, "toy/1", 0), second);
        let told = ["peer-relation-joined(toy/1)", "peer-relation-changed(toy/1)"];
        assert_eq!(settle(&mut world, "toy/0", 0), told);
    }

    #[test]
    fn a_hook_that_a_signal_ended_runs_again_before_any_other_and_shows_no_error() {
        let mut world = deployed(1);
        settle(&mut world, "toy/0", 0);
        world.apps.get_mut("toy").unwrap().lease.claim("toy/0", 0, 60_000);
        let op = Op::Plain("update-status");
        world.requeue("toy/0", &op);
        world.units.get_mut("toy/0").unwrap().config_seen = None;
        assert_eq!(next(&world, &world.units["toy/0"], 0, &mut |_| 0), Next::Run(op));
        assert!(world.units["toy/0"].failed.is_none());
        assert_eq!(settle(&mut world, "toy/0", 0), ["update-status", "config-changed"]);
    }

    #[test]
    fn config_changed_directly_follows_upgrade_charm_even_before_leader_elected() {
        let mut world = deployed(1);
        settle(&mut world, "toy/0", 0);
        world.apps.get_mut("toy").unwrap().charm_revision += 1;
        let op = Op::Plain("upgrade-charm");
        assert_eq!(next(&world, &world.units["toy/0"], 0, &mut |_| 0), Next::Run(op.clone()));
        world.begin("toy/0", &op, 0);
        world.finish("toy/0", &op, 0, 0, 1_000);
        world.units.get_mut("toy/0").unwrap().told_leader = false;
        assert_eq!(settle(&mut world, "toy/0", 0), ["config-changed", "leader-elected"]);
    }

    #[test]
    fn after_stop_the_status_is_jujus_whatever_the_charm_said() {
        let mut world = deployed(1);
        settle(&mut world, "toy/0", 0);
        world.remove_unit("toy/0").unwrap();
        let op = Op::Plain("stop");
        world.begin("toy/0", &op, 5);
        world.units.get_mut("toy/0").unwrap().workload = StatusInfo::new("blocked", "the charm's own words", 6);
        world.finish("toy/0", &op, 0, 7, 1_000);
        assert_eq!(world.units["toy/0"].workload, StatusInfo::new("maintenance", "", 7));
    }

    #[test]
    fn a_unit_that_is_no_longer_leader_hears_nothing_and_is_elected_again_later() {
        for generation in Generation::BOTH {
            let mut world = deployed(2);
            world.options.generation = generation;
            world.machines.values_mut().for_each(|machine| machine.state = MachineState::Started);
            settle(&mut world, "toy/0", 0);
            settle(&mut world, "toy/1", 0);
            settle(&mut world, "toy/0", 0);
            assert_eq!(world.move_leadership("toy", 10).as_deref(), Ok("toy/1"));
            world.note_deposition("toy/0", 10);
            assert_eq!(next(&world, &world.units["toy/1"], 10, &mut |_| 0), Next::Run(Op::Plain("leader-elected")));
            assert!(matches!(next(&world, &world.units["toy/0"], 10, &mut |_| 0), Next::WaitUntil(_)));
            world.apps.get_mut("toy").unwrap().leader_settings.0 += 1;
            let told = next(&world, &world.units["toy/0"], 10, &mut |_| 0);
            let hears = told == Next::Run(Op::Plain("leader-settings-changed"));
            assert_eq!(hears, generation == Generation::Juju3, "{generation:?}: {told:?}");
            world.units.get_mut("toy/1").unwrap().executing = Some("running x hook".to_owned());
            assert!(world.move_leadership("toy", 10).unwrap_err().contains("try again"));
            world.units.get_mut("toy/1").unwrap().executing = None;
            assert_eq!(world.move_leadership("toy", 10).as_deref(), Ok("toy/0"));
        }
    }

    #[test]
    fn a_leaving_unit_departs_from_each_peer_then_stops_and_never_breaks_the_peer_relation() {
        let mut world = deployed(3);
        world.options.generation = Generation::Juju3;
        for unit in ["toy/0", "toy/1", "toy/2", "toy/0", "toy/1"] {
            settle(&mut world, unit, 0);
        }
        world.remove_unit("toy/2").unwrap();
        assert_eq!(settle(&mut world, "toy/0", 0), ["peer-relation-departed(toy/2)"]);
        let leaving = ["peer-relation-departed(toy/0)", "peer-relation-departed(toy/1)", "stop", "remove"];
        assert_eq!(settle(&mut world, "toy/2", 0), leaving);
        assert!(!world.units.contains_key("toy/2") && world.machines.len() == 2);
    }

    #[test]
    fn a_failed_hook_blocks_ordinary_hooks_but_not_actions_and_its_pause_doubles() {
        let mut world = deployed(1);
        settle(&mut world, "toy/0", 0);
        let op = Op::Plain("config-changed");
        world.fail("toy/0", &op, 0, 0.5);
        assert_eq!(next(&world, &world.units["toy/0"], 0, &mut |_| 0), Next::WaitUntil(5_000));
        world.fail("toy/0", &op, 5_000, 0.5);
        assert_eq!(next(&world, &world.units["toy/0"], 5_000, &mut |_| 0), Next::WaitUntil(15_000));
        world.units.get_mut("toy/0").unwrap().queue.push_back(7);
        assert_eq!(next(&world, &world.units["toy/0"], 5_000, &mut |_| 0), Next::Run(Op::Task(7)));
        world.units.get_mut("toy/0").unwrap().queue.clear();
        assert_eq!(next(&world, &world.units["toy/0"], 15_000, &mut |_| 0), Next::Run(op));
    }

    #[test]
    fn the_writing_leader_too_gets_changed_for_peer_application_data() {
        let mut world = deployed(1);
        settle(&mut world, "toy/0", 0);
        world.relations.get_mut(&0).unwrap().apps.entry("toy".to_owned()).or_default().version = 1;
        assert_eq!(settle(&mut world, "toy/0", 0), ["peer-relation-changed"]);
    }

    #[test]
    fn removing_the_application_takes_its_relations_with_it() {
        let mut world = deployed(2);
        settle(&mut world, "toy/0", 0);
        settle(&mut world, "toy/1", 0);
        world.apps.get_mut("toy").unwrap().dying = true;
        for unit in ["toy/0", "toy/1"] {
            world.remove_unit(unit).unwrap();
        }
        settle(&mut world, "toy/0", 0);
        settle(&mut world, "toy/1", 0);
        assert!(world.apps.is_empty() && world.relations.is_empty() && world.units.is_empty());
    }
}
