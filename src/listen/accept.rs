//! The accept loop, which runs on the thread of [`crate::admission`].

use std::io;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tower::Service;

use super::bind::{Bound, Socketed};
use super::connection::{self, BoxError, Gate};
use super::{Options, Shutdown};
use crate::admission::{Place, Source};

/// Pause after an accept that failed for lack of descriptors or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Pause after any other failed accept, so that a failing socket cannot spin.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// Failed accepts between two log lines about them.
const LOG_EVERY: u64 = 100;

/// Idle time after which the kernel probes a silent connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// What came in.
pub(super) enum Incomer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Incomer {
    pub(super) fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }
}

/// Accepts connections and hands their requests to clones of `service`, each request carrying a
/// [`super::Caller`] among its extensions, until `shutdown`; returns when the last connection ended.
/// Callers wait on the thread of `options.admission`; requests are served on the runtime that this is called in, which
/// may be a current-thread one.
pub async fn serve<S, B>(bound: Bound, options: Options, service: S, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    announce(&bound, &options);
    let (connections, address) = (TaskTracker::new(), bound.address());
    let admission = options.admission.clone();
    let gate = Gate {
        plain: bound.plain,
        tls: bound.tls,
        options,
        service,
        shutdown,
        connections: connections.clone(),
        serving: Handle::current(),
    };
    let accepting = AbortOnDropHandle::new(admission.spawn(accept_all(bound, gate)));
    if let Err(error) = accepting.await {
        tracing::error!(address, error = error.to_string(), "no more connections are accepted");
    }
    connections.close();
    connections.wait().await;
}

async fn accept_all<S, B>(bound: Bound, gate: Gate<S>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let listener = match Listener::of(&bound) {
        Ok(listener) => listener,
        Err(error) => {
            let error = error.to_string();
            tracing::error!(address = bound.address(), error, "the socket cannot be watched; nobody is served on it");
            return;
        }
    };
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gate.shutdown.drain.cancelled() => return,
        };
        match accepted {
            Ok(incomer) => {
                let place = place(&incomer, &gate.options).await;
                gate.connections.spawn(connection::admit(incomer, place, gate.clone()));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                failures += 1;
                pause_after(&error, failures, &bound).await;
            }
        }
    }
}

/// A place among those who wait. Those who must go for it are given the time to go: their descriptors count.
async fn place(incomer: &Incomer, options: &Options) -> Place {
    let source = Source::of(incomer.address().map(|address| address.ip()));
    let waiting = &options.port.waiting;
    loop {
        while waiting.is_crowded() {
            tokio::task::yield_now().await;
        }
        // Nobody who waits is answering a request, so there is always one who can go.
        if let Some(place) = waiting.enter(source) {
            return place;
        }
    }
}

/// A socket of a [`Bound`], registered with the runtime that accepts.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn of(bound: &Bound) -> io::Result<Self> {
        match &bound.socket {
            Socketed::Tcp(listener) => TcpListener::from_std(listener.try_clone()?).map(Self::Tcp),
            Socketed::Unix(listener, _) => UnixListener::from_std(listener.try_clone()?).map(Self::Unix),
        }
    }

    async fn accept(&self) -> io::Result<Incomer> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // These fail only on a connection that is gone already, which the first read finds out.
                drop(stream.set_nodelay(true));
                let keepalive = socket2::TcpKeepalive::new().with_time(TCP_KEEPALIVE);
                drop(socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive));
                Ok(Incomer::Tcp(stream))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Incomer::Unix(stream)),
        }
    }
}

/// Every accept error passes: the caller went away, or descriptors come back when others leave.
async fn pause_after(error: &io::Error, failures: u64, bound: &Bound) {
    let shortage = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    let short = error.raw_os_error().is_some_and(|code| shortage.contains(&code));
    if failures % LOG_EVERY == 1 {
        let error = error.to_string();
        tracing::warn!(address = bound.address(), error, failures, "failed to accept a connection; going on");
    }
    tokio::time::sleep(if short { SHORTAGE_PAUSE } else { ERROR_PAUSE }).await;
}

fn announce(bound: &Bound, options: &Options) {
    let (purpose, address) = (options.purpose, bound.address());
    let secure = if bound.tls && options.tls.is_some() { "securely" } else { "insecurely" };
    tracing::info!(traffic = "grpc+http", address, "serving {purpose} traffic {secure}");
}
