//! Rights are those of the moment when a request is whole, and refusals cost the same whoever is named.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt;

use super::servers::{Ask, Heard, Server};
use super::{Mode, RULER, Who, calls, letter, methods};
use crate::api::rights::Right;

/// A request whose head has come, its body held back.
struct Begun {
    body: mpsc::Sender<Bytes>,
    rest: Bytes,
    answer: tokio::task::JoinHandle<Heard>,
}

impl Begun {
    async fn new(server: &Server, ask: Ask) -> Self {
        let (body, chunks) = mpsc::channel(1);
        let frames = ReceiverStream::new(chunks).map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
        let mut request = Request::builder().method(ask.method).uri(ask.path).header("host", "localhost");
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        let version = if ask.is_grpc { Version::HTTP_2 } else { Version::HTTP_11 };
        let request = request.version(version).body(StreamBody::new(frames)).expect("a request");
        let mut rest = ask.body;
        let first = rest.split_to(rest.len().min(1));
        // The service has the request from here on; it waits for the body.
        let answer = server.clients().oneshot(request);
        let answer = tokio::spawn(async move {
            let response = answer.await.expect("infallible");
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let mut text = format!("{:?}", headers.get("grpc-message"));
            if let Ok(body) = response.into_body().collect().await {
                text.push_str(&format!("{:?}", body.trailers()));
                text.push_str(&String::from_utf8_lossy(&body.to_bytes()));
            }
            Heard { status, text: text.replace("%20", " "), is_cut: false }
        });
        body.send(first).await.expect("the service reads");
        Self { body, rest, answer }
    }

    async fn finish(self) -> Heard {
        self.body.send(self.rest).await.expect("the service reads");
        drop(self.body);
        self.answer.await.expect("a task")
    }
}

#[tokio::test]
async fn a_request_that_began_before_authentication_was_on_is_judged_by_what_holds_at_its_end() {
    let server = Server::ours().await;
    server.furnish().await;
    server.furnish_v2().await;
    let judged = methods().filter(|door| {
        let right = door.rpc.map(crate::api::methods::Rpc::right);
        // Streams have one message too, but are judged by their first message when it comes.
        !matches!(right, Some(Right::Open)) && door.rpc.is_some_and(|rpc| !calls::is_many(rpc))
    });
    let mut wrong = Vec::new();
    let mut begun = Vec::new();
    for door in judged {
        if let Some(rpc) = door.rpc {
            server.make_ready(rpc).await;
        }
        begun.push((door.name.clone(), Begun::new(&server, (door.ask)(&server)).await));
    }
    for (method, path, body) in [
        (Method::POST, "/v2/members", r#"{"peerURLs":["http://127.0.0.1:7"]}"#),
        (Method::PUT, "/v2/members/5", r#"{"peerURLs":["http://127.0.0.1:7"]}"#),
        (Method::DELETE, "/v2/members/5", "{}"),
        (Method::PUT, "/v2/auth/users/root", r#"{"user":"root","password":"mine"}"#),
        (Method::DELETE, "/v2/auth/users/ann", "{}"),
        (Method::PUT, "/v2/auth/enable", "{}"),
    ] {
        let ask = Ask::http(method, path, "application/json", body);
        begun.push((format!("{} {path}", ask.method), Begun::new(&server, ask).await));
    }
    let form = Ask::http(Method::PUT, "/v2/keys/z", "application/x-www-form-urlencoded", "value=1");
    begun.push(("PUT /v2/keys/z".to_owned(), Begun::new(&server, form).await));
    server.set(Mode { v3: true, v2: false }, true).await;
    let count = begun.len();
    for (name, request) in begun {
        let heard = request.finish().await;
        let due = if name.contains("/v2/") { 'c' } else { 'e' };
        if letter(&heard) != due {
            wrong.push(format!("{name}: {heard:?}"));
        }
    }
    println!("{count} requests");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_wait_that_began_before_a_switch_was_moved_ends_without_what_came_after() {
    let server = Server::ours().await;
    server.furnish().await;
    server.furnish_v2().await;
    let form = "application/x-www-form-urlencoded";
    for (before, after) in [(Mode::ALL[0], Mode::ALL[2]), (Mode::ALL[0], Mode::ALL[1]), (Mode::ALL[1], Mode::ALL[3])] {
        server.set(before, true).await;
        for stream in [false, true] {
            let path = format!("/v2/keys/own/w?wait=true&stream={stream}");
            let ask = Ask::http(Method::GET, &path, form, "").with_password("ann", "ann");
            let request = ask.into_request();
            let response = server.clients().oneshot(request).await.expect("infallible");
            assert_eq!(response.status(), 200);
            server.set(after, true).await;
            let secret = Ask::http(Method::PUT, "/v2/keys/own/w", form, "value=secret");
            let password = if after.v2 { "root2" } else { "root3" };
            let put = server.ask(Who::Nobody, secret.with_password(RULER, password)).await;
            assert!([200, 201].contains(&put.status), "{put:?}");
            let heard = response.into_body().collect().await.expect("an end").to_bytes();
            assert!(heard.is_empty(), "{before:?} to {after:?}: {heard:?}");
            server.set(before, true).await;
        }
    }
}

#[tokio::test]
async fn a_refused_password_costs_one_computation_whoever_is_named() {
    let server = Server::ours().await;
    server.furnish().await;
    server.furnish_v2().await;
    server.prepare("auth/user/add", r#"{"name":"bare","options":{"no_password":true}}"#).await;
    server.prepare("auth/user/add", r#"{"name":"blank","password":"x"}"#).await;
    // As a client does that sends a hash of its own: none.
    server.prepare("auth/user/changepw", r#"{"name":"blank"}"#).await;
    let names = ["ann", RULER, "nobody", "bare", "blank", ""];
    let mut cases = 0;
    for mode in Mode::ALL {
        server.set(mode, true).await;
        for name in names.iter().filter(|_| mode.v3) {
            let body = format!(r#"{{"name":"{name}","password":"wrong"}}"#);
            let ask = Ask::http(Method::POST, "/v3/auth/authenticate", "application/json", body);
            let before = server.computed();
            assert_ne!(server.ask(Who::Nobody, ask).await.status, 200, "{name}");
            assert_eq!(server.computed(), [before[0] + 1, before[1]], "{name} {mode:?}");
            cases += 1;
        }
        for name in names.iter().filter(|_| mode.v3 || mode.v2) {
            // Where v3 alone is on, v2 asks for v3's root.
            for (path, by_v3) in [("/v2/auth/users", !mode.v2), ("/v2/members/5", mode.v3)] {
                let method = if path == "/v2/auth/users" { Method::GET } else { Method::DELETE };
                let ask = Ask::http(method, path, "application/json", "").with_password(name, "wrong");
                let before = server.computed();
                assert_eq!(server.ask(Who::Nobody, ask).await.status, 401, "{name}");
                let [v3, v2] = server.computed();
                assert_eq!([v3 - before[0], v2 - before[1]], if by_v3 { [1, 0] } else { [0, 1] }, "{name} {mode:?}");
                cases += 1;
            }
        }
    }
    println!("{cases} cases");
}
