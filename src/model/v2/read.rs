//! Reads of the tree and of the event window.

use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;

use super::tree::{self, Tree};
use super::types::{Error, Event, Node, Stored, UnixNanos};
use super::watch::Brief;
use super::{WINDOW, layout};
use crate::model::view::{View, ViewError};

/// A node that was read, and the index of the keyspace it was read at.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The node; a directory includes its visible children.
    pub node: Node,
    /// Index of the keyspace.
    pub index: u64,
}

/// Maximum number of nodes a read may visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(pub usize);

impl Budget {
    /// No limit.
    pub const NONE: Self = Self(usize::MAX);

    fn spend(&mut self) -> bool {
        let left = self.0.checked_sub(1);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// Reads the node at the clean, absolute `path` as of `now`. A directory includes its children that are not hidden: one
/// level, or all with `recursive`; always sorted by name, while etcd guarantees an order only on request. `None` when
/// the read exceeds the budget.
///
/// # Errors
/// Outer: the state cannot be read. Inner: the error to return to the client, with its index.
pub fn get(
    view: &impl View,
    path: &[u8],
    recursive: bool,
    now: UnixNanos,
    mut budget: Budget,
) -> Result<Result<Option<Found>, Error>, ViewError> {
    if let Some(found) = file(view, path, now)? {
        return Ok(Ok(Some(found)));
    }
    let tree = Tree::open(view)?;
    let index = tree.index();
    match tree.get(path)? {
        Ok(stored) => {
            let node = tree::show(&Bytes::copy_from_slice(path), &stored, now);
            let node = list(view, node, recursive, now, &mut budget)?;
            Ok(Ok(node.map(|node| Found { node, index })))
        }
        Err(refusal) => Ok(Err(Error { index, ..refusal })),
    }
}

/// Fast path: the file at `path` from a single read of the latest state. That is enough for a file: no other node is
/// returned with it, and the parents of a stored node always exist.
fn file(view: &impl View, path: &[u8], now: UnixNanos) -> Result<Option<Found>, ViewError> {
    if path == b"/" {
        return Ok(None);
    }
    let Some((reached, row)) = view.v2_latest(&layout::node(path))? else { return Ok(None) };
    let stored = tree::decode(&row)?;
    if stored.dir {
        return Ok(None);
    }
    // The row may be newer than `reached`. Then the answer has the index of the row's own write, so that a client
    // waiting from the answer's index on misses no event.
    let index = reached.max(stored.modified);
    Ok(Some(Found { node: tree::show(&Bytes::copy_from_slice(path), &stored, now), index }))
}

/// Visits the node at the clean, absolute `path` and everything below it, hidden nodes too: depth first, names in byte
/// order, with memory proportional to the depth. The root itself is not visited. `Break` ends the walk.
///
/// # Errors
/// Outer: the state cannot be read. Inner: the error to return to the client, with its index.
pub fn walk(
    view: &impl View,
    path: &[u8],
    visit: &mut dyn FnMut(&Bytes, &Stored) -> ControlFlow<()>,
) -> Result<Result<(), Error>, ViewError> {
    let tree = Tree::open(view)?;
    let stored = match tree.get(path)? {
        Ok(stored) => stored,
        Err(refusal) => return Ok(Err(Error { index: tree.index(), ..refusal })),
    };
    let path = Bytes::copy_from_slice(path);
    if path.as_ref() != b"/" && visit(&path, &stored).is_break() {
        return Ok(Ok(()));
    }
    if stored.dir {
        let _ended = descend(view, &path, visit)?;
    }
    Ok(Ok(()))
}

fn descend(
    view: &impl View,
    path: &[u8],
    visit: &mut dyn FnMut(&Bytes, &Stored) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ViewError> {
    let prefix = layout::children(path);
    let mut outcome = Ok(ControlFlow::Continue(()));
    view.v2_scan(&prefix, &mut |key, value| {
        let path = layout::join(path, &layout::child_name(&prefix, key));
        outcome = tree::decode(&Bytes::copy_from_slice(value)).and_then(|stored| match visit(&path, &stored) {
            ControlFlow::Continue(()) if stored.dir => descend(view, &path, visit),
            flow => Ok(flow),
        });
        match outcome {
            Ok(flow) => flow,
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    outcome
}

/// Index of the keyspace.
pub fn index(view: &impl View) -> Result<u64, ViewError> {
    tree::stored_index(view)
}

/// When the next node expires; `None` while no node has a TTL.
pub fn next_expiry(view: &impl View) -> Result<Option<UnixNanos>, ViewError> {
    let mut next = None;
    view.v2_scan(layout::TTLS, &mut |key, _| {
        next = layout::read_ttl(key).map(|(expiration, _)| expiration);
        ControlFlow::Break(())
    })?;
    Ok(next)
}

/// Oldest index the window covers when the keyspace is at `current`.
pub fn oldest_event(current: u64) -> u64 {
    (current + 1).saturating_sub(WINDOW).max(1)
}

/// The event of this index; `None` when it is not in the window, or not visible to clients.
pub fn event_at(view: &impl View, index: u64) -> Result<Option<Event>, ViewError> {
    let event = view.v2_get(&layout::event(index))?.map(decode_event).transpose()?;
    Ok(event.filter(|event| !event.refresh))
}

/// Every event in the window that is visible to clients, oldest first.
pub fn window(view: &impl View) -> Result<Vec<Brief>, ViewError> {
    let mut rows = Vec::new();
    view.v2_scan(layout::EVENTS, &mut |_, value| {
        rows.push(decode_event(Bytes::copy_from_slice(value)).map(|event| Brief::of(&event)));
        ControlFlow::Continue(())
    })?;
    rows.into_iter().filter_map(Result::transpose).collect()
}

fn decode_event(bytes: Bytes) -> Result<Event, ViewError> {
    Event::decode(bytes).map_err(|error| ViewError { what: "a v2 event", cause: error.to_string() })
}

/// The directory with its children, or `None` when they are too many.
fn list(
    view: &impl View,
    mut node: Node,
    recursive: bool,
    now: UnixNanos,
    budget: &mut Budget,
) -> Result<Option<Node>, ViewError> {
    if !node.dir {
        return Ok(Some(node));
    }
    let prefix = layout::children(&node.key);
    let (mut rows, mut fits) = (Vec::new(), true);
    view.v2_scan(&prefix, &mut |key, value| {
        fits = budget.spend();
        let name = layout::child_name(&prefix, key);
        if fits && !name.starts_with(b"_") {
            rows.push((layout::join(&node.key, &name), Bytes::copy_from_slice(value)));
        }
        if fits { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if !fits {
        return Ok(None);
    }
    for (path, row) in rows {
        let child = tree::show(&path, &tree::decode(&row)?, now);
        let child = if recursive { list(view, child, true, now, budget)? } else { Some(child) };
        let Some(child) = child else { return Ok(None) };
        node.nodes.push(child);
    }
    Ok(Some(node))
}
