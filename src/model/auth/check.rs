//! Who may have which command done, and which read answered: the walk over a request, down to the last nested operation.
//!
//! The one telling of it: apply asks [`command`], and so does the edge before it proposes; reads ask [`read`] and
//! [`txn`]. Requests are judged as the client sent them, never in a normalised form.

use super::super::command::Command;
use super::super::kv::Failure;
use super::super::view::View;
use super::state::{Auth, Identity};
use super::{AuthError, rules};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// Whether `by` may have `command` done.
///
/// Commands of the members themselves (expiry, alarms over the quota, compaction by time, the cluster version) are asked
/// for by nobody and pass; so does a v2 command, which has its own authentication. What a client must be root for is
/// checked again here when somebody asks for it, because he may have lost that standing since.
///
/// # Errors
/// The refusal, or the view's failure.
pub fn command(view: &impl View, by: &Identity, command: &Command) -> Result<(), Failure> {
    let auth = view.auth();
    let allowed = match command {
        Command::Put(request) => return put(&auth, view, by, request),
        Command::DeleteRange(request) => delete_range(&auth, by, request),
        Command::Txn(request) => return txn(&auth, view, by, request),
        Command::LeaseRevoke(revoke) if revoke.expired_by_term == 0 => {
            return revoke.ids.iter().try_for_each(|id| lease_keys(&auth, view, by, *id));
        }
        Command::Auth(change) if rules::needs_root(change) => auth.admin(by),
        Command::Compact(_) if !by.is_nobody() => auth.admin(by),
        Command::Alarm(request) if !by.is_nobody() && request.action() != AlarmAction::Get => auth.admin(by),
        Command::Auth(_)
        | Command::Compact(_)
        | Command::Alarm(_)
        | Command::LeaseGrant(_)
        | Command::LeaseRevoke(_)
        | Command::LeaseCheckpoint(_)
        | Command::ClusterVersion(_)
        | Command::V2(_) => Ok(()),
    };
    allowed.map_err(Failure::from)
}

/// Whether `by` may have the range answered.
///
/// # Errors
/// As [`Auth::read`].
pub fn read(auth: &Auth, by: &Identity, request: &RangeRequest) -> Result<(), AuthError> {
    auth.read(by, &request.key, &request.range_end)
}

/// Whether `by` may have the transaction done: every comparison and every operation of both branches, at every depth.
///
/// # Errors
/// The first refusal in etcd's order, or the view's failure.
pub fn txn(auth: &Auth, view: &impl View, by: &Identity, request: &TxnRequest) -> Result<(), Failure> {
    request.compare.iter().try_for_each(|compare| auth.read(by, &compare.key, &compare.range_end))?;
    let operations = request.success.iter().chain(&request.failure);
    operations.into_iter().try_for_each(|operation| one(auth, view, by, operation))
}

fn one(auth: &Auth, view: &impl View, by: &Identity, operation: &RequestOp) -> Result<(), Failure> {
    match &operation.request {
        Some(Request::RequestRange(request)) => Ok(read(auth, by, request)?),
        Some(Request::RequestPut(request)) => put(auth, view, by, request),
        Some(Request::RequestDeleteRange(request)) => Ok(delete_range(auth, by, request)?),
        Some(Request::RequestTxn(request)) => txn(auth, view, by, request),
        None => Ok(()),
    }
}

/// A put writes its key. With a lease it binds the key's life to it, so it takes the right to end that lease; with
/// `prev_kv` it also reads.
fn put(auth: &Auth, view: &impl View, by: &Identity, request: &PutRequest) -> Result<(), Failure> {
    auth.write(by, &request.key, &[])?;
    if request.lease != 0 {
        lease_keys(auth, view, by, request.lease)?;
    }
    if request.prev_kv {
        auth.read(by, &request.key, &[])?;
    }
    Ok(())
}

fn delete_range(auth: &Auth, by: &Identity, request: &DeleteRangeRequest) -> Result<(), AuthError> {
    auth.write(by, &request.key, &request.range_end)?;
    if request.prev_kv {
        auth.read(by, &request.key, &request.range_end)?;
    }
    Ok(())
}

