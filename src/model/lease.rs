//! The replicated part of leases: grant, revoke, checkpoint.
//!
//! No clock is read here. The leader's timers decide that a lease has expired and propose a revoke; the term check of
//! [`revoke`] makes that safe. The keys attached to a lease follow from the keys' own records.

use std::collections::BTreeSet;

use super::command::{LeaseCheckpoints, LeaseGrant, LeaseRevoke};
use super::effects::{Change, Effects, LeaseChange, Position, Refusal, Response};
use super::kv::{self, Failure};
use super::view::{Lease, View};

/// Stores a lease. The proposer has chosen the id and raised the TTL to the minimum.
///
/// # Errors
/// [`Refusal::LeaseExists`]; [`Refusal::LeaseNotFound`] for id 0, which means "no lease" everywhere else.
pub fn grant(view: &impl View, grant: &LeaseGrant, at: Position) -> Result<Effects, Failure> {
    if grant.id == 0 {
        return Err(Refusal::LeaseNotFound.into());
    }
    if view.lease(grant.id)?.is_some() {
        return Err(Refusal::LeaseExists.into());
    }
    let lease = Lease { id: grant.id, ttl: grant.ttl, remaining: 0, granted: at.index };
    let mut effects = Effects::nothing(view.revision(), Ok(Response::LeaseGrant(lease)));
    effects.leases.push(LeaseChange::Granted(lease));
    Ok(effects)
}

