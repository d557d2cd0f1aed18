//! The lessor: the clocks of all leases while this member leads. It never removes a lease; it names what has expired, and
//! a revoke goes through the log.
//!
//! Holds true: the clocks start after leadership was won, from the leases of the applied state and every change published
//! since; nothing this member said as a leader of an earlier term counts. Until the clocks run, a lease of the applied
//! state counts as alive, for it is about to get its full time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::deadlines::Deadlines;
use crate::clock::Clock;
use crate::model::command::LeaseRemaining;
use crate::model::effects::LeaseChange;
use crate::model::view::{Lease, View};
use crate::raft::LeaderDuties;
use crate::store::{Batch, EventSink, Store, StoreError};

/// Between two tries to read the leases.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where the applied leases are read from.
pub trait LeaseTable: Send + Sync {
    /// Every lease.
    ///
    /// # Errors
    /// The state cannot be read.
    fn all(&self) -> Result<Vec<Lease>, StoreError>;
    /// One lease; `None` when it is unknown, or cannot be read (the store has reported that).
    fn one(&self, id: i64) -> Option<Lease>;
}

impl LeaseTable for Store {
    fn all(&self) -> Result<Vec<Lease>, StoreError> {
        self.leases()
    }

    fn one(&self, id: i64) -> Option<Lease> {
        self.view().lease(id).ok().flatten()
    }
}

/// See the module's text.
pub struct Lessor {
    clock: Arc<dyn Clock>,
    table: Box<dyn LeaseTable>,
    /// Leases could not be renewed for about this long before a new leader came.
    election_timeout: Duration,
    checkpointing: bool,
    inner: Mutex<Inner>,
    /// Leadership was won, or the state was replaced: the clocks are to be started.
    start: Notify,
    /// A record of remaining time became wrong.
    outdated: Notify,
}

#[derive(Default)]
struct Inner {
    /// The term this member leads in.
    term: Option<u64>,
    /// Leases revoked since the start of the clocks was asked for; `None` once they run.
    starting: Option<HashSet<i64>>,
    deadlines: Deadlines,
}

impl Lessor {
    /// A lessor that does not lead. `checkpointing`: whether remaining times of long leases are recorded.
    pub fn new(
        clock: Arc<dyn Clock>,
        table: impl LeaseTable + 'static,
        election_timeout: Duration,
        checkpointing: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock,
            table: Box::new(table),
            election_timeout,
            checkpointing,
            inner: Mutex::default(),
            start: Notify::new(),
            outdated: Notify::new(),
        })
    }

    /// Starts the clocks whenever leadership is won, until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.start.notified() => {}
                () = stop.cancelled() => return,
            }
            let lessor = self.clone();
            // Reads every lease there is: not on the thread that serves requests.
            match tokio::task::spawn_blocking(move || lessor.start_clocks()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the leases cannot be read, so none expires; trying again");
                    tokio::time::sleep(RETRY_AFTER).await;
                    self.start.notify_one();
                }
                Err(error) => {
                    tracing::error!(%error, "the lease clocks were not started; no lease expires under this leader")
                }
            }
        }
    }

    /// Reads the leases and starts their clocks. Does nothing if they run already, or this member no longer leads.
    fn start_clocks(&self) -> Result<(), StoreError> {
        let wanted = |inner: &Inner| inner.term.filter(|_| inner.starting.is_some());
        let Some(term) = wanted(&self.inner.lock()) else { return Ok(()) };
        let leases = self.table.all()?;
        let mut inner = self.inner.lock();
        if wanted(&inner) != Some(term) {
            return Ok(());
        }
        let removed = inner.starting.take().unwrap_or_default();
        let present: Vec<Lease> = leases.into_iter().filter(|lease| !removed.contains(&lease.id)).collect();
        tracing::info!(term, leases = present.len(), "started the lease clocks");
        inner.deadlines.start(present, self.clock.monotonic(), self.election_timeout);
        Ok(())
    }

    /// Leases that have expired, at most `limit`, and the term in which that was seen.
    pub fn expired(&self, limit: usize) -> Option<(u64, Vec<i64>)> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let term = inner.term?;
        let expired = inner.deadlines.expired(now, limit);
        (!expired.is_empty()).then_some((term, expired))
    }

    /// Remaining times to be recorded, at most `limit`.
    pub fn checkpoints(&self, limit: usize) -> Vec<LeaseRemaining> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        if inner.term.is_none() { Vec::new() } else { inner.deadlines.checkpoints(now, limit) }
    }

    /// Returns when a recorded remaining time became wrong.
    pub async fn outdated(&self) {
        self.outdated.notified().await;
    }
}

