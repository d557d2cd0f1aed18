//! Authentication through the whole member: the switch, logins, tokens, certificates, and what open streams lose.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};
use tower::ServiceExt;

use super::kv::put;
use super::member::{Member, ok, refused, start, start_as};
use crate::api::identity::{GATEWAY_REFUSAL, IdentityOptions};
use crate::listen::Caller;
use crate::model::view::View;
use crate::proto::authpb::permission::Type;
use crate::proto::authpb::{Permission, UserAddOptions};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb::Event;
use crate::settings::AuthToken;

const PATIENCE: Duration = Duration::from_secs(10);
const EMPTY: (Code, &str) = (Code::InvalidArgument, "etcdserver: user name is empty");
const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");
const BAD_TOKEN: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");
const OLD: (Code, &str) = (Code::InvalidArgument, "etcdserver: revision of auth store is old");
const NOT_ON: (Code, &str) = (Code::FailedPrecondition, "etcdserver: authentication is not enabled");
const FAILED: (Code, &str) = (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");

pub(super) fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("metadata"));
    }
    request
}

fn user(name: &str) -> pb::AuthUserAddRequest {
    pb::AuthUserAddRequest { name: name.to_owned(), password: name.to_owned(), ..Default::default() }
}

fn role(name: &str) -> pb::AuthRoleAddRequest {
    pb::AuthRoleAddRequest { name: name.to_owned() }
}

pub(super) fn grant_role(user: &str, role: &str) -> pb::AuthUserGrantRoleRequest {
    pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() }
}

fn allow(role: &str, key: &str, range_end: &str) -> pb::AuthRoleGrantPermissionRequest {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    let perm = Permission { perm_type: Type::Readwrite.into(), key, range_end };
    pb::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(perm) }
}

fn forbid(role: &str, key: &str, range_end: &str) -> pb::AuthRoleRevokePermissionRequest {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    pb::AuthRoleRevokePermissionRequest { role: role.to_owned(), key, range_end }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn password(name: &str, password: &str) -> pb::AuthenticateRequest {
    pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() }
}

/// A fresh token of a user whose password is his name.
pub(super) async fn login(member: &Member, name: &str) -> String {
    ok(member.auth().authenticate(password(name, name)).await).token
}

/// Gives a member root, bob, and ann with the role `low` (keys `a` to `m`), and switches authentication on.
async fn secure(member: &Member) {
    for name in ["root", "ann", "bob"] {
        ok(member.auth().user_add(user(name)).await);
    }
    for name in ["low", "other"] {
        ok(member.auth().role_add(role(name)).await);
    }
    ok(member.auth().role_grant_permission(allow("low", "a", "m")).await);
    ok(member.auth().user_grant_role(grant_role("ann", "low")).await);
    ok(member.auth().user_grant_role(grant_role("root", "root")).await);
    ok(member.auth().auth_enable(pb::AuthEnableRequest {}).await);
}

pub(super) async fn secured() -> Member {
    let member = start().await;
    secure(&member).await;
    member
}

fn options(token: AuthToken, by_certificate: bool) -> IdentityOptions {
    IdentityOptions { token, token_ttl: Duration::ZERO, bcrypt_cost: 4, by_certificate }
}

