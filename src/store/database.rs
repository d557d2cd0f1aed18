//! One opened RocksDB with its position: the marks that tell readers, without a lock, which revision they see.
//!
//! # How a read is consistent while apply writes
//!
//! One thread writes. Around each batch it raises [`Marks::writing`] to the batch's last revision, writes the batch
//! atomically, then raises [`Marks::revision`]. A reader first loads `revision` as R, then reads. If the state it read
//! could be newer than R, it shows: a record's modification revision exceeds R, or `writing` does not equal R any more
//! after the iterator was made. Then the reader answers from the undo log at R, where nothing ever changes. So no
//! RocksDB snapshot is held, and reads at R are exact at any moment.
//!
//! A snapshot install replaces the whole [`Database`]; readers keep the one they started with until they end.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{Cache, ColumnFamily, DB, DBRawIterator, FlushOptions, ReadOptions, WriteBatch, WriteOptions};

use super::error::StoreError;
use super::keys::{self, Dropped, Progress, meta};
use super::layers::{Layer, Layers};
use super::options::{self, StoreOptions};
use super::recent::Recent;
use super::{auth, files, records};
use crate::model::auth::Auth;
use crate::model::record::Record;
use crate::model::v2::Head;
use crate::model::view::{Alarm, KeyRange};
use crate::raft::types::StoredMembership;

/// What changes rarely and is small enough to be shared whole.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub membership: StoredMembership,
    pub removed: BTreeSet<u64>,
    pub alarms: Vec<Alarm>,
    pub cluster_version: String,
    pub auth: Arc<Auth>,
}

/// The lock-free position of a database. See the module comment for the order in which they move.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Last revision of the batch that is being written, or was written last.
    pub writing: AtomicI64,
    /// Current revision: everything up to it is readable.
    pub revision: AtomicI64,
    /// Compaction revision, -1 = never.
    pub compacted: AtomicI64,
    /// Size accounts, see [`keys::live_bytes`] and [`keys::superseded_bytes`].
    pub live: AtomicU64,
    pub superseded: AtomicU64,
    pub dropped: AtomicU64,
    /// The compaction revision that `dropped` was counted up to.
    pub dropped_below: AtomicI64,
    pub allocated: AtomicU64,
    /// Index of the v2 keyspace: everything up to it is readable.
    pub v2_index: AtomicU64,
    /// Whether v2 authentication is on.
    pub v2_auth: AtomicBool,
}

impl Marks {
    /// What requests of v2 must know first.
    pub fn v2(&self) -> Head {
        Head { index: self.v2_index.load(Ordering::SeqCst), auth_is_on: self.v2_auth.load(Ordering::SeqCst) }
    }

    /// Moves it. The switch first: whoever sees what came after a change of it sees the change.
    pub fn set_v2(&self, head: Head) {
        self.v2_auth.store(head.auth_is_on, Ordering::SeqCst);
        self.v2_index.store(head.index, Ordering::SeqCst);
    }
}

/// What a database is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// To be this member's state, from nothing.
    Create,
    /// To be this member's state.
    Own,
    /// To be read while nobody writes.
    Frozen,
}

/// The file that makes a directory a RocksDB.
const CURRENT: &str = "CURRENT";

/// Block cache for reading a checkpoint once, bytes.
const FROZEN_CACHE: usize = 4 << 20;

/// An open state. Shared by the apply thread, readers and the housekeeper.
pub(super) struct Database {
    db: DB,
    dir: PathBuf,
    pub marks: Marks,
    pub facts: ArcSwap<Facts>,
    /// Last applied (term, index).
    pub applied: Mutex<Option<(u64, u64)>>,
    /// What apply wrote lately; only apply uses it.
    pub recent: Mutex<Recent<Record>>,
    /// v2 rows that were written or read lately; see [`Database::v2_row`].
    pub recent_v2: Mutex<Recent<Bytes>>,
    /// Where the layers of history begin.
    pub layers: Mutex<Layers>,
    /// History and version rows below it are garbage, which may be less than what is compacted (see `layers.rs`); shared
    /// with the compaction filters.
    pub floor: Arc<AtomicI64>,
    /// Set when another state took this one's place: the last user removes the directory.
    obsolete: AtomicBool,
    reads: ReadOptions,
    writes: WriteOptions,
}

