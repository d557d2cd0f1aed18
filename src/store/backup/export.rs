//! The state of a moment as an etcd database file.
//!
//! A checkpoint freezes the state (hard links, so it costs a flush), and everything after that reads the checkpoint: apply,
//! compaction and the housekeeper go on as if nothing happened. The database is written to a file without a name beside
//! it, so a client that reads slowly holds nothing but that file, and a crash leaves nothing.
//!
//! etcd's rows come in the order of revisions. Changes above the compaction revision lie so in `hist`. What was alive at
//! the compaction revision comes in key order and is sorted ([`Sorter`]); its sub-revisions are not kept once compacted, so
//! they are numbered anew within each revision, in key order.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::statvfs::statvfs;
use prost::Message;
use rocksdb::checkpoint::Checkpoint;

use super::auth::{self, AuthRows};
use super::rows::{self, LeaseRow, Revision};
use super::sort::{Sorter, tempfile_in};
use crate::bbolt::{self, BucketWriter, Writer};
use crate::model::view::KeyRange;
use crate::proto::etcdserverpb::AlarmMember;
use crate::store::database::{Database, try_walk};
use crate::store::error::StoreError;
use crate::store::keys::{self, Damaged, HistoryRow};
use crate::store::reader::Store;
use crate::store::{files, leases};

/// Memory for sorting, bytes.
const SORT_BYTES: usize = 32 << 20;
/// Rows between two looks at whether anybody still waits.
const ROWS_PER_LOOK: u32 = 1024;
/// Bytes written between two looks at the disk.
const BYTES_PER_LOOK: u64 = 16 << 20;
/// The part of the file system that an export leaves free whatever happens, and the most that this ever is: the store
/// itself must be able to go on.
const RESERVE: (u64, u64) = (20, 1 << 30);

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Nobody waits for it any more.
    #[error("the snapshot was abandoned")]
    Abandoned,
    /// The disk could fill, which would stop the member.
    #[error(
        "a snapshot needs about {needed} bytes beside the data in {path}, and may use {free}; free space there, or take the \
         snapshot from another member"
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// Bytes wanted.
        needed: u64,
        /// Bytes that are free, less what must stay free.
        free: u64,
    },
    /// The state cannot be read, or a row of it cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database cannot be written.
    #[error(transparent)]
    File(#[from] bbolt::Error),
}

impl From<Damaged> for ExportError {
    fn from(damaged: Damaged) -> Self {
        Self::Store(damaged.into())
    }
}

/// A complete database file, which goes when this does.
#[derive(Debug)]
pub struct EtcdFile {
    /// At its first byte.
    pub file: File,
    /// Bytes.
    pub len: u64,
    /// The revision it shows.
    pub revision: i64,
}

impl EtcdFile {
    /// Version of the layout, for those who ask.
    pub const VERSION: &'static str = rows::LAYOUT;
}

impl Store {
    /// Writes the state of now as an etcd database. Reads all of it: call it on a blocking thread. It ends early once
    /// `abandoned` is true.
    ///
    /// # Errors
    /// See [`ExportError`].
    pub fn export(&self, abandoned: &AtomicBool) -> Result<EtcdFile, ExportError> {
        let database = self.shared.database();
        let folder = Folder::new(self.shared.snapshots.exporting())?;
        // What was alive at a compaction is sorted on disk, and then written once more.
        let copies = if database.marks.compacted.load(Ordering::SeqCst) > 0 { 2 } else { 1 };
        folder.has_room(database.in_use() * copies)?;
        let frozen = folder.path.join("state");
        Checkpoint::new(database.engine())
            .and_then(|checkpoint| checkpoint.create_checkpoint(&frozen))
            .map_err(StoreError::engine("take a checkpoint"))?;
        drop(database);
        let frozen = Database::open_frozen(&frozen)?;
        write(&frozen, &folder, abandoned)
    }
}

