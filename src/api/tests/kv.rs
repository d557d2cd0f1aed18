//! KV through the whole member: answers, headers and refusals.

use tonic::{Code, Request};

use super::member::{Member, ok, refused, start};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as Outcome;
use crate::proto::mvccpb::KeyValue;

pub(super) fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn records(response: &pb::RangeResponse) -> Vec<KeyValue> {
    response.kvs.iter().map(|kv| prost::Message::decode(kv.clone()).expect("a stored record")).collect()
}

fn revision(header: &Option<pb::ResponseHeader>) -> i64 {
    header.as_ref().expect("every answer has a header").revision
}

#[tokio::test]
async fn headers_name_the_cluster_the_member_the_term_and_the_revision_of_the_answer() {
    let member = start().await;
    let first = ok(member.kv().put(put("a", "1")).await);
    let header = first.header.expect("a header");
    assert_eq!((header.cluster_id, header.member_id), (Member::CLUSTER_ID, Member::ID));
    assert_eq!(header.revision, 2, "the first write of a fresh store");
    assert!(header.raft_term >= 1);
    let second = ok(member.kv().put(put("b", "1")).await);
    assert_eq!(revision(&second.header), 3);
    // A read shows the state as it is now, whatever old revision was asked for.
    let read = ok(member.kv().range(pb::RangeRequest { revision: 2, ..get("a") }).await);
    assert_eq!(revision(&read.header), 3);
    // A delete of nothing does not move it.
    let none = pb::DeleteRangeRequest { key: "zzz".into(), ..Default::default() };
    let deleted = ok(member.kv().delete_range(none).await);
    assert_eq!((deleted.deleted, revision(&deleted.header)), (0, 3));
}

#[tokio::test]
async fn a_key_is_put_read_changed_and_deleted() {
    let member = start().await;
    ok(member.kv().put(put("k", "one")).await);
    let again = ok(member.kv().put(pb::PutRequest { prev_kv: true, ..put("k", "two") }).await);
    assert_eq!(again.prev_kv.expect("asked for").value, "one");
    let kv = records(&ok(member.kv().range(get("k")).await)).remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, &kv.value[..]), (2, 3, 2, &b"two"[..]));
    let delete = pb::DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() };
    let deleted = ok(member.kv().delete_range(delete).await);
    assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (1, 1));
    assert_eq!(ok(member.kv().range(get("k")).await).count, 0);
}

#[tokio::test]
async fn ranges_larger_than_the_inline_budget_answer_the_same() {
    let member = start().await;
    for n in 0..200 {
        ok(member.kv().put(put(&format!("k{n:03}"), "v")).await);
    }
    let all = pb::RangeRequest { range_end: "l".into(), ..get("k") };
    let answer = ok(member.kv().range(all.clone()).await);
    assert_eq!((answer.count, answer.kvs.len(), answer.more), (200, 200, false));
    let page = ok(member.kv().range(pb::RangeRequest { limit: 5, ..all.clone() }).await);
    assert_eq!((page.count, page.kvs.len(), page.more), (200, 5, true));
    let count = ok(member.kv().range(pb::RangeRequest { count_only: true, serializable: true, ..all }).await);
    assert_eq!((count.count, count.kvs.len()), (200, 0));
    let few = ok(member.kv().range(pb::RangeRequest { range_end: "k01".into(), ..get("k00") }).await);
    assert_eq!(few.count, 10);
}

#[tokio::test]
async fn a_transaction_takes_one_branch_atomically_and_a_read_only_one_leaves_the_log_alone() {
    let member = start().await;
    let absent = pb::Compare {
        key: "k".into(),
        target: CompareTarget::Create.into(),
        result: CompareResult::Equal.into(),
        target_union: Some(TargetUnion::CreateRevision(0)),
        ..Default::default()
    };
    let request = pb::TxnRequest {
        compare: vec![absent],
        success: vec![op(Op::RequestPut(put("k", "1"))), op(Op::RequestRange(get("k")))],
        failure: vec![op(Op::RequestRange(get("k")))],
    };
    let first = ok(member.kv().txn(request.clone()).await);
    assert!(first.succeeded);
    assert_eq!(revision(&first.header), 2);
    let Some(Outcome::ResponseRange(seen)) = &first.responses[1].response else { panic!("a range was asked") };
    assert_eq!(records(seen)[0].value, "1", "later operations see earlier ones");
    let second = ok(member.kv().txn(request).await);
    assert!(!second.succeeded);
    assert_eq!(revision(&second.header), 2);

    let applied = member.state.consensus.status().applied;
    let read_only = pb::TxnRequest { success: vec![op(Op::RequestRange(get("k")))], ..Default::default() };
    let read = ok(member.kv().txn(read_only).await);
    assert_eq!((revision(&read.header), read.responses.len()), (2, 1));
    assert_eq!(member.state.consensus.status().applied, applied, "a read-only transaction was logged");
}

