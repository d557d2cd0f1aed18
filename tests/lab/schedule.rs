//! Decides what a unit's agent runs next. Pure: the world, the time and a source of choices go in, one
//! step comes out. The order is that of Juju's uniter: relation-created, leadership, secrets, actions,
//! commands, storage, a failed hook, and only then the ordinary hooks of a living or dying unit.

use crate::world::relation::{LocalRelation, Relation};
use crate::world::task::Work;
use crate::world::{App, Life, Unit, World};

/// Kinds of relation hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationHook {
    /// The relation exists.
    Created,
    /// A remote unit was seen for the first time.
    Joined,
    /// A databag has contents this unit has not seen.
    Changed,
    /// A remote unit has gone, or this one is going.
    Departed,
    /// The relation is over for this unit (never for peers).
    Broken,
}

impl RelationHook {
    /// The last word of the hook's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Joined => "joined",
            Self::Changed => "changed",
            Self::Departed => "departed",
            Self::Broken => "broken",
        }
    }
}

/// One thing an agent can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A hook without further data: `install`, `start`, `config-changed`, …
    Plain(&'static str),
    /// A relation hook; `remote` is a unit name, or `None` for created, broken and application data.
    Relation { hook: RelationHook, relation: u32, remote: Option<String> },
    /// `<name>-storage-attached` or `-detaching` for one instance.
    Storage { attach: bool, id: String },
    /// `secret-changed`.
    SecretChanged { id: String },
    /// `secret-remove` for one revision.
    SecretRemove { id: String, revision: u64 },
    /// An action or command from the unit's queue.
    Task(u64),
}

/// What the agent should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Run this.
    Run(Op),
    /// Nothing before this time (milliseconds) unless the world changes.
    WaitUntil(u64),
    /// The unit is finished.
    Gone,
}

/// The next step of `unit`. `choose(n)` picks one of `n` equally good candidates.
pub fn next(world: &World, unit: &Unit, now: u64, choose: &mut dyn FnMut(usize) -> usize) -> Next {
    let Some(app) = world.apps.get(&unit.app) else { return Next::Gone };
    if unit.life == Life::Dying && !unit.installed && unit.failed.is_none() {
        return Next::Gone;
    }
    let steady = unit.failed.is_none() && unit.queued.is_none();
    if unit.installed && steady && unit.life == Life::Alive {
        let urgent = created(world, unit, choose)
            .or_else(|| leadership(world, app, unit, now))
            .or_else(|| secrets(world, app, unit, now));
        if let Some(op) = urgent {
            return Next::Run(op);
        }
    }
    if unit.installed
        && let Some(task) = unit.queue.front()
        && (unit.queued.is_none() || runs_beside_a_queued_hook(world, *task))
    {
        return Next::Run(Op::Task(*task));
    }
    if let Some(queued) = &unit.queued {
        return Next::Run(queued.clone());
    }
    if let Some(failed) = &unit.failed {
        let due = unit.resolved == Some(true) || now >= failed.retry_at;
        return if due { Next::Run(failed.op.clone()) } else { Next::WaitUntil(failed.retry_at) };
    }
    if let Some(op) = storage(unit) {
        return Next::Run(op);
    }
    match unit.life {
        Life::Dying => dying(world, unit, choose),
        Life::Alive => alive(world, app, unit, now, choose),
    }
}

/// Actions, and with them `juju exec`, wait for a queued hook; commands that `juju-exec` is given on the
/// unit's own machine, for which the lab's `exec` stands, do not (resolvers of actions and commands, both Jujus).
fn runs_beside_a_queued_hook(world: &World, task: u64) -> bool {
    world.tasks.get(&task).is_some_and(|task| matches!(task.work, Work::Exec { .. }))
}

fn created(world: &World, unit: &Unit, choose: &mut dyn FnMut(usize) -> usize) -> Option<Op> {
    let waiting: Vec<u32> = relations_of(world, unit)
        .filter(|(relation, local)| !relation.dying && local.is_none_or(|local| !local.created && !local.left))
        .map(|(relation, _)| relation.id)
        .collect();
    pick(&waiting, choose).map(|relation| Op::Relation {
        hook: RelationHook::Created,
        relation: *relation,
        remote: None,
    })
}

fn leadership(world: &World, app: &App, unit: &Unit, now: u64) -> Option<Op> {
    if world.is_leader(&unit.name, now) {
        return (!unit.told_leader).then_some(Op::Plain("leader-elected"));
    }
    let told = world.options.generation.has_leader_settings() && app.leader_settings.0 > unit.leader_settings_seen;
    told.then_some(Op::Plain("leader-settings-changed"))
}

