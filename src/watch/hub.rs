//! The one place that hears of committed events, and the marks it leaves for streams.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::index::Index;
use super::ring::{Ring, Shared};
use super::stream::WatchStream;
use crate::model::view::KeyRange;
use crate::store::{Batch, EventSink, Moment, Store};
use crate::work::{Budget, HISTORY_THREADS, Lane, Source, WATCH_BYTES};

/// Memory for the newest events, bytes.
pub const RING_BYTES: usize = 16 << 20;

/// Numbers of one stream within the hub.
pub(super) type StreamId = u64;

/// Fans committed events out to streams. Shared by all client connections of this member.
pub struct Hub {
    store: Store,
    state: Mutex<State>,
    stats: HubStats,
    progress_every: Duration,
    /// Turns at reading history.
    readers: Lane,
    /// Events that streams have looked up and not sent.
    memory: Budget,
}

/// Gauges for metrics.
#[derive(Debug, Default)]
pub struct HubStats {
    /// Open watch streams.
    pub streams: AtomicUsize,
    /// Watchers on them.
    pub watchers: AtomicUsize,
    /// Watchers that are reading history to catch up.
    pub slow_watchers: AtomicUsize,
    /// Events delivered.
    pub events: AtomicUsize,
}

/// What publishing and streams share. The lock is held for moments only, never across I/O.
pub(super) struct State {
    pub(super) ring: Ring,
    /// Current revision as far as published.
    pub(super) current: i64,
    pub(super) compacted: i64,
    index: Index<StreamId>,
    streams: HashMap<StreamId, Mark>,
    next_stream: StreamId,
}

/// What a stream has to look at.
struct Mark {
    /// First revision since the stream last looked that holds an event for it.
    dirty_from: Option<i64>,
    wake: Arc<Notify>,
}

/// What a stream takes from the hub when it looks.
pub(super) struct Look {
    /// First revision with something for the stream; `None` = nothing new.
    pub(super) dirty_from: Option<i64>,
    pub(super) current: i64,
}

impl Hub {
    /// A hub that serves watchers of `store`, telling those who asked of progress every `progress_every`. The caller
    /// subscribes it to the store before a stream is opened.
    pub fn new(store: Store, progress_every: Duration) -> Arc<Self> {
        Self::with_ring(store, progress_every, RING_BYTES)
    }

    pub(super) fn with_ring(store: Store, progress_every: Duration, ring_bytes: usize) -> Arc<Self> {
        let current = store.revision();
        let state = State {
            ring: Ring::new(ring_bytes, current),
            current,
            compacted: store.compacted(),
            index: Index::default(),
            streams: HashMap::new(),
            next_stream: 0,
        };
        Arc::new(Self {
            store,
            state: Mutex::new(state),
            stats: HubStats::default(),
            progress_every,
            readers: Lane::new(HISTORY_THREADS),
            memory: Budget::new(WATCH_BYTES),
        })
    }

    /// A new stream without watchers, for whoever `source` is. Dropping it frees everything it holds here.
    pub fn open_stream(self: &Arc<Self>, source: Source) -> WatchStream {
        let wake = Arc::new(Notify::new());
        let mut state = self.state.lock();
        let id = state.next_stream;
        state.next_stream += 1;
        state.streams.insert(id, Mark { dirty_from: None, wake: wake.clone() });
        drop(state);
        self.stats.streams.fetch_add(1, Ordering::Relaxed);
        WatchStream::new(self.clone(), id, wake, source)
    }

    /// Gauges for metrics.
    pub fn stats(&self) -> &HubStats {
        &self.stats
    }

    pub(super) fn progress_ticker(&self) -> Interval {
        let mut ticker = interval_at(Instant::now() + self.progress_every, self.progress_every);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticker
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn readers(&self) -> &Lane {
        &self.readers
    }

    pub(super) fn memory(&self) -> &Budget {
        &self.memory
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn close_stream(&self, id: StreamId, ranges: impl Iterator<Item = KeyRange>) {
        let mut state = self.state.lock();
        for range in ranges {
            state.index.remove(&range, id);
        }
        state.streams.remove(&id);
        self.stats.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    pub(super) fn register(&mut self, range: &KeyRange, stream: StreamId) {
        self.index.insert(range, stream);
    }

    pub(super) fn unregister(&mut self, range: &KeyRange, stream: StreamId) {
        self.index.remove(range, stream);
    }

    /// Takes the stream's mark.
    pub(super) fn look(&mut self, stream: StreamId) -> Look {
        let dirty_from = self.streams.get_mut(&stream).and_then(|mark| mark.dirty_from.take());
        Look { dirty_from, current: self.current }
    }

    /// Marks a stream again for what it took but did not finish.
    pub(super) fn put_back(&mut self, stream: StreamId, from: i64) {
        if let Some(mark) = self.streams.get_mut(&stream) {
            mark.dirty_from = Some(from);
        }
    }

    fn take_in(&mut self, batch: &Batch) {
        for event in batch.events() {
            let shared = Arc::new(Shared::new(event.clone()));
            self.mark(&shared);
            self.ring.push(shared);
        }
    }

    fn mark(&mut self, event: &Shared) {
        let (index, streams) = (&self.index, &mut self.streams);
        index.matches(event.key(), |stream| {
            if let Some(mark) = streams.get_mut(&stream)
                && mark.dirty_from.is_none()
            {
                mark.dirty_from = Some(event.revision());
                mark.wake.notify_one();
            }
        });
    }

    /// Everything up to `revision` happened unseen: every stream reads it from history.
    fn go_on_from(&mut self, revision: i64, compacted: i64) {
        let unseen = self.current + 1;
        self.ring = self.ring.emptied(revision);
        self.current = revision;
        self.compacted = compacted;
        for mark in self.streams.values_mut() {
            mark.dirty_from = Some(mark.dirty_from.map_or(unseen, |from| from.min(unseen)));
        }
        self.wake_all();
    }

    fn wake_all(&self) {
        for mark in self.streams.values() {
            mark.wake.notify_one();
        }
    }
}

impl EventSink for Hub {
    fn subscribed(&self, revision: i64, compacted: i64) {
        // What was applied between the making of this hub and now was not heard here.
        self.state.lock().go_on_from(revision, compacted);
    }

    fn publish(&self, batch: &Arc<Batch>) {
        // Encoded before the lock is taken that reading streams need, if anybody watches.
        if !self.state.lock().streams.is_empty() {
            batch.events();
        }
    }

    fn show(&self, batch: &Arc<Batch>, moment: Moment<'_>) {
        let mut state = self.state.lock();
        if state.streams.is_empty() {
            // Nothing is encoded for nobody. Whoever comes and asks for these reads them from history.
            state.ring.skip_to(batch.last);
        } else {
            state.take_in(batch);
        }
        // Streams wait for the lock: they deliver nothing that cannot be read, and begin nowhere behind what was read.
        moment.pass();
        state.current = state.current.max(batch.last);
        if let Some(compacted) = batch.compacted {
            state.compacted = compacted;
            state.wake_all();
        }
    }

    fn reset(&self, revision: i64, compacted: i64, moment: Moment<'_>) {
        let mut state = self.state.lock();
        moment.pass();
        state.go_on_from(revision, compacted);
    }
}
