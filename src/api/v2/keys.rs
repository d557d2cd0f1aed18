//! `/v2/keys`: reads, mutations and waiting.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::auth::{self, Asker};
use super::propose::{Failure, propose};
use super::request::{BadRequest, KeyRequest, MAX_BODY_BYTES};
use super::{V2, guard, json, render, unix_now, wait, with_cluster_id};
use crate::api::body::{AnyBody, ClientBody};
use crate::api::rights::Right;
use crate::api::routes::Route;
use crate::model::v2::auth::Want;
use crate::model::v2::types::{Error, Outcome, Verb};
use crate::model::v2::{self, Budget};
use crate::model::view::ViewError;
use crate::store::Store;

/// Nodes that a read on the serving thread may look at; larger ones are begun again on the blocking pool.
const INLINE_NODES: usize = 256;

/// Answers any request for a key. Strangers are turned away before their body is read, all others when they have said
/// which key: errors of the request come before those of the caller, as in etcd.
pub(super) async fn answer(v2: &Arc<V2>, request: Request<AnyBody>) -> Response<ClientBody> {
    let asker = auth::asker(v2, &request);
    if let Err(refusal) = guard::admit(v2, Right::Keys, &asker).await {
        return with_cluster_id(v2, refusal.response(Route::V2Keys));
    }
    let response = match parse(request).await {
        Ok(request) => match touches(v2, &asker, &request).await {
            Ok(()) => run(v2, request).await,
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
    Ok(Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(too_large)?.to_bytes())
}

async fn run(v2: &Arc<V2>, request: KeyRequest) -> Response<ClientBody> {
    match request.method {
        Method::GET if request.wait && !request.quorum => wait::answer(v2, &request),
        Method::GET | Method::HEAD => read(v2, &request).await,
        _ => write(v2, &request).await,
    }
}

async fn read(v2: &V2, request: &KeyRequest) -> Response<ClientBody> {
    if request.quorum
        && let Err(error) = v2.state.consensus.read_barrier(v2.deadline()).await
    {
        return refused(&raft_error(&Failure::from(error).to_string()));
    }
    let mut found = read_here(v2, request);
    if let Ok(Ok(None)) = found {
        found = match read_large(v2, request).await {
            Some(found) => found,
            None => return refused(&raft_error(&Failure::Timeout.to_string())),
        };
    }
    match found {
        Ok(Ok(Some((body, index)))) => {
            v2.counters.gets.count(true);
            with_raft(v2, index, json(StatusCode::OK, body))
        }
        Ok(Ok(None)) => refused(&raft_error(&Failure::TooManyRequests.to_string())),
        Ok(Err(refusal)) => {
            v2.counters.gets.count(false);
            refused(&refusal)
        }
        Err(error) => broken(&error),
    }
}

/// The body of an answer and the index it was read at; `None` when it takes more than the budget.
type Read = Result<Result<Option<(String, u64)>, Error>, ViewError>;

fn read_within(store: &Store, path: &[u8], recursive: bool, budget: Budget) -> Read {
    let found = v2::get(&store.view(), path, recursive, unix_now(), budget)?;
    Ok(found.map(|found| found.map(|found| (render::found(&found.node), found.index))))
}

fn read_here(v2: &V2, request: &KeyRequest) -> Read {
    read_within(&v2.state.store, &request.path, request.recursive, Budget(INLINE_NODES))
}

/// Reads and writes out on the blocking pool, so that nobody waits for a large tree but who asked for it. `None` when no
/// place there came free in time.
async fn read_large(v2: &V2, request: &KeyRequest) -> Option<Read> {
    let permit = tokio::time::timeout_at(v2.deadline(), v2.state.big_reads.clone().acquire_owned()).await.ok()?.ok()?;
    let (store, path, recursive) = (v2.state.store.clone(), request.path.clone(), request.recursive);
    let reading = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        read_within(&store, &path, recursive, Budget::NONE)
    });
    reading.await.ok()
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
