//! What the log knows in memory: its bounds, the newest entries, and where the older ones lie on disk.
//!
//! Holds true: entries `first..next` are present, without a hole; the ring holds the newest of them, and never lets go of
//! one that is not on disk yet; runs cover everything that is on disk and present. The log's bounds move when a call is
//! made, the runs move when its write is on disk ([`State::settle`]), in the same order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::LogError;
use super::placer::POINT_EVERY;
use super::record::{Layout, RunPlace};
use super::segment::Segment;
use crate::raft::types::{Entry, LogId, Payload, Proposal, Vote};

/// What an entry costs in the ring beyond its payload, bytes.
const ENTRY_COST: usize = 96;
/// What a member of a membership entry costs, bytes: two URLs and a name.
const MEMBER_COST: usize = 512;

/// A place where reading may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// Index of the entry there.
    pub index: u64,
    /// Offset of its record in the segment.
    pub offset: u64,
    /// The chain before its record.
    pub chain: u32,
}

/// Entries that follow each other in one segment.
#[derive(Debug)]
struct Run {
    segment: Arc<Segment>,
    entries: Range<u64>,
    /// Ascending; the first is the first entry ever written in this run.
    points: Vec<Point>,
}

/// Something that reached the disk.
#[derive(Debug)]
pub(super) enum Step {
    /// Entries of one segment, with places to start reading at. `fresh`: something other than entries' direct
    /// predecessors lies before them, so they start a run; their first point is then their first entry.
    Entries { segment: Arc<Segment>, entries: Range<u64>, points: Vec<Point>, fresh: bool },
    /// Entries from this index on are gone.
    Truncated(u64),
    /// Entries before this index are gone.
    Purged(u64),
}

/// A stretch of entries to be read from disk.
#[derive(Debug)]
pub(super) struct Stretch {
    pub segment: Arc<Segment>,
    pub start: Point,
    pub entries: Range<u64>,
}

/// The answer to a read: first what lies on disk, then what was in memory.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub disk: Vec<Stretch>,
    pub memory: Vec<Entry>,
}

/// How much the ring may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct RingLimits {
    pub bytes: usize,
    pub entries: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct State {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    purged: Option<LogId>,
    /// The last entry, or the last purged one when there is none.
    last: Option<LogId>,
    first: u64,
    next: u64,
    ring: VecDeque<Entry>,
    ring_bytes: usize,
    limits: RingLimits,
    /// Entries before this are on disk.
    settled: u64,
    runs: VecDeque<Run>,
    segments: VecDeque<Arc<Segment>>,
}

impl State {
    pub fn new(limits: RingLimits) -> Self {
        Self {
            vote: None,
            committed: None,
            purged: None,
            last: None,
            first: 0,
            next: 0,
            ring: VecDeque::new(),
            ring_bytes: 0,
            limits,
            settled: 0,
            runs: VecDeque::new(),
            segments: VecDeque::new(),
        }
    }

