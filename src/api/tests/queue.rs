//! Locks and elections: who waits for whom, and what becomes of those who go away.

use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

use super::member::{Member, ok, refused, start};
use crate::model::view::View;
use crate::proto::etcdserverpb as kvpb;
use crate::proto::v3electionpb as epb;
use crate::proto::v3electionpb::election_client::ElectionClient;
use crate::proto::v3lockpb as lpb;
use crate::proto::v3lockpb::lock_client::LockClient;

const PATIENCE: Duration = Duration::from_secs(30);

fn locks(member: &Member) -> LockClient<crate::api::service::ClientService> {
    LockClient::new(member.service())
}

fn elections(member: &Member) -> ElectionClient<crate::api::service::ClientService> {
    ElectionClient::new(member.service())
}

async fn grant(member: &Member, id: i64) {
    ok(member.lease().lease_grant(kvpb::LeaseGrantRequest { id, ttl: 100 }).await);
}

fn lock(member: &Member, lease: i64) -> JoinHandle<Result<Response<lpb::LockResponse>, Status>> {
    let mut client = locks(member);
    tokio::spawn(async move { client.lock(lpb::LockRequest { name: "l".into(), lease }).await })
}

fn campaign(
    member: &Member,
    lease: i64,
    value: &'static str,
) -> JoinHandle<Result<Response<epb::CampaignResponse>, Status>> {
    let mut client = elections(member);
    let request = epb::CampaignRequest { name: "e".into(), lease, value: value.into() };
    tokio::spawn(async move { client.campaign(request).await })
}

fn exists(member: &Member, key: &str) -> bool {
    member.state.store.view().get(key.as_bytes()).expect("readable").is_some()
}

