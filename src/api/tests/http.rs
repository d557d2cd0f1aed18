//! Plain HTTP of the client port on a real member.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use super::kv::put;
use super::member::{Member, ok, refused, start};
use crate::api::http::HttpOptions;
use crate::api::service::ClientService;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::health::HealthCheckRequest;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_client::HealthClient;

async fn ask(member: &Member, method: &str, path: &str) -> (u16, HeaderMap, String) {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Full::<Bytes>::default()).expect("a request");
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
async fn checks_can_be_left_out_listed_and_asked_alone() {
    let member = start().await;
    let corrupt = pb::AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: Member::ID,
        alarm: pb::AlarmType::Corrupt.into(),
    };
    ok(member.maintenance().alarm(corrupt).await);
    let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n";
    let good = ["serializable_read", "linearizable_read", "non_learner"];
    let rest: String = good.iter().map(|name| format!("[+]{name} ok\n")).collect();
    for (path, status, body) in [
        ("/readyz", 503, format!("{failed}{rest}\n")),
        ("/readyz?exclude=data_corruption", 200, "ok\n".to_owned()),
        ("/readyz?exclude=data_corruption&verbose", 200, format!("{rest}ok\n")),
        ("/readyz?exclude=nonsense&exclude=", 503, format!("{failed}{rest}\n")),
        ("/readyz/data_corruption", 503, format!("{failed}\n")),
        // Asked by its own path, a check runs also when it is excluded.
        ("/readyz/data_corruption?exclude=data_corruption", 503, format!("{failed}\n")),
        ("/readyz/non_learner?verbose", 200, "[+]non_learner ok\nok\n".to_owned()),
        ("/readyz/serializable_read", 200, "ok\n".to_owned()),
        ("/livez", 200, "ok\n".to_owned()),
        ("/livez?verbose=false", 200, "[+]serializable_read ok\nok\n".to_owned()),
        ("/livez/serializable_read", 200, "ok\n".to_owned()),
        ("/livez/linearizable_read", 404, "404 page not found\n".to_owned()),
        ("/livez/", 404, "404 page not found\n".to_owned()),
        ("/health", 503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n".to_owned()),
        ("/health?exclude=CORRUPT", 200, "{\"health\":\"true\",\"reason\":\"\"}".to_owned()),
        ("/health?serializable=true", 503, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n".to_owned()),
        ("/health/", 404, "404 page not found\n".to_owned()),
    ] {
        let (found, _, text) = ask(&member, "GET", path).await;
        assert_eq!((found, text), (status, body), "{path}");
    }
    let (_, _, page) = ask(&member, "GET", "/metrics").await;
    for line in [
        "etcd_server_healthcheck{name=\"data_corruption\",type=\"readyz\"} 0",
        "etcd_server_healthcheck{name=\"non_learner\",type=\"readyz\"} 1",
        "etcd_server_healthchecks_total{name=\"data_corruption\",status=\"error\",type=\"readyz\"} 4",
        "etcd_server_healthchecks_total{name=\"serializable_read\",status=\"success\",type=\"livez\"} 3",
        "etcd_debugging_server_alarms{alarm_type=\"CORRUPT\",server_id=\"a1\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "no line {line}");
    }
}

#[tokio::test]
async fn the_process_is_shown_only_where_that_is_asked_for() {
    let member = start().await;
    let (status, headers, body) = ask(&member, "GET", "/debug/vars").await;
    assert_eq!(
        (status, &headers["content-type"]),
        (200, &http::HeaderValue::from_static("application/json; charset=utf-8"))
    );
    let vars: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(vars["raft.status"]["id"], "a1");
    assert_eq!(vars["raft.status"]["raftState"], "StateLeader");
    assert!(vars["cmdline"].as_array().is_some_and(|words| !words.is_empty()));
    let (status, _, body) = ask(&member, "GET", "/debug/pprof/profile").await;
    assert_eq!(status, 501);
    assert!(body.starts_with("there is no profile profile: this server is not a Go program."), "{body}");
    assert_eq!(ask(&member, "GET", "/debug/pprof/nonsense").await.0, 404);
    assert_eq!(ask(&member, "POST", "/debug/vars").await.0, 405);
    let closed = HttpOptions { debug: false, gateway: false, ..member.http_options() };
    for path in ["/debug/vars", "/debug/pprof/", "/v3/kv/range"] {
        let request = Request::builder().uri(path).header("host", "localhost");
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let service = ClientService::new(member.state.clone(), closed.clone(), None);
        assert_eq!(service.oneshot(request).await.expect("infallible").status(), 404, "{path}");
    }
}

#[tokio::test]
async fn live_keys_and_disk_work_are_counted() {
    let member = start().await;
    for key in ["a", "b", "a"] {
        ok(member.kv().put(put(key, "1")).await);
    }
    let delete = pb::DeleteRangeRequest { key: "b".into(), ..Default::default() };
    ok(member.kv().delete_range(delete).await);
    ok(member.maintenance().defragment(pb::DefragmentRequest {}).await);
    let line = |page: &str, name: &str| {
        let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        found.unwrap_or_else(|| panic!("no series {name}"))
    };
    let page = loop {
        let (_, _, page) = ask(&member, "GET", "/metrics").await;
        if page.contains("\netcd_debugging_mvcc_keys_total ") {
            break page;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(line(&page, "etcd_debugging_mvcc_keys_total"), "1");
    assert_eq!(line(&page, "etcd_disk_backend_defrag_duration_seconds_count"), "1");
    assert_eq!(line(&page, "etcd_disk_defrag_inflight"), "0");
    assert!(line(&page, "etcd_disk_backend_commit_duration_seconds_count").parse::<u64>().expect("a count") >= 4);
}

#[tokio::test]
async fn the_health_service_knows_the_whole_server_only() {
    let member = start().await;
    let mut health = HealthClient::new(member.service());
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    assert_eq!(ok(health.check(ask("")).await).status(), ServingStatus::Serving);
    refused(health.check(ask("etcdserverpb.KV")).await, (tonic::Code::NotFound, "unknown service"));
    let mut unknown = ok(health.watch(ask("etcdserverpb.KV")).await);
    let first = unknown.message().await.expect("well").expect("a message");
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let mut seen = ok(health.watch(ask("")).await);
    for serving in [true, false, true] {
        member.state.serving.send_replace(serving);
        let status = seen.message().await.expect("well").expect("a message").status();
        assert_eq!(status, if serving { ServingStatus::Serving } else { ServingStatus::NotServing });
    }
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
