//! The background thread of the store: drops compacted history, flushes in time, and watches for background errors.
//!
//! Physical compaction to revision R: wait until no reader is left that may look below R (the [`Era`] is renewed after R
//! was published), count the bytes that go, record R and flush that record, and only then let anything disappear that no
//! row from R on may point to: whole files from the front of `hist`, the rest by compaction filters. A crash at any step
//! repeats it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rocksdb::WriteBatch;

use super::database::{Database, walk};
use super::error::{StoreError, fatal};
use super::keys::{self, Dropped, HistoryRow, meta};
use super::reader::Shared;
use super::records::log_id;
use super::space::Part;
use super::view::Era;

/// Rows counted between two looks at the stop flag, with a pause after each such piece.
const ROWS_PER_PIECE: usize = 4096;
/// The pause: keeps counting below half of one core.
const PAUSE: Duration = Duration::from_millis(1);
/// How often the compactor looks whether old readers are gone.
const READER_POLL: Duration = Duration::from_millis(2);
/// How long it looks before it does its other work. Some readers take hours, and a full disk does not wait for them.
const READER_WAIT: Duration = Duration::from_secs(1);
/// Bytes in memory that are worth a flush when space is short.
const WORTH_A_FLUSH: u64 = 1 << 20;
/// Between two merges for want of space: each may cost as much as reading the whole state.
const RECLAIM_EVERY: Duration = Duration::from_secs(5);
/// Dropped versions after which the version index is merged at once instead of when RocksDB gets to it.
const VERSIONS_TO_MERGE: u64 = 1_000_000;

/// The thread's handle. Dropping it stops the thread and waits for it.
pub(super) struct Housekeeper {
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Signal {
    stop: AtomicBool,
    woken: Mutex<bool>,
    wake: Condvar,
}

impl Housekeeper {
    /// Starts the thread.
    pub fn start(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let signal = Arc::new(Signal::default());
        let low = shared.options.space.is_low();
        let now = Instant::now();
        let keeper = Keeper {
            shared,
            signal: Arc::clone(&signal),
            flushed: 0,
            flushed_at: now,
            versions: 0,
            low,
            reclaimed_at: now,
            reclaimed_below: 0,
            renewed_at: 0,
            renewed: Weak::new(),
            readers: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("store-keeper".to_owned())
            .spawn(move || keeper.run())
            .map_err(StoreError::files("start the housekeeping thread of", "the store"))?;
        Ok(Self { signal, thread: Mutex::new(Some(thread)) })
    }

    /// There is something to compact.
    pub fn wake(&self) {
        *self.signal.woken.lock() = true;
        self.signal.wake.notify_one();
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        self.signal.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the store's housekeeping thread had panicked");
        }
    }
}

struct Keeper {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    /// `applied_next` at the last flush, and when that was.
    flushed: u64,
    flushed_at: Instant,
    /// Versions dropped since the index was merged last.
    versions: u64,
    /// Space was low when we looked last, so RocksDB does not merge.
    low: bool,
    /// When we last merged for want of space, and the floor of history then.
    reclaimed_at: Instant,
    reclaimed_below: i64,
    /// The compaction revision for which the era was renewed last, the era since then, and those of before that still have
    /// readers.
    renewed_at: i64,
    renewed: Weak<Era>,
    readers: Vec<Arc<Era>>,
}

impl Keeper {
    fn run(mut self) {
        while !self.stopped() {
            let database = self.shared.database();
            // The readers of a state that was replaced keep it; this thread must not.
            self.readers.retain(|era| Arc::ptr_eq(&era.database, &database));
            if background_errors(&database) > 0 {
                fatal("RocksDB failed in the background", &"see the engine's LOG file in the state directory");
            }
            let kept = self.follow_space(&database).and_then(|()| self.flush_if_due(&database));
            if let Err(error) = kept.and_then(|()| self.compact(&database)).and_then(|()| self.reclaim(&database)) {
                fatal("housekeeping of the state failed", &error);
            }
            let applied = database.applied.lock().map(log_id);
            drop(database);
            self.shared.snapshots.superseded().bound(self.low);
            if let Err(error) = self.shared.snapshots.partial().sweep(applied, self.low) {
                tracing::warn!(%error, "could not remove what had come of a snapshot; the next look tries again");
            }
            let mut woken = self.signal.woken.lock();
            if !*woken {
                self.signal.wake.wait_for(&mut woken, self.shared.options.housekeeping);
            }
            *woken = false;
        }
    }

    fn stopped(&self) -> bool {
        self.signal.stop.load(Ordering::Acquire)
    }

    /// When space becomes low: flushes while it still fits and stops merging, which needs room for both old and new
    /// files. When there is enough again: merges on.
    fn follow_space(&mut self, database: &Database) -> Result<(), StoreError> {
        let low = self.shared.options.space.is_low();
        if low == self.low {
            return Ok(());
        }
        // What cannot fill a write buffer needs no flush, and whoever fills the disk may be quicker than this one.
        let worth_it = database.unflushed() > WORTH_A_FLUSH;
        if low && worth_it && self.can_flush(database) {
            database.flush()?;
            self.flushed_at = Instant::now();
        }
        // Without room for even RocksDB's own notes the switch has to wait.
        if self.can_flush(database) {
            database.set_merging(!low)?;
            self.low = low;
        }
        Ok(())
    }

