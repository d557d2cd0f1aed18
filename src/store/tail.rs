//! The newest live versions and index rows, in memory above the families `latest` and `vidx`.
//!
//! Both families are derived from history: whoever has every history row above a revision can make them again. So apply
//! writes history (with everything else an entry does) into the engine and only notes the change here; a thread of its own
//! spills what gathered, sorted and in pieces, so a key that changed often is written once and an index row names many
//! revisions. The row [`meta::INDEXED`](super::keys::meta::INDEXED) says up to which revision both families are complete;
//! it goes with the last piece. Opening notes every later change again, from history.
//!
//! Two layers. Changes go into the young one. When it is full it becomes the old one, never to change again, and is
//! spilled. A spilled layer stays until the next one takes its place: apply asks for the versions of a moment ago.
//!
//! Holds true:
//! - A change is in history before it is noted here, and noted before its revision is published.
//! - A layer is dropped only after it is in the engine. Who looks here first and into the engine second misses nothing.
//! - Layers hold whole batches. All revisions of the old layer are below those of the young one, and above those that were
//!   spilled before.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use super::keys::Revision;
use crate::model::record::Record;
use crate::model::view::KeyRange;

/// What a key costs beside its own bytes and its record's: the tree's slot, two headers, the list of changes.
const KEY_COST: usize = 192;
/// What a change costs: its revision, in a list that grows by doubling.
const CHANGE_COST: usize = 24;
/// Keys taken from the layers under one lock.
const CHUNK: usize = 256;
/// While the old layer is still being spilled the young one may grow to this many times its size; then apply waits.
const PATIENCE: usize = 4;

/// When a layer is full. There are two, so memory is bounded by twice `bytes`, and [`PATIENCE`] more in a stall.
#[derive(Debug, Clone, Copy)]
pub struct TailLimits {
    /// Changes in it.
    pub changes: usize,
    /// Memory it takes, bytes.
    pub bytes: usize,
    /// Bytes of history rows that make it again: what opening may have to read.
    pub history: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Tail {
    limits: TailLimits,
    layers: ArcSwap<Layers>,
    /// The last revision before the young layer.
    young_after: AtomicI64,
    /// Held to note changes and to freeze: only then `layers` is replaced.
    writer: Mutex<()>,
    spilled: Condvar,
}

/// Both layers as they were at one moment. The young one may be written to, or have become the old one, since.
#[derive(Debug, Default)]
pub(super) struct Layers {
    young: Arc<Layer>,
    old: Option<Arc<Layer>>,
}

/// Changes that follow each other.
#[derive(Debug, Default)]
pub(super) struct Layer {
    rows: RwLock<Rows>,
    spilled: AtomicBool,
}

#[derive(Debug, Default)]
struct Rows {
    keys: BTreeMap<Bytes, Row>,
    /// The last revision noted.
    last: i64,
    changes: usize,
    bytes: usize,
    history: usize,
}

#[derive(Debug)]
struct Row {
    live: Option<Record>,
    /// Ascending, never empty.
    changes: Vec<Revision>,
}

/// One change to be noted.
pub(super) struct Noted<'a> {
    pub key: &'a [u8],
    pub revision: Revision,
    pub after: Option<&'a Record>,
    /// Length of its history row, bytes.
    pub history: usize,
}

/// What the layers know about a key as of a revision.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Known {
    /// Its version then; `None` = it did not exist.
    Is(Option<Record>),
    /// What it was before this change, the first one in the layers above that revision.
    Before(Revision),
}

impl Tail {
    pub fn new(limits: TailLimits) -> Self {
        Self {
            limits,
            layers: ArcSwap::default(),
            young_after: AtomicI64::new(i64::MAX),
            writer: Mutex::default(),
            spilled: Condvar::new(),
        }
    }

    /// Everything up to `revision` is in the families: what is noted from now on comes after it.
    pub fn begin(&self, revision: i64) {
        self.young_after.store(revision, Ordering::SeqCst);
    }

    /// The last revision before the young layer. A history row may point to rows after it: a freeze may put that row into
    /// the layer after them, never further.
    pub fn young_after(&self) -> i64 {
        self.young_after.load(Ordering::SeqCst)
    }

