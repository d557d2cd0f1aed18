//! Counters of the client port: plain atomics, touched on every call, rendered by `exposition`.
//!
//! A call is counted as started when its path is known and as handled, with its code, when its answer has been written
//! or given up. Other rooms keep their own atomics; this file knows only what the port itself sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tonic::Code;

use super::key_count::KeyCount;
use super::methods::Rpc;
use super::v2::HubStats;
use crate::histogram::{Bounds, DISK, Histogram, doubling};
use crate::model::effects::LeaseChange;
use crate::store::{Batch, EventSink, Moment, Work};

/// gRPC has seventeen codes, numbered from 0.
pub const CODES: usize = 17;

/// What one method has seen.
#[derive(Default)]
pub struct MethodCounters {
    /// Calls begun.
    pub started: AtomicU64,
    /// Calls ended, by code number.
    pub handled: [AtomicU64; CODES],
}

/// What metrics are made for, read once at the start.
#[derive(Debug, Clone)]
pub struct MetricsOptions {
    /// `--metrics=extensive`: how long calls take, too.
    pub extensive: bool,
    /// A batch that takes longer to apply is counted as slow.
    pub slow_apply: Duration,
    /// Feature gates: name, and whether it is on.
    pub features: Vec<(&'static str, bool)>,
}

impl Default for MetricsOptions {
    fn default() -> Self {
        Self { extensive: false, slow_apply: Duration::from_millis(100), features: Vec::new() }
    }
}

/// One probe: how it went last, and how often which way.
#[derive(Default)]
pub struct CheckCounters {
    /// Times it was well.
    pub success: AtomicU64,
    /// Times it was not.
    pub error: AtomicU64,
    /// Whether it was well the last time.
    pub last: AtomicBool,
}

impl CheckCounters {
    /// Counts one outcome.
    pub fn count(&self, well: bool) {
        let counter = if well { &self.success } else { &self.error };
        counter.fetch_add(1, Relaxed);
        self.last.store(well, Relaxed);
    }
}

/// Counters of the client port.
pub struct Metrics {
    /// What they are made for.
    pub options: MetricsOptions,
    /// How long calls took, by [`Rpc`]; only when asked for.
    pub handling: Option<Box<[Histogram]>>,
    /// By [`Rpc`].
    pub methods: [MethodCounters; Rpc::ALL.len()],
    /// Bytes of gRPC request bodies.
    pub received_bytes: AtomicU64,
    /// Bytes of gRPC answer bodies.
    pub sent_bytes: AtomicU64,
    /// Proposals waiting for their answer.
    pub proposals_pending: AtomicI64,
    /// Proposals that ended without an answer.
    pub proposals_failed: AtomicU64,
    /// Read barriers that were not confirmed in time.
    pub slow_read_indexes: AtomicU64,
    /// Read barriers that failed otherwise.
    pub read_indexes_failed: AtomicU64,
    /// Ranges served here, those inside read-only transactions included.
    pub ranges: AtomicU64,
    /// Keys that are live.
    pub keys: Arc<KeyCount>,
    /// Leases granted by applied commands.
    pub leases_granted: AtomicU64,
    /// Leases ended by applied commands.
    pub leases_revoked: AtomicU64,
    /// Renewals that clients of this member had.
    pub leases_renewed: AtomicU64,
    /// Batches that took long to apply.
    pub slow_applies: AtomicU64,
    /// When history was last compacted, seconds since the epoch; 0 = never by this process.
    pub compaction_last: AtomicU64,
    /// Answers of `/metrics`.
    pub scrapes: AtomicU64,
    /// Defragmentations under way.
    pub defrag_inflight: AtomicU64,
    /// Named checks of `/livez` and `/readyz`, by [`super::health::CHECKS`].
    pub checks: [CheckCounters; super::health::CHECKS.len()],
    /// `/health` answers that said true.
    pub health_success: AtomicU64,
    /// `/health` answers that said false.
    pub health_failures: AtomicU64,
    /// Keys put by applied commands.
    pub puts: AtomicU64,
    /// Keys deleted by applied commands.
    pub deletes: AtomicU64,
    /// Revisions with more than one change.
    pub txns: AtomicU64,
    /// How long each sync of the log took. Filled by the log, through [`Metrics::sync_observer`].
    pub wal_fsync: Histogram,
    /// How long writing each applied batch took.
    pub backend_commit: Histogram,
    /// How long each checkpoint took.
    pub backend_snapshot: Histogram,
    /// How long each defragmentation took.
    pub backend_defrag: Histogram,
    /// Clients of v2 that wait for events.
    pub v2: Arc<HubStats>,
    /// How long each hash over the whole state took.
    pub hash: Histogram,
    /// How long each hash up to a revision took.
    pub hash_rev: Histogram,
    /// Learners promoted through this member.
    pub promotions: AtomicU64,
}

/// etcd's bounds for checkpoints: 10 ms to 655 s.
const SNAPSHOT_BOUNDS: Bounds = &doubling::<17>(10_000);
/// etcd's bounds for hashes: 10 ms to 163 s.
const HASH_BOUNDS: Bounds = &doubling::<15>(10_000);
/// etcd's bounds for defragmentation: 0.1 s to 409.6 s.
const DEFRAG_BOUNDS: Bounds = &doubling::<13>(100_000);
/// Prometheus' usual bounds, which etcd has for calls.
const CALL_BOUNDS: Bounds =
    &[5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

impl Metrics {
    /// Nothing counted yet.
    pub fn new(options: MetricsOptions) -> Self {
        let handling = || Rpc::ALL.iter().map(|_| Histogram::new(CALL_BOUNDS)).collect();
        Self {
            handling: options.extensive.then(handling),
            options,
            slow_read_indexes: AtomicU64::new(0),
            keys: Arc::default(),
            leases_granted: AtomicU64::new(0),
            leases_revoked: AtomicU64::new(0),
            leases_renewed: AtomicU64::new(0),
            slow_applies: AtomicU64::new(0),
            compaction_last: AtomicU64::new(0),
            scrapes: AtomicU64::new(0),
            defrag_inflight: AtomicU64::new(0),
            checks: Default::default(),
            methods: std::array::from_fn(|_| MethodCounters::default()),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            proposals_pending: AtomicI64::new(0),
            proposals_failed: AtomicU64::new(0),
            read_indexes_failed: AtomicU64::new(0),
            ranges: AtomicU64::new(0),
            health_success: AtomicU64::new(0),
            health_failures: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            txns: AtomicU64::new(0),
            wal_fsync: Histogram::new(DISK),
            backend_commit: Histogram::new(DISK),
            backend_snapshot: Histogram::new(SNAPSHOT_BOUNDS),
            backend_defrag: Histogram::new(DEFRAG_BOUNDS),
            v2: Arc::default(),
            hash: Histogram::new(HASH_BOUNDS),
            hash_rev: Histogram::new(HASH_BOUNDS),
            promotions: AtomicU64::new(0),
        }
    }

    /// What the log is given at its start, to say how long its syncs took.
    pub fn sync_observer(self: &Arc<Self>) -> Arc<dyn Fn(Duration) + Send + Sync> {
        let metrics = Arc::clone(self);
        Arc::new(move |duration| metrics.wal_fsync.observe(duration))
    }

    /// Counts a proposal as pending until the value is dropped, and as failed unless it was marked done.
    pub fn proposal(&self) -> PendingProposal<'_> {
        self.proposals_pending.fetch_add(1, Relaxed);
        PendingProposal { metrics: self, done: false }
    }
}

/// Counts what was applied. Subscribe it to the store.
impl EventSink for Metrics {
    fn subscribed(&self, revision: i64, _compacted: i64) {
        self.keys.reset(revision);
    }

