//! Estimated growth of the data file per command, by etcd's formula, so that the quota is exceeded at the same request.

use super::command::Command;
use super::txn;
use super::view::KeyRange;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

/// Estimated size of a key's metadata, in bytes.
const KEY_OVERHEAD: u64 = 256;
/// Estimated size of a lease, in bytes.
const LEASE_BYTES: u64 = 64;

/// Estimated bytes that `command` needs; 0 = always allowed, whatever the file's size.
///
/// The API compares `allocated size + cost` with the quota before proposing. A transaction costs its more expensive
/// branch, nested puts included. v2 mutations cost nothing: in etcd the quota does not apply to the v2 store either.
pub fn cost(command: &Command) -> u64 {
    match command {
        Command::Put(request) => put(request),
        Command::Txn(request) => dearer(request),
        Command::LeaseGrant(_) => LEASE_BYTES,
        Command::DeleteRange(_)
        | Command::Compact(_)
        | Command::LeaseRevoke(_)
        | Command::LeaseCheckpoint(_)
        | Command::Alarm(_)
        | Command::ClusterVersion(_)
        | Command::Auth(_)
        | Command::V2(_) => 0,
    }
}

/// The key ranges that `command` may delete: on a nearly full disk even a deletion must fit, because old values are
/// kept until a compaction.
pub fn deletions(command: &Command) -> Vec<KeyRange> {
    let mut found = Vec::new();
    match command {
        Command::DeleteRange(request) => found.push(deleted(request)),
        Command::Txn(request) => collect_deletions(request, &mut found),
        _ => {}
    }
    found
}

fn deleted(request: &DeleteRangeRequest) -> KeyRange {
    KeyRange::new(request.key.clone(), request.range_end.clone())
}

fn collect_deletions(request: &TxnRequest, found: &mut Vec<KeyRange>) {
    for op in txn::operations(request) {
        match &op.request {
            Some(Request::RequestDeleteRange(request)) => found.push(deleted(request)),
            Some(Request::RequestTxn(request)) => collect_deletions(request, found),
            Some(Request::RequestPut(_) | Request::RequestRange(_)) | None => {}
        }
    }
}

fn put(request: &PutRequest) -> u64 {
    KEY_OVERHEAD + (request.key.len() + request.value.len()) as u64
}

fn dearer(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(operation).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

fn operation(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestTxn(request)) => dearer(request),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::command::{LeaseGrant, LeaseRevoke};
    use crate::model::tests::world::{always, delete, delete_op, put, put_op, range, range_op, txn_op};

    #[test]
    fn a_put_costs_its_key_and_value_bytes_plus_overhead() {
        assert_eq!(cost(&Command::Put(put("key", "value"))), 256 + 3 + 5);
    }

    #[test]
    fn a_txn_costs_its_more_expensive_branch_nested_puts_included() {
        let inner = always(vec![put_op(put("k", "12"))]);
        let request = TxnRequest {
            success: vec![put_op(put("k", "1"))],
            failure: vec![txn_op(inner), range_op(range("a", "")), delete_op(delete("a", "")), put_op(put("k", ""))],
            ..TxnRequest::default()
        };
        assert_eq!(cost(&Command::Txn(request)), (256 + 3) + (256 + 1));
    }

    #[test]
    fn every_range_that_may_be_deleted_is_found() {
        let inner = always(vec![delete_op(delete("b", "c"))]);
        let request = TxnRequest {
            success: vec![put_op(put("k", "1")), delete_op(delete("a", ""))],
            failure: vec![txn_op(inner), range_op(range("x", ""))],
            ..TxnRequest::default()
        };
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        let expected = [KeyRange::One(key("a")), KeyRange::Span { start: key("b"), end: Some(key("c")) }];
        assert_eq!(deletions(&Command::Txn(request)), expected);
        assert_eq!(deletions(&Command::DeleteRange(delete("a", ""))), expected[..1]);
        assert_eq!(deletions(&Command::Put(put("a", ""))), []);
    }

    #[test]
    fn deletes_and_reads_cost_nothing() {
        assert_eq!(cost(&Command::DeleteRange(delete("a", "z"))), 0);
        assert_eq!(cost(&Command::LeaseRevoke(LeaseRevoke { ids: vec![1], ..LeaseRevoke::default() })), 0);
        assert_eq!(cost(&Command::Txn(always(vec![delete_op(delete("a", "")), range_op(range("a", ""))]))), 0);
        assert_eq!(cost(&Command::V2(bytes::Bytes::from_static(b"x"))), 0);
    }

    #[test]
    fn a_lease_has_a_fixed_cost() {
        assert_eq!(cost(&Command::LeaseGrant(LeaseGrant { id: 1, ttl: 1 })), 64);
    }
}
