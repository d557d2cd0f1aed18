//! When to take a snapshot, and what of the log goes behind it: our own rules, because a checkpoint costs a flush however
//! few entries it covers, and because the log is bounded in bytes, of which openraft knows nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, sleep};

use super::Inner;
use crate::store::log::LogMeter;

/// How often the rules are looked at while no segment is begun.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while commands wait for a snapshot.
const LOOK_OFTEN: Duration = Duration::from_millis(20);
/// At most one snapshot in this time for the number of entries alone, unless [`MOST_ENTRIES`] are waiting.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// So many entries are always worth a snapshot: replaying them takes seconds.
const MOST_ENTRIES: u64 = 500_000;

/// What has come since the last snapshot.
#[derive(Debug, Clone, Copy)]
struct Since {
    entries: u64,
    /// Bytes of log.
    bytes: u64,
    /// How long ago it was.
    ago: Duration,
    /// Disk space is low: what a snapshot makes superfluous is wanted back.
    low: bool,
}

/// Whether a snapshot is due. `snapshot_count` as in `--snapshot-count`, `log_bytes` as in [`super::Rules`].
fn is_due(since: Since, snapshot_count: u64, log_bytes: u64) -> bool {
    let rested = since.ago >= AT_MOST_EVERY;
    since.entries >= MOST_ENTRIES
        || (since.entries > 0 && since.bytes >= log_bytes / 2)
        || (rested && since.entries >= snapshot_count)
        || (rested && since.low && since.entries > 0)
}

/// The rules' memory.
struct Keeper {
    meter: LogMeter,
    /// When a snapshot was asked for last, what was applied then, and what the one before it covered.
    asked: Instant,
    asked_at: u64,
    asked_over: u64,
    /// Up to where openraft was asked to purge.
    let_go: u64,
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

    /// Returns when the log has room for commands: while a snapshot that is due is not there yet, it may have none.
    pub(super) async fn log_room(&self) {
        if !*self.log_is_full.borrow() {
            return;
        }
        let mut is_full = self.log_is_full.subscribe();
        tokio::select! {
            _ = is_full.wait_for(|full| !full) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

impl Keeper {
    /// Asks for a snapshot if one is due.
    async fn snapshot(&mut self, inner: &Inner) {
        let (snapshot, applied) = (inner.snapshot_index(), inner.store.applied().map_or(0, |id| id.index));
        // One that was asked for while another was being made may never come: what has come since counts.
        let covered = if snapshot > self.asked_over { snapshot } else { snapshot.max(self.asked_at) };
        let low = inner.store.space().is_low();
        let entries = applied.saturating_sub(covered);
        let bytes = self.meter.bytes_behind(covered);
        let since = Since { entries, bytes, ago: self.asked.elapsed(), low };
        // One that has no room would wait for it, and hold up the next.
        if !is_due(since, inner.rules.snapshot_count, inner.rules.log_bytes) || !inner.store.has_room_to_flush() {
            return;
        }
        (self.asked, self.asked_at, self.asked_over) = (Instant::now(), applied, snapshot);
        tracing::info!(applied_index = applied, snapshot_index = snapshot, bytes, low, "triggering snapshot");
        if let Err(error) = inner.raft.trigger().snapshot().await {
            tracing::debug!(%error, "no snapshot: consensus is stopping");
        }
    }

    /// Lets go of what is too much, as far as a snapshot covers it. Followers that still need it are sent the snapshot.
    async fn purge(&mut self, inner: &Inner) {
        let rules = &inner.rules;
        let (bytes, files) = if inner.store.space().is_low() { (0, 1) } else { (rules.log_bytes / 2, rules.max_wals) };
        let Some(surplus) = self.meter.surplus(bytes, files) else { return };
        let upto = surplus.min(inner.snapshot_index());
        if upto > self.let_go {
            self.let_go = upto;
            if let Err(error) = inner.raft.trigger().purge_log(upto).await {
                tracing::debug!(%error, "nothing is purged: consensus is stopping");
            }
        }
        if self.meter.bytes() > rules.log_bytes {
            inner.peers.appends().let_go.fetch_max(self.let_go, Ordering::Relaxed);
        }
    }

    /// Makes commands wait while what has come since the last snapshot takes most of what the log may take.
    fn hold_back(&self, inner: &Inner) -> bool {
        // Three quarters: files that were let go are removed a moment later.
        // While space is low what grows the store is refused, and what frees some must not wait.
        let full = !inner.store.space().is_low()
            && self.meter.bytes_behind(inner.snapshot_index()) > inner.rules.log_bytes / 4 * 3;
        if inner.log_is_full.send_replace(full) != full {
            tracing::info!(full, limit = inner.rules.log_bytes, "commands wait while the log is full");
        }
        full
    }
}

/// Takes snapshots when they are due, and purges behind them, until consensus stops.
pub(super) async fn keep(inner: std::sync::Arc<Inner>, meter: LogMeter) {
    let mut keeper = Keeper { meter, asked: Instant::now(), asked_at: 0, asked_over: 0, let_go: 0 };
    let mut full = false;
    loop {
        let pause = if full { LOOK_OFTEN } else { LOOK_EVERY };
        tokio::select! {
            () = sleep(pause) => {}
            () = keeper.meter.grown() => {}
            () = inner.stopping.cancelled() => return,
        }
        keeper.snapshot(&inner).await;
        keeper.purge(&inner).await;
        full = keeper.hold_back(&inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: u64 = 128 << 20;
    const NOTHING: Since = Since { entries: 0, bytes: 0, ago: Duration::from_secs(3600), low: false };

    #[test]
    fn a_snapshot_waits_for_entries_and_for_time() {
        let some = |entries| Since { entries, ..NOTHING };
        assert!(!is_due(some(9_999), 10_000, LOG));
        assert!(is_due(some(10_000), 10_000, LOG));
        let soon = Since { ago: AT_MOST_EVERY / 2, ..some(10_000) };
        assert!(!is_due(soon, 10_000, LOG), "a busy member does not checkpoint all the time");
        let many = Since { ago: Duration::ZERO, ..some(MOST_ENTRIES) };
        assert!(is_due(many, u64::MAX, LOG), "replay stays short whatever was asked");
    }

    #[test]
    fn half_of_what_the_log_may_take_is_worth_a_snapshot_at_once() {
        let large = Since { entries: 3, bytes: LOG / 2, ago: Duration::ZERO, ..NOTHING };
        assert!(is_due(large, 10_000, LOG));
        assert!(!is_due(Since { bytes: LOG / 2 - 1, ..large }, 10_000, LOG));
        assert!(!is_due(Since { entries: 0, ..large }, 10_000, LOG), "nothing new is applied");
    }

    #[test]
    fn low_space_asks_for_a_snapshot_and_does_not_put_it_off() {
        let low = Since { entries: 1, low: true, ..NOTHING };
        assert!(is_due(low, 10_000, LOG));
        assert!(!is_due(Since { low: false, ..low }, 10_000, LOG));
        assert!(!is_due(Since { entries: 0, ..low }, 10_000, LOG));
        assert!(!is_due(Since { ago: Duration::ZERO, ..low }, 10_000, LOG));
    }
}
