//! Plain HTTP of the client port: health, version, metrics, and the door to v2.
//!
//! Bodies and headers are etcd's to the byte where clients or probes look: `/health` is text, errors end in a newline,
//! every answer of the client port carries CORS headers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Body;

use super::body::{AnyBody, BODY_TIMEOUT, BodyError, ClientBody, TimedBody};
use super::host;
use super::identity::GATEWAY_REFUSAL;
use super::routes::Route;
use super::service::ClientService;
use super::state::State;
use super::v2::{self, V2};
use super::{debug, exposition, gateway, health};
use crate::listen::Caller;
use crate::model::view::View;
use crate::settings::{AllowList, CLUSTER_VERSION, SERVER_VERSION};

/// What `/version` says of a cluster that has not agreed on its version yet.
const VERSION_NOT_DECIDED: &str = "not_decided";

/// Who may use HTTP from where.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Origins a browser may call from.
    pub cors: AllowList,
    /// Host names a request without TLS may be addressed to (against DNS rebinding).
    pub hosts: AllowList,
    /// Whether the listener speaks TLS.
    pub tls: bool,
    /// Whether `/v3/` serves the API as JSON.
    pub gateway: bool,
    /// Whether `/debug/` tells about the process.
    pub debug: bool,
}

/// The HTTP half of the client port.
pub struct Web {
    state: Arc<State>,
    options: HttpOptions,
    v2: Option<Arc<V2>>,
}

impl Web {
    /// `v2` answers everything under `/v2/`.
    pub fn new(state: Arc<State>, options: HttpOptions, v2: Option<Arc<V2>>) -> Self {
        Self { state, options, v2 }
    }

    /// Answers any request of the client port that is not gRPC.
    pub async fn answer<B>(&self, service: &ClientService, request: Request<B>) -> Response<ClientBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + Send,
    {
        if !self.options.tls && !self.options.hosts.allows(&host::name(&request)) {
            return text(StatusCode::MISDIRECTED_REQUEST, "the host of this request is not on --host-whitelist");
        }
        let cors = cors_headers(&self.options.cors, request.headers());
        let mut response = if request.method() == Method::OPTIONS {
            Response::new(ClientBody::whole(Bytes::new()))
        } else {
            self.route(service, request).await
        };
        for (name, value) in cors.into_iter().flatten() {
            response.headers_mut().insert(name, value);
        }
        response
    }

    async fn route<B>(&self, service: &ClientService, request: Request<B>) -> Response<ClientBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + Send,
    {
        let Some(route) = Route::find(request.uri().path()).filter(|route| self.has(*route)) else {
            return not_found();
        };
        if let Some(refusal) = wrong_method(route, request.method()) {
            return refusal;
        }
        match route {
            Route::GatewayFolder => moved("/v3/"),
            Route::Gateway => {
                if self.state.identities.refuses_at_gateway(&self.state, request.extensions().get::<Caller>()) {
                    return text(StatusCode::BAD_REQUEST, GATEWAY_REFUSAL);
                }
                gateway::answer(service, request).await
            }
            Route::Version => version(&self.state),
            Route::Debug => debug::answer(&self.state, request.uri().path()),
            Route::Health | Route::Livez | Route::Readyz | Route::Metrics => {
                observe(&self.state, route, request.uri()).await
            }
            Route::V2Keys
            | Route::V2Machines
            | Route::V2Members
            | Route::V2Member
            | Route::V2StatsSelf
            | Route::V2StatsLeader
            | Route::V2StatsStore
            | Route::V2Export
            | Route::V2AuthEnable
            | Route::V2AuthUsers
            | Route::V2AuthUser
            | Route::V2AuthRoles
            | Route::V2AuthRole => {
                let Some(v2) = &self.v2 else { return not_found() };
                let request = request.map(|body| AnyBody::new(TimedBody::new(body, Some(BODY_TIMEOUT))));
                v2::answer(v2, route, request).await
            }
        }
    }

