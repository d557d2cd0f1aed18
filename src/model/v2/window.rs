//! The byte limit of the event window. etcd limits only the number of events, and a thousand events can take gigabytes:
//! each holds the new value and the previous one.
//!
//! Small events are bounded by their number. The sizes of large events are kept in one row, which is written only when
//! there is a large event, so that small writes cost nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{LARGE_EVENTS_BYTES, layout, read};
use crate::model::view::{View, ViewError};

/// The first index of the window, and its large events.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Window {
    /// No event before this index is kept.
    from: u64,
    /// Index and bytes, ascending by index.
    large: Vec<(u64, u64)>,
}

impl Window {
    pub(super) fn decode(row: Option<Bytes>) -> Result<Self, ViewError> {
        let Some(mut row) = row else { return Ok(Self::default()) };
        if row.len() % 16 != 8 {
            return Err(ViewError { what: "the v2 window", cause: format!("{} bytes", row.len()) });
        }
        let from = row.get_u64();
        let mut large = Vec::with_capacity(row.len() / 16);
        while row.has_remaining() {
            large.push((row.get_u64(), row.get_u64()));
        }
        Ok(Self { from, large })
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(8 + 16 * self.large.len());
        row.put_u64(self.from);
        for (index, bytes) in &self.large {
            row.put_u64(*index);
            row.put_u64(*bytes);
        }
        row.freeze()
    }

    /// Adds large events of a keyspace that is now at `index`. Returns the indexes of the events to drop.
    pub(super) fn add(&mut self, events: impl IntoIterator<Item = (u64, u64)>, index: u64) -> std::ops::Range<u64> {
        let oldest = read::oldest_event(index);
        self.large.retain(|(at, _)| *at >= oldest);
        self.large.extend(events);
        let begin = self.from.max(oldest);
        let mut bytes: u64 = self.large.iter().map(|(_, bytes)| bytes).sum();
        let mut gone = 0;
        while bytes > LARGE_EVENTS_BYTES && gone + 1 < self.large.len() {
            bytes -= self.large[gone].1;
            self.from = self.large[gone].0 + 1;
            gone += 1;
        }
        self.large.drain(..gone);
        begin..self.from.max(begin)
    }
}

/// Oldest index that the window covers.
///
/// # Errors
/// The state cannot be read.
pub fn begins_at(view: &impl View) -> Result<u64, ViewError> {
    let window = Window::decode(view.v2_get(layout::WINDOW)?)?;
    Ok(window.from.max(read::oldest_event(read::index(view)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_decodes_as_it_was_encoded() {
        for window in [Window::default(), Window { from: 7, large: vec![(8, 9), (10, u64::MAX)] }] {
            assert_eq!(Window::decode(Some(window.encode())).expect("reads"), window);
        }
        assert!(Window::decode(Some(Bytes::from_static(b"123"))).is_err());
    }

    #[test]
    fn large_events_evict_all_older_events_and_the_newest_is_kept() {
        let mut window = Window::default();
        assert_eq!(window.add([(5, LARGE_EVENTS_BYTES / 2)], 5), 1..1);
        assert_eq!(window.add([(9, LARGE_EVENTS_BYTES / 2)], 9), 1..1);
        assert_eq!(window.add([(12, 20_000)], 12), 1..6, "the first large one and what came before it");
        assert_eq!(window.add([(13, 2 * LARGE_EVENTS_BYTES)], 13), 6..13);
        assert_eq!(window, Window { from: 13, large: vec![(13, 2 * LARGE_EVENTS_BYTES)] });
        assert_eq!(window.add([(2000, 20_000)], 2000), 1001..1001, "those that left by number count no more");
    }
}
