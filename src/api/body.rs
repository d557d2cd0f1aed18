//! Bodies of the client port: counted on the way in and out, without a copy or a box of their own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::gather::Gather;
use super::metrics::{CallCount, Metrics};
use super::paid::PaidBody;
use crate::work::{Grant, STALLED};

/// The body of an answer.
pub struct ClientBody(Kind);

enum Kind {
    Grpc { body: tonic::body::Body, count: CallCount },
    PaidGrpc { body: PaidBody<tonic::body::Body>, count: CallCount },
    Whole(Full<Bytes>),
    Paid(PaidBody<Full<Bytes>>),
    Streamed(Boxed),
}

impl ClientBody {
    /// A gRPC answer, with what pays for a large one. The call counts as handled when its trailers have passed.
    pub(super) fn grpc(body: tonic::body::Body, count: CallCount, grant: Option<Grant>) -> Self {
        match grant {
            None => Self(Kind::Grpc { body, count }),
            Some(grant) => {
                let body = PaidBody::new(Some(body), Bytes::new(), grant, STALLED);
                Self(Kind::PaidGrpc { body, count })
            }
        }
    }

    /// A body known whole, with what pays for a large one.
    pub(super) fn paid(bytes: impl Into<Bytes>, grant: Option<Grant>) -> Self {
        match grant {
            None => Self::whole(bytes),
            Some(grant) => Self(Kind::Paid(PaidBody::new(None, bytes.into(), grant, STALLED))),
        }
    }

    /// What pays for it, for an answer that is made of this one.
    pub(super) fn take_grant(&self) -> Option<Grant> {
        match &self.0 {
            Kind::PaidGrpc { body, .. } => body.take_grant(),
            _ => None,
        }
    }

    /// A body known whole.
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Whole(Full::new(bytes.into())))
    }

    /// None.
    pub(super) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// A body that comes piece by piece.
    pub(super) fn streamed<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Kind::Streamed(Box::pin(body.map_err(Into::into))))
    }
}

impl<T: Into<Bytes>> From<T> for ClientBody {
    fn from(whole: T) -> Self {
        Self::whole(whole)
    }
}

type Boxed = Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>;

/// The body of a request to HTTP handlers, whatever the listener made it from. What has no body costs no box.
pub struct AnyBody(Option<Boxed>);

impl AnyBody {
    pub(super) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        if body.is_end_stream() { Self(None) } else { Self(Some(Box::pin(body.map_err(Into::into)))) }
    }
}

impl Body for AnyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| body.as_mut().poll_frame(cx))
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
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
                counted(count, frame.as_ref().and_then(|frame| frame.as_ref().ok()));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Kind::PaidGrpc { body, count } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                counted(count, frame.as_ref().and_then(|frame| frame.as_ref().ok()));
                Poll::Ready(frame)
            }
            Kind::Paid(body) => Pin::new(body).poll_frame(cx),
            Kind::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Kind::Streamed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Grpc { body, .. } => body.size_hint(),
            Kind::PaidGrpc { body, .. } => body.size_hint(),
            Kind::Paid(body) => body.size_hint(),
            Kind::Whole(body) => body.size_hint(),
            Kind::Streamed(body) => body.size_hint(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Grpc { body, .. } => body.is_end_stream(),
            Kind::PaidGrpc { body, .. } => body.is_end_stream(),
            Kind::Paid(body) => body.is_end_stream(),
            Kind::Whole(body) => body.is_end_stream(),
            Kind::Streamed(body) => body.is_end_stream(),
        }
    }
}

fn counted(count: &mut CallCount, frame: Option<&Frame<Bytes>>) {
    let Some(frame) = frame else { return };
    if let Some(data) = frame.data_ref() {
        count.sent(data.len());
    } else if let Some(trailers) = frame.trailers_ref() {
        count.finish(Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code()));
    }
}
/// Flag and length before a gRPC message, bytes.
const MESSAGE_HEAD: usize = 5;

