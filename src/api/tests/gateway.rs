//! The JSON gateway on a real member: streams, tokens, limits, and what is no request at all.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt;

use super::kv::put;
use super::member::{Member, ok, start, start_with};
use crate::api::body::ClientBody;

const PATIENCE: Duration = Duration::from_secs(30);

async fn send(member: &Member, request: Request<Full<Bytes>>) -> (u16, HeaderMap, String) {
    let response = member.service().oneshot(request).await.expect("infallible");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("an end of the body");
    let body = body.expect("a whole body").to_bytes();
    (status, headers, String::from_utf8(body.to_vec()).expect("text"))
}

fn request(method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request")
}

async fn post(member: &Member, path: &str, body: &str) -> (u16, String) {
    let (status, _, body) = send(member, request(Method::POST, path, body)).await;
    (status, body)
}

/// The next line of a stream.
async fn line(body: &mut ClientBody) -> String {
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("a line in time");
    let data = frame.expect("not the end").expect("a good frame").into_data().expect("data");
    String::from_utf8(data.to_vec()).expect("text")
}

/// Opens a stream whose request body the test goes on writing.
async fn open(member: &Member, path: &str) -> (mpsc::Sender<Bytes>, tokio::task::JoinHandle<Response<ClientBody>>) {
    let (sender, chunks) = mpsc::channel::<Bytes>(8);
    let frames = ReceiverStream::new(chunks).map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    let request = Request::builder().method(Method::POST).uri(path).header("host", "localhost");
    let request = request.body(StreamBody::new(frames)).expect("a request");
    let service = member.service();
    (sender, tokio::spawn(async move { service.oneshot(request).await.expect("infallible") }))
}

