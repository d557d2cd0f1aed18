//! One connection from its first byte to its end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use super::accept::Incomer;
use super::account::{self, Account};
use super::authority::Relaxed;
use super::pings::Policed;
use super::together::Together;
use super::wire::{MAX_HEAD, Stream, Wire};
use super::{Caller, CallerInfo, HEADER_READ_TIMEOUT, Options, Shutdown};
use crate::admission::{Answering, Place, Socket, Source, Waiting};
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

/// How long a connection that must make room may take to finish what it is at.
const EVICTED_GRACE: Duration = Duration::from_millis(50);

/// What the connections of a listener have in common.
#[derive(Clone)]
pub struct Gate<S> {
    pub plain: bool,
    pub tls: bool,
    pub options: Options,
    pub service: S,
    pub shutdown: Shutdown,
    pub connections: TaskTracker,
    /// The runtime that serves.
    pub serving: Handle,
}

/// Waits with one connection until it may be let in, and hands it over; every error ends here.
pub async fn admit<S, B>(incomer: Incomer, place: Place, gate: Gate<S>)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (address, evicted) = (incomer.address(), place.evicted());
    let waiting = Waiting::new(place);
    let seated = tokio::select! {
        seated = sit_down(incomer, (gate.plain, gate.tls), address, &waiting, &gate.options) => seated,
        () = evicted.cancelled() => Err(Refusal::Gone("its place was needed for a newcomer".to_owned())),
        () = gate.shutdown.drain.cancelled() => return,
    };
    match seated {
        Ok(((wire, caller), seat)) => {
            waiting.admit();
            let serving = gate.serving.clone();
            let exchanging = exchange(wire, caller, seat, gate.options, gate.service, gate.shutdown);
            gate.connections.spawn_on(exchanging, &serving);
        }
        Err(refusal) => log_refusal(&refusal, address, gate.options.purpose),
    }
}

/// Waits for the first request and then for a seat.
async fn sit_down(
    incomer: Incomer,
    speaks: (bool, bool),
    address: Option<SocketAddr>,
    waiting: &Arc<Waiting>,
    options: &Options,
) -> Result<((Wire, Caller), Place), Refusal> {
    let opened = open(incomer, speaks, address, waiting, options).await?;
    let seat = options.port.seats.enter_soon(Source::of(address.map(|address| address.ip()))).await;
    let full = || Refusal::Rejected("too many connections, and every one is in use; raise LimitNOFILE".to_owned());
    Ok((opened, seat.ok_or_else(full)?))
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

/// Sniffs, shakes hands, finds out who calls, and waits for the first request.
async fn open(
    incomer: Incomer,
    (plain, tls): (bool, bool),
    address: Option<SocketAddr>,
    waiting: &Arc<Waiting>,
    options: &Options,
) -> Result<(Wire, Caller), Refusal> {
    let caller = |tls, identity| Caller(Arc::new(CallerInfo { address, tls, identity }));
    let (stream, caller) = match incomer {
        Incomer::Tcp(stream) if tls => {
            let patience = if plain { options.first_bytes_timeout } else { options.handshake_timeout };
            let speaks_tls = starts_tls(&stream, patience).await?;
            let socket = Socket::new(stream, waiting.clone());
            if plain && !speaks_tls {
                (Stream::Tcp(socket), caller(false, None))
            } else {
                let (stream, identity) = shake_hands(socket, address, waiting, options).await?;
                check_source(identity.as_ref(), address, options).await?;
                (Stream::TcpTls(Box::new(stream)), caller(true, identity))
            }
        }
        Incomer::Tcp(stream) => (Stream::Tcp(Socket::new(stream, waiting.clone())), caller(false, None)),
        Incomer::Unix(stream) if tls => {
            let socket = Socket::new(stream, waiting.clone());
            let (stream, identity) = shake_hands(socket, address, waiting, options).await?;
            (Stream::UnixTls(Box::new(stream)), caller(true, identity))
        }
        Incomer::Unix(stream) => (Stream::Unix(Socket::new(stream, waiting.clone())), caller(false, None)),
    };
    match timeout(options.first_bytes_timeout, Wire::begin(stream)).await {
        Err(_) => Err(Refusal::Gone("no request within the time for the first".to_owned())),
        Ok(Err(error)) => Err(Refusal::of(&error)),
        Ok(Ok(wire)) => Ok((wire, caller)),
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

async fn shake_hands<I>(
    socket: I,
    address: Option<SocketAddr>,
    waiting: &Waiting,
    options: &Options,
) -> Result<(TlsStream<I>, Option<PeerIdentity>), Refusal>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let Some(tls) = &options.tls else {
        return Err(Refusal::Rejected("no certificate is loaded for this listener".to_owned()));
    };
    let source = Source::of(address.map(|address| address.ip()));
    let turn = async {
        waiting.has_session();
        options.admission.handshakes.turn(source).await
    };
    match timeout(options.handshake_timeout, tls.accept(socket, turn)).await {
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

/// An answer's body, which keeps its connection's seat while it is sent.
struct Seated<B> {
    body: B,
    _answering: Answering,
    _open: account::Request,
}

impl<B: http_body::Body + Unpin> http_body::Body for Seated<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Requests and answers until the caller leaves or we do, or the seat is needed for another.
async fn exchange<S, B>(wire: Wire, caller: Caller, seat: Place, options: Options, service: S, shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let builder = builder(&options);
    let address = caller.address();
    let (evicted, seat) = (seat.evicted(), Arc::new(seat));
    let leaver = seat.clone();
    let account = Account::new(seat.clone());
    let wire = Relaxed::new(wire.counted(account.clone()), Some(account.clone()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        // From here on, and not from the answer's head: a lock, a campaign, a put without a quorum may wait long for that.
        let (answering, open) = (seat.answering(), account.request());
        let answer = service.clone().oneshot(request);
        async move {
            let answer = answer.await?;
            Ok::<_, S::Error>(answer.map(|body| Seated { body, _answering: answering, _open: open }))
        }
    });
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
        () = evicted.cancelled() => {
            tracing::debug!(remote_addr = ?address, "a connection made room for another");
            connection.as_mut().graceful_shutdown();
            // Without grace it is still polled once, which sends GOAWAY.
            let grace = if leaver.is_crowded() { Duration::ZERO } else { EVICTED_GRACE };
            timeout(grace, connection.as_mut()).await.unwrap_or(Ok(()))
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
        .max_buf_size(MAX_HEAD)
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
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}
