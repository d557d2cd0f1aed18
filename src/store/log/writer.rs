//! The log's thread: it drains the queue, writes everything in one piece, syncs once, and then tells everybody in order.
//!
//! Nothing is written before it is known where its blocks come from ([`Writer::find_blocks`]): from the file that is written
//! to, from a spare, or from the file system. While there are none the thread waits, and writes what frees some ahead of
//! what waits ([`super::overtake`]), into bytes at the end of each file that nothing else may use.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::LogError;
use super::mark::{Mark, Place};
use super::placer::Placer;
use super::prepare::Preparer;
use super::record::{self, Layout, Life, Record};
use super::recover::{Summary, Tail};
use super::segment::{HEADER, Header, Segment};
use super::state::{Point, Step, kept_hint, later};
use super::wal::{Item, Operation, Shared, Work};
use crate::raft::types::LogId;
use crate::store::error::say_unheard;
use crate::store::space::Part;
use crate::store::watermark::Watermark;

/// A sync that takes longer than this is worth a warning.
const SLOW_SYNC: Duration = Duration::from_secs(1);
/// Bytes behind the last record of a file that are its own already and only purges may use: a dozen of them.
const RESERVED: u64 = 1024;
/// No less than a purge and the mark before it take.
const PURGE_BYTES: u64 = 128;

/// Where the blocks of a write come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocks {
    /// The file that is written to has them, or the file system has.
    Tail,
    /// A new segment, with the blocks of a spare or of the file system.
    NextSegment,
    /// What is reserved for purges.
    Reserved,
}