#[tokio::test]
async fn compaction_hides_older_revisions_and_refuses_to_go_back_or_ahead() {
    let member = start().await;
    for value in ["1", "2", "3"] {
        ok(member.kv().put(put("k", value)).await);
    }
    let compact = |revision, physical| pb::CompactionRequest { revision, physical };
    let answer = ok(member.kv().compact(compact(3, true)).await);
    assert_eq!(revision(&answer.header), 4);
    let at = |revision| pb::RangeRequest { revision, ..get("k") };
    assert_eq!(records(&ok(member.kv().range(at(3)).await))[0].value, "2", "the compacted revision is readable");
    let compacted = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    let future = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    refused(member.kv().range(at(2)).await, compacted);
    refused(member.kv().range(at(5)).await, future);
    refused(member.kv().compact(compact(3, false)).await, compacted);
    refused(member.kv().compact(compact(2, true)).await, compacted);
    refused(member.kv().compact(compact(9, false)).await, future);
}

#[tokio::test]
async fn malformed_requests_are_refused_in_etcds_words_and_change_nothing() {
    let member = start().await;
    let invalid = |sentence| (Code::InvalidArgument, sentence);
    let no_key = invalid("etcdserver: key is not provided");
    refused(member.kv().put(put("", "v")).await, no_key);
    refused(member.kv().range(get("")).await, no_key);
    refused(member.kv().delete_range(pb::DeleteRangeRequest::default()).await, no_key);
    let compare = pb::TxnRequest { compare: vec![pb::Compare::default()], ..Default::default() };
    refused(member.kv().txn(compare).await, no_key);
    let value = pb::PutRequest { ignore_value: true, ..put("k", "v") };
    refused(member.kv().put(value).await, invalid("etcdserver: value is provided"));
    let lease = pb::PutRequest { ignore_lease: true, lease: 5, ..put("k", "v") };
    refused(member.kv().put(lease).await, invalid("etcdserver: lease is provided"));
    let absent = pb::PutRequest { ignore_value: true, ..put("k", "") };
    refused(member.kv().put(absent).await, invalid("etcdserver: key not found"));
    let empty_op = pb::TxnRequest { success: vec![pb::RequestOp::default()], ..Default::default() };
    refused(member.kv().txn(empty_op).await, invalid("etcdserver: key not found"));
    let sort = pb::RangeRequest { sort_order: 9, ..get("k") };
    refused(member.kv().range(sort).await, invalid("etcdserver: invalid sort option"));
    let twice = vec![op(Op::RequestPut(put("k", "1"))), op(Op::RequestPut(put("k", "2")))];
    let twice = pb::TxnRequest { success: twice, ..Default::default() };
    refused(member.kv().txn(twice).await, invalid("etcdserver: duplicate key given in txn request"));
    let many = (0..129).map(|n| op(Op::RequestPut(put(&n.to_string(), "")))).collect();
    let many = pb::TxnRequest { success: many, ..Default::default() };
    refused(member.kv().txn(many).await, invalid("etcdserver: too many operations in txn request"));
    let unknown_lease = pb::PutRequest { lease: 77, ..put("k", "v") };
    refused(member.kv().put(unknown_lease).await, (Code::NotFound, "etcdserver: requested lease not found"));
    assert_eq!(member.state.store.revision(), 1, "a refused request changed the store");
}

#[tokio::test]
async fn a_bad_timeout_is_refused_and_a_client_that_needs_a_leader_is_served_by_a_member_that_has_one() {
    let member = start().await;
    let mut request = Request::new(get("k"));
    request.metadata_mut().insert("grpc-timeout", "zzz".parse().expect("metadata"));
    refused(member.kv().range(request).await, (Code::InvalidArgument, "malformed grpc-timeout"));
    let mut request = Request::new(get("k"));
    request.metadata_mut().insert("hasleader", "true".parse().expect("metadata"));
    ok(member.kv().range(request).await);
}
