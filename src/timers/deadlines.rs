//! The remaining TTL of each lease, by the leader's monotonic clock. Pure: the caller passes the time.
//!
//! A renewal updates one map entry; queues are updated lazily, so thirty thousand renewals a second cost no sorting.
//!
//! Invariant: a lease whose renewal was acknowledged has no checkpoint in the replicated state, and none in flight, so
//! the next leader gives it its full TTL. The outcome of its proposal is the only sign here that a checkpoint is no
//! longer in flight: the caller proposes what [`Deadlines::checkpoints`] returned and calls [`Deadlines::removed`]
//! before it asks for more, which orders the removal of a checkpoint after that checkpoint in the log.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use crate::model::command::LeaseRemaining;
use crate::model::view::Lease;
use crate::raft::Renewal;

/// Maximum rate of revokes for expired leases; etcd's number.
pub const REVOKES_PER_SECOND: u32 = 1000;
/// Leases with a longer TTL than this have their remaining TTL checkpointed, at this interval. etcd's number.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);
/// A revoke that has not been applied after this is proposed again.
pub const RETRY_AFTER: Duration = Duration::from_secs(3);
/// Share of the revoke rate for leases with equal deadlines after a change of leader, as in etcd.
const SPREAD_PER_SECOND: u32 = REVOKES_PER_SECOND * 3 / 4;
/// Stale queue entries tolerated beyond twice the number of live leases.
const SLACK: usize = 1024;

/// A priority queue of (time, lease id). An entry is valid only if its lease still has that time.
type Queue = BinaryHeap<Reverse<(Duration, i64)>>;

/// The deadlines of all leases.
#[derive(Debug, Default)]
pub struct Deadlines {
    held: HashMap<i64, Held>,
    expiries: Queue,
    checkpoints: Queue,
    /// Renewed leases that may have a checkpoint, which must be removed; they stay here until it is.
    removals: BTreeSet<i64>,
    checkpointing: bool,
}

#[derive(Debug)]
struct Held {
    ttl: i64,
    /// Log index of the grant, see [`Lease::granted`].
    granted: u64,
    deadline: Duration,
    /// The time of this lease's valid entry in `expiries`: never later than the deadline, unless a revoke is in flight.
    queued: Duration,
    /// When its next checkpoint is due; `None` for short leases, and when checkpointing is off.
    checkpoint: Option<Duration>,
    /// Whether a checkpoint exists or may be in flight.
    recorded: bool,
}

/// A lease that has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// Its id.
    pub id: i64,
    /// Log index of the grant.
    pub granted: u64,
}

impl Deadlines {
    /// No leases. `checkpointing`: whether to checkpoint remaining TTLs.
    pub fn new(checkpointing: bool) -> Self {
        Self { checkpointing, ..Self::default() }
    }

    /// Sets the deadlines of a new leader: every lease gets its checkpointed remaining TTL or else its full TTL, plus
    /// `grace` (one election timeout), because it could not be renewed while there was no leader. Equal deadlines are
    /// spread out so that the revoke rate can keep up. Leases that already have a deadline are left alone.
    pub fn start(&mut self, leases: Vec<Lease>, now: Duration, grace: Duration) {
        let left = |lease: &Lease| if lease.remaining > 0 { lease.remaining } else { lease.ttl };
        let mut leases: Vec<Lease> = leases.into_iter().filter(|lease| !self.held.contains_key(&lease.id)).collect();
        leases.sort_unstable_by_key(|lease| (left(lease), lease.id));
        let mut earliest = Duration::ZERO;
        for lease in leases {
            let deadline = (now + seconds(left(&lease)) + grace).max(earliest);
            earliest = deadline + Duration::from_secs(1) / SPREAD_PER_SECOND;
            self.insert(&lease, deadline, now);
        }
    }

    /// A lease was granted.
    pub fn grant(&mut self, lease: &Lease, now: Duration) {
        self.removals.remove(&lease.id);
        self.insert(lease, now + seconds(lease.ttl), now);
    }

    /// A lease's checkpoint changed. Its removal is taken from the proposer only, see [`Self::removed`]: another
    /// checkpoint may follow this one.
    pub fn record(&mut self, lease: &Lease) {
        if let Some(held) = self.held.get_mut(&lease.id) {
            held.recorded |= lease.remaining > 0;
        }
    }

    /// A lease was revoked.
    pub fn remove(&mut self, id: i64) {
        self.held.remove(&id);
        self.removals.remove(&id);
        self.shrink();
    }