impl Inner {
    /// Whether what the deadlines say of `id` is all there is to know.
    fn knows(&self, id: i64) -> bool {
        let running = self.term.is_some();
        let gone = self.starting.as_ref().is_none_or(|removed| removed.contains(&id));
        running && (gone || self.deadlines.holds(id))
    }
}

impl LeaderDuties for Lessor {
    fn promoted(&self, term: u64) {
        let mut inner = self.inner.lock();
        inner.term = Some(term);
        inner.starting = Some(HashSet::new());
        inner.deadlines = Deadlines::new(self.checkpointing);
        self.start.notify_one();
    }

    fn demoted(&self) {
        *self.inner.lock() = Inner::default();
    }

    fn renew(&self, id: i64) -> Option<i64> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        if !inner.knows(id) {
            drop(inner);
            return self.table.one(id).map(|lease| lease.ttl);
        }
        let renewed = inner.deadlines.renew(id, now);
        if inner.deadlines.has_outdated() {
            self.outdated.notify_one();
        }
        renewed
    }

    fn remaining(&self, id: i64) -> Option<i64> {
        let now = self.clock.monotonic();
        let inner = self.inner.lock();
        if !inner.knows(id) {
            drop(inner);
            return self.table.one(id).map(|lease| if lease.remaining > 0 { lease.remaining } else { lease.ttl });
        }
        inner.deadlines.remaining(id, now)
    }
}

impl EventSink for Lessor {
    fn publish(&self, batch: Arc<Batch>) {
        if batch.leases.is_empty() {
            return;
        }
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        if inner.term.is_none() {
            return;
        }
        for change in &batch.leases {
            match change {
                LeaseChange::Put(lease) => {
                    // A record of a lease whose clock is yet to start must not start it with its full time.
                    let known = lease.remaining == 0 || inner.deadlines.holds(lease.id);
                    if known {
                        inner.deadlines.put(lease, now);
                    }
                    if let Some(removed) = &mut inner.starting {
                        removed.remove(&lease.id);
                    }
                }
                LeaseChange::Remove(id) => {
                    inner.deadlines.remove(*id);
                    if let Some(removed) = &mut inner.starting {
                        removed.insert(*id);
                    }
                }
            }
        }
    }

