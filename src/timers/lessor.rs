//! The lessor: the deadlines of all leases while this member leads. It never removes a lease; it reports expired ones,
//! which are then revoked through the log.
//!
//! Invariants:
//! - The clocks start after an election, from a state in which everything committed by earlier leaders is applied, and
//!   from every change published since; deadlines from an earlier term of this member's leadership are discarded.
//! - A renewal is acknowledged only if the next leader would also give the lease its full TTL: never while the
//!   replicated state has, or may still get, a checkpoint with a shorter remaining TTL.
//! - Until the clocks have started, every lease in the applied state counts as alive: it is about to get its full TTL.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::deadlines::{Deadlines, Expired};
use crate::clock::Clock;
use crate::model::command::LeaseCheckpoints;
use crate::model::effects::LeaseChange;
use crate::model::view::{Lease, View};
use crate::raft::{LeaderDuties, Renewal};
use crate::store::{Batch, EventSink, Moment, Store, StoreError};

/// Delay before reading the leases is retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where the applied leases are read from.
pub trait LeaseTable: Send + Sync {
    /// Term of the last applied entry.
    fn applied_term(&self) -> u64;
    /// Every lease.
    ///
    /// # Errors
    /// The state cannot be read.
    fn all(&self) -> Result<Vec<Lease>, StoreError>;
    /// One lease; `None` when it is unknown, or cannot be read (the store has reported that).
    fn one(&self, id: i64) -> Option<Lease>;
}

impl LeaseTable for Store {
    fn applied_term(&self) -> u64 {
        self.applied().map_or(0, |log_id| *log_id.leader_id)
    }

    fn all(&self) -> Result<Vec<Lease>, StoreError> {
        self.leases()
    }

    fn one(&self, id: i64) -> Option<Lease> {
        self.view().lease(id).ok().flatten()
    }
}

/// See the module documentation.
pub struct Lessor {
    clock: Arc<dyn Clock>,
    table: Box<dyn LeaseTable>,
    /// For about this long before an election leases could not be renewed.
    election_timeout: Duration,
    checkpointing: bool,
    inner: Mutex<Inner>,
    /// Notified when this member became leader, or its state was replaced: the clocks must be started.
    start: Notify,
    /// Notified when a checkpoint became wrong.
    outdated: Notify,
}

#[derive(Default)]
struct Inner {
    /// The term this member leads in.
    term: Option<u64>,
    /// Leases revoked since the start of the clocks was requested; `None` once they run.
    starting: Option<HashSet<i64>>,
    /// Incremented whenever the clocks must be restarted.
    starts: u64,
    deadlines: Deadlines,
    /// A batch that changes leases, published but not yet readable: a table read now does not include it.
    coming: Option<Arc<Batch>>,
}

impl Lessor {
    /// A follower's lessor. `checkpointing`: whether to checkpoint long leases (etcd's feature gate LeaseCheckpoint).
    /// Existing checkpoints, for example from a leader with the gate on, are maintained in either case.
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

    /// Starts the clocks after each election that this member wins, until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.start.notified() => {}
                () = stop.cancelled() => return,
            }
            let lessor = self.clone();
            // It reads every lease, so it must not block a thread that serves requests.
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

    /// Reads the leases and starts their clocks. Does nothing if they run already, this member no longer leads, or
    /// entries of earlier leaders are not yet applied: a renewal acknowledged by one of them may have removed a
    /// checkpoint in the table. The blank entry of this leader's term comes after them and triggers another start.
    pub(super) fn start_clocks(&self) -> Result<(), StoreError> {
        let wanted = |inner: &Inner| inner.term.filter(|_| inner.starting.is_some()).map(|term| (term, inner.starts));
        let Some((term, start)) = wanted(&self.inner.lock()) else { return Ok(()) };
        if self.table.applied_term() < term {
            return Ok(());
        }
        let leases = self.table.all()?;
        let mut inner = self.inner.lock();
        if wanted(&inner) != Some((term, start)) {
            return Ok(());
        }
        let removed = inner.starting.take().unwrap_or_default();
        let present: Vec<Lease> = leases.into_iter().filter(|lease| !removed.contains(&lease.id)).collect();
        tracing::info!(term, leases = present.len(), "started the lease clocks");
        inner.deadlines.start(present, self.clock.monotonic(), self.election_timeout);
        Ok(())
    }

    /// Whether a start of the clocks was requested; consumes the request.
    #[cfg(test)]
    pub(super) fn start_is_due(&self) -> bool {
        futures::FutureExt::now_or_never(self.start.notified()).is_some()
    }

    /// Expired leases, at most `limit`, and the term in which they expired.
    pub fn expired(&self, limit: usize) -> Option<(u64, Vec<Expired>)> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let term = inner.term?;
        let expired = inner.deadlines.expired(now, limit);
        (!expired.is_empty()).then_some((term, expired))
    }

    /// Checkpoints to propose or remove, at most `limit`. Call again only after the proposal has ended, and after
    /// [`Self::recorded`] if it was applied.
    pub fn checkpoints(&self, limit: usize) -> Option<LeaseCheckpoints> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let term = inner.term?;
        let leases = inner.deadlines.checkpoints(now, limit);
        (!leases.is_empty()).then_some(LeaseCheckpoints { leases, term })
    }

    /// These checkpoints were applied.
    pub fn recorded(&self, applied: &LeaseCheckpoints) {
        let mut inner = self.inner.lock();
        if inner.term == Some(applied.term) {
            inner.deadlines.removed(&applied.leases);
        }
    }

    /// Resolves when a checkpoint became wrong.
    pub async fn outdated(&self) {
        self.outdated.notified().await;
    }
}