    /// Notes the changes of one batch. Returns whether there is a layer to spill now. Waits for the layer before it when
    /// the spill falls far behind.
    pub fn note<'a>(&self, changes: impl Iterator<Item = Noted<'a>>) -> bool {
        let mut writer = self.writer.lock();
        self.layers.load().young.rows.write().extend(changes);
        if !self.is_over(1) {
            return false;
        }
        while self.unspilled().is_some() && self.is_over(PATIENCE) {
            self.spilled.wait(&mut writer);
        }
        self.freeze_locked()
    }

    /// Notes changes while the state is being opened: without a spill to wait for.
    pub fn gather<'a>(&self, changes: impl Iterator<Item = Noted<'a>>) {
        self.layers.load().young.rows.write().extend(changes);
    }

    /// Lets the young layer be spilled as it is. Returns whether there is a layer to spill, this one or one before it.
    pub fn freeze(&self) -> bool {
        let _writer = self.writer.lock();
        self.freeze_locked() || self.unspilled().is_some()
    }

    fn freeze_locked(&self) -> bool {
        let layers = self.layers.load();
        if self.unspilled().is_some() || layers.young.is_empty() {
            return false;
        }
        self.young_after.store(layers.young.last(), Ordering::SeqCst);
        self.layers.store(Arc::new(Layers { young: Arc::default(), old: Some(Arc::clone(&layers.young)) }));
        true
    }

    fn is_over(&self, times: usize) -> bool {
        let layers = self.layers.load();
        let (rows, limits) = (layers.young.rows.read(), &self.limits);
        rows.changes >= limits.changes.saturating_mul(times)
            || rows.bytes >= limits.bytes.saturating_mul(times)
            || rows.history >= limits.history.saturating_mul(times)
    }

    /// The layer that waits for its spill.
    pub fn unspilled(&self) -> Option<Arc<Layer>> {
        self.layers.load().old.as_ref().filter(|old| !old.is_spilled()).map(Arc::clone)
    }

    /// All of `layer` is in the engine.
    pub fn settle(&self, layer: &Layer) {
        let _writer = self.writer.lock();
        layer.spilled.store(true, Ordering::SeqCst);
        self.spilled.notify_all();
    }

    /// What the layers know of `key` as of `at`.
    pub fn get(&self, key: &[u8], at: i64) -> Option<Known> {
        self.layers.load().get(key, at)
    }

    /// Walks what the layers know of the keys in `range` as of `at`. What is in the engine already may be left out.
    pub fn walk<'a>(&self, range: &'a KeyRange, at: i64) -> Pending<'a> {
        let layers = self.layers.load_full();
        let old = layers.old.as_ref().filter(|old| !old.is_spilled()).map(Arc::clone);
        Pending { young: Arc::clone(&layers.young), old, range, at, ahead: VecDeque::new(), ended: range.is_empty() }
    }
}

impl Layers {
    fn get(&self, key: &[u8], at: i64) -> Option<Known> {
        let young = self.young.rows.read().known(key, at);
        if matches!(young, Some(Known::Is(_))) {
            return young;
        }
        // A change that is too new for `at` in the old layer comes before any in the young one.
        let old = self.old.as_ref().and_then(|old| old.rows.read().known(key, at));
        match old {
            Some(Known::Before(_)) => old,
            _ => young.or(old),
        }
    }
}

impl Layer {
    /// Calls `visit` with each key, its live version and its changes, in key order.
    pub fn each<E>(
        &self,
        visit: &mut dyn FnMut(&[u8], Option<&Record>, &[Revision]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.rows.read().keys.iter().try_for_each(|(key, row)| visit(key, row.live.as_ref(), &row.changes))
    }

    /// The last revision in it.
    pub fn last(&self) -> i64 {
        self.rows.read().last
    }

    fn is_empty(&self) -> bool {
        self.rows.read().keys.is_empty()
    }

    fn is_spilled(&self) -> bool {
        self.spilled.load(Ordering::SeqCst)
    }
}

impl Rows {
    fn extend<'a>(&mut self, changes: impl Iterator<Item = Noted<'a>>) {
        for change in changes {
            self.note(&change);
        }
    }

