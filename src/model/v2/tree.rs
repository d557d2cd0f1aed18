//! The tree during one command: the stored nodes with the command's own writes on top.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;

use super::types::{Error, Event, Node, Stored, UnixNanos, code};
use super::window::Window;
use super::{FIRST_INDEX, LARGE_EVENT_BYTES, WINDOW, layout};
use crate::model::view::{View, ViewError};

/// Nanoseconds per second.
const SECOND: i64 = 1_000_000_000;

/// v2 writes in key order: `None` deletes.
pub(super) type Writes = Vec<(Bytes, Option<Bytes>)>;

pub(super) struct Tree<'v, V> {
    view: &'v V,
    writes: BTreeMap<Bytes, Option<Bytes>>,
    events: Vec<Event>,
    /// Index and bytes of events that are large.
    large: Vec<(u64, u64)>,
    index: u64,
}

impl<'v, V: View> Tree<'v, V> {
    pub(super) fn open(view: &'v V) -> Result<Self, ViewError> {
        Ok(Self { view, writes: BTreeMap::new(), events: Vec::new(), large: Vec::new(), index: stored_index(view)? })
    }

    /// The stored state, without this command's own writes.
    pub(super) fn view(&self) -> &'v V {
        self.view
    }

    /// Whether this row exists once the command is done.
    pub(super) fn has_row(&self, key: &[u8]) -> Result<bool, ViewError> {
        Ok(self.read(key)?.is_some())
    }

    /// Writes a row that is no node; `None` deletes it.
    pub(super) fn put_row(&mut self, key: Bytes, value: Option<Bytes>) {
        self.writes.insert(key, value);
    }

    /// Current index, including those taken by this command.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Discards the command's writes.
    pub(super) fn forget(&mut self) {
        // Refusals happen before the first index is taken, so there are only writes to discard.
        self.writes.clear();
        debug_assert!(self.events.is_empty(), "a refused command had already caused an event");
    }

    pub(super) fn into_changes(self) -> (Writes, Vec<Event>) {
        (self.writes.into_iter().collect(), self.events)
    }

    /// The node at `path`, or etcd's refusal: 104 names the file in the way, 100 the first missing part.
    pub(super) fn get(&self, path: &[u8]) -> Result<Result<Stored, Error>, ViewError> {
        if path == b"/" {
            return Ok(Ok(root()));
        }
        // Parents of a stored node always exist, so one read is nearly always enough.
        if let Some(node) = self.node(path)? {
            return Ok(Ok(node));
        }
        let mut at = root();
        let mut seen = Bytes::from_static(b"/");
        for name in path[1..].split(|&byte| byte == b'/') {
            if !at.dir {
                return Ok(Err(refuse(code::NOT_DIR, &seen)));
            }
            let next = layout::join(&seen, name);
            match self.node(&next)? {
                Some(node) => at = node,
                None => return Ok(Err(refuse(code::KEY_NOT_FOUND, &next))),
            }
            seen = next;
        }
        Ok(Ok(at))
    }

    /// The stored node, without checking its parents.
    pub(super) fn node(&self, path: &[u8]) -> Result<Option<Stored>, ViewError> {
        self.read(&layout::node(path))?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Creates the missing directories of `path`, as part of the write that takes the next index.
    pub(super) fn make_parents(&mut self, path: &[u8]) -> Result<Result<(), Error>, ViewError> {
        let mut missing = Vec::new();
        let mut at = Bytes::copy_from_slice(path);
        while at.as_ref() != b"/" {
            match self.node(&at)? {
                Some(node) if node.dir => break,
                Some(_) => return Ok(Err(refuse(code::NOT_DIR, &at))),
                None => {
                    let parent = Bytes::copy_from_slice(layout::split(&at).0);
                    missing.push(std::mem::replace(&mut at, parent));
                }
            }
        }
        let next = self.index + 1;
        for path in missing {
            self.put(&path, &Stored { dir: true, created: next, modified: next, ..Default::default() }, None);
        }
        Ok(Ok(()))
    }

    /// Stores a node and its entry in the expiry order; `before` is the node it replaces.
    pub(super) fn put(&mut self, path: &Bytes, node: &Stored, before: Option<&Stored>) {
        self.unlist(path, before);
        if let Some(expiration) = node.expiration {
            self.writes.insert(layout::ttl(expiration, path), Some(Bytes::new()));
        }
        self.writes.insert(layout::node(path), Some(node.encode_to_vec().into()));
    }

    /// Removes a node and everything below it. Returns the paths below it, in no promised order.
    pub(super) fn remove(&mut self, path: &Bytes, node: &Stored) -> Result<Vec<Bytes>, ViewError> {
        let mut removed = Vec::new();
        let mut left = vec![(path.clone(), node.clone())];
        while let Some((path, node)) = left.pop() {
            if node.dir {
                left.extend(self.children(&path)?);
            }
            self.unlist(&path, Some(&node));
            self.writes.insert(layout::node(&path), None);
            removed.push(path);
        }
        removed.swap_remove(0);
        Ok(removed)
    }

    /// Direct children in name order, hidden ones too.
    pub(super) fn children(&self, path: &[u8]) -> Result<Vec<(Bytes, Stored)>, ViewError> {
        let prefix = layout::children(path);
        let mut found: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        self.view.v2_scan(&prefix, &mut |key, value| {
            found.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })?;
        for (key, value) in self.writes.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)) {
            match value {
                Some(value) => found.insert(key.clone(), value.clone()),
                None => found.remove(key),
            };
        }
        let child = |(key, value): (Bytes, Bytes)| {
            Ok((layout::join(path, &layout::child_name(&prefix, &key)), decode(&value)?))
        };
        found.into_iter().map(child).collect()
    }

    pub(super) fn has_children(&self, path: &[u8]) -> Result<bool, ViewError> {
        // No command writes below a directory before this check, so reading the view is enough.
        let mut any = false;
        self.view.v2_scan(&layout::children(path), &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        })?;
        Ok(any)
    }

    /// Up to `limit` nodes expired at `cutoff`, earliest first.
    pub(super) fn due(&self, cutoff: UnixNanos, limit: usize) -> Result<Vec<Bytes>, ViewError> {
        let mut due = Vec::new();
        self.view.v2_scan(layout::TTLS, &mut |key, _| match layout::read_ttl(key) {
            Some((expiration, path)) if expiration <= cutoff && due.len() < limit => {
                due.push(path);
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        })?;
        Ok(due)
    }

    /// Takes the next index, and drops the oldest event from the window.
    pub(super) fn step(&mut self) -> u64 {
        self.index += 1;
        if self.index > WINDOW {
            self.writes.insert(layout::event(self.index - WINDOW), None);
        }
        self.writes.insert(Bytes::from_static(layout::INDEX), Some(Bytes::copy_from_slice(&self.index.to_be_bytes())));
        self.index
    }

    /// Takes the next index for a change that is invisible to clients but still occupies a place in the window.
    pub(super) fn step_unseen(&mut self) {
        let index = self.step();
        let node = Node { modified: index, ..Node::default() };
        self.tell(Event { node: Some(node), refresh: true, ..Event::default() });
    }

    /// Adds an event to the window and for live watchers.
    pub(super) fn tell(&mut self, event: Event) {
        let index = event.index();
        let kept = if event.removed.is_empty() {
            event.encode_to_vec()
        } else {
            Event { removed: Vec::new(), ..event.clone() }.encode_to_vec()
        };
        if kept.len() > LARGE_EVENT_BYTES {
            self.large.push((index, kept.len() as u64));
        }
        self.writes.insert(layout::event(index), Some(kept.into()));
        self.events.push(event);
    }

    /// Drops old events while large events take too many bytes. To be called when the command is done.
    pub(super) fn bound_window(&mut self) -> Result<(), ViewError> {
        if self.large.is_empty() {
            return Ok(());
        }
        let mut window = Window::decode(self.read(layout::WINDOW)?)?;
        for gone in window.add(std::mem::take(&mut self.large), self.index) {
            self.writes.insert(layout::event(gone), None);
        }
        self.writes.insert(Bytes::from_static(layout::WINDOW), Some(window.encode()));
        Ok(())
    }

    fn unlist(&mut self, path: &Bytes, node: Option<&Stored>) {
        if let Some(expiration) = node.and_then(|node| node.expiration) {
            self.writes.insert(layout::ttl(expiration, path), None);
        }
    }

    fn read(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.view.v2_get(key),
        }
    }
}

