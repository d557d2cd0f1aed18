//! What the database is said to weigh.
//!
//! etcd's clients and its quota expect a file that keeps history: it grows with every version, stays when versions are
//! compacted, shrinks when it is defragmented, and is never zero. RocksDB's table files behave differently (compressed,
//! merged late), so the size is an account instead: bytes of live versions, plus bytes of what changes replaced and
//! compaction has not dropped yet, plus what an empty etcd takes. `allocated` is the highest such account since the last
//! defragmentation, in whole pages.

/// etcd's page.
const PAGE: u64 = 4096;

/// What an empty database is said to take: five pages, as etcd's does.
pub(super) const EMPTY: u64 = 5 * PAGE;

/// Bytes the database is said to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Allocated: falls only by defragmentation. Never 0.
    pub allocated: u64,
    /// In use, at most `allocated`.
    pub in_use: u64,
}

/// `bytes` in whole pages.
pub(super) fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE)
}
