//! `/v2/keys`: reads, mutations and waiting.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use prost::Message;
use tokio::sync::mpsc;

use super::hub::{Waiter, concerns};
use super::render;
use super::request::{BadRequest, KeyRequest, MAX_BODY_BYTES};
use super::{V2, json, not_allowed, unix_now, with_cluster_id};
use crate::model::command::{self, Command as Replicated};
use crate::model::effects::Response as Applied;
use crate::model::v2::types::{Command, Error, Event, Outcome, Verb, code};
use crate::model::v2::{self};
use crate::model::view::ViewError;
use crate::raft::{ProposeError, ReadError};

const METHODS: &[Method] = &[Method::HEAD, Method::GET, Method::PUT, Method::POST, Method::DELETE];

/// Answers any request for a key.
pub(super) async fn answer(v2: &Arc<V2>, request: Request<Body>) -> Response<Body> {
    if !METHODS.contains(request.method()) {
        return not_allowed(METHODS);
    }
    let response = match parse(request).await {
        Ok(request) => run(v2, request).await,
        Err(refusal) => refused(&Error { code: refusal.code, cause: refusal.cause.into(), index: 0 }),
    };
    with_cluster_id(v2, response)
}

async fn parse(request: Request<Body>) -> Result<KeyRequest, BadRequest> {
    let (head, body) = request.into_parts();
    let form = if matches!(head.method, Method::PUT | Method::POST) && is_form(&head.headers) {
        Some(read_body(body).await?)
    } else {
        None
    };
    let path = head.uri.path().strip_prefix("/v2/keys").unwrap_or_default();
    KeyRequest::parse(&head.method, path, head.uri.query().unwrap_or_default(), form.as_deref())
}

/// A body of any other type is ignored, as etcd ignores it. Parameters after the type are tolerated.
fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

async fn read_body(body: Body) -> Result<Bytes, BadRequest> {
    let too_large = |_| BadRequest { code: 210, cause: "http: POST too large".to_owned() };
    Ok(Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(too_large)?.to_bytes())
}

async fn run(v2: &Arc<V2>, request: KeyRequest) -> Response<Body> {
    match request.method {
        Method::GET if request.wait && !request.quorum => wait(v2, &request),
        Method::GET | Method::HEAD => read(v2, &request).await,
        _ => write(v2, &request).await,
    }
}

async fn read(v2: &V2, request: &KeyRequest) -> Response<Body> {
    if request.quorum
        && let Err(error) = v2.state.consensus.read_barrier(v2.deadline()).await
    {
        return refused(&raft_error(read_cause(&error)));
    }
    match v2::get(&v2.state.store.view(), &request.path, request.recursive, unix_now()) {
        Ok(Ok(found)) => {
            v2.counters.gets.count(true);
            with_raft(v2, found.index, json(StatusCode::OK, render::found(&found.node)))
        }
        Ok(Err(refusal)) => {
            v2.counters.gets.count(false);
            refused(&refusal)
        }
        Err(error) => broken(&error),
    }
}

async fn write(v2: &V2, request: &KeyRequest) -> Response<Body> {
    let mutation = request.command(unix_now());
    let verb = mutation.verb();
    if v2.state.store.space().refuses_growth() && !matches!(verb, Verb::Delete | Verb::CompareAndDelete | Verb::Sync) {
        return refused(&raft_error("etcdserver: mvcc: database space exceeded"));
    }
    let outcome = match propose(v2, &mutation).await {
        Ok(outcome) => outcome,
        Err(response) => return *response,
    };
    v2.counters.mutation(verb, outcome.error.is_none());
    match outcome {
        Outcome { error: Some(refusal), .. } => refused(&refusal),
        Outcome { event: Some(event), .. } => {
            let bare = request.no_value_on_success && !event.action.to_ascii_lowercase().contains("delete");
            let status = if event.is_created() { StatusCode::CREATED } else { StatusCode::OK };
            with_raft(v2, event.index(), json(status, render::event(&event, bare)))
        }
        Outcome { event: None, .. } => refused(&raft_error("etcdserver: the mutation has no answer")),
    }
}

/// Takes a mutation through the log.
async fn propose(v2: &V2, mutation: &Command) -> Result<Outcome, Box<Response<Body>>> {
    let bytes = command::encode(Replicated::V2(mutation.encode_to_vec().into()));
    let failed = |cause: &str| Box::new(refused(&raft_error(cause)));
    let applied =
        v2.state.consensus.propose(bytes, v2.deadline()).await.map_err(|error| failed(propose_cause(&error)))?;
    match applied.outcome {
        Ok(Applied::V2(bytes)) => Outcome::decode(bytes).map_err(|error| {
            tracing::error!(%error, "the outcome of a v2 mutation does not decode");
            failed("etcdserver: internal error")
        }),
        Ok(_) => Err(failed("etcdserver: internal error")),
        Err(refusal) => Err(failed(&format!("etcdserver: {refusal}"))),
    }
}