#[tokio::test]
async fn authentication_is_switched_on_by_anybody_and_off_by_root() {
    let member = start().await;
    let mut auth = member.auth();
    let root_missing = (Code::FailedPrecondition, "etcdserver: root user does not exist");
    refused(auth.auth_enable(pb::AuthEnableRequest {}).await, root_missing);
    refused(auth.authenticate(password("root", "root")).await, NOT_ON);
    ok(auth.user_add(user("root")).await);
    let role_missing = (Code::FailedPrecondition, "etcdserver: root user does not have root role");
    refused(auth.auth_enable(pb::AuthEnableRequest {}).await, role_missing);
    ok(auth.user_grant_role(grant_role("root", "root")).await);
    let status = ok(auth.auth_status(pb::AuthStatusRequest {}).await);
    assert_eq!((status.enabled, status.auth_revision), (false, 3));
    let header = ok(auth.auth_enable(pb::AuthEnableRequest {}).await).header.expect("a header");
    assert_eq!((header.cluster_id, header.member_id, header.revision), (Member::CLUSTER_ID, Member::ID, 1));
    refused(member.kv().put(put("k", "1")).await, EMPTY);
    refused(member.kv().range(get("k")).await, EMPTY);
    let root = login(&member, "root").await;
    ok(member.kv().put(with_token(put("k", "1"), Some(&root))).await);
    ok(auth.auth_disable(with_token(pb::AuthDisableRequest {}, Some(&root))).await);
    ok(member.kv().put(with_token(put("k", "2"), Some("whatever"))).await);
    assert_eq!(member.state.store.auth().revision(), 4);
    ok(auth.auth_enable(pb::AuthEnableRequest {}).await);
    refused(member.kv().range(with_token(get("k"), Some(&root))).await, BAD_TOKEN);
}

#[tokio::test]
async fn logins_are_refused_as_etcd_refuses_them() {
    let member = secured().await;
    let root = login(&member, "root").await;
    let mut auth = member.auth();
    refused(auth.authenticate(password("ann", "wrong")).await, FAILED);
    refused(auth.authenticate(password("nobody", "x")).await, FAILED);
    let options = Some(UserAddOptions { no_password: true });
    let bare = pb::AuthUserAddRequest { name: "bare".to_owned(), options, ..Default::default() };
    ok(auth.user_add(with_token(bare, Some(&root))).await);
    let no_password = (Code::Unknown, "auth: authentication failed, password was given for no password user");
    refused(auth.authenticate(password("bare", "x")).await, no_password);
    let long = "x".repeat(73);
    let too_long = (Code::Unknown, "bcrypt: password length exceeds 72 bytes");
    let request = pb::AuthUserAddRequest { name: "long".to_owned(), password: long.clone(), ..Default::default() };
    refused(auth.user_add(with_token(request, Some(&root))).await, too_long);
    let longest =
        pb::AuthUserAddRequest { name: "long".to_owned(), password: long[..72].to_owned(), ..Default::default() };
    ok(auth.user_add(with_token(longest, Some(&root))).await);
    ok(auth.authenticate(password("long", &long[..72])).await);
    // Changed to nothing, nobody logs in any more.
    let nothing = pb::AuthUserChangePasswordRequest { name: "long".to_owned(), ..Default::default() };
    ok(auth.user_change_password(with_token(nothing, Some(&root))).await);
    refused(auth.authenticate(password("long", "")).await, FAILED);
}

#[tokio::test]
async fn tokens_end_with_the_password_and_with_the_user() {
    let member = secured().await;
    let root = login(&member, "root").await;
    let (ann, bob) = (login(&member, "ann").await, login(&member, "bob").await);
    ok(member.kv().range(with_token(get("b"), Some(&ann))).await);
    let mut bearer = Request::new(get("b"));
    bearer.metadata_mut().insert("authorization", format!("Bearer {ann}").parse().expect("metadata"));
    ok(member.kv().range(bearer).await);
    let change =
        pb::AuthUserChangePasswordRequest { name: "ann".to_owned(), password: "new".to_owned(), ..Default::default() };
    ok(member.auth().user_change_password(with_token(change, Some(&root))).await);
    refused(member.kv().range(with_token(get("b"), Some(&ann))).await, BAD_TOKEN);
    refused(member.auth().authenticate(password("ann", "ann")).await, FAILED);
    let again = ok(member.auth().authenticate(password("ann", "new")).await).token;
    ok(member.kv().range(with_token(get("b"), Some(&again))).await);
    refused(member.kv().range(with_token(get("b"), Some(&bob))).await, DENIED);
    let delete = pb::AuthUserDeleteRequest { name: "bob".to_owned() };
    ok(member.auth().user_delete(with_token(delete, Some(&root))).await);
    refused(member.kv().range(with_token(get("b"), Some(&bob))).await, BAD_TOKEN);
}

