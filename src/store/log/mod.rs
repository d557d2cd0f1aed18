//! The Raft log on disk: entries, votes and committed hints in one ordered stream of records, cut into segment files.
//!
//! Holds true:
//! - Calls take effect in the order they were made, on disk as in memory ([`wal`]: one queue, one thread, one stream), but for
//!   purges that free space for what waits before them ([`overtake`]).
//! - Entries can be read as soon as `append` returns; whoever asked is told they are durable only after a sync, in order.
//! - A failed write or sync ends the process: what the disk holds is then unknown, and only a restart can find out.
//! - After a restart the log is everything that was ever called durable, or the start is refused ([`recover`]).
//!
//! Used by openraft through the traits in [`storage`], and by the state machine through the [`Watermark`].

#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod mark;
mod meter;
mod overtake;
mod placer;
mod prepare;
mod read;
mod record;
mod recover;
mod segment;
mod state;
mod storage;
mod wal;
mod writer;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftLogStorage;

pub use self::meter::LogMeter;
pub use self::storage::LogStore;
use super::space::Space;
use super::watermark::Watermark;
use crate::raft::types::{LogId, NodeId, Vote};

/// Told how long each sync of the log took, on the log's thread.
pub type SyncObserver = Arc<dyn Fn(Duration) + Send + Sync>;

/// Sizes and hooks of a log. The defaults suit every deployment; tests use smaller ones.
#[derive(Clone)]
pub struct LogOptions {
    /// A segment is closed when the next write would make it longer than this.
    pub segment_bytes: u64,
    /// As `segment_bytes` for the very first segment, which must be filled before the log can open.
    pub first_segment_bytes: u64,
    /// Entries kept in memory: bytes.
    pub ring_bytes: usize,
    /// Entries kept in memory: number.
    pub ring_entries: usize,
    /// Entries that wait to be written: `append` waits above this many bytes.
    pub queue_bytes: usize,
    /// Bytes of entries that one limited read returns.
    pub read_bytes: usize,
    /// Files made ready, or kept to be used again, may take so many bytes together; one may always be there.
    pub spare_bytes: u64,
    /// What the log's file system has left: the log waits for space before it grows a file, and purges meanwhile.
    pub space: Space,
    /// For the disk metrics.
    pub on_sync: Option<SyncObserver>,
    /// Called on the log's thread after the log failed, its error was logged and every waiter was told. Must not return
    /// in production: a process with a failed log must neither acknowledge nor retry.
    pub on_failure: fn(),
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            // What some 50,000 small commands take: behind the usual snapshot, files of this length are soon used again.
            segment_bytes: 16 << 20,
            first_segment_bytes: 4 << 20,
            ring_bytes: 8 << 20,
            ring_entries: 100_000,
            queue_bytes: 64 << 20,
            read_bytes: 1 << 20,
            // What a snapshot frees at once under small commands fits.
            spare_bytes: 64 << 20,
            space: Space::unbounded(),
            on_sync: None,
            on_failure: || std::process::abort(),
        }
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("ring_bytes", &self.ring_bytes)
            .finish_non_exhaustive()
    }
}

/// Why the log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system refused. While the log is open this is fatal.
    #[error("cannot {action} {path} of the raft log: {source}; check the disk and its free space")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process holds the log.
    #[error("the raft log in {dir} is used by another process; stop it first")]
    Busy {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Something that was durable is no longer there as it was.
    #[error(
        "the raft log is damaged: {path} at byte {offset}: {detail}. This member may have acknowledged what is lost: \
         remove it from the cluster, empty its data directory and add it again as a new member"
    )]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// A newer program wrote this log.
    #[error("{path} of the raft log at byte {offset} was written by a newer version ({detail}); upgrade this member")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is not understood.
        detail: String,
    },
    /// An entry was to be appended that does not follow the last one.
    #[error(
        "entry {entry} does not follow the last entry of the raft log, {last}; this is a bug, the entry is refused"
    )]
    Gap {
        /// The entry's log id.
        entry: String,
        /// The log's last id.
        last: String,
    },
    /// An entry that must be there is not.
    #[error("entry {index} of the raft log cannot be found; this is a bug")]
    Hole {
        /// The missing entry.
        index: u64,
    },
    /// It was closed while it waited for space.
    #[error("the raft log was closed while it waited for disk space; what it had not written was never acknowledged")]
    Full,
    /// The log failed earlier; nothing is accepted any more.
    #[error("the raft log failed earlier and accepts nothing more; see the first error in this process's log")]
    Failed,
}

impl LogError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io { ref source, .. } => Self::new(source.kind(), error),
            error => Self::other(error),
        }
    }
}

/// Opens the log in `dir`, creating it when there is none, and reads its newest part. Everything it then holds is durable.
///
/// # Errors
/// The directory cannot be used, another process uses it, or something that was durable is missing or damaged.
pub fn open(dir: &Path, options: LogOptions) -> Result<(LogStore, Watermark), LogError> {
    if !dir.is_dir() {
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        created.map_err(|source| LogError::io("create", dir, source))?;
        if let Some(parent) = dir.parent() {
            segment::sync_directory(parent)?;
        }
    }
    let (mark, place) = mark::Mark::open(dir)?;
    let recovered = recover::recover(dir, place, &options)?;
    let durable = recovered.state.bounds().1.map_or(0, |last| last.index);
    let watermark = Watermark::new(durable);
    let wal = wal::Wal::start(dir, options, recovered, mark, watermark.clone())?;
    Ok((LogStore::new(wal), watermark))
}

/// Makes a log in `dir` that begins behind `entry` (term, index), in which this member has voted for `voted_for`. For a
/// state that came from elsewhere.
///
/// # Errors
/// The directory cannot be used, or has a log.
pub fn create_after(dir: &Path, entry: (u64, u64), voted_for: NodeId) -> Result<(), LogError> {
    let (mut log, _) = open(dir, LogOptions::default())?;
    if log.bounds() != (None, None) {
        return Err(LogError::io("create", dir, io::ErrorKind::AlreadyExists.into()));
    }
    let (term, index) = entry;
    let written = futures::executor::block_on(async {
        log.save_vote(&Vote::new(term, voted_for)).await?;
        log.purge(LogId::new(term.into(), index)).await
    });
    written.map_err(|source| LogError::io("write", dir, source))
}

#[cfg(test)]
mod tests;
