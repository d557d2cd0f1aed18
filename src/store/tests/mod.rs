//! The state machine against its contracts: openraft's suite, the rules' reference view, crashes, snapshots.

mod auth;
mod conformance;
mod crashes;
mod layers;
mod merges;
mod oracle;
mod partial;
mod publication;
mod reads;
mod snapshots;
mod speed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use openraft::storage::RaftStateMachine;
use openraft::{Entry as RaftEntry, EntryPayload};

use super::records::log_id;
use super::{Machine, Store, StoreOptions, Watermark};
use crate::model::command::{self, Command};
use crate::proto::etcdserverpb as pb;
use crate::raft::types::{Entry, Proposal};

/// Small caches, and a housekeeper that acts at once.
pub(super) fn small() -> StoreOptions {
    StoreOptions {
        block_cache: 1 << 20,
        write_buffers: 1 << 20,
        history_layer: 1 << 10,
        housekeeping: Duration::from_millis(5),
        ..StoreOptions::default()
    }
}

pub(super) fn open(dir: &Path) -> (Store, Machine) {
    super::open(dir, small(), Watermark::already_durable()).unwrap()
}

pub(super) fn entry(index: u64, command: Command) -> Entry {
    RaftEntry { log_id: log_id((1, index)), payload: EntryPayload::Normal(Proposal(command::encode(command))) }
}

/// Applies the entries as one call, which makes one batch of them.
pub(super) async fn apply(machine: &mut Machine, entries: impl IntoIterator<Item = Entry>) {
    let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
    machine.apply(futures::stream::iter(entries)).await.unwrap();
}

pub(super) fn put(key: &[u8], value: &[u8]) -> Command {
    let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    Command::Put(pb::PutRequest { key, value, ..Default::default() })
}

pub(super) fn delete(key: &[u8]) -> Command {
    Command::DeleteRange(pb::DeleteRangeRequest { key: Bytes::copy_from_slice(key), ..Default::default() })
}

pub(super) fn compact(revision: i64) -> Command {
    Command::Compact(pb::CompactionRequest { revision, physical: false })
}

/// Copies a directory as a crash would leave it: what is on disk now, nothing flushed or closed first. A copy takes time and a
/// crash takes none, so one during which RocksDB wrote, made or removed a file is made again.
pub(super) fn crash_copy(from: &Path, to: &Path) {
    loop {
        let before = listing(from);
        let copied = copy_tree(from, to);
        if listing(from) == before {
            return copied.unwrap();
        }
        std::fs::remove_dir_all(to).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Every file under a directory with its length and when it was written last. What goes while it is listed is not in it.
fn listing(dir: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(about) if about.is_dir() => found.extend(listing(&entry.path())),
            Ok(about) => drop(found.insert(entry.path(), (about.len(), about.modified().unwrap()))),
            Err(_) => {}
        }
    }
    found
}
