//! The state as etcd writes it down: snapshot files that etcd's tools read and etcd restores, and the way back.
//!
//! Out ([`export`]): a checkpoint of the state becomes a bbolt database, beside everything else that goes on. In
//! ([`import`]): such a database, ours or etcd's, becomes the state of a member that does not exist yet. [`rows`] says how
//! each row looks on either side.

mod auth;
mod export;
mod import;
mod rows;
mod sort;
mod status;
#[cfg(test)]
mod tests;

pub use self::export::{EtcdFile, ExportError};
pub use self::import::{Import, Imported, import};
pub use self::status::file_status;

use crate::bbolt;
use crate::store::error::StoreError;

/// Why a snapshot file is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is no database, or a damaged one.
    #[error(transparent)]
    File(#[from] bbolt::Error),
    /// The database is whole, but not as etcd writes it.
    #[error("the snapshot does not hold an etcd keyspace: {0}")]
    Contents(String),
    /// The new state could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}
