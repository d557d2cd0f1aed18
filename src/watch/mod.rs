//! Committed events → watchers.
//!
//! A watcher is a cursor, not a queue. The [`Hub`] keeps the newest events in a bounded ring, tells each stream from
//! which revision on something matches it, and holds nothing else per watcher. A [`WatchStream`] turns cursors into
//! messages only when its reader asks for the next one, so a slow reader costs no memory and delays nobody: it falls back
//! from live events to the ring, and from the ring to the store's history. A watcher overtaken by compaction is told so.
//!
//! Holds true: per watcher every event of a matching key once, in order, whole revisions per message (unless fragments
//! were asked for, which the edge cuts); after a progress message at revision R no event at or below R follows.

mod hub;
mod index;
mod ring;
mod step;
mod stream;
#[cfg(test)]
mod tests;

pub use hub::{Hub, HubStats, RING_BYTES};
#[cfg(test)]
use stream::CreateRefusal;
pub use stream::{Created, WatchCreate, WatchOutput, WatchStream};
