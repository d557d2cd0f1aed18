//! Notes where entries land in their segment, sparsely, while they are written or read back in order.

use std::ops::Range;
use std::sync::Arc;

use super::segment::Segment;
use super::state::{Point, Step};

/// One place to start reading per this many bytes of log.
pub(super) const POINT_EVERY: u64 = 32 << 10;

/// Collects neighbouring entries of one segment into [`Step::Entries`].
#[derive(Debug, Default)]
pub(super) struct Placer {
    entries: Range<u64>,
    points: Vec<Point>,
    fresh: bool,
    /// Index that would continue the run; `None` when the next entry starts one.
    expected: Option<u64>,
    last_point: u64,
}

impl Placer {
    /// Entry `point.index` lies at `point`. Returns the step of the entries before it when it does not continue them.
    pub fn entry(&mut self, segment: &Arc<Segment>, point: Point) -> Option<Step> {
        let mut ended = None;
        if self.expected != Some(point.index) {
            ended = self.end_run(segment);
            self.fresh = true;
        }
        if self.entries.is_empty() {
            self.entries = point.index..point.index;
        }
        if self.expected.is_none() || point.offset >= self.last_point + POINT_EVERY {
            self.points.push(point);
            self.last_point = point.offset;
        }
        self.entries.end = point.index + 1;
        self.expected = Some(self.entries.end);
        ended
    }

    /// The step of the entries noted so far; the run goes on.
    pub fn take(&mut self, segment: &Arc<Segment>) -> Option<Step> {
        let entries = std::mem::take(&mut self.entries);
        let points = std::mem::take(&mut self.points);
        let fresh = std::mem::take(&mut self.fresh);
        (!entries.is_empty()).then(|| Step::Entries { segment: segment.clone(), entries, points, fresh })
    }

    /// As [`take`](Self::take), and the next entry starts a run: the segment ends, or the log was cut.
    pub fn end_run(&mut self, segment: &Arc<Segment>) -> Option<Step> {
        self.expected = None;
        self.take(segment)
    }

    /// How many entries wait to be taken.
    pub fn waiting(&self) -> u64 {
        self.entries.end - self.entries.start
    }
}
