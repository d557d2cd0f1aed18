//! One connection from its first byte to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tower::{Service, ServiceExt};

use super::accept::Incomer;
use super::authority::Relaxed;
use super::pings::Policed;
use super::together::Together;
use super::wire::{TimedWire, Wire};
use super::{Caller, CallerInfo, HEADER_READ_TIMEOUT, Options, Shutdown};
use crate::tls::{self, PeerIdentity};

/// Any error a service or body may have.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// First byte of a TLS record that opens a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Flow-control window of one HTTP/2 stream: fixed, because the adaptive one starts small and costs
/// pings.
const STREAM_WINDOW: u32 = 1 << 20;

/// Flow-control window of an HTTP/2 connection.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Largest HTTP/2 frame we take.
const MAX_FRAME: u32 = 64 << 10;

/// Answer bytes buffered per HTTP/2 stream.
const SEND_BUFFER: usize = 1 << 20;

/// Largest request head, HTTP/1 or HTTP/2.
const MAX_HEAD: u32 = 64 << 10;

/// Serves one connection; every error ends here.
pub async fn handle<S, B>(incomer: Incomer, plain: bool, tls: bool, options: Options, service: S, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let address = match &incomer {
        Incomer::Tcp(stream) => stream.peer_addr().ok(),
        Incomer::Unix(_) => None,
    };
    let opened = tokio::select! {
        opened = open(incomer, plain, tls, address, &options) => opened,
        () = shutdown.drain.cancelled() => return,
    };
    match opened {
        Ok((wire, caller)) => exchange(wire, caller, &options, service, &shutdown).await,
        Err(refusal) => log_refusal(&refusal, address, options.purpose),
    }
}

/// Why a connection ended before its first request.
enum Refusal {
    /// The caller went away or stayed silent.
    Gone(String),
    /// It showed itself and was not let in.
    Rejected(String),
}

impl Refusal {
    fn of(error: &io::Error) -> Refusal {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Refusal::Gone(error.to_string()),
            _ => Refusal::Rejected(tls::reason_of(error)),
        }
    }
}

fn log_refusal(refusal: &Refusal, address: Option<SocketAddr>, purpose: &str) {
    let remote_addr = address.map_or_else(|| "unix".to_owned(), |address| address.to_string());
    match refusal {
        Refusal::Gone(error) => tracing::debug!(remote_addr, error, "rejected connection on {purpose} endpoint"),
        Refusal::Rejected(error) => tracing::warn!(remote_addr, error, "rejected connection on {purpose} endpoint"),
    }
}

/// Sniffs, shakes hands, and finds out who calls.
async fn open(
    incomer: Incomer,
    plain: bool,
    tls: bool,
    address: Option<SocketAddr>,
    options: &Options,
) -> Result<(Wire, Caller), Refusal> {
    let caller = |tls, identity| Caller(Arc::new(CallerInfo { address, tls, identity }));
    match incomer {
        Incomer::Tcp(stream) => {
            if !tls {
                return Ok((Wire::Tcp(stream), caller(false, None)));
            }
            let patience = if plain { options.first_bytes_timeout } else { options.handshake_timeout };
            // Waiting for the first byte costs nothing; only then a place among the handshakes is
            // taken, so silent callers cannot fill them.
            let speaks_tls = starts_tls(&stream, patience).await?;
            if plain && !speaks_tls {
                return Ok((Wire::Tcp(stream), caller(false, None)));
            }
            let (stream, identity) = shake_hands(stream, options).await?;
            check_source(identity.as_ref(), address, options).await?;
            Ok((Wire::TcpTls(Box::new(stream)), caller(true, identity)))
        }
        Incomer::Unix(stream) if tls => {
            let (stream, identity) = shake_hands(stream, options).await?;
            Ok((Wire::UnixTls(Box::new(stream)), caller(true, identity)))
        }
        Incomer::Unix(stream) => Ok((Wire::Unix(stream), caller(false, None))),
    }
}

/// Whether the first byte opens a TLS handshake.
async fn starts_tls(stream: &TcpStream, patience: Duration) -> Result<bool, Refusal> {
    let mut first = [0];
    match timeout(patience, stream.peek(&mut first)).await {
        Err(_) => Err(Refusal::Gone("no byte within the time for a handshake".to_owned())),
        Ok(Err(error)) => Err(Refusal::of(&error)),
        Ok(Ok(0)) => Err(Refusal::Gone("EOF".to_owned())),
        Ok(Ok(_)) => Ok(first[0] == TLS_HANDSHAKE),
    }
}

async fn shake_hands<I>(stream: I, options: &Options) -> Result<(TlsStream<I>, Option<PeerIdentity>), Refusal>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let Some(tls) = &options.tls else {
        return Err(Refusal::Rejected("no certificate is loaded for this listener".to_owned()));
    };
    let handshake = async {
        let _place = options.handshakes.acquire().await;
        tls.acceptor().accept(stream).await
    };
    match timeout(options.handshake_timeout, handshake).await {
        Err(_) => Err(Refusal::Gone("TLS handshake timeout".to_owned())),
        Ok(Err(error)) => Err(Refusal::of(&error)),
        Ok(Ok(stream)) => {
            let identity = tls.caller(stream.get_ref().1).map_err(|why| Refusal::Rejected(why.to_owned()))?;
            Ok((stream, identity))
        }
    }
}

/// Peers must call from an address that their certificate names, directly or through DNS.
async fn check_source(
    identity: Option<&PeerIdentity>,
    address: Option<SocketAddr>,
    options: &Options,
) -> Result<(), Refusal> {
    let (Some(identity), Some(address), true) = (identity, address, options.verify_source) else { return Ok(()) };
    identity.comes_from(address.ip()).await.map_err(Refusal::Rejected)
}

/// Requests and answers until the caller leaves or we do.
async fn exchange<S, B>(wire: Wire, caller: Caller, options: &Options, service: S, shutdown: &Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let builder = builder(options);
    let address = caller.address();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        service.clone().oneshot(request)
    });
    let wire = Relaxed::new(TimedWire::new(wire, options.first_bytes_timeout));
    let io = TokioIo::new(Together::new(Policed::new(wire, options.ping_min_time)));
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cut.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(remote_addr = ?address, error = error.to_string(), "connection ended with an error");
    }
}

fn builder(options: &Options) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(MAX_HEAD as usize)
        .half_close(false)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_concurrent_streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}
