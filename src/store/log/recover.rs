//! Reading the log back at start, and telling a torn tail from lost data.
//!
//! The stream is read record by record until one does not parse. If that is at or behind the durable mark, what follows
//! was never acknowledged (a write that was under way): it is cut without a word to the operator. If something says that
//! more had been synced — the mark file, a later mark record in the same segment, or the header of the next segment — the
//! log lost data that this member has acknowledged, and the start is refused: a member that forgets what it voted or
//! stored can make the whole cluster lose it.
//!
//! Reading starts at the newest segment whose first record says where everything before it lies ([`Layout`]): of older
//! segments only the header and the length are looked at, and their records are checked when they are read. A log from
//! before there were layouts is read from its first segment on. What lay before that segment is then unknown, except
//! that in the end all of it must have been purged or cut away.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::mark::Place;
use super::placer::Placer;
use super::record::{self, Layout, Life, Record, RunPlace};
use super::segment::{self, HEADER, Header, Segment, Spare};
use super::state::{Point, RingLimits, State, Step, kept_hint, later};
use super::{LogError, LogOptions};
use crate::raft::types::{Entry, LogId, Vote};

/// Entries noted between two looks at the ring's limit.
const SETTLE_EVERY: u64 = 1024;

/// Where the stream goes on.
#[derive(Debug)]
pub(super) struct Tail {
    pub segment: Arc<Segment>,
    /// The random number of the segment's header.
    pub nonce: u64,
    pub offset: u64,
    pub chain: u32,
    /// The segment is closed before it grows beyond this.
    pub capacity: u64,
    /// Up to here the file's blocks are its own already: writing there needs no space.
    pub filled: u64,
}

/// What the stream has said so far; repeated at the start of each segment, so that older ones can go.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Summary {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    /// The last entry, or the last purged one when there is none.
    pub last: Option<LogId>,
}

/// A log read back.
#[derive(Debug)]
pub(super) struct Recovered {
    pub state: State,
    pub tail: Tail,
    pub summary: Summary,
    /// Files of earlier lives that can become segments.
    pub spares: Vec<Spare>,
    /// Segments that were no longer needed.
    pub released: Vec<Arc<Segment>>,
}

/// Reads the log in `dir`, whose mark file says `mark`; makes a new one if there is none.
pub(super) fn recover(dir: &Path, mark: Option<Place>, options: &LogOptions) -> Result<Recovered, LogError> {
    let mut listing = segment::list(dir)?;
    drop_unused_last(&mut listing.segments, mark)?;
    let start = first_of_unbroken(&listing.segments);
    let leftover = listing.segments.drain(..start).collect::<Vec<_>>();
    let highest = listing.segments.last().map(|(seq, _)| *seq);
    if let Some(place) = mark
        && highest.is_none_or(|highest| highest < place.seq)
    {
        let path = dir.join(segment::name(place.seq));
        return Err(damaged(&path, 0, format!("{} bytes of it had been synced, but the file is gone", place.offset)));
    }
    let limits = RingLimits { bytes: options.ring_bytes, entries: options.ring_entries };
    let mut replay = Replay::new(limits);
    let base = newest_layout(&listing.segments)?;
    for (at, (seq, path)) in listing.segments.iter().enumerate().take(base) {
        let next = &listing.segments[at + 1].1;
        replay.older.push(closed_segment(*seq, path, next)?);
    }
    for (seq, path) in &listing.segments[base..] {
        replay.segment(*seq, path, mark)?;
    }
    let spares = listing.spares.into_iter().map(Spare::reuse).collect::<Result<_, _>>()?;
    let recovered = replay.finish(dir, options, spares)?;
    // Only now: while something is missing, an operator may still find and bring back what explains them.
    for (_, path) in leftover {
        fs::remove_file(&path).map_err(|source| LogError::io("remove", &path, source))?;
    }
    // Records that were written but not synced before a crash count as durable from here on.
    recovered.tail.segment.sync()?;
    segment::sync_directory(dir)?;
    Ok(recovered)
}

