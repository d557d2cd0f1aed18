//! The v2 keyspace: a tree of files and directories with its own index and a window of past events.
//!
//! Pure, like the rest of `model`. The tree is stored in the v2 part of the view, keyed by [`layout`]; its index is
//! independent of the v3 revision. Times are part of a command: the proposer reads the clock, apply never does.

pub mod auth;
mod head;
mod layout;
mod operations;
mod read;
mod tree;
pub mod types;
pub mod watch;
mod window;

use bytes::Bytes;
use prost::Message;

use super::effects::{Effects, Position, Response};
use super::view::{View, ViewError};
use tree::Tree;
use types::{Command, Error, Outcome};

pub use head::{Head, is_read_back};
pub use read::{Budget, event_at, get, index, next_expiry, oldest_event, walk, window};
pub use window::begins_at as window_begins_at;

/// Maximum number of events in the window, over the whole keyspace; the same number as etcd's.
pub const WINDOW: u64 = 1000;
/// An event of more bytes is large: the window keeps large events up to [`LARGE_EVENTS_BYTES`] in total.
pub const LARGE_EVENT_BYTES: usize = 16 << 10;
/// Maximum total bytes of large events; the newest is kept whatever its size. With 999 others the window takes 64 MiB.
pub const LARGE_EVENTS_BYTES: u64 = 48 << 20;

/// Index of an empty keyspace: what a fresh single etcd reports before the first user write.
pub const FIRST_INDEX: u64 = 3;

/// Applies one v2 mutation, encoded by [`Command`].
///
/// # Errors
/// The state cannot be read, or the bytes are not a command; both are fatal to the caller.
pub fn apply(view: &impl View, command: &Bytes, at: Position) -> Result<Effects, ViewError> {
    let command = Command::decode(command.clone())
        .map_err(|error| ViewError { what: "a v2 command", cause: format!("{error} at log index {}", at.index) })?;
    let mut tree = Tree::open(view)?;
    if let Some(change) = &command.auth {
        let auth = Some(auth::run(&mut tree, change)?);
        tree.bound_window()?;
        let answer = Outcome { index: tree.index(), auth, ..Outcome::default() };
        return Ok(effects(view, tree, answer));
    }
    let outcome = operations::run(&mut tree, &command)?;
    tree.bound_window()?;
    let answer = match outcome {
        Ok(event) => Outcome { event, index: tree.index(), ..Outcome::default() },
        Err(refusal) => {
            // A refused operation changes nothing: parents it already created are dropped too.
            tree.forget();
            Outcome { error: Some(Error { index: tree.index(), ..refusal }), index: tree.index(), ..Outcome::default() }
        }
    };
    Ok(effects(view, tree, answer))
}

fn effects<V: View>(view: &V, tree: Tree<'_, V>, answer: Outcome) -> Effects {
    let (writes, events) = tree.into_changes();
    let mut effects = Effects::nothing(view.revision(), Ok(Response::V2(Box::new(answer))));
    effects.v2 = writes;
    effects.v2_events = events;
    effects
}

#[cfg(test)]
mod tests;