#[tokio::test]
async fn a_put_and_a_range_travel_as_json() {
    let member = start().await;
    let (status, headers, body) =
        send(&member, request(Method::POST, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#)).await;
    let header = r#""header":{"cluster_id":"193","member_id":"161","revision":"2","raft_term":""#;
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with(&format!("{{{header}")), "{body}");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["grpc-metadata-content-type"], "application/grpc");
    assert_eq!(headers["access-control-allow-origin"], "*");
    let (status, body) = post(&member, "/v3beta/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert_eq!(status, 200);
    let kvs =
        r#""kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}],"count":"1"}"#;
    assert!(body.ends_with(kvs), "{body}");
}

#[tokio::test]
async fn errors_have_etcds_bodies_and_http_codes() {
    let member = start().await;
    for (path, body, status, answer) in [
        ("/v3/kv/put", "", 400, r#"{"code":3,"message":"etcdserver: key is not provided"}"#),
        ("/v3/kv/put", "{\"key\":", 400, r#"{"code":3,"message":"unexpected EOF"}"#),
        (
            "/v3/kv/put",
            "{x}",
            400,
            r#"{"code":3,"message":"invalid character 'x' looking for beginning of object key string"}"#,
        ),
        (
            "/v3/kv/put",
            r#"{"key":1}"#,
            400,
            r#"{"code":3,"message":"proto: (line 1:8): invalid value for bytes field key: 1"}"#,
        ),
        (
            "/v3/kv/range",
            r#"{"key":"AA==","revision":99}"#,
            400,
            r#"{"code":11,"message":"etcdserver: mvcc: required revision is a future revision"}"#,
        ),
        ("/v3/lease/revoke", r#"{"ID":5}"#, 404, r#"{"code":5,"message":"etcdserver: requested lease not found"}"#),
        (
            "/v3/auth/authenticate",
            r#"{"name":"a","password":"b"}"#,
            400,
            r#"{"code":9,"message":"etcdserver: authentication is not enabled"}"#,
        ),
        ("/v3/election/leader", r#"{"name":"eA=="}"#, 500, r#"{"code":2,"message":"election: no leader"}"#),
        ("/v3/election/resign", "{}", 500, r#"{"code":2,"message":"\"leader\" field must be provided"}"#),
        (
            "/v3/lock/lock",
            r#"{"name":"eA==","lease":9}"#,
            500,
            r#"{"code":2,"message":"etcdserver: requested lease not found"}"#,
        ),
        ("/v3/nope", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("/v3/", "{}", 404, r#"{"code":5,"message":"Not Found"}"#),
    ] {
        assert_eq!(post(&member, path, body).await, (status, answer.to_owned()), "{path} {body}");
    }
    let (status, _, body) = send(&member, request(Method::GET, "/v3/kv/range", "")).await;
    assert_eq!((status, body.as_str()), (501, r#"{"code":12,"message":"Method Not Allowed"}"#));
    let (status, headers, _) = send(&member, request(Method::POST, "/v3", "")).await;
    assert_eq!((status, &headers["location"]), (301, &http::HeaderValue::from_static("/v3/")));
}

#[tokio::test]
async fn a_watch_goes_on_after_its_request_body_has_ended() {
    let member = start().await;
    let create = request(Method::POST, "/v3/watch", r#"{"create_request":{"key":"aw=="}}"#);
    let response = member.service().oneshot(create).await.expect("infallible");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let created = line(&mut body).await;
    assert!(created.starts_with(r#"{"result":{"header":{"#) && created.ends_with("\"created\":true}}\n"), "{created}");
    ok(member.kv().put(put("k", "1")).await);
    let event = line(&mut body).await;
    let expected =
        r#""events":[{"kv":{"key":"aw==","create_revision":"2","mod_revision":"2","version":"1","value":"MQ=="}}]}}"#;
    assert!(event.ends_with(&format!("{expected}\n")), "{event}");
    assert_eq!(member.state.hub.stats().watchers.load(std::sync::atomic::Ordering::Relaxed), 1);
    drop(body);
    assert_eq!(member.state.hub.stats().watchers.load(std::sync::atomic::Ordering::Relaxed), 0, "nobody reads it");
}

#[tokio::test]
async fn requests_of_a_stream_are_taken_as_they_arrive_in_any_pieces() {
    let member = start().await;
    let (requests, opened) = open(&member, "/v3/watch").await;
    requests.send(Bytes::from_static(br#"  {"create_request":{"key":"#)).await.expect("taken");
    requests.send(Bytes::from_static(br#""YQ=="}}{"create_request":{"key":"Yg=="}}"#)).await.expect("taken");
    let mut body = opened.await.expect("answered").into_body();
    assert!(line(&mut body).await.ends_with("\"created\":true}}\n"));
    assert!(line(&mut body).await.ends_with("\"watch_id\":\"1\",\"created\":true}}\n"));
    requests.send(Bytes::from_static(br#"{"cancel_request":{"watch_id":1}}"#)).await.expect("taken");
    assert!(line(&mut body).await.ends_with("\"watch_id\":\"1\",\"canceled\":true}}\n"));
    // What cannot be read ends the requests and not the stream.
    requests.send(Bytes::from_static(b"nonsense")).await.expect("taken");
    ok(member.kv().put(put("a", "1")).await);
    assert!(line(&mut body).await.contains("\"events\":[{\"kv\":{\"key\":\"YQ==\""));
}

#[tokio::test]
async fn keepalives_answer_each_request_and_end_with_the_body() {
    let member = start().await;
    assert_eq!(post(&member, "/v3/lease/grant", r#"{"ID":7,"TTL":100}"#).await.0, 200);
    let (status, body) = post(&member, "/v3/lease/keepalive", "{\"ID\":7}\n{\"ID\":\"8\"}").await;
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!((status, lines.len()), (200, 2), "{body}");
    assert!(lines[0].ends_with(r#""ID":"7","TTL":"100"}}"#) && lines[1].ends_with(r#""ID":"8"}}"#), "{body}");
    assert_eq!(post(&member, "/v3/lease/keepalive", "").await, (200, String::new()));
}

#[tokio::test]
async fn a_timeout_header_ends_calls_and_streams() {
    let member = start().await;
    let with_timeout = |path: &str, body: &str, timeout: &'static str| {
        let mut request = request(Method::POST, path, body);
        request.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static(timeout));
        request
    };
    let (status, _, body) = send(&member, with_timeout("/v3/kv/range", r#"{"key":"AA=="}"#, "1n")).await;
    assert_eq!((status, body.as_str()), (504, r#"{"code":4,"message":"context deadline exceeded"}"#));
    let (status, _, body) = send(&member, with_timeout("/v3/watch", "", "50m")).await;
    assert_eq!((status, body.as_str()), (504, "{\"error\":{\"code\":4,\"message\":\"context deadline exceeded\"}}\n"));
    let create = r#"{"create_request":{"key":"AA=="}}"#;
    let (status, _, body) = send(&member, with_timeout("/v3/watch", create, "2S")).await;
    assert_eq!(status, 200);
    assert!(body.ends_with("{\"error\":{\"code\":4,\"message\":\"context deadline exceeded\"}}\n"), "{body}");
    let (status, _, body) = send(&member, with_timeout("/v3/kv/range", "", "soon")).await;
    assert_eq!((status, body.as_str()), (400, r#"{"code":3,"message":"invalid grpc-timeout: soon"}"#));
}

#[tokio::test]
async fn a_request_too_large_is_refused_before_and_after_it_is_read() {
    let member = start_with(|limits| limits.max_request_bytes = 1_000).await;
    let limit = member.state.limits.max_message_bytes();
    let large = "A".repeat((limit + 4) / 3 * 4);
    let (status, body) = post(&member, "/v3/kv/put", &format!(r#"{{"key":"{large}"}}"#)).await;
    assert_eq!(status, 429, "{body}");
    assert!(body.starts_with(r#"{"code":8,"message":"grpc: received message larger than max ("#), "{body}");
    let (requests, opened) = open(&member, "/v3/kv/put").await;
    tokio::spawn(async move {
        // A body without an end.
        while requests.send(Bytes::from(vec![b' '; 64 << 10])).await.is_ok() {}
    });
    assert_eq!(opened.await.expect("answered").status(), 429);
    let (status, body) = post(&member, "/v3/kv/put", &format!(r#"{{"key":"{}"}}"#, "A".repeat(4_000))).await;
    assert_eq!((status, body.as_str()), (400, r#"{"code":3,"message":"etcdserver: request is too large"}"#));
}

#[tokio::test]
async fn calls_through_the_gateway_are_counted_like_all_others() {
    let member = start().await;
    assert_eq!(post(&member, "/v3/kv/put", r#"{"key":"Zm9v"}"#).await.0, 200);
    let (_, _, page) = send(&member, request(Method::GET, "/metrics", "")).await;
    let line = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1";
    assert!(page.lines().any(|found| found == line), "no line {line}");
}

#[tokio::test]
async fn a_large_answer_is_printed_whole() {
    let member = start().await;
    let value = "v".repeat(700_000);
    ok(member.kv().put(put("k", &value)).await);
    let (status, body) = post(&member, "/v3/kv/range", r#"{"key":"aw=="}"#).await;
    assert_eq!(status, 200);
    assert!(body.len() > 900_000 && body.ends_with(r#""count":"1"}"#), "{} bytes", body.len());
}
