//! Reading the log back at start, and telling a torn tail from lost data.
//!
//! The stream is read record by record until one does not parse. If that is at or behind the durable mark, what follows
//! was never acknowledged (a write that was under way): it is cut without a word to the operator. If something says that
//! more had been synced — the mark file, a later mark record in the same segment, or the header of the next segment — the
//! log lost data that this member has acknowledged, and the start is refused: a member that forgets what it voted or
//! stored can make the whole cluster lose it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::mark::Place;
use super::placer::Placer;
use super::record::{self, Record};
use super::segment::{self, HEADER, Header, Segment, Spare};
use super::state::{Point, RingLimits, State, Step};
use super::{LogError, LogOptions};
use crate::raft::types::{LogId, Vote};

/// Entries noted between two looks at the ring's limit.
const SETTLE_EVERY: u64 = 1024;

/// Where the stream goes on.
#[derive(Debug)]
pub(super) struct Tail {
    pub segment: Arc<Segment>,
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
    for (seq, path) in &listing.segments {
        replay.segment(*seq, path, mark)?;
    }
    for (_, path) in leftover {
        fs::remove_file(&path).map_err(|source| LogError::io("remove", &path, source))?;
    }
    let spares = listing.spares.into_iter().map(Spare::reuse).collect::<Result<_, _>>()?;
    let recovered = replay.finish(dir, options, spares)?;
    // Records that were written but not synced before a crash count as durable from here on.
    recovered.tail.segment.sync()?;
    segment::sync_directory(dir)?;
    Ok(recovered)
}

/// A crash while the log moved to a new segment can leave that file without a header. Nothing in it was acknowledged
/// unless the mark, or a mark record inside, says so.
fn drop_unused_last(segments: &mut Vec<(u64, PathBuf)>, mark: Option<Place>) -> Result<(), LogError> {
    let Some((seq, path)) = segments.last() else { return Ok(()) };
    let read = |source| LogError::io("read", path, source);
    let mut start = Vec::with_capacity(HEADER);
    fs::File::open(path).and_then(|file| file.take(HEADER as u64).read_to_end(&mut start)).map_err(read)?;
    if Header::decode(&start).is_some_and(|(header, _)| header.seq == *seq) {
        return Ok(());
    }
    let bytes = fs::read(path).map_err(read)?;
    if let Some(format) = Header::newer_format(&bytes) {
        let detail = format!("log format {format}");
        return Err(LogError::Newer { path: path.clone(), offset: 0, detail });
    }
    if mark.is_some_and(|mark| mark.seq >= *seq) || record::later_claim(&bytes, 0, *seq).is_some() {
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
    seen_entry: bool,
    /// The first segment read was not the first of the log.
    older_dropped: bool,
}

impl Replay {
    fn new(limits: RingLimits) -> Self {
        Self {
            state: State::new(limits),
            summary: Summary::default(),
            placer: Placer::default(),
            tail: None,
            released: Vec::new(),
            seen_entry: false,
            older_dropped: false,
        }
    }

    fn segment(&mut self, seq: u64, path: &Path, mark: Option<Place>) -> Result<(), LogError> {
        let bytes = Bytes::from(fs::read(path).map_err(|source| LogError::io("read", path, source))?);
        let segment = Arc::new(Segment::open(path.to_path_buf(), seq)?);
        let Some((header, mut chain)) = Header::decode(&bytes).filter(|(header, _)| header.seq == seq) else {
            return Err(damaged(path, 0, "its header is not sound although later segments exist".into()));
        };
        match &self.tail {
            None => self.older_dropped = header.previous_end != 0,
            Some(tail) if (tail.offset, tail.chain) != (header.previous_end, header.previous_chain) => {
                let detail = format!("its records end here, but {} of its bytes had been synced", header.previous_end);
                return Err(damaged(&tail.segment.path, tail.offset, detail));
            }
            Some(_) => {}
        }
        self.state.add_segment(segment.clone());
        let mut at = HEADER;
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
        if let Some(synced) = by_mark.or_else(|| record::later_claim(&bytes, at, seq)) {
            let detail = format!("the record here is not sound, but {synced} bytes of the file had been synced");
            return Err(damaged(path, at as u64, detail));
        }
        let cut = bytes[at..].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        tracing::debug!(segment = %path.display(), end = at, behind = cut, "read a segment of the raft log");
        self.tail =
            Some(Tail { segment, offset: at as u64, chain, capacity: bytes.len() as u64, filled: bytes.len() as u64 });
        Ok(())
    }

    fn record(&mut self, record: Record, segment: &Arc<Segment>, place: Point) -> Result<(), LogError> {
        match record {
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                if !self.seen_entry && self.older_dropped && index > self.state.present().end {
                    self.state.resume_at(index);
                }
                self.seen_entry = true;
                self.state.push(entry).map_err(|error| damaged(&segment.path, place.offset, error.to_string()))?;
                let ended = self.placer.entry(segment, Point { index, ..place });
                self.settle(ended);
                if self.placer.waiting() >= SETTLE_EVERY {
                    let step = self.placer.take(segment);
                    self.settle(step);
                }
            }
            Record::Vote(vote) => self.summary.vote = Some(vote),
            Record::Committed(id) => self.summary.committed = Some(id),
            Record::Purged(id) => {
                self.summary.purged = Some(id);
                let step = self.placer.end_run(segment);
                self.settle(step);
                self.state.purge(id);
                self.settle(Some(Step::Purged(id.index + 1)));
            }
            Record::Truncated(after) => {
                let step = self.placer.end_run(segment);
                self.settle(step);
                self.state.truncate(after);
                self.settle(Some(Step::Truncated(self.state.present().end)));
            }
            Record::Mark { .. } => {}
        }
        Ok(())
    }

    fn settle(&mut self, step: Option<Step>) {
        if let Some(step) = step {
            self.released.extend(self.state.settle(step));
        }
    }

    fn finish(mut self, dir: &Path, options: &LogOptions, mut spares: Vec<Spare>) -> Result<Recovered, LogError> {
        let missing = self.state.missing(self.older_dropped);
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
    Ok(Tail { segment: Arc::new(segment), offset: HEADER as u64, chain, capacity, filled })
}

fn damaged(path: &Path, offset: u64, detail: String) -> LogError {
    LogError::Damaged { path: path.to_path_buf(), offset, detail }
}