/// Whether `by` may write every key that hangs on the lease. An unknown lease has none.
///
/// # Errors
/// The refusal, or the view's failure.
pub fn lease_keys(auth: &Auth, view: &impl View, by: &Identity, lease: i64) -> Result<(), Failure> {
    if auth.admin(by).is_ok() {
        return Ok(());
    }
    let keys = view.lease_keys(lease)?;
    Ok(keys.iter().try_for_each(|key| auth.write(by, key, &[]))?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::auth::tests::{ann, grant, secured};
    use crate::model::command::{LeaseGrant, LeaseRevoke};
    use crate::model::effects::Refusal;
    use crate::model::tests::world::{
        World, always, any_txn, delete, delete_op, put as set, put_op, range, range_op, txn_op,
    };
    use crate::proto::authpb::permission::Type;
    use crate::proto::etcdserverpb::{AlarmRequest, CompactionRequest, Compare};

    fn verdict(world: &World, asked: &Command) -> Result<(), AuthError> {
        command(&world.view, &ann(&world.view), asked).map_err(|failure| match failure {
            Failure::Refusal(Refusal::Auth(error)) => error,
            other => panic!("{other}"),
        })
    }

    /// ann reads `a`..`c` and writes `b`..`d`.
    fn world() -> World {
        let mut world = secured();
        grant(&mut world, Type::Read, "a", "c");
        grant(&mut world, Type::Write, "b", "d");
        world
    }

    #[test]
    fn each_operation_needs_its_own_right() {
        let world = world();
        let with_prev = |key| Command::Put(PutRequest { prev_kv: true, ..set(key, "") });
        let delete_prev = |key, end| Command::DeleteRange(DeleteRangeRequest { prev_kv: true, ..delete(key, end) });
        let compare = |key: &'static str| TxnRequest {
            compare: vec![Compare { key: key.into(), ..Compare::default() }],
            ..TxnRequest::default()
        };
        let deep = |operation| Command::Txn(always(vec![txn_op(always(vec![txn_op(always(vec![operation]))]))]));
        let in_else = |operation| Command::Txn(TxnRequest { failure: vec![operation], ..TxnRequest::default() });
        let table = [
            (Command::Put(set("b", "")), true),
            (Command::Put(set("a", "")), false),
            (with_prev("b"), true),
            (with_prev("c"), false),
            (Command::DeleteRange(delete("b", "d")), true),
            (Command::DeleteRange(delete("b", "\0")), false),
            (delete_prev("b", "c"), true),
            (delete_prev("b", "d"), false),
            (Command::Txn(compare("a")), true),
            (Command::Txn(compare("c")), false),
            (deep(range_op(range("a", "c"))), true),
            (deep(range_op(range("a", "d"))), false),
            (deep(put_op(set("c", ""))), true),
            (deep(put_op(set("a", ""))), false),
            (deep(put_op(PutRequest { prev_kv: true, ..set("c", "") })), false),
            (in_else(delete_op(delete("c", ""))), true),
            (in_else(delete_op(delete("a", ""))), false),
            (Command::LeaseGrant(LeaseGrant { id: 3, ttl: 60 }), true),
            (Command::Compact(CompactionRequest::default()), false),
            (Command::Alarm(AlarmRequest { action: 1, member_id: 1, alarm: 1 }), false),
            (Command::Alarm(AlarmRequest::default()), true),
        ];
        for (asked, allowed) in table {
            let expected = if allowed { Ok(()) } else { Err(AuthError::Denied) };
            assert_eq!(verdict(&world, &asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn a_lease_may_be_used_and_ended_by_whoever_may_write_all_of_its_keys() {
        let mut world = world();
        world.as_root(&Command::LeaseGrant(LeaseGrant { id: 5, ttl: 60 })).unwrap();
        let end = Command::LeaseRevoke(LeaseRevoke { ids: vec![5], ..LeaseRevoke::default() });
        let use_it = Command::Put(PutRequest { lease: 5, ..set("b", "") });
        assert_eq!((verdict(&world, &end), verdict(&world, &use_it)), (Ok(()), Ok(())), "no key yet");
        world.as_root(&Command::Put(PutRequest { lease: 5, ..set("c", "") })).unwrap();
        assert_eq!((verdict(&world, &end), verdict(&world, &use_it)), (Ok(()), Ok(())));
        world.as_root(&Command::Put(PutRequest { lease: 5, ..set("a", "") })).unwrap();
        let denied = Err(AuthError::Denied);
        assert_eq!((verdict(&world, &end), verdict(&world, &use_it)), (denied, denied));
        let in_txn = Command::Txn(always(vec![put_op(PutRequest { lease: 5, ..set("b", "") })]));
        assert_eq!(verdict(&world, &in_txn), denied);
        let expired = Command::LeaseRevoke(LeaseRevoke { ids: vec![5], expired_by_term: 1, ..LeaseRevoke::default() });
        assert_eq!(verdict(&world, &expired), Ok(()), "the leader's own");
    }

    /// The same rule told without nesting: all reads and writes of a transaction in one list.
    fn flat(request: &TxnRequest, reads: &mut Vec<(Vec<u8>, Vec<u8>)>, writes: &mut Vec<(Vec<u8>, Vec<u8>)>) {
        reads.extend(request.compare.iter().map(|c| (c.key.to_vec(), c.range_end.to_vec())));
        for operation in request.success.iter().chain(&request.failure) {
            match operation.request.as_ref().expect("generated with a kind") {
                Request::RequestRange(range) => reads.push((range.key.to_vec(), range.range_end.to_vec())),
                Request::RequestPut(put) => {
                    writes.push((put.key.to_vec(), Vec::new()));
                    reads.extend(put.prev_kv.then(|| (put.key.to_vec(), Vec::new())));
                }
                Request::RequestDeleteRange(delete) => {
                    writes.push((delete.key.to_vec(), delete.range_end.to_vec()));
                    reads.extend(delete.prev_kv.then(|| (delete.key.to_vec(), delete.range_end.to_vec())));
                }
                Request::RequestTxn(nested) => flat(nested, reads, writes),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_transaction_is_allowed_exactly_when_each_of_its_reads_and_writes_is(
            request in any_txn(), read_to in "[a-e]", write_to in "[a-e]",
        ) {
            let mut world = secured();
            grant(&mut world, Type::Read, "\0", &read_to);
            grant(&mut world, Type::Write, "\0", &write_to);
            let (mut reads, mut writes) = (Vec::new(), Vec::new());
            flat(&request, &mut reads, &mut writes);
            let (auth, by) = (world.view.auth(), ann(&world.view));
            let all = reads.iter().all(|(key, end)| auth.read(&by, key, end).is_ok())
                && writes.iter().all(|(key, end)| auth.write(&by, key, end).is_ok());
            prop_assert_eq!(verdict(&world, &Command::Txn(request)).is_ok(), all);
        }
    }
}