    /// Resets a lease to its full TTL. An expired lease counts as gone: it is about to be revoked. If a checkpoint must
    /// be removed first, the deadline is extended all the same, and [`Renewal::NotYet`] tells the caller to retry.
    pub fn renew(&mut self, id: i64, now: Duration) -> Renewal {
        let Some(held) = self.held.get_mut(&id).filter(|held| held.deadline > now) else { return Renewal::Gone };
        held.deadline = now + seconds(held.ttl);
        if held.recorded {
            self.removals.insert(id);
            return Renewal::NotYet;
        }
        Renewal::Renewed(held.ttl)
    }

    /// Remaining TTL in whole seconds, 0 once expired; `None` for an unknown lease.
    pub fn remaining(&self, id: i64, now: Duration) -> Option<i64> {
        let held = self.held.get(&id)?;
        Some(held.deadline.saturating_sub(now).as_secs() as i64)
    }

    /// Whether the lease has a deadline.
    pub fn holds(&self, id: i64) -> bool {
        self.held.contains_key(&id)
    }

    /// Number of checkpoints to remove, which should not wait for the next poll.
    pub fn removals(&self) -> usize {
        self.removals.len()
    }

    /// Expired leases, longest ago first, at most `limit`. Each is returned again only after [`RETRY_AFTER`].
    pub fn expired(&mut self, now: Duration, limit: usize) -> Vec<Expired> {
        let mut expired = Vec::new();
        while expired.len() < limit {
            let Some((at, id)) = pop_before(&mut self.expiries, now) else { break };
            let Some(held) = self.held.get_mut(&id).filter(|held| held.queued == at) else { continue };
            held.queued = held.deadline;
            if held.deadline <= now {
                expired.push(Expired { id, granted: held.granted });
                held.queued = now + RETRY_AFTER;
            }
            self.expiries.push(Reverse((held.queued, id)));
        }
        expired
    }

    /// Checkpoints to propose, at most `limit`; a remaining TTL of 0 removes one. Call again only once the outcome of
    /// that proposal is known.
    pub fn checkpoints(&mut self, now: Duration, limit: usize) -> Vec<LeaseRemaining> {
        let removal = |id: &i64| {
            let held = self.held.get(id)?;
            Some(LeaseRemaining { id: *id, remaining_ttl: 0, granted: held.granted })
        };
        let mut due: Vec<LeaseRemaining> = self.removals.iter().filter_map(removal).take(limit).collect();
        while due.len() < limit {
            let Some((at, id)) = pop_before(&mut self.checkpoints, now) else { break };
            let Some(held) = self.held.get_mut(&id).filter(|held| held.checkpoint == Some(at)) else { continue };
            let next = now + CHECKPOINT_EVERY;
            held.checkpoint = Some(next);
            self.checkpoints.push(Reverse((next, id)));
            let left = held.deadline.saturating_sub(now);
            // Rounded up: a checkpoint must not be shorter than the TTL promised to the client.
            let remaining_ttl = (left + Duration::from_nanos(999_999_999)).as_secs() as i64;
            if remaining_ttl > 0 && remaining_ttl < held.ttl && !self.removals.contains(&id) {
                held.recorded = true;
                due.push(LeaseRemaining { id, remaining_ttl, granted: held.granted });
            }
        }
        due
    }

    /// The result of the last [`checkpoints`](Self::checkpoints) was applied: removals in it have taken effect.
    pub fn removed(&mut self, applied: &[LeaseRemaining]) {
        for removal in applied.iter().filter(|removal| removal.remaining_ttl == 0) {
            if let Some(held) = self.held.get_mut(&removal.id).filter(|held| held.granted == removal.granted) {
                held.recorded = false;
                self.removals.remove(&removal.id);
            }
        }
    }

    fn insert(&mut self, lease: &Lease, deadline: Duration, now: Duration) {
        let long = self.checkpointing && seconds(lease.ttl) > CHECKPOINT_EVERY;
        let checkpoint = long.then_some(now + CHECKPOINT_EVERY);
        let (granted, recorded) = (lease.granted, lease.remaining > 0);
        self.held.insert(lease.id, Held { ttl: lease.ttl, granted, deadline, queued: deadline, checkpoint, recorded });
        self.expiries.push(Reverse((deadline, lease.id)));
        self.checkpoints.extend(checkpoint.map(|at| Reverse((at, lease.id))));
    }

