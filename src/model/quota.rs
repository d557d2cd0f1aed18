//! What a command is reckoned to add to the data file, in etcd's own coin, so that limits trip at the same request.

use super::command::Command;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};

/// Reckoned size of a key's metadata, bytes.
const KEY_OVERHEAD: u64 = 256;
/// Reckoned size of a lease, bytes.
const LEASE_BYTES: u64 = 64;

/// Bytes that `command` is reckoned to need; 0 = always allowed, whatever the file's size.
///
/// The API compares `allocated size + cost` with the quota before proposing. A transaction costs its dearer branch,
/// nested puts included. v2 mutations cost nothing, as in etcd, where the quota does not bind the v2 store.
pub fn cost(command: &Command) -> u64 {
    match command {
        Command::Put(request) => put(request),
        Command::Txn(request) => txn(request),
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

fn put(request: &PutRequest) -> u64 {
    KEY_OVERHEAD + (request.key.len() + request.value.len()) as u64
}

fn txn(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| ops.iter().map(operation).sum::<u64>();
    branch(&request.success).max(branch(&request.failure))
}

fn operation(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestTxn(request)) => txn(request),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{LeaseGrant, LeaseRevoke};
    use crate::model::tests::world::{always, delete, delete_op, put, put_op, range, range_op, txn_op};

    #[test]
    fn a_put_costs_its_bytes_and_the_overhead() {
        assert_eq!(cost(&Command::Put(put("key", "value"))), 256 + 3 + 5);
    }

    #[test]
    fn a_txn_costs_its_dearer_branch_nested_puts_included() {
        let inner = always(vec![put_op(put("k", "12"))]);
        let request = TxnRequest {
            success: vec![put_op(put("k", "1"))],
            failure: vec![txn_op(inner), range_op(range("a", "")), delete_op(delete("a", "")), put_op(put("k", ""))],
            ..TxnRequest::default()
        };
        assert_eq!(cost(&Command::Txn(request)), (256 + 3) + (256 + 1));
    }

    #[test]
    fn what_frees_or_only_reads_is_free() {
        assert_eq!(cost(&Command::DeleteRange(delete("a", "z"))), 0);
        assert_eq!(cost(&Command::LeaseRevoke(LeaseRevoke { ids: vec![1], expired_by_term: 0 })), 0);
        assert_eq!(cost(&Command::Txn(always(vec![delete_op(delete("a", "")), range_op(range("a", ""))]))), 0);
        assert_eq!(cost(&Command::V2(bytes::Bytes::from_static(b"x"))), 0);
    }

    #[test]
    fn a_lease_costs_a_fixed_sum() {
        assert_eq!(cost(&Command::LeaseGrant(LeaseGrant { id: 1, ttl: 1 })), 64);
    }
}
