//! The mutations, one function per verb, with etcd's order of checks.

use bytes::Bytes;

use super::layout;
use super::tree::{Tree, refuse, show};
use super::types::{Command, Error, Event, Node, Stored, UnixNanos, Verb, code};
use crate::model::view::{View, ViewError};

/// Maximum nodes deleted by one sweep; the leader proposes the next sweep at once while more have expired.
pub(super) const SWEEP_LIMIT: usize = 1000;

/// An expiration before 2000-01-01 means permanent, as in etcd.
const EARLIEST_EXPIRATION: UnixNanos = 946_684_800_000_000_000;

/// `Ok(Ok(_))`: a mutation or a sync; `Ok(Err(_))`: refused; `Err(_)`: the state cannot be read.
type Done = Result<Result<Option<Event>, Error>, ViewError>;

/// Unwraps the inner result of a step, or returns its refusal.
macro_rules! accepted {
    ($step:expr) => {
        match $step? {
            Ok(value) => value,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}

pub(super) fn run<V: View>(tree: &mut Tree<'_, V>, command: &Command) -> Done {
    match command.verb() {
        // Auth changes do not mutate the tree and are applied in `auth`.
        Verb::Sync | Verb::Auth => Ok(Ok(None)),
        Verb::Set => set(tree, command),
        Verb::Create => create(tree, command, command.path.clone(), "create"),
        Verb::CreateInOrder => {
            let name = format!("{:020}", tree.index() + 1);
            create(tree, command, layout::join(&command.path, name.as_bytes()), "create")
        }
        Verb::Update => update(tree, command),
        Verb::CompareAndSwap => compare_and_swap(tree, command),
        Verb::Delete => delete(tree, command),
        Verb::CompareAndDelete => compare_and_delete(tree, command),
        Verb::Expire => expire(tree, command.now),
    }
}

fn set<V: View>(tree: &mut Tree<'_, V>, command: &Command) -> Done {
    let before = match tree.get(&command.path)? {
        Ok(node) => Some(node),
        Err(refusal) if refusal.code == code::KEY_NOT_FOUND && !command.refresh => None,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if is_root(&command.path) {
        return Ok(Err(root_is_read_only()));
    }
    if before.as_ref().is_some_and(|node| node.dir) {
        return Ok(Err(refuse(code::NOT_FILE, &command.path)));
    }
    accepted!(tree.make_parents(layout::split(&command.path).0));
    let value = match &before {
        Some(node) if command.refresh => node.value.clone(),
        _ => command.value.clone(),
    };
    Ok(Ok(Some(make(tree, command, command.path.clone(), value, before.as_ref(), "set"))))
}

fn create<V: View>(tree: &mut Tree<'_, V>, command: &Command, path: Bytes, action: &str) -> Done {
    if is_root(&path) {
        return Ok(Err(root_is_read_only()));
    }
    accepted!(tree.make_parents(layout::split(&path).0));
    if tree.node(&path)?.is_some() {
        return Ok(Err(refuse(code::NODE_EXIST, &path)));
    }
    Ok(Ok(Some(make(tree, command, path, command.value.clone(), None, action))))
}

/// Stores a new node and emits its event. It gets a new created index even if it replaces a file.
fn make<V: View>(
    tree: &mut Tree<'_, V>,
    command: &Command,
    path: Bytes,
    value: Bytes,
    before: Option<&Stored>,
    action: &str,
) -> Event {
    let index = tree.step();
    let node = Stored {
        dir: command.dir,
        value: if command.dir { Bytes::new() } else { value },
        created: index,
        modified: index,
        expiration: command.expiration.filter(|&time| time >= EARLIEST_EXPIRATION),
    };
    tree.put(&path, &node, before);
    let event = Event {
        action: action.to_owned(),
        node: Some(show(&path, &node, command.now)),
        prev_node: before.map(|node| show(&path, node, command.now)),
        refresh: command.refresh && action == "set",
        removed: Vec::new(),
    };
    tree.tell(event.clone());
    event
}

fn update<V: View>(tree: &mut Tree<'_, V>, command: &Command) -> Done {
    if is_root(&command.path) {
        return Ok(Err(root_is_read_only()));
    }
    let before = accepted!(tree.get(&command.path));
    if before.dir && !command.value.is_empty() {
        return Ok(Err(refuse(code::NOT_FILE, &command.path)));
    }
    Ok(Ok(Some(rewrite(tree, command, &before, "update"))))
}

fn compare_and_swap<V: View>(tree: &mut Tree<'_, V>, command: &Command) -> Done {
    if is_root(&command.path) {
        return Ok(Err(root_is_read_only()));
    }
    let before = accepted!(tree.get(&command.path));
    if before.dir {
        return Ok(Err(refuse(code::NOT_FILE, &command.path)));
    }
    if let Some(refusal) = compare(command, &before) {
        return Ok(Err(refusal));
    }
    Ok(Ok(Some(rewrite(tree, command, &before, "compareAndSwap"))))
}

/// Writes value and expiration of an existing node, which keeps its created index.
fn rewrite<V: View>(tree: &mut Tree<'_, V>, command: &Command, before: &Stored, action: &str) -> Event {
    let index = tree.step();
    let node = Stored {
        dir: before.dir,
        value: if command.refresh || before.dir { before.value.clone() } else { command.value.clone() },
        created: before.created,
        // etcd reports the new index of an updated directory but does not store it; later reads show the old one.
        modified: if before.dir { before.modified } else { index },
        expiration: command.expiration.filter(|&time| time >= EARLIEST_EXPIRATION),
    };
    tree.put(&command.path, &node, Some(before));
    let shown = Stored { modified: index, ..node };
    let event = Event {
        action: action.to_owned(),
        node: Some(show(&command.path, &shown, command.now)),
        prev_node: Some(show(&command.path, before, command.now)),
        refresh: command.refresh,
        removed: Vec::new(),
    };
    tree.tell(event.clone());
    event
}

fn delete<V: View>(tree: &mut Tree<'_, V>, command: &Command) -> Done {
    if is_root(&command.path) {
        return Ok(Err(root_is_read_only()));
    }
    let before = accepted!(tree.get(&command.path));
    if before.dir && !command.dir && !command.recursive {
        return Ok(Err(refuse(code::NOT_FILE, &command.path)));
    }
    if before.dir && !command.recursive && tree.has_children(&command.path)? {
        return Ok(Err(refuse(code::DIR_NOT_EMPTY, &command.path)));
    }
    take_away(tree, &command.path, &before, command.now, "delete").map(|event| Ok(Some(event)))
}

fn compare_and_delete<V: View>(tree: &mut Tree<'_, V>, command: &Command) -> Done {
    let before = accepted!(tree.get(&command.path));
    if before.dir {
        // For the root the cause is empty.
        let cause: &[u8] = if is_root(&command.path) { b"" } else { &command.path };
        return Ok(Err(refuse(code::NOT_FILE, cause)));
    }
    if let Some(refusal) = compare(command, &before) {
        return Ok(Err(refusal));
    }
    take_away(tree, &command.path, &before, command.now, "compareAndDelete").map(|event| Ok(Some(event)))
}

fn expire<V: View>(tree: &mut Tree<'_, V>, cutoff: UnixNanos) -> Done {
    for path in tree.due(cutoff, SWEEP_LIMIT)? {
        // The node may be gone already, deleted with its expired directory.
        let Some(node) = tree.node(&path)? else { continue };
        take_away(tree, &path, &node, cutoff, "expire")?;
    }
    Ok(Ok(None))
}

/// Removes a node and everything below it, and emits a single event.
fn take_away<V: View>(
    tree: &mut Tree<'_, V>,
    path: &Bytes,
    before: &Stored,
    now: UnixNanos,
    action: &str,
) -> Result<Event, ViewError> {
    let removed = tree.remove(path, before)?;
    let index = tree.step();
    let event = Event {
        action: action.to_owned(),
        node: Some(Node {
            key: path.clone(),
            dir: before.dir,
            modified: index,
            created: before.created,
            ..Default::default()
        }),
        prev_node: Some(show(path, before, now)),
        refresh: false,
        removed,
    };
    tree.tell(event.clone());
    Ok(event)
}

/// The error if the conditions do not hold; its cause names the failed conditions, the value first.
fn compare(command: &Command, node: &Stored) -> Option<Error> {
    let value_fails = !command.prev_value.is_empty() && command.prev_value != node.value;
    let index_fails = command.prev_index != 0 && command.prev_index != node.modified;
    let mut causes: Vec<Vec<u8>> = Vec::new();
    if value_fails {
        causes.push([b"[".as_ref(), &command.prev_value, b" != ", &node.value, b"]"].concat());
    }
    if index_fails {
        causes.push(format!("[{} != {}]", command.prev_index, node.modified).into_bytes());
    }
    (!causes.is_empty()).then(|| refuse(code::TEST_FAILED, &causes.join(&b" "[..])))
}

fn is_root(path: &[u8]) -> bool {
    path == b"/"
}

fn root_is_read_only() -> Error {
    refuse(code::ROOT_READ_ONLY, b"/")
}
