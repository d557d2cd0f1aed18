//! The database file format of etcd's snapshots (bbolt, file version 2): a writer that bulk-loads sorted rows in one
//! pass, and a reader for untrusted files.
//!
//! ```text
//! page 0, 1   meta: pages of the root bucket and the free list, number of pages, checksum
//! page 2      the free list, always empty here
//! page 3 ..   B+ trees, one per bucket, and last the root bucket, whose rows are the other buckets
//! ```
//!
//! Both keep only a few pages in memory, whatever the size of the file. Numbers are little-endian: bbolt writes native
//! byte order, which is little-endian on every platform that etcd supports but s390x.

#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod layout;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Bucket, ReadAt, Reader};
pub use writer::{BucketWriter, Writer};

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An I/O error.
    #[error("{action} the database file: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The file is no bbolt database, or its header is damaged.
    #[error("the file is no bbolt database: {0}")]
    NotBbolt(String),
    /// A page contradicts the pages that refer to it.
    #[error("page {page} of the database is damaged: {why}")]
    Damaged {
        /// The page's number.
        page: u64,
        /// What is wrong.
        why: String,
    },
    /// The file exceeds this program's limits.
    #[error("the database is beyond this program's limits: {0}")]
    TooLarge(String),
    /// Rows were written out of order or twice. A bug of the caller.
    #[error("a row of bucket {bucket} was written out of order")]
    Unsorted {
        /// The bucket's name.
        bucket: String,
    },
    /// A key of a length that bbolt cannot store.
    #[error("a key of {0} bytes cannot be stored: bbolt takes 1 to 32768")]
    KeyLength(usize),
}

impl Error {
    fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::Io { action, cause }
    }

    fn damaged(page: u64, why: impl Into<String>) -> Self {
        Self::Damaged { page, why: why.into() }
    }
}
