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
