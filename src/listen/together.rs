//! Answers on HTTP/1 leave together.
//!
//! A client of v2 has a connection for each request under way. Every write to one of them wakes somebody: on one machine
//! that costs more than half of the write. [`Together`] lets the other requests that are ready be handled first, so that
//! their answers follow one another closely: the first wakes the reader, the rest find it awake. Nothing waits for time to
//! pass or for a request that is not there yet. HTTP/2 needs none of it: there, answers share connections.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;

/// A connection whose writes go to the back of the queue once.
pub(super) struct Together<S> {
    inner: S,
    next: Next,
}

enum Next {
    /// Nothing has been read.
    Unknown,
    /// HTTP/2: writes go out at once.
    AtOnce,
    /// The next write lets others go first.
    LetOthers,
    /// Others have been let go first.
    Write,
}

impl<S> Together<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, next: Next::Unknown }
    }

    fn first_bytes(&mut self, bytes: &[u8]) {
        if matches!(self.next, Next::Unknown) && !bytes.is_empty() {
            let is_http2 = PREFACE.starts_with(bytes) || bytes.starts_with(PREFACE);
            self.next = if is_http2 { Next::AtOnce } else { Next::LetOthers };
        }
    }

    /// Whether to write now; otherwise the task has been put behind all others that are ready.
    fn may_write(&mut self, cx: &Context<'_>) -> bool {
        match self.next {
            Next::Unknown | Next::AtOnce => true,
            Next::LetOthers => {
                self.next = Next::Write;
                cx.waker().wake_by_ref();
                false
            }
            Next::Write => true,
        }
    }

    fn wrote<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        if polled.is_ready() && matches!(self.next, Next::Write) {
            self.next = Next::LetOthers;
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Together<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.first_bytes(&buf.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Together<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.may_write(cx) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.may_write(cx) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
