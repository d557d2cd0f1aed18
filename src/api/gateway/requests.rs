//! Request bodies: JSON values one after another, as messages of a gRPC call.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use prost_reflect::MessageDescriptor;
use tonic::Status;

use super::read;
use super::scan::{End, Scanner};

/// Longest wait for the body of a call with one request. Streams may be silent for as long as they like.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes in front of every gRPC message: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// A message as gRPC sends it.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.extend_from_slice(&[0]);
    // Bodies are limited far below 4 GiB.
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(message);
    frame.freeze()
}

/// Finds values in pieces of a body.
struct Values {
    scanner: Scanner,
    /// What arrived of the value under way.
    held: BytesMut,
    /// How much of it the scanner has seen.
    seen: usize,
    limit: usize,
}

impl Values {
    fn new(limit: usize) -> Self {
        Self { scanner: Scanner::default(), held: BytesMut::new(), seen: 0, limit }
    }

    fn take(&mut self, data: &[u8]) {
        self.held.extend_from_slice(data);
    }

    /// The next whole value that is held.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let found = self.scanner.feed(&self.held[self.seen..]).map_err(refusal)?;
        let Some(end) = found else {
            self.seen = self.held.len();
            return if self.seen > self.limit { Err(too_large(self.seen, self.limit)) } else { Ok(None) };
        };
        Ok(Some(self.cut(self.seen + end)))
    }

    /// What is left when the body has ended.
    fn rest(&mut self) -> Result<Option<Bytes>, Status> {
        match self.scanner.finish() {
            End::Empty => Ok(None),
            End::Complete => Ok(Some(self.cut(self.held.len()))),
            End::Cut => Err(Status::invalid_argument("unexpected EOF")),
        }
    }

    fn cut(&mut self, end: usize) -> Bytes {
        (self.scanner, self.seen) = (Scanner::default(), 0);
        let mut value = self.held.split_to(end).freeze();
        let blank = value.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        value.split_off(blank)
    }
}

fn refusal(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

/// gRPC's words: the message behind a body this large would not pass either.
fn too_large(found: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

/// The one request of a call: the first value of the body, or the empty message. What follows is not looked at.
///
/// # Errors
/// Invalid JSON, a value that fits no field, a body beyond `limit` bytes or that does not arrive.
pub async fn one<B>(body: B, shape: &MessageDescriptor, limit: usize) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
{
    let value = tokio::time::timeout(BODY_TIMEOUT, first(body, limit))
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("the body of the request did not arrive in time"))??;
    let Some(value) = value else { return Ok(framed(&[])) };
    Ok(framed(&read::message(&value, shape).map_err(refusal)?))
}

async fn first<B: Body<Data = Bytes> + Unpin>(mut body: B, limit: usize) -> Result<Option<Bytes>, Status> {
    let mut values = Values::new(limit);
    while let Some(frame) = body.frame().await {
        // A body that breaks off has no reader for an answer.
        let frame = frame.map_err(|_broken| Status::invalid_argument("unexpected EOF"))?;
        let Ok(data) = frame.into_data() else { continue };
        values.take(&data);
        if let Some(value) = values.next()? {
            return Ok(Some(value));
        }
    }
    values.rest()
}

/// Many requests: every value as soon as it is whole. The end of the body, and a value that cannot be read, close this
/// direction only: etcd says nothing to the client then, and the call goes on.
pub struct Many<B> {
    body: B,
    values: Values,
    shape: MessageDescriptor,
    ended: bool,
}

impl<B> Many<B> {
    /// Reads `body` when the call asks for requests.
    pub fn new(body: B, shape: MessageDescriptor, limit: usize) -> Self {
        Self { body, values: Values::new(limit), shape, ended: false }
    }

    fn frame(&mut self, value: Result<Option<Bytes>, Status>) -> Option<Frame<Bytes>> {
        let encoded = value.and_then(|value| {
            let Some(value) = value else { return Ok(None) };
            read::message(&value, &self.shape).map(Some).map_err(refusal)
        });
        match encoded {
            Ok(encoded) => encoded.map(|encoded| Frame::data(framed(&encoded))),
            Err(status) => {
                tracing::warn!(error = status.message(), "failed to decode a request of a gateway stream");
                self.ended = true;
                None
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Many<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        while !this.ended {
            let value = this.values.next();
            if let Some(frame) = this.frame(value) {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.ended {
                break;
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        this.values.take(&data);
                    }
                }
                Some(Err(_broken)) => this.ended = true,
                None => {
                    this.ended = true;
                    let value = this.values.rest();
                    return Poll::Ready(this.frame(value).map(Ok));
                }
            }
        }
        Poll::Ready(None)
    }
}