    fn note(&mut self, change: &Noted<'_>) {
        let size = |record: Option<&Record>| record.map_or(0, |record| record.bytes().len());
        self.last = change.revision.0;
        self.changes += 1;
        self.history += change.history;
        self.bytes += CHANGE_COST + size(change.after);
        match self.keys.get_mut(change.key) {
            Some(row) => {
                self.bytes -= size(row.live.as_ref()).min(self.bytes);
                row.live = change.after.cloned();
                row.changes.push(change.revision);
            }
            None => {
                self.bytes += KEY_COST + change.key.len();
                // A slice would keep the whole entry it came with in memory.
                let key = Bytes::copy_from_slice(change.key);
                self.keys.insert(key, Row { live: change.after.cloned(), changes: vec![change.revision] });
            }
        }
    }

    fn known(&self, key: &[u8], at: i64) -> Option<Known> {
        self.keys.get(key).map(|row| row.known(at))
    }
}

impl Row {
    fn known(&self, at: i64) -> Known {
        let above = self.changes.partition_point(|(main, _)| *main <= at);
        match self.changes.get(above) {
            Some(change) => Known::Before(*change),
            None => Known::Is(self.live.clone()),
        }
    }
}

/// Keys of a range that changed lately, in order. Takes them from the layers piece by piece, so no lock is held between;
/// what is noted meanwhile is newer than the revision asked for, and answered as such.
pub(super) struct Pending<'a> {
    young: Arc<Layer>,
    old: Option<Arc<Layer>>,
    range: &'a KeyRange,
    at: i64,
    ahead: VecDeque<(Bytes, Known)>,
    ended: bool,
}

impl Pending<'_> {
    /// The key that [`next`](Self::next) returns.
    pub fn key(&mut self) -> Option<&[u8]> {
        if self.ahead.is_empty() && !self.ended {
            self.refill(None);
        }
        self.ahead.front().map(|(key, _)| key.as_ref())
    }

    /// The next key and what is known of it.
    pub fn next(&mut self) -> Option<(Bytes, Known)> {
        self.key()?;
        let next = self.ahead.pop_front();
        if let (Some((key, _)), true, false) = (&next, self.ahead.is_empty(), self.ended) {
            let key = key.clone();
            self.refill(Some(&key));
        }
        next
    }

    fn refill(&mut self, after: Option<&[u8]>) {
        let (from, to) = bounds(self.range);
        let range = (after.map_or(from, Bound::Excluded), to);
        let young = self.young.rows.read();
        let old = self.old.as_ref().map(|old| old.rows.read());
        let mut young = young.keys.range::<[u8], _>(range).peekable();
        let mut old = old.as_ref().map(|old| old.keys.range::<[u8], _>(range)).into_iter().flatten().peekable();
        while self.ahead.len() < CHUNK {
            let order = match (young.peek(), old.peek()) {
                (None, None) => {
                    self.ended = true;
                    return;
                }
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((young, _)), Some((old, _))) => young.cmp(old),
            };
            let old = if order.is_ge() { old.next() } else { None };
            let young = if order.is_le() { young.next() } else { None };
            let known = match (old.map(|(_, row)| row.known(self.at)), young.map(|(_, row)| row.known(self.at))) {
                (Some(known @ Known::Before(_)), _) | (_, Some(known)) | (Some(known), None) => known,
                (None, None) => return,
            };
            if let Some((key, _)) = young.or(old) {
                self.ahead.push_back((key.clone(), known));
            }
        }
    }
}

