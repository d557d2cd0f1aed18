//! The lessor: the clocks of all leases while this member leads. It never removes a lease; it names what has expired, and
//! a revoke goes through the log.
//!
//! Holds true:
//! - The clocks start after leadership was won, from a state in which everything earlier leaders had committed is applied,
//!   and from every change published since; nothing this member said as a leader of an earlier term counts.
//! - A renewal is acknowledged only if whoever leads next gives the lease its full time, too: never while the replicated
//!   state holds a shorter remaining time, or may come to hold one.
//! - Until the clocks run, a lease of the applied state counts as alive, for it is about to get its full time.

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

/// Between two tries to read the leases.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where the applied leases are read from.
pub trait LeaseTable: Send + Sync {
    /// Term of the last entry that can be read here.
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
    /// Grows whenever the clocks are to be started anew.
    starts: u64,
    deadlines: Deadlines,
    /// A batch that was announced and cannot be read yet, if it changes leases: a table read now lacks it.
    coming: Option<Arc<Batch>>,
}

impl Lessor {
    /// A lessor that does not lead. `checkpointing`: whether remaining times of long leases are recorded (etcd's feature
    /// gate LeaseCheckpoint). Records there are, for example of a leader with the gate on, are kept right in either case.
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

    /// Reads the leases and starts their clocks. Does nothing if they run already, this member no longer leads, or entries
    /// of earlier leaders are yet to be applied: a renewal that one of those acknowledged may have removed a record that
    /// is still in the table. The entry that this leader began its term with comes behind all of them, and asks again.
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

    /// Whether the clocks are to be started; asking takes the order.
    #[cfg(test)]
    pub(super) fn start_is_due(&self) -> bool {
        futures::FutureExt::now_or_never(self.start.notified()).is_some()
    }

    /// Leases that have expired, at most `limit`, and the term in which that was seen.
    pub fn expired(&self, limit: usize) -> Option<(u64, Vec<Expired>)> {
        let now = self.clock.monotonic();
        let mut inner = self.inner.lock();
        let term = inner.term?;
        let expired = inner.deadlines.expired(now, limit);
        (!expired.is_empty()).then_some((term, expired))
    }

    /// Remaining times to be recorded or removed from the record, at most `limit`. Asked again only when the proposal
    /// ended, with [`Self::recorded`] before that if it was applied.
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

    /// The clocks are to be started from nothing.
    fn restart(&mut self, checkpointing: bool) {
        self.starting = Some(HashSet::new());
        self.starts += 1;
        self.deadlines = Deadlines::new(checkpointing);
    }

    /// What a batch changed, while this member leads.
    fn take_in(&mut self, batch: &Batch, now: Duration) {
        for change in &batch.leases {
            match change {
                LeaseChange::Granted(lease) => {
                    self.deadlines.grant(lease, now);
                    if let Some(removed) = &mut self.starting {
                        removed.remove(&lease.id);
                    }
                }
                // Of a lease whose clock is yet to start, the table will tell.
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
        // Only for what is new: one that fails is proposed again at the next look, and not as often as clients ask.
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
    /// Leases can be read from the moment they are written, so they are known before.
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
        // Under the lock, so that no table is read in between.
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
    fn a_member_that_does_not_lead_expires_nothing_and_follows_nothing() {
        let (lessor, clock) = lessor(&[]);
        publish(&lessor, vec![LeaseChange::Granted(lease(1, 1))]);
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
    fn a_lease_granted_while_the_clocks_start_has_its_own_time() {
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
        assert_eq!(expired(&lessor), Some((9, vec![1])));
    }

    #[test]
    fn a_record_that_arrives_before_the_clock_starts_does_not_prolong_the_lease() {
        let recorded = Lease { remaining: 10, ..lease(1, 1000) };
        let (lessor, clock) = lessor(&[recorded]);
        lessor.promoted(7);
        publish(&lessor, vec![LeaseChange::Recorded(recorded)]);
        lessor.start_clocks().expect("starts");
        clock.advance(seconds(11));
        assert_eq!(expired(&lessor), Some((7, vec![1])));
    }

    #[tokio::test]
    async fn renewing_a_lease_with_a_record_asks_for_the_record_to_be_cleared_at_once() {
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
    fn nothing_is_promised_of_a_recorded_lease_before_its_clock_starts() {
        let (lessor, _clock) = lessor(&[Lease { remaining: 10, ..lease(1, 1000) }]);
        assert_eq!(lessor.renew(1, 7), Renewal::NotYet);
        lessor.promoted(7);
        assert_eq!(lessor.renew(1, 7), Renewal::NotYet);
    }

    /// Leases are granted on one thread, read and renewed on another, while the member wins leadership again and again.
    #[tokio::test]
    async fn a_lease_that_another_thread_reads_is_known_and_stays_so_through_every_start_of_the_clocks() {
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
                        // Not yet: between two elections.
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
