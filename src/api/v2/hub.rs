//! Clients that wait for a v2 event, found by path without looking at every one of them.
//!
//! A waiter costs an entry in a map and one bounded queue; no task and no thread. A reader that falls a whole queue
//! behind is dropped, which ends its response: silence would look like "nothing happened".

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;

use crate::model::v2::types::Event;
use crate::store::{Batch, EventSink};

/// Events a waiting client may be behind; etcd's own number.
const QUEUE: usize = 100;

type WaiterId = u64;

/// Fans v2 events out to waiting clients.
#[derive(Default)]
pub struct Hub {
    waiters: Mutex<HashMap<Bytes, Vec<Entry>>>,
    next: AtomicU64,
    count: AtomicU64,
    expired: AtomicU64,
}

struct Entry {
    id: WaiterId,
    recursive: bool,
    events: mpsc::Sender<Arc<Event>>,
}

/// A place in the hub; dropping it gives it back.
pub(super) struct Waiter {
    hub: Arc<Hub>,
    id: WaiterId,
    path: Bytes,
    pub(super) events: mpsc::Receiver<Arc<Event>>,
}

impl Hub {
    /// Begins to collect events of `path`, or of everything below it too.
    pub(super) fn wait(self: &Arc<Self>, path: Bytes, recursive: bool) -> Waiter {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::channel(QUEUE);
        self.waiters.lock().entry(path.clone()).or_default().push(Entry { id, recursive, events: sender });
        self.count.fetch_add(1, Ordering::Relaxed);
        Waiter { hub: self.clone(), id, path, events }
    }

    /// Clients that wait at the moment.
    pub fn waiting(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Nodes that expired since this member started.
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    fn tell(&self, event: &Arc<Event>) {
        if event.action == "expire" {
            self.expired.fetch_add(1, Ordering::Relaxed);
        }
        let Some(node) = &event.node else { return };
        if event.refresh {
            return;
        }
        let mut waiters = self.waiters.lock();
        for path in ancestors(&node.key).chain(event.removed.iter().map(AsRef::as_ref)) {
            if let Some(entries) = waiters.get_mut(path) {
                // A full queue or a gone reader: drop our end, the reader sees the end of its response.
                entries.retain(|entry| {
                    !concerns(event, path, entry.recursive) || entry.events.try_send(event.clone()).is_ok()
                });
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiters = self.hub.waiters.lock();
        if let Some(entries) = waiters.get_mut(&self.path) {
            entries.retain(|entry| entry.id != self.id);
            if entries.is_empty() {
                waiters.remove(&self.path);
            }
        }
        self.hub.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EventSink for Hub {
    fn publish(&self, batch: Arc<Batch>) {
        for bytes in &batch.v2_events {
            match Event::decode(bytes.as_ref().clone()) {
                Ok(event) => self.tell(&Arc::new(event)),
                Err(error) => tracing::error!(%error, "a v2 event of this member does not decode"),
            }
        }
    }

    fn reset(&self, _revision: i64, _compacted: i64) {
        // What happened in between is in the window of the new state: ended responses make clients ask again.
        self.waiters.lock().values_mut().for_each(Vec::clear);
    }
}

/// Whether a client that watches `watched` is to see the event (reference: etcd-v2 §5).
pub(super) fn concerns(event: &Event, watched: &[u8], recursive: bool) -> bool {
    let Some(node) = &event.node else { return false };
    if node.key == watched {
        return true;
    }
    if let Some(below) = below(&node.key, watched) {
        return recursive && !below.split(|&byte| byte == b'/').any(|part| part.starts_with(b"_"));
    }
    // Something above the watched path went away, and the watched path with it.
    matches!(event.action.as_str(), "delete" | "expire") && node.dir && below(watched, &node.key).is_some()
}

/// `path` relative to `parent` when it is below it.
fn below<'p>(path: &'p [u8], parent: &[u8]) -> Option<&'p [u8]> {
    if parent == b"/" {
        return path.strip_prefix(b"/").filter(|rest| !rest.is_empty());
    }
    path.strip_prefix(parent)?.strip_prefix(b"/")
}

/// The path and every directory above it.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|&(at, &byte)| byte == b'/' && at > 0).map(|(at, _)| at);
    let parents = ends.map(move |end| &path[..end]);
    let own = (path != b"/").then_some(path);
    std::iter::once(&b"/"[..]).chain(parents).chain(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::v2::types::Node;

    fn event(action: &str, key: &str, dir: bool) -> Event {
        Event {
            action: action.to_owned(),
            node: Some(Node { key: key.to_owned().into(), dir, modified: 9, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_plain_watch_sees_its_own_path_only() {
        assert!(concerns(&event("set", "/a/b", false), b"/a/b", false));
        assert!(!concerns(&event("set", "/a/b/c", false), b"/a/b", false));
        assert!(!concerns(&event("set", "/a/bc", false), b"/a/b", true));
        assert!(concerns(&event("set", "/a/b/c", false), b"/a", true));
        assert!(concerns(&event("set", "/a", false), b"/", true));
    }

    #[test]
    fn hidden_parts_below_the_watched_path_stay_hidden() {
        assert!(!concerns(&event("set", "/a/_h/c", false), b"/a", true));
        assert!(concerns(&event("set", "/a/_h/c", false), b"/a/_h", true));
        assert!(concerns(&event("set", "/a/_h", false), b"/a/_h", false));
    }

    #[test]
    fn the_end_of_a_directory_reaches_watchers_below_it_by_path_component() {
        assert!(concerns(&event("delete", "/y", true), b"/y/deep/er", false));
        assert!(!concerns(&event("delete", "/y", true), b"/yfoo", false));
        assert!(!concerns(&event("set", "/y", true), b"/y/z", false));
    }

    #[test]
    fn a_waiter_gets_matching_events_and_leaves_nothing_behind() {
        let hub = Arc::new(Hub::default());
        let mut waiter = hub.wait("/a".into(), true);
        let mut other = hub.wait("/b".into(), true);
        hub.tell(&Arc::new(event("set", "/a/x", false)));
        assert_eq!(
            waiter.events.try_recv().expect("an event").node.as_ref().map(|node| node.key.clone()),
            Some("/a/x".into())
        );
        assert!(other.events.try_recv().is_err());
        assert_eq!(hub.waiting(), 2);
        drop((waiter, other));
        assert_eq!(hub.waiting(), 0);
        assert!(hub.waiters.lock().is_empty());
    }

    #[test]
    fn a_reader_too_far_behind_sees_the_end_and_not_a_gap() {
        let hub = Arc::new(Hub::default());
        let mut waiter = hub.wait("/a".into(), false);
        for _ in 0..=QUEUE {
            hub.tell(&Arc::new(event("set", "/a", false)));
        }
        let mut got = 0;
        while waiter.events.try_recv().is_ok() {
            got += 1;
        }
        assert_eq!(got, QUEUE);
        assert!(waiter.events.is_closed());
    }

    #[test]
    fn a_deleted_directory_wakes_watchers_of_what_it_held() {
        let hub = Arc::new(Hub::default());
        let mut held = hub.wait("/d/x".into(), false);
        let mut never = hub.wait("/d/never".into(), false);
        hub.tell(&Arc::new(Event { removed: vec!["/d/x".into()], ..event("delete", "/d", true) }));
        assert!(held.events.try_recv().is_ok());
        assert!(never.events.try_recv().is_err());
    }
}
