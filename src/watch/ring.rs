//! The newest events, kept in memory so that a watcher a little behind need not read the disk.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::store::{Event, EventKind};

/// Number of `prev_kv` in `mvccpb.Event`.
const PREV_KV_FIELD: u32 = 3;

/// An event, and its two encodings made at most once each.
#[derive(Debug)]
pub(super) struct Shared {
    event: Event,
    with_prev: OnceLock<Bytes>,
}

impl Shared {
    pub(super) fn new(event: Event) -> Self {
        Self { event, with_prev: OnceLock::new() }
    }

    pub(super) fn revision(&self) -> i64 {
        self.event.revision
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.event.key
    }

    pub(super) fn is_delete(&self) -> bool {
        matches!(self.event.kind, EventKind::Delete)
    }

    /// The encoded `mvccpb.Event`, with the version before it when the watcher asked for that.
    pub(super) fn encoded(&self, prev_kv: bool) -> Bytes {
        match &self.event.prev {
            Some(prev) if prev_kv => self.with_prev.get_or_init(|| join(&self.event.event, prev)).clone(),
            _ => self.event.event.clone(),
        }
    }

    /// Bytes this event holds in memory, roughly.
    pub(super) fn weight(&self) -> usize {
        const OVERHEAD: usize = 160;
        self.event.key.len() + self.event.event.len() + self.event.prev.as_ref().map_or(0, Bytes::len) + OVERHEAD
    }
}

/// Protobuf messages may be concatenated: the event's bytes, then its third field.
fn join(event: &Bytes, prev: &Bytes) -> Bytes {
    let mut joined = BytesMut::with_capacity(event.len() + prev.len() + 8);
    joined.put_slice(event);
    encode_key(PREV_KV_FIELD, WireType::LengthDelimited, &mut joined);
    encode_varint(prev.len() as u64, &mut joined);
    joined.put_slice(prev);
    joined.freeze()
}

/// A bounded run of whole revisions, newest at the back, without gaps.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Arc<Shared>>,
    weight: usize,
    capacity: usize,
    /// Every event of a revision >= `first` that the store ever had is in the ring.
    first: i64,
}

impl Ring {
    /// An empty ring of at most `capacity` bytes that begins after revision `current`.
    pub(super) fn new(capacity: usize, current: i64) -> Self {
        Self { events: VecDeque::new(), weight: 0, capacity, first: current + 1 }
    }

    /// A ring of the same size that begins after revision `current`.
    pub(super) fn emptied(&self, current: i64) -> Self {
        Self::new(self.capacity, current)
    }

    /// Forgets everything and goes on after revision `current`, unless it begins even later.
    pub(super) fn skip_to(&mut self, current: i64) {
        let first = self.first.max(current + 1);
        if self.events.is_empty() {
            self.first = first;
        } else {
            *self = self.emptied(first - 1);
        }
    }

    /// The oldest revision the ring can answer for.
    pub(super) fn first(&self) -> i64 {
        self.first
    }

    pub(super) fn push(&mut self, event: Arc<Shared>) {
        self.weight += event.weight();
        self.events.push_back(event);
        while self.weight > self.capacity && self.drop_oldest_revision() {}
    }

    /// Events of revisions >= `from`, oldest first. `from` must be >= `first()`.
    pub(super) fn since(&self, from: i64) -> impl Iterator<Item = &Arc<Shared>> {
        debug_assert!(from >= self.first, "the ring does not reach back to {from}");
        let start = self.events.partition_point(|event| event.revision() < from);
        self.events.range(start..)
    }

    /// Drops one whole revision, but never the newest: an event larger than the ring still reaches its watchers.
    fn drop_oldest_revision(&mut self) -> bool {
        let (Some(oldest), Some(newest)) = (self.events.front(), self.events.back()) else { return false };
        let oldest = oldest.revision();
        if oldest == newest.revision() {
            return false;
        }
        while let Some(event) = self.events.front()
            && event.revision() == oldest
        {
            self.weight -= event.weight();
            self.events.pop_front();
        }
        self.first = oldest + 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::mvccpb;

    fn event(revision: i64, size: usize) -> Arc<Shared> {
        let event = mvccpb::Event {
            r#type: 0,
            kv: Some(mvccpb::KeyValue { value: vec![7; size].into(), ..Default::default() }),
            prev_kv: None,
        };
        Arc::new(Shared::new(Event {
            revision,
            key: Bytes::from_static(b"k"),
            kind: EventKind::Put { create: false },
            event: event.encode_to_vec().into(),
            prev: Some(mvccpb::KeyValue { version: 4, ..Default::default() }.encode_to_vec().into()),
        }))
    }

    #[test]
    fn a_full_ring_forgets_whole_revisions_oldest_first() {
        let mut ring = Ring::new(4000, 1);
        assert_eq!(ring.first(), 2);
        for revision in 2..=5 {
            ring.push(event(revision, 400));
            ring.push(event(revision, 400));
        }
        assert!(ring.first() > 2);
        let kept: Vec<i64> = ring.since(ring.first()).map(|event| event.revision()).collect();
        assert_eq!(kept.first().copied(), Some(ring.first()));
        assert!(kept.chunks(2).all(|pair| pair[0] == pair[1]), "no revision is split: {kept:?}");
    }

    #[test]
    fn one_revision_larger_than_the_ring_is_kept() {
        let mut ring = Ring::new(100, 1);
        ring.push(event(2, 5000));
        assert_eq!(ring.since(2).count(), 1);
    }

    #[test]
    fn the_joined_encoding_decodes_with_its_previous_version() {
        let shared = event(2, 3);
        assert_eq!(mvccpb::Event::decode(shared.encoded(false)).expect("decodes").prev_kv, None);
        let joined = mvccpb::Event::decode(shared.encoded(true)).expect("decodes");
        assert_eq!(joined.prev_kv.map(|kv| kv.version), Some(4));
        assert_eq!(joined.kv.map(|kv| kv.value.len()), Some(3));
    }
}