#[tokio::test]
async fn users_see_their_own_roles_and_root_is_shown_as_opening_everything() {
    let member = secured().await;
    let (root, ann) = (login(&member, "root").await, login(&member, "ann").await);
    let user = |name: &str| pb::AuthUserGetRequest { name: name.to_owned() };
    let role = |role: &str| pb::AuthRoleGetRequest { role: role.to_owned() };
    let mut auth = member.auth();
    assert_eq!(ok(auth.user_get(with_token(user("ann"), Some(&ann))).await).roles, ["low"]);
    refused(auth.user_get(with_token(user("root"), Some(&ann))).await, DENIED);
    let shown = ok(auth.role_get(with_token(role("low"), Some(&ann))).await).perm;
    assert_eq!((shown.len(), &shown[0].key[..], &shown[0].range_end[..]), (1, &b"a"[..], &b"m"[..]));
    refused(auth.role_get(with_token(role("other"), Some(&ann))).await, DENIED);
    let no_role = (Code::FailedPrecondition, "etcdserver: role name not found");
    refused(auth.role_get(with_token(role("root"), Some(&root))).await, no_role);
    ok(auth.role_add(with_token(super::auth::role("root"), Some(&root))).await);
    let everything = ok(auth.role_get(with_token(role("root"), Some(&root))).await).perm;
    let expected = Permission { perm_type: Type::Readwrite.into(), key: "".into(), range_end: "\0".into() };
    assert_eq!(everything, [expected]);
    assert_eq!(
        ok(auth.user_list(with_token(pb::AuthUserListRequest {}, Some(&root))).await).users,
        ["ann", "bob", "root"]
    );
    assert_eq!(
        ok(auth.role_list(with_token(pb::AuthRoleListRequest {}, Some(&root))).await).roles,
        ["low", "other", "root"]
    );
}

#[tokio::test]
async fn what_is_denied_never_reaches_the_log() {
    let member = secured().await;
    let ann = login(&member, "ann").await;
    let before = member.state.consensus.status().applied;
    refused(member.kv().put(with_token(put("z", "1"), Some(&ann))).await, DENIED);
    refused(member.kv().put(put("z", "1")).await, EMPTY);
    refused(member.auth().user_add(with_token(user("eve"), Some(&ann))).await, DENIED);
    assert_eq!(member.state.consensus.status().applied, before);
    ok(member.kv().put(with_token(put("b", "1"), Some(&ann))).await);
    let by_lease = pb::LeaseGrantRequest { id: 5, ttl: 60 };
    ok(member.lease().lease_grant(with_token(by_lease, Some(&ann))).await);
    ok(member.lease().lease_revoke(with_token(pb::LeaseRevokeRequest { id: 5 }, Some(&ann))).await);
}

#[tokio::test]
async fn a_signed_token_ends_with_the_next_change_of_users_and_roles() {
    let dir = tempfile::tempdir().expect("a folder");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "secret").expect("a file");
    let token = AuthToken::parse(&format!("jwt,sign-method=HS256,priv-key={},ttl=5m", secret.display()));
    let member = start_as(options(token.expect("a setting"), false), |_| {}).await;
    secure(&member).await;
    let (root, ann) = (login(&member, "root").await, login(&member, "ann").await);
    assert_eq!(ann.split('.').count(), 3);
    ok(member.kv().put(with_token(put("b", "1"), Some(&ann))).await);
    ok(member.auth().role_add(with_token(role("new"), Some(&root))).await);
    refused(member.kv().put(with_token(put("b", "2"), Some(&ann))).await, OLD);
    refused(member.kv().range(with_token(get("b"), Some(&ann))).await, OLD);
    // Root's standing is looked up as it is now.
    ok(member.auth().role_add(with_token(role("newer"), Some(&root))).await);
    let again = login(&member, "ann").await;
    ok(member.kv().put(with_token(put("b", "2"), Some(&again))).await);
    refused(member.kv().range(with_token(get("b"), Some(&format!("{again}x")))).await, BAD_TOKEN);
}

