//! Connections between members whose bytes are counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::peers::Traffic;
use super::stream::Stream;

/// A connection to one member.
struct Counted {
    inner: Stream,
    traffic: Arc<Traffic>,
}

/// The same connection, its bytes counted from now on.
pub fn counted(inner: Stream, traffic: Arc<Traffic>) -> Stream {
    Box::new(Counted { inner, traffic })
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        self.traffic.received_bytes.fetch_add(read as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.traffic.sent_bytes.fetch_add(wrote as u64, Relaxed);
        Poll::Ready(Ok(wrote))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn both_directions_are_counted() {
        let (here, mut there) = tokio::io::duplex(64);
        let traffic = Arc::new(Traffic::default());
        let mut stream = counted(Box::new(here), traffic.clone());
        stream.write_all(b"hello").await.expect("room");
        there.write_all(b"you").await.expect("room");
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).await.expect("three bytes");
        assert_eq!((traffic.sent_bytes.load(Relaxed), traffic.received_bytes.load(Relaxed)), (5, 3));
    }
}