    /// The last purged entry and the last entry of the log.
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        (self.purged, self.last)
    }

    /// Indices of the entries that are present.
    pub fn present(&self) -> Range<u64> {
        self.first..self.next
    }

    /// Adds `entry` behind the last. Its payload is copied to its exact size: a slice of a network buffer would keep the
    /// whole buffer alive for as long as the ring holds the entry.
    ///
    /// # Errors
    /// It does not follow the last entry; nothing is changed.
    pub fn push(&mut self, mut entry: Entry) -> Result<Entry, LogError> {
        let id = entry.log_id;
        let starts = self.first == self.next && self.purged.is_none();
        if (!starts && id.index != self.next) || self.last.is_some_and(|last| id.leader_id < last.leader_id) {
            return Err(LogError::Gap {
                entry: id.to_string(),
                last: self.last.map_or("none".into(), |id| id.to_string()),
            });
        }
        if let Payload::Normal(Proposal(bytes)) = &mut entry.payload {
            *bytes = bytes::Bytes::copy_from_slice(bytes);
        }
        if starts {
            self.first = id.index;
            self.settled = id.index;
        }
        self.next = id.index + 1;
        self.last = Some(id);
        self.ring_bytes += cost(&entry);
        self.ring.push_back(entry.clone());
        Ok(entry)
    }

    /// Drops the entries after `after`; `None` drops all. A hint of what goes goes too.
    pub fn truncate(&mut self, after: Option<LogId>) {
        self.committed = kept_hint(self.committed, after);
        let next = after.map_or(0, |id| id.index + 1).clamp(self.first, self.next.max(self.first));
        if next == self.next {
            return;
        }
        while self.ring_first() < self.next && self.next > next {
            let dropped = self.ring.pop_back();
            self.ring_bytes -= dropped.as_ref().map_or(0, cost);
            self.next -= 1;
        }
        self.next = next;
        self.last = if next == self.first { self.purged } else { after };
    }

    /// Drops the entries up to and including `upto`, which may lie beyond the end: the log is then empty and goes on
    /// behind it. Returns whether that changes anything.
    pub fn purge(&mut self, upto: LogId) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return false;
        }
        self.purged = Some(upto);
        let first = upto.index + 1;
        while self.ring_first() < first.min(self.next) {
            let dropped = self.ring.pop_front();
            self.ring_bytes -= dropped.as_ref().map_or(0, cost);
        }
        self.first = self.first.max(first);
        if self.first >= self.next {
            self.next = self.first;
            self.last = Some(upto);
        }
        true
    }

    /// Takes note of what is on disk now. Returns the segments that nothing needs any more.
    pub fn settle(&mut self, step: Step) -> Vec<Arc<Segment>> {
        match step {
            Step::Entries { segment, entries, mut points, fresh } => {
                self.settled = entries.end;
                match self.runs.back_mut() {
                    Some(run) if !fresh => {
                        run.entries.end = entries.end;
                        run.points.append(&mut points);
                    }
                    _ => self.runs.push_back(Run { segment, entries, points }),
                }
                self.evict();
                Vec::new()
            }
            Step::Truncated(next) => {
                self.settled = self.settled.min(next);
                while self.runs.back().is_some_and(|run| run.entries.start >= next) {
                    self.runs.pop_back();
                }
                if let Some(run) = self.runs.back_mut() {
                    run.entries.end = run.entries.end.min(next);
                    run.points.retain(|point| point.index < next);
                }
                Vec::new()
            }
            Step::Purged(first) => {
                self.settled = self.settled.max(first);
                while self.runs.front().is_some_and(|run| run.entries.end <= first) {
                    self.runs.pop_front();
                }
                if let Some(run) = self.runs.front_mut() {
                    run.entries.start = run.entries.start.max(first);
                }
                self.release()
            }
        }
    }

    /// While the log is read back: what comes first of what is left is entry `index`, the last before it is `last`. What
    /// lay before it must turn out to be purged ([`missing`](Self::missing)).
    pub fn resume_at(&mut self, index: u64, last: Option<LogId>) {
        (self.first, self.next, self.settled) = (index, index, index);
        self.ring.clear();
        self.ring_bytes = 0;
        self.last = last;
    }

    /// Entries that are neither present nor purged, which no log that was only ever written by this program has.
    pub fn missing(&self, purged_something: bool) -> Range<u64> {
        match self.purged {
            Some(purged) => purged.index + 1..self.first,
            None if purged_something => 0..self.first,
            None => 0..0,
        }
    }

    /// While the log is read back: all entries are where `layout` says, in `segments`. Returns the runs whose segment is
    /// not among them.
    pub fn restore(&mut self, layout: &Layout, segments: &[Arc<Segment>]) -> Vec<RunPlace> {
        let behind = layout.last.map_or(0, |last| last.index + 1);
        let first = layout.runs.first().map_or(behind, |run| run.entries.start);
        self.resume_at(behind, layout.last);
        self.first = first;
        self.purged = layout.last.filter(|_| layout.runs.is_empty());
        let mut absent = Vec::new();
        for run in &layout.runs {
            match segments.iter().find(|segment| segment.seq == run.seq) {
                Some(segment) => self.runs.push_back(Run {
                    segment: segment.clone(),
                    entries: run.entries.clone(),
                    points: vec![run.start],
                }),
                None => absent.push(run.clone()),
            }
        }
        absent
    }

    /// Where the entries that are on disk lie.
    pub fn places(&self) -> Vec<RunPlace> {
        let place = |run: &Run| {
            let at = run.points.partition_point(|point| point.index <= run.entries.start);
            let start = at.checked_sub(1).and_then(|at| run.points.get(at)).copied()?;
            Some(RunPlace { seq: run.segment.seq, entries: run.entries.clone(), start })
        };
        self.runs.iter().filter_map(place).collect()
    }

    /// How many runs there are on disk.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// How many places are known to start reading at.
    #[cfg(test)]
    pub fn points(&self) -> usize {
        self.runs.iter().map(|run| run.points.len()).sum()
    }

    /// Remembers a place in segment `seq` where a reader came by, so that the next one need not come so far.
    pub fn note(&mut self, seq: u64, point: Point) {
        let at = self.runs.partition_point(|run| run.entries.end <= point.index);
        let Some(run) = self.runs.get_mut(at) else { return };
        let behind = run.points.partition_point(|known| known.index <= point.index);
        let is_far = |known: &Point| point.offset >= known.offset + POINT_EVERY;
        // A place from before the log was cut lies before all of the run that replaced it.
        let is_new = behind.checked_sub(1).and_then(|at| run.points.get(at)).is_some_and(is_far);
        let is_before_next = run.points.get(behind).is_none_or(|next| next.offset >= point.offset + POINT_EVERY);
        if run.segment.seq == seq && run.entries.contains(&point.index) && is_new && is_before_next {
            run.points.insert(behind, point);
        }
    }

    /// Bytes of the segments on disk, the zeros behind the last record included.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length()).sum()
    }

    /// Bytes written behind entry `index`.
    pub fn bytes_behind(&self, index: u64) -> u64 {
        let at = self.runs.partition_point(|run| run.entries.end <= index + 1);
        let Some(run) = self.runs.get(at) else { return 0 };
        let point = run.points.partition_point(|point| point.index <= index + 1);
        let from = point.checked_sub(1).and_then(|at| run.points.get(at)).map_or(0, |point| point.offset);
        let later = self.segments.iter().filter(|segment| segment.seq > run.segment.seq);
        run.segment.used().saturating_sub(from) + later.map(|segment| segment.used()).sum::<u64>()
    }

    /// The last entry that has to go for the newest segments to take no more than `bytes` and be no more than `files`; the
    /// one that is written to stays in any case. `None` when they do already.
    pub fn surplus(&self, bytes: u64, files: usize) -> Option<u64> {
        let mut sum = 0;
        let fits = |(at, segment): &(usize, &Arc<Segment>)| {
            sum += segment.length();
            *at == 0 || (sum <= bytes && *at < files)
        };
        let oldest = self.segments.iter().rev().enumerate().take_while(fits).last()?.1.seq;
        let gone = self.runs.iter().take_while(|run| run.segment.seq < oldest).last()?;
        Some(gone.entries.end - 1)
    }

    /// Whether the ring holds more than it may, which only entries that are not on disk yet excuse.
    pub fn ring_is_full(&self) -> bool {
        self.ring_bytes > self.limits.bytes || self.ring.len() > self.limits.entries
    }

    /// A new segment is being written to.
    pub fn add_segment(&mut self, segment: Arc<Segment>) {
        self.segments.push_back(segment);
    }

    /// Where entries `range` are, as far as they are present. Reads all of it, or from one source only up to `budget`
    /// bytes but at least one entry.
    ///
    /// # Errors
    /// The runs have a hole: a bug, never an answer.
    pub fn read(&self, range: Range<u64>, budget: Option<usize>) -> Result<Reading, LogError> {
        let mut reading = Reading::default();
        let range = range.start.max(self.first)..range.end.min(self.next);
        if range.is_empty() {
            return Ok(reading);
        }
        let ring_first = self.ring_first();
        let on_disk = range.start..range.end.min(ring_first);
        if !on_disk.is_empty() {
            reading.disk = self.stretches(&on_disk)?;
            if budget.is_some() {
                return Ok(reading);
            }
        }
        let mut left = budget.unwrap_or(usize::MAX);
        let skip = range.start.max(ring_first) - ring_first;
        for entry in self.ring.range(skip as usize..(range.end - ring_first.min(range.end)) as usize) {
            let cost = cost(entry);
            if cost > left && !reading.memory.is_empty() {
                break;
            }
            left = left.saturating_sub(cost);
            reading.memory.push(entry.clone());
        }
        Ok(reading)
    }

    fn stretches(&self, range: &Range<u64>) -> Result<Vec<Stretch>, LogError> {
        let mut stretches = Vec::new();
        let mut next = range.start;
        let from = self.runs.partition_point(|run| run.entries.end <= next);
        for run in self.runs.range(from..) {
            if next >= range.end {
                break;
            }
            let at = run.points.partition_point(|point| point.index <= next);
            let start = at.checked_sub(1).and_then(|at| run.points.get(at));
            let Some(start) = start.filter(|_| run.entries.contains(&next)) else { break };
            let entries = next..run.entries.end.min(range.end);
            next = entries.end;
            stretches.push(Stretch { segment: run.segment.clone(), start: *start, entries });
        }
        if next < range.end {
            return Err(LogError::Hole { index: next });
        }
        Ok(stretches)
    }

    fn evict(&mut self) {
        let mut first = self.ring_first();
        while self.ring_is_full() && first < self.settled {
            let dropped = self.ring.pop_front();
            self.ring_bytes -= dropped.as_ref().map_or(0, cost);
            first += 1;
        }
    }

    /// Whether a segment could go if the entries before `first` did.
    pub fn would_release(&self, first: u64) -> bool {
        let needed = self.runs.iter().find(|run| run.entries.end > first).map_or(u64::MAX, |run| run.segment.seq);
        self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.seq < needed)
    }

    fn release(&mut self) -> Vec<Arc<Segment>> {
        let needed = self.runs.front().map_or(u64::MAX, |run| run.segment.seq);
        let mut released = Vec::new();
        while self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.seq < needed) {
            released.extend(self.segments.pop_front());
        }
        released
    }

    fn ring_first(&self) -> u64 {
        self.next - self.ring.len() as u64
    }
}

