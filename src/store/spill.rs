//! Moving the tail's old layer into the families `latest` and `vidx`, beside apply (see `tail.rs`).
//!
//! A spill is many small batches, so that apply's own writes go in between, and is not atomic. A crash in the middle, or
//! before the flush that makes it durable, leaves live versions and index rows of revisions above the durable mark; opening
//! notes those revisions again, which hides the first and repeats the second. Repeated index rows do no harm: each names a
//! run of its key's revisions without a hole, so the first row that ends above a revision names the first one above it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rocksdb::WriteBatch;

use super::database::{Database, walk};
use super::error::{StoreError, fatal};
use super::keys::{self, meta};
use super::reader::Shared;
use super::tail::Layer;
use super::worker::{Signal, Worker};

/// Bytes in one batch of a spill, about: how long it may keep apply from writing.
const PIECE: usize = 64 << 10;

/// Starts the thread that spills whenever it is woken.
pub(super) fn start(shared: Arc<Shared>) -> Result<Worker, StoreError> {
    Worker::start("store-spill", move |signal: Arc<Signal>| {
        while !signal.stopped() {
            if let Err(error) = shared.database().spill() {
                fatal("the newest versions could not be written to their families", &error);
            }
            signal.wait(None);
        }
    })
}

impl Database {
    /// Spills the old layer, if there is one to spill.
    pub fn spill(&self) -> Result<(), StoreError> {
        let _alone = self.spill.lock();
        match self.tail.unspilled() {
            Some(layer) => self.spill_layer(&layer),
            None => Ok(()),
        }
    }

    /// Returns once everything up to `revision`, which must have been applied, is in `latest` and `vidx`.
    pub fn spill_until(&self, revision: i64) -> Result<(), StoreError> {
        while self.marks.indexed.load(Ordering::SeqCst) < revision && self.tail.freeze() {
            self.spill()?;
        }
        Ok(())
    }

    /// The first revision whose history must be kept when everything below `floor` is compacted. Rows from there on may
    /// be pointed to: a row points into its own layer or the one before it.
    pub fn history_floor(&self, floor: i64) -> Result<i64, StoreError> {
        let layers = self.layers()?;
        let below = layers.partition_point(|last| *last < floor);
        Ok(match layers.get(..below) {
            Some([.., before, _]) => before + 1,
            Some([first]) => (first + 1).min(floor),
            _ => 0,
        })
    }

    /// Forgets the layers that no floor from `floor` on needs.
    pub fn forget_layers(&self, floor: i64, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let layers = self.layers()?;
        let needless = layers.partition_point(|last| *last < floor).saturating_sub(2);
        for last in &layers[..needless] {
            batch.delete_cf(self.family(keys::META), keys::layer_key(*last));
        }
        Ok(())
    }

    /// The last revisions of the spilled layers, ascending.
    fn layers(&self) -> Result<Vec<i64>, StoreError> {
        let (mut layers, mut damaged) = (Vec::new(), None);
        let end = keys::after_prefix(meta::LAYER);
        walk(self.rows(keys::META, meta::LAYER, end.as_deref()), &mut |key, _| {
            match keys::parse_layer(key) {
                Ok(last) => layers.push(last),
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        damaged.map_or(Ok(layers), |damaged| Err(damaged.into()))
    }

    fn spill_layer(&self, layer: &Layer) -> Result<(), StoreError> {
        let last = layer.last();
        self.marks.spilling.store(last, Ordering::SeqCst);
        let (latest, versions) = (self.family(keys::LATEST), self.family(keys::VERSIONS));
        let mut batch = WriteBatch::default();
        let (mut key, mut earlier) = (Vec::new(), Vec::new());
        layer.each(&mut |user_key, live, changes| {
            match live {
                Some(record) => batch.put_cf(latest, user_key, record.bytes()),
                None => batch.delete_cf(latest, user_key),
            }
            // In the same batch: who finds a live version too new must find its revision in the index.
            for run in changes.chunks(keys::VERSIONS_PER_ROW) {
                let Some(((main, sub), before)) = run.split_last() else { continue };
                keys::version_key(user_key, *main, *sub, &mut key);
                keys::version_row(before, &mut earlier);
                batch.put_cf(versions, &key, &earlier);
            }
            if batch.size_in_bytes() < PIECE {
                return Ok(());
            }
            self.write(std::mem::take(&mut batch))
        })?;
        batch.put_cf(self.family(keys::META), meta::INDEXED, last.to_be_bytes());
        batch.put_cf(self.family(keys::META), keys::layer_key(last), []);
        self.write(batch)?;
        self.marks.indexed.store(last, Ordering::SeqCst);
        self.tail.settle(layer);
        Ok(())
    }
}
