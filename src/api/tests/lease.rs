//! Leases through the whole member.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::kv::put;
use super::member::{ok, refused, start};
use crate::proto::etcdserverpb as pb;

fn grant(ttl: i64, id: i64) -> pb::LeaseGrantRequest {
    pb::LeaseGrantRequest { ttl, id }
}

#[tokio::test]
async fn grants_raise_short_ttls_choose_ids_and_refuse_what_etcd_refuses() {
    let member = start().await;
    let minimum = member.state.limits.min_lease_ttl();
    for ttl in [-1, 0] {
        let granted = ok(member.lease().lease_grant(grant(ttl, 0)).await);
        assert_eq!(granted.ttl, minimum);
        assert!(granted.id > 0, "the server chooses positive ids");
    }
    assert_eq!(ok(member.lease().lease_grant(grant(60, -5)).await).id, -5);
    refused(
        member.lease().lease_grant(grant(60, -5)).await,
        (Code::FailedPrecondition, "etcdserver: lease already exists"),
    );
    refused(
        member.lease().lease_grant(grant(9_000_000_001, 0)).await,
        (Code::OutOfRange, "etcdserver: too large lease TTL"),
    );
    assert_eq!(ok(member.lease().lease_leases(pb::LeaseLeasesRequest {}).await).leases.len(), 3);
}

#[tokio::test]
async fn revoking_deletes_the_keys_in_one_revision() {
    let member = start().await;
    ok(member.lease().lease_grant(grant(60, 7)).await);
    for key in ["a", "b"] {
        ok(member.kv().put(pb::PutRequest { lease: 7, ..put(key, "v") }).await);
    }
    let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
    let alive = ok(member.lease().lease_time_to_live(ask).await);
    assert_eq!((alive.granted_ttl, alive.keys.len()), (60, 2));
    assert!((55..=60).contains(&alive.ttl), "remaining {}", alive.ttl);
    let revoked = ok(member.lease().lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await);
    assert_eq!(revoked.header.expect("a header").revision, 4);
    let gone = ok(member.lease().lease_time_to_live(ask).await);
    assert_eq!((gone.ttl, gone.granted_ttl, gone.keys.len()), (-1, 0, 0));
    refused(
        member.lease().lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await,
        (Code::NotFound, "etcdserver: requested lease not found"),
    );
}

#[tokio::test]
async fn keep_alive_answers_each_request_in_order_and_ends_with_the_client() {
    let member = start().await;
    ok(member.lease().lease_grant(grant(60, 7)).await);
    let (sender, receiver) = mpsc::channel(4);
    let mut answers = ok(member.lease().lease_keep_alive(ReceiverStream::new(receiver)).await);
    for (id, ttl) in [(7, 60), (99, 0), (7, 60)] {
        sender.send(pb::LeaseKeepAliveRequest { id }).await.expect("an open stream");
        let answer = answers.message().await.expect("no error").expect("an answer");
        assert_eq!((answer.id, answer.ttl), (id, ttl));
        assert!(answer.header.is_some());
    }
    drop(sender);
    assert!(answers.message().await.expect("a good end").is_none());
}