impl Database {
    /// Opens the RocksDB in `dir`. With `create`, an empty directory becomes an empty state.
    pub fn open(dir: &Path, options: &StoreOptions, create: bool) -> Result<Self, StoreError> {
        Self::open_as(dir, options, if create { Access::Create } else { Access::Own })
    }

    /// Opens a checkpoint to read all of it once; nothing in `dir` changes.
    pub fn open_frozen(dir: &Path) -> Result<Self, StoreError> {
        let options = StoreOptions { block_cache: FROZEN_CACHE, write_buffers: 0, ..StoreOptions::default() };
        Self::open_as(dir, &options, Access::Frozen)
    }

    fn open_as(dir: &Path, options: &StoreOptions, access: Access) -> Result<Self, StoreError> {
        let create = access == Access::Create;
        // Write buffers are charged to the cache, so it must have room for both.
        let cache = Cache::new_lru_cache(options.block_cache + options.write_buffers);
        let floor = Arc::new(AtomicI64::new(0));
        let direct = access != Access::Frozen && files::takes_direct_io(dir, CURRENT);
        let settings = options::database(options, &cache, create, direct)?;
        if !create {
            refuse_unknown_families(&settings, dir)?;
        }
        let families = options::families(options, &cache, &floor);
        let db = match access {
            Access::Frozen => DB::open_cf_descriptors_read_only(&settings, dir, families, false),
            Access::Create | Access::Own => DB::open_cf_descriptors(&settings, dir, families),
        }
        .map_err(StoreError::engine("open the state"))?;
        let mut writes = WriteOptions::default();
        writes.disable_wal(true);
        let database = Self {
            db,
            dir: dir.to_owned(),
            marks: Marks::default(),
            facts: ArcSwap::default(),
            applied: Mutex::default(),
            recent: Mutex::default(),
            recent_v2: Mutex::default(),
            layers: Mutex::default(),
            floor,
            obsolete: AtomicBool::new(false),
            reads: ReadOptions::default(),
            writes,
        };
        database.load(access)?;
        Ok(database)
    }

    /// Opens a checkpoint only to look into its `meta` rows, and returns its position.
    pub fn inspect(dir: &Path) -> Result<(Progress, StoredMembership), StoreError> {
        let options = rocksdb::Options::default();
        let db = DB::open_cf_for_read_only(&options, dir, keys::FAMILIES, false)
            .map_err(StoreError::engine("open a snapshot"))?;
        let meta_family = db
            .cf_handle(keys::META)
            .ok_or_else(|| StoreError::Incomplete { path: dir.to_owned(), missing: "the meta family".to_owned() })?;
        let row = |name: &[u8]| db.get_cf(meta_family, name).map_err(StoreError::engine("read a snapshot"));
        check_format(dir, row(meta::FORMAT)?.as_deref())?;
        let progress = row(meta::PROGRESS)?.map(|row| Progress::decode(&row)).transpose()?;
        let membership = row(meta::MEMBERSHIP)?.map(|row| records::decode_membership(&row)).transpose()?;
        Ok((progress.unwrap_or_default(), membership.unwrap_or_default()))
    }

