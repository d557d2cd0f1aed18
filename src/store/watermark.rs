//! How far the local log is on disk. The log moves the mark, the state machine waits for it.
//!
//! openraft hands entries to apply once they are committed by a quorum, which may happen before this member's own sync.
//! State that is ahead of the local log after a crash would be a hole, so apply waits here first.
//!
//! Truncation lowers the mark. A sync that was under way when the log was truncated must not raise it again for entries
//! that no longer exist, so every advance names the epoch its entries were appended in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The highest log index that is durable on this member. Clones share the mark.
#[derive(Debug, Clone)]
pub struct Watermark {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    durable: AtomicU64,
    /// Counts truncations. Writers hold the lock while they move the mark; readers only load it.
    epoch: Mutex<u64>,
    moved: Notify,
}

impl Watermark {
    /// A mark at `durable`: everything up to and including that index was found on disk.
    pub fn new(durable: u64) -> Self {
        let shared = Shared { durable: AtomicU64::new(durable), epoch: Mutex::new(0), moved: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// A mark that nothing ever waits for: for state machines that run without a log behind them.
    pub fn already_durable() -> Self {
        Self::new(u64::MAX)
    }

    /// The highest durable index.
    pub fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// The epoch of entries appended now; see [`advance_in`](Self::advance_in).
    pub fn epoch(&self) -> u64 {
        *self.shared.epoch.lock()
    }

    /// Everything up to `index` is durable. Never lowers the mark. For writers that never truncate with a sync under way.
    pub fn advance(&self, index: u64) {
        let guard = self.shared.epoch.lock();
        self.raise(index);
        drop(guard);
    }

    /// As [`advance`](Self::advance), for entries appended in `epoch`; does nothing once the log was truncated after that.
    pub fn advance_in(&self, epoch: u64, index: u64) {
        let guard = self.shared.epoch.lock();
        if *guard == epoch {
            self.raise(index);
        }
        drop(guard);
    }

    /// The log was cut back and now ends at `last_kept`: lowers the mark and starts the next epoch, which it returns.
    /// To be called before the first entry after the cut is appended.
    pub fn truncate(&self, last_kept: u64) -> u64 {
        let mut epoch = self.shared.epoch.lock();
        *epoch += 1;
        if self.durable() > last_kept {
            self.shared.durable.store(last_kept, Ordering::Release);
        }
        *epoch
    }

    /// Returns when everything up to `index` is durable; at once when it already is.
    pub async fn wait(&self, index: u64) {
        while self.durable() < index {
            let moved = self.shared.moved.notified();
            tokio::pin!(moved);
            // Enlists before the second look, so a raise between the look and the await is not missed.
            moved.as_mut().enable();
            if self.durable() >= index {
                return;
            }
            moved.await;
        }
    }

    fn raise(&self, index: u64) {
        if self.durable() < index {
            self.shared.durable.store(index, Ordering::Release);
            self.shared.moved.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_never_moves_back_without_truncation() {
        let mark = Watermark::new(3);
        mark.advance(7);
        mark.advance(5);
        assert_eq!(mark.durable(), 7);
    }

    #[test]
    fn a_sync_of_truncated_entries_does_not_raise_the_mark() {
        let mark = Watermark::new(10);
        let before = mark.epoch();
        let after = mark.truncate(5);
        mark.advance_in(before, 10);
        assert_eq!(mark.durable(), 5);
        mark.advance_in(after, 6);
        assert_eq!(mark.durable(), 6);
    }

    #[tokio::test]
    async fn a_waiter_wakes_when_its_index_becomes_durable() {
        let mark = Watermark::new(0);
        let waiter = tokio::spawn({
            let mark = mark.clone();
            async move { mark.wait(2).await }
        });
        tokio::task::yield_now().await;
        mark.advance(1);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        mark.advance(2);
        waiter.await.expect("the waiter ends");
    }
}
