//! Relations: the shared databags, and what one unit's agent has seen of them.

use std::collections::BTreeMap;

use super::{Settings, Unit, World};

/// One end of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Application.
    pub app: String,
    /// Endpoint name in that application's charm.
    pub endpoint: String,
}

/// One databag. `version` grows with every change so that agents can tell what they have seen.
#[derive(Debug, Clone, Default)]
pub struct Bag {
    /// 0 while nothing was ever written.
    pub version: u64,
    /// Contents.
    pub settings: Settings,
    /// For unit bags: the unit is in the relation now. The contents outlive this.
    pub in_scope: bool,
}

impl Bag {
    /// Applies writes (`None` deletes); the version grows only if something changed.
    pub fn write(&mut self, writes: &BTreeMap<String, Option<String>>) {
        let before = self.settings.clone();
        for (key, value) in writes {
            match value {
                Some(value) => self.settings.insert(key.clone(), value.clone()),
                None => self.settings.remove(key),
            };
        }
        if before != self.settings {
            self.version += 1;
        }
    }
}

/// One relation: one end for peers, two otherwise.
#[derive(Debug)]
pub struct Relation {
    /// Number in `peer:0`.
    pub id: u32,
    /// Its ends.
    pub ends: Vec<End>,
    /// Interface name.
    pub interface: String,
    /// `remove-relation` was asked for, or an end's application is going.
    pub dying: bool,
    /// Unit databags.
    pub units: BTreeMap<String, Bag>,
    /// Application databags.
    pub apps: BTreeMap<String, Bag>,
}

impl Relation {
    /// True for a relation between the units of one application.
    pub fn is_peer(&self) -> bool {
        self.ends.len() == 1
    }

    /// The endpoint name as `app` calls it.
    pub fn endpoint_of(&self, app: &str) -> Option<&str> {
        self.ends.iter().find(|end| end.app == app).map(|end| end.endpoint.as_str())
    }

    /// The application on the other side of `app`; itself for peers.
    pub fn remote_app(&self, app: &str) -> &str {
        let other = self.ends.iter().find(|end| end.app != app).or(self.ends.first());
        other.map_or("", |end| end.app.as_str())
    }
}

/// What one unit's agent knows of another unit in a relation.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// Bag version of the last `changed` that ran.
    pub seen: u64,
    /// Its settings as cached since the last joined or changed hook.
    pub cache: Option<Settings>,
}

/// One unit's own view of a relation.
#[derive(Debug, Default)]
pub struct LocalRelation {
    /// `relation-created` has run.
    pub created: bool,
    /// Remote units that have joined, as far as this unit was told.
    pub members: BTreeMap<String, Member>,
    /// Application bag versions this unit was told of.
    pub apps_seen: BTreeMap<String, u64>,
    /// A `changed` that must directly follow its `joined`.
    pub pending_changed: Option<String>,
    /// `relation-broken` has run, or the unit has left a peer relation.
    pub left: bool,
}

impl World {
    /// Remote units that `unit` should see in `relation` now. Nobody, once either side is leaving; in Juju 4
    /// a remote unit that is leaving is seen until it is dead.
    pub fn visible_remotes(&self, relation: &Relation, unit: &Unit) -> Vec<String> {
        if relation.dying || unit.life == super::Life::Dying {
            return Vec::new();
        }
        let remote_app = relation.remote_app(&unit.app);
        let until_death = self.options.generation.departs_at_death();
        let mut names: Vec<String> = relation
            .units
            .iter()
            .filter(|(name, bag)| {
                bag.in_scope
                    && **name != unit.name
                    && self.units.get(*name).is_some_and(|other| {
                        other.app == remote_app && (until_death || other.life == super::Life::Alive)
                    })
            })
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    }

    /// Puts `unit` into the relation's scope with the address keys Juju fills in.
    pub fn enter_scope(&mut self, relation: u32, unit: &str) {
        let address = self
            .units
            .get(unit)
            .and_then(|unit| self.machines.get(&unit.machine))
            .map(|machine| machine.address.clone())
            .unwrap_or_default();
        let Some(relation) = self.relations.get_mut(&relation) else { return };
        let bag = relation.units.entry(unit.to_owned()).or_default();
        if bag.in_scope {
            return;
        }
        bag.in_scope = true;
        bag.write(&BTreeMap::from([
            ("private-address".to_owned(), Some(address.clone())),
            ("ingress-address".to_owned(), Some(address.clone())),
            ("egress-subnets".to_owned(), Some(format!("{address}/32"))),
        ]));
    }

    /// Takes `unit` out of a relation's scope; its bag stays readable.
    pub fn leave_scope(&mut self, relation: u32, unit: &str) {
        if let Some(bag) = self.relations.get_mut(&relation).and_then(|relation| relation.units.get_mut(unit)) {
            bag.in_scope = false;
        }
    }
}