/// Owned by the log's thread.
pub(super) struct Writer {
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
    /// Starts where recovery ended, `at` its tail.
    pub fn new(
        shared: Arc<Shared>,
        dir: &Path,
        (tail, summary): (Tail, Summary),
        (mark, watermark): (Mark, Watermark),
        preparer: Preparer,
    ) -> Result<Self, LogError> {
        let mut writer = Self {
            shared,
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
        writer.reserve()?;
        writer.mark()?;
        Ok(writer)
    }

    /// Gives the file that recovery ended in what is reserved, which it lacks when purges used it up in an earlier life, or
    /// when an older version wrote it. Without space for it the next purge needs a spare, or space.
    fn reserve(&mut self) -> Result<(), LogError> {
        let (start, end) = (self.tail.filled.max(self.tail.offset), self.tail.offset + RESERVED);
        if start < end && self.shared.options.space.has_room(Part::Log, RESERVED) {
            self.tail.segment.write(&[0; RESERVED as usize][..(end - start) as usize], start)?;
            self.tail.segment.sync()?;
            self.tail.filled = end;
        }
        Ok(())
    }

    /// Writes until the log is closed or fails.
    pub fn run(mut self) {
        // A log thread that is gone would leave every writer waiting for ever.
        let guard = AbortOnPanic;
        loop {
            let mut items = VecDeque::new();
            let written = match self.shared.next() {
                Work::Drain(drained, hint) => {
                    items = drained;
                    self.drain(&mut items, hint)
                }
                Work::Hint(hint) => self.write_hint(hint),
                Work::Stop => break,
            };
            match written {
                Ok(()) => {}
                Err(LogError::Full) => {
                    self.close(items);
                    break;
                }
                Err(error) => {
                    self.fail(&error, items);
                    break;
                }
            }
        }
        std::mem::forget(guard);
    }

    /// Writes and syncs `items` in one piece, once there are blocks for them, and tells who waits for them.
    fn drain(&mut self, items: &mut VecDeque<Item>, hint: Option<LogId>) -> Result<(), LogError> {
        let blocks = self.wait_for_blocks(items)?;
        let steps = self.write(items.iter().map(|item| &item.operation), hint, blocks)?;
        self.settle(steps);
        for item in items.drain(..) {
            self.advance(&item.operation);
            item.tell(Ok(()));
        }
        Ok(())
    }

    /// Returns where `items` can be written. Purges among them and behind them that free space are written meanwhile.
    fn wait_for_blocks(&mut self, items: &VecDeque<Item>) -> Result<Blocks, LogError> {
        let bytes = (items.iter().map(|item| item.bytes).sum::<usize>() + record::SUMMARY) as u64;
        if let Some(blocks) = self.find_blocks(bytes) {
            return Ok(blocks);
        }
        let space = self.shared.options.space.clone();
        let _waiting = space.start_waiting(Part::Log, bytes, "the raft log grows");
        let mut ends = false;
        loop {
            self.purge_ahead(items)?;
            if let Some(blocks) = self.find_blocks(bytes) {
                return Ok(blocks);
            }
            if ends {
                return Err(LogError::Full);
            }
            // One more look: a log that is closed with space at last writes what is queued.
            ends = self.shared.rest(space.look_every());
        }
    }

    /// Where there are blocks now for so many bytes of records. Leaves what is reserved alone.
    fn find_blocks(&self, bytes: u64) -> Option<Blocks> {
        let (space, end) = (&self.shared.options.space, self.tail.offset + bytes + RESERVED);
        let is_empty = self.tail.offset <= HEADER as u64;
        if is_empty || end <= self.tail.capacity {
            let lacking = end.saturating_sub(self.tail.filled);
            if lacking == 0 || space.has_room(Part::Log, lacking) {
                return Some(Blocks::Tail);
            }
        }
        if is_empty {
            return None;
        }
        let begin = HEADER + record::layout_size(self.shared.state().runs()) + record::SUMMARY;
        // A spare that was freed a moment ago may be all there is, although this file is not full.
        let lacking = (begin as u64 + bytes + RESERVED).saturating_sub(self.preparer.ready());
        (lacking == 0 || space.has_room(Part::Log, lacking)).then_some(Blocks::NextSegment)
    }

    /// Writes what purges in `items` or behind them say of entries on disk, if a file can go then, and lets it go.
    fn purge_ahead(&mut self, items: &VecDeque<Item>) -> Result<(), LogError> {
        let Some(upto) = self.summary.last.and_then(|last| self.shared.purgeable(items, last)) else { return Ok(()) };
        // What frees nothing must not use up what is reserved.
        if self.is_purged(upto) || !self.shared.state().would_release(upto.index + 1) {
            return Ok(());
        }
        let fits = self.tail.offset + PURGE_BYTES <= self.tail.filled;
        let blocks = if fits { Some(Blocks::Reserved) } else { self.find_blocks(PURGE_BYTES) };
        let Some(blocks) = blocks else { return Ok(()) };
        tracing::info!(upto = upto.index, "purging the raft log ahead of what waits for disk space");
        let steps = self.write([&Operation::Purge(upto)], None, blocks)?;
        self.settle(steps);
        Ok(())
    }

    /// Whether a purge up to `id` is on disk.
    fn is_purged(&self, id: LogId) -> bool {
        self.summary.purged.is_some_and(|purged| purged.index >= id.index)
    }

    /// Writes and syncs operations in one piece. Returns what is on disk now.
    fn write<'a>(
        &mut self,
        operations: impl IntoIterator<Item = &'a Operation>,
        hint: Option<LogId>,
        blocks: Blocks,
    ) -> Result<Vec<Step>, LogError> {
        self.buffer.clear();
        let mut steps = Vec::new();
        if blocks == Blocks::NextSegment {
            steps.extend(self.next_segment()?);
        }
        let start = self.tail.offset - self.buffer.len() as u64;
        let mark = Record::Mark { opening: self.opening, durable: self.synced };
        self.push(&mark);
        for operation in operations {
            self.encode(operation, &mut steps);
        }
        steps.extend(self.placer.take(&self.tail.segment));
        if let Some(hint) = kept_hint(hint, self.summary.last) {
            self.summary.committed = Some(hint);
            self.push(&Record::Committed(hint));
        }
        self.write_at(start, blocks)?;
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
            // It went ahead.
            Operation::Purge(id) if self.is_purged(*id) => {}
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

    /// Writes a hint, unless there is no room for it: the next one is as good.
    fn write_hint(&mut self, hint: LogId) -> Result<(), LogError> {
        self.summary.committed = Some(hint);
        let lacking = (self.tail.offset + record::SUMMARY as u64 + RESERVED).saturating_sub(self.tail.filled);
        if lacking > 0 && !self.shared.options.space.has_room(Part::Log, lacking) {
            return Ok(());
        }
        self.buffer.clear();
        let start = self.tail.offset;
        self.push(&Record::Committed(hint));
        self.write_at(start, Blocks::Tail)
    }

    /// Writes the buffer, for which there are blocks. A file that grows by it grows by what is reserved, too.
    fn write_at(&mut self, start: u64, blocks: Blocks) -> Result<(), LogError> {
        let end = start + self.buffer.len() as u64;
        if blocks != Blocks::Reserved && end + RESERVED > self.tail.filled {
            self.buffer.resize(self.buffer.len() + RESERVED as usize, 0);
            self.tail.filled = end + RESERVED;
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
        let runs = self.shared.state().places();
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
            let mut state = self.shared.state();
            for segment in self.opened.drain(..) {
                state.add_segment(segment);
            }
            for step in steps {
                released.extend(state.settle(step));
            }
        }
        if grown {
            self.shared.has_grown();
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
    fn close(&self, items: VecDeque<Item>) {
        tracing::warn!(
            "the raft log is closed while it waits for disk space; what it had not written was never acknowledged"
        );
        self.watermark.end();
        for item in items.into_iter().chain(self.shared.fail()) {
            item.tell(Err(io::Error::other(LogError::Full.to_string())));
        }
    }

    /// Says so once, fails everybody who waits, and ends the process. Nothing is tried again: after a failed sync the
    /// kernel may have dropped the data and would report success the next time.
    fn fail(&self, error: &LogError, items: VecDeque<Item>) {
        tracing::error!(target: "last_words", %error, "the raft log failed; this process stops now, before it acknowledges anything more");
        say_unheard("the raft log failed", error);
        let queued = self.shared.fail();
        for item in items.into_iter().chain(queued) {
            item.tell(Err(io::Error::other(error.to_string())));
        }
        (self.shared.options.on_failure)();
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}
