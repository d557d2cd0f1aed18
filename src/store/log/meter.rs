//! How much the log keeps, for whoever decides when a snapshot is due and what may go.

use std::sync::Arc;

use super::wal::Shared;

/// Looks at a log without keeping it open. Clones look at the same one.
#[derive(Clone)]
pub struct LogMeter {
    shared: Arc<Shared>,
}

impl LogMeter {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Bytes of all segments on disk, the zeros behind the last record included; spares are not
    /// ([`LogOptions::spare_bytes`](super::LogOptions::spare_bytes) bounds them).
    pub fn bytes(&self) -> u64 {
        self.shared.state().bytes()
    }

    /// Bytes written behind entry `index`: what a start has to apply again at most if `index` is all that is durable.
    pub fn bytes_behind(&self, index: u64) -> u64 {
        self.shared.state().bytes_behind(index)
    }

    /// The last entry that has to go for the newest segments to take no more than `bytes` and be no more than `files`.
    /// The segment that is written to always stays. `None` when nothing has to go.
    pub fn surplus(&self, bytes: u64, files: usize) -> Option<u64> {
        self.shared.state().surplus(bytes, files)
    }

    /// Returns when the log begins its next segment.
    pub async fn grown(&self) {
        self.shared.grown().await;
    }
}
