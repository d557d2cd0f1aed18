//! How far the local log is on disk. The log moves the mark, the state machine waits for it.
//!
//! openraft hands entries to apply once they are committed by a quorum, which may happen before this member's own sync.
//! State that is ahead of the local log after a crash would be a hole, so apply waits here first.
//!
//! Only the log's writing thread moves the mark, in the order in which it writes. So a sync of entries that were cut off
//! can never raise it again: the cut comes after it in the same queue, and nothing is appended before the cut is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// The highest log index that is durable on this member. Clones share the mark.
#[derive(Debug, Clone)]
pub struct Watermark {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    durable: AtomicU64,
    ended: AtomicBool,
    /// Told when either changes.
    moved: Notify,
}

impl Watermark {
    /// A mark at `durable`: everything up to and including that index was found on disk.
    pub fn new(durable: u64) -> Self {
        let (durable, ended) = (AtomicU64::new(durable), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { durable, ended, moved: Notify::new() }) }
    }

    /// A mark that nothing ever waits for: for state machines that run without a log behind them.
    #[cfg(test)]
    pub fn already_durable() -> Self {
        Self::new(u64::MAX)
    }

    /// The highest durable index.
    pub fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Everything up to `index` is durable. Never lowers the mark.
    pub fn advance(&self, index: u64) {
        if self.shared.durable.fetch_max(index, Ordering::AcqRel) < index {
            self.shared.moved.notify_waiters();
        }
    }

    /// The log was cut back and now ends at `last_kept`: lowers the mark.
    pub fn truncate(&self, last_kept: u64) {
        self.shared.durable.fetch_min(last_kept, Ordering::AcqRel);
    }

    /// The log ended without having written everything: what is not durable by now never is.
    pub fn end(&self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.moved.notify_waiters();
    }

    /// Returns when everything up to `index` is durable; at once when it already is. False when the log ends first.
    pub async fn wait(&self, index: u64) -> bool {
        while self.durable() < index {
            let moved = self.shared.moved.notified();
            tokio::pin!(moved);
            // Enlists before the second look, so a raise between the look and the await is not missed.
            moved.as_mut().enable();
            if self.durable() >= index {
                return true;
            }
            if self.shared.ended.load(Ordering::Acquire) {
                return false;
            }
            moved.await;
        }
        true
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
    fn truncation_lowers_the_mark_and_never_raises_it() {
        let mark = Watermark::new(10);
        mark.truncate(5);
        assert_eq!(mark.durable(), 5);
        mark.truncate(9);
        assert_eq!(mark.durable(), 5);
        mark.advance(6);
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

    #[tokio::test]
    async fn a_wait_ends_with_the_log() {
        let mark = Watermark::new(3);
        let (durable, ()) = tokio::join!(mark.wait(4), async { mark.end() });
        assert!(!durable && !mark.wait(4).await && mark.wait(3).await);
    }
}
