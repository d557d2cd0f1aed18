//! What a hook or an action wants Juju to keep, held in this process until everything has been asked.
//!
//! Juju answers differently once a hook has changed something: a databag shows the hook its own writes, a
//! secret of which a revision is being removed is said not to exist, and of a new revision and a removal in
//! one hook only the later counts. So the charm never asks after it has changed anything. That is not left
//! to care: changes are collected here, later looks lay them over Juju's answers, and [`commit`], which alone
//! runs the tools that change things, uses up the only handle that can ask.

use std::collections::{BTreeMap, BTreeSet};

use crate::act::CharmError;
use crate::bags::{AppChange, Bag};
use crate::facts::Done;
use crate::host::{Host, HostError};
use crate::juju::{Juju, JujuError, Writer};
use crate::secret::SecretContent;
use crate::text::{RelationId, SecretId, Version};

/// The one change of the application's secret that a hook may make.
#[derive(Debug)]
pub enum SecretChange {
    /// The first revision.
    Make(SecretContent),
    /// The next one.
    Revise {
        /// Which.
        id: SecretId,
        /// What it holds from now on.
        content: SecretContent,
    },
    /// The end of one revision. Juju keeps one pending removal per secret: a second one in the same hook
    /// replaces the first.
    Prune {
        /// Of which secret.
        id: SecretId,
        /// Its number.
        revision: u64,
    },
}

/// See the module text. Databag values are those of [`Juju::unit_bag`]; an empty one deletes its key.
#[derive(Debug, Default)]
pub struct Pending {
    unit: Bag,
    app: Bag,
    secret: Option<SecretChange>,
    ports: BTreeMap<u16, bool>,
    version: Option<Version>,
    whole: bool,
}

/// How much of it Juju was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All.
    All,
    /// What is the unit's own: leadership has moved, and what only a leader may change was left out.
    Own,
    /// Nothing: leadership has moved, and all of it belongs together.
    Nothing,
}

impl Pending {
    /// Writes keys of this unit's databag.
    pub fn publish_unit(&mut self, values: Bag) {
        self.unit.extend(values);
    }

    /// Changes the application's databag.
    pub fn publish_app(&mut self, change: &AppChange) {
        self.app.extend(change.write());
    }

    /// Changes the secret.
    ///
    /// # Errors
    /// [`CharmError::Secret`] when this hook changes it already: Juju would keep one of the two.
    pub fn change_secret(&mut self, change: SecretChange) -> Result<(), CharmError> {
        if self.secret.is_some() {
            return Err(CharmError::Secret("it can be changed once in a hook".to_owned()));
        }
        self.secret = Some(change);
        Ok(())
    }

    /// Opens or closes a TCP port.
    pub fn set_port(&mut self, port: u16, open: bool) {
        self.ports.insert(port, open);
    }

    /// Tells the version of the workload.
    pub fn set_version(&mut self, version: &Version) {
        self.version = Some(version.clone());
    }

    /// What the secret holds once this is kept, when that is known here.
    #[must_use]
    pub fn secret_content(&self) -> Option<&SecretContent> {
        match &self.secret {
            Some(SecretChange::Make(content) | SecretChange::Revise { content, .. }) => Some(content),
            Some(SecretChange::Prune { .. }) | None => None,
        }
    }

    /// What a planner must know of it.
    #[must_use]
    pub fn done(&self, started: bool) -> Done {
        Done { app_written: !self.app.is_empty(), secret_changed: self.secret.is_some(), started }
    }

    /// This unit's databag as it will be.
    #[must_use]
    pub fn over_unit(&self, bag: Bag) -> Bag {
        laid_over(bag, &self.unit)
    }

    /// The application's databag as it will be.
    #[must_use]
    pub fn over_app(&self, bag: Bag) -> Bag {
        laid_over(bag, &self.app)
    }

    /// The opened ports as they will be.
    #[must_use]
    pub fn over_ports(&self, mut ports: BTreeSet<String>) -> BTreeSet<String> {
        for (port, open) in &self.ports {
            let name = format!("{port}/tcp");
            if *open {
                ports.insert(name)
            } else {
                ports.remove(&name)
            };
        }
        ports
    }

    /// Says that no part of it is to be kept without the others, as an operator expects of an action.
    #[must_use]
    pub fn all_or_nothing(self) -> Self {
        Pending { whole: true, ..self }
    }

    fn needs_leadership(&self) -> bool {
        !self.app.is_empty() || self.secret.is_some()
    }

