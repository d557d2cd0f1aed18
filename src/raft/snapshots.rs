//! When to take a snapshot: our own rule, because a checkpoint costs a flush however few entries it covers.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, sleep};

use super::Inner;

/// How often the rule is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// At most one snapshot in this time, unless [`MOST_ENTRIES`] are waiting.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// So many entries are always worth a snapshot: replaying them takes seconds.
const MOST_ENTRIES: u64 = 500_000;

/// Whether a snapshot is due, `entries` after the last one, which was `ago`.
fn is_due(entries: u64, ago: Duration, snapshot_count: u64) -> bool {
    entries >= MOST_ENTRIES || (entries >= snapshot_count && ago >= AT_MOST_EVERY)
}

impl Inner {
    /// Last index that a snapshot covers.
    pub(super) fn snapshot_index(&self) -> u64 {
        self.metrics.borrow_watched().snapshot.map_or(0, |id| id.index)
    }

    /// Last index that is purged from the log.
    #[cfg(test)]
    pub(super) fn purged_index(&self) -> u64 {
        self.metrics.borrow_watched().purged.map_or(0, |id| id.index)
    }
}

/// Takes snapshots when they are due until consensus stops. openraft purges the log behind them.
pub(super) async fn keep(inner: Arc<Inner>) {
    let mut last = Instant::now();
    let mut asked_at = 0;
    loop {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = inner.stopping.cancelled() => return,
        }
        let (snapshot, applied) = (inner.snapshot_index(), inner.store.applied().map_or(0, |id| id.index));
        let entries = applied.saturating_sub(snapshot.max(asked_at));
        if !is_due(entries, last.elapsed(), inner.rules.snapshot_count) || inner.store.space().is_low() {
            continue;
        }
        last = Instant::now();
        asked_at = applied;
        tracing::info!(applied_index = applied, snapshot_index = snapshot, "triggering snapshot");
        if let Err(error) = inner.raft.trigger().snapshot().await {
            tracing::debug!(%error, "no snapshot: consensus is stopping");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_waits_for_entries_and_for_time() {
        let long = AT_MOST_EVERY;
        assert!(!is_due(9_999, long, 10_000));
        assert!(is_due(10_000, long, 10_000));
        assert!(!is_due(10_000, long / 2, 10_000), "a busy member does not checkpoint all the time");
        assert!(is_due(MOST_ENTRIES, Duration::ZERO, u64::MAX), "replay stays short whatever was asked");
    }
}
