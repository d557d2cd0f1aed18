//! The permission table: every method of the port, asked by nobody, by a user without rights to what is asked, and by
//! root. A method without a row fails [`every_method_has_its_row`].
//!
//! A cell says which refusal is due, or that none is: root may still hear that a member is unknown. Requests are about
//! the key `z`, which the user may not touch; what he may do with his own keys is in `auth`.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::auth::{grant_role, login, secured};
use super::kv::put;
use super::member::{Member, ok};
use crate::api::methods::{METHODS, Service};
use crate::proto::authpb::Permission;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::health;
use crate::proto::health::health_client::HealthClient;
use crate::proto::v3electionpb as election;
use crate::proto::v3electionpb::election_client::ElectionClient;
use crate::proto::v3lockpb as lock;
use crate::proto::v3lockpb::lock_client::LockClient;

/// Longest wait for the first message of a stream.
const PATIENCE: Duration = Duration::from_secs(10);

const EMPTY: Option<&str> = Some("etcdserver: user name is empty");
const DENIED: Option<&str> = Some("etcdserver: permission denied");
const PASSES: Option<&str> = None;

/// What nobody, the user and root hear.
type Due = [Option<&'static str>; 3];
/// What changes or shows what only root may.
const ROOT: Due = [EMPTY, DENIED, PASSES];
/// What depends on keys, leases or names: the same as [`ROOT`] for what is not one's own.
const OWN: Due = ROOT;
/// What anybody known may.
const KNOWN: Due = [EMPTY, PASSES, PASSES];
/// What needs nobody.
const OPEN: Due = [PASSES, PASSES, PASSES];

/// One asker at one method.
struct Seat<'a> {
    member: &'a Member,
    token: Option<String>,
    /// Differs from asker to asker.
    n: i64,
}

impl Seat<'_> {
    fn ask<T>(&self, message: T) -> Request<T> {
        super::auth::with_token(message, self.token.as_deref())
    }

    /// A lease that holds the key `z`.
    fn lease(&self) -> i64 {
        LEASE + self.n
    }
}

/// The lease of the first asker.
const LEASE: i64 = 71;

type Asked = for<'a> fn(&'a Seat<'a>) -> BoxFuture<'a, Result<(), Status>>;

/// A call with one request and one answer.
macro_rules! unary {
    ($client:ident.$method:ident($seat:ident => $request:expr)) => {
        |$seat| Box::pin(async move { $seat.member.$client().$method($seat.ask($request)).await.map(drop) })
    };
}

fn table() -> Vec<(Service, &'static str, Due, Asked)> {
    let mut rows = keys_and_leases();
    rows.extend(locks_and_elections());
    rows.extend(cluster_and_maintenance());
    rows.extend(users_and_roles());
    rows
}

fn keys_and_leases() -> Vec<(Service, &'static str, Due, Asked)> {
    vec![
        (Service::Kv, "Range", OWN, unary!(kv.range(seat => range()))),
        (Service::Kv, "Put", OWN, unary!(kv.put(seat => put("z", "1")))),
        (Service::Kv, "Txn", OWN, unary!(kv.txn(seat => txn()))),
        (Service::Kv, "DeleteRange", OWN, unary!(kv.delete_range(seat => delete()))),
        (
            Service::Kv,
            "Compact",
            ROOT,
            unary!(kv.compact(seat => pb::CompactionRequest { revision: 1, physical: false })),
        ),
        (Service::Watch, "Watch", OWN, |seat| Box::pin(watch(seat))),
        (Service::Lease, "LeaseKeepAlive", OWN, |seat| Box::pin(keep_alive(seat))),
        (
            Service::Lease,
            "LeaseGrant",
            KNOWN,
            unary!(lease.lease_grant(seat => pb::LeaseGrantRequest { ttl: 60, id: 0 })),
        ),
        (Service::Lease, "LeaseTimeToLive", OWN, unary!(lease.lease_time_to_live(seat => remaining(seat.lease())))),
        (Service::Lease, "LeaseLeases", OWN, unary!(lease.lease_leases(_seat => pb::LeaseLeasesRequest {}))),
        (
            Service::Lease,
            "LeaseRevoke",
            OWN,
            unary!(lease.lease_revoke(seat => pb::LeaseRevokeRequest { id: seat.lease() })),
        ),
    ]
}

