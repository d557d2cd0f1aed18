//! Stateless request validation, done before a request is proposed or read, in etcd's order.
//!
//! A request with several faults gets the error that etcd would return, so the order is part of the contract.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::view::KeyRange;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

/// Maximum nesting depth of transactions, the outermost counted. etcd bounds it only through the operation limit. Ours
/// is below what the log entry decoder accepts (100 nested messages, two per transaction), so that every proposed
/// transaction can be decoded again.
pub const MAX_TXN_DEPTH: usize = 32;

/// The longest lease TTL a client may request, in seconds.
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// Why a request is invalid, whatever the state. The texts are etcd's, without its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// An empty key in a put, range, delete or compare.
    #[error("key is not provided")]
    EmptyKey,
    /// A transaction operation with no request set.
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
    /// One transaction writes a key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// An unknown sort order or sort target.
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

/// Checks a grant. A TTL that is too short is no error: the proposer raises it to the minimum.
///
/// # Errors
/// `LeaseTtlTooLarge`.
pub fn lease_grant(request: &LeaseGrantRequest) -> Result<(), RequestError> {
    if request.ttl > MAX_LEASE_TTL { Err(RequestError::LeaseTtlTooLarge) } else { Ok(()) }
}

/// Checks a transaction: first the sizes and each operation, nested ones included, then duplicate keys.
///
/// `max_ops` bounds the longest of the three lists. A nested transaction gets `max_ops` less its parent's longest list.
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

/// The keys that one list of operations writes, nested ones included.
#[derive(Default)]
struct Written {
    puts: BTreeSet<Bytes>,
    deletes: Deleted,
}

/// Deleted keys as disjoint spans, first key → end (excluded), so that a long request does not take quadratic time.
#[derive(Default)]
struct Deleted(BTreeMap<Bytes, Bytes>);

impl Deleted {
    fn contains(&self, key: &Bytes) -> bool {
        self.0.range::<Bytes, _>(..=key).next_back().is_some_and(|(_, end)| key < end)
    }

