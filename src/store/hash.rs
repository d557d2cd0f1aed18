//! Hashes that must be equal on members with equal state.
//!
//! HashKV at revision R with compaction revision C covers what etcd's covers: the bucket name, then the versions that a
//! compaction at C keeps, then every change above C up to R. A deletion exactly at C is left out. Changes are fed as etcd
//! stores them (17-byte revision key, `t` for a deletion, encoded `KeyValue`). Versions from C down are fed in key order,
//! as their sub-revisions are not kept once compacted; so the value is equal among our members at any progress of physical
//! compaction, and equal to etcd's only on a store that was never compacted.

use std::ops::ControlFlow;

use super::database::{Database, walk};
use super::error::StoreError;
use super::keys::{self, Damaged, HistoryRow};
use super::reader::Store;
use super::view::StoreView;
use crate::model::effects::Refusal;
use crate::model::view::{KeyRange, View};

/// A hash of the key-value store, and what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C.
    pub hash: u32,
    /// Compaction revision it was computed under; -1 when there was none.
    pub compact_revision: i64,
    /// The last revision it covers.
    pub hash_revision: i64,
    /// The current revision when it was computed.
    pub current: i64,
}

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The revision is in the future or was compacted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The state could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The name of etcd's bucket, with which its hash begins.
const BUCKET: &[u8] = b"key";

impl Store {
    /// Hashes everything up to `revision`, 0 = the current one. Reads the whole store: call it on a blocking thread.
    ///
    /// # Errors
    /// [`Refusal::FutureRevision`], [`Refusal::Compacted`].
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, HashError> {
        let view = self.view();
        let (current, compacted) = (view.revision(), view.compacted());
        if revision > current {
            return Err(Refusal::FutureRevision.into());
        }
        if revision > 0 && revision < compacted {
            return Err(Refusal::Compacted.into());
        }
        let hash_revision = if revision == 0 { current } else { revision };
        let mut crc = crc32c::crc32c(BUCKET);
        if compacted > 0 {
            crc = kept_by_compaction(view.database(), compacted, crc)?;
        }
        crc = changes(&view, compacted, hash_revision, crc)?;
        Ok(HashKv { hash: crc, compact_revision: compacted, hash_revision, current })
    }

    /// A hash of live keys, leases and the v2 keyspace, for tests. Reads them all.
    pub fn hash(&self) -> Result<u32, StoreError> {
        let view = self.view();
        let all = KeyRange::Span { start: bytes::Bytes::new(), end: None };
        let mut crc = 0;
        view.database().scan_at(&all, view.revision(), &mut |key, record| {
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), record);
            ControlFlow::Continue(())
        })?;
        for family in [keys::LEASES, keys::V2] {
            walk(view.database().rows(family, &[], None), &mut |key, value| {
                crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
                ControlFlow::Continue(())
            })?;
        }
        Ok(crc)
    }
}

/// The newest version of each key at the compaction revision.
fn kept_by_compaction(database: &Database, compacted: i64, mut crc: u32) -> Result<u32, StoreError> {
    let all = KeyRange::Span { start: bytes::Bytes::new(), end: None };
    database.scan_at(&all, compacted, &mut |_, record| {
        crc = crc32c::crc32c_append(crc, record);
        ControlFlow::Continue(())
    })?;
    Ok(crc)
}

/// Every change above the compaction revision, as etcd stores it.
fn changes(view: &StoreView, compacted: i64, to: i64, mut crc: u32) -> Result<u32, StoreError> {
    let (from, to) = (keys::revision_key(compacted.max(0) + 1, 0), keys::revision_key(to + 1, 0));
    let mut damaged: Option<Damaged> = None;
    walk(view.database().rows(keys::HISTORY, &from, Some(&to)), &mut |key, row| {
        match change(key, row, crc) {
            Ok(next) => crc = next,
            Err(error) => damaged = Some(error),
        }
        if damaged.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    damaged.map_or(Ok(crc), |damaged| Err(damaged.into()))
}

fn change(key: &[u8], row: &[u8], crc: u32) -> Result<u32, Damaged> {
    let (main, sub) = keys::parse_revision(key)?;
    let row = HistoryRow::decode(row)?;
    let mut stored = [0; 18];
    stored[..8].copy_from_slice(&main.to_be_bytes());
    stored[8] = b'_';
    stored[9..17].copy_from_slice(&u64::from(sub).to_be_bytes());
    stored[17] = b't';
    let named = if row.after.is_some() { &stored[..17] } else { &stored[..] };
    let crc = crc32c::crc32c_append(crc, named);
    Ok(match row.after {
        Some(after) => crc32c::crc32c_append(crc, after),
        // etcd's tombstone holds nothing but the key.
        None => crc32c::crc32c_append(crc, &keys::only_key(row.key)),
    })
}