    /// Takes out what a unit that no longer leads cannot have kept.
    fn without_leadership(&mut self) -> Kept {
        if self.whole {
            *self = Pending::default();
            return Kept::Nothing;
        }
        self.app.clear();
        self.secret = None;
        Kept::Own
    }
}

fn laid_over(mut bag: Bag, changes: &Bag) -> Bag {
    bag.extend(changes.clone());
    bag.retain(|_, value| !value.is_empty());
    bag
}

/// Hands everything to Juju, which keeps it when the program ends well. Whether this unit still leads is
/// asked first: from there Juju promises leadership for 30 seconds, and the program is about to end. What a
/// former leader wanted is left out; the next one finds the same facts.
///
/// # Errors
/// [`CharmError`] of the first tool that fails. The program must then fail, since Juju has a part.
pub fn commit(
    juju: Juju,
    host: &Host,
    relation: Option<&RelationId>,
    mut pending: Pending,
) -> Result<Kept, CharmError> {
    let leads = !pending.needs_leadership() || juju.is_leader()?;
    let kept = if leads { Kept::All } else { pending.without_leadership() };
    let writer = juju.close();
    if let Some(change) = &pending.secret {
        store(&writer, host, change)?;
    }
    for (app, bag) in [(true, &pending.app), (false, &pending.unit)] {
        if let Some(relation) = relation.filter(|_| !bag.is_empty()) {
            writer.set(relation, app, bag)?;
        }
    }
    for (port, open) in &pending.ports {
        writer.set_port(*port, *open)?;
    }
    if let Some(version) = &pending.version {
        writer.version(version)?;
    }
    Ok(kept)
}

/// Keys go from memory to a private file to Juju's secret store.
fn store(writer: &Writer, host: &Host, change: &SecretChange) -> Result<(), CharmError> {
    let text = |content: &SecretContent| serde_json::to_string(&content.write()).map_err(HostError::Settings);
    let stored = |result: Result<(), JujuError>| result.map_err(CharmError::from);
    match change {
        SecretChange::Make(content) => host.with_private_file(&text(content)?, |path| stored(writer.add_secret(path))),
        SecretChange::Revise { id, content } => {
            host.with_private_file(&text(content)?, |path| stored(writer.change_secret(id, path)))
        }
        SecretChange::Prune { id, revision } => stored(writer.remove_secret_revision(id, *revision)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bag(pairs: &[(&str, &str)]) -> Bag {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_later_look_sees_what_will_be_kept_and_deleted_keys_are_gone() {
        let mut pending = Pending::default();
        pending.publish_unit(bag(&[("member", "1f"), ("restart", "")]));
        pending.set_port(2379, true);
        pending.set_port(2381, false);
        let seen = pending.over_unit(bag(&[("member", ""), ("restart", "g"), ("votes", "yes")]));
        assert_eq!(seen, bag(&[("member", "1f"), ("votes", "yes")]));
        let ports = pending.over_ports(["2381/tcp".to_owned(), "2380/tcp".to_owned()].into());
        assert_eq!(ports, ["2379/tcp".to_owned(), "2380/tcp".to_owned()].into());
        assert_eq!(pending.done(false), Done::default(), "nothing of it needs leadership");
        pending.publish_app(&AppChange::Turn(None));
        assert!(pending.done(false).app_written && pending.needs_leadership());
    }

    #[test]
    fn without_leadership_a_hook_keeps_what_is_the_units_own_and_an_action_nothing() {
        let made = || {
            let mut pending = Pending::default();
            pending.publish_unit(bag(&[("member", "")]));
            pending.publish_app(&AppChange::GivenUp(1));
            pending
        };
        let mut hooks = made();
        assert_eq!(hooks.without_leadership(), Kept::Own);
        assert!(hooks.app.is_empty() && !hooks.unit.is_empty());
        // A unit that says it has no member, of a cluster that was not given up, would hide its data from the next leader.
        let mut actions = made().all_or_nothing();
        assert_eq!(actions.without_leadership(), Kept::Nothing);
        assert!(actions.app.is_empty() && actions.unit.is_empty());
    }

    #[test]
    fn a_hook_changes_the_secret_once_because_juju_would_drop_one_of_two_changes() {
        let prune = || SecretChange::Prune { id: "secret:9m4e2mr0ui3e8a215n4g".into(), revision: 1 };
        let mut pending = Pending::default();
        pending.change_secret(prune()).unwrap();
        assert!(pending.done(false).secret_changed);
        assert!(pending.change_secret(prune()).unwrap_err().to_string().contains("once in a hook"));
    }
}