fn cluster_and_maintenance() -> Vec<(Service, &'static str, Due, Asked)> {
    vec![
        (
            Service::Cluster,
            "MemberAdd",
            ROOT,
            unary!(cluster.member_add(_seat => pb::MemberAddRequest {
                peer_ur_ls: vec![Member::PEER_URL.to_owned()], is_learner: true,
            })),
        ),
        (
            Service::Cluster,
            "MemberRemove",
            ROOT,
            unary!(cluster.member_remove(_seat => pb::MemberRemoveRequest { id: 5 })),
        ),
        (
            Service::Cluster,
            "MemberUpdate",
            ROOT,
            unary!(cluster.member_update(_seat => pb::MemberUpdateRequest {
                id: 5, peer_ur_ls: vec!["http://127.0.0.1:9".to_owned()],
            })),
        ),
        (
            Service::Cluster,
            "MemberList",
            KNOWN,
            unary!(cluster.member_list(_seat => pb::MemberListRequest { linearizable: true })),
        ),
        (
            Service::Cluster,
            "MemberPromote",
            ROOT,
            unary!(cluster.member_promote(_seat => pb::MemberPromoteRequest { id: 5 })),
        ),
        (
            Service::Maintenance,
            "Alarm",
            ROOT,
            unary!(maintenance.alarm(_seat => pb::AlarmRequest { action: 1, member_id: 1, alarm: 0 })),
        ),
        (Service::Maintenance, "Status", KNOWN, unary!(maintenance.status(_seat => pb::StatusRequest {}))),
        (Service::Maintenance, "Defragment", ROOT, unary!(maintenance.defragment(_seat => pb::DefragmentRequest {}))),
        (Service::Maintenance, "Hash", ROOT, unary!(maintenance.hash(_seat => pb::HashRequest {}))),
        (Service::Maintenance, "HashKV", ROOT, unary!(maintenance.hash_kv(_seat => pb::HashKvRequest { revision: 0 }))),
        (Service::Maintenance, "Snapshot", ROOT, |seat| Box::pin(snapshot(seat))),
        (
            Service::Maintenance,
            "MoveLeader",
            ROOT,
            unary!(maintenance.move_leader(_seat => pb::MoveLeaderRequest { target_id: 5 })),
        ),
        (
            Service::Maintenance,
            "Downgrade",
            ROOT,
            unary!(maintenance.downgrade(_seat => pb::DowngradeRequest { action: 0, version: "3.5".to_owned() })),
        ),
        (Service::Health, "Check", OPEN, |seat| {
            Box::pin(async move {
                let request = seat.ask(health::HealthCheckRequest::default());
                HealthClient::new(seat.member.service()).check(request).await.map(drop)
            })
        }),
        (Service::Health, "Watch", OPEN, |seat| {
            Box::pin(async move {
                let request = seat.ask(health::HealthCheckRequest::default());
                HealthClient::new(seat.member.service()).watch(request).await.map(drop)
            })
        }),
    ]
}

fn locks_and_elections() -> Vec<(Service, &'static str, Due, Asked)> {
    vec![
        (Service::Lock, "Lock", OWN, |seat| {
            Box::pin(async move {
                let request = seat.ask(lock::LockRequest { name: "zl".into(), lease: 0 });
                LockClient::new(seat.member.service()).lock(request).await.map(drop)
            })
        }),
        (Service::Lock, "Unlock", OWN, |seat| {
            Box::pin(async move {
                let request = seat.ask(lock::UnlockRequest { key: "zl".into() });
                LockClient::new(seat.member.service()).unlock(request).await.map(drop)
            })
        }),
        (Service::Election, "Campaign", OWN, |seat| {
            Box::pin(async move {
                let request = election::CampaignRequest { name: "ze".into(), lease: 0, value: "1".into() };
                ElectionClient::new(seat.member.service()).campaign(seat.ask(request)).await.map(drop)
            })
        }),
        (Service::Election, "Observe", OWN, |seat| {
            Box::pin(async move {
                let request = seat.ask(election::LeaderRequest { name: "ze".into() });
                let mut leaders = ElectionClient::new(seat.member.service()).observe(request).await?.into_inner();
                tokio::time::timeout(PATIENCE, leaders.message()).await.expect("a message in time").map(drop)
            })
        }),
        (Service::Election, "Leader", OWN, |seat| {
            Box::pin(async move {
                let request = seat.ask(election::LeaderRequest { name: "ze".into() });
                ElectionClient::new(seat.member.service()).leader(request).await.map(drop)
            })
        }),
        (Service::Election, "Proclaim", OWN, |seat| {
            Box::pin(async move {
                let request = election::ProclaimRequest { leader: Some(leader_key()), value: "2".into() };
                ElectionClient::new(seat.member.service()).proclaim(seat.ask(request)).await.map(drop)
            })
        }),
        (Service::Election, "Resign", OWN, |seat| {
            Box::pin(async move {
                let request = election::ResignRequest { leader: Some(leader_key()) };
                ElectionClient::new(seat.member.service()).resign(seat.ask(request)).await.map(drop)
            })
        }),
    ]
}

