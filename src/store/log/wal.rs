//! The log's thread: it drains the queue, writes everything in one piece, syncs once, and then tells everybody in order.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::mark::{Mark, Place};
use super::meter::LogMeter;
use super::placer::Placer;
use super::prepare::Preparer;
use super::record::{self, Layout, Life, Record};
use super::recover::{Recovered, Summary, Tail};
use super::segment::{HEADER, Header, Segment};
use super::state::{Point, State, Step, cost, kept_hint, later};
use super::{LogError, LogOptions};
use crate::raft::types::{Entry, LogId, Vote};
use crate::store::error::say_unheard;
use crate::store::space::Part;
use crate::store::watermark::Watermark;

/// Bytes that one write takes from the queue; a single larger item goes alone.
const DRAIN_BYTES: usize = 4 << 20;
/// A committed hint waits this long for a write to travel with, then goes alone and unsynced: enough for a killed process
/// to find it again.
const HINT_DELAY: Duration = Duration::from_millis(20);
/// A sync that takes longer than this is worth a warning.
const SLOW_SYNC: Duration = Duration::from_secs(1);

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

struct Item {
    operation: Operation,
    bytes: usize,
    done: Option<Done>,
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

pub(super) struct Shared {
    state: Mutex<State>,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Told after each drain.
    space: Notify,
    /// Told when a segment was begun.
    grown: Notify,
    options: LogOptions,
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
        let Recovered { state, tail, summary, spares, released } = recovered;
        let preparer = Preparer::start(dir, &options, spares, released, mark.handle()?)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            queue: Mutex::default(),
            wake: Condvar::new(),
            space: Notify::new(),
            grown: Notify::new(),
            options,
        });
        let mut writer = Writer {
            shared: shared.clone(),
            dir: dir.to_path_buf(),
            synced: tail.offset,
            tail,
            opening: rand::random(),
            summary,
            placer: Placer::default(),
            buffer: BytesMut::new(),
            opened: Vec::new(),
            mark,
            preparer,
            watermark,
        };
        writer.mark()?;
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
            Self::Append(entries) => entries.iter().map(|entry| record::ENTRY_OVERHEAD + cost(entry)).sum(),
            Self::Vote(_) | Self::Purge(_) | Self::Truncate(..) => 64,
        }
    }
}

fn tell(done: Option<Done>, result: io::Result<()>) {
    if let Some(done) = done {
        done(result);
    }
}

enum Work {
    Drain(Vec<Item>, Option<LogId>),
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

