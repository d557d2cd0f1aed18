//! The lease table and which keys hang on a lease, as rows.

use std::ops::ControlFlow;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::database::{Database, try_walk, walk};
use super::error::StoreError;
use super::keys::{self, Damaged};
use crate::model::view::Lease;

/// A granted lease.
pub(super) fn lease(database: &Database, id: i64) -> Result<Option<Lease>, StoreError> {
    let row = database.get(keys::LEASES, &keys::lease_key(id))?;
    Ok(row.map(|row| decode(id, &row)).transpose()?)
}

/// Keys attached to lease `id`, in key order.
pub(super) fn keys_of(database: &Database, id: i64) -> Result<Vec<Bytes>, StoreError> {
    let prefix = keys::attachment_prefix(id);
    let mut found = Vec::new();
    let rows = database.rows(keys::LEASES, &prefix, keys::after_prefix(&prefix).as_deref());
    walk(rows, &mut |row, _| {
        found.push(Bytes::copy_from_slice(&row[prefix.len()..]));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Every granted lease.
pub(super) fn all(database: &Database) -> Result<Vec<Lease>, StoreError> {
    let mut found = Vec::new();
    each::<StoreError>(database, &mut |lease| {
        found.push(lease);
        Ok(())
    })?;
    Ok(found)
}

/// Visits every granted lease, by ascending id as an unsigned number, until `visit` fails.
pub(super) fn each<E: From<StoreError>>(
    database: &Database,
    visit: &mut dyn FnMut(Lease) -> Result<(), E>,
) -> Result<(), E> {
    let rows = database.rows(keys::LEASES, keys::LEASE_PREFIX, keys::after_prefix(keys::LEASE_PREFIX).as_deref());
    try_walk(rows, &mut |row, value| {
        let lease = row.last_chunk().ok_or(Damaged("lease")).and_then(|id| decode(i64::from_be_bytes(*id), value));
        visit(lease.map_err(StoreError::from)?)
    })
}

/// Adds a lease record to a batch.
pub(super) fn put(database: &Database, lease: &Lease, batch: &mut WriteBatch) {
    let mut row = [0; 24];
    row[..8].copy_from_slice(&lease.ttl.to_be_bytes());
    row[8..16].copy_from_slice(&lease.remaining.to_be_bytes());
    row[16..].copy_from_slice(&lease.granted.to_be_bytes());
    batch.put_cf(database.family(keys::LEASES), keys::lease_key(lease.id), row);
}

/// Adds the removal of a lease record to a batch.
pub(super) fn remove(database: &Database, id: i64, batch: &mut WriteBatch) {
    batch.delete_cf(database.family(keys::LEASES), keys::lease_key(id));
}

/// Adds a change of attachment to a batch.
pub(super) fn attach(database: &Database, id: i64, key: &[u8], attached: bool, batch: &mut WriteBatch) {
    let row = [&keys::attachment_prefix(id), key].concat();
    let family = database.family(keys::LEASES);
    if attached { batch.put_cf(family, row, []) } else { batch.delete_cf(family, row) }
}

fn decode(id: i64, row: &[u8]) -> Result<Lease, Damaged> {
    let [ttl, remaining, granted] = match row.len() {
        // Until format 3.
        16 => {
            let [ttl, remaining] = keys::numbers_of::<2>(row, "lease")?;
            [ttl, remaining, 0]
        }
        _ => keys::numbers_of::<3>(row, "lease")?,
    };
    Ok(Lease { id, ttl: ttl as i64, remaining: remaining as i64, granted })
}
