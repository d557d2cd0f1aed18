//! Plain HTTP of the client port on a real member.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use super::kv::put;
use super::member::{Member, ok, start};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;

async fn ask(member: &Member, method: &str, path: &str) -> (u16, HeaderMap, String) {
    let request = Request::builder().method(method).uri(path).body(Full::<Bytes>::default()).expect("a request");
    let response = member.service().oneshot(request).await.expect("infallible");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, headers, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn a_healthy_member_says_so_in_etcds_words() {
    let member = start().await;
    for path in ["/health", "/health?serializable=true", "/health?exclude=%zz"] {
        let (status, _, body) = ask(&member, "GET", path).await;
        assert_eq!((status, body.as_str()), (200, r#"{"health":"true","reason":""}"#), "{path}");
    }
    for path in ["/livez", "/readyz", "/readyz/linearizable_read"] {
        let (status, _, body) = ask(&member, "GET", path).await;
        assert_eq!((status, body.as_str()), (200, "ok\n"), "{path}");
    }
    assert_eq!(ask(&member, "GET", "/readyz/nonsense").await.0, 404);
}

#[tokio::test]
async fn an_alarm_makes_it_unhealthy_unless_excluded() {
    let member = start().await;
    let raise = pb::AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: Member::ID,
        alarm: pb::AlarmType::Nospace.into(),
    };
    ok(member.maintenance().alarm(raise).await);
    let (status, _, body) = ask(&member, "GET", "/health").await;
    assert_eq!((status, body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
    assert_eq!(ask(&member, "GET", "/health?exclude=NOSPACE").await.0, 200);
    assert_eq!(ask(&member, "GET", "/readyz").await.0, 200, "NOSPACE does not stop traffic");
    let corrupt = pb::AlarmRequest { alarm: pb::AlarmType::Corrupt.into(), ..raise };
    ok(member.maintenance().alarm(corrupt).await);
    let (status, _, body) = ask(&member, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{body}");
}

#[tokio::test]
async fn other_methods_and_paths_are_answered_as_etcd_answers_them() {
    let member = start().await;
    let (status, headers, body) = ask(&member, "POST", "/health").await;
    assert_eq!((status, body.as_str()), (405, "Method Not Allowed\n"));
    assert_eq!(headers["allow"], "GET");
    assert_eq!(headers["access-control-allow-origin"], "*");
    let (status, headers, body) = ask(&member, "GET", "/nope").await;
    assert_eq!((status, body.as_str()), (404, "404 page not found\n"));
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    let (status, headers, body) = ask(&member, "OPTIONS", "/anything").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert_eq!(headers["access-control-allow-methods"], "POST, GET, OPTIONS, PUT, DELETE");
    let (status, headers, body) = ask(&member, "GET", "/version").await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "application/json");
    assert!(body.starts_with(r#"{"etcdserver":"3.6.5","etcdcluster":""#), "{body}");
    assert!(body.ends_with(r#","storage":"3.6.0"}"#), "{body}");
}

#[tokio::test]
async fn metrics_show_what_happened_under_etcds_names() {
    let member = start().await;
    ok(member.kv().put(put("k", "1")).await);
    let (status, _, page) = ask(&member, "GET", "/metrics").await;
    assert_eq!(status, 200);
    let has = |line: &str| assert!(page.lines().any(|found| found == line), "no line {line}");
    has("etcd_server_has_leader 1");
    has("etcd_server_is_leader 1");
    has("etcd_server_is_learner 0");
    has("etcd_server_proposals_pending 0");
    has("etcd_debugging_mvcc_current_revision 2");
    has("grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1");
    has(
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    );
}
