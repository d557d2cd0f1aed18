//! `/v2/keys`: reads, mutations and waiting.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::auth::{self, Asker};
use super::propose::{Failure, propose};
use super::request::{BadRequest, KeyRequest, MAX_BODY_BYTES};
use super::{V2, guard, json, render, unix_now, wait, with_cluster_id};
use crate::api::body::{AnyBody, ClientBody};
use crate::api::limited::{Granted, Limited};
use crate::api::paid::Paid;
use crate::api::rights::Right;
use crate::api::routes::Route;
use crate::model::v2::auth::Want;
use crate::model::v2::types::{Error, Outcome, Verb};
use crate::model::v2::{self, Budget};
use crate::model::view::{View, ViewError};
use crate::work::{FREE_ANSWER_BYTES, Grant, Source, Undone};

/// Nodes that a read on the serving thread may look at; larger ones are begun again on the blocking pool.
const INLINE_NODES: usize = 256;
/// What a stored byte becomes while a tree is read and printed: once as it is, and up to twice as JSON.
const PRINTED_FACTOR: usize = 3;

/// Answers any request for a key. Strangers are turned away before their body is read, all others when they have said
/// which key: errors of the request come before those of the caller, as in etcd.
pub(super) async fn answer(v2: &Arc<V2>, request: Request<AnyBody>) -> Response<ClientBody> {
    let (asker, source) = (auth::asker(v2, &request), auth::source(&request));
    if let Err(refusal) = guard::admit(v2, Right::Keys, &asker).await {
        return with_cluster_id(v2, refusal.response(Route::V2Keys));
    }
    let response = match parse(request).await {
        Ok(request) => match touches(v2, &asker, &request).await {
            Ok(()) => run(v2, source, request).await,
            Err(refusal) => refusal.response(Route::V2Keys),
        },
        Err(refusal) => refused(&Error { code: refusal.code, cause: refusal.cause.into(), index: 0 }),
    };
    with_cluster_id(v2, response)
}

async fn touches(v2: &Arc<V2>, asker: &Asker, request: &KeyRequest) -> Result<(), guard::Refusal> {
    let path = request.asked_path();
    let write = !matches!(request.method, Method::GET | Method::HEAD);
    guard::touches(v2, asker, Want { path: &path, recursive: request.recursive, write }).await
}

