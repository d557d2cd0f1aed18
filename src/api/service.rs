//! The client port as one service: gRPC by content type straight to its method, everything else to HTTP.
//!
//! gRPC calls pass no layer and no router here: a table lookup, the generated server, and a body that counts.

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ::http::{Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::access;
use super::body::{BODY_TIMEOUT, BodyError, ClientBody, RequestBody};
use super::host;
use super::http::{self, HttpOptions, Web};
use super::methods::{self, Lookup, Rpc};
use super::metrics::CallCount;
use super::paid::Carried;
use super::state::State;
use super::v2::V2;
use super::v3;
use crate::proto::etcdserverpb as pb;
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;
use crate::work::Lanes;

type GrpcFuture = Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send>>;
type HttpFuture = Pin<Box<dyn Future<Output = Response<ClientBody>> + Send>>;

/// Serves every request of the client port. Cloning shares everything.
#[derive(Clone)]
pub struct ClientService(Arc<Shared>, Serves);

/// What a listener serves: both, unless `--listen-client-http-urls` gives HTTP ports of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and HTTP.
    Both,
    /// gRPC.
    Grpc,
    /// HTTP.
    Http,
}

struct Shared {
    state: Arc<State>,
    web: Web,
    kv: pb::kv_server::KvServer<v3::kv::Kv>,
    watch: pb::watch_server::WatchServer<v3::watch::Watch>,
    lease: pb::lease_server::LeaseServer<v3::lease::Lease>,
    cluster: pb::cluster_server::ClusterServer<v3::cluster::Cluster>,
    maintenance: pb::maintenance_server::MaintenanceServer<v3::maintenance::Maintenance>,
    auth: pb::auth_server::AuthServer<v3::auth::Auth>,
    lock: LockServer<v3::lock::Lock>,
    election: ElectionServer<v3::election::Election>,
    health: HealthServer<v3::health::Health>,
}

impl ClientService {
    /// Both protocols over one replica. `v2` answers everything under `/v2/`; without it those paths are unknown.
    pub fn new(state: Arc<State>, options: HttpOptions, v2: Option<Arc<V2>>) -> Self {
        let limit = state.limits.max_message_bytes();
        let shared = Shared {
            web: Web::new(Arc::clone(&state), options, v2),
            kv: pb::kv_server::KvServer::new(v3::kv::Kv(Arc::clone(&state))).max_decoding_message_size(limit),
            watch: pb::watch_server::WatchServer::new(v3::watch::Watch(Arc::clone(&state)))
                .max_decoding_message_size(limit),
            lease: pb::lease_server::LeaseServer::new(v3::lease::Lease(Arc::clone(&state)))
                .max_decoding_message_size(limit),
            cluster: pb::cluster_server::ClusterServer::new(v3::cluster::Cluster(Arc::clone(&state)))
                .max_decoding_message_size(limit),
            maintenance: pb::maintenance_server::MaintenanceServer::new(v3::maintenance::Maintenance(Arc::clone(
                &state,
            )))
            .max_decoding_message_size(limit),
            auth: pb::auth_server::AuthServer::new(v3::auth::Auth(Arc::clone(&state))).max_decoding_message_size(limit),
            lock: LockServer::new(v3::lock::Lock(Arc::clone(&state))).max_decoding_message_size(limit),
            election: ElectionServer::new(v3::election::Election(Arc::clone(&state))).max_decoding_message_size(limit),
            health: HealthServer::new(v3::health::Health(Arc::clone(&state))).max_decoding_message_size(limit),
            state,
        };
        Self(Arc::new(shared), Serves::Both)
    }

    /// The same for a listener that serves only one of the two.
    pub fn only(mut self, serves: Serves) -> Self {
        self.1 = serves;
        self
    }

    /// Largest gRPC message a client may send, bytes.
    pub(super) fn max_message_bytes(&self) -> usize {
        self.0.state.limits.max_message_bytes()
    }

    /// Turns at what blocks, and bytes of answers.
    pub(super) fn work(&self) -> &Lanes {
        &self.0.state.work
    }

    /// A gRPC call from inside this process, counted and checked like one from outside.
    pub(super) fn call_in_process(
        &self,
        request: Request<tonic::body::Body>,
    ) -> impl Future<Output = Response<ClientBody>> + Send + use<> {
        let call = self.call_grpc(request);
        async move { call.await.unwrap_or_else(|never| match never {}) }
    }

    fn call_grpc<B>(&self, request: Request<B>) -> ClientFuture
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + Send,
    {
        let Shared { state, .. } = &*self.0;
        let rpc = match methods::lookup(request.uri().path()) {
            Lookup::Found(rpc) => rpc,
            Lookup::NoMethod(service, method) => {
                return ClientFuture::refuse(format!("unknown method {method} for service {service}"));
            }
            Lookup::NoService(service) => return ClientFuture::refuse(format!("unknown service {service}")),
        };
        let count = CallCount::start(Arc::clone(&state.metrics), rpc);
        let limit = (rpc.kind() != methods::Kind::BidiStream).then_some(BODY_TIMEOUT);
        let most = state.limits.max_message_bytes();
        let request = request.map(|body| RequestBody::new(body, limit, most, Arc::clone(&state.metrics)));
        let call = if access::is_judged_at_the_door(rpc) {
            self.admit_and_dispatch(rpc, request, most)
        } else {
            self.dispatch(rpc, request)
        };
        ClientFuture(Kind::Grpc { call, count: Some(count) })
    }

