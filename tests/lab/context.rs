//! One running hook, action or command: what it may know, and the writes held back until it exits 0.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::schedule::{Op, RelationHook};
use crate::world::relation::Bag;
use crate::world::secret::{Grant, Owner, Secret};
use crate::world::task::Work;
use crate::world::{PortRange, World};

/// Writes to one databag: `None` deletes the key.
pub type Writes = BTreeMap<String, Option<String>>;

/// Which databag of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The unit's own.
    Unit,
    /// Its application's.
    App,
}

/// A change of a secret, in the order the hook asked for it.
#[derive(Debug, Clone)]
pub enum SecretChange {
    /// A new secret with its first revision.
    Add(Box<Secret>),
    /// New contents or other metadata; `None` leaves a field alone.
    Set { id: String, value: Option<crate::world::Settings>, label: Option<String>, description: Option<String> },
    /// A grant.
    Grant { id: String, grant: Grant },
    /// A revocation; by relation when `to` is `None`.
    Revoke { id: String, to: Option<String>, relation: Option<u32> },
    /// Removal of one revision or of everything.
    Remove { id: String, revision: Option<u64> },
}

impl SecretChange {
    /// Which secret it changes.
    pub fn id(&self) -> &str {
        match self {
            Self::Add(secret) => &secret.id,
            Self::Set { id, .. } | Self::Grant { id, .. } | Self::Revoke { id, .. } | Self::Remove { id, .. } => id,
        }
    }
}

/// State of the action this context runs.
#[derive(Debug, Clone)]
pub struct ActionContext {
    /// Its task number.
    pub task: u64,
    /// Its name.
    pub name: String,
    /// Parameters, defaults filled in.
    pub params: BTreeMap<String, Value>,
    /// What `action-set` built.
    pub results: Value,
    /// What `action-fail` said.
    pub failure: Option<String>,
}

/// See the module text.
#[derive(Debug, Clone)]
pub struct Context {
    /// `<unit>-<hook>-<32 hex>`.
    pub id: String,
    /// The unit.
    pub unit: String,
    /// Its application.
    pub app: String,
    /// Hook name; empty in actions and commands.
    pub hook: String,
    /// The relation of a relation hook.
    pub relation: Option<u32>,
    /// The remote unit of joined, departed and unit-changed.
    pub remote_unit: Option<String>,
    /// The kind of relation hook.
    pub relation_hook: Option<RelationHook>,
    /// The storage of a storage hook.
    pub storage: Option<String>,
    /// Secret id and revision of a secret hook.
    pub secret: Option<(String, Option<u64>)>,
    /// The action, when this is one.
    pub action: Option<ActionContext>,
    /// Databags of units that have not joined here, as they were when this hook first read them.
    pub strangers: BTreeMap<(u32, String), crate::world::Settings>,
    /// Held-back databag writes.
    pub writes: BTreeMap<(u32, Side), Writes>,
    /// Held-back charm state.
    pub state: Writes,
    /// Held-back port changes: `true` opens.
    pub ports: Vec<(bool, PortRange)>,
    /// Held-back secret changes; see [`Context::change_secret`].
    pub secrets: Vec<SecretChange>,
    /// The first tool that changed something Juju holds back until the end.
    pub wrote: Option<String>,
}

impl Context {
    /// A context for `op`, with `token` (32 hex digits) in its id.
    pub fn new(world: &World, unit: &str, op: &Op, token: &str) -> Self {
        let app = world.units.get(unit).map(|unit| unit.app.clone()).unwrap_or_default();
        let name = hook_name(world, unit, op);
        let mut context = Self {
            id: format!("{unit}-{}-{token}", if name.is_empty() { "run-commands" } else { &name }),
            unit: unit.to_owned(),
            app,
            hook: name,
            relation: None,
            remote_unit: None,
            relation_hook: None,
            storage: None,
            secret: None,
            action: None,
            strangers: BTreeMap::new(),
            writes: BTreeMap::new(),
            state: Writes::new(),
            ports: Vec::new(),
            secrets: Vec::new(),
            wrote: None,
        };
        match op {
            Op::Plain(_) => {}
            Op::Relation { hook, relation, remote } => {
                context.relation = Some(*relation);
                context.remote_unit = remote.clone();
                context.relation_hook = Some(*hook);
            }
            Op::Storage { id, .. } => context.storage = Some(id.clone()),
            Op::SecretChanged { id } => context.secret = Some((id.clone(), None)),
            Op::SecretRemove { id, revision } => context.secret = Some((id.clone(), Some(*revision))),
            Op::Task(task) => {
                if let Some(Work::Action { name, params }) = world.tasks.get(task).map(|task| &task.work) {
                    context.id = format!("{unit}-{name}-{token}");
                    context.hook.clear();
                    context.action = Some(ActionContext {
                        task: *task,
                        name: name.clone(),
                        params: params.clone(),
                        results: Value::Object(serde_json::Map::new()),
                        failure: None,
                    });
                }
            }
        }
        context
    }

