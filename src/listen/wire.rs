//! One type for the four kinds of connection, so that the HTTP machinery is compiled once, and what has been read of it
//! before it was let in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::PREFACE;
use super::account::Account;
use crate::admission::Socket;

/// Largest head that is waited for; a longer one is for the HTTP machinery to refuse.
pub const MAX_HEAD: usize = 64 << 10;

/// Largest first frame of HTTP/2 that is waited for. It is the client's settings, some ten numbers.
const MAX_SETTINGS: usize = 1 << 10;

const FRAME_HEAD: usize = 9;

/// Bytes read at once while a caller begins; most begin with fewer.
const CHUNK: usize = 512;

/// Plain or TLS, TCP or unix.
pub enum Stream {
    Tcp(Socket<TcpStream>),
    TcpTls(Box<TlsStream<Socket<TcpStream>>>),
    Unix(Socket<UnixStream>),
    UnixTls(Box<TlsStream<Socket<UnixStream>>>),
}

macro_rules! each {
    ($wire:expr, $stream:ident => $call:expr) => {
        match $wire {
            Stream::Tcp($stream) => $call,
            Stream::TcpTls($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::UnixTls($stream) => $call,
        }
    };
}

/// A connection whose first request, or first frame of HTTP/2, has arrived.
pub struct Wire {
    stream: Stream,
    /// Read and not yet taken.
    begun: BytesMut,
    /// Where heads of HTTP/1 are counted.
    account: Option<Account>,
}

impl Wire {
    /// Waits until the caller has begun: a whole head of HTTP/1, or the preface of HTTP/2 and a whole frame behind it.
    ///
    /// # Errors
    /// The connection ended or broke before.
    pub async fn begin(mut stream: Stream) -> io::Result<Wire> {
        let (mut begun, mut looked_at) = (BytesMut::new(), 0);
        while !has_begun(&begun, looked_at) {
            looked_at = begun.len();
            begun.reserve(CHUNK);
            if each!(&mut stream, stream => stream.read_buf(&mut begun).await)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Wire { stream, begun, account: None })
    }

    /// Counts heads of HTTP/1 from now on.
    pub fn counted(mut self, account: Account) -> Wire {
        if !self.begun.starts_with(PREFACE) {
            account.read(self.begun.len());
            self.account = Some(account);
        }
        self
    }
}

/// `looked_at`: so many bytes were here before and were not enough. A head that comes byte by byte is read once.
fn has_begun(bytes: &[u8], looked_at: usize) -> bool {
    let compared = bytes.len().min(PREFACE.len());
    if bytes[..compared] != PREFACE[..compared] {
        // While it looked like a preface, nobody looked for an end of lines.
        let from = if looked_at <= PREFACE.len() { 0 } else { looked_at - 2 };
        return bytes.len() >= MAX_HEAD || has_whole_head(&bytes[from..]);
    }
    let Some(frame) = bytes.get(PREFACE.len()..) else { return false };
    let Some(head) = frame.get(..FRAME_HEAD) else { return false };
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    length > MAX_SETTINGS || frame.len() >= FRAME_HEAD + length
}

/// Whether an empty line has come; HTTP/1 is read with and without carriage returns.
fn has_whole_head(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            let before = buf.filled().len();
            let polled = each!(&mut self.stream, stream => Pin::new(stream).poll_read(cx, buf));
            if let Some(account) = &self.account {
                account.read(buf.filled().len() - before);
            }
            return polled;
        }
        let taken = self.begun.len().min(buf.remaining());
        buf.put_slice(&self.begun[..taken]);
        self.begun.advance(taken);
        if self.begun.is_empty() {
            self.begun = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.stream, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.stream, stream => stream.is_write_vectored())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_begun_with_a_whole_head_or_a_whole_frame() {
        let settings = [PREFACE, &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9]].concat();
        let long = [PREFACE, &[1, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
        let endless = vec![b'a'; MAX_HEAD];
        for (bytes, begun) in [
            (&b""[..], false),
            (b"P", false),
            (PREFACE, false),
            (&settings[..PREFACE.len() + FRAME_HEAD], false),
            (&settings[..settings.len() - 1], false),
            (&settings, true),
            (&long, true),
            (&long[..long.len() - 1], false),
            (b"GET / HTTP/1.1\r\n", false),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r", false),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            (b"GET / HTTP/1.1\nHost: a\n\n", true),
            (b"PRI * HTTP/2.0\r\n\r\nX", true),
            (&endless[1..], false),
            (&endless, true),
        ] {
            let one_by_one =
                (0..bytes.len()).find(|&n| has_begun(&bytes[..=n], n)).is_some_and(|n| n + 1 == bytes.len());
            assert_eq!(begun, one_by_one && !bytes.is_empty(), "byte by byte");
            assert_eq!(has_begun(bytes, 0), begun, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
        }
    }
}