async fn parse(request: Request<AnyBody>) -> Result<KeyRequest, BadRequest> {
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

async fn read_body(body: AnyBody) -> Result<Bytes, BadRequest> {
    let too_large = |_| BadRequest { code: 210, cause: "http: POST too large".to_owned() };
    Ok(http_body_util::Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(too_large)?.to_bytes())
}

async fn run(v2: &Arc<V2>, source: Source, request: KeyRequest) -> Response<ClientBody> {
    match request.method {
        Method::GET if request.wait && !request.quorum => wait::answer(v2, &request),
        Method::GET | Method::HEAD => read(v2, source, &request).await,
        _ => write(v2, &request).await,
    }
}

async fn read(v2: &V2, source: Source, request: &KeyRequest) -> Response<ClientBody> {
    if request.quorum
        && let Err(error) = v2.state.consensus.read_barrier(v2.deadline()).await
    {
        return refused(&raft_error(&Failure::from(error).to_string()));
    }
    let found = match read_here(v2, request) {
        Some(found) => found,
        None => match read_large(v2, source, request).await {
            Ok(found) => found,
            Err(failure) => return refused(&raft_error(&failure.to_string())),
        },
    };
    match found {
        Ok(Ok(Paid { answer: (body, index), grant })) => {
            v2.counters.gets.count(true);
            with_raft(v2, index, json(StatusCode::OK, ClientBody::paid(body, grant)))
        }
        Ok(Err(refusal)) => {
            v2.counters.gets.count(false);
            refused(&refusal)
        }
        Err(error) => broken(&error),
    }
}

/// The body of an answer and the index it was read at.
type Read = Result<Result<Paid<(String, u64)>, Error>, ViewError>;

fn read_within(
    view: &impl View,
    request: &KeyRequest,
    budget: Budget,
) -> Result<Result<Option<(String, u64)>, Error>, ViewError> {
    let found = v2::get(view, &request.path, request.recursive, unix_now(), budget)?;
    Ok(found.map(|found| found.map(|found| (render::found(&found.node), found.index))))
}

/// Reads on the serving thread; `None` for what is too large for it, or has no room.
fn read_here(v2: &V2, request: &KeyRequest) -> Option<Read> {
    let answer = match read_within(&v2.state.store.view(), request, Budget(INLINE_NODES)) {
        Ok(Ok(found)) => found?,
        Ok(Err(refusal)) => return Some(Ok(Err(refusal))),
        Err(error) => return Some(Err(error)),
    };
    let bytes = answer.0.len();
    let grant = if bytes > FREE_ANSWER_BYTES { Some(v2.state.work.answers.take(bytes)?) } else { None };
    Some(Ok(Ok(Paid { answer, grant })))
}

/// Reads and writes out on the blocking pool, so that nobody waits for a large tree but who asked for it.
async fn read_large(v2: &V2, source: Source, request: &KeyRequest) -> Result<Read, Failure> {
    let (deadline, answers) = (v2.deadline(), &v2.state.work.answers);
    if let Some(found) = read_aside(v2, source, deadline, request, answers.owed(0)).await? {
        return Ok(found);
    }
    let beyond = answers.beyond(source, Some(deadline)).await.map_err(undone)?;
    read_aside(v2, source, deadline, request, beyond).await?.ok_or(Failure::TooManyRequests)
}

/// `None` when there is no room for the answer.
async fn read_aside(
    v2: &V2,
    source: Source,
    deadline: Instant,
    request: &KeyRequest,
    grant: Grant,
) -> Result<Option<Read>, Failure> {
    let (store, request) = (v2.state.store.clone(), request.clone());
    let reading = v2.state.work.reads.run(source, Some(deadline), move |gone| {
        let limited = Limited::new(store.view(), Granted::new(grant, gone.clone()).printed(PRINTED_FACTOR));
        let found = read_within(&limited, &request, Budget::NONE);
        (!limited.is_spent()).then(|| (found, limited.limit.into_grant()))
    });
    let Some((found, mut grant)) = reading.await.map_err(undone)? else { return Ok(None) };
    Ok(Some(found.map(|found| {
        found.and_then(|answer| {
            // There is no limit on the nodes here.
            let answer = answer.ok_or_else(|| raft_error(&Failure::Timeout.to_string()))?;
            grant.resize(answer.0.len());
            Ok(Paid { grant: (answer.0.len() > FREE_ANSWER_BYTES).then_some(grant), answer })
        })
    })))
}

/// What v2 answers when there was no turn for a read.
fn undone(undone: Undone) -> Failure {
    match undone {
        Undone::Late => Failure::Timeout,
        Undone::TooMany => Failure::TooManyRequests,
        Undone::Stopped => Failure::Stopped,
    }
}

async fn write(v2: &V2, request: &KeyRequest) -> Response<ClientBody> {
    let mutation = request.command(unix_now());
    let verb = mutation.verb();
    if v2.state.store.space().refuses_growth() && !matches!(verb, Verb::Delete | Verb::CompareAndDelete | Verb::Sync) {
        return refused(&raft_error("etcdserver: mvcc: database space exceeded"));
    }
    let outcome = match propose(v2, &mutation).await {
        Ok(outcome) => outcome,
        Err(failure) => return refused(&raft_error(&failure.to_string())),
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

pub(super) fn refused(refusal: &Error) -> Response<ClientBody> {
    let mut response = json(render::status(refusal.code), render::error(refusal));
    set_number(&mut response, "x-etcd-index", refusal.index);
    response
}

pub(super) fn raft_error(cause: &str) -> Error {
    Error { code: 300, cause: cause.to_owned().into(), index: 0 }
}

pub(super) fn broken(error: &ViewError) -> Response<ClientBody> {
    tracing::error!(%error, "cannot read the v2 tree");
    refused(&raft_error("etcdserver: the state cannot be read"))
}

pub(super) fn with_raft(v2: &V2, index: u64, mut response: Response<ClientBody>) -> Response<ClientBody> {
    let status = v2.state.consensus.status();
    set_number(&mut response, "x-etcd-index", index);
    set_number(&mut response, "x-raft-index", status.committed);
    set_number(&mut response, "x-raft-term", status.term);
    response
}

fn set_number(response: &mut Response<ClientBody>, name: &'static str, number: u64) {
    response.headers_mut().insert(name, HeaderValue::from(number));
}