    /// Writes everything held back into the world, or nothing and the reason. Juju's order: secrets first,
    /// then relation settings, ports and state.
    pub fn flush(&self, world: &mut World, now: u64) -> Result<(), String> {
        let leads = world.is_leader(&self.unit, now);
        if self.writes.keys().any(|(_, side)| *side == Side::App) && !leads {
            return Err("cannot write application relation settings: not the leader".to_owned());
        }
        for change in &self.secrets {
            self.check_secret(world, change, leads)?;
        }
        for (opens, range) in &self.ports {
            if *opens && let Some(problem) = port_conflict(world, &self.unit, range) {
                return Err(problem);
            }
        }
        for change in &self.secrets {
            apply_secret(world, change);
        }
        for ((relation, side), writes) in &self.writes {
            let Some(relation) = world.relations.get_mut(relation) else { continue };
            let bag: &mut Bag = match side {
                Side::Unit => relation.units.entry(self.unit.clone()).or_default(),
                Side::App => relation.apps.entry(self.app.clone()).or_default(),
            };
            bag.write(writes);
        }
        if let Some(unit) = world.units.get_mut(&self.unit) {
            for (opens, range) in &self.ports {
                if *opens {
                    unit.ports.insert(range.clone())
                } else {
                    unit.ports.remove(range)
                };
            }
            for (key, value) in &self.state {
                match value {
                    Some(value) => unit.state.insert(key.clone(), value.clone()),
                    None => unit.state.remove(key),
                };
            }
        }
        Ok(())
    }

    fn check_secret(&self, world: &World, change: &SecretChange, leads: bool) -> Result<(), String> {
        let (owner, label, id) = match change {
            SecretChange::Add(secret) => (Some(secret.owner.clone()), secret.label.as_ref(), &secret.id),
            SecretChange::Set { id, label, .. } => (None, label.as_ref(), id),
            SecretChange::Grant { id, .. } | SecretChange::Revoke { id, .. } | SecretChange::Remove { id, .. } => {
                (None, None, id)
            }
        };
        let owner = owner
            .or_else(|| world.secrets.get(id).map(|secret| secret.owner.clone()))
            .or_else(|| self.pending_secret(id).map(|secret| secret.owner.clone()));
        let Some(owner) = owner else { return Err(format!("secret {id:?} not found")) };
        if matches!(owner, Owner::App(_)) && !leads {
            return Err(format!("cannot change secret {id:?}: permission denied"));
        }
        let taken = |secret: &Secret| secret.id != *id && secret.owner == owner && secret.label.as_ref() == label;
        if let Some(label) = label
            && world.secrets.values().any(taken)
        {
            return Err(format!("secret with label {label:?} already exists"));
        }
        Ok(())
    }

    /// Holds back a change of a secret as Juju's agent does (`secretsChangeRecorder`): a removal, even of one
    /// revision, drops whatever else the hook wanted of that secret, an earlier removal included, since there is
    /// one per secret; new contents drop the removal.
    pub fn change_secret(&mut self, change: SecretChange) {
        let id = change.id().to_owned();
        match change {
            SecretChange::Remove { .. } => self.secrets.retain(|other| other.id() != id),
            SecretChange::Set { .. } => {
                self.secrets.retain(|other| other.id() != id || !matches!(other, SecretChange::Remove { .. }))
            }
            _ => {}
        }
        self.secrets.push(change);
    }

    /// True when the hook removes something of the secret: the agent then leaves it out of what it knows of
    /// its own secrets, so that tools that ask about it say that there is none.
    pub fn hides(&self, id: &str) -> bool {
        self.secrets.iter().any(|change| matches!(change, SecretChange::Remove { .. }) && change.id() == id)
    }

    /// A secret this hook has added but not yet committed.
    pub fn pending_secret(&self, id: &str) -> Option<&Secret> {
        self.secrets.iter().find_map(|change| match change {
            SecretChange::Add(secret) if secret.id == id => Some(secret.as_ref()),
            _ => None,
        })
    }
}

/// The name of the hook an operation runs; empty for actions and commands.
pub fn hook_name(world: &World, unit: &str, op: &Op) -> String {
    let app = world.units.get(unit).map(|unit| unit.app.as_str()).unwrap_or_default();
    match op {
        Op::Plain(name) => (*name).to_owned(),
        Op::Relation { hook, relation, .. } => {
            let endpoint = world.relations.get(relation).and_then(|relation| relation.endpoint_of(app));
            format!("{}-relation-{}", endpoint.unwrap_or_default(), hook.word())
        }
        Op::Storage { attach, id } => {
            let name = id.split('/').next().unwrap_or_default();
            format!("{name}-storage-{}", if *attach { "attached" } else { "detaching" })
        }
        Op::SecretChanged { .. } => "secret-changed".to_owned(),
        Op::SecretRemove { .. } => "secret-remove".to_owned(),
        Op::Task(_) => String::new(),
    }
}

