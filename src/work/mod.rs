//! What may block threads, and how many bytes of answers may wait for their readers. **Every such bound is in this file.**
//!
//! One thread serves clients, peers and consensus. What would hold it up (a large read, a file, bcrypt) runs on threads of
//! the runtime's blocking pool, and has a [`Lane`] of its own there: a few turns at a time, handed out to the connections
//! that want one in rotation, so that a thousand requests of one connection delay another's by one turn each and not by a
//! thousand. In the lanes of passwords addresses take turns first, since a caller without a password may open many
//! connections. Who gives up leaves the queue, and tells work that has begun. The lanes' threads together are the pool
//! ([`POOL_THREADS`]); nothing of what clients ask waits for a thread after it has its turn.
//!
//! Answers are memory from the moment they are read until their reader has taken them. Those larger than
//! [`FREE_ANSWER_BYTES`] are paid for from a [`Budget`]. One that does not fit is begun again when it is its turn to be the
//! one that may go beyond; so there are never more than [`ANSWER_BYTES`] and one answer. Who takes nothing of a paid answer
//! for [`STALLED`], or less than [`SLOWEST_READER`] of it, loses it.

mod budget;
mod lane;
mod patience;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::admission::Source as Address;

pub use budget::{Budget, Grant};
pub use lane::{Lane, Turn, Undone};
pub use patience::Patience;

/// Threads of large reads: lists, v2 trees, counts for the quota.
pub const READ_THREADS: usize = 4;
/// Threads that read history for watchers that are behind.
pub const HISTORY_THREADS: usize = 2;
/// Threads that print large answers as JSON. One: printing takes several times the memory of what is printed.
pub const PRINT_THREADS: usize = 1;
/// Threads that make snapshot files, hash the state, or merge it, because a client asked.
pub const FILE_THREADS: usize = 2;
/// Threads that walk the v2 tree for an export, as fast as its reader takes it.
pub const EXPORT_THREADS: usize = 2;
/// Threads of bcrypt at most, for v3 and v2 each; fewer where there are fewer processors.
pub const PASSWORD_THREADS: usize = 4;
/// Threads of the member itself: each is used by a task of which there is one (snapshots, leases, the key count, hashes for
/// comparing) or one per other member (reading the log, shipping), and by the resolver of host names.
pub const MEMBER_THREADS: usize = 24;
/// All of them: the size of the runtime's blocking pool.
pub const POOL_THREADS: usize = READ_THREADS
    + HISTORY_THREADS
    + PRINT_THREADS
    + FILE_THREADS
    + EXPORT_THREADS
    + SNAPSHOT_FILES
    + 2 * PASSWORD_THREADS
    + MEMBER_THREADS;

/// Requests of one connection that may wait in one lane. More are refused with etcd's "too many requests".
pub const WAITING_PER_SOURCE: usize = 1024;

/// Snapshot files for clients at once, with their disk space, until their readers have them. Each is read by one thread.
pub const SNAPSHOT_FILES: usize = 2;
/// Bytes of a snapshot file that are in memory at a time, for each.
pub const FILE_PIECE_BYTES: usize = 1 << 20;
/// The same of what is shipped to a member; also what a connection that breaks loses at most, beside what was on its way.
pub const SHIP_PIECE_BYTES: usize = 256 << 10;

/// Answers to reads that wait for their readers, bytes: v3 ranges and transactions, the same through the gateway, v2 trees.
/// One that is just being encoded is there twice; that is done by the one serving thread.
pub const ANSWER_BYTES: usize = 128 << 20;
/// What a read takes of it at a time.
pub const ANSWER_STEP_BYTES: usize = 1 << 20;
/// What a record of an answer costs beside its bytes.
pub const RECORD_OVERHEAD_BYTES: usize = 48;
/// Bytes of an answer that are handed to its connection at a time.
pub const ANSWER_PIECE_BYTES: usize = 64 << 10;
/// An answer up to this size is not counted: it is no more than a connection may buffer anyway.
pub const FREE_ANSWER_BYTES: usize = 32 << 10;
/// A reader that takes nothing of an answer for this long loses it.
pub const STALLED: Duration = Duration::from_secs(60);
/// What a reader takes of an answer at least, bytes per second from its beginning on, beside the first [`STALLED`]: or one
/// that takes a piece a minute would keep everybody else's large answers waiting for a day.
pub const SLOWEST_READER: usize = 256 << 10;

/// Events that were looked up for watchers and not sent yet, bytes, over all streams.
pub const WATCH_BYTES: usize = 64 << 20;
/// What a stream may look up at a time, bytes, when there is room for it.
pub const WATCH_STEP_BYTES: usize = 4 << 20;
/// What it may look up when there is not: streams whose readers are slow go on in small steps, each at its own cost.
pub const WATCH_LEAST_BYTES: usize = 64 << 10;

/// Who asks, for taking turns: a connection, or a part of this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Source {
    connection: usize,
    /// Where it comes from, for the lanes that ask for it.
    address: Option<Address>,
}

impl Source {
    /// This member itself.
    pub const MEMBER: Self = Self { connection: 0, address: None };

    /// The connection of this number, from this address.
    pub fn connection(connection: usize, address: Address) -> Self {
        Self { connection, address: Some(address) }
    }

    /// The connection of this number, from nowhere.
    #[cfg(test)]
    pub fn numbered(connection: usize) -> Self {
        Self { connection, address: None }
    }
}

/// Tells work that runs whether anybody still waits for it.
#[derive(Debug, Clone, Default)]
pub struct Gone(Arc<AtomicBool>);

impl Gone {
    /// Whether it does not.
    pub fn is_gone(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The flag itself, for work that takes one.
    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The lanes and the budget of one client port.
#[derive(Debug)]
pub struct Lanes {
    /// Large reads.
    pub reads: Lane,
    /// Large answers as JSON.
    pub prints: Lane,
    /// Snapshot files being made, hashes, merges.
    pub files: Lane,
    /// Walks of the v2 tree.
    pub exports: Lane,
    /// Snapshot files that exist. A turn takes a thread while a piece is read.
    pub snapshots: Lane,
    /// Answers that wait for their readers.
    pub answers: Budget,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            reads: Lane::new(READ_THREADS),
            prints: Lane::new(PRINT_THREADS),
            files: Lane::new(FILE_THREADS),
            exports: Lane::new(EXPORT_THREADS),
            snapshots: Lane::new(SNAPSHOT_FILES),
            answers: Budget::new(ANSWER_BYTES),
        }
    }
}

/// Runs `work` as a task for as long as somebody waits for it. For what is polled only when a reader takes something: a turn
/// that reached a future which nobody polls would be kept from everybody. `None` when the member stops.
pub async fn driven<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let mut task = Driven(tokio::spawn(work));
    (&mut task.0).await.ok()
}

struct Driven<T>(JoinHandle<T>);

impl<T> Drop for Driven<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sets the flag when whoever waits is dropped.
struct WhileWaiting(Gone);

impl Drop for WhileWaiting {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Processors that password hashing may take, of `processors` there are: one is left for serving, where there are two.
pub fn password_threads(processors: usize) -> usize {
    processors.saturating_sub(1).clamp(1, PASSWORD_THREADS)
}
