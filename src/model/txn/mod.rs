//! Transactions: evaluate the compares, check the whole path, then write.
//!
//! The order is the contract. Every compare, nested ones included, sees the state before the transaction. The path that
//! the compares choose is then checked against that same state, so a refusal changes nothing. Only then do the
//! operations run, each seeing the writes of earlier operations through an [`overlay`].

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

/// Whether every operation of both branches is a plain range. With a nested transaction, even one that only reads, it
/// counts as a write and goes through the log, as in etcd.
pub fn is_read_only(request: &TxnRequest) -> bool {
    operations(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether every operation of both branches is a serializable range. True for a transaction without operations, whose
/// compares are then read from local state.
pub fn is_serializable(request: &TxnRequest) -> bool {
    operations(request).all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

/// The operations of both branches, those of nested transactions not included.
pub(super) fn operations(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Runs a transaction that [`is_read_only`] on `view`, without the log.
///
/// # Errors
/// The refusal of the first range whose revision is compacted or in the future.
pub fn read_only(view: &impl View, request: &TxnRequest) -> Result<TxnResponse, Failure> {
    debug_assert!(is_read_only(request), "callers send transactions that write through the log");
    let (_, response) = run(view, request)?;
    Ok(response)
}

/// Applies a committed transaction. All its writes share one new revision; without writes there is no new revision.
///
/// # Errors
/// The refusal of the first invalid operation on the chosen path, in order of the operations. Nothing is written
/// then.
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

/// Runs the operations of a path. A put can still be refused here, in the one case that the earlier check cannot see:
/// it keeps the old value of a key that this transaction deleted. (The duplicate-key rule allows that for deletes "to
/// the last key"; etcd crashes on it.) The overlay is dropped then, so nothing is written.
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
                // etcd sends an empty header in a nested response.
                let header = Some(ResponseHeader::default());
                OpResponse::ResponseTxn(TxnResponse { header, succeeded: inner.succeeded, responses })
            }
            None => return Err(Refusal::KeyNotFound.into()),
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    Ok(responses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::tests::world::{
        World, always, delete, delete_op, nest, put, put_op, range, range_op, text, txn_op,
    };
    use crate::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
    use crate::proto::etcdserverpb::{CompactionRequest, Compare, PutRequest, RangeRequest};

    fn exists(key: &'static str) -> Compare {
        Compare {
            result: 1,
            target: CompareTarget::Create.into(),
            key: text(key),
            target_union: Some(TargetUnion::CreateRevision(0)),
            ..Compare::default()
        }
    }

    fn done(world: &mut World, request: TxnRequest) -> TxnResponse {
        match world.done(&Command::Txn(request)) {
            Response::Txn(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn revision(header: &Option<ResponseHeader>) -> i64 {
        header.as_ref().unwrap().revision
    }

    /// Per response: the revision in its header, and the number of keys in it.
    fn outline(response: &TxnResponse) -> Vec<(i64, i64)> {
        let op = |op: &ResponseOp| match op.response.as_ref().unwrap() {
            OpResponse::ResponseRange(range) => (revision(&range.header), range.count),
            OpResponse::ResponsePut(put) => (revision(&put.header), i64::from(put.prev_kv.is_some())),
            OpResponse::ResponseDeleteRange(delete) => (revision(&delete.header), delete.deleted),
            OpResponse::ResponseTxn(txn) => (revision(&txn.header), txn.responses.len() as i64),
        };
        response.responses.iter().map(op).collect()
    }

    #[test]
    fn later_operations_see_earlier_writes_and_all_share_one_revision() {
        let mut world = World::default();
        world.put("a", "old");
        world.put("b", "old");
        let response = done(
            &mut world,
            always(vec![
                range_op(range("a", "\0")),
                put_op(PutRequest { prev_kv: true, ..put("c", "new") }),
                range_op(range("a", "\0")),
                delete_op(delete("a", "c")),
                delete_op(delete("a", "c")),
                range_op(range("a", "\0")),
            ]),
        );
        assert_eq!(outline(&response), [(3, 2), (4, 0), (4, 3), (4, 2), (4, 0), (4, 1)]);
        assert_eq!((revision(&response.header), world.view.revision()), (4, 4));
    }

    #[test]
    fn effects_list_the_changes_in_execution_order() {
        let mut world = World::default();
        world.put("z", "old");
        let ops = vec![put_op(put("b", "1")), delete_op(delete("z", "")), put_op(put("a", "2"))];
        let effects = world.run(&Command::Txn(always(ops)));
        assert_eq!(effects.changes.iter().map(|change| change.key.clone()).collect::<Vec<_>>(), ["b", "z", "a"]);
        assert_eq!(effects.revision, 3);
    }

    #[test]
    fn a_txn_that_changes_nothing_keeps_the_revision() {
        let mut world = World::default();
        world.put("a", "1");
        let nothing = always(vec![delete_op(delete("x", "")), range_op(range("a", ""))]);
        let response = done(&mut world, nothing);
        assert_eq!(outline(&response), [(2, 0), (2, 1)]);
        assert_eq!(revision(&response.header), 2);
        assert_eq!(revision(&done(&mut world, TxnRequest::default()).header), 2);
    }

    #[test]
    fn compares_choose_the_branch_and_the_answer_says_which() {
        let mut world = World::default();
        let request = TxnRequest {
            compare: vec![exists("a")],
            success: vec![delete_op(delete("a", ""))],
            failure: vec![put_op(put("a", "1"))],
        };
        assert!(!done(&mut world, request.clone()).succeeded);
        assert!(world.kv("a").is_some());
        assert!(done(&mut world, request).succeeded);
        assert!(world.kv("a").is_none());
    }

    #[test]
    fn nested_compares_see_the_state_before_the_outer_writes() {
        let mut world = World::default();
        let inner = TxnRequest {
            compare: vec![exists("a")],
            success: vec![put_op(put("seen", ""))],
            failure: vec![put_op(put("unseen", ""))],
        };
        let response = done(&mut world, always(vec![put_op(put("a", "1")), txn_op(inner)]));
        assert!(world.kv("unseen").is_some() && world.kv("seen").is_none());
        let Some(OpResponse::ResponseTxn(nested)) = &response.responses[1].response else { panic!() };
        assert_eq!(nested.header, Some(ResponseHeader::default()), "a nested header is present and empty");
        assert_eq!(outline(nested), [(2, 0)]);
        assert!(!nested.succeeded);
    }

    #[test]
    fn a_refusal_on_the_path_changes_nothing() {
        let mut world = World::default();
        world.put("a", "1");
        world.put("a", "2");
        world.done(&Command::Compact(CompactionRequest { revision: 3, physical: false }));
        let at = |revision| range_op(RangeRequest { revision, ..range("a", "") });
        let table = [
            (at(2), Refusal::Compacted),
            (at(-1), Refusal::Compacted),
            (at(4), Refusal::FutureRevision),
            (put_op(PutRequest { lease: 9, ..put("b", "") }), Refusal::LeaseNotFound),
            (put_op(PutRequest { ignore_value: true, ..put("b", "") }), Refusal::KeyNotFound),
            (RequestOp { request: None }, Refusal::KeyNotFound),
            (txn_op(always(vec![at(2)])), Refusal::Compacted),
        ];
        for (op, expected) in table {
            let request = always(vec![put_op(put("z", "")), op.clone()]);
            assert_eq!(world.refused(&Command::Txn(request)), expected, "{op:?}");
            let untaken = TxnRequest { failure: vec![op], ..always(vec![range_op(range("a", ""))]) };
            world.done(&Command::Txn(untaken));
        }
        assert!(world.kv("z").is_none());
    }

    #[test]
    fn the_first_invalid_operation_is_reported() {
        let mut world = World::default();
        let future = || range_op(RangeRequest { revision: 9, ..range("a", "") });
        let leaseless = || put_op(PutRequest { lease: 9, ..put("b", "") });
        assert_eq!(world.refused(&Command::Txn(always(vec![future(), leaseless()]))), Refusal::FutureRevision);
        assert_eq!(world.refused(&Command::Txn(always(vec![leaseless(), future()]))), Refusal::LeaseNotFound);
    }

    #[test]
    fn ignore_value_of_a_key_created_by_the_same_txn_is_refused() {
        let mut world = World::default();
        let keep = PutRequest { ignore_value: true, ..put("a", "") };
        let request = always(vec![txn_op(always(vec![put_op(put("a", "1"))])), put_op(keep)]);
        assert_eq!(world.refused(&Command::Txn(request)), Refusal::KeyNotFound);
    }

    /// etcd crashes here; we refuse the whole transaction, identically on every replica.
    #[test]
    fn keeping_the_value_of_a_key_deleted_by_the_same_txn_is_refused_as_a_whole() {
        let mut world = World::default();
        world.put("a", "1");
        let keep = PutRequest { ignore_value: true, ..put("a", "") };
        let request = always(vec![put_op(put("z", "")), delete_op(delete("a", "\0")), put_op(keep)]);
        assert_eq!(world.refused(&Command::Txn(request)), Refusal::KeyNotFound);
    }

    #[test]
    fn a_key_deleted_and_put_by_one_txn_starts_a_new_generation() {
        let mut world = World::default();
        world.put("a", "1");
        world.put("a", "2");
        let response = done(&mut world, always(vec![delete_op(delete("a", "\0")), put_op(put("a", "3"))]));
        assert_eq!(outline(&response), [(4, 1), (4, 0)]);
        let kv = world.kv("a").unwrap();
        assert_eq!((kv.create_revision, kv.version), (4, 1));
    }

    #[test]
    fn a_range_at_a_named_revision_shows_the_state_before_the_txn() {
        let mut world = World::default();
        world.put("a", "1");
        let then = RangeRequest { revision: 2, ..range("a", "\0") };
        let response = done(&mut world, always(vec![put_op(put("b", "1")), range_op(then)]));
        assert_eq!(outline(&response)[1], (3, 1));
    }

    #[test]
    fn nested_reads_go_through_the_log_and_respond_at_every_level() {
        let mut world = World::default();
        let response = done(&mut world, nest(4));
        assert_eq!(world.view.revision(), 2);
        let Some(OpResponse::ResponseTxn(nested)) = &response.responses[0].response else { panic!() };
        assert_eq!(nested.responses.len(), 1);
    }

    #[test]
    fn read_only_means_plain_ranges_in_both_branches() {
        let read = || range_op(range("a", ""));
        let local = || range_op(RangeRequest { serializable: true, ..range("a", "") });
        let write = || put_op(put("a", ""));
        let both = |success, failure| TxnRequest { success, failure, ..TxnRequest::default() };
        // (request, read-only, serializable)
        let table = [
            (TxnRequest::default(), true, true),
            (TxnRequest { compare: vec![exists("a")], ..TxnRequest::default() }, true, true),
            (both(vec![read()], vec![local()]), true, false),
            (both(vec![local()], vec![local(), local()]), true, true),
            (both(vec![read()], vec![write()]), false, false),
            (both(vec![txn_op(always(vec![local()]))], vec![]), false, false),
            (both(vec![delete_op(delete("a", ""))], vec![]), false, false),
            (both(vec![RequestOp { request: None }], vec![]), false, false),
        ];
        for (request, read_only, serializable) in table {
            assert_eq!(is_read_only(&request), read_only, "{request:?}");
            assert_eq!(is_serializable(&request), serializable, "{request:?}");
        }
    }
}