    fn insert(&mut self, mut start: Bytes, mut end: Bytes) {
        // Overlapping and adjacent spans are the last ones that start at or before the new span's end.
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

/// The duplicate-key rule for one list: two puts of a key conflict, and so do a put and a delete, in either order.
///
/// Only one branch of a nested transaction runs, so both may put the same key. Its puts conflict with every put
/// and delete of this list and of earlier siblings; its deletes conflict with puts of this list and of later
/// siblings. Deletes never conflict with each other. A delete "to the last key" (`range_end` of one zero byte) is
/// ignored, as in etcd, whose interval for it is empty.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::command::{Command, decode, encode};
    use crate::model::tests::world::{
        always, any_txn, delete as del, delete_op, nest, put as set, put_op, range as get, range_op, txn_op,
    };
    use crate::proto::etcdserverpb::Compare;

    const MAX_OPS: usize = 128;

    fn puts(key: &'static str) -> RequestOp {
        put_op(set(key, "v"))
    }

    fn deletes(key: &'static str, end: &'static str) -> RequestOp {
        delete_op(del(key, end))
    }

    fn either(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        txn_op(TxnRequest { success, failure, ..TxnRequest::default() })
    }

    #[test]
    fn single_requests_are_validated_in_etcds_order() {
        assert_eq!(range(&get("", "z")), Err(RequestError::EmptyKey));
        let order = RangeRequest { sort_order: 3, ..get("a", "") };
        let target = RangeRequest { sort_target: 5, ..get("a", "") };
        let negative = RangeRequest { sort_target: -1, ..get("a", "") };
        for request in [order, target, negative] {
            assert_eq!(range(&request), Err(RequestError::InvalidSort));
        }
        assert_eq!(range(&RangeRequest { sort_order: 9, ..get("", "") }), Err(RequestError::EmptyKey));
        assert_eq!(range(&RangeRequest { limit: -4, revision: -1, ..get("b", "a") }), Ok(()));

        let everything_wrong = PutRequest { ignore_value: true, ignore_lease: true, lease: 1, ..set("", "v") };
        assert_eq!(put(&everything_wrong), Err(RequestError::EmptyKey));
        let keyed = PutRequest { key: "k".into(), ..everything_wrong };
        assert_eq!(put(&keyed), Err(RequestError::ValueProvided));
        assert_eq!(put(&PutRequest { value: Bytes::new(), ..keyed.clone() }), Err(RequestError::LeaseProvided));
        assert_eq!(put(&PutRequest { value: Bytes::new(), lease: 0, ..keyed }), Ok(()));
        assert_eq!(put(&set("k", "")), Ok(()), "an empty value is a value");

        assert_eq!(delete_range(&del("", "\0")), Err(RequestError::EmptyKey));
        assert_eq!(delete_range(&del("b", "a")), Ok(()));

        let ttl = |ttl| lease_grant(&LeaseGrantRequest { ttl, id: 0 });
        assert_eq!(ttl(MAX_LEASE_TTL + 1), Err(RequestError::LeaseTtlTooLarge));
        assert_eq!((ttl(MAX_LEASE_TTL), ttl(0), ttl(-7)), (Ok(()), Ok(()), Ok(())));
    }

    #[test]
    fn each_list_of_a_txn_may_be_as_long_as_the_limit_and_no_longer() {
        let reads = |n: usize| vec![range_op(get("a", "")); n];
        let compares = |n: usize| vec![Compare { key: "a".into(), ..Compare::default() }; n];
        let full = TxnRequest { compare: compares(128), success: reads(128), failure: reads(128) };
        assert_eq!(txn(&full, MAX_OPS), Ok(()));
        let one_more = [
            TxnRequest { compare: compares(129), ..full.clone() },
            TxnRequest { success: reads(129), ..full.clone() },
            TxnRequest { failure: reads(129), ..full },
        ];
        for request in one_more {
            assert_eq!(txn(&request, MAX_OPS), Err(RequestError::TooManyOps));
        }
    }

    #[test]
    fn a_nested_txn_gets_the_limit_less_its_parents_longest_list() {
        let inner = |n: usize| txn_op(always(vec![range_op(get("a", "")); n]));
        let outer = |n: usize| TxnRequest {
            success: vec![inner(n)],
            failure: vec![range_op(get("a", "")); 3],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&outer(7), 10), Ok(()));
        assert_eq!(txn(&outer(8), 10), Err(RequestError::TooManyOps));
    }

    #[test]
    fn the_deepest_valid_txn_decodes_from_the_log() {
        assert_eq!(txn(&nest(MAX_TXN_DEPTH + 1), MAX_OPS), Err(RequestError::TooManyOps));
        let deepest = nest(MAX_TXN_DEPTH);
        assert_eq!(txn(&deepest, MAX_OPS), Ok(()));
        let (_, read_back) = decode(encode(Command::Txn(deepest.clone()))).unwrap();
        assert_eq!(read_back, Command::Txn(deepest));
    }

    #[test]
    fn sizes_are_checked_before_keys_and_operations_before_duplicates() {
        let empty_compare = TxnRequest { compare: vec![Compare::default()], ..always(vec![puts("")]) };
        assert_eq!(txn(&empty_compare, 0), Err(RequestError::TooManyOps));
        assert_eq!(txn(&empty_compare, 1), Err(RequestError::EmptyKey));
        let duplicate_then_nothing = always(vec![puts("a"), puts("a"), RequestOp { request: None }]);
        assert_eq!(txn(&duplicate_then_nothing, MAX_OPS), Err(RequestError::KeyNotFound));
        let in_else = TxnRequest { failure: vec![range_op(get("", ""))], ..TxnRequest::default() };
        assert_eq!(txn(&in_else, MAX_OPS), Err(RequestError::EmptyKey), "both branches are checked");
    }

