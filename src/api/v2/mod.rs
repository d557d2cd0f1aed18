//! etcd's v2 HTTP API, served from the v2 tree beside v3 in the same replicated state.
//!
//! One file per endpoint family: [`keys`], [`members`], [`stats`], [`auth`], and
//! [`export`], which is not etcd's. [`request`] turns a query and a form into
//! one checked request in etcd's order of checks, [`render`] writes nodes, events and errors as etcd spells them, [`hub`]
//! wakes the clients that wait for an event and [`wait`] answers them.
//!
//! Invariants: every mutation is one command through the log; a plain read is local, a quorum read passes a read
//! barrier; a waiting client holds no thread and no event; passwords are hashed and checked off the serving thread;
//! [`guard`] judges every request before its handler runs.

mod auth;
mod export;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub(super) mod guard;
mod hub;
mod keys;
mod members;
mod propose;
mod render;
mod request;
mod stats;
mod wait;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use tokio::time::Instant;

use super::identity::passwords::Passwords;
use super::routes::Route;
use super::state::State;
use crate::api::body::{AnyBody, ClientBody};
use crate::model::v2::types::UnixNanos;
use crate::work;

pub use hub::{Hub, HubStats, LINE_BYTES};
pub use stats::Counters;

/// etcd's own cost of v2 passwords.
const COST: u32 = 10;
/// Largest accepted body of what is no key request, bytes. A role with a thousand patterns is far below it.
const MAX_BODY_BYTES: usize = 1 << 20;

/// What v2 handlers share.
pub struct V2 {
    state: Arc<State>,
    hub: Arc<Hub>,
    counters: Counters,
    rates: stats::Rates,
    /// At work on half of the processors at most, so that strangers with wrong passwords cannot take all of them.
    passwords: Passwords,
    /// `--client-cert-auth`: the common name of a client's certificate is a user's name.
    client_cert_auth: bool,
    started: UnixNanos,
    led_since: AtomicI64,
}

impl V2 {
    /// Serves `state`. The caller subscribes `hub` to the store. Must be called inside the serving runtime.
    pub fn new(state: Arc<State>, hub: Arc<Hub>, client_cert_auth: bool) -> Arc<Self> {
        let now = unix_now();
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut leaders = state.consensus.leader_watch();
        let (stopping, ending) = (state.stopping.clone(), hub.clone());
        tokio::spawn(async move {
            stopping.cancelled().await;
            ending.close();
        });
        let v2 = Arc::new(Self {
            state,
            hub,
            counters: Counters::default(),
            rates: stats::Rates::new(),
            passwords: Passwords::new(COST, work::password_threads(processors).min(processors / 2)),
            client_cert_auth,
            started: now,
            led_since: AtomicI64::new(now),
        });
        let follower = Arc::downgrade(&v2);
        tokio::spawn(async move {
            while leaders.changed().await.is_ok() {
                let Some(v2) = follower.upgrade() else { return };
                v2.led_since.store(unix_now(), Ordering::Relaxed);
            }
        });
        v2
    }

    /// When the present leader was first heard of.
    fn led_since(&self) -> UnixNanos {
        self.led_since.load(Ordering::Relaxed)
    }

    /// How often passwords of v2 have been computed.
    #[cfg(test)]
    pub fn computed(&self) -> u64 {
        self.passwords.computed()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.state.limits.request_timeout()
    }
}

/// The body of a request that is no key request: all of it, or `None` when it broke off or was too large.
type Whole = Option<Bytes>;

/// Answers a request of a v2 route and of one of its methods. Nobody's handler runs before the caller has been judged.
pub(super) async fn answer(v2: &Arc<V2>, route: Route, request: Request<AnyBody>) -> Response<ClientBody> {
    if route == Route::V2Keys {
        return keys::answer(v2, request).await;
    }
    // Boxed: nobody else's request is to carry what these need.
    Box::pin(others(v2, route, request)).await
}

async fn others(v2: &Arc<V2>, route: Route, request: Request<AnyBody>) -> Response<ClientBody> {
    let asker = auth::asker(v2, &request);
    let (head, body) = request.into_parts();
    // Read before the caller is judged: what he may is asked when the request can be carried out, not when it began.
    let body = match head.method {
        Method::GET | Method::HEAD => Some(Bytes::new()),
        _ => Limited::new(body, MAX_BODY_BYTES).collect().await.ok().map(http_body_util::Collected::to_bytes),
    };
    if let Err(refusal) = guard::admit(v2, route.right(&head.method), &asker).await {
        return refusal.response(route);
    }
    let request = Request::from_parts(head, body);
    match route {
        Route::V2Machines => members::machines(v2),
        Route::V2Members => members::collection(v2, request).await,
        Route::V2Member => members::one(v2, request).await,
        Route::V2StatsSelf => stats::own(v2),
        Route::V2StatsLeader => stats::leader(v2),
        Route::V2StatsStore => stats::store(v2),
        Route::V2Export => export::answer(v2, &request).await,
        Route::V2AuthEnable => auth::switch(v2, request.method()).await,
        Route::V2AuthUsers | Route::V2AuthUser => auth::answer(v2, auth::Kind::User, request).await,
        Route::V2AuthRoles | Route::V2AuthRole => auth::answer(v2, auth::Kind::Role, request).await,
        Route::V2Keys
        | Route::Gateway
        | Route::GatewayFolder
        | Route::Health
        | Route::Livez
        | Route::Readyz
        | Route::Metrics
        | Route::Version
        | Route::Debug => not_found(),
    }
}

/// The wall clock: expirations are wall times by contract. Only proposals and answers read it, never apply.
pub(super) fn unix_now() -> UnixNanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<ClientBody>) -> Response<ClientBody> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json(status: StatusCode, body: impl Into<ClientBody>) -> Response<ClientBody> {
    respond(status, "application/json", body)
}

/// Plain text as Go's HTTP server sends errors.
fn plain(status: StatusCode, body: &str) -> Response<ClientBody> {
    let mut response = respond(status, "text/plain; charset=utf-8", format!("{body}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn not_found() -> Response<ClientBody> {
    plain(StatusCode::NOT_FOUND, "404 page not found")
}

/// 405 with the list of what is allowed.
pub(super) fn not_allowed(allowed: &'static [Method]) -> Response<ClientBody> {
    let names: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    if let Ok(value) = HeaderValue::from_str(&names.join(",")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// `{"message":…}`, as members and stats answer errors; without a newline.
fn message(status: StatusCode, text: &str) -> Response<ClientBody> {
    let mut body = String::from("{\"message\":");
    render::text(&mut body, text);
    body.push('}');
    json(status, body)
}

fn with_cluster_id(v2: &V2, mut response: Response<ClientBody>) -> Response<ClientBody> {
    let id = format!("{:x}", v2.state.consensus.status().cluster_id);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-etcd-cluster-id", value);
    }
    response
}
