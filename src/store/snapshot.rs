//! Snapshots: checkpoints of the state as directories of files, and the registry of the one that counts.
//!
//! A snapshot is complete when its directory bears its final name: everything is written and synced under another name
//! first. Names are `<index>-<term>` in fixed width, so they sort in log order. A directory that was superseded is removed
//! when the last [`SnapshotFiles`] that reads it is dropped.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use prost::Message;
use rocksdb::checkpoint::Checkpoint;

use super::database::Database;
use super::error::StoreError;
use super::install::Ownership;
use super::partial::{self, Partial, Turn};
use super::records::{LogIdRow, MembershipRow, log_id};
use super::shipping::{Shipment, Shipping, Superseded};
use super::{files, keys};
use crate::raft::types::{LogId, SnapshotMeta};

/// Name of the manifest inside a snapshot directory.
const MANIFEST: &str = "SNAPSHOT";
/// Name prefixes of directories that are not snapshots yet; the next start removes them, all but one (see `partial`).
const BUILDING: &str = "building-";
const RECEIVING: &str = "receiving-";
/// Files in one snapshot, at most.
pub(super) const MAX_FILES: usize = 100_000;
/// Read buffer for checksums, bytes.
const CHUNK: usize = 1 << 20;

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Plain file name, no directories.
    pub name: String,
    /// Length, bytes.
    pub size: u64,
    /// CRC-32C of the contents.
    pub crc: u32,
}

/// A complete snapshot on disk. Clones share it; the files stay while a clone lives.
#[derive(Debug, Clone)]
pub struct SnapshotFiles {
    inner: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    dir: PathBuf,
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    /// Superseded: the directory goes with the last user.
    obsolete: AtomicBool,
    shipment: Arc<Shipment>,
    /// For one that was just received: nobody else writes there until it is installed, or not.
    _turn: Option<Turn>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire)
            && let Err(error) = files::remove_dir(&self.dir)
        {
            tracing::warn!(%error, "could not remove an old snapshot; the next start does");
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct ManifestRow {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(message, optional, tag = "2")]
    last_log_id: Option<LogIdRow>,
    #[prost(message, optional, tag = "3")]
    membership: Option<MembershipRow>,
    #[prost(message, repeated, tag = "4")]
    files: Vec<FileRow>,
}

#[derive(Clone, PartialEq, Message)]
struct FileRow {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(uint32, tag = "3")]
    crc: u32,
}

impl SnapshotFiles {
    pub(super) fn new(dir: PathBuf, meta: SnapshotMeta, files: Vec<SnapshotFile>) -> Self {
        Self::held(dir, meta, files, None)
    }

    /// What has come whole and is to be installed. Until that gives it its final name it stays where it is, so that it need
    /// not come again when the install fails.
    pub(super) fn received(turn: Turn, meta: SnapshotMeta, files: Vec<SnapshotFile>) -> Self {
        let dir = turn.dir().to_owned();
        Self::held(dir, meta, files, Some(turn))
    }

    fn held(dir: PathBuf, meta: SnapshotMeta, files: Vec<SnapshotFile>, turn: Option<Turn>) -> Self {
        let (obsolete, shipment) = (AtomicBool::new(false), Arc::default());
        Self { inner: Arc::new(Held { dir, meta, files, obsolete, shipment, _turn: turn }) }
    }

    /// Last log id and membership in the snapshot.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.inner.meta
    }

    /// The files to ship, in any order.
    pub fn files(&self) -> &[SnapshotFile] {
        &self.inner.files
    }

    /// Bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.inner.files.iter().map(|file| file.size).sum()
    }

    /// Opens one of [`files`](Self::files) for reading.
    ///
    /// # Errors
    /// `NotFound` for a name that is not in the list; otherwise the system's answer.
    pub fn open(&self, name: &str) -> std::io::Result<File> {
        if !self.inner.files.iter().any(|file| file.name == name) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::NotFound,
                format!("the snapshot has no file {name:?}"),
            ));
        }
        File::open(self.inner.dir.join(name))
    }

    /// What a receiver must know first: [`SnapshotReceiver::begin`](super::receiver::SnapshotReceiver::begin) reads it.
    pub fn manifest(&self) -> bytes::Bytes {
        encode_manifest(self.meta(), self.files()).into()
    }

    /// Says that it is sent to another member for as long as the answer lives, and lets the sender know when to end.
    pub fn shipping(&self) -> Shipping {
        Shipping::of(&self.inner.shipment)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    pub(super) fn retire(&self) {
        self.inner.obsolete.store(true, Ordering::Release);
    }
}