/// A leadership that nobody has.
fn leader_key() -> election::LeaderKey {
    election::LeaderKey { name: "ze".into(), key: "ze/1".into(), rev: 1, lease: 1 }
}

fn users_and_roles() -> Vec<(Service, &'static str, Due, Asked)> {
    vec![
        (Service::Auth, "AuthEnable", ROOT, unary!(auth.auth_enable(_seat => pb::AuthEnableRequest {}))),
        (Service::Auth, "AuthStatus", ROOT, unary!(auth.auth_status(_seat => pb::AuthStatusRequest {}))),
        (
            Service::Auth,
            "Authenticate",
            OPEN,
            unary!(auth.authenticate(_seat => pb::AuthenticateRequest {
                name: "ann".to_owned(), password: "ann".to_owned(),
            })),
        ),
        (
            Service::Auth,
            "UserAdd",
            ROOT,
            unary!(auth.user_add(seat => pb::AuthUserAddRequest {
                name: format!("new{}", seat.n), password: "p".to_owned(), ..Default::default()
            })),
        ),
        (
            Service::Auth,
            "UserGet",
            OWN,
            unary!(auth.user_get(_seat => pb::AuthUserGetRequest { name: "bob".to_owned() })),
        ),
        (Service::Auth, "UserList", ROOT, unary!(auth.user_list(_seat => pb::AuthUserListRequest {}))),
        (
            Service::Auth,
            "UserDelete",
            ROOT,
            unary!(auth.user_delete(_seat => pb::AuthUserDeleteRequest { name: "bob".to_owned() })),
        ),
        (
            Service::Auth,
            "UserChangePassword",
            ROOT,
            unary!(auth.user_change_password(_seat => pb::AuthUserChangePasswordRequest {
                name: "ann".to_owned(), password: "ann".to_owned(), ..Default::default()
            })),
        ),
        (Service::Auth, "UserGrantRole", ROOT, unary!(auth.user_grant_role(_seat => grant_role("ann", "low")))),
        (
            Service::Auth,
            "UserRevokeRole",
            ROOT,
            unary!(auth.user_revoke_role(_seat => pb::AuthUserRevokeRoleRequest {
                name: "ann".to_owned(), role: "low".to_owned(),
            })),
        ),
        (
            Service::Auth,
            "RoleAdd",
            ROOT,
            unary!(auth.role_add(seat => pb::AuthRoleAddRequest { name: format!("new{}", seat.n) })),
        ),
        (
            Service::Auth,
            "RoleGet",
            OWN,
            unary!(auth.role_get(_seat => pb::AuthRoleGetRequest { role: "other".to_owned() })),
        ),
        (Service::Auth, "RoleList", ROOT, unary!(auth.role_list(_seat => pb::AuthRoleListRequest {}))),
        (
            Service::Auth,
            "RoleDelete",
            ROOT,
            unary!(auth.role_delete(_seat => pb::AuthRoleDeleteRequest { role: "new2".to_owned() })),
        ),
        (
            Service::Auth,
            "RoleGrantPermission",
            ROOT,
            unary!(auth.role_grant_permission(_seat => pb::AuthRoleGrantPermissionRequest {
                name: "other".to_owned(), perm: Some(Permission { perm_type: 0, key: "o".into(), ..Default::default() }),
            })),
        ),
        (
            Service::Auth,
            "RoleRevokePermission",
            ROOT,
            unary!(auth.role_revoke_permission(_seat => pb::AuthRoleRevokePermissionRequest {
                role: "other".to_owned(), key: "o".into(), ..Default::default()
            })),
        ),
        // Last, because it ends what the table is about.
        (Service::Auth, "AuthDisable", ROOT, unary!(auth.auth_disable(_seat => pb::AuthDisableRequest {}))),
    ]
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest { key: "z".into(), ..Default::default() }
}

fn delete() -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: "zz".into(), range_end: "zzz".into(), prev_kv: false }
}

fn txn() -> pb::TxnRequest {
    let operation = pb::RequestOp { request: Some(Op::RequestRange(range())) };
    pb::TxnRequest { failure: vec![operation], ..Default::default() }
}

