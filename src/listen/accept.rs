//! The accept loop.

use std::io;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::TaskTracker;
use tower::Service;

use super::bind::{Bound, Socketed};
use super::connection::{self, BoxError};
use super::{Options, Shutdown};

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

/// Accepts connections and hands their requests to clones of `service`, each request carrying a
/// [`super::Caller`] among its extensions, until `shutdown`; returns when the last connection ended.
/// Runs on any tokio runtime, a current-thread one included.
pub async fn serve<S, B>(bound: Bound, options: Options, service: S, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    announce(&bound, &options);
    let connections = TaskTracker::new();
    let mut failures = 0;
    let (plain, tls) = (bound.plain, bound.tls);
    loop {
        // A permit first: callers beyond the limit wait in the kernel's queue, not in our memory.
        let next = async {
            let permit = options.connections.clone().acquire_owned().await.ok();
            (permit, accept(&bound).await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = shutdown.drain.cancelled() => break,
        };
        match accepted {
            Ok(incomer) => {
                let connection =
                    connection::handle(incomer, plain, tls, options.clone(), service.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                failures += 1;
                pause_after(&error, failures, &bound).await;
            }
        }
    }
    drop(bound);
    connections.close();
    connections.wait().await;
}

async fn accept(bound: &Bound) -> io::Result<Incomer> {
    match &bound.socket {
        Socketed::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            // These fail only on a connection that is gone already, which the first read finds out.
            drop(stream.set_nodelay(true));
            let keepalive = socket2::TcpKeepalive::new().with_time(TCP_KEEPALIVE);
            drop(socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive));
            Ok(Incomer::Tcp(stream))
        }
        Socketed::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Incomer::Unix(stream)),
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
