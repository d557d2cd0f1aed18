//! Counters of the client port: plain atomics, touched on every call, rendered by `exposition`.
//!
//! A call is counted as started when its path is known and as handled, with its code, when its answer has been written
//! or given up. Other rooms keep their own atomics; this file knows only what the port itself sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tonic::Code;

use super::histogram::Histogram;
use super::methods::METHODS;
use crate::store::{Batch, EventSink};

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

/// Counters of the client port.
pub struct Metrics {
    /// By index in [`METHODS`].
    pub methods: [MethodCounters; METHODS.len()],
    /// Bytes of gRPC request bodies.
    pub received_bytes: AtomicU64,
    /// Bytes of gRPC answer bodies.
    pub sent_bytes: AtomicU64,
    /// Proposals waiting for their answer.
    pub proposals_pending: AtomicI64,
    /// Proposals that ended without an answer.
    pub proposals_failed: AtomicU64,
    /// Read barriers that failed.
    pub read_indexes_failed: AtomicU64,
    /// Ranges served here, those inside read-only transactions included.
    pub ranges: AtomicU64,
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
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
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
            wal_fsync: Histogram::default(),
        }
    }
}

impl Metrics {
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
    fn publish(&self, batch: Arc<Batch>) {
        let puts = batch.changes.iter().filter(|(_, change)| change.after.is_some()).count();
        let txns = batch.changes.chunk_by(|(a, _), (b, _)| a == b).filter(|changes| changes.len() > 1).count();
        self.puts.fetch_add(puts as u64, Relaxed);
        self.deletes.fetch_add((batch.changes.len() - puts) as u64, Relaxed);
        self.txns.fetch_add(txns as u64, Relaxed);
    }

    fn reset(&self, _revision: i64, _compacted: i64) {}
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
}

impl CallCount {
    /// Counts a call of this method as started.
    pub fn start(metrics: Arc<Metrics>, method: usize) -> Self {
        metrics.methods[method].started.fetch_add(1, Relaxed);
        Self { metrics, method, open: true }
    }

    /// Counts the call as handled.
    pub fn finish(&mut self, code: Code) {
        if std::mem::take(&mut self.open) {
            self.metrics.methods[self.method].handled[code as usize].fetch_add(1, Relaxed);
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
        let metrics = Arc::new(Metrics::default());
        let mut call = CallCount::start(Arc::clone(&metrics), 0);
        call.finish(Code::Ok);
        call.finish(Code::Internal);
        drop(call);
        drop(CallCount::start(Arc::clone(&metrics), 0));
        assert_eq!(metrics.methods[0].started.load(Relaxed), 2);
        assert_eq!(handled(&metrics, Code::Ok), 1);
        assert_eq!(handled(&metrics, Code::Internal), 0);
        assert_eq!(handled(&metrics, Code::Cancelled), 1);
    }

    #[test]
    fn a_proposal_that_ends_without_an_answer_has_failed() {
        let metrics = Metrics::default();
        let pending = metrics.proposal();
        assert_eq!(metrics.proposals_pending.load(Relaxed), 1);
        pending.done();
        drop(metrics.proposal());
        assert_eq!(metrics.proposals_pending.load(Relaxed), 0);
        assert_eq!(metrics.proposals_failed.load(Relaxed), 1);
    }
}
