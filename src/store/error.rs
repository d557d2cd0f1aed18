//! What can go wrong below the rules, and the end of the process when the state can no longer be trusted.

use std::io::Write as _;
use std::path::PathBuf;

use super::keys::Damaged;
use crate::model::view::ViewError;

/// Why the state could not be opened, read, shipped or replaced.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{action} {path}: {cause}")]
    Files {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// RocksDB refused.
    #[error("{action}: {cause}")]
    Engine {
        /// What was tried.
        action: &'static str,
        /// RocksDB's words.
        #[source]
        cause: rocksdb::Error,
    },
    /// A row does not read as what it should be.
    #[error("{0}; the disk damaged the state: replace this member")]
    Damaged(#[from] Damaged),
    /// The directory holds something that is not ours.
    #[error("{path} does not belong to this store ({found}); point the data directory elsewhere, or move that away")]
    Foreign {
        /// The thing found.
        path: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// The directory lost a part it cannot run without.
    #[error("{path} is incomplete: {missing}; replace this member, its peers have the data")]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// Written by a newer program.
    #[error("{path} has state format {found}, this program knows up to {known}; install the newer version again")]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A snapshot that does not hold what it says.
    #[error("snapshot refused: {0}; it will be sent again")]
    Snapshot(String),
}

impl StoreError {
    /// For `map_err` after a file operation.
    pub(super) fn files(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Files { action, path, cause }
    }

    /// For `map_err` after a RocksDB call.
    pub(super) fn engine(action: &'static str) -> impl FnOnce(rocksdb::Error) -> Self {
        move |cause| Self::Engine { action, cause }
    }
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        std::io::Error::other(error)
    }
}

impl From<StoreError> for ViewError {
    fn from(error: StoreError) -> Self {
        ViewError { what: "the state", cause: error.to_string() }
    }
}

impl From<Damaged> for ViewError {
    fn from(damaged: Damaged) -> Self {
        StoreError::from(damaged).into()
    }
}

/// Ends the process: the state on disk or in memory can no longer be trusted, and going on would spread that. A restart
/// trusts only what the disk holds.
pub(super) fn fatal(what: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(target: "last_words", error = %error, "{what}; the process ends here and must be restarted");
    say_unheard(what, error);
    std::process::abort()
}

/// Writes the reason for an abort to standard error if nobody listens to the log, so that no process dies in silence.
/// Past `eprintln`, whose lines a test harness keeps to itself and loses with the process.
pub(crate) fn say_unheard(what: &str, error: &dyn std::fmt::Display) {
    if !tracing::enabled!(tracing::Level::ERROR) {
        // Nothing is left to be done about a closed standard error.
        let _ = writeln!(std::io::stderr(), "{what}: {error}");
    }
}
