//! A connection that is counted until it is let in, and then moves to the runtime that serves it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::pool::Place;

/// Most bytes that are read of a connection before it is let in: TLS with a client's chain of certificates, then a request
/// head of 64 KiB, with room for both.
pub const MOST_BEFORE_ADMISSION: usize = 256 << 10;

/// Bytes that a TLS session costs while it is being set up, its buffers and its first flight included.
const TLS_SESSION: usize = 14 << 10;

/// A stream of the system that can be registered with another runtime.
pub trait Movable: AsyncRead + AsyncWrite + Unpin + Sized {
    /// The same stream, registered with the runtime that this is called in.
    ///
    /// # Errors
    /// The system refuses to register it.
    fn moved_here(self) -> io::Result<Self>;
}

impl Movable for TcpStream {
    fn moved_here(self) -> io::Result<Self> {
        Self::from_std(self.into_std()?)
    }
}

impl Movable for UnixStream {
    fn moved_here(self) -> io::Result<Self> {
        Self::from_std(self.into_std()?)
    }
}

/// What a connection holds of its pool while it waits to be let in.
#[derive(Debug)]
pub struct Waiting {
    admitted: AtomicBool,
    count: Mutex<Count>,
}

#[derive(Debug)]
struct Count {
    /// Gone once the connection is let in.
    place: Option<Place>,
    read: usize,
    session: usize,
}

impl Waiting {
    /// For a connection that entered its pool.
    pub fn new(place: Place) -> Arc<Self> {
        let count = Mutex::new(Count { place: Some(place), read: 0, session: 0 });
        Arc::new(Self { admitted: AtomicBool::new(false), count })
    }

    /// A TLS session is being set up.
    pub fn has_session(&self) {
        let mut count = self.count.lock();
        count.session = TLS_SESSION;
        count.hold();
    }

    /// Leaves the pool. The next look at the connection registers it with the runtime that looks.
    pub fn admit(&self) {
        self.count.lock().place = None;
        self.admitted.store(true, Release);
    }

    fn read(&self, bytes: usize) -> io::Result<()> {
        let mut count = self.count.lock();
        count.read += bytes;
        if count.read > MOST_BEFORE_ADMISSION {
            let why = format!("more than {} KiB before a request", MOST_BEFORE_ADMISSION >> 10);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        count.hold();
        Ok(())
    }
}

impl Count {
    fn hold(&self) {
        if let Some(place) = &self.place {
            place.hold(self.session + self.read);
        }
    }
}

/// See the head of the file.
#[derive(Debug)]
pub struct Socket<T> {
    /// `None` only if the move failed; the connection is over then.
    stream: Option<T>,
    /// `None` once it has moved.
    waiting: Option<Arc<Waiting>>,
}

impl<T: Movable> Socket<T> {
    /// A fresh connection; `waiting` lets it in.
    pub fn new(stream: T, waiting: Arc<Waiting>) -> Self {
        Self { stream: Some(stream), waiting: Some(waiting) }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut T>> {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.admitted.load(Acquire)) {
            self.waiting = None;
            self.stream = self.stream.take().map(T::moved_here).transpose()?;
        }
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T: Movable> AsyncRead for Socket<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.stream()?.poll_read(cx, buf))?;
        Poll::Ready(match &self.waiting {
            Some(waiting) => waiting.read(buf.filled().len() - before),
            None => Ok(()),
        })
    }
}

impl<T: Movable> AsyncWrite for Socket<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::pool::{Limits, Pool, Source};
    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
        (client, listener.accept().await.expect("accept").0)
    }

    #[tokio::test]
    async fn what_is_read_before_admission_is_held_and_bounded() {
        let pool = Pool::new(Limits { connections: 1, bytes: 1 << 20, each: 100, leaving: 1 });
        let (mut client, server) = pair().await;
        let waiting = Waiting::new(pool.enter(Source::Local).expect("room"));
        let mut socket = Socket::new(server, waiting.clone());
        client.write_all(b"hello").await.expect("sent");
        socket.read_exact(&mut [0; 5]).await.expect("read");
        assert_eq!(pool.bytes(), 105);
        waiting.has_session();
        assert_eq!(pool.bytes(), 105 + TLS_SESSION);
        let flood = tokio::spawn(async move { client.write_all(&vec![0; 2 * MOST_BEFORE_ADMISSION]).await });
        let error = socket.read_to_end(&mut Vec::new()).await.expect_err("too much");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        waiting.admit();
        assert_eq!((pool.bytes(), pool.len()), (0, 0));
        drop(socket);
        drop(flood.await);
    }

    /// What is awaited in the second runtime would hang if the socket stayed with the first, which nobody runs any more.
    #[test]
    fn a_connection_that_is_let_in_moves_to_the_runtime_that_serves_it() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (first, second) = (runtime(), runtime());
        let pool = Pool::new(Limits { connections: 1, bytes: 1 << 20, each: 1, leaving: 1 });
        let (client, mut socket, waiting) = first.block_on(async {
            let (mut client, server) = pair().await;
            let waiting = Waiting::new(pool.enter(Source::Local).expect("room"));
            let mut socket = Socket::new(server, waiting.clone());
            client.write_all(b"a").await.expect("sent");
            assert_eq!(socket.read_u8().await.expect("read"), b'a');
            (client.into_std().expect("a socket"), socket, waiting)
        });
        waiting.admit();
        second.block_on(async {
            let mut client = TcpStream::from_std(client).expect("registered");
            let answer = tokio::spawn(async move {
                let byte = socket.read_u8().await.expect("read");
                socket.write_all(&[byte, byte]).await.expect("sent");
            });
            tokio::task::yield_now().await;
            client.write_all(b"b").await.expect("sent");
            let mut both = [0; 2];
            client.read_exact(&mut both).await.expect("read");
            assert_eq!(&both, b"bb");
            answer.await.expect("done");
        });
        drop(first);
    }
}
