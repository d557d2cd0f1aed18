//! What still fits while the disk is nearly full: how much a batch may fill before RocksDB flushes by itself, and how much a
//! deletion would write.

use std::ops::ControlFlow;

use super::database::Database;
use super::keys;
use super::options::{ARENA_BLOCK, StoreOptions};
use super::reader::Store;
use crate::model::view::{KeyRange, View, ViewError};

/// Bytes of rows that a deletion writes beside key and value: two row keys, a tombstone, their heads in memory.
const DELETED_ROW: u64 = 128;

impl Database {
    /// Whether a batch of `bytes` can fill no write buffer, so that RocksDB does not flush because of it.
    pub fn takes_without_flush(&self, bytes: u64, options: &StoreOptions) -> bool {
        let after = |family: &str| self.in_buffer(family) + bytes + ARENA_BLOCK;
        let one = keys::FAMILIES.iter().all(|family| after(family) < options.write_buffer(family));
        one && self.unflushed() + bytes + keys::FAMILIES.len() as u64 * ARENA_BLOCK < options.buffered_before_flush()
    }
}

impl Store {
    /// Bytes that deleting `ranges` would write, the old values included, since history keeps them. Stops counting at `most`.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn bytes_to_delete(&self, ranges: &[KeyRange], most: u64) -> Result<u64, ViewError> {
        let view = self.view();
        let mut bytes = 0u64;
        for range in ranges {
            view.scan(range, &mut |record| {
                bytes += DELETED_ROW + record.bytes().len() as u64;
                if bytes < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        Ok(bytes)
    }
}
