//! The log from outside: openraft's own suite, recovery from every kind of cut and damage, order, and power cuts.

mod any_order;
mod behaviour;
mod conformance;
mod faults;
mod full;
mod recovery;
mod speed;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};

use super::{LogError, LogOptions, LogStore, Watermark};
use crate::raft::types::{Entry, LogId, Payload, Proposal};

/// Small enough that a few hundred entries fill several segments and overflow the ring.
fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 16 << 10,
        first_segment_bytes: 8 << 10,
        ring_bytes: 8 << 10,
        ring_entries: 16,
        read_bytes: 4 << 10,
        on_failure: || {},
        ..LogOptions::default()
    }
}

/// Opens a log that was closed before. Another test may be starting a process, which holds the lock until it runs its
/// own program.
fn open(dir: &Path, options: LogOptions) -> Result<(LogStore, Watermark), LogError> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match super::open(dir, options.clone()) {
            Err(LogError::Busy { .. }) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened,
        }
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// An entry whose payload tells its index and is `size` bytes long.
fn entry(term: u64, index: u64, size: usize) -> Entry {
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.resize(size.max(8), index as u8);
    Entry { log_id: log_id(term, index), payload: Payload::Normal(Proposal(Bytes::from(bytes))) }
}

async fn append(store: &mut LogStore, term: u64, range: std::ops::Range<u64>, size: usize) {
    for index in range {
        store.blocking_append([entry(term, index, size)]).await.expect("appends");
    }
}

async fn read(store: &mut LogStore, range: std::ops::Range<u64>) -> Vec<Entry> {
    store.try_get_log_entries(range).await.expect("reads")
}

/// Asserts that the log holds exactly `range` of entries made by [`entry`], whatever source they are read from.
async fn assert_holds(store: &mut LogStore, term: u64, range: std::ops::Range<u64>, size: usize) {
    let expected: Vec<Entry> = range.clone().map(|index| entry(term, index, size)).collect();
    assert_eq!(read(store, 0..u64::MAX).await, expected);
    for index in range {
        assert_eq!(read(store, index..index + 1).await, [entry(term, index, size)]);
    }
}

/// The segments of a log directory, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    super::segment::list(dir).expect("lists").segments.into_iter().map(|(_, path)| path).collect()
}

/// A copy of a closed log's directory, to damage.
fn copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    for file in fs::read_dir(dir).expect("a readable directory") {
        let file = file.expect("a readable entry");
        fs::copy(file.path(), copy.path().join(file.file_name())).expect("copies");
    }
    copy
}

async fn state(store: &mut LogStore) -> (Option<LogId>, Option<LogId>) {
    let state = store.get_log_state().await.expect("has a state");
    (state.last_purged_log_id, state.last_log_id)
}