fn remaining(id: i64) -> pb::LeaseTimeToLiveRequest {
    pb::LeaseTimeToLiveRequest { id, keys: true }
}

/// A refused watch is told so in its first message; its reason is a whole status, of which the sentence counts here.
async fn watch(seat: &Seat<'_>) -> Result<(), Status> {
    let (sender, receiver) = mpsc::channel(1);
    let create = pb::WatchCreateRequest { key: "z".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    sender.send(create).await.expect("an open stream");
    let mut client = pb::watch_client::WatchClient::new(seat.member.service());
    let mut answers = client.watch(seat.ask(ReceiverStream::new(receiver))).await?.into_inner();
    let first = tokio::time::timeout(PATIENCE, answers.message()).await.expect("a message in time")?;
    let first = first.expect("an open stream");
    assert_eq!(first.canceled, !first.cancel_reason.is_empty());
    match first.cancel_reason.split_once("desc = ") {
        Some((_, sentence)) => Err(Status::unknown(sentence)),
        None => Ok(()),
    }
}

async fn keep_alive(seat: &Seat<'_>) -> Result<(), Status> {
    let (sender, receiver) = mpsc::channel(1);
    sender.send(pb::LeaseKeepAliveRequest { id: seat.lease() }).await.expect("an open stream");
    let request = seat.ask(ReceiverStream::new(receiver));
    let mut answers = seat.member.lease().lease_keep_alive(request).await?.into_inner();
    let first = tokio::time::timeout(PATIENCE, answers.message()).await.expect("a message in time")?;
    assert_eq!(first.expect("an open stream").ttl, 60);
    Ok(())
}

async fn snapshot(seat: &Seat<'_>) -> Result<(), Status> {
    let mut pieces = seat.member.maintenance().snapshot(seat.ask(pb::SnapshotRequest {})).await?.into_inner();
    pieces.message().await.map(drop)
}

#[test]
fn every_method_has_its_row() {
    let name = |service: Service, method: &'static str| (service.name(), method);
    let methods: BTreeSet<_> = METHODS.iter().map(|(service, method, _)| name(*service, method)).collect();
    let rows: Vec<_> = table().iter().map(|(service, method, ..)| name(*service, method)).collect();
    assert_eq!(methods, rows.iter().copied().collect(), "a method of the port and the table of permissions differ");
    assert_eq!(rows.len(), METHODS.len(), "two rows for one method");
}

#[tokio::test]
async fn each_method_refuses_whom_it_should_and_nobody_else() {
    let member = secured().await;
    for n in 0..3 {
        let root = login(&member, "root").await;
        let lease = pb::LeaseGrantRequest { id: LEASE + n, ttl: 60 };
        ok(member.lease().lease_grant(super::auth::with_token(lease, Some(&root))).await);
        let key = pb::PutRequest { lease: LEASE + n, ..put(&format!("z{n}"), "") };
        ok(member.kv().put(super::auth::with_token(key, Some(&root))).await);
    }
    let mut wrong = Vec::new();
    for (service, method, due, asked) in table() {
        for (n, (who, expected)) in [None, Some("ann"), Some("root")].into_iter().zip(due).enumerate() {
            let token = match who {
                // A fresh login each time: some of the calls log the user out.
                Some(who) => Some(login(&member, who).await),
                None => None,
            };
            let seat = Seat { member: &member, token, n: n as i64 };
            let heard = asked(&seat).await.err().map(|status| status.message().to_owned());
            let refusal = heard.filter(|heard| [EMPTY, DENIED].contains(&Some(heard.as_str())));
            if refusal.as_deref() != expected {
                wrong.push(format!("{}/{method} by {who:?}: {refusal:?}, due {expected:?}", service.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!member.state.store.auth().is_enabled(), "the last row was carried out");
}

#[tokio::test]
async fn a_bad_token_is_refused_wherever_a_missing_one_is() {
    let member = secured().await;
    let mut wrong = Vec::new();
    for (service, method, due, asked) in table() {
        for bad in ["nonsense", "abcdefghijklmnop.1"] {
            let seat = Seat { member: &member, token: Some(bad.to_owned()), n: 0 };
            let heard = asked(&seat).await.err().map(|status| status.message().to_owned());
            let expected = due[0].map(|_| "etcdserver: invalid auth token");
            let refusal = heard.filter(|heard| heard == "etcdserver: invalid auth token");
            if refusal.as_deref() != expected {
                wrong.push(format!("{}/{method} with {bad}: {refusal:?}", service.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