/// Revokes leases and deletes every key attached to them, in key order, in one revision. No key, no new revision.
/// An expiry is valid only in the term of the leader that proposed it: a later leader restarted every lease at its full
/// TTL and may have renewed it since. It is also valid only for the grant that expired, because the id may have been
/// granted again before this entry, after an earlier revoke by a client or for the same expiry. To get etcd's revision
/// numbers the proposer names one lease per command; a command with several still uses one revision.
///
/// # Errors
/// [`Refusal::NotPrimaryLessor`] for an expiry from another term. [`Refusal::LeaseNotFound`] when a client names an
/// unknown lease, or when every lease of an expiry is already gone.
pub fn revoke(view: &impl View, revoke: &LeaseRevoke, at: Position) -> Result<Effects, Failure> {
    let by_expiry = revoke.expired_by_term != 0;
    if by_expiry && revoke.expired_by_term != at.term {
        return Err(Refusal::NotPrimaryLessor.into());
    }
    let mut ended = BTreeSet::new();
    for (place, id) in revoke.ids.iter().copied().enumerate() {
        let granted = revoke.granted.get(place).copied();
        let found = view.lease(id)?.filter(|lease| granted.is_none_or(|granted| granted == lease.granted));
        if found.is_some() {
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

/// Records the remaining TTL of leases, so that a new leader need not restart them at the full TTL. Unknown leases are
/// skipped: they were revoked after the leader took the checkpoint, and perhaps granted again. A remaining TTL of 0 (or
/// less) clears the record.
///
/// # Errors
/// [`Refusal::NotPrimaryLessor`] for a checkpoint from another term: the leases may have been renewed since.
pub fn checkpoint(view: &impl View, checkpoints: &LeaseCheckpoints, at: Position) -> Result<Effects, Failure> {
    let of_old = checkpoints.term == 0;
    if !of_old && checkpoints.term != at.term {
        return Err(Refusal::NotPrimaryLessor.into());
    }
    let mut effects = Effects::nothing(view.revision(), Ok(Response::LeaseCheckpoint));
    for seen in &checkpoints.leases {
        let Some(lease) = view.lease(seen.id)? else { continue };
        if !of_old && seen.granted != lease.granted {
            continue;
        }
        let remaining = seen.remaining_ttl.clamp(0, lease.ttl.max(0));
        effects.leases.push(LeaseChange::Recorded(Lease { remaining, ..lease }));
    }
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Command, LeaseRemaining};
    use crate::model::tests::world::{TERM, World, put};
    use crate::proto::etcdserverpb::PutRequest;

    fn revoke_by(ids: &[i64], expired_by_term: u64) -> Command {
        Command::LeaseRevoke(LeaseRevoke { ids: ids.to_vec(), expired_by_term, granted: Vec::new() })
    }

    /// Log indexes of the first two grants in a fresh world.
    const GRANTED: [u64; 2] = [1, 2];

    fn remaining(world: &World, id: i64) -> i64 {
        world.view.lease(id).unwrap().unwrap().remaining
    }

    fn checkpoint_of(leases: &[(i64, i64)]) -> Command {
        let leases = leases.iter().map(|(id, remaining_ttl)| LeaseRemaining {
            id: *id,
            remaining_ttl: *remaining_ttl,
            granted: GRANTED[(*id - 1).clamp(0, 1) as usize],
        });
        Command::LeaseCheckpoint(LeaseCheckpoints { leases: leases.collect(), term: TERM })
    }

    #[test]
    fn an_id_is_granted_once_and_negative_ids_are_legal() {
        let mut world = World::default();
        world.grant(-3);
        assert_eq!(world.refused(&Command::LeaseGrant(LeaseGrant { id: -3, ttl: 5 })), Refusal::LeaseExists);
        assert_eq!(world.refused(&Command::LeaseGrant(LeaseGrant { id: 0, ttl: 5 })), Refusal::LeaseNotFound);
        assert_eq!(world.view.lease(-3).unwrap(), Some(Lease { id: -3, ttl: 60, remaining: 0, granted: 1 }));
    }

    #[test]
    fn a_revoke_deletes_every_attached_key_in_key_order_in_one_revision() {
        let mut world = World::default();
        world.grant(1);
        for key in ["c", "a", "b"] {
            world.put_leased(key, 1);
        }
        world.put("free", "");
        let effects = world.run(&revoke_by(&[1], 0));
        let keys: Vec<_> = effects.changes.iter().map(|change| change.key.clone()).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        assert_eq!(effects.revision, 6);
        assert!(effects.changes.iter().all(|change| change.after.is_none() && change.lease_before == 1));
        assert_eq!(effects.leases, [LeaseChange::Remove(1)]);
        assert!(world.kv("free").is_some());
        assert_eq!(world.refused(&revoke_by(&[1], 0)), Refusal::LeaseNotFound);
    }

    #[test]
    fn a_revoke_without_keys_does_not_change_the_revision() {
        let mut world = World::default();
        world.grant(1);
        assert_eq!(world.run(&revoke_by(&[1], 0)).revision, 1);
    }

    #[test]
    fn a_key_is_attached_to_the_lease_of_its_last_put() {
        let mut world = World::default();
        world.grant(1);
        world.grant(2);
        for key in ["moved", "detached", "deleted", "kept"] {
            world.put_leased(key, 1);
        }
        world.put_leased("moved", 2);
        world.put("detached", "");
        world.delete("deleted");
        world.done(&Command::Put(PutRequest { ignore_lease: true, ..put("kept", "new") }));
        assert_eq!(world.view.lease_keys(1).unwrap(), ["kept"]);
        world.done(&revoke_by(&[1], 0));
        assert!(world.kv("kept").is_none());
        assert!(world.kv("moved").is_some() && world.kv("detached").is_some());
    }

    /// F40: the old leader was paused beyond the TTL, the new one renewed the lease.
    #[test]
    fn an_expiry_from_another_term_is_refused() {
        let mut world = World::default();
        world.grant(1);
        world.put_leased("a", 1);
        assert_eq!(world.refused(&revoke_by(&[1], TERM - 1)), Refusal::NotPrimaryLessor);
        assert_eq!(world.refused(&revoke_by(&[1], TERM + 1)), Refusal::NotPrimaryLessor);
        world.done(&revoke_by(&[1], TERM));
        assert!(world.kv("a").is_none());
    }

    /// The revoke of an expired lease is proposed twice, because the outcome of the first proposal was unknown.
    #[test]
    fn an_expiry_does_not_revoke_a_later_grant_of_the_same_id() {
        let mut world = World::default();
        let expiry =
            |granted| Command::LeaseRevoke(LeaseRevoke { ids: vec![1], expired_by_term: TERM, granted: vec![granted] });
        world.grant(1);
        world.done(&expiry(1));
        world.grant(1);
        assert_eq!(world.refused(&expiry(1)), Refusal::LeaseNotFound);
        world.done(&expiry(3));
        assert_eq!(world.view.lease(1).unwrap(), None);
    }

    #[test]
    fn a_checkpoint_is_valid_only_in_its_term_and_for_its_grant() {
        let mut world = World::default();
        world.grant(1);
        let seen = |term, granted| {
            let leases = vec![LeaseRemaining { id: 1, remaining_ttl: 20, granted }];
            Command::LeaseCheckpoint(LeaseCheckpoints { leases, term })
        };
        assert_eq!(world.refused(&seen(TERM - 1, 1)), Refusal::NotPrimaryLessor);
        world.done(&seen(TERM, 7));
        assert_eq!(remaining(&world, 1), 0, "the checkpoint of a lease that had the id before");
        world.done(&seen(TERM, 1));
        assert_eq!(remaining(&world, 1), 20);
        let old = LeaseCheckpoints { leases: vec![LeaseRemaining { id: 1, remaining_ttl: 9, granted: 0 }], term: 0 };
        world.done(&Command::LeaseCheckpoint(old));
        assert_eq!(remaining(&world, 1), 9, "an entry of an older version, in the log of an upgraded member");
    }

    #[test]
    fn an_expiry_skips_unknown_leases_but_a_clients_revoke_is_refused() {
        let mut world = World::default();
        world.grant(1);
        assert_eq!(world.refused(&revoke_by(&[1, 9], 0)), Refusal::LeaseNotFound);
        world.done(&revoke_by(&[9, 1, 1], TERM));
        assert_eq!(world.view.lease(1).unwrap(), None);
        assert_eq!(world.refused(&revoke_by(&[1, 9], TERM)), Refusal::LeaseNotFound);
        assert_eq!(world.refused(&revoke_by(&[], 0)), Refusal::LeaseNotFound);
    }

    #[test]
    fn one_command_with_several_leases_has_one_revision() {
        let mut world = World::default();
        world.grant(1);
        world.grant(2);
        world.put_leased("b", 1);
        world.put_leased("a", 2);
        let effects = world.run(&revoke_by(&[1, 2], TERM));
        assert_eq!(effects.revision, 4);
        assert_eq!(effects.changes.iter().map(|change| change.key.clone()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_checkpoint_records_the_remaining_ttl_up_to_the_granted_ttl() {
        let mut world = World::default();
        world.grant(1);
        world.grant(2);
        world.done(&checkpoint_of(&[(1, 20), (404, 9), (2, 600)]));
        assert_eq!((remaining(&world, 1), remaining(&world, 2)), (20, 60));
        world.done(&checkpoint_of(&[(1, 0), (2, -4)]));
        assert_eq!((remaining(&world, 1), remaining(&world, 2)), (0, 0));
        assert_eq!(world.view.lease(404).unwrap(), None);
    }
}
