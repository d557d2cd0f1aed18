//! What is sent to each method, as protobuf and as JSON, and what is due. Both matches are exhaustive: a new method does
//! not build without a request here.
//!
//! Requests are about the key `z`, a lease that holds it, and names that are not the low user's own.

use bytes::{BufMut, Bytes, BytesMut};
use http::Method;
use prost::Message;

use super::servers::Ask;
use super::{Due, LEASE, RULER};
use crate::api::methods::{Kind, Rpc};
use crate::proto::authpb::Permission;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::health;
use crate::proto::v3electionpb as election;
use crate::proto::v3lockpb as lock;

// Callers in the order of `Who::V3`: nobody, the low user, root, root's certificate. Modes: neither, v2, v3, both.
/// What needs nobody.
const OPEN: Due = ["....", "....", "....", "...."];
/// What anybody known may.
const KNOWN: Due = ["....", "....", "e...", "e..."];
/// What only root may, and what is not the low user's own.
const ROOT: Due = ["....", "....", "ed..", "ed.."];

/// What nobody, the low user, root and root's certificate hear in each mode.
pub fn due(rpc: Rpc) -> Due {
    match rpc {
        Rpc::Authenticate | Rpc::HealthCheck | Rpc::HealthWatch => OPEN,
        Rpc::LeaseGrant | Rpc::MemberList | Rpc::Status => KNOWN,
        Rpc::Range
        | Rpc::Put
        | Rpc::Txn
        | Rpc::DeleteRange
        | Rpc::Compact
        | Rpc::Watch
        | Rpc::LeaseKeepAlive
        | Rpc::LeaseRevoke
        | Rpc::LeaseTimeToLive
        | Rpc::LeaseLeases
        | Rpc::MemberAdd
        | Rpc::MemberRemove
        | Rpc::MemberUpdate
        | Rpc::MemberPromote
        | Rpc::Alarm
        | Rpc::Defragment
        | Rpc::Hash
        | Rpc::HashKv
        | Rpc::Snapshot
        | Rpc::MoveLeader
        | Rpc::Downgrade
        | Rpc::AuthEnable
        | Rpc::AuthDisable
        | Rpc::AuthStatus
        | Rpc::UserAdd
        | Rpc::UserGet
        | Rpc::UserList
        | Rpc::UserDelete
        | Rpc::UserChangePassword
        | Rpc::UserGrantRole
        | Rpc::UserRevokeRole
        | Rpc::RoleAdd
        | Rpc::RoleGet
        | Rpc::RoleList
        | Rpc::RoleDelete
        | Rpc::RoleGrantPermission
        | Rpc::RoleRevokePermission
        | Rpc::Lock
        | Rpc::Unlock
        | Rpc::Campaign
        | Rpc::Proclaim
        | Rpc::Leader
        | Rpc::Observe
        | Rpc::Resign => ROOT,
    }
}

/// The same through the gateway, where whoever comes with a certificate that names somebody is sent away.
pub fn due_at_gateway(rpc: Rpc) -> Vec<String> {
    let sent_away = |(mode, due): (usize, &str)| if mode < 2 { due.to_owned() } else { format!("{}g", &due[..3]) };
    due(rpc).into_iter().enumerate().map(sent_away).collect()
}

/// Whether a call is more than one message.
pub fn is_many(rpc: Rpc) -> bool {
    rpc.kind() == Kind::BidiStream
}

/// One call; `n` differs from call to call.
pub fn grpc(rpc: Rpc, n: u64, peer_url: &str) -> Ask {
    let (message, _) = request(rpc, n, peer_url);
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    let headers = vec![("content-type", "application/grpc".to_owned()), ("te", "trailers".to_owned())];
    Ask {
        method: Method::POST,
        path: format!("/{}/{}", rpc.service().name(), rpc.name()),
        headers,
        body: framed.freeze(),
        is_grpc: true,
        stays_open: is_many(rpc),
        is_stream: rpc.kind() != Kind::Unary,
    }
}

/// The same call as JSON.
pub fn json(rpc: Rpc, path: &str, n: u64, peer_url: &str) -> Ask {
    let (_, text) = request(rpc, n, peer_url);
    let ask = Ask::http(Method::POST, &format!("/v3/{path}"), "application/json", text);
    // Its body ends: Go does not answer on HTTP/1 before that.
    Ask { is_stream: rpc.kind() != Kind::Unary, ..ask }
}

type Sent = (Bytes, String);

fn sent(message: impl Message, json: impl Into<String>) -> Sent {
    (message.encode_to_vec().into(), json.into())
}