/// Writes a state that nobody changes as a database in `folder`.
fn write(state: &Database, folder: &Folder, abandoned: &AtomicBool) -> Result<EtcdFile, ExportError> {
    let file = tempfile_in(&folder.path).map_err(StoreError::files("create a file in", &folder.path))?;
    let mut out = Writer::new(file)?;
    let mut guard = Guard { folder, abandoned, rows: 0, looked_at: 0 };
    let facts = state.facts.load();
    bucket(&mut out, rows::ALARM, facts.alarms.iter().map(|&alarm| (alarm_key(alarm), Vec::new())))?;
    let AuthRows { head, users, roles } = auth::of_state(state)?;
    for (name, rows) in [(rows::AUTH, head), (rows::AUTH_ROLES, roles), (rows::AUTH_USERS, users)] {
        bucket(&mut out, name, rows)?;
    }
    bucket(&mut out, rows::CLUSTER, std::iter::empty())?;
    let mut keys = out.bucket(rows::KEY);
    write_keys(state, &mut keys, &mut guard)?;
    keys.finish()?;
    write_leases(state, &mut out)?;
    bucket(&mut out, rows::MEMBERS, rows::members(&facts.membership))?;
    let removed: std::collections::BTreeSet<Vec<u8>> = facts.removed.iter().map(|id| rows::member_key(*id)).collect();
    bucket(&mut out, rows::MEMBERS_REMOVED, removed.into_iter().map(|id| (id, b"removed".to_vec())))?;
    bucket(&mut out, rows::META, meta(state))?;
    guard.look(out.written())?;
    let (mut file, len) = out.finish()?;
    file.seek(SeekFrom::Start(0)).map_err(StoreError::files("seek in", &folder.path))?;
    Ok(EtcdFile { file, len, revision: state.marks.revision.load(Ordering::SeqCst) })
}

fn bucket(
    out: &mut Writer<File>,
    name: &str,
    rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
) -> Result<(), ExportError> {
    let mut bucket = out.bucket(name);
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_unstable();
    for (key, value) in rows {
        bucket.put(&key, &value)?;
    }
    Ok(bucket.finish()?)
}

fn alarm_key((member_id, alarm): (u64, i32)) -> Vec<u8> {
    AlarmMember { member_id, alarm }.encode_to_vec()
}

fn meta(state: &Database) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (term, index) = state.applied.lock().unwrap_or_default();
    let mut rows = vec![
        (rows::CONF_STATE.to_vec(), rows::conf_state(&state.facts.load().membership)),
        (rows::STORAGE_VERSION.to_vec(), rows::LAYOUT.as_bytes().to_vec()),
        (rows::CONSISTENT_INDEX.to_vec(), index.to_be_bytes().to_vec()),
        (rows::TERM.to_vec(), term.to_be_bytes().to_vec()),
    ];
    let compacted = state.marks.compacted.load(Ordering::SeqCst);
    if compacted >= 0 {
        rows.push((rows::SCHEDULED.to_vec(), rows::compaction(compacted)));
        rows.push((rows::FINISHED.to_vec(), rows::compaction(compacted)));
    }
    rows
}

fn write_leases(state: &Database, out: &mut Writer<File>) -> Result<(), ExportError> {
    let mut bucket = out.bucket(rows::LEASE);
    // Ids are stored as they sort: as the unsigned numbers that etcd has too.
    leases::each(state, &mut |lease| {
        let row = LeaseRow { id: lease.id, ttl: lease.ttl, remaining: lease.remaining };
        bucket.put(&lease.id.to_be_bytes(), &row.encode_to_vec()).map_err(ExportError::from)
    })?;
    Ok(bucket.finish()?)
}

fn write_keys(state: &Database, out: &mut BucketWriter<'_, File>, guard: &mut Guard<'_>) -> Result<(), ExportError> {
    let compacted = state.marks.compacted.load(Ordering::SeqCst);
    let mut stored = Vec::new();
    if compacted > 0 {
        let mut kept = kept_by_compaction(state, compacted, guard)?;
        let (mut main, mut sub) = (0, 0);
        let files = |cause| StoreError::files("sort in", &guard.folder.path)(cause);
        while let Some((revision, record)) = kept.next().map_err(files)? {
            sub = if revision == main { sub + 1 } else { 0 };
            main = revision;
            Revision { main, sub, deleted: false }.encode(&mut stored);
            out.put(&stored, &record)?;
            guard.row(out.written())?;
        }
    }
    write_changes(state, compacted, out, guard)
}