    fn reset(&self, _revision: i64, _compacted: i64) {
        let mut inner = self.inner.lock();
        if inner.term.is_some() {
            inner.starting = Some(HashSet::new());
            inner.deadlines = Deadlines::new(self.checkpointing);
            self.start.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[derive(Default)]
    struct Fixed(Vec<Lease>);

    impl LeaseTable for Fixed {
        fn all(&self) -> Result<Vec<Lease>, StoreError> {
            Ok(self.0.clone())
        }

        fn one(&self, id: i64) -> Option<Lease> {
            self.0.iter().find(|lease| lease.id == id).copied()
        }
    }

    fn lease(id: i64, ttl: i64) -> Lease {
        Lease { id, ttl, remaining: 0 }
    }

    fn lessor(leases: &[Lease]) -> (Arc<Lessor>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Lessor::new(clock.clone(), Fixed(leases.to_vec()), Duration::from_secs(1), true), clock)
    }

    fn publish(lessor: &Lessor, leases: Vec<LeaseChange>) {
        let batch = Batch { leases, applied_index: 1, ..Batch::default() };
        lessor.publish(Arc::new(batch));
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_member_that_does_not_lead_expires_nothing_and_follows_nothing() {
        let (lessor, clock) = lessor(&[]);
        publish(&lessor, vec![LeaseChange::Put(lease(1, 1))]);
        clock.advance(seconds(100));
        assert_eq!(lessor.expired(10), None);
    }

    #[test]
    fn leases_get_their_full_time_and_an_election_timeout_from_a_new_leader() {
        let (lessor, clock) = lessor(&[lease(1, 5)]);
        clock.advance(seconds(1000));
        lessor.promoted(7);
        lessor.start_clocks().expect("starts");
        clock.advance(seconds(5));
        assert_eq!(lessor.expired(10), None);
        clock.advance(seconds(1));
        assert_eq!(lessor.expired(10), Some((7, vec![1])));
        assert_eq!(lessor.renew(1), None, "expired, not yet revoked: no longer alive");
        assert_eq!(lessor.remaining(1), Some(0));
    }

    #[test]
    fn a_lease_is_alive_between_the_election_and_the_start_of_its_clock() {
        let (lessor, _clock) = lessor(&[lease(1, 5)]);
        assert_eq!((lessor.renew(1), lessor.renew(2)), (Some(5), None), "won, but not yet told so");
        lessor.promoted(7);
        assert_eq!((lessor.renew(1), lessor.remaining(1), lessor.renew(2)), (Some(5), Some(5), None));
        publish(&lessor, vec![LeaseChange::Remove(1)]);
        assert_eq!((lessor.renew(1), lessor.remaining(1)), (None, None));
        lessor.start_clocks().expect("starts");
        assert_eq!(lessor.renew(1), None, "revoked while the clocks started");
    }

    #[test]
    fn a_lease_granted_while_the_clocks_start_has_its_own_time() {
        let (lessor, clock) = lessor(&[lease(1, 50)]);
        lessor.promoted(7);
        publish(&lessor, vec![LeaseChange::Remove(1), LeaseChange::Put(lease(1, 5)), LeaseChange::Put(lease(3, 5))]);
        lessor.start_clocks().expect("starts");
        clock.advance(seconds(5));
        assert_eq!(lessor.expired(10), Some((7, vec![1, 3])));
    }

    #[test]
    fn a_demoted_leader_forgets_and_the_next_term_starts_afresh() {
        let (lessor, clock) = lessor(&[lease(1, 5)]);
        lessor.promoted(7);
        lessor.start_clocks().expect("starts");
        clock.advance(seconds(100));
        lessor.demoted();
        assert_eq!(lessor.expired(10), None);
        lessor.promoted(9);
        lessor.start_clocks().expect("starts");
        assert_eq!(lessor.expired(10), None);
        clock.advance(seconds(6));
        assert_eq!(lessor.expired(10), Some((9, vec![1])));
    }

    #[test]
    fn a_record_that_arrives_before_the_clock_starts_does_not_prolong_the_lease() {
        let recorded = Lease { remaining: 10, ..lease(1, 1000) };
        let (lessor, clock) = lessor(&[recorded]);
        lessor.promoted(7);
        publish(&lessor, vec![LeaseChange::Put(recorded)]);
        lessor.start_clocks().expect("starts");
        clock.advance(seconds(11));
        assert_eq!(lessor.expired(10), Some((7, vec![1])));
    }

    #[tokio::test]
    async fn renewing_a_lease_with_a_record_asks_for_the_record_to_be_cleared_at_once() {
        let (lessor, _clock) = lessor(&[Lease { remaining: 10, ..lease(1, 1000) }]);
        lessor.promoted(7);
        lessor.start_clocks().expect("starts");
        assert_eq!(lessor.renew(1), Some(1000));
        lessor.outdated().await;
        assert_eq!(lessor.checkpoints(10), [LeaseRemaining { id: 1, remaining_ttl: 0 }]);
    }

    #[tokio::test]
    async fn the_clocks_start_by_themselves_after_an_election_and_after_a_snapshot() {
        let (lessor, clock) = lessor(&[lease(1, 5)]);
        let stop = CancellationToken::new();
        let following = tokio::spawn(lessor.clone().follow(stop.clone()));
        for round in 0..2 {
            if round == 0 {
                lessor.promoted(3)
            } else {
                lessor.reset(1, -1)
            }
            while lessor.inner.lock().starting.is_some() {
                tokio::task::yield_now().await;
            }
            clock.advance(seconds(6));
            assert_eq!(lessor.expired(10), Some((3, vec![1])));
        }
        stop.cancel();
        following.await.expect("ends");
    }
}