/// The member's KV service as the holder of a certificate with this common name meets it.
macro_rules! kv_as {
    ($member:expr, $name:expr) => {
        KvClient::new($member.service().map_request(|mut request: http::Request<_>| {
            request.extensions_mut().insert(Caller::with_common_name($name));
            request
        }))
    };
}

#[tokio::test]
async fn a_certificate_stands_for_its_common_name_unless_a_token_or_the_gateway_speaks() {
    let member = start_as(options(AuthToken::Simple, true), |_| {}).await;
    secure(&member).await;
    ok(kv_as!(member, "ann").put(put("b", "1")).await);
    refused(kv_as!(member, "ann").put(put("z", "1")).await, DENIED);
    refused(kv_as!(member, "stranger").put(put("b", "1")).await, DENIED);
    refused(kv_as!(member, "").put(put("b", "1")).await, EMPTY);
    let bob = login(&member, "bob").await;
    refused(kv_as!(member, "ann").put(with_token(put("b", "1"), Some(&bob))).await, DENIED);
    refused(kv_as!(member, "ann").put(with_token(put("b", "1"), Some("bad"))).await, BAD_TOKEN);
    let mut relayed = Request::new(put("b", "1"));
    relayed.metadata_mut().insert("grpcgateway-accept", "*/*".parse().expect("metadata"));
    refused(kv_as!(member, "ann").put(relayed).await, EMPTY);
    let through_gateway = async |caller: Option<Caller>| {
        let body = Full::new(Bytes::from_static(br#"{"key":"Yg=="}"#));
        let mut request = http::Request::post("/v3/kv/range").header("host", "x").body(body).expect("a request");
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let response = member.service().oneshot(request).await.expect("infallible");
        let (status, body) = (response.status().as_u16(), response.into_body().collect().await.expect("a whole body"));
        (status, String::from_utf8(body.to_bytes().to_vec()).expect("text"))
    };
    let (status, said) = through_gateway(Some(Caller::with_common_name("ann"))).await;
    assert_eq!((status, said), (400, format!("{GATEWAY_REFUSAL}\n")));
    let (status, said) = through_gateway(None).await;
    assert!(status == 400 && said.contains(EMPTY.1), "without a name nobody is refused as such: {status} {said}");
}

#[tokio::test]
async fn certificates_mean_nothing_without_the_flag() {
    let member = secured().await;
    refused(kv_as!(member, "root").put(put("b", "1")).await, EMPTY);
}

struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn open(member: &Member, token: Option<&str>) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = pb::watch_client::WatchClient::new(member.service());
        let answers = ok(client.watch(with_token(ReceiverStream::new(receiver), token)).await);
        Self { requests, answers }
    }

    async fn create(&mut self, key: &str, range_end: &str) -> pb::WatchResponse {
        let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
        let create = RequestUnion::CreateRequest(pb::WatchCreateRequest { key, range_end, ..Default::default() });
        self.requests.send(pb::WatchRequest { request_union: Some(create) }).await.expect("an open stream");
        self.next().await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let message = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("a message in time");
        message.expect("no error").expect("an open stream")
    }
}

fn keys_of(message: &pb::WatchResponse) -> Vec<String> {
    let key = |event: &bytes::Bytes| Event::decode(event.clone()).expect("an event").kv.expect("a record").key;
    message.events.iter().map(|event| String::from_utf8_lossy(&key(event)).into_owned()).collect()
}

const REASON: &str = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