/// What was alive at the compaction revision, by revision.
fn kept_by_compaction(
    state: &Database,
    compacted: i64,
    guard: &mut Guard<'_>,
) -> Result<super::sort::Merge, ExportError> {
    let folder = guard.folder;
    let files = |cause| ExportError::from(StoreError::files("sort in", &folder.path)(cause));
    let mut sorter = Sorter::new(&folder.path, SORT_BYTES);
    let all = KeyRange::Span { start: bytes::Bytes::new(), end: None };
    let mut failed = None;
    state.scan_at(&all, compacted, &mut |_, record| {
        let pushed = keys::mod_revision(record)
            .map_err(ExportError::from)
            .and_then(|revision| sorter.push(revision, record).map_err(files))
            .and_then(|()| guard.row(sorter.spilled));
        match pushed {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    guard.looked_at = 0;
    failed.map_or_else(|| sorter.finish().map_err(files), Err)
}

/// Every change above the compaction revision, as etcd stores it.
fn write_changes(
    state: &Database,
    compacted: i64,
    out: &mut BucketWriter<'_, File>,
    guard: &mut Guard<'_>,
) -> Result<(), ExportError> {
    let mut stored = Vec::new();
    let from = keys::revision_key(compacted.max(0) + 1, 0);
    try_walk(state.rows(keys::HISTORY, &from, None), &mut |key, row| {
        let (main, sub) = keys::parse_revision(key)?;
        let row = HistoryRow::decode(row)?;
        Revision { main, sub, deleted: row.after.is_none() }.encode(&mut stored);
        match row.after {
            Some(record) => out.put(&stored, record)?,
            None => out.put(&stored, &keys::only_key(row.key))?,
        }
        guard.row(out.written())
    })
}

/// Looks, every so often, whether to go on.
struct Guard<'a> {
    folder: &'a Folder,
    abandoned: &'a AtomicBool,
    rows: u32,
    /// Bytes written when the disk was looked at last.
    looked_at: u64,
}

impl Guard<'_> {
    fn row(&mut self, written: u64) -> Result<(), ExportError> {
        self.rows = self.rows.wrapping_add(1);
        if self.rows.is_multiple_of(ROWS_PER_LOOK) && self.abandoned.load(Ordering::Relaxed) {
            return Err(ExportError::Abandoned);
        }
        if written >= self.looked_at + BYTES_PER_LOOK { self.look(written) } else { Ok(()) }
    }

    fn look(&mut self, written: u64) -> Result<(), ExportError> {
        self.looked_at = written;
        self.folder.has_room(BYTES_PER_LOOK)
    }
}

/// The folder an export works in; it goes when this does.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(path: PathBuf) -> Result<Self, StoreError> {
        files::private_dir(&path)?;
        Ok(Self { path })
    }

    fn has_room(&self, needed: u64) -> Result<(), ExportError> {
        let free = usable(&self.path)?;
        if needed <= free { Ok(()) } else { Err(ExportError::NoRoom { path: self.path.clone(), needed, free }) }
    }
}

/// Bytes that may be written where `path` is without endangering the store.
fn usable(path: &Path) -> Result<u64, StoreError> {
    let found = statvfs(path).map_err(|errno| StoreError::files("look at the disk of", path)(errno.into()))?;
    let unit = found.fragment_size();
    let reserve = (found.blocks() * unit / RESERVE.0).min(RESERVE.1);
    Ok((found.blocks_available() * unit).saturating_sub(reserve))
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = files::remove_dir(&self.path) {
            tracing::warn!(%error, "could not remove what a snapshot was made from; the next start does");
        }
    }
}