/// What stops `unit` from opening `range`, in Juju's words.
pub fn port_conflict(world: &World, unit: &str, range: &PortRange) -> Option<String> {
    let machine = world.units.get(unit)?.machine;
    let overlaps =
        |other: &PortRange| other.protocol == range.protocol && other.from <= range.to && range.from <= other.to;
    world.units.values().filter(|other| other.machine == machine).find_map(|other| {
        let same_unit = other.name == unit;
        let other_range = other.ports.iter().find(|other| overlaps(other) && !(same_unit && *other == range))?;
        Some(format!(
            "cannot open {range} (unit {unit:?}): port range conflicts with {other_range} (unit {:?})",
            other.name
        ))
    })
}

fn apply_secret(world: &mut World, change: &SecretChange) {
    match change {
        SecretChange::Add(secret) => {
            world.secrets.insert(secret.id.clone(), secret.as_ref().clone());
        }
        SecretChange::Set { id, value, label, description } => {
            let Some(secret) = world.secrets.get_mut(id) else { return };
            let latest = secret.latest();
            if let Some(value) = value
                && secret.revisions.get(&latest) != Some(value)
            {
                secret.revisions.insert(latest + 1, value.clone());
            }
            if label.is_some() {
                secret.label.clone_from(label);
            }
            if description.is_some() {
                secret.description.clone_from(description);
            }
        }
        SecretChange::Grant { id, grant } => {
            if let Some(secret) = world.secrets.get_mut(id)
                && !secret.grants.contains(grant)
            {
                secret.grants.push(grant.clone());
            }
        }
        SecretChange::Revoke { id, to, relation } => {
            if let Some(secret) = world.secrets.get_mut(id) {
                secret.grants.retain(|grant| {
                    let same_target = to.as_ref().is_none_or(|to| *to == grant.to);
                    let same_relation = relation.is_none() || grant.relation == *relation;
                    !(same_target && same_relation)
                });
            }
        }
        SecretChange::Remove { id, revision: None } => {
            world.secrets.remove(id);
        }
        SecretChange::Remove { id, revision: Some(revision) } => {
            if let Some(secret) = world.secrets.get_mut(id) {
                secret.revisions.remove(revision);
                if secret.revisions.is_empty() {
                    world.secrets.remove(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::lifecycle::tests::deployed;

    fn write(side: Side) -> BTreeMap<(u32, Side), Writes> {
        BTreeMap::from([((0, side), Writes::from([("k".to_owned(), Some("v".to_owned()))]))])
    }

    #[test]
    fn nothing_is_written_when_an_app_bag_write_meets_lost_leadership() {
        let mut world = deployed(2);
        world.apps.get_mut("toy").unwrap().lease.claim("toy/1", 0, 60);
        let mut context = Context::new(&world, "toy/0", &Op::Plain("start"), "t");
        context.writes = write(Side::App);
        context.writes.extend(write(Side::Unit));
        assert!(context.flush(&mut world, 1).unwrap_err().contains("not the leader"));
        assert!(world.relations[&0].units.get("toy/0").is_none_or(|bag| !bag.settings.contains_key("k")));
        let mut leader = Context::new(&world, "toy/1", &Op::Plain("start"), "t");
        leader.writes = write(Side::App);
        leader.flush(&mut world, 1).unwrap();
        assert_eq!(world.relations[&0].apps["toy"].settings["k"], "v");
    }

    #[test]
    fn an_unchanged_write_does_not_raise_the_bag_version() {
        let mut bag = Bag::default();
        bag.write(&write(Side::Unit)[&(0, Side::Unit)]);
        bag.write(&write(Side::Unit)[&(0, Side::Unit)]);
        assert_eq!(bag.version, 1);
    }

    #[test]
    fn two_secrets_of_one_owner_cannot_share_a_label() {
        let mut world = deployed(1);
        world.apps.get_mut("toy").unwrap().lease.claim("toy/0", 0, 60);
        let secret = |id: &str| {
            SecretChange::Add(Box::new(Secret {
                id: id.to_owned(),
                owner: Owner::App("toy".to_owned()),
                label: Some("ca".to_owned()),
                description: None,
                rotate: None,
                expire: None,
                revisions: BTreeMap::from([(1, BTreeMap::from([("key".to_owned(), "v".to_owned())]))]),
                remove_told: Default::default(),
                consumers: BTreeMap::new(),
                grants: Vec::new(),
            }))
        };
        let mut context = Context::new(&world, "toy/0", &Op::Plain("start"), "t");
        context.secrets = vec![secret("a")];
        context.flush(&mut world, 1).unwrap();
        context.secrets = vec![secret("b")];
        assert!(context.flush(&mut world, 1).unwrap_err().contains("already exists"));
    }
}
