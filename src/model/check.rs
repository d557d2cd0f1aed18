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
    fn single_requests_complain_in_etcds_order() {
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
    fn a_nested_txn_has_what_its_parents_longest_list_left() {
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
    fn the_deepest_legal_nest_survives_the_log() {
        assert_eq!(txn(&nest(MAX_TXN_DEPTH + 1), MAX_OPS), Err(RequestError::TooManyOps));
        let deepest = nest(MAX_TXN_DEPTH);
        assert_eq!(txn(&deepest, MAX_OPS), Ok(()));
        let (_, read_back) = decode(encode(Command::Txn(deepest.clone()))).unwrap();
        assert_eq!(read_back, Command::Txn(deepest));
    }

    #[test]
    fn sizes_come_before_keys_and_single_faults_before_duplicates() {
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
    fn writes_of_one_key_clash_exactly_where_etcd_says() {
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
    fn the_two_branches_of_a_txn_do_not_clash() {
        let request = TxnRequest { failure: vec![puts("a")], ..always(vec![puts("a")]) };
        assert_eq!(txn(&request, MAX_OPS), Ok(()));
    }

    /// The same rule with plain lists and a look at every pair.
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
        fn merged_spans_refuse_what_a_look_at_every_pair_refuses(request in any_txn()) {
            let by_pairs = clashes(&request.success).is_some() && clashes(&request.failure).is_some();
            let expected = if by_pairs { Ok(()) } else { Err(RequestError::DuplicateKey) };
            prop_assert_eq!(txn(&request, MAX_OPS), expected);
        }
    }
}