fn secrets(world: &World, app: &App, unit: &Unit, now: u64) -> Option<Op> {
    let leads = world.is_leader(&unit.name, now);
    for secret in world.secrets.values() {
        if let Some(reader) = secret.consumers.get(&unit.name)
            && secret.latest() > reader.tracked.max(reader.told)
        {
            return Some(Op::SecretChanged { id: secret.id.clone() });
        }
        let manages = match &secret.owner {
            crate::world::secret::Owner::App(owner) => *owner == app.name && leads,
            crate::world::secret::Owner::Unit(owner) => *owner == unit.name,
        };
        if manages && let Some(revision) = secret.unused_revisions(&unit.name).first() {
            return Some(Op::SecretRemove { id: secret.id.clone(), revision: *revision });
        }
    }
    None
}

fn storage(unit: &Unit) -> Option<Op> {
    match unit.life {
        Life::Alive => unit.storage.iter().find(|storage| !storage.attached).map(|storage| (true, storage)),
        Life::Dying => unit.storage.iter().find(|storage| storage.attached).map(|storage| (false, storage)),
    }
    .map(|(attach, storage)| Op::Storage { attach, id: storage.id.clone() })
}

fn alive(world: &World, app: &App, unit: &Unit, now: u64, choose: &mut dyn FnMut(usize) -> usize) -> Next {
    if !unit.installed {
        return Next::Run(Op::Plain("install"));
    }
    if unit.charm_revision != app.charm_revision {
        return Next::Run(Op::Plain("upgrade-charm"));
    }
    if unit.config_seen != Some(fingerprint(&world.config_of(app))) {
        return Next::Run(Op::Plain("config-changed"));
    }
    if !unit.started {
        return Next::Run(Op::Plain("start"));
    }
    let ready: Vec<Op> = relations_of(world, unit)
        .filter_map(|(relation, local)| relation_step(world, unit, relation, local?))
        .collect();
    if let Some(op) = pick(&ready, choose) {
        return Next::Run(op.clone());
    }
    if now >= unit.update_status_at {
        return Next::Run(Op::Plain("update-status"));
    }
    Next::WaitUntil(unit.update_status_at)
}

fn dying(world: &World, unit: &Unit, choose: &mut dyn FnMut(usize) -> usize) -> Next {
    if unit.started && !unit.stopped {
        // Ordinary relations end before the peer relation does.
        for peers in [false, true] {
            let ready: Vec<Op> = relations_of(world, unit)
                .filter(|(relation, _)| relation.is_peer() == peers)
                .filter_map(|(relation, local)| relation_step(world, unit, relation, local?))
                .collect();
            if let Some(op) = pick(&ready, choose) {
                return Next::Run(op.clone());
            }
        }
        return Next::Run(Op::Plain("stop"));
    }
    Next::Run(Op::Plain("remove"))
}

/// The next hook of one relation, in the order Juju evaluates: the `changed` owed to a `joined`, departed,
/// broken, application data, joined, changed.
fn relation_step(world: &World, unit: &Unit, relation: &Relation, local: &LocalRelation) -> Option<Op> {
    let op =
        |hook, remote: Option<&String>| Some(Op::Relation { hook, relation: relation.id, remote: remote.cloned() });
    if local.left {
        return None;
    }
    if let Some(remote) = &local.pending_changed {
        return op(RelationHook::Changed, Some(remote));
    }
    let visible = world.visible_remotes(relation, unit);
    let departed = |member: &&String| !visible.contains(member) && !unit.unaware_of.contains(*member);
    if let Some(gone) = local.members.keys().find(departed) {
        return op(RelationHook::Departed, Some(gone));
    }
    if relation.dying || unit.life == Life::Dying {
        return if relation.is_peer() { None } else { op(RelationHook::Broken, None) };
    }
    let app_bag = relation.apps.get(relation.remote_app(&unit.app)).map_or(0, |bag| bag.version);
    if app_bag > local.apps_seen.get(relation.remote_app(&unit.app)).copied().unwrap_or(0) {
        return op(RelationHook::Changed, None);
    }
    if let Some(new) = visible.iter().find(|remote| !local.members.contains_key(*remote)) {
        return op(RelationHook::Joined, Some(new));
    }
    let stale = local
        .members
        .iter()
        .find(|(name, member)| relation.units.get(*name).is_some_and(|bag| bag.version > member.seen));
    stale.and_then(|(name, _)| op(RelationHook::Changed, Some(name)))
}

fn relations_of<'a>(
    world: &'a World,
    unit: &'a Unit,
) -> impl Iterator<Item = (&'a Relation, Option<&'a LocalRelation>)> {
    world
        .relations
        .values()
        .filter(|relation| relation.endpoint_of(&unit.app).is_some())
        .map(|relation| (relation, unit.relations.get(&relation.id)))
}

fn pick<'a, T>(candidates: &'a [T], choose: &mut dyn FnMut(usize) -> usize) -> Option<&'a T> {
    if candidates.is_empty() { None } else { candidates.get(choose(candidates.len())) }
}

/// A fingerprint of a configuration, to tell whether `config-changed` has seen it.
pub fn fingerprint(config: &std::collections::BTreeMap<String, serde_json::Value>) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    for (name, value) in config {
        name.hash(&mut hasher);
        value.to_string().hash(&mut hasher);
    }
    hasher.finish()
}