/// Position of the newest segment that begins with a sound layout and all that was written with it; of the first when there
/// is none.
///
/// A segment's first write holds the layout, the vote and the purge, and a power cut can tear it anywhere. Unless all of
/// that is there, up to the mark behind it, it is read from the segment before.
fn newest_layout(segments: &[(u64, PathBuf)]) -> Result<usize, LogError> {
    for (at, (seq, path)) in segments.iter().enumerate().rev() {
        let start = Segment::start_of(path, HEADER + record::HEADER)?;
        let Some((header, chain)) = Header::decode(&start).filter(|(header, _)| header.seq == *seq) else { continue };
        let Some(size) = record::claimed_size(&start[HEADER..]) else { continue };
        let start = Bytes::from(Segment::start_of(path, HEADER + size + record::SUMMARY)?);
        if header.previous_end != 0 && begins_whole(&start, chain) {
            return Ok(at);
        }
    }
    Ok(0)
}

/// Whether these first bytes of a segment hold a layout and everything behind it up to the first mark.
fn begins_whole(start: &Bytes, mut chain: u32) -> bool {
    let (mut at, mut first) = (HEADER, true);
    while let Some(found) = record::parse(start, at, chain) {
        (at, chain) = (at + found.size, found.chain);
        match found.record() {
            Ok(Record::Layout(_)) if first => first = false,
            Ok(Record::Vote(_) | Record::Purged(_) | Record::Committed(_)) if !first => {}
            Ok(Record::Mark { .. }) => return !first,
            _ => return false,
        }
    }
    false
}

/// A segment of which the one behind it, `next`, says how far it goes. Whether its records are sound shows when they are
/// read.
fn closed_segment(seq: u64, path: &Path, next: &Path) -> Result<Arc<Segment>, LogError> {
    let header = |path: &Path| Ok(Header::decode(&Segment::start_of(path, HEADER)?).map(|(header, _)| header));
    let segment = Segment::open(path.to_path_buf(), seq)?;
    if header(path)?.is_none_or(|header: Header| header.seq != seq) {
        return Err(damaged(path, 0, "its header is not sound although later segments exist".into()));
    }
    let Some(behind) = header(next)? else {
        return Err(damaged(next, 0, "its header is not sound although later segments exist".into()));
    };
    if segment.length() < behind.previous_end {
        let detail = format!("the file ends here, but {} of its bytes had been synced", behind.previous_end);
        return Err(damaged(path, segment.length(), detail));
    }
    segment.set_used(behind.previous_end);
    Ok(Arc::new(segment))
}

/// A crash while the log moved to a new segment can leave that file without a header. Nothing in it was acknowledged
/// unless the mark, or a mark record inside, says so.
fn drop_unused_last(segments: &mut Vec<(u64, PathBuf)>, mark: Option<Place>) -> Result<(), LogError> {
    let Some((seq, path)) = segments.last() else { return Ok(()) };
    let read = |source| LogError::io("read", path, source);
    let start = Segment::start_of(path, HEADER)?;
    if Header::decode(&start).is_some_and(|(header, _)| header.seq == *seq) {
        return Ok(());
    }
    let bytes = fs::read(path).map_err(read)?;
    if let Some(format) = Header::newer_format(&bytes) {
        let detail = format!("log format {format}");
        return Err(LogError::Newer { path: path.clone(), offset: 0, detail });
    }
    if mark.is_some_and(|mark| mark.seq >= *seq)
        || record::later_claim(&bytes, 0, Life { seq: *seq, nonce: Header::claimed_nonce(&bytes) }).is_some()
    {
        return Err(damaged(path, 0, "its header is not sound although it had been synced".into()));
    }
    fs::remove_file(path).map_err(|source| LogError::io("remove", path, source))?;
    segments.pop();
    Ok(())
}

/// Segments are removed from the front. One that came back after a crash may stand before a gap: the log starts behind
/// the last gap, and [`Replay::finish`] checks that nothing is missing there.
fn first_of_unbroken(segments: &[(u64, PathBuf)]) -> usize {
    (1..segments.len()).rev().find(|&at| segments[at - 1].0 + 1 != segments[at].0).unwrap_or(0)
}

