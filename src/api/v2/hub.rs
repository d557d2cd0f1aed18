//! Clients that wait for a v2 event, found by path without looking at every one of them.
//!
//! A waiter is an entry in a map and a list of indexes it has still to read, empty nearly always; no task, no thread and
//! no copy of any event. Events are read from the window when the client's connection can take them, each written as
//! JSON once however many wait for it. A client further behind than the window reaches is let go: its response ends,
//! because silence would look like "nothing happened".
//!
//! Invariant: a waiter is woken only for an event that it is then given.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use super::render;
use crate::model::v2;
use crate::model::v2::types::Event;
use crate::model::v2::watch::{Brief, ancestors};
use crate::model::view::{View, ViewError};
use crate::store::{Batch, EventSink, Moment};

/// Written events kept for those who were just woken, at most.
const LINES: usize = 64;
/// Their bytes, at most; the newest stays whatever its size.
pub const LINE_BYTES: usize = 4 << 20;

type WaiterId = u64;

/// What metrics and `/v2/stats/store` tell of waiting clients.
#[derive(Debug, Default)]
pub struct HubStats {
    /// Clients that wait at the moment.
    pub waiting: AtomicU64,
    /// Waits begun.
    pub begun: AtomicU64,
    /// Events put before a waiting client.
    pub woken: AtomicU64,
    /// Clients let go because they had fallen behind the window.
    pub dropped: AtomicU64,
    /// Nodes that expired since this member started.
    pub expired: AtomicU64,
}

/// Fans v2 events out to waiting clients.
#[derive(Default)]
pub struct Hub {
    inner: Mutex<Inner>,
    stats: Arc<HubStats>,
}

#[derive(Default)]
struct Inner {
    waiters: HashMap<Bytes, Vec<Entry>>,
    next: WaiterId,
    /// The window, read from the state when somebody first waits; `None` before, and after a snapshot.
    past: Option<VecDeque<Brief>>,
    lines: VecDeque<(u64, Bytes)>,
    line_bytes: usize,
    closed: bool,
}

struct Entry {
    id: WaiterId,
    recursive: bool,
    stream: bool,
    /// Events before this are not wanted.
    since: u64,
    place: Arc<Place>,
}

/// What a waiting client has still to read.
#[derive(Default)]
struct Place(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    indexes: VecDeque<u64>,
    ended: bool,
    waker: Option<Waker>,
}

impl Place {
    /// Puts an event before the client; `false` when it is too far behind to take it.
    fn offer(&self, index: u64) -> bool {
        let mut pending = self.0.lock();
        if pending.indexes.front().is_some_and(|&oldest| oldest < v2::oldest_event(index)) {
            drop(pending);
            self.end();
            return false;
        }
        pending.indexes.push_back(index);
        let waker = pending.waker.take();
        drop(pending);
        waker.into_iter().for_each(Waker::wake);
        true
    }

    /// Nothing more will come.
    fn end(&self) {
        let mut pending = self.0.lock();
        pending.ended = true;
        let waker = pending.waker.take();
        drop(pending);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// What a client waits for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// Clean and absolute.
    pub(super) path: Bytes,
    /// Everything below it too.
    pub(super) recursive: bool,
    /// One event after another.
    pub(super) stream: bool,
    /// The first index that counts.
    pub(super) since: u64,
}

/// A client that waits; dropping it gives its place back.
pub(super) struct Waiter {
    hub: Arc<Hub>,
    id: WaiterId,
    path: Bytes,
    place: Arc<Place>,
}

impl Waiter {
    /// The index of the next event for this client; `None` at the end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        let mut pending = self.place.0.lock();
        if let Some(index) = pending.indexes.pop_front() {
            return Poll::Ready(Some(index));
        }
        if pending.ended {
            return Poll::Ready(None);
        }
        // What one burst of events needed is not kept for ever.
        pending.indexes.shrink_to_fit();
        pending.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        if let Some(entries) = inner.waiters.get_mut(&self.path) {
            entries.retain(|entry| entry.id != self.id);
            if entries.is_empty() {
                inner.waiters.remove(&self.path);
            }
        }
        drop(inner);
        self.hub.stats.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    /// A hub that counts in `stats`.
    pub fn new(stats: Arc<HubStats>) -> Self {
        Self { inner: Mutex::default(), stats }
    }

