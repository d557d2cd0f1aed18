//! One opened RocksDB with its position: the marks that tell readers, without a lock, which revision they see.
//!
//! # How a read is consistent while apply writes
//!
//! One thread applies. It writes each batch atomically, notes its changes in the [`Tail`], then raises
//! [`Marks::revision`]. A reader first loads `revision` as R, then reads, and takes of each key what it was at R: from
//! the tail, which knows every change that is not in the families `latest` and `vidx` yet, else from `latest`, unless
//! that could hold something newer: then from the undo log, where nothing ever changes. It could, if [`Marks::spilling`]
//! is above R once `latest` was read. So no RocksDB snapshot is held, and reads at R are exact at any moment.
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
use super::keys::{self, Damaged, Dropped, HistoryRow, Progress, meta};
use super::options::{self, StoreOptions};
use super::records;
use super::tail::{Noted, Tail};
use crate::model::record::Record;
use crate::model::view::{Alarm, KeyRange};
use crate::raft::types::StoredMembership;

/// What changes rarely and is small enough to be shared whole.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub membership: StoredMembership,
    pub removed: BTreeSet<u64>,
    pub alarms: Vec<Alarm>,
    pub cluster_version: String,
}

/// The lock-free position of a database. See the module comment for the order in which they move.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Last revision of the changes that are being spilled into `latest` and `vidx`, or were spilled last.
    pub spilling: AtomicI64,
    /// `latest` and `vidx` are complete up to this revision.
    pub indexed: AtomicI64,
    /// Current revision: everything up to it is readable.
    pub revision: AtomicI64,
    /// Compaction revision, -1 = never.
    pub compacted: AtomicI64,
    /// Size accounts, see [`keys::live_bytes`] and [`keys::superseded_bytes`].
    pub live: AtomicU64,
    pub superseded: AtomicU64,
    pub dropped: AtomicU64,
    pub allocated: AtomicU64,
}

/// An open state. Shared by the apply thread, readers and the housekeeper.
pub(super) struct Database {
    db: DB,
    dir: PathBuf,
    pub marks: Marks,
    pub facts: ArcSwap<Facts>,
    /// Last applied (term, index).
    pub applied: Mutex<Option<(u64, u64)>>,
    /// What is not in `latest` and `vidx` yet.
    pub tail: Tail,
    /// Held by whoever spills.
    pub(super) spill: Mutex<()>,
    /// Version rows below it are garbage; shared with a compaction filter.
    pub floor: Arc<AtomicI64>,
    /// History rows below it are garbage; shared with a compaction filter.
    pub history_floor: Arc<AtomicI64>,
    /// Set when another state took this one's place: the last user removes the directory.
    obsolete: AtomicBool,
    reads: ReadOptions,
    writes: WriteOptions,
}