struct Replay {
    state: State,
    summary: Summary,
    placer: Placer,
    tail: Option<Tail>,
    released: Vec<Arc<Segment>>,
    /// Segments before the one that reading starts at.
    older: Vec<Arc<Segment>>,
    /// Runs that the layout names, in files that are gone.
    absent: Vec<RunPlace>,
    /// The first segment read was not the first of the log.
    older_dropped: bool,
    /// Whether the place of the next entry is known: not at first where older segments were dropped.
    anchored: bool,
}

impl Replay {
    fn new(limits: RingLimits) -> Self {
        Self {
            state: State::new(limits),
            summary: Summary::default(),
            placer: Placer::default(),
            tail: None,
            released: Vec::new(),
            older: Vec::new(),
            absent: Vec::new(),
            older_dropped: false,
            anchored: true,
        }
    }

    fn segment(&mut self, seq: u64, path: &Path, mark: Option<Place>) -> Result<(), LogError> {
        let bytes = Bytes::from(fs::read(path).map_err(|source| LogError::io("read", path, source))?);
        let segment = Arc::new(Segment::open(path.to_path_buf(), seq)?);
        let Some((header, mut chain)) = Header::decode(&bytes).filter(|(header, _)| header.seq == seq) else {
            return Err(damaged(path, 0, "its header is not sound although later segments exist".into()));
        };
        match &self.tail {
            None => {
                self.older_dropped = header.previous_end != 0;
                self.anchored = !self.older_dropped;
                for older in &self.older {
                    self.state.add_segment(older.clone());
                }
            }
            Some(tail) if (tail.offset, tail.chain) != (header.previous_end, header.previous_chain) => {
                let detail = format!("its records end here, but {} of its bytes had been synced", header.previous_end);
                return Err(damaged(&tail.segment.path, tail.offset, detail));
            }
            Some(_) => {}
        }
        self.state.add_segment(segment.clone());
        let (mut at, life) = (HEADER, Life { seq, nonce: header.nonce });
        while let Some(found) = record::parse(&bytes, at, chain) {
            let (size, after) = (found.size, found.chain);
            let place = Point { index: 0, offset: at as u64, chain };
            let record = found.record().map_err(|error| LogError::Newer {
                path: path.to_path_buf(),
                offset: at as u64,
                detail: error.to_string(),
            })?;
            self.record(record, &segment, place)?;
            at += size;
            chain = after;
        }
        let step = self.placer.end_run(&segment);
        self.settle(step);
        let by_mark = mark.filter(|mark| mark.seq == seq && mark.offset > at as u64).map(|mark| mark.offset);
        if let Some(synced) = by_mark.or_else(|| record::later_claim(&bytes, at, life)) {
            let detail = format!("the record here is not sound, but {synced} bytes of the file had been synced");
            return Err(damaged(path, at as u64, detail));
        }
        let cut = bytes[at..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        tracing::debug!(segment = %path.display(), end = at, behind = cut, "read a segment of the raft log");
        segment.set_used(at as u64);
        let length = bytes.len() as u64;
        let nonce = header.nonce;
        self.tail = Some(Tail { segment, nonce, offset: at as u64, chain, capacity: length, filled: length });
        Ok(())
    }

    fn record(&mut self, record: Record, segment: &Arc<Segment>, place: Point) -> Result<(), LogError> {
        match record {
            Record::Entry(entry) => self.entry(entry, segment, place)?,
            Record::Vote(vote) => self.summary.vote = Some(vote),
            Record::Committed(id) => self.summary.committed = Some(id),
            Record::Purged(id) => {
                self.summary.purged = Some(id);
                let step = self.placer.end_run(segment);
                self.settle(step);
                self.state.purge(id);
                self.absent.retain(|run| run.entries.end > id.index + 1);
                self.settle(Some(Step::Purged(id.index + 1)));
            }
            Record::Truncated(after) => {
                let step = self.placer.end_run(segment);
                self.settle(step);
                self.truncated(after);
            }
            Record::Layout(layout) => self.layout(&layout, place),
            Record::Mark { .. } => {}
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, segment: &Arc<Segment>, place: Point) -> Result<(), LogError> {
        let index = entry.log_id.index;
        if !self.anchored && index > self.state.present().end {
            self.state.resume_at(index, self.summary.purged);
        }
        self.anchored = true;
        self.state.push(entry).map_err(|error| damaged(&segment.path, place.offset, error.to_string()))?;
        let ended = self.placer.entry(segment, Point { index, ..place });
        self.settle(ended);
        if self.placer.waiting() >= SETTLE_EVERY || self.state.ring_is_full() {
            let step = self.placer.take(segment);
            self.settle(step);
        }
        Ok(())
    }

    /// A cut that reaches below everything that was read says where the log goes on: nothing of what was read is left.
    fn truncated(&mut self, after: Option<LogId>) {
        self.summary.committed = kept_hint(self.summary.committed, after);
        let last = later(after, self.summary.purged);
        let next = last.map_or(0, |last| last.index + 1);
        if !self.anchored || next < self.state.present().start {
            self.state.resume_at(next, last);
        } else {
            self.state.truncate(after);
        }
        self.anchored = true;
        self.absent.retain_mut(|run| {
            run.entries.end = run.entries.end.min(next);
            !run.entries.is_empty()
        });
        self.settle(Some(Step::Truncated(self.state.present().end)));
    }

    /// A layout counts only as the first record that is read: later on everything is known already.
    fn layout(&mut self, layout: &Layout, place: Point) {
        if self.tail.is_none() && place.offset == HEADER as u64 {
            self.absent = self.state.restore(layout, &self.older);
            self.anchored = true;
            self.older_dropped = false;
        }
    }

    fn settle(&mut self, step: Option<Step>) {
        if let Some(step) = step {
            self.released.extend(self.state.settle(step));
        }
    }

    fn finish(mut self, dir: &Path, options: &LogOptions, mut spares: Vec<Spare>) -> Result<Recovered, LogError> {
        let missing = match self.absent.first() {
            Some(run) => run.entries.clone(),
            None => self.state.missing(self.older_dropped),
        };
        if let Some(tail) = &self.tail
            && !missing.is_empty()
        {
            let detail =
                format!("entries {} to {} were in an earlier file that is gone", missing.start, missing.end - 1);
            return Err(damaged(&tail.segment.path, 0, detail));
        }
        let last = self.state.bounds().1;
        // The hint is never synced on its own and may name what a later cut took away.
        self.summary.committed =
            self.summary.committed.filter(|hint| last.is_some_and(|last| hint.index <= last.index));
        self.summary.last = last;
        self.state.vote = self.summary.vote;
        self.state.committed = self.summary.committed;
        let tail = match self.tail {
            Some(tail) => {
                Tail { capacity: tail.capacity.clamp(options.first_segment_bytes, options.segment_bytes), ..tail }
            }
            None => {
                let tail = first_segment(dir, options, spares.pop())?;
                self.state.add_segment(tail.segment.clone());
                tail
            }
        };
        Ok(Recovered { state: self.state, tail, summary: self.summary, spares, released: self.released })
    }
}

fn first_segment(dir: &Path, options: &LogOptions, spare: Option<Spare>) -> Result<Tail, LogError> {
    let mut spare = match spare {
        Some(spare) => spare,
        None => Spare::create(dir)?,
    };
    let zeros = vec![0; options.first_segment_bytes.saturating_sub(spare.filled()) as usize];
    spare.fill(&zeros).map_err(|source| LogError::io("fill the first segment in", dir, source))?;
    let filled = spare.filled();
    let segment = Segment::adopt(dir, spare, 1)?;
    let header = Header { seq: 1, nonce: rand::random(), previous_end: 0, previous_chain: 0 };
    let (bytes, chain) = header.encode();
    segment.write(&bytes, 0)?;
    segment.sync()?;
    let capacity = options.first_segment_bytes;
    segment.set_used(HEADER as u64);
    Ok(Tail { segment: Arc::new(segment), nonce: header.nonce, offset: HEADER as u64, chain, capacity, filled })
}

fn damaged(path: &Path, offset: u64, detail: String) -> LogError {
    LogError::Damaged { path: path.to_path_buf(), offset, detail }
}
