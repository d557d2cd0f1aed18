//! Transactions: compare once, check the whole path, then write.
//!
//! The order is the contract. Every compare, nested ones included, sees the state before the transaction. The path that
//! the compares choose is then checked against that same state, so a refusal leaves nothing behind. Only then do the
//! operations run, each seeing the writes of those before it through an [`overlay`].

mod compare;
mod overlay;
mod path;

use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse};

use super::effects::{Effects, Refusal, Response};
use super::kv::{self, Failure};
use super::view::View;
use overlay::Overlay;
use path::Path;

/// Whether every operation of both branches is a plain range. A nested transaction makes it a write, even when it only
/// reads: such a transaction goes through the log, as in etcd.
pub fn is_read_only(request: &TxnRequest) -> bool {
    operations(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether every operation of both branches is a serializable range. True for a transaction without operations, whose
/// compares are then read from local state.
pub fn is_serializable(request: &TxnRequest) -> bool {
    operations(request).all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn operations(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Answers a transaction that [`is_read_only`] from `view`, without the log.
///
/// # Errors
/// The refusal of the first range whose revision is compacted or in the future.
pub fn read_only(view: &impl View, request: &TxnRequest) -> Result<TxnResponse, Failure> {
    debug_assert!(is_read_only(request), "callers send transactions that write through the log");
    let (_, response) = run(view, request)?;
    Ok(response)
}

/// What a transaction does when it comes out of the log. One revision for all its writes, none when it wrote nothing.
///
/// # Errors
/// The refusal of the first operation on the chosen path that cannot be done, in order of the operations. Nothing is
/// written then.
pub fn apply(view: &impl View, request: &TxnRequest) -> Result<Effects, Failure> {
    let (overlay, response) = run(view, request)?;
    let mut effects = Effects::nothing(overlay.revision(), Ok(Response::Txn(response)));
    effects.changes = overlay.into_changes();
    Ok(effects)
}

fn run<'v, V: View>(view: &'v V, request: &TxnRequest) -> Result<(Overlay<'v, V>, TxnResponse), Failure> {
    let path = path::resolve(view, request)?;
    path::validate(view, &path)?;
    let mut overlay = Overlay::new(view);
    let responses = execute(&mut overlay, &path)?;
    let response = TxnResponse { header: kv::header(overlay.revision()), succeeded: path.succeeded, responses };
    Ok((overlay, response))
}

/// Runs the operations of a path. A put can still be refused here, in the one case that the check before cannot see:
/// it keeps the old value of a key that this very transaction deleted. (The duplicate-key rule lets that through for
/// deletes "to the last key"; etcd crashes on it.) The overlay is dropped then, so nothing is written.
fn execute<V: View>(overlay: &mut Overlay<'_, V>, path: &Path<'_>) -> Result<Vec<ResponseOp>, Failure> {
    let mut responses = Vec::with_capacity(path.operations.len());
    let mut nested = path.nested.iter();
    for operation in path.operations {
        let response = match &operation.request {
            Some(Request::RequestRange(request)) => OpResponse::ResponseRange(kv::range(overlay, request)?),
            Some(Request::RequestPut(request)) => {
                let (change, response) = kv::put::write(overlay, request, overlay.write_revision())?;
                overlay.absorb(change);
                OpResponse::ResponsePut(response)
            }
            Some(Request::RequestDeleteRange(request)) => {
                let (changes, response) = kv::delete::write(overlay, request, overlay.write_revision())?;
                changes.into_iter().for_each(|change| overlay.absorb(change));
                OpResponse::ResponseDeleteRange(response)
            }
            Some(Request::RequestTxn(_)) => {
                let inner = nested.next().expect("a path resolves one inner path per nested transaction");
                let responses = execute(overlay, inner)?;
                // etcd leaves the header of a nested answer empty, but present.
                let header = Some(ResponseHeader::default());
                OpResponse::ResponseTxn(TxnResponse { header, succeeded: inner.succeeded, responses })
            }
            None => return Err(Refusal::KeyNotFound.into()),
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    Ok(responses)
}