impl Inner {
    /// Whether the deadlines are authoritative for `id`.
    fn knows(&self, id: i64) -> bool {
        let running = self.term.is_some();
        let gone = self.starting.as_ref().is_none_or(|removed| removed.contains(&id));
        running && (gone || self.deadlines.holds(id))
    }

    /// Discards all deadlines until the clocks are started again.
    fn restart(&mut self, checkpointing: bool) {
        self.starting = Some(HashSet::new());
        self.starts += 1;
        self.deadlines = Deadlines::new(checkpointing);
    }

    /// Applies a batch's lease changes, while this member leads.
    fn take_in(&mut self, batch: &Batch, now: Duration) {
        for change in &batch.leases {
            match change {
                LeaseChange::Granted(lease) => {
                    self.deadlines.grant(lease, now);
                    if let Some(removed) = &mut self.starting {
                        removed.remove(&lease.id);
                    }
                }
                // A checkpoint must not arm an unstarted timer: its lease is read from the table at the start.
                LeaseChange::Recorded(lease) => self.deadlines.record(lease),
                LeaseChange::Remove(id) => {
                    self.deadlines.remove(*id);
                    if let Some(removed) = &mut self.starting {
                        removed.insert(*id);
                    }
                }
            }
        }
    }
}

impl LeaderDuties for Lessor {
    fn promoted(&self, term: u64) {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        inner.term = Some(term);
        inner.restart(self.checkpointing);
        if let Some(batch) = inner.coming.clone() {
            inner.take_in(&batch, now);
        }
        self.start.notify_one();
    }

    fn demoted(&self) {
        let mut inner = self.inner.lock();
        inner.term = None;
        inner.starting = None;
        inner.deadlines = Deadlines::default();
    }