/// Waits for an event, from the window when it has happened already. The head of the answer is sent at once.
fn wait(v2: &Arc<V2>, request: &KeyRequest) -> Response<Body> {
    // First the place among the waiting, then the look at the window: an event between the two is seen twice, never missed.
    let waiter = v2.hub.wait(request.path.clone(), request.recursive);
    let view = v2.state.store.view();
    let now = match v2::index(&view) {
        Ok(index) => index,
        Err(error) => return broken(&error),
    };
    let since = if request.wait_index == 0 { now + 1 } else { request.wait_index };
    let wanted = |event: &Event| concerns(event, &request.path, request.recursive);
    let past = match v2::event_since(&view, since, wanted) {
        Ok(Ok(past)) => past,
        Ok(Err(cleared)) => {
            let cause = format!("the requested history has been cleared [{}/{}]", cleared.oldest, since);
            let refusal = Error { code: code::EVENT_INDEX_CLEARED, cause: cause.into(), index: cleared.current };
            return refused(&refusal);
        }
        Err(error) => return broken(&error),
    };
    let body = follow(v2.clone(), waiter, request.clone(), since, past);
    with_raft(v2, now, json(StatusCode::OK, body))
}

/// Where a waiting client's response is.
struct Follower {
    v2: Arc<V2>,
    waiter: Waiter,
    request: KeyRequest,
    /// Events below this were sent or are not wanted.
    next: u64,
    past: Option<Event>,
    done: bool,
}

/// The body of a waiting response: one event, or with `stream=true` one after another for as long as the client reads.
fn follow(v2: Arc<V2>, waiter: Waiter, request: KeyRequest, since: u64, past: Option<Event>) -> Body {
    let follower = Follower { v2, waiter, request, next: since, past, done: false };
    Body::from_stream(stream::unfold(follower, |mut follower| async move {
        if follower.done {
            return None;
        }
        let line = follower.next_line().await?;
        follower.done = !follower.request.stream;
        Some((Ok::<_, Infallible>(line), follower))
    }))
}

impl Follower {
    async fn next_line(&mut self) -> Option<Bytes> {
        if let Some(event) = self.past.take() {
            self.next = event.index() + 1;
            self.past = self.replay();
            return Some(render::event(&event, false).into());
        }
        let stopping = self.v2.state.stopping.clone();
        loop {
            let event = tokio::select! {
                event = receive(&mut self.waiter.events) => event?,
                () = stopping.cancelled() => return None,
            };
            if event.index() >= self.next && concerns_removed(&event, &self.request) {
                self.next = event.index() + 1;
                return Some(render::event(&event, false).into());
            }
        }
    }

    /// The next event of the window for a stream that began in the past: it replays first and follows afterwards.
    fn replay(&self) -> Option<Event> {
        if !self.request.stream {
            return None;
        }
        let wanted = |event: &Event| concerns(event, &self.request.path, self.request.recursive);
        v2::event_since(&self.v2.state.store.view(), self.next, wanted).ok()?.ok()?
    }
}

async fn receive(events: &mut mpsc::Receiver<Arc<Event>>) -> Option<Arc<Event>> {
    events.recv().await
}

/// The hub matched the event already; this repeats the check for what the window may have delivered as well.
fn concerns_removed(event: &Event, request: &KeyRequest) -> bool {
    event.removed.contains(&request.path) || concerns(event, &request.path, request.recursive)
}

fn refused(refusal: &Error) -> Response<Body> {
    let mut response = json(render::status(refusal.code), render::error(refusal));
    set_number(&mut response, "x-etcd-index", refusal.index);
    response
}

fn raft_error(cause: &str) -> Error {
    Error { code: 300, cause: cause.to_owned().into(), index: 0 }
}

fn broken(error: &ViewError) -> Response<Body> {
    tracing::error!(%error, "cannot read the v2 tree");
    refused(&raft_error("etcdserver: the state cannot be read"))
}

fn propose_cause(error: &ProposeError) -> &'static str {
    match error {
        ProposeError::TimeoutLeaderFail => "etcdserver: request timed out, possibly due to previous leader failure",
        ProposeError::TimeoutConnectionLost => "etcdserver: request timed out, possibly due to connection lost",
        ProposeError::TooManyRequests => "etcdserver: too many requests",
        ProposeError::Stopped => "etcdserver: server stopped",
        ProposeError::LeaderChanged => "etcdserver: leader changed",
        ProposeError::NoLeader | ProposeError::Timeout | ProposeError::Fatal(_) => "etcdserver: request timed out",
    }
}

fn read_cause(error: &ReadError) -> &'static str {
    match error {
        ReadError::TimeoutLeaderFail => "etcdserver: request timed out, possibly due to previous leader failure",
        ReadError::TimeoutConnectionLost => "etcdserver: request timed out, possibly due to connection lost",
        ReadError::TooManyRequests => "etcdserver: too many requests",
        ReadError::Stopped => "etcdserver: server stopped",
        ReadError::LeaderChanged => "etcdserver: leader changed",
        ReadError::NoLeader | ReadError::Timeout | ReadError::Fatal(_) => "etcdserver: request timed out",
    }
}

fn with_raft(v2: &V2, index: u64, mut response: Response<Body>) -> Response<Body> {
    let status = v2.state.consensus.status();
    set_number(&mut response, "x-etcd-index", index);
    set_number(&mut response, "x-raft-index", status.committed);
    set_number(&mut response, "x-raft-term", status.term);
    response
}

fn set_number(response: &mut Response<Body>, name: &'static str, number: u64) {
    response.headers_mut().insert(name, HeaderValue::from(number));
}
