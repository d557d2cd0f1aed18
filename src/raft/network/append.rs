//! The pipelined stream of entries to one follower: many batches on their way, answers in order.
//!
//! No task and no queue of its own: polling the answers also pulls requests, writes and reads, so that dropping the
//! answers stops everything at once. The connection outlives a stream. A stream numbers its batches under a session
//! number of its own; answers to an abandoned session are skipped.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::{Stream as Answers, StreamExt};
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::io::poll_read_buf;

use super::message::{append_result, kind, put_append};
use super::peers::Appends;
use super::stream::Stream;
use super::wire::{WireError, put_frame, take_frame};
use crate::raft::codec::Reader;
use crate::raft::types::TypeConfig;

/// Batches on their way to a follower at once; openraft's receiving side holds as many.
const MAX_IN_FLIGHT: u32 = 64;
/// Encoded bytes that may wait for the network before no further batch is read from the log.
pub const MAX_UNSENT: usize = 4 << 20;
/// Room for one read.
const READ_BYTES: usize = 16 << 10;

/// A connection to a follower's append channel, with what was read and not used, written and not sent.
pub struct Connection {
    io: Stream,
    input: BytesMut,
    out: BytesMut,
    needs_flush: bool,
    session: u32,
    appends: Arc<Appends>,
}

impl Connection {
    /// Takes a connection whose handshake is done. What is sent on it counts in `appends`.
    pub fn new(io: Stream, appends: Arc<Appends>) -> Self {
        Self { io, input: BytesMut::new(), out: BytesMut::new(), needs_flush: false, session: 0, appends }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        while !self.out.is_empty() {
            let wrote = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            if wrote == 0 {
                return Poll::Ready(Err(WireError::Closed));
            }
            self.out.advance(wrote);
            self.needs_flush = true;
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.input.reserve(READ_BYTES);
        match ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))? {
            0 => Poll::Ready(Err(WireError::Closed)),
            _ => Poll::Ready(Ok(())),
        }
    }
}

/// Answers to the batches of one stream, in the order of the batches.
pub struct AppendStream<'s, S> {
    connection: &'s mut Option<Connection>,
    batches: S,
    exhausted: bool,
    session: u32,
    sent: u32,
    answered: u32,
    patience: Duration,
    silence: Pin<Box<Sleep>>,
}

impl<'s, S> AppendStream<'s, S>
where
    S: Answers<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    /// Starts a session on `connection`, which must hold one. The stream fails when a batch stays unanswered while
    /// nothing at all arrives for `patience`; it then leaves `connection` empty.
    pub fn new(connection: &'s mut Option<Connection>, batches: S, patience: Duration) -> Self {
        let session = connection.as_mut().map_or(0, |connection| {
            connection.session = connection.session.wrapping_add(1);
            connection.session
        });
        let silence = Box::pin(sleep(patience));
        Self { connection, batches, exhausted: false, session, sent: 0, answered: 0, patience, silence }
    }

    fn heard(&mut self) {
        self.silence.as_mut().reset(Instant::now() + self.patience);
    }

    /// Reads batches from the log while there is room for them. Says whether unsent bytes were what stopped it.
    fn pull(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(connection) = self.connection.as_mut() else { return false };
        while !self.exhausted && self.sent - self.answered < MAX_IN_FLIGHT {
            if connection.out.len() >= MAX_UNSENT {
                return true;
            }
            match self.batches.poll_next_unpin(cx) {
                Poll::Ready(Some(batch)) => {
                    if self.sent == self.answered {
                        self.silence.as_mut().reset(Instant::now() + self.patience);
                    }
                    let id = u64::from(self.session) << 32 | u64::from(self.sent);
                    let unsent = connection.out.len();
                    put_frame(&mut connection.out, kind::ENTRIES, id, |out| put_append(out, &batch));
                    connection.appends.sent(connection.out.len() - unsent);
                    self.sent += 1;
                }
                Poll::Ready(None) => self.exhausted = true,
                Poll::Pending => break,
            }
        }
        false
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<StreamAppendResult<TypeConfig>>, WireError>> {
        loop {
            let full = self.pull(cx);
            let Some(connection) = self.connection.as_mut() else { return Poll::Ready(Ok(None)) };
            let flushed = connection.poll_write(cx)?.is_ready();
            while let Some(frame) = take_frame(&mut connection.input)? {
                if frame.kind != kind::ACKNOWLEDGED || (frame.id >> 32) as u32 != self.session {
                    continue;
                }
                let result = append_result(&mut Reader::new(frame.body))?;
                let let_go = connection.appends.let_go.load(Ordering::Relaxed);
                self.answered += 1;
                self.heard();
                if matches!(result, Ok(Some(matched)) if matched.index < let_go) {
                    // openraft keeps the entries of an open stream. Without one it purges them and sends a snapshot.
                    return Poll::Ready(Err(WireError::TooFarBehind));
                }
                return Poll::Ready(Ok(Some(result)));
            }
            if self.exhausted && self.sent == self.answered {
                return Poll::Ready(Ok(None));
            }
            if connection.poll_read(cx)?.is_ready() {
                self.heard();
                continue;
            }
            if full && flushed {
                continue;
            }
            if self.sent != self.answered && self.silence.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(WireError::Io(std::io::ErrorKind::TimedOut.into())));
            }
            return Poll::Pending;
        }
    }
}

impl<S> Answers for AppendStream<'_, S>
where
    S: Answers<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    type Item = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match ready!(self.poll_answer(cx)) {
            Ok(result) => Poll::Ready(result.map(Ok)),
            Err(error) => {
                *self.connection = None;
                Poll::Ready(Some(Err(RPCError::Network(NetworkError::new(&error)))))
            }
        }
    }
}
