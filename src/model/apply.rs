//! The one door to the rules: which rule a command goes to, and what a refusal becomes.

use super::command::{ClusterVersion, Command};
use super::effects::{Effects, Position, Response};
use super::kv::Failure;
use super::view::{View, ViewError};
use super::{alarm, compact, gate, invariants, kv, lease, txn, v2};

/// Everything that `command`, committed at `at`, does to the state that `view` shows.
///
/// The view must include every earlier entry and nothing else. The answer is a function of the three arguments alone,
/// so equal logs give equal states. Request checks ([`super::check`]) are not repeated here: what they refuse is never
/// proposed, and a command that slipped past them still has one deterministic outcome.
///
/// # Errors
/// The view could not be read. The caller stops the process: an entry can neither be skipped nor half applied.
pub fn apply(view: &impl View, command: &Command, at: Position) -> Result<Effects, ViewError> {
    if let Some(refusal) = gate::refusal(&view.alarms(), command) {
        return Ok(Effects::nothing(view.revision(), Err(refusal)));
    }
    let effects = match dispatch(view, command, at) {
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

fn dispatch(view: &impl View, command: &Command, at: Position) -> Result<Effects, Failure> {
    match command {
        Command::Put(request) => kv::put::apply(view, request),
        Command::DeleteRange(request) => kv::delete::apply(view, request),
        Command::Txn(request) => txn::apply(view, request),
        Command::Compact(request) => compact::apply(view, request),
        Command::LeaseGrant(grant) => lease::grant(view, grant),
        Command::LeaseRevoke(revoke) => lease::revoke(view, revoke, at),
        Command::LeaseCheckpoint(checkpoints) => lease::checkpoint(view, checkpoints),
        Command::Alarm(request) => Ok(alarm::apply(view, request)),
        Command::ClusterVersion(agreed) => Ok(cluster_version(view, agreed)),
        Command::V2(bytes) => Ok(v2::apply(view, bytes, at)?),
    }
}

/// The leader says which version all members support; no rule reads it, so nothing is refused here.
fn cluster_version(view: &impl View, agreed: &ClusterVersion) -> Effects {
    let mut effects = Effects::nothing(view.revision(), Ok(Response::ClusterVersion));
    if view.cluster_version() != agreed.version {
        effects.cluster_version = Some(agreed.version.clone());
    }
    effects
}