#[tokio::test]
async fn a_watch_needs_its_whole_range_and_from_a_key_on_is_more_than_the_key() {
    let member = secured().await;
    let ann = login(&member, "ann").await;
    let mut stream = Watching::open(&member, Some(&ann)).await;
    for (key, range_end) in [("z", ""), ("a", "\0"), ("a", "n"), ("", "\0"), ("", "")] {
        let answer = stream.create(key, range_end).await;
        assert!(answer.created && answer.canceled, "{key:?} {range_end:?}");
        assert_eq!((answer.watch_id, answer.cancel_reason.as_str()), (-1, REASON));
    }
    assert!(!stream.create("a", "m").await.canceled);
    let mut nobody = Watching::open(&member, None).await;
    let reason = nobody.create("a", "").await.cancel_reason;
    assert_eq!(reason, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty");
    let mut bad = Watching::open(&member, Some("bad")).await;
    let reason = bad.create("a", "").await.cancel_reason;
    assert_eq!(reason, "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token");
}

#[tokio::test]
async fn a_watcher_that_loses_its_right_is_canceled_and_sees_nothing_more() {
    let member = secured().await;
    let (root, ann) = (login(&member, "root").await, login(&member, "ann").await);
    ok(member.auth().role_grant_permission(with_token(allow("low", "p", ""), Some(&root))).await);
    let mut stream = Watching::open(&member, Some(&ann)).await;
    let (wide, single) = (stream.create("a", "m").await.watch_id, stream.create("p", "").await.watch_id);
    ok(member.kv().put(with_token(put("b", "1"), Some(&root))).await);
    assert_eq!(keys_of(&stream.next().await), ["b"]);
    ok(member.auth().role_revoke_permission(with_token(forbid("low", "a", "m"), Some(&root))).await);
    ok(member.kv().put(with_token(put("c", "secret"), Some(&root))).await);
    ok(member.kv().put(with_token(put("p", "1"), Some(&root))).await);
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled, canceled.cancel_reason.as_str()), (wide, true, REASON));
    let seen = stream.next().await;
    assert_eq!((seen.watch_id, keys_of(&seen)), (single, vec!["p".to_owned()]), "the other one goes on");
    // Without any event: told as soon as it happens.
    let delete = pb::AuthUserDeleteRequest { name: "ann".to_owned() };
    ok(member.auth().user_delete(with_token(delete, Some(&root))).await);
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.cancel_reason.as_str()), (single, REASON));
}

#[tokio::test]
async fn a_watcher_from_before_authentication_ends_with_it_unless_somebody_stands_behind_it() {
    let member = start().await;
    let mut stream = Watching::open(&member, None).await;
    let id = stream.create("a", "").await.watch_id;
    secure(&member).await;
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled), (id, true));
    assert_eq!(canceled.cancel_reason, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty");
    let root = login(&member, "root").await;
    let mut stream = Watching::open(&member, Some(&root)).await;
    stream.create("", "\0").await;
    ok(member.auth().auth_disable(with_token(pb::AuthDisableRequest {}, Some(&root))).await);
    ok(member.auth().auth_enable(pb::AuthEnableRequest {}).await);
    ok(member.kv().put(with_token(put("k", "1"), Some(&login(&member, "root").await))).await);
    assert_eq!(keys_of(&stream.next().await), ["k"]);
}

#[tokio::test]
async fn an_observer_of_an_election_hears_no_more_once_its_user_may_not_read_it() {
    use crate::proto::v3electionpb as epb;

    let member = start().await;
    let elections = || epb::election_client::ElectionClient::new(member.service());
    let election = || epb::LeaderRequest { name: "a".into() };
    ok(member.kv().put(put("a/1", "public")).await);
    let mut stranger = ok(elections().observe(election()).await);
    assert!(stranger.message().await.expect("well").is_some());
    secure(&member).await;
    let (root, ann) = (login(&member, "root").await, login(&member, "ann").await);
    let mut by_ann = ok(elections().observe(with_token(election(), Some(&ann))).await);
    let mut by_root = ok(elections().observe(with_token(election(), Some(&root))).await);
    let heard = async |stream: &mut Streaming<epb::LeaderResponse>| {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time");
        message.map(|leader| leader.expect("not the end").kv.expect("a key").value)
    };
    assert_eq!(heard(&mut by_ann).await.expect("permitted"), "public");
    assert_eq!(heard(&mut by_root).await.expect("permitted"), "public");
    ok(member.kv().put(with_token(put("a/1", "for users"), Some(&root))).await);
    assert_eq!(heard(&mut by_ann).await.expect("permitted"), "for users");
    assert_eq!(heard(&mut by_root).await.expect("permitted"), "for users");
    let status = heard(&mut stranger).await.expect_err("nobody is behind it");
    assert_eq!((status.code(), status.message()), EMPTY);
    ok(member.auth().role_revoke_permission(with_token(forbid("low", "a", "m"), Some(&root))).await);
    ok(member.kv().put(with_token(put("a/1", "secret"), Some(&root))).await);
    let status = heard(&mut by_ann).await.expect_err("denied");
    assert_eq!((status.code(), status.message()), DENIED);
    assert_eq!(heard(&mut by_root).await.expect("permitted"), "secret");
}