/// How long a request that is one message may take to arrive after its head.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The body of a gRPC request, counted, its messages whole.
pub struct RequestBody<B> {
    inner: TimedBody<B>,
    metrics: Arc<Metrics>,
    gather: Gather,
    /// What comes after the pieces that are kept: trailers or an error.
    last: Option<Result<Frame<Bytes>, BodyError>>,
}

/// A body that must be whole in time, counted from the first wait for it. Costs nothing for one that is there already.
pub struct TimedBody<B> {
    inner: B,
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> TimedBody<B> {
    /// `limit`: `None` waits for ever, for streams.
    pub fn new(inner: B, limit: Option<Duration>) -> Self {
        Self { inner, limit, timer: None }
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(limit) = this.limit else { return Poll::Pending };
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        let late = format!("the request's body did not arrive within {limit:?}");
        Poll::Ready(Some(Err(std::io::Error::new(std::io::ErrorKind::TimedOut, late).into())))
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

impl<B> RequestBody<B> {
    /// Counts what arrives in `inner`, which must be whole within `limit` unless it is a stream, in messages of at most
    /// `most` bytes.
    pub(super) fn new(inner: B, limit: Option<Duration>, most: usize, metrics: Arc<Metrics>) -> Self {
        Self { inner: TimedBody::new(inner, limit), metrics, gather: Gather::new(most), last: None }
    }
}

impl<B> RequestBody<B> {
    /// Nothing more will come but `last`.
    fn finish(&mut self, last: Option<Result<Frame<Bytes>, BodyError>>) {
        self.gather.end();
        self.last = last;
    }
}

/// A body that has arrived: its frames, and the error that may have ended it.
pub(super) type Arrived = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, BodyError>>>>;

impl<B> RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    /// Waits for the end of a body that is one message of at most `most` bytes.
    ///
    /// # Errors
    /// The bytes that came, when they are more than that: nothing is to be carried out that has no end.
    pub(super) async fn whole(mut self, most: usize) -> Result<Arrived, usize> {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while let Some(frame) = self.frame().await {
            bytes += frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            if bytes > most.saturating_add(MESSAGE_HEAD) {
                return Err(bytes - MESSAGE_HEAD);
            }
            let broken = frame.is_err();
            frames.push(frame);
            if broken {
                break;
            }
        }
        Ok(StreamBody::new(futures::stream::iter(frames)))
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if let Some(piece) = this.gather.next() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if let Some(last) = this.last.take() {
                return Poll::Ready(Some(last));
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.metrics.received_bytes.fetch_add(data.len() as u64, Relaxed);
                        if let Some(piece) = this.gather.take(data) {
                            return Poll::Ready(Some(Ok(Frame::data(piece))));
                        }
                    }
                    Err(other) => this.finish(Some(Ok(other))),
                },
                Some(Err(error)) => this.finish(Some(Err(error))),
                None if this.gather.is_empty() => return Poll::Ready(None),
                None => this.finish(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.gather.is_empty() && self.last.is_none() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pieces = Vec<Result<Frame<Bytes>, std::convert::Infallible>>;

    fn pieces() -> Pieces {
        vec![Ok(Frame::data(Bytes::from_static(b"a"))), Ok(Frame::data(Bytes::from_static(b"b")))]
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up_and_one_in_time_is_not() {
        let whole = StreamBody::new(futures::stream::iter(pieces()));
        let limit = Duration::from_millis(50);
        let read = TimedBody::new(whole, Some(limit)).collect().await.expect("in time").to_bytes();
        assert_eq!(read, "ab");
        let endless =
            StreamBody::new(futures::StreamExt::chain(futures::stream::iter(pieces()), futures::stream::pending()));
        let error = TimedBody::new(endless, Some(limit)).collect().await.expect_err("given up");
        assert_eq!(error.to_string(), "the request's body did not arrive within 50ms");
    }

    #[tokio::test]
    async fn a_stream_may_be_silent_for_ever() {
        let endless = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>());
        let waiting = TimedBody::new(endless, None).collect();
        assert!(tokio::time::timeout(Duration::from_millis(200), waiting).await.is_err());
    }
}