    fn publish(&self, batch: &Arc<Batch>) {
        let puts = batch.changes.iter().filter(|(_, change)| change.after.is_some()).count();
        let txns = batch.changes.chunk_by(|(a, _), (b, _)| a == b).filter(|changes| changes.len() > 1).count();
        self.puts.fetch_add(puts as u64, Relaxed);
        self.deletes.fetch_add((batch.changes.len() - puts) as u64, Relaxed);
        self.txns.fetch_add(txns as u64, Relaxed);
        if !batch.changes.is_empty() {
            self.keys.applied(batch);
        }
        for change in &batch.leases {
            match change {
                LeaseChange::Granted(_) => self.leases_granted.fetch_add(1, Relaxed),
                LeaseChange::Recorded(_) => continue,
                LeaseChange::Remove(_) => self.leases_revoked.fetch_add(1, Relaxed),
            };
        }
        if batch.compacted.is_some() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            self.compaction_last.store(now.as_secs(), Relaxed);
        }
    }

    fn worked(&self, work: Work, took: Duration) {
        match work {
            Work::Commit => self.backend_commit.observe(took),
            Work::Snapshot => self.backend_snapshot.observe(took),
            Work::Defragment => self.backend_defrag.observe(took),
            Work::Apply if took > self.options.slow_apply => {
                self.slow_applies.fetch_add(1, Relaxed);
                tracing::warn!(?took, expected = ?self.options.slow_apply, "apply request took too long");
            }
            Work::Apply => {}
        }
    }

