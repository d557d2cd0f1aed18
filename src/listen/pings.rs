//! How often a client may ping: gRPC's rule, which etcd's flag `--grpc-keepalive-min-time` sets.
//!
//! The HTTP/2 stack answers every ping and counts none. [`Policed`] walks over the frame heads of both directions and
//! copies nothing: a ping that comes sooner than the least time after the one before is a strike, anything the server
//! says of a request forgives all strikes (clients measure a line by pings while data flows), and the third strike ends
//! the connection with GOAWAY ENHANCE_YOUR_CALM "too_many_pings", as Go's server ends it.
//!
//! Laxer than Go in one point: pings of a client without an open request are measured by the same time, not by two hours.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::PREFACE;

const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;
const GOAWAY: u8 = 7;
/// ENHANCE_YOUR_CALM.
const CALM: u32 = 11;
const REASON: &[u8] = b"too_many_pings";
/// The first two pings that come too soon are let pass, as in gRPC.
const STRIKES: u32 = 3;

/// An HTTP connection whose client is held to a least time between pings.
pub(super) struct Policed<S> {
    inner: S,
    least: Duration,
    incoming: Incoming,
    outgoing: Frames,
    strikes: u32,
    last_ping: Option<Instant>,
    /// Highest stream the client has opened.
    last_stream: u32,
}

enum Incoming {
    /// So many bytes were the preface's.
    Preface(usize),
    Frames(Frames),
    /// HTTP/1, or no rule: nothing is looked at.
    Unwatched,
}

/// Where in its frames a direction is.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
}

impl Frames {
    /// Walks over `bytes` and tells `see` each head that is complete: kind, flags, stream.
    fn walk(&mut self, mut bytes: &[u8], mut see: impl FnMut(u8, u8, u32)) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                let head = &self.head;
                self.have = 0;
                self.left = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                see(head[3], head[4], u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]));
            }
        }
    }

    /// Whether the next byte starts a frame.
    fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

impl<S> Policed<S> {
    /// Holds the client of `inner` to `least` between pings; zero holds it to nothing.
    pub(super) fn new(inner: S, least: Duration) -> Self {
        let incoming = if least.is_zero() { Incoming::Unwatched } else { Incoming::Preface(0) };
        let outgoing = Frames::default();
        Self { inner, least, incoming, outgoing, strikes: 0, last_ping: None, last_stream: 0 }
    }

    /// Looks at what came in. False: one ping too many.
    fn received(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        if let Incoming::Preface(seen) = &mut self.incoming {
            let compared = (PREFACE.len() - *seen).min(rest.len());
            if rest[..compared] != PREFACE[*seen..*seen + compared] {
                self.incoming = Incoming::Unwatched;
                return true;
            }
            *seen += compared;
            rest = &rest[compared..];
            if *seen == PREFACE.len() {
                self.incoming = Incoming::Frames(Frames::default());
            }
        }
        let Incoming::Frames(frames) = &mut self.incoming else { return true };
        let (mut pings, mut newest) = (0, self.last_stream);
        frames.walk(rest, |kind, flags, stream| match kind {
            PING if flags & ACK == 0 => pings += 1,
            HEADERS => newest = newest.max(stream),
            _ => {}
        });
        self.last_stream = newest;
        for _ in 0..pings {
            self.ping(Instant::now());
        }
        self.strikes < STRIKES
    }

    fn ping(&mut self, now: Instant) {
        let too_soon = self.last_ping.is_some_and(|last| now.duration_since(last) < self.least);
        self.last_ping = Some(now);
        self.strikes += u32::from(too_soon);
    }

    /// Looks at what went out.
    fn sent<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>, mut written: usize) {
        if !matches!(self.incoming, Incoming::Frames(_)) {
            return;
        }
        let mut spoke = false;
        for piece in pieces {
            let part = &piece[..piece.len().min(written)];
            written -= part.len();
            self.outgoing.walk(part, |kind, _, _| spoke |= kind == DATA || kind == HEADERS);
            if written == 0 {
                break;
            }
        }
        if spoke {
            self.strikes = 0;
            self.last_ping = None;
        }
    }

    fn goaway(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEAD + 8 + REASON.len());
        frame.extend_from_slice(&[0, 0, 8 + REASON.len() as u8, GOAWAY, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(&self.last_stream.to_be_bytes());
        frame.extend_from_slice(&CALM.to_be_bytes());
        frame.extend_from_slice(REASON);
        frame
    }
}

