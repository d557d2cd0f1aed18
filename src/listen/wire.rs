//! One type for the four kinds of connection, so that the HTTP machinery is compiled once, with the
//! deadline for a caller's first bytes built in.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

/// The shortest HTTP/1 request; the preface of HTTP/2 is longer.
const FIRST_BYTES: usize = b"GET / HTTP/1.0\r\n\r\n".len();

/// Plain or TLS, TCP or unix.
pub enum Wire {
    Tcp(TcpStream),
    TcpTls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    UnixTls(Box<TlsStream<UnixStream>>),
}

macro_rules! each {
    ($wire:expr, $stream:ident => $call:expr) => {
        match $wire {
            Wire::Tcp($stream) => $call,
            Wire::TcpTls($stream) => $call,
            Wire::Unix($stream) => $call,
            Wire::UnixTls($stream) => $call,
        }
    };
}

/// A wire that fails with `TimedOut` when its first bytes do not come in time.
pub struct TimedWire {
    wire: Wire,
    /// Bytes seen so far and the deadline for enough of them; gone once they came.
    waiting: Option<(usize, Pin<Box<Sleep>>)>,
}

impl TimedWire {
    /// Starts the clock.
    pub fn new(wire: Wire, first_bytes_within: Duration) -> TimedWire {
        TimedWire { wire, waiting: Some((0, Box::pin(tokio::time::sleep(first_bytes_within)))) }
    }
}

impl AsyncRead for TimedWire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = each!(&mut this.wire, stream => Pin::new(stream).poll_read(cx, buf));
        let Some((seen, deadline)) = &mut this.waiting else { return polled };
        *seen += buf.filled().len() - before;
        if *seen >= FIRST_BYTES || matches!(polled, Poll::Ready(Err(_))) {
            this.waiting = None;
            return polled;
        }
        if polled.is_pending() && deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncWrite for TimedWire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut self.wire, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.wire, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.wire, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.wire, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.wire, stream => stream.is_write_vectored())
    }
}