/// The hint that is left of `hint` when everything behind `after` goes.
pub(super) fn kept_hint(hint: Option<LogId>, after: Option<LogId>) -> Option<LogId> {
    hint.filter(|hint| after.is_some_and(|after| hint.index <= after.index))
}

/// The later of two places in the log.
pub(super) fn later(one: Option<LogId>, other: Option<LogId>) -> Option<LogId> {
    [one, other].into_iter().flatten().max_by_key(|id| id.index)
}

/// What `entry` counts against the ring's limit and a read's budget, bytes.
pub(super) fn cost(entry: &Entry) -> usize {
    ENTRY_COST
        + match &entry.payload {
            Payload::Blank => 0,
            Payload::Normal(Proposal(bytes)) => bytes.len(),
            Payload::Membership(membership) => membership.nodes().count() * MEMBER_COST,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry { log_id: LogId::new_term_index(term, index), payload: Payload::Blank }
    }

    fn filled(range: Range<u64>) -> State {
        let mut state = State::new(RingLimits { bytes: usize::MAX, entries: 4 });
        for index in range {
            state.push(entry(1, index)).expect("follows");
        }
        state
    }

    #[test]
    fn an_entry_that_does_not_follow_is_refused_and_changes_nothing() {
        let mut state = filled(0..3);
        for (term, index) in [(1, 2), (1, 4), (0, 3)] {
            assert!(matches!(state.push(entry(term, index)), Err(LogError::Gap { .. })), "{term}-{index}");
        }
        assert_eq!(state.present(), 0..3);
        state.push(entry(2, 3)).expect("follows");
    }

    #[test]
    fn entries_that_are_not_on_disk_stay_in_the_ring_however_full_it_is() {
        let state = filled(0..100);
        let all = state.read(0..100, None).expect("reads");
        assert_eq!((all.memory.len(), all.disk.len()), (100, 0));
    }

    #[test]
    fn a_budget_never_starves_a_read() {
        let state = filled(0..10);
        assert_eq!(state.read(3..9, Some(1)).expect("reads").memory.len(), 1);
        assert_eq!(state.read(3..9, Some(2 * ENTRY_COST)).expect("reads").memory.len(), 2);
        assert_eq!(state.read(3..9, Some(usize::MAX)).expect("reads").memory.len(), 6);
    }

    #[test]
    fn purging_past_the_end_empties_the_log_and_it_goes_on_behind() {
        let mut state = filled(0..5);
        assert!(state.purge(LogId::new_term_index(3, 20)));
        assert!(!state.purge(LogId::new_term_index(1, 2)), "an older purge changes nothing");
        assert_eq!(state.present(), 21..21);
        assert!(state.push(entry(3, 20)).is_err());
        state.push(entry(3, 21)).expect("follows");
        assert_eq!(state.present(), 21..22);
    }

    #[test]
    fn truncating_keeps_the_named_entry_and_lets_the_log_go_on_from_it() {
        let mut state = filled(2..8);
        state.truncate(Some(LogId::new_term_index(1, 4)));
        assert_eq!(state.present(), 2..5);
        state.push(entry(2, 5)).expect("follows");
        state.truncate(Some(LogId::new_term_index(2, 9)));
        assert_eq!(state.present(), 2..6, "truncating behind the end changes nothing");
        state.truncate(None);
        assert_eq!(state.bounds(), (None, None));
        assert!(state.present().is_empty());
    }
}
