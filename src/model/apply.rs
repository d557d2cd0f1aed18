//! The single entry point of apply: dispatches a command to its rule and turns a refusal into a response.

use super::auth::{self, Identity};
use super::command::{ClusterVersion, Command};
use super::effects::{Effects, Position, Response};
use super::kv::Failure;
use super::view::{View, ViewError};
use super::{alarm, compact, gate, invariants, kv, lease, txn, v2};

/// All effects of `command`, requested by `by` and committed at `at`, on the state in `view`.
///
/// The view must include every earlier entry and nothing else. The result depends only on the four arguments, so equal
/// logs give equal states. Request validation ([`super::check`]) is not repeated here: an invalid request is never
/// proposed, and a command that slipped past validation still has one deterministic outcome.
///
/// # Errors
/// The view could not be read. The caller stops the process: an entry must not be skipped or half applied.
pub fn apply(view: &impl View, by: &Identity, command: &Command, at: Position) -> Result<Effects, ViewError> {
    if let Some(refusal) = gate::refusal(&view.alarms(), command) {
        return Ok(Effects::nothing(view.revision(), Err(refusal)));
    }
    let effects = match permitted(view, by, command).and_then(|()| dispatch(view, command, at)) {
        Ok(effects) => effects,
        Err(Failure::Refusal(refusal)) => Effects::nothing(view.revision(), Err(refusal)),
        Err(Failure::View(error)) => return Err(error),
    };
    if cfg!(any(test, debug_assertions)) {
        let broken = invariants::broken(view, &effects)?;
        assert!(broken.is_empty(), "the effects of {at:?} break {broken:?}");
    }
    Ok(effects)
}

/// Alarms are checked before permissions, as in etcd.
fn permitted(view: &impl View, by: &Identity, command: &Command) -> Result<(), Failure> {
    if view.auth_is_on() { auth::check::command(view, by, command) } else { Ok(()) }
}

fn dispatch(view: &impl View, command: &Command, at: Position) -> Result<Effects, Failure> {
    match command {
        Command::Put(request) => kv::put::apply(view, request),
        Command::DeleteRange(request) => kv::delete::apply(view, request),
        Command::Txn(request) => txn::apply(view, request),
        Command::Compact(request) => compact::apply(view, request),
        Command::LeaseGrant(grant) => lease::grant(view, grant, at),
        Command::LeaseRevoke(revoke) => lease::revoke(view, revoke, at),
        Command::LeaseCheckpoint(checkpoints) => lease::checkpoint(view, checkpoints, at),
        Command::Alarm(request) => Ok(alarm::apply(view, request)),
        Command::ClusterVersion(agreed) => Ok(cluster_version(view, agreed)),
        Command::Auth(change) => Ok(auth::rules::apply(view, change, at)),
        Command::V2(bytes) => Ok(v2::apply(view, bytes, at)?),
    }
}

/// The leader proposes the version that all members support; no rule depends on it, so nothing is refused here.
fn cluster_version(view: &impl View, agreed: &ClusterVersion) -> Effects {
    let mut effects = Effects::nothing(view.revision(), Ok(Response::ClusterVersion));
    if view.cluster_version() != agreed.version {
        effects.cluster_version = Some(agreed.version.clone());
    }
    effects
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::effects::Refusal;
    use crate::model::tests::world::{World, delete, put};

    #[test]
    fn only_commands_that_change_a_key_move_the_revision() {
        let mut world = World::default();
        assert_eq!(world.run(&Command::DeleteRange(delete("a", ""))).revision, 1, "a delete of nothing");
        world.grant(7);
        assert_eq!(world.view.revision(), 1, "a grant");
        world.put("a", "same");
        assert_eq!(world.view.revision(), 2, "the first write of a fresh store");
        world.put("a", "same");
        assert_eq!(world.view.revision(), 3, "a put of an equal value");
        world.run(&Command::ClusterVersion(ClusterVersion { version: "3.6.0".into() }));
        assert_eq!(world.view.revision(), 3, "a cluster version");
    }

    #[test]
    fn a_refusal_reports_the_current_revision() {
        let mut world = World::default();
        world.put("a", "1");
        let mut request = put("b", "");
        request.ignore_value = true;
        let effects = world.run(&Command::Put(request));
        assert_eq!(effects, Effects::nothing(2, Err(Refusal::KeyNotFound)));
    }

    #[test]
    fn the_cluster_version_is_an_effect_only_when_it_changes() {
        let mut world = World::default();
        let command = Command::ClusterVersion(ClusterVersion { version: "3.6.0".into() });
        assert_eq!(world.run(&command).cluster_version.as_deref(), Some("3.6.0"));
        assert_eq!(world.run(&command).cluster_version, None);
        assert_eq!(world.view.cluster_version(), "3.6.0");
    }

    #[test]
    fn an_entry_that_the_v2_rules_cannot_read_is_fatal_not_skipped() {
        let world = World::default();
        let garbage = Command::V2(Bytes::from_static(&[0xff, 0xff, 0xff]));
        assert!(apply(&world.view, &Identity::nobody(), &garbage, Position { term: 1, index: 1 }).is_err());
    }
}
