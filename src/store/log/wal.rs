//! The log as its handles see it: what is submitted changes the log in memory and waits in one queue for the thread that
//! writes ([`super::writer`]).

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::mark::Mark;
use super::meter::LogMeter;
use super::overtake;
use super::prepare::Preparer;
use super::record;
use super::recover::Recovered;
use super::state::{State, cost, kept_hint};
use super::writer::Writer;
use super::{LogError, LogOptions};
use crate::raft::codec;
use crate::raft::types::{Entry, LogId, Payload, Vote};
use crate::store::watermark::Watermark;

/// Bytes that one write takes from the queue, and no more than half a segment: on a full disk one file that was freed must
/// do. A single larger item goes alone.
const DRAIN_BYTES: usize = 4 << 20;
/// A committed hint waits this long for a write to travel with, then goes alone and unsynced: enough for a killed process
/// to find it again.
const HINT_DELAY: Duration = Duration::from_millis(20);

/// Told once, when the operation is on disk or has failed.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Operation {
    Append(Vec<Entry>),
    Vote(Vote),
    Purge(LogId),
    /// The last id kept, and the index of the first entry that goes.
    Truncate(Option<LogId>, u64),
}

/// An operation that waits to be written.
pub(super) struct Item {
    pub operation: Operation,
    /// No less than it takes on disk.
    pub bytes: usize,
    pub done: Option<Done>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    hint: Option<LogId>,
    stopped: bool,
    failed: bool,
}

/// The log as its handles see it. Dropping the last handle writes what is queued and stops the thread.
pub(super) struct Wal {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the handles and the thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Told after each drain.
    space: Notify,
    /// Told when a segment was begun.
    grown: Notify,
    pub options: LogOptions,
}

impl Wal {
    /// Starts the log's threads where recovery ended.
    pub fn start(
        dir: &Path,
        options: LogOptions,
        recovered: Recovered,
        mark: Mark,
        watermark: Watermark,
    ) -> Result<Self, LogError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(recovered.state),
            queue: Mutex::default(),
            wake: Condvar::new(),
            space: Notify::new(),
            grown: Notify::new(),
            options,
        });
        let Recovered { tail, summary, spares, released, .. } = recovered;
        let preparer = Preparer::start(dir, &shared.options, spares, released, mark.handle()?)?;
        let writer = Writer::new(shared.clone(), dir, (tail, summary), (mark, watermark), preparer)?;
        let thread = std::thread::Builder::new()
            .name("log-write".into())
            .spawn(move || writer.run())
            .map_err(|source| LogError::io("start the thread that writes", dir, source))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The log in memory.
    pub fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// What tells how much the log keeps.
    pub fn meter(&self) -> LogMeter {
        LogMeter::new(self.shared.clone())
    }

    /// Sizes.
    pub fn options(&self) -> &LogOptions {
        &self.shared.options
    }

    /// Changes the log in memory and queues the write that follows from it, as one step. `done` is told once, whatever
    /// happens; when `change` refuses, at once.
    pub fn submit(
        &self,
        done: Option<Done>,
        change: impl FnOnce(&mut State) -> Result<Option<Operation>, LogError>,
    ) -> Result<(), LogError> {
        let mut state = self.shared.state.lock();
        let mut queue = self.shared.queue.lock();
        let changed = if queue.failed { Err(LogError::Failed) } else { change(&mut state) };
        match changed {
            Ok(Some(operation)) => {
                if let Operation::Truncate(after, _) = operation {
                    // A hint that has not been written yet must not name what comes in the place of what goes.
                    queue.hint = kept_hint(queue.hint, after);
                }
                let bytes = operation.size();
                queue.bytes += bytes;
                queue.items.push_back(Item { operation, bytes, done });
                if queue.items.len() == 1 {
                    self.shared.wake.notify_one();
                }
                Ok(())
            }
            Ok(None) => {
                drop((queue, state));
                tell(done, Ok(()));
                Ok(())
            }
            Err(error) => {
                drop((queue, state));
                tell(done, Err(io::Error::other(error.to_string())));
                Err(error)
            }
        }
    }

    /// Remembers a hint that is written with the next write, or alone after a moment; never synced on its own.
    pub fn hint(&self, committed: LogId) {
        self.shared.state.lock().committed = Some(committed);
        let mut queue = self.shared.queue.lock();
        let first = queue.hint.replace(committed).is_none();
        if first && queue.items.is_empty() {
            self.shared.wake.notify_one();
        }
    }

    /// Returns once the queue has room.
    pub async fn room(&self) {
        loop {
            let space = self.shared.space.notified();
            {
                let queue = self.shared.queue.lock();
                if queue.failed || queue.bytes < self.shared.options.queue_bytes {
                    return;
                }
            }
            space.await;
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.shared.queue.lock().stopped = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has already ended the process, or was reported by the test's hook.
            drop(thread.join());
        }
    }
}

