//! Sizes and the quota.

use std::time::Duration;

use tonic::{Code, Status};

use super::kv::put;
use super::member::{Member, ok, refused, start, start_with};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;

#[tokio::test]
async fn requests_over_the_limit_are_refused_by_name_and_by_the_transport_beyond_that() {
    let member = start().await;
    let limit = member.state.limits.max_request_bytes;
    let large = put("k", &"v".repeat(limit));
    refused(member.kv().put(large).await, (Code::InvalidArgument, "etcdserver: request is too large"));
    let huge = "v".repeat(member.state.limits.max_message_bytes());
    let status = member.kv().put(put("k", &huge)).await.expect_err("over the transport limit");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().starts_with("grpc: received message larger than max ("), "{}", status.message());
    ok(member.kv().put(put("k", &"v".repeat(limit / 2))).await);
}

#[tokio::test]
async fn crossing_the_quota_raises_the_alarm_and_disarming_it_lets_writes_pass_again() {
    let allocated = start().await.state.store.size().allocated;
    let member = start_with(|limits| limits.quota_bytes = Some(allocated + 8 * 1024)).await;
    let full = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    ok(member.kv().put(put("small", "v")).await);
    refused(member.kv().put(put("k", &"v".repeat(16 * 1024))).await, full);
    // The alarm now stops even small writes, on every member, and leases with them; deletes go on.
    refused(member.kv().put(put("small", "w")).await, full);
    refused(member.lease().lease_grant(pb::LeaseGrantRequest { ttl: 5, id: 0 }).await, full);
    ok(member.kv().delete_range(pb::DeleteRangeRequest { key: "small".into(), ..Default::default() }).await);

    let get = pb::AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
    let alarms = ok(member.maintenance().alarm(get).await).alarms;
    assert_eq!(alarms, [pb::AlarmMember { member_id: Member::ID, alarm: pb::AlarmType::Nospace.into() }]);
    let status = ok(member.maintenance().status(pb::StatusRequest {}).await);
    assert_eq!(status.errors, [format!("memberID:{} alarm:NOSPACE ", Member::ID)]);

    let disarm = pb::AlarmRequest {
        action: AlarmAction::Deactivate.into(),
        member_id: Member::ID,
        alarm: pb::AlarmType::Nospace.into(),
    };
    ok(member.maintenance().alarm(disarm).await);
    assert!(ok(member.maintenance().alarm(disarm).await).alarms.is_empty(), "disarmed twice");
    ok(member.kv().put(put("small", "w")).await);
}

#[tokio::test]
async fn status_names_the_version_the_leader_and_sizes_that_are_never_zero() {
    let member = start().await;
    ok(member.kv().put(put("k", "v")).await);
    let status = ok(member.maintenance().status(pb::StatusRequest {}).await);
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.6.5", "3.6.0"));
    assert_eq!(status.leader, Member::ID);
    assert!(status.db_size > 0 && status.db_size_in_use <= status.db_size);
    assert!(status.raft_applied_index > 0 && status.raft_applied_index <= status.raft_index);
    assert!(status.errors.is_empty() && !status.is_learner);
    assert_eq!(status.db_size_quota, 2 * 1024 * 1024 * 1024);
    assert!(status.downgrade_info.is_some());
}

#[tokio::test]
async fn leader_transfer_to_a_stranger_is_refused() {
    let member = start().await;
    let request = pb::MoveLeaderRequest { target_id: 5 };
    refused(
        member.maintenance().move_leader(request).await,
        (Code::FailedPrecondition, "etcdserver: bad leader transferee"),
    );
}

#[tokio::test]
async fn hashes_answer_for_known_revisions_only() {
    let member = start().await;
    ok(member.kv().put(put("k", "1")).await);
    let at = |revision| pb::HashKvRequest { revision };
    let hash = ok(member.maintenance().hash_kv(at(0)).await);
    assert_eq!((hash.hash_revision, hash.compact_revision), (2, -1));
    assert_eq!(hash.header.expect("a header").revision, 2);
    refused(
        member.maintenance().hash_kv(at(9)).await,
        (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
    );
    let before = hash.hash;
    ok(member.maintenance().defragment(pb::DefragmentRequest {}).await);
    assert_eq!(ok(member.maintenance().hash_kv(at(0)).await).hash, before);
}

#[tokio::test]
async fn the_last_member_stays_and_member_answers_carry_no_revision() {
    let member = start().await;
    refused(
        member.cluster().member_remove(pb::MemberRemoveRequest { id: Member::ID }).await,
        (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members"),
    );
    refused(
        member.cluster().member_remove(pb::MemberRemoveRequest { id: 7 }).await,
        (Code::NotFound, "etcdserver: member not found"),
    );
    refused(
        member.cluster().member_promote(pb::MemberPromoteRequest { id: Member::ID }).await,
        (Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
    );
    let bad = pb::MemberAddRequest { peer_ur_ls: vec!["nope".to_owned()], is_learner: false };
    refused(
        member.cluster().member_add(bad).await,
        (Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
    );
    let known = pb::MemberAddRequest { peer_ur_ls: vec![Member::PEER_URL.to_owned()], is_learner: true };
    refused(
        member.cluster().member_add(known).await,
        (Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
    );
    let list = ok(member.cluster().member_list(pb::MemberListRequest { linearizable: true }).await);
    assert_eq!(list.header.expect("a header").revision, 0);
    assert_eq!(list.members.len(), 1);
    assert_eq!(list.members[0].id, Member::ID);
}

#[tokio::test]
async fn writes_are_refused_not_hung_once_the_member_has_stopped() {
    let member = start().await;
    member.state.consensus.shutdown().await;
    let answer = tokio::time::timeout(Duration::from_secs(5), member.kv().put(put("k", "v"))).await;
    let status = answer.expect("an answer").expect_err("a stopped member took a write");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
}

#[tokio::test]
async fn authentication_is_off_and_needs_a_root_and_what_is_missing_is_unimplemented() {
    let member = start().await;
    let mut auth = pb::auth_client::AuthClient::new(member.service());
    assert!(!ok(auth.auth_status(pb::AuthStatusRequest {}).await).enabled);
    let login = pb::AuthenticateRequest { name: "a".to_owned(), password: "b".to_owned() };
    refused(auth.authenticate(login).await, (Code::FailedPrecondition, "etcdserver: authentication is not enabled"));
    let enable = auth.auth_enable(pb::AuthEnableRequest {}).await;
    refused(enable, (Code::FailedPrecondition, "etcdserver: root user does not exist"));
    for (path, sentence) in [
        ("/v3nopepb.Nope/Nope", "unknown service v3nopepb.Nope"),
        ("/etcdserverpb.KV/RangeStream", "unknown method RangeStream for service etcdserverpb.KV"),
    ] {
        let request = http::Request::post(path).version(http::Version::HTTP_2);
        let request = request.header("content-type", "application/grpc");
        let request = request.body(tonic::body::Body::empty()).expect("a request");
        let answer = tower::ServiceExt::oneshot(member.service(), request).await.expect("infallible");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, sentence));
    }
}