    /// Whether the settings leave the route in.
    fn has(&self, route: Route) -> bool {
        (self.options.gateway || !route.is_gateway())
            && (self.options.debug || route != Route::Debug)
            && (self.v2.is_some() || !route.is_v2())
    }
}

/// Answers any request of the metrics port.
pub async fn answer_metrics(state: &Arc<State>, method: &Method, uri: &Uri) -> Response<ClientBody> {
    match Route::find(uri.path()).filter(|route| route.is_on_metrics_port()) {
        Some(route) => match wrong_method(route, method) {
            Some(refusal) => refusal,
            None => observe(state, route, uri).await,
        },
        None => not_found(),
    }
}

/// Answers what a metrics listener serves too: metrics and health, nothing that reads or writes data.
async fn observe(state: &Arc<State>, route: Route, uri: &Uri) -> Response<ClientBody> {
    if route != Route::Metrics {
        return health::answer(state, uri.path(), uri.query().unwrap_or_default()).await;
    }
    state.metrics.scrapes.fetch_add(1, Relaxed);
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    typed(StatusCode::OK, kind, exposition::render(state))
}

fn version(state: &State) -> Response<ClientBody> {
    let agreed = state.store.view().cluster_version();
    let cluster = if agreed.is_empty() { VERSION_NOT_DECIDED } else { &agreed };
    let body =
        format!(r#"{{"etcdserver":"{SERVER_VERSION}","etcdcluster":"{cluster}","storage":"{CLUSTER_VERSION}"}}"#);
    typed(StatusCode::OK, HeaderValue::from_static("application/json"), body)
}

/// What is said to a method that the route does not have.
fn wrong_method(route: Route, method: &Method) -> Option<Response<ClientBody>> {
    let allowed = route.methods();
    (!allowed.is_empty() && !allowed.contains(method)).then(|| v2::not_allowed(allowed))
}

/// As Go's router sends callers of a folder without its slash.
fn moved(to: &'static str) -> Response<ClientBody> {
    let mut response = Response::new(ClientBody::whole(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(to));
    response
}

/// What etcd answers on unknown paths.
pub(super) fn not_found() -> Response<ClientBody> {
    text(StatusCode::NOT_FOUND, "404 page not found")
}

/// An error as Go's HTTP server writes it: the message, a newline, and a type nobody may second-guess.
pub(super) fn text(status: StatusCode, message: &str) -> Response<ClientBody> {
    let mut response = plain(status, format!("{message}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Plain text, exactly as given.
pub(super) fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<ClientBody> {
    typed(status, HeaderValue::from_static("text/plain; charset=utf-8"), body)
}

pub(super) fn typed(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<ClientBody> {
    let mut response = Response::new(ClientBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The three headers etcd puts on every answer of an allowed origin.
fn cors_headers(allowed: &AllowList, request: &HeaderMap) -> Option<[(HeaderName, HeaderValue); 3]> {
    let origin = match allowed {
        AllowList::Any => HeaderValue::from_static("*"),
        AllowList::Only(_) => {
            let origin = request.get(header::ORIGIN)?;
            if !allowed.allows(origin.to_str().ok()?) {
                return None;
            }
            origin.clone()
        }
    };
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    let headers = HeaderValue::from_static("accept, content-type, authorization");
    Some([
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlisted_origin_gets_no_cors_headers_and_a_listed_one_is_echoed() {
        let allowed = AllowList::Only(vec!["http://good".to_owned()]);
        let with = |origin: &'static str| HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]);
        assert!(cors_headers(&allowed, &with("http://bad")).is_none());
        assert!(cors_headers(&allowed, &HeaderMap::new()).is_none());
        let headers = cors_headers(&allowed, &with("http://good")).expect("allowed");
        assert_eq!(headers[1].1, "http://good");
        let headers = cors_headers(&AllowList::Any, &HeaderMap::new()).expect("everybody");
        assert_eq!(headers[1].1, "*");
    }
}