    fn reset(&self, revision: i64, _compacted: i64, moment: Moment<'_>) {
        moment.pass();
        self.keys.reset(revision);
    }
}

/// A proposal under way.
pub struct PendingProposal<'a> {
    metrics: &'a Metrics,
    done: bool,
}

impl PendingProposal<'_> {
    /// It was answered.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for PendingProposal<'_> {
    fn drop(&mut self) {
        self.metrics.proposals_pending.fetch_sub(1, Relaxed);
        if !self.done {
            self.metrics.proposals_failed.fetch_add(1, Relaxed);
        }
    }
}

/// One call under way: counted as handled exactly once, as `Canceled` when it is given up.
pub struct CallCount {
    metrics: Arc<Metrics>,
    method: usize,
    open: bool,
    /// When it began; only where durations are asked for.
    begun: Option<Instant>,
}

impl CallCount {
    /// Counts a call of this method as started.
    pub fn start(metrics: Arc<Metrics>, rpc: Rpc) -> Self {
        let method = rpc as usize;
        metrics.methods[method].started.fetch_add(1, Relaxed);
        let begun = metrics.handling.as_ref().map(|_| Instant::now());
        Self { metrics, method, open: true, begun }
    }

    /// Counts the call as handled.
    pub fn finish(&mut self, code: Code) {
        if std::mem::take(&mut self.open) {
            self.metrics.methods[self.method].handled[code as usize].fetch_add(1, Relaxed);
            if let (Some(begun), Some(handling)) = (self.begun, &self.metrics.handling) {
                handling[self.method].observe(begun.elapsed());
            }
        }
    }

    /// Counts bytes sent to the client.
    pub fn sent(&self, bytes: usize) {
        self.metrics.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for CallCount {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handled(metrics: &Metrics, code: Code) -> u64 {
        metrics.methods[0].handled[code as usize].load(Relaxed)
    }

    #[test]
    fn a_call_is_handled_once_and_canceled_when_given_up() {
        let metrics = Arc::new(Metrics::new(MetricsOptions::default()));
        let mut call = CallCount::start(Arc::clone(&metrics), Rpc::ALL[0]);
        call.finish(Code::Ok);
        call.finish(Code::Internal);
        drop(call);
        drop(CallCount::start(Arc::clone(&metrics), Rpc::ALL[0]));
        assert_eq!(metrics.methods[0].started.load(Relaxed), 2);
        assert_eq!(handled(&metrics, Code::Ok), 1);
        assert_eq!(handled(&metrics, Code::Internal), 0);
        assert_eq!(handled(&metrics, Code::Cancelled), 1);
    }

    #[test]
    fn a_proposal_that_ends_without_an_answer_has_failed() {
        let metrics = Metrics::new(MetricsOptions::default());
        let pending = metrics.proposal();
        assert_eq!(metrics.proposals_pending.load(Relaxed), 1);
        pending.done();
        drop(metrics.proposal());
        assert_eq!(metrics.proposals_pending.load(Relaxed), 0);
        assert_eq!(metrics.proposals_failed.load(Relaxed), 1);
    }
}