fn request(rpc: Rpc, n: u64, peer_url: &str) -> Sent {
    match rpc {
        Rpc::Range => sent(range(), r#"{"key":"eg=="}"#),
        Rpc::Put => sent(put("z", 0), r#"{"key":"eg==","value":"MQ=="}"#),
        Rpc::Txn => sent(txn(), r#"{"failure":[{"request_range":{"key":"eg=="}}]}"#),
        Rpc::DeleteRange => sent(delete(), r#"{"key":"eno=","range_end":"enp6"}"#),
        Rpc::Compact => sent(pb::CompactionRequest { revision: 1, physical: false }, r#"{"revision":1}"#),
        Rpc::Watch => sent(watch(), r#"{"create_request":{"key":"eg=="}}"#),
        Rpc::LeaseKeepAlive => sent(pb::LeaseKeepAliveRequest { id: LEASE }, lease_json("")),
        Rpc::LeaseGrant => sent(pb::LeaseGrantRequest { ttl: 60, id: 0 }, r#"{"TTL":60}"#),
        Rpc::LeaseRevoke => sent(pb::LeaseRevokeRequest { id: LEASE }, lease_json("")),
        Rpc::LeaseTimeToLive => {
            sent(pb::LeaseTimeToLiveRequest { id: LEASE, keys: true }, lease_json(r#","keys":true"#))
        }
        Rpc::LeaseLeases => sent(pb::LeaseLeasesRequest {}, "{}"),
        Rpc::MemberAdd | Rpc::MemberRemove | Rpc::MemberUpdate | Rpc::MemberList | Rpc::MemberPromote => {
            members(rpc, peer_url)
        }
        Rpc::Alarm
        | Rpc::Status
        | Rpc::Defragment
        | Rpc::Hash
        | Rpc::HashKv
        | Rpc::Snapshot
        | Rpc::MoveLeader
        | Rpc::Downgrade
        | Rpc::HealthCheck
        | Rpc::HealthWatch => maintenance(rpc),
        Rpc::AuthEnable
        | Rpc::AuthDisable
        | Rpc::AuthStatus
        | Rpc::Authenticate
        | Rpc::UserAdd
        | Rpc::UserGet
        | Rpc::UserList
        | Rpc::UserDelete
        | Rpc::UserChangePassword
        | Rpc::UserGrantRole
        | Rpc::UserRevokeRole => users(rpc, n),
        Rpc::RoleAdd
        | Rpc::RoleGet
        | Rpc::RoleList
        | Rpc::RoleDelete
        | Rpc::RoleGrantPermission
        | Rpc::RoleRevokePermission => roles(rpc, n),
        Rpc::Lock | Rpc::Unlock | Rpc::Campaign | Rpc::Proclaim | Rpc::Leader | Rpc::Observe | Rpc::Resign => {
            queues(rpc, n)
        }
    }
}

fn lease_json(more: &str) -> String {
    format!(r#"{{"ID":{LEASE}{more}}}"#)
}

fn members(rpc: Rpc, peer_url: &str) -> Sent {
    match rpc {
        Rpc::MemberAdd => sent(
            pb::MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: true },
            format!(r#"{{"peerURLs":["{peer_url}"],"isLearner":true}}"#),
        ),
        Rpc::MemberRemove => sent(pb::MemberRemoveRequest { id: 5 }, r#"{"ID":5}"#),
        Rpc::MemberUpdate => sent(
            pb::MemberUpdateRequest { id: 5, peer_ur_ls: vec!["http://127.0.0.1:9".to_owned()] },
            r#"{"ID":5,"peerURLs":["http://127.0.0.1:9"]}"#,
        ),
        Rpc::MemberPromote => sent(pb::MemberPromoteRequest { id: 5 }, r#"{"ID":5}"#),
        _ => sent(pb::MemberListRequest { linearizable: true }, r#"{"linearizable":true}"#),
    }
}

fn maintenance(rpc: Rpc) -> Sent {
    match rpc {
        Rpc::Alarm => sent(pb::AlarmRequest { action: 1, member_id: 1, alarm: 0 }, r#"{"action":1,"memberID":1}"#),
        Rpc::Status => sent(pb::StatusRequest {}, "{}"),
        Rpc::Defragment => sent(pb::DefragmentRequest {}, "{}"),
        Rpc::Hash => sent(pb::HashRequest {}, "{}"),
        Rpc::HashKv => sent(pb::HashKvRequest { revision: 0 }, "{}"),
        Rpc::Snapshot => sent(pb::SnapshotRequest {}, "{}"),
        Rpc::MoveLeader => sent(pb::MoveLeaderRequest { target_id: 5 }, r#"{"targetID":5}"#),
        Rpc::Downgrade => {
            sent(pb::DowngradeRequest { action: 0, version: "3.5".to_owned() }, r#"{"action":0,"version":"3.5"}"#)
        }
        _ => sent(health::HealthCheckRequest::default(), "{}"),
    }
}

fn users(rpc: Rpc, n: u64) -> Sent {
    let (name, password) = ("ann".to_owned(), "ann".to_owned());
    match rpc {
        Rpc::AuthEnable => sent(pb::AuthEnableRequest {}, "{}"),
        Rpc::AuthDisable => sent(pb::AuthDisableRequest {}, "{}"),
        Rpc::AuthStatus => sent(pb::AuthStatusRequest {}, "{}"),
        Rpc::Authenticate => sent(pb::AuthenticateRequest { name, password }, r#"{"name":"ann","password":"ann"}"#),
        Rpc::UserAdd => sent(
            pb::AuthUserAddRequest { name: format!("new{n}"), password, ..Default::default() },
            format!(r#"{{"name":"new{n}","password":"ann"}}"#),
        ),
        Rpc::UserGet => sent(pb::AuthUserGetRequest { name: RULER.to_owned() }, r#"{"name":"root"}"#),
        Rpc::UserList => sent(pb::AuthUserListRequest {}, "{}"),
        Rpc::UserDelete => sent(pb::AuthUserDeleteRequest { name: "gone".to_owned() }, r#"{"name":"gone"}"#),
        Rpc::UserChangePassword => sent(
            pb::AuthUserChangePasswordRequest { name, password, ..Default::default() },
            r#"{"name":"ann","password":"ann"}"#,
        ),
        Rpc::UserGrantRole => {
            sent(pb::AuthUserGrantRoleRequest { user: name, role: "low".to_owned() }, r#"{"user":"ann","role":"low"}"#)
        }
        _ => sent(pb::AuthUserRevokeRoleRequest { name, role: "other".to_owned() }, r#"{"name":"ann","role":"other"}"#),
    }
}

fn roles(rpc: Rpc, n: u64) -> Sent {
    let role = "other".to_owned();
    match rpc {
        Rpc::RoleAdd => sent(pb::AuthRoleAddRequest { name: format!("new{n}") }, format!(r#"{{"name":"new{n}"}}"#)),
        Rpc::RoleGet => sent(pb::AuthRoleGetRequest { role }, r#"{"role":"other"}"#),
        Rpc::RoleList => sent(pb::AuthRoleListRequest {}, "{}"),
        Rpc::RoleDelete => sent(pb::AuthRoleDeleteRequest { role: "gone".to_owned() }, r#"{"role":"gone"}"#),
        Rpc::RoleGrantPermission => {
            let perm = Some(Permission { perm_type: 0, key: "o".into(), ..Default::default() });
            sent(
                pb::AuthRoleGrantPermissionRequest { name: role, perm },
                r#"{"name":"other","perm":{"permType":0,"key":"bw=="}}"#,
            )
        }
        _ => sent(
            pb::AuthRoleRevokePermissionRequest { role, key: "o".into(), ..Default::default() },
            r#"{"role":"other","key":"bw=="}"#,
        ),
    }
}

/// Names that begin with `z`, each its own, so that nobody waits for anybody.
fn queues(rpc: Rpc, n: u64) -> Sent {
    let coded = |text: &str| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text);
    let name = format!("z{n}");
    let gone = || Some(election::LeaderKey { name: "ze".into(), key: "ze/1".into(), rev: 1, lease: 1 });
    let gone_json = format!(r#""leader":{{"name":"{}","key":"{}","rev":1,"lease":1}}"#, coded("ze"), coded("ze/1"));
    match rpc {
        Rpc::Lock => {
            sent(lock::LockRequest { name: name.clone().into(), lease: 0 }, format!(r#"{{"name":"{}"}}"#, coded(&name)))
        }
        Rpc::Unlock => sent(lock::UnlockRequest { key: "zl".into() }, format!(r#"{{"key":"{}"}}"#, coded("zl"))),
        Rpc::Campaign => sent(
            election::CampaignRequest { name: name.clone().into(), lease: 0, value: "1".into() },
            format!(r#"{{"name":"{}","value":"MQ=="}}"#, coded(&name)),
        ),
        Rpc::Proclaim => sent(
            election::ProclaimRequest { leader: gone(), value: "2".into() },
            format!(r#"{{{gone_json},"value":"Mg=="}}"#),
        ),
        Rpc::Resign => sent(election::ResignRequest { leader: gone() }, format!("{{{gone_json}}}")),
        _ => sent(election::LeaderRequest { name: "zo".into() }, format!(r#"{{"name":"{}"}}"#, coded("zo"))),
    }
}

/// A leadership that is held, for those who look at it.
pub fn lead(lease: i64) -> Ask {
    let coded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "zo");
    let body = format!(r#"{{"name":"{coded}","lease":{lease},"value":"MQ=="}}"#);
    Ask::http(Method::POST, "/v3/election/campaign", "application/json", body)
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest { key: "z".into(), ..Default::default() }
}

fn put(key: &str, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: "1".into(), lease, ..Default::default() }
}

fn delete() -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: "zz".into(), range_end: "zzz".into(), prev_kv: false }
}

fn txn() -> pb::TxnRequest {
    let operation = pb::RequestOp { request: Some(Op::RequestRange(range())) };
    pb::TxnRequest { failure: vec![operation], ..Default::default() }
}

fn watch() -> pb::WatchRequest {
    let create = pb::WatchCreateRequest { key: "z".into(), ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}