    /// Drops stale queue entries once they outnumber the valid ones.
    fn shrink(&mut self) {
        let allowed = 2 * self.held.len() + SLACK;
        if self.expiries.len() > allowed {
            self.expiries = self.held.iter().map(|(id, held)| Reverse((held.queued, *id))).collect();
        }
        if self.checkpoints.len() > allowed {
            let due = |(id, held): (&i64, &Held)| held.checkpoint.map(|at| Reverse((at, *id)));
            self.checkpoints = self.held.iter().filter_map(due).collect();
        }
    }
}

fn pop_before(queue: &mut Queue, now: Duration) -> Option<(Duration, i64)> {
    let Reverse((at, _)) = queue.peek()?;
    if *at > now {
        return None;
    }
    queue.pop().map(|Reverse(entry)| entry)
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn at(seconds: u64) -> Duration {
        NOW + Duration::from_secs(seconds)
    }

    fn lease(id: i64, ttl: i64) -> Lease {
        Lease { id, ttl, remaining: 0, granted: 1 }
    }

    fn left(id: i64, remaining_ttl: i64) -> LeaseRemaining {
        LeaseRemaining { id, remaining_ttl, granted: 1 }
    }

    fn ids(expired: Vec<Expired>) -> Vec<i64> {
        expired.into_iter().map(|lease| lease.id).collect()
    }

    fn with(leases: &[Lease]) -> Deadlines {
        let mut deadlines = Deadlines::new(true);
        leases.iter().for_each(|lease| deadlines.grant(lease, NOW));
        deadlines
    }

    #[test]
    fn a_lease_expires_when_its_ttl_is_over_and_not_before() {
        let mut deadlines = with(&[lease(1, 10), lease(-2, 5)]);
        assert_eq!(deadlines.remaining(1, at(3)), Some(7));
        assert_eq!(deadlines.remaining(1, at(3) + Duration::from_millis(1)), Some(6), "whole seconds only");
        assert!(deadlines.expired(at(5) - Duration::from_nanos(1), 10).is_empty());
        assert_eq!(ids(deadlines.expired(at(5), 10)), [-2]);
        assert_eq!(ids(deadlines.expired(at(10), 10)), [-2, 1], "the one whose revoke had no effect is named again");
    }

    #[test]
    fn a_renewal_moves_the_deadline_and_an_expired_lease_cannot_be_renewed() {
        let mut deadlines = with(&[lease(1, 10)]);
        assert_eq!(deadlines.renew(1, at(9)), Renewal::Renewed(10));
        assert!(deadlines.expired(at(18), 10).is_empty());
        assert_eq!(deadlines.renew(1, at(19)), Renewal::Gone);
        assert_eq!(deadlines.remaining(1, at(30)), Some(0));
        assert_eq!(ids(deadlines.expired(at(19), 10)), [1]);
        assert_eq!(deadlines.renew(2, NOW), Renewal::Gone);
    }

    #[test]
    fn a_revoked_lease_is_forgotten_and_its_id_can_be_granted_again() {
        let mut deadlines = with(&[lease(1, 10)]);
        deadlines.remove(1);
        assert_eq!((deadlines.renew(1, NOW), deadlines.remaining(1, NOW)), (Renewal::Gone, None));
        deadlines.grant(&lease(1, 20), at(5));
        assert!(deadlines.expired(at(24), 10).is_empty(), "the first grant's deadline no longer counts");
        assert_eq!(ids(deadlines.expired(at(25), 10)), [1]);
    }

    #[test]
    fn an_expired_lease_is_not_returned_again_while_its_revoke_is_in_flight() {
        let mut deadlines = with(&[lease(1, 1)]);
        assert_eq!(ids(deadlines.expired(at(1), 10)), [1]);
        assert!(deadlines.expired(at(1), 10).is_empty());
        assert!(deadlines.expired(at(4) - Duration::from_nanos(1), 10).is_empty());
        assert_eq!(ids(deadlines.expired(at(4), 10)), [1]);
    }

    #[test]
    fn no_more_than_the_limit_expires_at_once_and_the_rest_follows() {
        let leases: Vec<Lease> = (1..=1200).map(|id| lease(id, 5)).collect();
        let mut deadlines = with(&leases);
        let named: Vec<usize> = (0..4).map(|_| deadlines.expired(at(5), 500).len()).collect();
        assert_eq!(named, [500, 500, 200, 0]);
    }

    #[test]
    fn a_new_leader_gives_the_full_or_checkpointed_ttl_plus_an_election_timeout() {
        let mut deadlines = Deadlines::new(true);
        let recorded = Lease { remaining: 40, ..lease(2, 600) };
        deadlines.start(vec![lease(1, 10), recorded], NOW, Duration::from_secs(1));
        assert_eq!(ids(deadlines.expired(at(11), 10)), [1]);
        assert_eq!(deadlines.remaining(2, NOW), Some(41));
        assert_eq!(deadlines.renew(2, at(20)), Renewal::NotYet);
        assert_eq!(deadlines.checkpoints(at(20), 10), [left(2, 0)], "its record is void");
    }

    #[test]
    fn a_new_leader_spreads_equal_deadlines_over_the_revoke_rate() {
        let mut deadlines = Deadlines::new(false);
        deadlines.start((1..=3000).map(|id| lease(id, 10)).collect(), NOW, Duration::ZERO);
        assert_eq!(deadlines.expired(at(10), 5000).len(), 1);
        let second = deadlines.expired(at(11), 5000).len() as u32;
        assert!(second.abs_diff(SPREAD_PER_SECOND) <= 1, "{second} in one second");
        assert!(deadlines.expired(at(13), 5000).len() > 1400);
        assert!(
            deadlines.expired(at(14), 5000).len() > 700,
            "all are through after four seconds, none before its time"
        );
    }

    #[test]
    fn starting_does_not_change_leases_granted_in_the_meantime() {
        let mut deadlines = with(&[lease(1, 10)]);
        deadlines.start(vec![lease(1, 10), lease(2, 10)], at(5), Duration::from_secs(1));
        assert_eq!((deadlines.remaining(1, at(5)), deadlines.remaining(2, at(5))), (Some(5), Some(11)));
    }

    #[test]
    fn long_leases_are_checkpointed_every_five_minutes() {
        let mut deadlines = with(&[lease(1, 1000), lease(2, 300)]);
        assert!(deadlines.checkpoints(at(299), 10).is_empty());
        assert_eq!(deadlines.checkpoints(at(300), 10), [left(1, 700)]);
        assert!(deadlines.checkpoints(at(599), 10).is_empty());
        deadlines.record(&Lease { remaining: 700, ..lease(1, 1000) });
        assert_eq!(deadlines.remaining(1, at(301)), Some(699), "the record's return does not move the deadline");
        assert_eq!(deadlines.checkpoints(at(600), 10), [left(1, 400)]);
    }

    #[test]
    fn a_renewal_is_not_acknowledged_before_the_checkpoint_is_known_to_be_removed() {
        let mut deadlines = with(&[lease(1, 1000)]);
        let record = deadlines.checkpoints(at(300), 10);
        assert_eq!(deadlines.renew(1, at(300)), Renewal::NotYet, "the record is on its way, or lost, or there");
        deadlines.removed(&record);
        assert_eq!(deadlines.renew(1, at(301)), Renewal::NotYet, "it is there");
        let lost = deadlines.checkpoints(at(301), 10);
        assert_eq!(lost, [left(1, 0)]);
        assert_eq!(deadlines.checkpoints(at(302), 10), lost, "proposed until it is applied");
        deadlines.record(&lease(1, 1000));
        assert_eq!(
            deadlines.renew(1, at(303)),
            Renewal::NotYet,
            "some removal was applied, before or after the record"
        );
        deadlines.removed(&[LeaseRemaining { granted: 7, ..left(1, 0) }]);
        assert_eq!(deadlines.renew(1, at(304)), Renewal::NotYet, "of a lease that had the id before");
        deadlines.removed(&lost);
        assert_eq!(deadlines.renew(1, at(305)), Renewal::Renewed(1000));
        assert!(deadlines.checkpoints(at(305), 10).is_empty());
        assert_eq!(deadlines.remaining(1, at(305)), Some(1000), "it lived on all the time");
    }

    #[test]
    fn without_checkpointing_there_are_no_checkpoints() {
        let mut deadlines = Deadlines::new(false);
        deadlines.grant(&lease(1, 1000), NOW);
        assert!(deadlines.checkpoints(at(900), 10).is_empty());
    }

    #[test]
    fn granted_and_revoked_leases_do_not_accumulate() {
        let mut deadlines = Deadlines::new(true);
        for id in 1..100_000 {
            deadlines.grant(&lease(id, 3600), NOW);
            deadlines.remove(id);
        }
        assert!(deadlines.expiries.len() <= SLACK && deadlines.checkpoints.len() <= SLACK);
    }
}