    /// Reads the `meta` rows into the marks. A state without rows is new: revision 1, never compacted.
    fn load(&self, access: Access) -> Result<(), StoreError> {
        let progress = self.meta(meta::PROGRESS)?.map(|row| Progress::decode(&row)).transpose()?;
        let format = self.meta(meta::FORMAT)?;
        if format.is_some() || progress.is_some() {
            check_format(&self.dir, format.as_deref())?;
        }
        let progress = progress.unwrap_or(Progress { revision: 1, ..Progress::default() });
        let mut layers = Layers::stored(self.layers()?);
        if access != Access::Frozen {
            let mut batch = WriteBatch::default();
            // Rows of an older format stay as they are, but what is written from here on needs this one.
            if format.as_deref() != Some(&keys::FORMAT.to_be_bytes()) {
                batch.put_cf(self.family(keys::META), meta::FORMAT, keys::FORMAT.to_be_bytes());
            }
            // Also where rows were written before there were layers: none of those is pointed to.
            if let Some(layer) = layers.begin(progress.revision) {
                batch.put_cf(self.family(keys::META), keys::layer_key(layer.start), layer.encode());
            }
            if !batch.is_empty() {
                self.write(batch)?;
            }
        }
        let number = |row: Bytes| keys::numbers_of::<1>(&row, "number").map(|[number]| number);
        let dropped = self.meta(meta::DROPPED)?.map(|row| Dropped::decode(&row)).transpose()?.unwrap_or_default();
        let compacted = self.meta(meta::COMPACTED)?.map(number).transpose()?.map_or(-1, |n| n as i64);
        let marks = &self.marks;
        marks.writing.store(progress.revision, Ordering::SeqCst);
        marks.revision.store(progress.revision, Ordering::SeqCst);
        marks.compacted.store(compacted, Ordering::SeqCst);
        marks.live.store(progress.live, Ordering::SeqCst);
        marks.superseded.store(progress.superseded, Ordering::SeqCst);
        marks.dropped.store(dropped.bytes, Ordering::SeqCst);
        marks.dropped_below.store(dropped.floor, Ordering::SeqCst);
        self.floor.store(layers.kept_from(dropped.floor), Ordering::SeqCst);
        *self.layers.lock() = layers;
        let mut head = Head::default();
        for key in Head::ROWS {
            head.take_in(key, self.get(keys::V2, key)?.as_ref()).map_err(|_| keys::Damaged("v2 index"))?;
        }
        marks.set_v2(head);
        let allocated = self.meta(meta::ALLOCATED)?.map(number).transpose()?.unwrap_or_default();
        marks.allocated.store(allocated.max(super::size::pages(self.in_use())), Ordering::SeqCst);
        *self.applied.lock() = progress.applied;
        let membership = self.meta(meta::MEMBERSHIP)?.map(|row| records::decode_membership(&row)).transpose()?;
        self.facts.store(Arc::new(Facts {
            membership: membership.unwrap_or_default(),
            removed: self.meta(meta::REMOVED)?.map(|row| records::decode_ids(&row)).transpose()?.unwrap_or_default(),
            alarms: self.meta(meta::ALARMS)?.map(|row| records::decode_alarms(&row)).transpose()?.unwrap_or_default(),
            cluster_version: self
                .meta(meta::CLUSTER_VERSION)?
                .map(|row| String::from_utf8_lossy(&row).into_owned())
                .unwrap_or_default(),
            auth: Arc::new(auth::load(self)?),
        }));
        Ok(())
    }

    /// The layers of history, oldest first.
    fn layers(&self) -> Result<Vec<Layer>, StoreError> {
        let mut layers = Vec::new();
        let end = keys::after_prefix(meta::LAYER);
        try_walk::<StoreError>(self.rows(keys::META, meta::LAYER, end.as_deref()), &mut |key, row| {
            layers.push(Layer::decode(keys::parse_layer_key(key)?, row)?);
            Ok(())
        })?;
        Ok(layers)
    }