    fn renew(&self, id: i64, term: u64) -> Renewal {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        if inner.term != Some(term) {
            return Renewal::NotYet;
        }
        if !inner.knows(id) {
            drop(inner);
            return match self.table.one(id) {
                None => Renewal::Gone,
                Some(lease) if lease.remaining > 0 => Renewal::NotYet,
                Some(lease) => Renewal::Renewed(lease.ttl),
            };
        }
        let removals = inner.deadlines.removals();
        let renewal = inner.deadlines.renew(id, now);
        // Only for a new removal: a failed one is retried at the next poll, not on every client request.
        if inner.deadlines.removals() > removals {
            self.outdated.notify_one();
        }
        renewal
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
    /// Called before the batch becomes readable, so that no readable lease is unknown here.
    fn publish(&self, batch: &Arc<Batch>) {
        if batch.leases.is_empty() {
            return;
        }
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        inner.coming = Some(Arc::clone(batch));
        if inner.term.is_some() {
            inner.take_in(batch, now);
        }
    }

    fn show(&self, batch: &Arc<Batch>, moment: Moment<'_>) {
        moment.pass();
        let mut inner = self.inner.lock();
        inner.coming = None;
        if inner.starting.is_some() && inner.term.is_some_and(|term| batch.applied_term >= term) {
            self.start.notify_one();
        }
    }

    fn reset(&self, _revision: i64, _compacted: i64, moment: Moment<'_>) {
        let mut inner = self.inner.lock();
        // Under the lock, so that the table is not read in between.
        moment.pass();
        if inner.term.is_some() {
            inner.restart(self.checkpointing);
            self.start.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::model::command::LeaseRemaining;

    #[derive(Default)]
    struct Fixed(Vec<Lease>);

    impl LeaseTable for Fixed {
        fn applied_term(&self) -> u64 {
            u64::MAX
        }

        fn all(&self) -> Result<Vec<Lease>, StoreError> {
            Ok(self.0.clone())
        }

        fn one(&self, id: i64) -> Option<Lease> {
            self.0.iter().find(|lease| lease.id == id).copied()
        }
    }

    fn lease(id: i64, ttl: i64) -> Lease {
        Lease { id, ttl, remaining: 0, granted: 1 }
    }

    fn lessor(leases: &[Lease]) -> (Arc<Lessor>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Lessor::new(clock.clone(), Fixed(leases.to_vec()), Duration::from_secs(1), true), clock)
    }

    fn publish(lessor: &Lessor, leases: Vec<LeaseChange>) {
        let batch = Arc::new(Batch { leases, applied_term: 1, ..Batch::default() });
        lessor.publish(&batch);
        Moment::alone(|moment| lessor.show(&batch, moment));
    }

    fn expired(lessor: &Lessor) -> Option<(u64, Vec<i64>)> {
        let (term, expired) = lessor.expired(10)?;
        Some((term, expired.into_iter().map(|lease| lease.id).collect()))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_follower_expires_no_leases_and_ignores_changes() {
        let (lessor, clock) = lessor(&[]);
        publish(&lessor, vec![LeaseChange::Granted(lease(1, 1))]);
        clock.advance(seconds(100));
        assert_eq!(lessor.expired(10), None);
    }

    #[test]
    fn a_new_leader_gives_leases_their_full_ttl_plus_an_election_timeout() {
        let (lessor, clock) = lessor(&[lease(1, 5)]);
        clock.advance(seconds(1000));
        lessor.promoted(7);
        lessor.start_clocks().expect("starts");
        clock.advance(seconds(5));
        assert_eq!(lessor.expired(10), None);
        clock.advance(seconds(1));
        assert_eq!(expired(&lessor), Some((7, vec![1])));
        assert_eq!(lessor.renew(1, 7), Renewal::Gone, "expired, not yet revoked: no longer alive");
        assert_eq!(lessor.remaining(1), Some(0));
    }

    #[test]
    fn a_lease_is_alive_between_the_election_and_the_start_of_its_clock() {
        let (lessor, _clock) = lessor(&[lease(1, 5)]);
        assert_eq!(lessor.renew(1, 7), Renewal::NotYet, "won, but not yet told so");
        lessor.promoted(7);
        assert_eq!((lessor.renew(1, 7), lessor.remaining(1)), (Renewal::Renewed(5), Some(5)));
        assert_eq!(lessor.renew(2, 7), Renewal::Gone);
        publish(&lessor, vec![LeaseChange::Remove(1)]);
        assert_eq!((lessor.renew(1, 7), lessor.remaining(1)), (Renewal::Gone, None));
        lessor.start_clocks().expect("starts");
        assert_eq!(lessor.renew(1, 7), Renewal::Gone, "revoked while the clocks started");
    }

    #[test]
    fn a_lease_granted_while_the_clocks_start_keeps_its_own_deadline() {
        let (lessor, clock) = lessor(&[lease(1, 50)]);
        lessor.promoted(7);
        publish(
            &lessor,
            vec![LeaseChange::Remove(1), LeaseChange::Granted(lease(1, 5)), LeaseChange::Granted(lease(3, 5))],
        );
        lessor.start_clocks().expect("starts");
        clock.advance(seconds(5));
        assert_eq!(expired(&lessor), Some((7, vec![1, 3])));
    }

    #[test]
    fn a_demoted_leader_discards_deadlines_and_the_next_term_starts_afresh() {
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
        assert_eq!(expired(&lessor), Some((9, vec![1])));
    }

    #[test]
    fn a_checkpoint_before_the_clocks_start_does_not_extend_the_lease() {
        let recorded = Lease { remaining: 10, ..lease(1, 1000) };
        let (lessor, clock) = lessor(&[recorded]);
        lessor.promoted(7);
        publish(&lessor, vec![LeaseChange::Recorded(recorded)]);
        lessor.start_clocks().expect("starts");
        clock.advance(seconds(11));
        assert_eq!(expired(&lessor), Some((7, vec![1])));
    }

    #[tokio::test]
    async fn renewing_a_checkpointed_lease_requests_removal_of_the_checkpoint_at_once() {
        let (lessor, _clock) = lessor(&[Lease { remaining: 10, ..lease(1, 1000) }]);
        lessor.promoted(7);
        lessor.start_clocks().expect("starts");
        assert_eq!(lessor.renew(1, 7), Renewal::NotYet);
        lessor.outdated().await;
        let removal = lessor.checkpoints(10).expect("a removal is due");
        let leases = vec![LeaseRemaining { id: 1, remaining_ttl: 0, granted: 1 }];
        assert_eq!(removal, LeaseCheckpoints { leases, term: 7 });
        lessor.recorded(&LeaseCheckpoints { term: 6, ..removal.clone() });
        assert_eq!(lessor.renew(1, 7), Renewal::NotYet, "what was removed in another term says nothing of this one");
        lessor.recorded(&removal);
        assert_eq!(lessor.renew(1, 7), Renewal::Renewed(1000));
    }

    #[test]
    fn a_checkpointed_lease_is_not_renewed_before_its_clock_starts() {
        let (lessor, _clock) = lessor(&[Lease { remaining: 10, ..lease(1, 1000) }]);
        assert_eq!(lessor.renew(1, 7), Renewal::NotYet);
        lessor.promoted(7);
        assert_eq!(lessor.renew(1, 7), Renewal::NotYet);
    }

    /// Leases are granted on one thread, read and renewed on another, while the member is elected again and again.
    #[tokio::test]
    async fn a_lease_readable_by_another_thread_stays_known_across_every_start_of_the_clocks() {
        use crate::model::command::{Command, LeaseGrant, encode};
        use crate::raft::types::{Entry, Proposal};
        use openraft::storage::RaftStateMachine;
        use std::sync::atomic::{AtomicBool, Ordering};

        let dir = tempfile::tempdir_in("/dev/shm").expect("a temporary directory");
        let watermark = crate::store::Watermark::already_durable();
        let (store, mut machine) =
            crate::store::open(dir.path(), crate::store::StoreOptions::default(), watermark).expect("a fresh state");
        let clock = Arc::new(ManualClock::default());
        let lessor = Lessor::new(clock, store.clone(), Duration::from_secs(1), true);
        store.subscribe(lessor.clone());
        let stop = AtomicBool::new(false);
        let going = || !stop.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut renewed = 0;
                while going() {
                    for lease in store.leases().expect("readable") {
                        let renewal = lessor.renew(lease.id, 1);
                        // `NotYet` is fine: between two elections.
                        assert_ne!(renewal, Renewal::Gone, "lease {} can be read", lease.id);
                        renewed += u64::from(renewal == Renewal::Renewed(60));
                    }
                }
                renewed
            });
            let _elections = scope.spawn(|| {
                while going() {
                    lessor.promoted(1);
                    for _ in 0..50 {
                        lessor.start_clocks().expect("readable");
                        std::thread::yield_now();
                    }
                    lessor.demoted();
                }
            });
            for index in 0..3000u64 {
                let leader = openraft::vote::leader_id_std::CommittedLeaderId::new(1);
                let bytes = encode(Command::LeaseGrant(LeaseGrant { id: index as i64 + 1, ttl: 60 }));
                let entry = Entry {
                    log_id: openraft::LogId::new(leader, index),
                    payload: openraft::EntryPayload::Normal(Proposal(bytes)),
                };
                let applied = machine.apply(futures::stream::iter([Ok((entry, None))]));
                futures::executor::block_on(applied).expect("applies");
                if index % 100 == 0 {
                    std::thread::yield_now();
                    let inner = lessor.inner.lock();
                    let running = inner.term.is_some() && inner.starting.is_none();
                    let unknown = (1..=index as i64).find(|id| running && !inner.deadlines.holds(*id));
                    assert_eq!(unknown, None, "its clock was not started");
                }
            }
            stop.store(true, Ordering::SeqCst);
            assert!(reader.join().expect("what is readable is known") > 0);
        });
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
                Moment::alone(|moment| lessor.reset(1, -1, moment))
            }
            while lessor.inner.lock().starting.is_some() {
                tokio::task::yield_now().await;
            }
            clock.advance(seconds(6));
            assert_eq!(expired(&lessor), Some((3, vec![1])));
        }
        stop.cancel();
        following.await.expect("ends");
    }
}