#[tokio::test]
async fn leases_are_shown_and_renewed_by_whoever_has_all_of_their_keys() {
    let member = secured().await;
    let (root, ann) = (login(&member, "root").await, login(&member, "ann").await);
    for id in [7, 8] {
        ok(member.lease().lease_grant(with_token(pb::LeaseGrantRequest { id, ttl: 60 }, Some(&ann))).await);
    }
    ok(member.kv().put(with_token(pb::PutRequest { lease: 7, ..put("b", "") }, Some(&ann))).await);
    let mut lease = member.lease();
    let ask = |id, keys| pb::LeaseTimeToLiveRequest { id, keys };
    let all = pb::LeaseLeasesRequest {};
    assert_eq!(ok(lease.lease_time_to_live(with_token(ask(7, true), Some(&ann))).await).keys, ["b"]);
    assert_eq!(ok(lease.lease_leases(with_token(all, Some(&ann))).await).leases.len(), 2);
    // Root binds a key to it that is not ann's.
    ok(member.kv().put(with_token(pb::PutRequest { lease: 7, ..put("z", "") }, Some(&root))).await);
    refused(lease.lease_time_to_live(with_token(ask(7, true), Some(&ann))).await, DENIED);
    assert_eq!(ok(lease.lease_time_to_live(with_token(ask(7, false), Some(&ann))).await).granted_ttl, 60);
    refused(lease.lease_leases(with_token(all, Some(&ann))).await, DENIED);
    refused(lease.lease_revoke(with_token(pb::LeaseRevokeRequest { id: 7 }, Some(&ann))).await, DENIED);
    let leased = pb::PutRequest { lease: 7, ..put("c", "") };
    refused(member.kv().put(with_token(leased, Some(&ann))).await, DENIED);
    let (sender, receiver) = mpsc::channel(4);
    let request = with_token(ReceiverStream::new(receiver), Some(&ann));
    let mut answers = ok(lease.lease_keep_alive(request).await);
    sender.send(pb::LeaseKeepAliveRequest { id: 8 }).await.expect("an open stream");
    assert_eq!(answers.message().await.expect("no error").expect("an answer").ttl, 60);
    sender.send(pb::LeaseKeepAliveRequest { id: 7 }).await.expect("an open stream");
    let status = answers.message().await.expect_err("denied");
    assert_eq!((status.code(), status.message()), DENIED);
}

#[tokio::test]
async fn the_members_own_alarm_passes_though_no_root_wrote_too_much() {
    let member = start_as(options(AuthToken::Simple, false), |limits| limits.quota_bytes = Some(1)).await;
    secure(&member).await;
    let ann = login(&member, "ann").await;
    let full = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
    refused(member.kv().put(with_token(put("b", "1"), Some(&ann))).await, full);
    assert_eq!(member.state.store.view().alarms(), [(Member::ID, 1)]);
    let state = Arc::clone(&member.state);
    assert!(crate::api::call::Call::internal(&state).identity(&state).await.expect("nobody").is_nobody());
}