    /// The column family `name`, one of [`keys::FAMILIES`].
    pub fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("the state was opened with all of its families")
    }

    /// The engine, for checkpoints.
    pub fn engine(&self) -> &DB {
        &self.db
    }

    /// Where this state lives.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// This state was replaced; its directory goes when the last user does.
    pub fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// Live and superseded bytes still kept, plus what an empty store is said to take.
    pub fn in_use(&self) -> u64 {
        super::size::EMPTY + self.marks.live.load(Ordering::Acquire) + self.superseded()
    }

    /// Bytes of what changes replaced and compaction has not dropped yet.
    pub fn superseded(&self) -> u64 {
        self.marks.superseded.load(Ordering::Acquire).saturating_sub(self.marks.dropped.load(Ordering::Acquire))
    }

    /// Writes a batch: all of it or nothing. It becomes durable with the next flush.
    pub fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.db.write_opt(batch, &self.writes).map_err(StoreError::engine("write a batch"))
    }

    /// Bytes that are in memory only: what a flush would write.
    pub fn unflushed(&self) -> u64 {
        keys::FAMILIES.iter().map(|name| self.in_memory(name, rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES)).sum()
    }

    /// Bytes in the write buffer of a family that still takes rows.
    pub fn in_buffer(&self, family: &str) -> u64 {
        self.in_memory(family, rocksdb::properties::CUR_SIZE_ACTIVE_MEM_TABLE)
    }

    fn in_memory(&self, family: &str, property: &rocksdb::properties::PropName) -> u64 {
        self.db.property_int_value_cf(self.family(family), property).ok().flatten().unwrap_or(0)
    }

    /// Lets RocksDB merge table files by itself, or stops it from starting further merges.
    pub fn set_merging(&self, on: bool) -> Result<(), StoreError> {
        let off = if on { "false" } else { "true" };
        keys::FAMILIES.iter().try_for_each(|name| {
            let set = self.db.set_options_cf(self.family(name), &[("disable_auto_compactions", off)]);
            set.map_err(StoreError::engine("switch RocksDB's merging"))
        })
    }

    /// Makes everything written so far durable, all families at one point.
    pub fn flush(&self) -> Result<(), StoreError> {
        let families: Vec<_> = keys::FAMILIES.iter().map(|name| self.family(name)).collect();
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        self.db.flush_cfs_opt(&families, &wait).map_err(StoreError::engine("flush the state"))
    }

    /// A value, copied out of the engine.
    pub fn get(&self, family: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self
            .db
            .get_pinned_cf_opt(self.family(family), key, &self.reads)
            .map_err(StoreError::engine("read the state"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// A v2 row as it is now, from memory where it was met lately.
    pub fn v2_row(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let mut recent = self.recent_v2.lock();
        if let Some(found) = recent.renewed(key) {
            return Ok(found.clone());
        }
        let since = recent.written();
        drop(recent);
        let stored = self.get(keys::V2, key)?;
        self.recent_v2.lock().put_read(key, stored.clone(), since);
        Ok(stored)
    }

    fn meta(&self, name: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get(keys::META, name)
    }

    /// An iterator over `from..to` of a family, positioned on the first row. The state it shows is that of now.
    pub fn rows(&self, family: &str, from: &[u8], to: Option<&[u8]>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut rows = self.db.raw_iterator_cf_opt(self.family(family), options);
        rows.seek(from);
        rows
    }

    /// An iterator over the live versions of `range`.
    pub fn live(&self, range: &KeyRange) -> DBRawIterator<'_> {
        match range {
            KeyRange::One(key) => {
                let end = [key.as_ref(), &[0]].concat();
                self.rows(keys::LATEST, key, Some(&end))
            }
            KeyRange::Span { start, end } => self.rows(keys::LATEST, start, end.as_deref()),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.db.cancel_all_background_work(true);
            if let Err(error) = std::fs::remove_dir_all(&self.dir) {
                tracing::warn!(path = %self.dir.display(), %error, "could not remove a replaced state; the next start does");
            }
        }
    }
}

/// Calls `visit` with each row from where `rows` stands, until it breaks.
pub(super) fn walk(
    mut rows: DBRawIterator<'_>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    while let Some((key, value)) = rows.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(StoreError::engine("scan the state"))
}

/// [`walk`] with a visitor that may fail: the first failure ends it.
pub(super) fn try_walk<E: From<StoreError>>(
    rows: DBRawIterator<'_>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut failed = None;
    walk(rows, &mut |key, value| match visit(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn check_format(dir: &Path, found: Option<&[u8]>) -> Result<(), StoreError> {
    let found = found
        .and_then(|row| row.try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or_else(|| StoreError::Incomplete { path: dir.to_owned(), missing: "the format row".to_owned() })?;
    if found > keys::FORMAT {
        return Err(StoreError::Newer { path: dir.to_owned(), found, known: keys::FORMAT });
    }
    Ok(())
}

fn refuse_unknown_families(settings: &rocksdb::Options, dir: &Path) -> Result<(), StoreError> {
    let found = DB::list_cf(settings, dir).map_err(StoreError::engine("list the families of the state"))?;
    match found.iter().find(|name| *name != "default" && !keys::FAMILIES.contains(&name.as_str())) {
        Some(name) => {
            Err(StoreError::Foreign { path: dir.to_owned(), found: format!("an unknown column family {name:?}") })
        }
        None => Ok(()),
    }
}
