//! RocksDB's settings for the state, and the sizes a caller may choose.
//!
//! What must not change: the write-ahead log is off on every write, so `atomic_flush` has to be on (a crash then leaves
//! all families at the same applied entry), and RocksDB must not recover from background errors by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DataBlockIndexType,
    LogLevel, Options, WriteBufferManager,
};

use super::error::StoreError;
use super::keys;
use super::space::Space;

const MIB: usize = 1 << 20;

/// Sizes and times of the state's engine. [`Default`] is what the daemon runs with.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Cache of table blocks, indexes and filters, bytes.
    pub block_cache: usize,
    /// All write buffers together, bytes.
    pub write_buffers: usize,
    /// Threads RocksDB may use for flushes and compactions.
    pub background_jobs: i32,
    /// Open table files at most.
    pub open_files: i32,
    /// Flush once this many entries were applied since the last flush: bounds the replay after a crash.
    pub flush_after_entries: u64,
    /// Flush applied entries at the latest after this time.
    pub flush_after: Duration,
    /// Bytes in a layer of history; see `layers.rs`. Compaction leaves up to two layers.
    pub history_layer: u64,
    /// How often the housekeeper looks for background errors and due flushes.
    pub housekeeping: Duration,
    /// What the file system has left.
    pub space: Space,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            block_cache: 32 * MIB,
            write_buffers: 32 * MIB,
            background_jobs: 2,
            open_files: 512,
            flush_after_entries: 500_000,
            flush_after: Duration::from_secs(60),
            history_layer: 8 * MIB as u64,
            housekeeping: Duration::from_secs(1),
            space: Space::unbounded(),
        }
    }
}

/// Options of the database as a whole. `direct`: its file system takes writes past the page cache.
pub(super) fn database(
    options: &StoreOptions,
    cache: &Cache,
    create: bool,
    direct: bool,
) -> Result<Options, StoreError> {
    // Space is not reserved ahead: the 4 MiB that RocksDB asks for behind its manifest take the last blocks of a disk that is
    // nearly full, although the call fails, and the next small file of the same start finds none.
    // Auto-resume is reachable by its name only. An error in a flush or compaction must end the process, not be retried.
    let mut db = Options::default()
        .get_options_from_string("max_bgerror_resume_count=0;allow_fallocate=false;manifest_preallocation_size=65536")
        .map_err(StoreError::engine("set RocksDB's options"))?;
    db.create_if_missing(create);
    db.create_missing_column_families(create);
    // Of tables that are written only: they are synced and hardly read before a merge, and copying them into the page cache is
    // a tenth of what a small put costs.
    db.set_use_direct_io_for_flush_and_compaction(direct);
    db.set_atomic_flush(true);
    db.set_paranoid_checks(true);
    // Only the apply thread and the rare housekeeping row write, so the cheaper single-writer memtable insert is right.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    db.set_max_background_jobs(options.background_jobs);
    db.set_max_open_files(options.open_files);
    db.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
        options.write_buffers,
        false,
        cache.clone(),
    ));
    db.set_bytes_per_sync(MIB as u64);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(4 * MIB);
    db.set_stats_dump_period_sec(0);
    Ok(db)
}

/// A small family's write buffer is so much smaller than a large one's.
const SHARE_OF_SMALL: usize = 4;

/// RocksDB takes memory for rows in blocks of this size at most, bytes.
pub(super) const ARENA_BLOCK: u64 = MIB as u64;

impl StoreOptions {
    /// Bytes in a family's write buffer from which RocksDB flushes.
    pub(super) fn write_buffer(&self, family: &str) -> u64 {
        let half = self.write_buffers / 2;
        (if matches!(family, keys::LATEST | keys::HISTORY | keys::VERSIONS) { half } else { half / SHARE_OF_SMALL })
            as u64
    }

    /// Bytes in all write buffers from which RocksDB flushes: its write buffer manager stops at seven eighths.
    pub(super) fn buffered_before_flush(&self) -> u64 {
        (self.write_buffers / 8 * 7) as u64
    }
}