/// Returns once `key` is there, or gone.
async fn until(member: &Member, key: &str, there: bool) {
    let wait = async {
        while exists(member, key) != there {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the key comes and goes in time");
}

async fn done<T>(task: JoinHandle<T>) -> T {
    tokio::time::timeout(PATIENCE, task).await.expect("an answer in time").expect("no panic")
}

#[tokio::test]
async fn a_lock_is_handed_on_in_the_order_of_arrival() {
    let member = start().await;
    for id in [1, 2, 3] {
        grant(&member, id).await;
    }
    let held = ok(done(lock(&member, 1)).await);
    assert_eq!(held.key, "l/1");
    let again = ok(done(lock(&member, 1)).await);
    assert_eq!(again.key, "l/1", "the lease holds it already");
    let second = lock(&member, 2);
    until(&member, "l/2", true).await;
    let third = lock(&member, 3);
    until(&member, "l/3", true).await;
    assert!(!second.is_finished() && !third.is_finished());
    ok(locks(&member).unlock(lpb::UnlockRequest { key: held.key }).await);
    let second = ok(done(second).await);
    assert_eq!(second.key, "l/2");
    assert!(!third.is_finished());
    // The end of a lease is the end of its lock.
    ok(member.lease().lease_revoke(kvpb::LeaseRevokeRequest { id: 2 }).await);
    assert_eq!(ok(done(third).await).key, "l/3");
}

#[tokio::test]
async fn a_waiter_whose_lease_ends_hears_so_and_one_that_goes_away_leaves_the_queue() {
    let member = start().await;
    for id in [1, 2, 3] {
        grant(&member, id).await;
    }
    let held = ok(done(lock(&member, 1)).await);
    let expired = lock(&member, 2);
    until(&member, "l/2", true).await;
    ok(member.lease().lease_revoke(kvpb::LeaseRevokeRequest { id: 2 }).await);
    let gone = lock(&member, 3);
    until(&member, "l/3", true).await;
    gone.abort();
    until(&member, "l/3", false).await;
    ok(locks(&member).unlock(lpb::UnlockRequest { key: held.key }).await);
    refused(done(expired).await, (Code::Unknown, "mutex: session is expired"));
}

#[tokio::test]
async fn a_lock_without_a_lease_gets_one_and_one_with_a_wrong_lease_is_refused() {
    let member = start().await;
    let held = ok(locks(&member).lock(lpb::LockRequest { name: "l".into(), lease: 0 }).await);
    let lease = std::str::from_utf8(&held.key).expect("text").strip_prefix("l/").expect("its own key").to_owned();
    let lease = i64::from_str_radix(&lease, 16).expect("a lease id");
    let left = ok(member.lease().lease_time_to_live(kvpb::LeaseTimeToLiveRequest { id: lease, keys: true }).await);
    assert_eq!((left.granted_ttl, left.keys), (60, vec![held.key]));
    let refused_lock = locks(&member).lock(lpb::LockRequest { name: "l".into(), lease: 404 }).await;
    refused(refused_lock, (Code::Unknown, "etcdserver: requested lease not found"));
    let unlock = locks(&member).unlock(lpb::UnlockRequest { key: "nobody".into() }).await;
    assert!(ok(unlock).header.is_some());
}

#[tokio::test]
async fn a_lock_with_a_deadline_gives_up_and_leaves() {
    let member = start().await;
    grant(&member, 1).await;
    grant(&member, 2).await;
    ok(done(lock(&member, 1)).await);
    let mut request = tonic::Request::new(lpb::LockRequest { name: "l".into(), lease: 2 });
    request.metadata_mut().insert("grpc-timeout", "50m".parse().expect("a header"));
    refused(locks(&member).lock(request).await, (Code::DeadlineExceeded, "context deadline exceeded"));
    until(&member, "l/2", false).await;
}

#[tokio::test]
async fn leaders_follow_each_other_and_observers_hear_every_one() {
    let member = start().await;
    grant(&member, 1).await;
    grant(&member, 2).await;
    let ask = || epb::LeaderRequest { name: "e".into() };
    refused(elections(&member).leader(ask()).await, (Code::Unknown, "election: no leader"));
    let mut seen = ok(elections(&member).observe(ask()).await);
    let mut next = async || {
        let message = tokio::time::timeout(PATIENCE, seen.message()).await.expect("in time").expect("well");
        let kv = message.expect("not the end").kv.expect("a key");
        (kv.key, kv.value)
    };
    let first = ok(done(campaign(&member, 1, "one")).await).leader.expect("a leader key");
    assert_eq!((first.key.as_ref(), first.lease), (&b"e/1"[..], 1));
    assert_eq!(next().await, ("e/1".into(), "one".into()));
    let second = campaign(&member, 2, "two");
    until(&member, "e/2", true).await;
    let proclaim = epb::ProclaimRequest { leader: Some(first.clone()), value: "uno".into() };
    ok(elections(&member).proclaim(proclaim.clone()).await);
    assert_eq!(next().await, ("e/1".into(), "uno".into()));
    let renamed = ok(done(campaign(&member, 1, "eins")).await).leader.expect("a leader key");
    assert_eq!(renamed.rev, first.rev, "it leads on, with another value");
    assert_eq!(next().await, ("e/1".into(), "eins".into()));
    assert_eq!(ok(elections(&member).leader(ask()).await).kv.expect("a key").value, "eins");
    assert!(!second.is_finished());
    ok(elections(&member).resign(epb::ResignRequest { leader: Some(first.clone()) }).await);
    let second = ok(done(second).await).leader.expect("a leader key");
    assert_eq!(next().await, ("e/2".into(), "two".into()));
    refused(elections(&member).proclaim(proclaim).await, (Code::Unknown, "election: not leader"));
    ok(elections(&member).resign(epb::ResignRequest { leader: Some(first) }).await);
    assert_eq!(ok(elections(&member).leader(ask()).await).kv.expect("a key").key, second.key, "the other still leads");
}

#[tokio::test]
async fn a_candidate_whose_lease_ends_is_not_told_that_it_leads() {
    let member = start().await;
    grant(&member, 1).await;
    grant(&member, 2).await;
    let first = ok(done(campaign(&member, 1, "one")).await).leader;
    let second = campaign(&member, 2, "two");
    until(&member, "e/2", true).await;
    ok(member.lease().lease_revoke(kvpb::LeaseRevokeRequest { id: 2 }).await);
    ok(elections(&member).resign(epb::ResignRequest { leader: first }).await);
    refused(done(second).await, (Code::Unknown, "election: not leader"));
}

#[tokio::test]
async fn who_leads_must_be_said() {
    let member = start().await;
    let missing = (Code::Unknown, "\"leader\" field must be provided");
    refused(elections(&member).resign(epb::ResignRequest { leader: None }).await, missing);
    refused(elections(&member).proclaim(epb::ProclaimRequest { leader: None, value: "".into() }).await, missing);
}
