//! Permission checks for commands and reads, including every operation of nested transactions.
//!
//! This is the only implementation: [`command`] is called by apply and by the API before it proposes; reads call
//! [`read`] and [`txn`]. Requests are checked as the client sent them, never in a normalised form.

use super::super::command::Command;
use super::super::kv::Failure;
use super::super::view::View;
use super::state::{Auth, Identity};
use super::{AuthError, rules};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// Checks whether `by` may run `command`.
///
/// Commands proposed by members themselves (lease expiry, the NOSPACE alarm, auto-compaction, the cluster version)
/// carry no user and pass; so does a v2 command, which has its own authentication. Commands reserved for root are
/// checked again here when they carry a user, who may have lost the root role since the proposal.
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

/// Checks whether `by` may read the range.
///
/// # Errors
/// As [`Auth::read`].
pub fn read(auth: &Auth, by: &Identity, request: &RangeRequest) -> Result<(), AuthError> {
    auth.read(by, &request.key, &request.range_end)
}

/// Checks whether `by` may run the transaction: every compare and every operation of both branches, at every depth.
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

/// A put needs write permission on its key; with `prev_kv` also read permission. Attaching a lease also needs the right
/// to revoke that lease, because the key is deleted with it.
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

/// Checks whether `by` may write every key attached to the lease. An unknown lease has none.
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
    fn each_operation_needs_its_own_permission() {
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
    fn attaching_and_revoking_a_lease_need_write_permission_on_all_its_keys() {
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

    /// Reference implementation of the rule: all reads and writes of a transaction, flattened into two lists.
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
        fn a_txn_is_allowed_exactly_when_each_of_its_reads_and_writes_is(
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
