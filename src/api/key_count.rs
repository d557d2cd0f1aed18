//! How many keys are live: counted once in the background, then kept by what every batch creates and deletes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::model::view::{KeyRange, View};
use crate::store::{Batch, Store};

/// Pause before another look when a batch was being published, or a count failed.
const RETRY: Duration = Duration::from_millis(50);

/// The running count.
#[derive(Debug, Default)]
pub struct KeyCount {
    tally: Mutex<Tally>,
    /// Told when what is known became void.
    void: Notify,
}

#[derive(Debug, Default)]
struct Tally {
    /// Revision up to which `net` counts.
    revision: i64,
    /// Keys created less keys deleted since the process, or a new state, began.
    net: i64,
    /// Keys there were then; `None` until they are counted.
    base: Option<i64>,
    /// Which state this is about.
    era: u64,
}

impl KeyCount {
    /// The number of live keys; `None` while they are being counted.
    pub fn read(&self) -> Option<i64> {
        let tally = self.tally.lock();
        tally.base.map(|base| base + tally.net)
    }

    /// Takes in what a batch changed.
    pub fn applied(&self, batch: &Batch) {
        let change: i64 = batch
            .changes
            .iter()
            .map(|(_, change)| i64::from(change.after.is_some()) - i64::from(change.before.is_some()))
            .sum();
        let mut tally = self.tally.lock();
        tally.revision = batch.last;
        tally.net += change;
    }

    /// Another state took the place of the one that was counted.
    pub fn reset(&self, revision: i64) {
        let mut tally = self.tally.lock();
        *tally = Tally { revision, era: tally.era + 1, ..Tally::default() };
        drop(tally);
        self.void.notify_one();
    }

    /// Counts now and after every reset, until `stop`.
    pub async fn follow(self: Arc<Self>, store: Store, stop: CancellationToken) {
        let counting = async {
            loop {
                while !self.count(&store).await {
                    tokio::time::sleep(RETRY).await;
                }
                self.void.notified().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = counting => {}
        }
    }

    /// Counts the keys of one revision. `false`: this was no good moment.
    async fn count(&self, store: &Store) -> bool {
        let view = store.view();
        let (era, net) = {
            let tally = self.tally.lock();
            if tally.revision != view.revision() {
                return false;
            }
            (tally.era, tally.net)
        };
        let all = KeyRange::Span { start: bytes::Bytes::new(), end: None };
        let counted = tokio::task::spawn_blocking(move || view.count(&all)).await;
        match counted {
            Ok(Ok(keys)) => {
                let mut tally = self.tally.lock();
                if tally.era == era {
                    tally.base = Some(keys - net);
                }
                tally.base.is_some()
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to count the keys for the metrics");
                false
            }
            Err(_stopped) => false,
        }
    }
}
