//! Leases as the replicas agree on them: grant, revoke, checkpoint.
//!
//! Time is not here. The leader's timers decide that a lease is due and propose a revoke; what makes that safe is the
//! term rule of [`revoke`]. Which keys a lease holds follows from the keys' own records.

use std::collections::BTreeSet;

use super::command::{LeaseCheckpoints, LeaseGrant, LeaseRevoke};
use super::effects::{Change, Effects, LeaseChange, Position, Refusal, Response};
use super::kv::{self, Failure};
use super::view::{Lease, View};

/// Stores a lease. The proposer has chosen the id and raised the TTL to the minimum.
///
/// # Errors
/// [`Refusal::LeaseExists`]; [`Refusal::LeaseNotFound`] for id 0, which means "no lease" everywhere else.
pub fn grant(view: &impl View, grant: &LeaseGrant) -> Result<Effects, Failure> {
    if grant.id == 0 {
        return Err(Refusal::LeaseNotFound.into());
    }
    if view.lease(grant.id)?.is_some() {
        return Err(Refusal::LeaseExists.into());
    }
    let lease = Lease { id: grant.id, ttl: grant.ttl, remaining: 0 };
    let mut effects = Effects::nothing(view.revision(), Ok(Response::LeaseGrant(lease)));
    effects.leases.push(LeaseChange::Put(lease));
    Ok(effects)
}

/// Ends leases and deletes every key attached to them, in key order, in one revision. No key attached, no new revision.
///
/// An expiry counts only in the term of the leader that saw it: a later leader gave every lease its full time again and
/// may have renewed it since. To get etcd's revision numbers the proposer names one lease per command; a command with
/// several still has one revision.
///
/// # Errors
/// [`Refusal::NotPrimaryLessor`] for an expiry seen in another term. [`Refusal::LeaseNotFound`] when a client names an
/// unknown lease, or when every lease of an expiry is gone already.
pub fn revoke(view: &impl View, revoke: &LeaseRevoke, at: Position) -> Result<Effects, Failure> {
    let by_expiry = revoke.expired_by_term != 0;
    if by_expiry && revoke.expired_by_term != at.term {
        return Err(Refusal::NotPrimaryLessor.into());
    }
    let mut ended = BTreeSet::new();
    for id in revoke.ids.iter().copied() {
        if view.lease(id)?.is_some() {
            ended.insert(id);
        } else if !by_expiry {
            return Err(Refusal::LeaseNotFound.into());
        }
    }
    if ended.is_empty() {
        return Err(Refusal::LeaseNotFound.into());
    }
    let changes = deletions(view, &ended)?;
    let revision = view.revision() + i64::from(!changes.is_empty());
    let mut effects = Effects::nothing(revision, Ok(Response::LeaseRevoke));
    effects.changes = changes;
    effects.leases = ended.into_iter().map(LeaseChange::Remove).collect();
    Ok(effects)
}

fn deletions(view: &impl View, leases: &BTreeSet<i64>) -> Result<Vec<Change>, Failure> {
    let mut keys = BTreeSet::new();
    for id in leases {
        keys.extend(view.lease_keys(*id)?);
    }
    let mut changes = Vec::with_capacity(keys.len());
    for key in keys {
        if let Some(record) = view.get(&key)? {
            changes.push(kv::delete::change(record)?.0);
        }
    }
    Ok(changes)
}

/// Records how much time leases have left, so that a new leader need not start them afresh. Unknown leases are skipped:
/// they were revoked after the leader looked. A remaining time of 0 (or less) clears the record.
///
/// # Errors
/// None but the view's.
pub fn checkpoint(view: &impl View, checkpoints: &LeaseCheckpoints) -> Result<Effects, Failure> {
    let mut effects = Effects::nothing(view.revision(), Ok(Response::LeaseCheckpoint));
    for seen in &checkpoints.leases {
        let Some(lease) = view.lease(seen.id)? else { continue };
        let remaining = seen.remaining_ttl.clamp(0, lease.ttl.max(0));
        effects.leases.push(LeaseChange::Put(Lease { remaining, ..lease }));
    }
    Ok(effects)
}