    /// Whether a flush would find room. What is not flushed is safe in the log.
    fn can_flush(&self, database: &Database) -> bool {
        self.shared.options.space.has_room(Part::State, database.unflushed())
    }

    /// Bounds what a crash makes us replay.
    fn flush_if_due(&mut self, database: &Database) -> Result<(), StoreError> {
        let applied = self.shared.applied_next.durable();
        let pending = applied.saturating_sub(self.flushed);
        let options = &self.shared.options;
        let late = self.flushed_at.elapsed() >= options.flush_after;
        let unflushed = database.unflushed();
        options.space.set_pending(unflushed);
        // On a small disk what waits in memory is soon more than what is left: better flushed than called low.
        let pressing = unflushed > WORTH_A_FLUSH && !options.space.has_spare_room(Part::State, 3 * unflushed);
        let due = pending >= options.flush_after_entries || (late && pending > 0) || (pressing && pending > 0);
        if due && !self.can_flush(database) {
            return Ok(());
        }
        if due {
            database.flush()?;
            options.space.set_pending(database.unflushed());
            self.flushed = applied;
            self.flushed_at = Instant::now();
        } else if late {
            self.flushed_at = Instant::now();
        }
        Ok(())
    }

    fn compact(&mut self, database: &Arc<Database>) -> Result<(), StoreError> {
        let compacted = database.marks.compacted.load(Ordering::SeqCst);
        let old = database.marks.dropped_below.load(Ordering::Acquire);
        if compacted <= old {
            // A wait for a compaction that an earlier life of this state finished ends here.
            self.shared.dropped_below.advance(u64::try_from(old).unwrap_or(0));
            return Ok(());
        }
        if !self.can_flush(database) || !self.wait_for_readers(database, compacted) {
            return Ok(());
        }
        let Some((rows, bytes)) = self.measure(database, old, compacted)? else { return Ok(()) };
        let dropped = Dropped { floor: compacted, bytes: database.marks.dropped.load(Ordering::Acquire) + bytes };
        let mut batch = WriteBatch::default();
        batch.put_cf(database.family(keys::META), meta::DROPPED, dropped.encode());
        let mut layers = database.layers.lock();
        let floor = layers.kept_from(compacted);
        for layer in layers.forget_ended_at(compacted) {
            batch.delete_cf(database.family(keys::META), keys::layer_key(layer.start));
        }
        drop(layers);
        database.write(batch)?;
        database.flush()?;
        // In this order, or a merge that is being reckoned meanwhile (`bytes_when_merged`) misses what moves from one to the other.
        database.marks.dropped_below.store(compacted, Ordering::Release);
        database.marks.dropped.store(dropped.bytes, Ordering::Release);
        database.floor.store(floor, Ordering::Release);
        database.drop_history(floor)?;
        self.versions += rows;
        if self.versions >= VERSIONS_TO_MERGE {
            database.merge_all(&[keys::VERSIONS], &self.shared.options.space)?;
            self.versions = 0;
        }
        self.shared.dropped_below.advance(u64::try_from(compacted).unwrap_or(0));
        tracing::debug!(revision = compacted, floor, versions = rows, bytes, "dropped compacted history");
        Ok(())
    }

    /// While space is low RocksDB does not merge, so what was deleted would keep its space for ever. This merges what holds
    /// deletions or compacted history, as far as there is room for it.
    fn reclaim(&mut self, database: &Database) -> Result<(), StoreError> {
        if !self.low || self.reclaimed_at.elapsed() < RECLAIM_EVERY {
            return Ok(());
        }
        self.reclaimed_at = Instant::now();
        let floor = database.floor.load(Ordering::Acquire);
        if self.reclaimed_below < floor || database.has_deletions()? {
            for family in keys::FAMILIES {
                // What has no room now is tried again; saying so each time would fill the log of a full disk.
                let _complete = database.merge(family, &self.shared.options.space)?;
            }
            self.reclaimed_below = floor;
        }
        Ok(())
    }

    /// Whether every reader is gone that may look below `compacted`, which was published before this call. Waits a moment for
    /// them; `false` also if the store stops or was replaced.
    fn wait_for_readers(&mut self, database: &Arc<Database>, compacted: i64) -> bool {
        let current = self.shared.era.load_full();
        if !Arc::ptr_eq(&current.database, database) {
            return false;
        }
        // Once for each revision: readers that begin later are no concern of this compaction.
        if self.renewed_at != compacted || !std::ptr::eq(self.renewed.as_ptr(), Arc::as_ptr(&current)) {
            let next = Arc::new(Era { database: Arc::clone(database) });
            let renewed = Arc::downgrade(&next);
            let old = self.shared.era.compare_and_swap(&current, next);
            if !Arc::ptr_eq(&old, &current) {
                return false;
            }
            drop(old);
            self.readers.push(current);
            (self.renewed_at, self.renewed) = (compacted, renewed);
        } else {
            drop(current);
        }
        let begun = Instant::now();
        loop {
            self.readers.retain(|era| Arc::strong_count(era) > 1);
            if self.readers.is_empty() || self.stopped() || begun.elapsed() >= READER_WAIT {
                return self.readers.is_empty();
            }
            std::thread::sleep(READER_POLL);
        }
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
