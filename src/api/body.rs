//! Bodies of the client port: counted on the way in and out, without a copy or a box of their own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tonic::{Code, Status};

use super::metrics::{CallCount, Metrics};

/// The body of an answer.
pub struct ClientBody(Kind);

enum Kind {
    Grpc { body: tonic::body::Body, count: CallCount },
    Whole(Full<Bytes>),
    Routed(axum::body::Body),
}

impl ClientBody {
    /// A gRPC answer. The call counts as handled when its trailers have passed.
    pub(super) fn grpc(body: tonic::body::Body, count: CallCount) -> Self {
        Self(Kind::Grpc { body, count })
    }

    /// A body known whole.
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Whole(Full::new(bytes.into())))
    }

    /// What an HTTP router answered.
    pub(super) fn routed(body: axum::body::Body) -> Self {
        Self(Kind::Routed(body))
    }
}

/// Why a body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Grpc { body, count } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                if let Some(Ok(frame)) = &frame {
                    if let Some(data) = frame.data_ref() {
                        count.sent(data.len());
                    } else if let Some(trailers) = frame.trailers_ref() {
                        count.finish(Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code()));
                    }
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Kind::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::Routed(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Grpc { body, .. } => body.size_hint(),
            Kind::Whole(body) => body.size_hint(),
            Kind::Routed(body) => body.size_hint(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Grpc { body, .. } => body.is_end_stream(),
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Routed(body) => body.is_end_stream(),
        }
    }
}

/// The body of a gRPC request, counted.
pub struct RequestBody<B> {
    inner: B,
    metrics: Arc<Metrics>,
}

impl<B> RequestBody<B> {
    /// Counts what arrives in `inner`.
    pub(super) fn new(inner: B, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            self.metrics.received_bytes.fetch_add(data.len() as u64, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}