    /// The duplicate-key rule, a row per case; `true` = refused.
    #[test]
    fn writes_of_one_key_conflict_exactly_where_etcd_says() {
        let a = || puts("a");
        let table: Vec<(&str, Vec<RequestOp>, bool)> = vec![
            ("two puts", vec![a(), a()], true),
            ("two keys", vec![a(), puts("b")], false),
            ("delete, put", vec![deletes("a", ""), a()], true),
            ("put, delete", vec![a(), deletes("a", "")], true),
            ("put inside a deleted range", vec![deletes("A", "b"), a()], true),
            ("put at the end of a deleted range", vec![deletes("A", "a"), a()], false),
            ("put behind a deleted key", vec![deletes("a", ""), puts("a\0")], false),
            ("put inside an empty range", vec![deletes("b", "A"), a()], false),
            ("delete to the last key", vec![deletes("A", "\0"), a()], false),
            ("delete of every key", vec![deletes("\0", "\0"), a()], false),
            ("overlapping deletes", vec![deletes("a", "c"), deletes("b", "d")], false),
            ("range over a written key", vec![a(), range_op(get("a", ""))], false),
            ("put in both branches of a child", vec![either(vec![a()], vec![a()])], false),
            ("put twice in one branch of a child", vec![either(vec![], vec![a(), a()])], true),
            ("put against delete across a child's branches", vec![either(vec![a()], vec![deletes("a", "")])], false),
            ("puts in siblings", vec![either(vec![a()], vec![]), either(vec![], vec![a()])], true),
            ("put in child and parent", vec![either(vec![], vec![a()]), a()], true),
            ("put in parent and child", vec![a(), either(vec![a()], vec![])], true),
            ("child put, parent delete", vec![either(vec![a()], vec![]), deletes("a", "")], true),
            ("child delete, parent put", vec![a(), either(vec![], vec![deletes("a", "")])], true),
            ("earlier sibling deletes", vec![either(vec![deletes("a", "")], vec![]), either(vec![a()], vec![])], true),
            ("later sibling deletes", vec![either(vec![a()], vec![]), either(vec![deletes("a", "")], vec![])], false),
            ("grandchild put, parent put", vec![either(vec![either(vec![a()], vec![])], vec![]), a()], true),
        ];
        for (case, ops, refused) in table {
            let expected = if refused { Err(RequestError::DuplicateKey) } else { Ok(()) };
            assert_eq!(txn(&always(ops.clone()), MAX_OPS), expected, "{case}, success");
            let in_else = TxnRequest { failure: ops, ..TxnRequest::default() };
            assert_eq!(txn(&in_else, MAX_OPS), expected, "{case}, failure");
        }
    }

    #[test]
    fn the_two_branches_of_a_txn_may_put_the_same_key() {
        let request = TxnRequest { failure: vec![puts("a")], ..always(vec![puts("a")]) };
        assert_eq!(txn(&request, MAX_OPS), Ok(()));
    }

    /// Reference implementation of the rule: plain lists, every pair compared.
    fn clashes(operations: &[RequestOp]) -> Option<(BTreeSet<Bytes>, Vec<KeyRange>)> {
        let ends_nowhere = |delete: &DeleteRangeRequest| delete.range_end.as_ref() == [0];
        let mut puts: BTreeSet<Bytes> = BTreeSet::new();
        let mut deletes = Vec::new();
        for op in operations {
            match op.request.as_ref() {
                Some(Request::RequestDeleteRange(delete)) if !ends_nowhere(delete) => {
                    deletes.push(KeyRange::new(delete.key.clone(), delete.range_end.clone()));
                }
                _ => {}
            }
        }
        for op in operations {
            let Some(Request::RequestTxn(nested)) = &op.request else { continue };
            let (then, then_deletes) = clashes(&nested.success)?;
            let (or_else, else_deletes) = clashes(&nested.failure)?;
            for key in then.union(&or_else) {
                if deletes.iter().any(|range: &KeyRange| range.contains(key)) || !puts.insert(key.clone()) {
                    return None;
                }
            }
            deletes.extend(then_deletes);
            deletes.extend(else_deletes);
        }
        for op in operations {
            let Some(Request::RequestPut(put)) = &op.request else { continue };
            if deletes.iter().any(|range| range.contains(&put.key)) || !puts.insert(put.key.clone()) {
                return None;
            }
        }
        Some((puts, deletes))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn merged_spans_agree_with_comparing_every_pair(request in any_txn()) {
            let by_pairs = clashes(&request.success).is_some() && clashes(&request.failure).is_some();
            let expected = if by_pairs { Ok(()) } else { Err(RequestError::DuplicateKey) };
            prop_assert_eq!(txn(&request, MAX_OPS), expected);
        }
    }
}