    /// Begins to wait. What the window holds of the wish comes first, what happens from now on after it, nothing twice.
    ///
    /// `view` takes a view of the state.
    ///
    /// # Errors
    /// The window cannot be read.
    pub(super) fn wait<V: View>(self: &Arc<Self>, wish: &Wish, view: impl FnOnce() -> V) -> Result<Waiter, ViewError> {
        let mut inner = self.inner.lock();
        let past = match &mut inner.past {
            Some(past) => past,
            // Taken under the lock, so that whatever was published before is in it.
            empty => empty.insert(v2::window(&view())?.into()),
        };
        let start = past.partition_point(|brief| brief.index < wish.since);
        let wanted = past.range(start..).filter(|brief| brief.concerns(&wish.path, wish.recursive));
        let limit = if wish.stream { usize::MAX } else { 1 };
        let indexes: VecDeque<u64> = wanted.map(|brief| brief.index).take(limit).collect();
        let newest = past.back().map_or(0, |brief| brief.index);
        let done = !wish.stream && !indexes.is_empty() || inner.closed;
        let pending = Pending { indexes, ended: done, waker: None };
        let place = Arc::new(Place(Mutex::new(pending)));
        inner.next += 1;
        let id = inner.next;
        if !done {
            inner.waiters.entry(wish.path.clone()).or_default().push(Entry {
                id,
                recursive: wish.recursive,
                stream: wish.stream,
                since: wish.since.max(newest + 1),
                place: place.clone(),
            });
        }
        drop(inner);
        self.stats.begun.fetch_add(1, Ordering::Relaxed);
        self.stats.waiting.fetch_add(1, Ordering::Relaxed);
        Ok(Waiter { hub: self.clone(), id, path: wish.path.clone(), place })
    }

    /// Ends all responses, now and from now on: this member stops.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.let_all_go();
    }

    /// The event of this index as a line of JSON; `None` when it has left the window.
    pub(super) fn line(&self, index: u64, view: impl FnOnce() -> Option<Event>) -> Option<Bytes> {
        let mut inner = self.inner.lock();
        if let Ok(at) = inner.lines.binary_search_by_key(&index, |(index, _)| *index) {
            return Some(inner.lines[at].1.clone());
        }
        drop(inner);
        let line = Bytes::from(render::event(&view()?, false));
        inner = self.inner.lock();
        inner.keep(index, line.clone());
        Some(line)
    }

    /// What metrics tell.
    pub fn stats(&self) -> &HubStats {
        &self.stats
    }

    fn tell(&self, event: &Event) {
        if event.action == "expire" {
            self.stats.expired.fetch_add(1, Ordering::Relaxed);
        }
        let Some(brief) = Brief::of(event) else { return };
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut woken = 0;
        if !inner.waiters.is_empty() {
            let removed = event.removed.iter().map(|path| (path.as_ref(), true));
            for (path, existed) in ancestors(&brief.key).map(|path| (path, false)).chain(removed) {
                let Some(entries) = inner.waiters.get_mut(path) else { continue };
                entries.retain(|entry| {
                    let wanted = entry.since <= brief.index && (existed || brief.concerns(path, entry.recursive));
                    if !wanted {
                        return true;
                    }
                    let taken = entry.place.offer(brief.index);
                    woken += u64::from(taken);
                    self.stats.dropped.fetch_add(u64::from(!taken), Ordering::Relaxed);
                    taken && entry.stream
                });
                if entries.is_empty() {
                    inner.waiters.remove(path);
                }
            }
        }
        self.stats.woken.fetch_add(woken, Ordering::Relaxed);
        if woken > 0 {
            inner.keep(brief.index, render::event(event, false).into());
        }
        if let Some(past) = &mut inner.past
            && past.back().is_none_or(|last| last.index < brief.index)
        {
            let oldest = v2::oldest_event(brief.index);
            past.push_back(brief);
            let gone = past.partition_point(|brief| brief.index < oldest);
            past.drain(..gone);
        }
    }
}

impl Inner {
    fn keep(&mut self, index: u64, line: Bytes) {
        let Err(place) = self.lines.binary_search_by_key(&index, |(index, _)| *index) else { return };
        self.line_bytes += line.len();
        self.lines.insert(place, (index, line));
        while self.lines.len() > LINES || (self.line_bytes > LINE_BYTES && self.lines.len() > 1) {
            let oldest = self.lines.pop_front();
            self.line_bytes -= oldest.map_or(0, |(_, line)| line.len());
        }
    }

    fn let_all_go(&mut self) {
        for entry in self.waiters.drain().flat_map(|(_, entries)| entries) {
            entry.place.end();
        }
    }
}

impl EventSink for Hub {
    /// Afterwards: a wait that begins earlier either finds an event in the window, which it reads under the lock, or is
    /// told of it here; it takes no index twice.
    fn show(&self, batch: &Arc<Batch>, moment: Moment<'_>) {
        moment.pass();
        for event in &batch.v2_events {
            self.tell(event);
        }
    }

    fn reset(&self, _revision: i64, _compacted: i64, moment: Moment<'_>) {
        moment.pass();
        // What happened in between is in the window of the new state: ended responses make clients ask again.
        let mut inner = self.inner.lock();
        inner.past = None;
        inner.lines.clear();
        inner.line_bytes = 0;
        inner.let_all_go();
    }
}

#[cfg(test)]
#[path = "hub_test.rs"]
mod tests;