pub(super) fn encode_manifest(meta: &SnapshotMeta, files: &[SnapshotFile]) -> Vec<u8> {
    let mut out = ManifestRow {
        format: keys::FORMAT,
        last_log_id: meta.last_log_id.as_ref().map(LogIdRow::from),
        membership: Some(MembershipRow::from(&meta.last_membership)),
        files: files.iter().map(|file| FileRow { name: file.name.clone(), size: file.size, crc: file.crc }).collect(),
    }
    .encode_to_vec();
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a manifest and checks everything that can be checked without the files.
pub(super) fn decode_manifest(manifest: &[u8]) -> Result<(SnapshotMeta, Vec<SnapshotFile>), StoreError> {
    let refuse = |why: String| StoreError::Snapshot(why);
    let (row, crc) = manifest.split_last_chunk::<4>().ok_or_else(|| refuse("the manifest is cut short".to_owned()))?;
    if crc32c::crc32c(row) != u32::from_be_bytes(*crc) {
        return Err(refuse("the manifest's checksum does not match".to_owned()));
    }
    let row = ManifestRow::decode(row).map_err(|error| refuse(format!("the manifest does not decode ({error})")))?;
    if row.format > keys::FORMAT {
        return Err(refuse(format!("its format {} is newer than {}; upgrade this member", row.format, keys::FORMAT)));
    }
    if row.files.len() > MAX_FILES {
        return Err(refuse(format!("it lists {} files, more than {MAX_FILES}", row.files.len())));
    }
    let mut seen = std::collections::HashSet::new();
    for file in &row.files {
        if !is_plain_name(&file.name) || !seen.insert(&file.name) {
            return Err(refuse(format!("it lists a file named {:?}", file.name)));
        }
    }
    if row.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.size)).is_none() {
        return Err(refuse("its files are larger than any disk".to_owned()));
    }
    let last_membership = row.membership.unwrap_or_default().try_into()?;
    let meta = SnapshotMeta { last_log_id: row.last_log_id.map(LogId::from), last_membership };
    let files = row.files.into_iter().map(|FileRow { name, size, crc }| SnapshotFile { name, size, crc }).collect();
    Ok((meta, files))
}

/// Names that RocksDB gives: letters, digits, `.`, `_` and `-`, not starting with a dot.
fn is_plain_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name != MANIFEST
        && name != partial::LIST
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The snapshots of one member: where they are, and which one counts.
#[derive(Debug)]
pub(super) struct Snapshots {
    dir: PathBuf,
    current: Mutex<Option<SnapshotFiles>>,
    partial: Arc<Partial>,
    superseded: Superseded,
    /// Makes staging names unique within this process.
    next: AtomicU64,
}

impl Snapshots {
    /// Looks into `dir`: removes what was never finished, takes the newest complete snapshot, drops older ones.
    pub fn open(dir: PathBuf) -> Result<Self, StoreError> {
        files::private_dir(&dir)?;
        let mut current: Option<SnapshotFiles> = None;
        for name in files::names(&dir)? {
            let path = dir.join(&name);
            if name == partial::NAME {
                continue;
            } else if name.starts_with(BUILDING) || name.starts_with(RECEIVING) {
                files::remove_dir(&path)?;
            } else if parse_name(&name).is_some() {
                let manifest = path.join(MANIFEST);
                let manifest = fs::read(&manifest).map_err(StoreError::files("read", manifest))?;
                let (meta, listed) = decode_manifest(&manifest)?;
                // Names sort in log order, so the last one wins.
                let newer = SnapshotFiles::new(path, meta, listed);
                if let Some(older) = current.replace(newer) {
                    older.retire();
                }
            } else {
                let found = "not a snapshot of this store; an etcd data directory has this layout".to_owned();
                return Err(StoreError::Foreign { path, found });
            }
        }
        let partial = Partial::open(&dir, current.as_ref().and_then(|newest| newest.meta().last_log_id))?;
        let (current, superseded) = (Mutex::new(current), Superseded::default());
        Ok(Self { dir, current, partial, superseded, next: AtomicU64::new(0) })
    }

    /// The place for one that is on its way in.
    pub fn partial(&self) -> &Arc<Partial> {
        &self.partial
    }

    /// Those that were superseded and are still being sent.
    pub fn superseded(&self) -> &Superseded {
        &self.superseded
    }

    /// The newest complete snapshot.
    pub fn current(&self) -> Option<SnapshotFiles> {
        self.current.lock().clone()
    }

    /// Whose directory a snapshot lies in.
    pub fn owns(&self, snapshot: &SnapshotFiles) -> Ownership {
        let dir = snapshot.dir();
        let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match () {
            () if dir.parent() != Some(&self.dir) => Ownership::Foreign,
            () if name == partial::NAME => Ownership::Staged,
            () => Ownership::Kept,
        }
    }

    /// A fresh name for a directory that files are copied to.
    pub fn receiving(&self) -> PathBuf {
        self.staging(RECEIVING)
    }

    /// A fresh name for a directory in which a file for clients is made.
    pub fn exporting(&self) -> PathBuf {
        self.staging(BUILDING)
    }