/// Index of the keyspace as stored.
pub(super) fn stored_index(view: &impl View) -> Result<u64, ViewError> {
    index_of(view.v2_get(layout::INDEX)?.as_ref())
}

/// Index of the keyspace from its row.
pub(super) fn index_of(row: Option<&Bytes>) -> Result<u64, ViewError> {
    let Some(bytes) = row else { return Ok(FIRST_INDEX) };
    let bytes = bytes.as_ref().try_into();
    bytes.map(u64::from_be_bytes).map_err(|_| ViewError { what: "the v2 index", cause: "not eight bytes".to_owned() })
}

/// The root: an implicit directory.
pub(super) fn root() -> Stored {
    Stored { dir: true, ..Default::default() }
}

pub(super) fn decode(bytes: &Bytes) -> Result<Stored, ViewError> {
    Stored::decode(bytes.clone()).map_err(|error| ViewError { what: "a v2 node", cause: error.to_string() })
}

/// An etcd error; the caller fills in the index.
pub(super) fn refuse(code: u32, cause: &[u8]) -> Error {
    Error { code, cause: Bytes::copy_from_slice(cause), index: 0 }
}

/// A node as returned to clients at `now`, without children.
pub(super) fn show(path: &Bytes, node: &Stored, now: UnixNanos) -> Node {
    Node {
        key: path.clone(),
        value: (!node.dir).then(|| node.value.clone()),
        dir: node.dir,
        expiration: node.expiration,
        ttl: node.expiration.map_or(0, |expiration| seconds_left(expiration, now)),
        modified: node.modified,
        created: node.created,
        nodes: Vec::new(),
    }
}

/// Whole seconds until `expiration`, rounded up; not positive when it has passed.
fn seconds_left(expiration: UnixNanos, now: UnixNanos) -> i64 {
    let left = expiration.saturating_sub(now);
    left / SECOND + i64::from(left % SECOND > 0)
}
