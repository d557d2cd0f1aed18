//! The JSON gateway: `/v3/…` over HTTP, every v3 method as JSON, as etcd 3.6 answers it.
//!
//! A request is found by path ([`routes`]), its JSON becomes protobuf ([`requests`], [`scan`], [`read`], by the
//! descriptors of [`schema`]), and it goes through the same gRPC service as any other call, in this process and without
//! a connection: same checks, same limits, same counters. Its answers ([`answers`]) become JSON again ([`write`]).
//!
//! Invariants: an HTTP client gets no more than its own token ([`metadata`]), never the name in a certificate; nothing
//! here knows a single method; a stream lives as long as its answer is read, also when its requests have ended.

mod answers;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod metadata;
mod number;
mod read;
mod requests;
mod routes;
mod scan;
mod schema;
mod write;

#[cfg(test)]
mod tests;

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use prost_reflect::MessageDescriptor;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::body::{BodyError, ClientBody};
use super::service::ClientService;
use crate::listen::Caller;
use answers::Answers;
use schema::Shape;
use write::Printer;

/// JSON bytes per byte of the largest gRPC message: base64, names, and escapes of what need not be escaped.
const JSON_PER_BYTE: usize = 2;

/// Answers a request of `Route::Gateway`.
pub async fn answer<B>(service: &ClientService, request: Request<B>) -> Response<ClientBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError> + Send,
{
    match exchange(service, request).await {
        Ok(response) => response,
        Err(status) => refuse(&status),
    }
}

async fn exchange<B>(service: &ClientService, request: Request<B>) -> Result<Response<ClientBody>, Status>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError> + Send,
{
    let rpc = routes::find(request.uri().path()).ok_or_else(|| Status::not_found("Not Found"))?;
    if request.method() != Method::POST {
        return Err(Status::unimplemented("Method Not Allowed"));
    }
    let (owner, method) = (rpc.service().name(), rpc.name());
    let shape = schema::shape(owner, method).ok_or_else(|| Status::internal("this method has no description"))?;
    let (metadata, timeout) = metadata::translate(request.headers())?;
    let deadline = Deadline(timeout.map(|timeout| Instant::now() + timeout));
    let limit = service.max_message_bytes().saturating_mul(JSON_PER_BYTE);
    let source = request.extensions().get::<Caller>().map(Caller::source).unwrap_or_default();
    let printer = Printer { lane: service.work().prints.clone(), source };
    let body = request.into_body();
    let requests = if shape.takes_stream {
        tonic::body::Body::new(requests::Many::new(body, shape.input.clone(), limit))
    } else {
        let request = deadline.within(requests::one(body, &shape.input, limit)).await?;
        tonic::body::Body::new(http_body_util::Full::new(request))
    };
    let mut call = grpc_request(owner, method, metadata, requests)?;
    call.extensions_mut().insert(source);
    let response = deadline.within(async { Ok(service.call_in_process(call).await) }).await?;
    let answers = Answers::new(response);
    if shape.gives_stream {
        stream(answers, shape, printer, deadline).await
    } else {
        unary(answers, &shape, &printer, deadline).await
    }
}

fn grpc_request(
    service: &str,
    method: &str,
    metadata: HeaderMap,
    body: tonic::body::Body,
) -> Result<Request<tonic::body::Body>, Status> {
    let path = format!("/{service}/{method}");
    let mut request = Request::builder().method(Method::POST).uri(path).body(body).map_err(|error| {
        tracing::error!(%error, service, method, "failed to build a call behind the gateway");
        Status::internal("this method has no path")
    })?;
    *request.headers_mut() = metadata;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Ok(request)
}

async fn unary(
    mut answers: Answers,
    shape: &Shape,
    printer: &Printer,
    deadline: Deadline,
) -> Result<Response<ClientBody>, Status> {
    // Before it is read to its end, which would give it back.
    let mut grant = answers.take_grant();
    let answer = deadline.within(answers.only()).await?;
    drop(answers);
    let body = write::message(printer, answer, &shape.output).await?;
    if let Some(grant) = &mut grant {
        grant.resize(body.len());
    }
    let mut response = respond(StatusCode::OK, ClientBody::paid(body, grant));
    mark_grpc(response.headers_mut());
    Ok(response)
}

/// The head is sent with the first message, because until then the status may still be an error's.
async fn stream(
    answers: Answers,
    shape: Shape,
    printer: Printer,
    deadline: Deadline,
) -> Result<Response<ClientBody>, Status> {
    let mut rest = Lines { answers, shape: shape.output, printer, deadline };
    let first = match rest.next().await {
        Ok(Some(first)) => first,
        Ok(None) => return Ok(Response::new(ClientBody::whole(Bytes::new()))),
        Err(status) => {
            return Ok(respond(http_status(status.code()), ClientBody::whole(error_line(&status))));
        }
    };
    let lines = futures::stream::unfold((Some(first), Some(rest)), |(first, rest)| async move {
        if let Some(first) = first {
            return Some((Ok::<_, Infallible>(Frame::data(first)), (None, rest)));
        }
        let mut rest = rest?;
        match rest.next().await {
            Ok(Some(line)) => Some((Ok(Frame::data(line)), (None, Some(rest)))),
            Ok(None) => None,
            Err(status) => Some((Ok(Frame::data(error_line(&status))), (None, None))),
        }
    });
    let mut response = respond(StatusCode::OK, ClientBody::streamed(StreamBody::new(lines)));
    mark_grpc(response.headers_mut());
    Ok(response)
}

struct Lines {
    answers: Answers,
    shape: MessageDescriptor,
    printer: Printer,
    deadline: Deadline,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(answer) = self.deadline.within(self.answers.next()).await? else { return Ok(None) };
        Ok(Some(write::line("result", &write::message(&self.printer, answer, &self.shape).await?)))
    }
}

fn error_line(status: &Status) -> Bytes {
    write::line("error", &write::status(status))
}

/// When the client wants its answer by.
#[derive(Debug, Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
    async fn within<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let exceeded = || Status::deadline_exceeded("context deadline exceeded");
        match self.0 {
            None => work.await,
            Some(deadline) if deadline <= Instant::now() => Err(exceeded()),
            Some(deadline) => tokio::time::timeout_at(deadline, work).await.map_err(|_elapsed| exceeded())?,
        }
    }
}

fn refuse(status: &Status) -> Response<ClientBody> {
    let mut response = respond(http_status(status.code()), ClientBody::whole(write::status(status)));
    if status.code() == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, message);
    }
    response
}

fn respond(status: StatusCode, body: ClientBody) -> Response<ClientBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The call's own metadata, of which there is only this.
fn mark_grpc(headers: &mut HeaderMap) {
    let name = HeaderName::from_static("grpc-metadata-content-type");
    headers.insert(name, HeaderValue::from_static("application/grpc"));
}

/// What HTTP calls a gRPC code.
fn http_status(code: Code) -> StatusCode {
    /// Nginx's "client closed request", which HTTP has no name for.
    const CLIENT_CLOSED_REQUEST: u16 = 499;
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