    fn staging(&self, prefix: &str) -> PathBuf {
        self.dir.join(format!("{prefix}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes a checkpoint of `database` and makes it the current snapshot, unless a newer one came in between. The
    /// checkpoint flushes, so afterwards the live state is durable at least up to the snapshot's id. Blocks on the disk.
    pub fn build(&self, database: &Database) -> Result<SnapshotFiles, StoreError> {
        let staging = self.staging(BUILDING);
        let built = self.checkpoint(database, &staging);
        if built.is_err() {
            files::remove_dir(&staging)?;
        }
        let (meta, listed) = built?;
        self.publish(&staging, meta, listed)
    }

    fn checkpoint(&self, database: &Database, staging: &Path) -> Result<(SnapshotMeta, Vec<SnapshotFile>), StoreError> {
        // Flushing beforehand leaves little for the flush inside the checkpoint.
        database.flush()?;
        Checkpoint::new(database.engine())
            .and_then(|checkpoint| checkpoint.create_checkpoint(staging))
            .map_err(StoreError::engine("take a checkpoint"))?;
        // What the checkpoint holds is what it says itself: entries may have been applied while it was made.
        let (progress, last_membership) = Database::inspect(staging)?;
        let meta = SnapshotMeta { last_log_id: progress.applied.map(log_id), last_membership };
        let listed = self.list(staging)?;
        Ok((meta, listed))
    }

    /// Sizes and checksums of a checkpoint's files. A table file that the current snapshot has too, the same inode, was
    /// summed before.
    fn list(&self, staging: &Path) -> Result<Vec<SnapshotFile>, StoreError> {
        let known: HashMap<u64, u32> = match self.current() {
            Some(current) => current
                .files()
                .iter()
                .filter(|file| file.name.ends_with(".sst"))
                .filter_map(|file| Some((fs::metadata(current.dir().join(&file.name)).ok()?.ino(), file.crc)))
                .collect(),
            None => HashMap::new(),
        };
        let mut listed = Vec::new();
        for name in files::names(staging)? {
            let path = staging.join(&name);
            let found = fs::metadata(&path).map_err(StoreError::files("look at", &path))?;
            if is_left_out(&name) {
                fs::remove_file(&path).map_err(StoreError::files("remove", &path))?;
                continue;
            }
            let crc = match known.get(&found.ino()) {
                Some(crc) => *crc,
                None => checksum(&path)?,
            };
            listed.push(SnapshotFile { name, size: found.len(), crc });
        }
        Ok(listed)
    }

    /// Gives a complete staging directory its manifest and final name, and makes it current unless a newer one is.
    pub fn publish(
        &self,
        staging: &Path,
        meta: SnapshotMeta,
        listed: Vec<SnapshotFile>,
    ) -> Result<SnapshotFiles, StoreError> {
        let manifest = staging.join(MANIFEST);
        files::replace(&manifest, &encode_manifest(&meta, &listed))?;
        for file in &listed {
            files::sync(&staging.join(&file.name))?;
        }
        files::sync(staging)?;
        let mut current = self.current.lock();
        if let Some(newer) = current.as_ref().filter(|current| current.meta().last_log_id >= meta.last_log_id) {
            files::remove_dir(staging)?;
            return Ok(newer.clone());
        }
        let dir = self.dir.join(name_of(meta.last_log_id.as_ref()));
        files::rename(staging, &dir)?;
        // Of one that was received. After the rename: a crash before it goes on with what is there.
        let _nothing_if_built = fs::remove_file(dir.join(partial::LIST));
        let published = SnapshotFiles::new(dir, meta, listed);
        if let Some(older) = current.replace(published.clone()) {
            older.retire();
            self.superseded.add(&older.inner.shipment);
            self.superseded.bound(false);
        }
        Ok(published)
    }
}

/// RocksDB's own log and lock files say nothing about the state.
fn is_left_out(name: &str) -> bool {
    name == "LOCK" || name == "LOG" || name.starts_with("LOG.old")
}

fn name_of(id: Option<&LogId>) -> String {
    let (index, term) = id.map_or((0, 0), |id| (id.index, *id.leader_id));
    format!("{index:020}-{term:020}")
}

fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (index, term) = name.split_once('-')?;
    (index.len() == 20 && term.len() == 20).then_some(())?;
    Some((index.parse().ok()?, term.parse().ok()?))
}

/// CRC-32C of a whole file.
pub(super) fn checksum(path: &Path) -> Result<u32, StoreError> {
    let mut file = File::open(path).map_err(StoreError::files("open", path))?;
    let mut buffer = vec![0; CHUNK];
    let mut crc = 0;
    loop {
        let read = file.read(&mut buffer).map_err(StoreError::files("read", path))?;
        if read == 0 {
            return Ok(crc);
        }
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_add_up_to_a_number_are_refused() {
        let file = |name: &str, size| SnapshotFile { name: name.to_owned(), size, crc: 0 };
        let listed = [file("1.sst", u64::MAX), file("2.sst", 2)];
        let refusal = decode_manifest(&encode_manifest(&SnapshotMeta::default(), &listed)).expect_err("too large");
        assert!(refusal.to_string().contains("larger than any disk"), "{refusal}");
        let (_, read) = decode_manifest(&encode_manifest(&SnapshotMeta::default(), &listed[1..])).expect("it fits");
        assert_eq!(read, listed[1..]);
    }
}