    /// Asks for the method's right before its handler runs, and when the request is whole: what somebody may is asked when
    /// his request can be carried out, not when its first byte came.
    fn admit_and_dispatch<B>(&self, rpc: Rpc, request: Request<RequestBody<B>>, most: usize) -> GrpcFuture
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError> + Send,
    {
        let service = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = match body.whole(most).await {
                Ok(body) => body,
                Err(found) => return Ok(too_large(found, most).into_http()),
            };
            if let Err(error) = access::rpc(&service.0.state, rpc, &head).await {
                return Ok(Status::from(error).into_http());
            }
            service.dispatch(rpc, Request::from_parts(head, body)).await
        })
    }

    fn dispatch<B>(&self, rpc: Rpc, request: Request<B>) -> GrpcFuture
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError> + Send,
    {
        match rpc.service() {
            methods::Service::Kv => self.0.kv.clone().call(request),
            methods::Service::Watch => self.0.watch.clone().call(request),
            methods::Service::Lease => self.0.lease.clone().call(request),
            methods::Service::Cluster => self.0.cluster.clone().call(request),
            methods::Service::Maintenance => self.0.maintenance.clone().call(request),
            methods::Service::Auth => self.0.auth.clone().call(request),
            methods::Service::Lock => self.0.lock.clone().call(request),
            methods::Service::Election => self.0.election.clone().call(request),
            methods::Service::Health => self.0.health.clone().call(request),
        }
    }
}

impl<B> Service<Request<B>> for ClientService
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError> + Send,
{
    type Response = Response<ClientBody>;
    type Error = Infallible;
    type Future = ClientFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ClientFuture {
        if let Some(refusal) = host::refuse(&request) {
            return ClientFuture(Kind::Refused(Some(refusal)));
        }
        match (is_grpc(&request), self.1) {
            (true, Serves::Both | Serves::Grpc) => return self.call_grpc(request),
            (false, Serves::Both | Serves::Http) => {}
            (true, Serves::Http) => return ClientFuture(Kind::Refused(Some(http::not_found()))),
            (false, Serves::Grpc) => {
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                return ClientFuture(Kind::Refused(Some(http::text(status, "this port serves gRPC only"))));
            }
        }
        let service = self.clone();
        ClientFuture(Kind::Http(Box::pin(async move { service.0.web.answer(&service, request).await })))
    }
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Serves `--listen-metrics-urls`: metrics and health, nothing that reads or writes data.
#[derive(Clone)]
pub struct MetricsService(Arc<State>);

impl MetricsService {
    /// Over the same state as the client port.
    pub fn new(state: Arc<State>) -> Self {
        Self(state)
    }
}

impl<B: Send + 'static> Service<Request<B>> for MetricsService {
    type Response = Response<ClientBody>;
    type Error = Infallible;
    type Future = ClientFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ClientFuture {
        if let Some(refusal) = host::refuse(&request) {
            return ClientFuture(Kind::Refused(Some(refusal)));
        }
        let state = Arc::clone(&self.0);
        let (method, uri) = (request.method().clone(), request.uri().clone());
        ClientFuture(Kind::Http(Box::pin(async move { http::answer_metrics(&state, &method, &uri).await })))
    }
}

/// The answer to come.
pub struct ClientFuture(Kind);

enum Kind {
    Grpc { call: GrpcFuture, count: Option<CallCount> },
    Http(HttpFuture),
    Refused(Option<Response<ClientBody>>),
}

impl ClientFuture {
    fn refuse(message: String) -> Self {
        let response = Status::unimplemented(message).into_http::<tonic::body::Body>();
        Self(Kind::Refused(Some(response.map(|_empty| ClientBody::whole(Bytes::new())))))
    }
}

impl Future for ClientFuture {
    type Output = Result<Response<ClientBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Kind::Grpc { call, count } => {
                let Ok(mut response) = ready!(call.as_mut().poll(cx));
                let grant = response.extensions_mut().remove::<Carried>().and_then(|carried| carried.take());
                let mut count = count.take().expect("a future is not polled after it was ready");
                let response = match refusal_of(&response) {
                    Some(status) => {
                        count.finish(status.code());
                        status.into_http()
                    }
                    None => response,
                };
                Poll::Ready(Ok(response.map(|body| ClientBody::grpc(body, count, grant))))
            }
            Kind::Http(answer) => answer.as_mut().poll(cx).map(Ok),
            Kind::Refused(response) => {
                Poll::Ready(Ok(response.take().expect("a future is not polled after it was ready")))
            }
        }
    }
}

/// The status of an answer that is only a status, in etcd's words where the framework's differ.
fn refusal_of(response: &Response<tonic::body::Body>) -> Option<Status> {
    let status = response.extensions().get::<Status>()?;
    Some(reword(status))
}

/// A message over the transport limit: the framework says `OutOfRange` and its own sentence.
fn reword(status: &Status) -> Status {
    let numbers = || {
        let rest = status.message().strip_prefix("Error, decoded message length too large: found ")?;
        let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
        Some((found, rest.strip_suffix(" bytes")?))
    };
    match numbers() {
        Some((found, limit)) if status.code() == Code::OutOfRange => too_large(found, limit),
        _ => status.clone(),
    }
}

fn too_large(found: impl Display, limit: impl Display) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"))
}