impl<S: AsyncWrite + Unpin> Policed<S> {
    /// Says why, if the line takes it at once: whoever floods is not waited for.
    fn say_goaway(&mut self, cx: &mut Context<'_>) {
        if self.outgoing.is_between() {
            let frame = self.goaway();
            if Pin::new(&mut self.inner).poll_write(cx, &frame).is_ready() {
                let _ = Pin::new(&mut self.inner).poll_flush(cx);
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Policed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if matches!(this.incoming, Incoming::Unwatched) || this.received(&buf.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        this.say_goaway(cx);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "too_many_pings")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Policed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.sent(std::iter::once(buf), written);
        Poll::Ready(Ok(written))
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
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        self.sent(bufs.iter().map(|buf| &**buf), written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, payload.len() as u8, kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn ping() -> Vec<u8> {
        frame(PING, 0, 0, &[7; 8])
    }

    const LEAST: Duration = Duration::from_secs(5);

    /// A client's end and the watched end behind the preface and one request.
    async fn open(least: Duration) -> (tokio::io::DuplexStream, Policed<tokio::io::DuplexStream>) {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut policed = Policed::new(server, least);
        let start = [PREFACE.to_vec(), frame(HEADERS, 4, 3, b"x")].concat();
        client.write_all(&start).await.expect("sent");
        let mut read = vec![0; start.len()];
        policed.read_exact(&mut read).await.expect("read");
        assert_eq!(read, start, "nothing is changed");
        (client, policed)
    }

    async fn send(
        client: &mut tokio::io::DuplexStream,
        policed: &mut Policed<tokio::io::DuplexStream>,
    ) -> io::Result<usize> {
        client.write_all(&ping()).await.expect("sent");
        policed.read_exact(&mut [0; 17]).await
    }

    #[tokio::test]
    async fn the_third_ping_too_soon_ends_the_connection_with_a_reason() {
        let (mut client, mut policed) = open(LEAST).await;
        for _ in 0..3 {
            send(&mut client, &mut policed).await.expect("borne");
        }
        let error = send(&mut client, &mut policed).await.expect_err("one too many");
        assert_eq!(error.to_string(), "too_many_pings");
        let mut said = vec![0; HEAD + 8 + REASON.len()];
        client.read_exact(&mut said).await.expect("a reason");
        assert_eq!(said[3], GOAWAY);
        assert_eq!(said[HEAD..HEAD + 8], [0, 0, 0, 3, 0, 0, 0, 11], "the last stream and ENHANCE_YOUR_CALM");
        assert_eq!(&said[HEAD + 8..], REASON);
    }

    #[tokio::test]
    async fn pings_at_the_least_time_go_on_for_ever() {
        let least = Duration::from_millis(2);
        let (mut client, mut policed) = open(least).await;
        for _ in 0..20 {
            send(&mut client, &mut policed).await.expect("borne");
            tokio::time::sleep(least).await;
        }
    }

    #[tokio::test]
    async fn what_the_server_says_forgives_and_an_answered_ping_does_not() {
        let (mut client, mut policed) = open(LEAST).await;
        for _ in 0..20 {
            for _ in 0..3 {
                send(&mut client, &mut policed).await.expect("borne");
            }
            policed.write_all(&frame(DATA, 0, 3, b"event")).await.expect("sent");
            client.read_exact(&mut [0; HEAD + 5]).await.expect("read");
        }
        for _ in 0..3 {
            send(&mut client, &mut policed).await.expect("borne");
            policed.write_all(&frame(PING, ACK, 0, &[7; 8])).await.expect("sent");
        }
        send(&mut client, &mut policed).await.expect_err("the answers to pings forgive nothing");
    }

    #[tokio::test]
    async fn zero_holds_to_nothing_and_http1_is_not_looked_at() {
        let (mut client, mut policed) = open(Duration::ZERO).await;
        for _ in 0..50 {
            send(&mut client, &mut policed).await.expect("borne");
        }
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut policed = Policed::new(server, LEAST);
        let text = [b"GET / HTTP/1.1\r\n\r\n".to_vec(), ping().repeat(50)].concat();
        client.write_all(&text).await.expect("sent");
        policed.read_exact(&mut vec![0; text.len()]).await.expect("passed on");
    }

    #[tokio::test]
    async fn frames_are_followed_however_they_are_cut() {
        for step in [1, 2, 5, 9, 16] {
            let (mut client, server) = tokio::io::duplex(4096);
            let mut policed = Policed::new(server, LEAST);
            let data = frame(DATA, 0, 1, &ping());
            let bytes = [PREFACE.to_vec(), data.repeat(20), ping(), frame(PING, ACK, 0, &[0; 8]).repeat(9)].concat();
            for piece in bytes.chunks(step) {
                client.write_all(piece).await.expect("sent");
                policed.read_exact(&mut vec![0; piece.len()]).await.expect("a ping within data is data");
            }
            assert_eq!(policed.strikes, 0);
        }
    }
}