impl Operation {
    fn size(&self) -> usize {
        match self {
            Self::Append(entries) => entries.iter().map(|entry| record::ENTRY_OVERHEAD + size_of(entry)).sum(),
            Self::Vote(_) | Self::Purge(_) | Self::Truncate(..) => 64,
        }
    }
}

/// No less than the payload of `entry` takes on disk.
fn size_of(entry: &Entry) -> usize {
    let Payload::Membership(_) = &entry.payload else { return cost(entry) };
    // What it costs in memory is an estimate, and the names in it have any length.
    let mut bytes = BytesMut::new();
    codec::encode_entry(&mut bytes, entry);
    bytes.len().max(cost(entry))
}

impl Item {
    /// Tells whoever waits how it ended.
    pub fn tell(self, result: io::Result<()>) {
        tell(self.done, result);
    }
}

fn tell(done: Option<Done>, result: io::Result<()>) {
    if let Some(done) = done {
        done(result);
    }
}

/// What the thread is to do next.
pub(super) enum Work {
    Drain(VecDeque<Item>, Option<LogId>),
    Hint(LogId),
    Stop,
}

impl Shared {
    /// The log in memory.
    pub fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns when the next segment was begun.
    pub async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Tells who waits for it that the next segment was begun.
    pub fn has_grown(&self) {
        self.grown.notify_waiters();
    }

    /// Up to where purges among `items`, which are being written, and in the queue may go ahead of what waits for space.
    /// `last` is the last entry on disk.
    pub fn purgeable(&self, items: &VecDeque<Item>, last: LogId) -> Option<LogId> {
        let queue = self.queue.lock();
        overtake::reach(items.iter().chain(&queue.items).map(|item| &item.operation), last)
    }

    /// Waits a moment, or less when the log is closed meanwhile. Whether it is, or the member stops.
    pub fn rest(&self, at_most: Duration) -> bool {
        let mut queue = self.queue.lock();
        if !queue.stopped {
            self.wake.wait_for(&mut queue, at_most);
        }
        queue.stopped || self.options.space.is_closed()
    }

    /// Accepts nothing more, and nobody waits for room any more. Returns what was queued.
    pub fn fail(&self) -> VecDeque<Item> {
        let mut queue = self.queue.lock();
        queue.failed = true;
        self.space.notify_waiters();
        std::mem::take(&mut queue.items)
    }

    /// Waits for what is to be done next.
    pub fn next(&self) -> Work {
        let mut queue = self.queue.lock();
        loop {
            if !queue.items.is_empty() {
                let items = queue.drain(DRAIN_BYTES.min(self.options.segment_bytes as usize / 2));
                self.space.notify_waiters();
                // A hint may only stand behind the entries it names, and some may still be queued.
                let hint = if queue.items.is_empty() { queue.hint.take() } else { None };
                return Work::Drain(items, hint);
            }
            let waited_out = match queue.hint {
                Some(_) if !queue.stopped => self.wake.wait_for(&mut queue, HINT_DELAY).timed_out(),
                Some(_) => true,
                None if queue.stopped => return Work::Stop,
                None => {
                    self.wake.wait(&mut queue);
                    false
                }
            };
            if waited_out
                && queue.items.is_empty()
                && let Some(hint) = queue.hint.take()
            {
                return Work::Hint(hint);
            }
        }
    }
}

impl Queue {
    fn drain(&mut self, most: usize) -> VecDeque<Item> {
        let mut bytes = 0;
        let fits = |item: &&Item| {
            bytes += item.bytes;
            bytes <= most
        };
        let count = self.items.iter().take_while(fits).count().max(1);
        let items: VecDeque<Item> = self.items.drain(..count).collect();
        self.bytes -= items.iter().map(|item| item.bytes).sum::<usize>();
        items
    }
}