impl Database {
    /// Opens the RocksDB in `dir`. With `create`, an empty directory becomes an empty state.
    pub fn open(dir: &Path, options: &StoreOptions, create: bool) -> Result<Self, StoreError> {
        // Write buffers are charged to the cache, so it must have room for both.
        let cache = Cache::new_lru_cache(options.block_cache + options.write_buffers);
        let (floor, history_floor) = <(Arc<AtomicI64>, Arc<AtomicI64>)>::default();
        let settings = options::database(options, &cache, create)?;
        if !create {
            refuse_unknown_families(&settings, dir)?;
        }
        let db = DB::open_cf_descriptors(&settings, dir, options::families(options, &cache, &floor, &history_floor))
            .map_err(StoreError::engine("open the state"))?;
        let mut writes = WriteOptions::default();
        writes.disable_wal(true);
        let database = Self {
            db,
            dir: dir.to_owned(),
            marks: Marks::default(),
            facts: ArcSwap::default(),
            applied: Mutex::default(),
            tail: Tail::new(options.tail),
            spill: Mutex::default(),
            floor,
            history_floor,
            obsolete: AtomicBool::new(false),
            reads: ReadOptions::default(),
            writes,
        };
        database.load()?;
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
    fn load(&self) -> Result<(), StoreError> {
        let progress = self.meta(meta::PROGRESS)?.map(|row| Progress::decode(&row)).transpose()?;
        let number = |row: Bytes| keys::numbers_of::<1>(&row, "number").map(|[number]| number);
        let indexed = self.meta(meta::INDEXED)?.map(number).transpose()?.map(|n| n as i64);
        let found = self.meta(meta::FORMAT)?;
        if found.is_some() || progress.is_some() {
            check_format(&self.dir, found.as_deref())?;
        }
        let progress = progress.unwrap_or(Progress { revision: 1, ..Progress::default() });
        let indexed = match indexed {
            Some(indexed) => indexed,
            None => {
                let mut batch = WriteBatch::default();
                batch.put_cf(self.family(keys::META), meta::FORMAT, keys::FORMAT.to_be_bytes());
                batch.put_cf(self.family(keys::META), meta::INDEXED, progress.revision.to_be_bytes());
                batch.put_cf(self.family(keys::META), keys::layer_key(progress.revision), []);
                self.write(batch)?;
                progress.revision
            }
        };
        let dropped = self.meta(meta::DROPPED)?.map(|row| Dropped::decode(&row)).transpose()?.unwrap_or_default();
        let compacted = self.meta(meta::COMPACTED)?.map(number).transpose()?.map_or(-1, |n| n as i64);
        let marks = &self.marks;
        marks.spilling.store(indexed, Ordering::SeqCst);
        marks.indexed.store(indexed, Ordering::SeqCst);
        marks.revision.store(progress.revision, Ordering::SeqCst);
        marks.compacted.store(compacted, Ordering::SeqCst);
        marks.live.store(progress.live, Ordering::SeqCst);
        marks.superseded.store(progress.superseded, Ordering::SeqCst);
        marks.dropped.store(dropped.bytes, Ordering::SeqCst);
        self.floor.store(dropped.floor, Ordering::SeqCst);
        self.history_floor.store(self.history_floor(dropped.floor)?, Ordering::SeqCst);
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
        }));
        self.note_since(indexed, progress.revision, dropped.floor)
    }

    /// Notes every change of the revisions above `indexed` up to `revision` in the tail, from history.
    fn note_since(&self, indexed: i64, revision: i64, floor: i64) -> Result<(), StoreError> {
        const WHAT: Damaged = Damaged("history");
        self.tail.begin(indexed);
        let mut last = indexed;
        let mut outcome = if indexed + 1 < floor { Err(WHAT) } else { Ok(()) };
        walk(self.rows(keys::HISTORY, &keys::revision_key(indexed + 1, 0), None), &mut |key, stored| {
            let step = outcome.and_then(|()| keys::parse_revision(key)).and_then(|(main, sub)| {
                let row = HistoryRow::decode(stored)?;
                // A revision has a change at least, so one that is missing shows.
                let follows = (main == last && sub > 0) || (main == last + 1 && sub == 0);
                if !follows || main > revision {
                    return Err(WHAT);
                }
                last = main;
                let after = row.after.map(|after| Record::from_stored(Bytes::copy_from_slice(after)));
                let noted = Noted { key: row.key, revision: (main, sub), after: after.as_ref(), history: stored.len() };
                self.tail.gather(std::iter::once(noted));
                Ok(())
            });
            outcome = step;
            if outcome.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        outcome?;
        if last != revision { Err(WHAT.into()) } else { Ok(()) }
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
        let marks = &self.marks;
        let kept = marks.superseded.load(Ordering::Acquire).saturating_sub(marks.dropped.load(Ordering::Acquire));
        super::size::EMPTY + marks.live.load(Ordering::Acquire) + kept
    }

    /// Writes a batch: all of it or nothing. It becomes durable with the next flush.
    pub fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.db.write_opt(batch, &self.writes).map_err(StoreError::engine("write a batch"))
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

    /// An iterator over the versions of `range` that are in `latest`.
    pub fn latest(&self, range: &KeyRange) -> DBRawIterator<'_> {
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
