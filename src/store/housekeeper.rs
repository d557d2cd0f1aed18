//! The background thread of the store: drops compacted history, flushes in time, and watches for background errors.
//!
//! Physical compaction to revision R: wait until no reader is left that may look below R (the [`Era`] is renewed after R
//! was published), count the bytes that go, spill the tail up to R, record R as the floor and flush both, and only then
//! let anything disappear: whole files from the front of `hist`, the rest by compaction filters. A crash at any step
//! repeats it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rocksdb::{CompactOptions, WriteBatch};

use super::database::{Database, walk};
use super::error::{StoreError, fatal};
use super::keys::{self, Dropped, HistoryRow, meta};
use super::reader::Shared;
use super::size;
use super::view::Era;
use super::worker::{Signal, Worker};

/// Rows counted between two looks at the stop flag, with a pause after each such piece.
const ROWS_PER_PIECE: usize = 4096;
/// The pause: keeps counting below half of one core.
const PAUSE: Duration = Duration::from_millis(1);
/// How often the compactor looks whether old readers are gone.
const READER_POLL: Duration = Duration::from_millis(2);
/// Dropped versions after which the version index is merged at once instead of when RocksDB gets to it.
const VERSIONS_TO_MERGE: u64 = 1_000_000;

/// Starts the thread.
pub(super) fn start(shared: Arc<Shared>) -> Result<Worker, StoreError> {
    Worker::start("store-keeper", move |signal| {
        Keeper { shared, signal, flushed: 0, flushed_at: Instant::now(), versions: 0 }.run();
    })
}

struct Keeper {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    /// `applied_next` at the last flush, and when that was.
    flushed: u64,
    flushed_at: Instant,
    /// Versions dropped since the index was merged last.
    versions: u64,
}

impl Keeper {
    fn run(mut self) {
        while !self.stopped() {
            let database = self.shared.database();
            if background_errors(&database) > 0 {
                fatal("RocksDB failed in the background", &"see the engine's LOG file in the state directory");
            }
            if let Err(error) = self.flush_if_due(&database).and_then(|()| self.compact(&database)) {
                fatal("housekeeping of the state failed", &error);
            }
            drop(database);
            self.signal.wait(Some(self.shared.options.housekeeping));
        }
    }

    fn stopped(&self) -> bool {
        self.signal.stopped()
    }

    /// Bounds what a crash makes us replay.
    fn flush_if_due(&mut self, database: &Database) -> Result<(), StoreError> {
        let applied = self.shared.applied_next.durable();
        let pending = applied.saturating_sub(self.flushed);
        let options = &self.shared.options;
        let late = self.flushed_at.elapsed() >= options.flush_after;
        if pending >= options.flush_after_entries || (late && pending > 0) {
            database.flush()?;
            self.flushed = applied;
            self.flushed_at = Instant::now();
        } else if late {
            self.flushed_at = Instant::now();
        }
        Ok(())
    }

    fn compact(&mut self, database: &Arc<Database>) -> Result<(), StoreError> {
        let floor = database.marks.compacted.load(Ordering::SeqCst);
        let old = database.floor.load(Ordering::Acquire);
        if floor <= old {
            // A wait for a compaction that an earlier life of this state finished ends here.
            self.shared.dropped_below.advance(u64::try_from(old).unwrap_or(0));
            return Ok(());
        }
        if !self.wait_for_readers(database) {
            return Ok(());
        }
        let Some((rows, bytes)) = self.measure(database, old, floor)? else { return Ok(()) };
        // What the tail would be made of again must not go before it is in its families.
        database.spill_until(floor)?;
        let dropped = Dropped { floor, bytes: database.marks.dropped.load(Ordering::Acquire) + bytes };
        let mut batch = WriteBatch::default();
        batch.put_cf(database.family(keys::META), meta::DROPPED, dropped.encode());
        let history_floor = database.history_floor(floor)?;
        database.forget_layers(floor, &mut batch)?;
        database.write(batch)?;
        database.flush()?;
        database.marks.dropped.store(dropped.bytes, Ordering::Release);
        database.floor.store(floor, Ordering::Release);
        database.history_floor.store(history_floor, Ordering::Release);
        database.drop_history(history_floor)?;
        self.versions += rows;
        if self.versions >= VERSIONS_TO_MERGE {
            database.merge(keys::VERSIONS);
            self.versions = 0;
        }
        self.shared.dropped_below.advance(u64::try_from(floor).unwrap_or(0));
        tracing::debug!(revision = floor, versions = rows, bytes, "dropped compacted history");
        Ok(())
    }

    /// Returns once every reader of before this call is gone; `false` if the store stops first, or was replaced.
    fn wait_for_readers(&self, database: &Arc<Database>) -> bool {
        let current = self.shared.era.load_full();
        if !Arc::ptr_eq(&current.database, database) {
            return false;
        }
        let next = Arc::new(Era { database: Arc::clone(database) });
        let old = self.shared.era.compare_and_swap(&current, next);
        if !Arc::ptr_eq(&old, &current) {
            return false;
        }
        drop(old);
        while Arc::strong_count(&current) > 1 {
            if self.stopped() {
                return false;
            }
            std::thread::sleep(READER_POLL);
        }
        true
    }

    /// Rows and superseded bytes of history in `from..to`; `None` if the store stops meanwhile.
    fn measure(&self, database: &Database, from: i64, to: i64) -> Result<Option<(u64, u64)>, StoreError> {
        let (mut rows, mut bytes) = (0u64, 0);
        let (mut stopped, mut damaged) = (false, None);
        let found = database.rows(keys::HISTORY, &keys::revision_key(from, 0), Some(&keys::revision_key(to, 0)));
        walk(found, &mut |_, row| {
            match HistoryRow::decode(row) {
                Ok(row) => bytes += row.superseded_bytes(),
                Err(error) => damaged = Some(error),
            }
            rows += 1;
            if rows.is_multiple_of(ROWS_PER_PIECE as u64) {
                stopped = self.stopped();
                std::thread::sleep(PAUSE);
            }
            if stopped || damaged.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        damaged.map_or(Ok((!stopped).then_some((rows, bytes))), |damaged| Err(damaged.into()))
    }
}

fn background_errors(database: &Database) -> u64 {
    let count = database.engine().property_int_value(rocksdb::properties::BACKGROUND_ERRORS);
    // An engine that cannot even say how it is doing is no better than one with errors.
    count.ok().flatten().unwrap_or(1)
}

impl Database {
    /// Removes whole files of history below `floor`. Rows in files that reach above it go with later compactions.
    fn drop_history(&self, floor: i64) -> Result<(), StoreError> {
        if floor <= 0 {
            return Ok(());
        }
        let family = self.family(keys::HISTORY);
        self.engine()
            .delete_file_in_range_cf(family, keys::revision_key(0, 0), keys::revision_key(floor - 1, u32::MAX))
            .map_err(StoreError::engine("drop files of old history"))
    }

    /// Merges a family's files now, at low priority; the compaction filter drops what is below the floor.
    fn merge(&self, family: &str) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let all: Option<&[u8]> = None;
        self.engine().compact_range_cf_opt(self.family(family), all, all, &options);
    }

    /// Merges what compaction left behind and lets the allocated size fall to what is in use. Blocks; the state serves on.
    pub fn defragment(&self) -> Result<(), StoreError> {
        self.flush()?;
        self.merge(keys::HISTORY);
        self.merge(keys::VERSIONS);
        let allocated = size::pages(self.in_use());
        self.marks.allocated.store(allocated, Ordering::Release);
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(keys::META), meta::ALLOCATED, allocated.to_be_bytes());
        self.write(batch)
    }
}
