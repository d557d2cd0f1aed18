//! Checks of a request that need no state, made before it is proposed or read, in etcd's order.
//!
//! A request with several faults gets the complaint that etcd would make, so the order is part of the contract.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::view::KeyRange;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Transactions within transactions: how deep at most, the outermost counted. etcd bounds this only through the budget
/// of operations. Ours is below what the decoder of log entries accepts (100 nested messages, two per transaction), so
/// that whatever is proposed can be read back.
pub const MAX_TXN_DEPTH: usize = 32;

/// The longest lease a client may ask for, seconds.
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// Why a request is refused without looking at the state. The texts are etcd's, without its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No key in a put, range, delete or compare.
    #[error("key is not provided")]
    EmptyKey,
    /// An operation of a transaction that is of no kind.
    #[error("key not found")]
    KeyNotFound,
    /// `ignore_value` with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// More operations in a list than allowed, or nested too deep.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// Two writes of one key where only one can win.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target this API does not have.
    #[error("invalid sort option")]
    InvalidSort,
    /// A lease of more than [`MAX_LEASE_TTL`].
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
}

/// Checks a range.
///
/// # Errors
/// `EmptyKey`, then `InvalidSort`.
pub fn range(request: &RangeRequest) -> Result<(), RequestError> {
    not_empty(&request.key)?;
    SortOrder::try_from(request.sort_order).map_err(|_| RequestError::InvalidSort)?;
    SortTarget::try_from(request.sort_target).map_err(|_| RequestError::InvalidSort)?;
    Ok(())
}

/// Checks a put.
///
/// # Errors
/// `EmptyKey`, then `ValueProvided`, then `LeaseProvided`.
pub fn put(request: &PutRequest) -> Result<(), RequestError> {
    not_empty(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(RequestError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(RequestError::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
///
/// # Errors
/// `EmptyKey`.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), RequestError> {
    not_empty(&request.key)
}

/// Checks a grant. Too short is not a fault: the proposer raises it.
///
/// # Errors
/// `LeaseTtlTooLarge`.
pub fn lease_grant(request: &LeaseGrantRequest) -> Result<(), RequestError> {
    if request.ttl > MAX_LEASE_TTL { Err(RequestError::LeaseTtlTooLarge) } else { Ok(()) }
}

/// Checks a transaction: sizes and single operations of the whole nest first, then the keys that it writes.
///
/// `max_ops` bounds the longest of the three lists. A nested transaction may use what its parent's longest list left.
///
/// # Errors
/// The first fault found.
pub fn txn(request: &TxnRequest, max_ops: usize) -> Result<(), RequestError> {
    txn_operations(request, max_ops, 1)?;
    written_keys(&request.success)?;
    written_keys(&request.failure)?;
    Ok(())
}

fn not_empty(key: &Bytes) -> Result<(), RequestError> {
    if key.is_empty() { Err(RequestError::EmptyKey) } else { Ok(()) }
}

fn txn_operations(request: &TxnRequest, max_ops: usize, depth: usize) -> Result<(), RequestError> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    if longest > max_ops || depth > MAX_TXN_DEPTH {
        return Err(RequestError::TooManyOps);
    }
    request.compare.iter().try_for_each(|compare| not_empty(&compare.key))?;
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(inner)) => range(inner)?,
            Some(Request::RequestPut(inner)) => put(inner)?,
            Some(Request::RequestDeleteRange(inner)) => delete_range(inner)?,
            Some(Request::RequestTxn(inner)) => txn_operations(inner, max_ops - longest, depth + 1)?,
            None => return Err(RequestError::KeyNotFound),
        }
    }
    Ok(())
}

/// What one list of operations writes, nested ones included.
#[derive(Default)]
struct Written {
    puts: BTreeSet<Bytes>,
    deletes: Deleted,
}

/// A set of deleted keys as disjoint spans, first key → end (excluded), so that a long request costs no square of time.
#[derive(Default)]
struct Deleted(BTreeMap<Bytes, Bytes>);

impl Deleted {
    fn contains(&self, key: &Bytes) -> bool {
        self.0.range::<Bytes, _>(..=key).next_back().is_some_and(|(_, end)| key < end)
    }

    fn insert(&mut self, mut start: Bytes, mut end: Bytes) {
        // Every span that touches the new one lies last among those that start before its end.
        while let Some((other_start, other_end)) = self.0.range::<Bytes, _>(..=&end).next_back() {
            if *other_end < start {
                break;
            }
            let swallowed = other_start.clone();
            start = start.min(swallowed.clone());
            end = end.max(other_end.clone());
            self.0.remove(&swallowed);
        }
        self.0.insert(start, end);
    }
}

/// The duplicate-key rule for one list: two puts of one key clash, and so do a put and a delete of it, in either order.
///
/// Of a nested transaction the two branches never both run, so their puts may coincide. Its puts clash with every put
/// and delete of this list and with those of earlier siblings; its deletes clash with puts of this list and of later
/// siblings. Deletes among themselves never clash. A delete "to the last key" (`range_end` of one zero byte) is not
/// seen at all, as in etcd, whose interval for it is empty.
fn written_keys(operations: &[RequestOp]) -> Result<Written, RequestError> {
    let mut written = Written::default();
    for op in operations {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            match KeyRange::new(delete.key.clone(), delete.range_end.clone()) {
                KeyRange::One(key) => written.deletes.insert(key.clone(), successor(&key)),
                KeyRange::Span { start, end: Some(end) } if start < end => written.deletes.insert(start, end),
                KeyRange::Span { .. } => {}
            }
        }
    }
    for op in operations {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            let success = written_keys(&nested.success)?;
            let failure = written_keys(&nested.failure)?;
            let puts: BTreeSet<Bytes> = success.puts.into_iter().chain(failure.puts).collect();
            puts.into_iter().try_for_each(|key| add_put(&mut written, key))?;
            for (start, end) in success.deletes.0.into_iter().chain(failure.deletes.0) {
                written.deletes.insert(start, end);
            }
        }
    }
    for op in operations {
        if let Some(Request::RequestPut(put)) = &op.request {
            add_put(&mut written, put.key.clone())?;
        }
    }
    Ok(written)
}

fn add_put(written: &mut Written, key: Bytes) -> Result<(), RequestError> {
    if written.deletes.contains(&key) || !written.puts.insert(key) {
        return Err(RequestError::DuplicateKey);
    }
    Ok(())
}

/// The first key after `key`.
fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}