/// A range of keys as bounds of an ordered map. Must not be empty.
pub(super) fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    match range {
        KeyRange::One(key) => (Bound::Included(key), Bound::Included(key)),
        KeyRange::Span { start, end } => {
            (Bound::Included(start), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mvccpb::KeyValue;

    fn tail(changes: usize) -> Tail {
        Tail::new(TailLimits { changes, bytes: usize::MAX, history: usize::MAX })
    }

    fn record(revision: i64) -> Record {
        Record::new(&KeyValue { mod_revision: revision, ..Default::default() })
    }

    /// Writes (or, from a negative revision, deletes) a key.
    fn note(tail: &Tail, key: &str, revision: i64) -> bool {
        let after = (revision > 0).then(|| record(revision));
        let revision = (revision.abs(), 0);
        tail.note(std::iter::once(Noted { key: key.as_bytes(), revision, after: after.as_ref(), history: 1 }))
    }

    fn is(revision: i64) -> Option<Known> {
        Some(Known::Is(Some(record(revision))))
    }

    #[test]
    fn a_key_is_known_as_of_any_revision_across_the_layers() {
        let tail = tail(3);
        for revision in [2, 4, -6, 8] {
            note(&tail, "k", revision);
        }
        assert!(tail.unspilled().is_some_and(|old| old.last() == 6), "the fourth change is in a new layer");
        assert_eq!(tail.get(b"k", 9), is(8));
        assert_eq!(tail.get(b"k", 7), Some(Known::Before((8, 0))));
        assert_eq!(tail.get(b"k", 5), Some(Known::Before((6, 0))));
        assert_eq!(tail.get(b"k", 1), Some(Known::Before((2, 0))));
        assert_eq!(tail.get(b"other", 9), None);
        let quiet = super::Tail::new(tail.limits);
        note(&quiet, "k", 2);
        quiet.freeze();
        assert_eq!(quiet.get(b"k", 3), is(2), "the old layer answers what the young one does not know");
    }

    #[test]
    fn a_walk_merges_the_layers_in_key_order_across_its_pieces() {
        let tail = tail(usize::MAX);
        let name = |n: usize| format!("{n:05}");
        for n in (0..CHUNK * 3).filter(|n| n % 3 == 0) {
            note(&tail, &name(n), 2);
        }
        tail.freeze();
        for n in (0..CHUNK * 3).filter(|n| n % 2 == 0) {
            note(&tail, &name(n), 4);
        }
        let range = KeyRange::Span { start: name(1).into(), end: Some(name(CHUNK * 3 - 1).into()) };
        for (at, expected) in [(4, (is(4), is(2))), (3, (Some(Known::Before((4, 0))), is(2)))] {
            let mut walk = tail.walk(&range, at);
            for n in (1..CHUNK * 3 - 1).filter(|n| n % 2 == 0 || n % 3 == 0) {
                let (key, known) = walk.next().unwrap();
                assert_eq!(key, name(n));
                assert_eq!(Some(known), if n % 2 == 0 { expected.0.clone() } else { expected.1.clone() });
            }
            assert_eq!(walk.key(), None);
            assert_eq!(walk.next(), None);
        }
    }

    #[test]
    fn a_spilled_layer_answers_on_but_is_not_walked_and_goes_with_the_next() {
        let tail = tail(1);
        assert!(note(&tail, "a", 2));
        let old = tail.unspilled().unwrap();
        assert!(!note(&tail, "b", 3), "the layer before is not spilled yet");
        tail.settle(&old);
        let all = KeyRange::Span { start: Bytes::new(), end: None };
        assert_eq!(tail.walk(&all, 9).next().unwrap().0, "b");
        assert_eq!(tail.get(b"a", 9), is(2));
        assert!(note(&tail, "c", 4));
        assert_eq!(tail.get(b"a", 9), None);
        assert_eq!(tail.get(b"b", 9), is(3));
    }

    #[test]
    fn a_writer_that_runs_far_ahead_waits_for_the_spill() {
        let tail = Arc::new(tail(1));
        note(&tail, "a", 2);
        let old = tail.unspilled().unwrap();
        for revision in 3..2 + PATIENCE as i64 {
            note(&tail, "b", revision);
        }
        let waiting = std::thread::spawn({
            let tail = Arc::clone(&tail);
            move || note(&tail, "c", 100)
        });
        while tail.get(b"c", 100).is_none() {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        tail.settle(&old);
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn the_memory_that_is_counted_follows_what_is_held() {
        let tail = Tail::new(TailLimits { changes: usize::MAX, bytes: 100_000, history: usize::MAX });
        let big = Record::new(&KeyValue { value: vec![1; 10_000].into(), ..Default::default() });
        let mut full = false;
        for revision in 2..100 {
            let (key, revision) = (b"k".as_slice(), (revision, 0));
            full |= tail.note(std::iter::once(Noted { key, revision, after: Some(&big), history: 10_000 }));
        }
        assert!(!full, "one key that changes often holds one version");
        for n in 0u8..10 {
            let (key, revision) = ([n], (100 + i64::from(n), 0));
            full |= tail.note(std::iter::once(Noted { key: &key, revision, after: Some(&big), history: 10_000 }));
        }
        assert!(full);
    }
}
