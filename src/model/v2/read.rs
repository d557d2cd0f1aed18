//! Reads of the tree and of the window of events.

use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;

use super::tree::{self, Tree};
use super::types::{Error, Event, Node, Stored, UnixNanos};
use super::{WINDOW, layout};
use crate::model::view::{View, ViewError};

/// A node that was read, and the index of the keyspace it was read at.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The node; of a directory with its visible children.
    pub node: Node,
    /// Index of the keyspace.
    pub index: u64,
}

/// The wanted event is no longer in the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    /// Oldest index that can still be asked for.
    pub oldest: u64,
    /// Index of the keyspace.
    pub current: u64,
}

/// Reads the node at the clean, absolute `path` as of `now`. A directory shows its children that are not hidden: one
/// level, or all with `recursive`; always sorted by name, which etcd does only on request and else leaves open.
///
/// # Errors
/// The outer one when the state cannot be read; the inner one is the client's, with its index.
pub fn get(view: &impl View, path: &[u8], recursive: bool, now: UnixNanos) -> Result<Result<Found, Error>, ViewError> {
    let tree = Tree::open(view)?;
    let index = tree.index();
    let path = Bytes::copy_from_slice(path);
    match tree.get(&path)? {
        Ok(stored) => Ok(Ok(Found { node: list(&tree, &path, &stored, recursive, now)?, index })),
        Err(refusal) => Ok(Err(Error { index, ..refusal })),
    }
}

/// Visits the node at the clean, absolute `path` and everything below it, hidden nodes too: depth first, names in byte
/// order, in memory that grows with the depth only. The root itself is not visited. `Break` ends the walk.
///
/// # Errors
/// The outer one when the state cannot be read; the inner one is the client's, with its index.
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

/// Oldest index the window answers for when the keyspace is at `current`.
pub fn oldest_event(current: u64) -> u64 {
    (current + 1).saturating_sub(WINDOW).max(1)
}

/// The oldest event at or after `since` that `wanted` accepts; `None` when it has not happened yet.
///
/// # Errors
/// The outer one when the state cannot be read; the inner one when the window no longer reaches back to `since`.
pub fn event_since(
    view: &impl View,
    since: u64,
    mut wanted: impl FnMut(&Event) -> bool,
) -> Result<Result<Option<Event>, Cleared>, ViewError> {
    let current = index(view)?;
    let oldest = oldest_event(current);
    if since < oldest {
        return Ok(Err(Cleared { oldest, current }));
    }
    for index in since..=current {
        let Some(bytes) = view.v2_get(&layout::event(index))? else { continue };
        let event = Event::decode(bytes).map_err(|error| ViewError { what: "a v2 event", cause: error.to_string() })?;
        if !event.refresh && wanted(&event) {
            return Ok(Ok(Some(event)));
        }
    }
    Ok(Ok(None))
}

fn list<V: View>(
    tree: &Tree<'_, V>,
    path: &Bytes,
    stored: &Stored,
    recursive: bool,
    now: UnixNanos,
) -> Result<Node, ViewError> {
    let mut node = tree::show(path, stored, now);
    if stored.dir {
        for (path, stored) in tree.children(path)?.into_iter().filter(|(path, _)| !is_hidden(path)) {
            let child = if recursive && stored.dir {
                list(tree, &path, &stored, true, now)?
            } else {
                tree::show(&path, &stored, now)
            };
            node.nodes.push(child);
        }
    }
    Ok(node)
}

/// Whether the last part of the path begins with an underscore.
fn is_hidden(path: &[u8]) -> bool {
    layout::split(path).1.starts_with(b"_")
}
