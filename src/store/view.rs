//! The state as one request sees it: [`StoreView`], exact at the revision it was taken at.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rocksdb::{DBRawIterator, ReadOptions, SnapshotWithThreadMode};

use super::database::{Database, walk};
use super::error::StoreError;
use super::keys;
use super::leases;
use crate::model::auth::Auth;
use crate::model::record::Record;
use crate::model::view::{Alarm, KeyRange, Lease, View, ViewError, Visit};

/// Holds back the removal of old versions for as long as a clone lives, and keeps the database open.
///
/// The compactor replaces the store's era after the compaction revision was published, and waits until nobody holds the
/// old one. Whoever takes an era reads the compaction revision after that, so what it may read is still there.
pub(super) struct Era {
    pub database: Arc<Database>,
}

/// A point-in-time view: key-value reads answer at [`View::revision`] however long it lives and whatever is written
/// meanwhile. Cheap to make; it holds back compaction, so it should not outlive its request.
///
/// Leases, alarms and the cluster version carry no revision and are read as they are now. The v2 keyspace is frozen at
/// the first v2 read.
pub struct StoreView {
    // Before `era`, which keeps alive the database that the snapshot points into.
    frozen: OnceLock<Frozen>,
    era: Arc<Era>,
    revision: i64,
    compacted: i64,
}

impl StoreView {
    pub(super) fn new(era: Arc<Era>) -> Self {
        let marks = &era.database.marks;
        let compacted = marks.compacted.load(Ordering::SeqCst);
        let revision = marks.revision.load(Ordering::SeqCst);
        Self { frozen: OnceLock::new(), era, revision, compacted }
    }

    pub(super) fn database(&self) -> &Database {
        &self.era.database
    }

    /// Whether what was just read can hold nothing newer than this view's revision.
    fn is_current(&self) -> bool {
        self.database().marks.writing.load(Ordering::SeqCst) == self.revision
    }

    fn frozen(&self) -> &Frozen {
        self.frozen.get_or_init(|| Frozen::new(&self.era.database))
    }

    fn each(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        let rows = self.database().live(range);
        // The iterator froze its state when it was made: a batch that began later is not in it.
        if self.is_current() { walk(rows, visit) } else { self.database().scan_at(range, self.revision, visit) }
    }
}

impl View for StoreView {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn get(&self, key: &[u8]) -> Result<Option<Record>, ViewError> {
        let live = self.database().get(keys::LATEST, key)?;
        let exact = match &live {
            Some(record) => keys::mod_revision(record)? <= self.revision,
            None => self.is_current(),
        };
        let found = if exact { live } else { self.database().version_at(key, self.revision)? };
        Ok(found.map(Record::from_stored))
    }

    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, ViewError> {
        Ok(self.database().version_at(key, revision)?.map(Record::from_stored))
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        Ok(self.each(range, &mut |_, record| visit(Record::from_stored(Bytes::copy_from_slice(record))))?)
    }

    fn scan_at(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        if revision == self.revision {
            return self.scan(range, visit);
        }
        if range.is_empty() {
            return Ok(());
        }
        let visit = &mut |_: &[u8], record: &[u8]| visit(Record::from_stored(Bytes::copy_from_slice(record)));
        Ok(self.database().scan_at(range, revision, visit)?)
    }

    fn count(&self, range: &KeyRange) -> Result<i64, ViewError> {
        let mut count = 0;
        self.each(range, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    fn lease(&self, id: i64) -> Result<Option<Lease>, ViewError> {
        Ok(leases::lease(self.database(), id)?)
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        Ok(leases::keys_of(self.database(), id)?)
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.database().facts.load().alarms.clone()
    }

    fn cluster_version(&self) -> String {
        self.database().facts.load().cluster_version.clone()
    }

    fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.database().facts.load().auth)
    }

    fn v2_latest(&self, key: &[u8]) -> Result<Option<(u64, Bytes)>, ViewError> {
        let database = self.database();
        // In this order: the row holds everything up to the index, or more.
        let reached = database.marks.v2_index.load(Ordering::SeqCst);
        Ok(database.v2_row(key)?.map(|row| (reached, row)))
    }

    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.frozen().get(keys::V2, key)?)
    }

    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        let end = keys::after_prefix(prefix);
        Ok(walk(self.frozen().rows(keys::V2, prefix, end.as_deref()), visit)?)
    }
}

/// A RocksDB snapshot that owns a share of its database.
struct Frozen {
    // Declared first, so dropped first.
    snapshot: SnapshotWithThreadMode<'static, rocksdb::DB>,
    database: Arc<Database>,
}

impl Frozen {
    fn new(database: &Arc<Database>) -> Self {
        let database = Arc::clone(database);
        // SAFETY: the reference points into the allocation that `database` shares, which neither moves nor is freed
        // while this struct lives; the snapshot is dropped before that share and never leaves this struct.
        let engine: &'static rocksdb::DB = unsafe { &*std::ptr::from_ref(database.engine()) };
        Self { snapshot: engine.snapshot(), database }
    }

    fn get(&self, family: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.snapshot.get_cf(self.database.family(family), key);
        Ok(found.map_err(StoreError::engine("read the state"))?.map(Bytes::from))
    }

    fn rows(&self, family: &str, from: &[u8], to: Option<&[u8]>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut rows = self.snapshot.raw_iterator_cf_opt(self.database.family(family), options);
        rows.seek(from);
        rows
    }
}