    fn next(&self) -> Work {
        let mut queue = self.queue.lock();
        loop {
            if !queue.items.is_empty() {
                let items = queue.drain();
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
    fn drain(&mut self) -> Vec<Item> {
        let mut bytes = 0;
        let fits = |item: &&Item| {
            bytes += item.bytes;
            bytes <= DRAIN_BYTES
        };
        let count = self.items.iter().take_while(fits).count().max(1);
        let items: Vec<Item> = self.items.drain(..count).collect();
        self.bytes -= items.iter().map(|item| item.bytes).sum::<usize>();
        items
    }
}

/// Owned by the log's thread.
struct Writer {
    shared: Arc<Shared>,
    dir: PathBuf,
    tail: Tail,
    /// Offset in the tail's segment up to which it is on disk.
    synced: u64,
    /// Random per opening; see [`Record::Mark`].
    opening: u64,
    summary: Summary,
    placer: Placer,
    buffer: BytesMut,
    /// Segments begun since the last settling.
    opened: Vec<Arc<Segment>>,
    mark: Mark,
    preparer: Preparer,
    watermark: Watermark,
}

impl Writer {
    fn run(mut self) {
        // A log thread that is gone would leave every writer waiting for ever.
        let guard = AbortOnPanic;
        loop {
            match self.shared.next() {
                Work::Drain(mut items, hint) => match self.drain(&items, hint) {
                    Ok(steps) => {
                        self.settle(steps);
                        for item in &mut items {
                            self.advance(&item.operation);
                            tell(item.done.take(), Ok(()));
                        }
                    }
                    Err(LogError::Full) => {
                        self.close(items);
                        break;
                    }
                    Err(error) => {
                        self.fail(&error, items);
                        break;
                    }
                },
                Work::Hint(hint) => match self.write_hint(hint) {
                    Ok(()) => {}
                    Err(LogError::Full) => break,
                    Err(error) => {
                        self.fail(&error, Vec::new());
                        break;
                    }
                },
                Work::Stop => break,
            }
        }
        std::mem::forget(guard);
    }

    /// Writes and syncs `items` in one piece. Returns what is on disk now.
    fn drain(&mut self, items: &[Item], hint: Option<LogId>) -> Result<Vec<Step>, LogError> {
        self.buffer.clear();
        let size: usize = items.iter().map(|item| item.bytes).sum();
        let mut steps = Vec::new();
        if self.tail.offset + size as u64 > self.tail.capacity && self.tail.offset > HEADER as u64 {
            steps.extend(self.next_segment()?);
        }
        let start = self.tail.offset - self.buffer.len() as u64;
        let mark = Record::Mark { opening: self.opening, durable: self.synced };
        self.push(&mark);
        for item in items {
            self.encode(&item.operation, &mut steps);
        }
        steps.extend(self.placer.take(&self.tail.segment));
        if let Some(hint) = kept_hint(hint, self.summary.last) {
            self.summary.committed = Some(hint);
            self.push(&Record::Committed(hint));
        }
        self.write_at(start)?;
        let began = Instant::now();
        self.tail.segment.sync()?;
        self.observe(began.elapsed());
        self.synced = self.tail.offset;
        self.mark()?;
        Ok(steps)
    }

    fn encode(&mut self, operation: &Operation, steps: &mut Vec<Step>) {
        match operation {
            Operation::Append(entries) => {
                for entry in entries {
                    let point = Point { index: entry.log_id.index, offset: self.tail.offset, chain: self.tail.chain };
                    steps.extend(self.placer.entry(&self.tail.segment, point));
                    let before = self.buffer.len();
                    self.tail.chain = record::push_entry(&mut self.buffer, self.tail.chain, entry);
                    self.tail.offset += (self.buffer.len() - before) as u64;
                    self.summary.last = Some(entry.log_id);
                }
            }
            Operation::Vote(vote) => {
                self.summary.vote = Some(*vote);
                self.push(&Record::Vote(*vote));
            }
            Operation::Purge(id) => {
                self.summary.purged = Some(*id);
                self.summary.last = later(self.summary.last, Some(*id));
                steps.extend(self.placer.end_run(&self.tail.segment));
                self.push(&Record::Purged(*id));
                steps.push(Step::Purged(id.index + 1));
            }
            Operation::Truncate(after, next) => {
                steps.extend(self.placer.end_run(&self.tail.segment));
                self.push(&Record::Truncated(*after));
                self.summary.last = later(*after, self.summary.purged);
                self.summary.committed = kept_hint(self.summary.committed, *after);
                steps.push(Step::Truncated(*next));
            }
        }
    }

    /// Appends a record to the buffer; the tail moves along.
    fn push(&mut self, record: &Record) {
        let before = self.buffer.len();
        let life = Life { seq: self.tail.segment.seq, nonce: self.tail.nonce };
        self.tail.chain = record::push(&mut self.buffer, self.tail.chain, life, record);
        self.tail.offset += (self.buffer.len() - before) as u64;
    }

    fn write_hint(&mut self, hint: LogId) -> Result<(), LogError> {
        self.buffer.clear();
        let start = self.tail.offset;
        self.summary.committed = Some(hint);
        self.push(&Record::Committed(hint));
        self.write_at(start)
    }

    /// Writes the buffer, once the file's own blocks or the file system have room for it.
    fn write_at(&mut self, start: u64) -> Result<(), LogError> {
        let end = start + self.buffer.len() as u64;
        if end > self.tail.filled {
            let more = end - self.tail.filled;
            let stopped = || self.shared.queue.lock().stopped;
            if !self.shared.options.space.wait(Part::Log, more, "the raft log grows", stopped) {
                return Err(LogError::Full);
            }
            self.tail.filled = end;
        }
        self.tail.segment.write(&self.buffer, start)?;
        self.tail.segment.set_used(end);
        Ok(())
    }

    /// Goes on in a new segment: its header and the summary are put into the buffer.
    fn next_segment(&mut self) -> Result<Option<Step>, LogError> {
        let ended = self.placer.end_run(&self.tail.segment);
        if self.synced < self.tail.offset {
            // The new header names this end, so it must not be lost.
            self.tail.segment.sync()?;
        }
        let spare = self.preparer.take()?;
        let filled = spare.filled();
        let seq = self.tail.segment.seq + 1;
        let segment = Arc::new(Segment::adopt(&self.dir, spare, seq)?);
        let header =
            Header { seq, nonce: rand::random(), previous_end: self.tail.offset, previous_chain: self.tail.chain };
        let (bytes, chain) = header.encode();
        self.buffer.extend_from_slice(&bytes);
        let capacity = self.shared.options.segment_bytes;
        let nonce = header.nonce;
        self.tail = Tail { segment: segment.clone(), nonce, offset: HEADER as u64, chain, capacity, filled };
        self.synced = 0;
        self.opened.push(segment);
        let Summary { vote, purged, committed, last } = self.summary;
        // Everything before this write has settled, so the runs are what is on disk.
        let runs = self.shared.state.lock().places();
        self.push(&Record::Layout(Layout { last, runs }));
        let records = [vote.map(Record::Vote), purged.map(Record::Purged), committed.map(Record::Committed)];
        for record in records.iter().flatten() {
            self.push(record);
        }
        Ok(ended)
    }

    fn settle(&mut self, steps: Vec<Step>) {
        let mut released = Vec::new();
        let grown = !self.opened.is_empty();
        {
            let mut state = self.shared.state.lock();
            for segment in self.opened.drain(..) {
                state.add_segment(segment);
            }
            for step in steps {
                released.extend(state.settle(step));
            }
        }
        if grown {
            self.shared.grown.notify_waiters();
        }
        self.preparer.release(released);
        self.preparer.progress(self.tail.offset, self.tail.capacity);
    }

    fn advance(&self, operation: &Operation) {
        match operation {
            Operation::Append(entries) => {
                if let Some(last) = entries.last() {
                    self.watermark.advance(last.log_id.index);
                }
            }
            Operation::Purge(id) => self.watermark.advance(id.index),
            Operation::Truncate(_, next) => {
                self.watermark.truncate(next.saturating_sub(1));
            }
            Operation::Vote(_) => {}
        }
    }

    fn mark(&mut self) -> Result<(), LogError> {
        self.mark.write(Place { seq: self.tail.segment.seq, offset: self.synced })
    }

    fn observe(&self, took: Duration) {
        if let Some(observer) = &self.shared.options.on_sync {
            observer(took);
        }
        if took > SLOW_SYNC {
            tracing::warn!(took = ?took, expected = ?SLOW_SYNC, "slow fdatasync of the raft log: the disk is too slow or busy");
        }
    }

    /// Ends without having written `items` and what is queued: they were never acknowledged, and nobody waits any more.
    fn close(&self, items: Vec<Item>) {
        let queued = std::mem::take(&mut self.shared.queue.lock().items);
        for item in items.into_iter().chain(queued) {
            tell(item.done, Err(io::Error::other(LogError::Full.to_string())));
        }
    }

    /// Says so once, fails everybody who waits, and ends the process. Nothing is tried again: after a failed sync the
    /// kernel may have dropped the data and would report success the next time.
    fn fail(&self, error: &LogError, items: Vec<Item>) {
        tracing::error!(target: "last_words", %error, "the raft log failed; this process stops now, before it acknowledges anything more");
        say_unheard("the raft log failed", error);
        let queued = {
            let mut queue = self.shared.queue.lock();
            queue.failed = true;
            std::mem::take(&mut queue.items)
        };
        for item in items.into_iter().chain(queued) {
            tell(item.done, Err(io::Error::other(error.to_string())));
        }
        self.shared.space.notify_waiters();
        (self.shared.options.on_failure)();
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}