/// One descriptor per family. History and version rows below `floor` are dropped by compactions as garbage.
pub(super) fn families(options: &StoreOptions, cache: &Cache, floor: &Arc<AtomicI64>) -> Vec<ColumnFamilyDescriptor> {
    keys::FAMILIES
        .iter()
        .map(|&name| {
            let buffer = options.write_buffer(name) as usize;
            let mut family = match name {
                keys::LATEST => latest(cache, buffer),
                keys::HISTORY => with_floor(history(cache, buffer), floor),
                keys::VERSIONS => with_floor(versions(cache, buffer), floor),
                _ => sequential(cache, buffer),
            };
            // Merging on a full disk fails, and a failed merge ends the process. See `Keeper::follow_space`.
            family.set_disable_auto_compactions(options.space.is_low());
            ColumnFamilyDescriptor::new(name, family)
        })
        .collect()
}

/// Point reads and scans by user key: filters in tables and write buffers answer "absent" without a search.
fn latest(cache: &Cache, buffer: usize) -> Options {
    let mut table = table(cache, 8 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_partition_filters(true);
    table.set_optimize_filters_for_memory(true);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    let mut family = family(&table, buffer);
    family.set_memtable_prefix_bloom_ratio(0.05);
    family.set_memtable_whole_key_filtering(true);
    family
}

/// The undo log. One compression on all levels, so that files, which never overlap, sink to the last level by a rename
/// instead of being rewritten; and that one is none, because history lives only until the next compaction.
fn history(cache: &Cache, buffer: usize) -> Options {
    let mut family = sequential(cache, buffer);
    family.set_compression_per_level(&[]);
    family.set_compression_type(DBCompressionType::None);
    family
}

/// Young files of the version index gathered before they are merged. Each holds half a megabyte for some 50,000 changes, of
/// keys everywhere, so a merge rewrites all of the level below: it has to bring along enough.
const YOUNG_VERSION_FILES: i32 = 12;

/// The index of which revisions changed a key: many small rows, read by requests for the past only.
fn versions(cache: &Cache, buffer: usize) -> Options {
    let mut family = sequential(cache, buffer);
    family.set_level_zero_file_num_compaction_trigger(YOUNG_VERSION_FILES);
    // Apply is slowed down, and stopped, by so many young files: merging has long begun then.
    family.set_level_zero_slowdown_writes_trigger(3 * YOUNG_VERSION_FILES);
    family.set_level_zero_stop_writes_trigger(5 * YOUNG_VERSION_FILES);
    family.set_max_bytes_for_level_base(32 * MIB as u64);
    family
}

/// Rows that are mostly appended and read in order.
fn sequential(cache: &Cache, buffer: usize) -> Options {
    family(&table(cache, 16 << 10), buffer)
}

fn with_floor(mut family: Options, floor: &Arc<AtomicI64>) -> Options {
    let floor = Arc::clone(floor);
    family.set_compaction_filter("below-floor", move |_level, key, _value| match keys::parse_revision(key) {
        Ok((main, _)) if main < floor.load(Ordering::Acquire) => Decision::Remove,
        _ => Decision::Keep,
    });
    family
}

fn family(table: &BlockBasedOptions, buffer: usize) -> Options {
    let mut family = Options::default();
    family.set_block_based_table_factory(table);
    family.set_write_buffer_size(buffer);
    family.set_arena_block_size((buffer / 8).min(ARENA_BLOCK as usize));
    family.set_max_write_buffer_number(4);
    // Young files are rewritten soon: compressing them costs CPU and saves nothing that lasts.
    family.set_compression_per_level(&[
        DBCompressionType::None,
        DBCompressionType::None,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
    ]);
    family
}

fn table(cache: &Cache, block: usize) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(block);
    table.set_format_version(6);
    // Indexes and filters live in the cache too, so memory does not grow with the number of keys.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table
}
