//! The listeners: from a URL to HTTP requests handed to a service.
//!
//! [`bind`] opens sockets, [`serve`] accepts on one of them until told to stop. What holds true: no
//! error of one connection, and no lack of descriptors, ends the accept loop; a caller who says
//! nothing is cut off (TLS handshake after [`HANDSHAKE_TIMEOUT`], first request after
//! [`FIRST_BYTES_TIMEOUT`]); nobody's bytes reach the runtime that serves before they are the whole beginning of a request
//! (`connection`). How many may wait and how many are served at once is the business of [`crate::admission`]. gRPC and
//! plain HTTP share the port; the service tells them apart by content type.

mod accept;
mod account;
mod authority;
mod bind;
mod connection;
mod pings;
mod together;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, Port};
use crate::settings::Settings;
use crate::tls::{PeerIdentity, ServerTls};
use crate::work::Source;

pub use accept::serve;
pub use bind::{Bound, ListenError, bind};

/// A TLS handshake that takes longer is cut off.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that has not sent the head of a request, or HTTP/2's preface and settings, by then is cut off.
pub const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(60);

/// HTTP/1: longest wait for a request's head, the idle time between two requests included.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(300);

/// How every HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is common to the connections of one or several listeners. Cheap to clone.
#[derive(Clone)]
pub struct Options {
    /// `client` or `metrics`: the word in the log.
    pub purpose: &'static str,
    /// TLS of those URLs that ask for it.
    pub tls: Option<ServerTls>,
    /// Most streams of an HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// Time between our pings on an HTTP/2 connection; `None` sends none.
    pub keepalive_interval: Option<Duration>,
    /// Wait for a ping's answer.
    pub keepalive_timeout: Duration,
    /// Least time between a client's pings; zero asks for none. See `pings`.
    pub ping_min_time: Duration,
    /// Compare a caller's address with its certificate (peers).
    pub verify_source: bool,
    handshake_timeout: Duration,
    first_bytes_timeout: Duration,
    admission: Arc<Admission>,
    port: Port,
}

impl Options {
    /// Options of the client listeners.
    pub fn for_clients(settings: &Settings, tls: Option<ServerTls>, admission: &Arc<Admission>) -> Options {
        Self::new("client", settings, tls, admission, admission.shares.clients.clone())
    }

    /// Options of the metrics listeners.
    pub fn for_metrics(settings: &Settings, tls: Option<ServerTls>, admission: &Arc<Admission>) -> Options {
        Self::new("metrics", settings, tls, admission, admission.shares.metrics.clone())
    }

    fn new(
        purpose: &'static str,
        settings: &Settings,
        tls: Option<ServerTls>,
        admission: &Arc<Admission>,
        port: Port,
    ) -> Options {
        /// Stands for "wait without end" where a ping's answer has no deadline.
        const NO_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
        Options {
            purpose,
            tls,
            max_concurrent_streams: settings.limits.max_concurrent_streams,
            keepalive_interval: settings.keepalive.interval,
            keepalive_timeout: settings.keepalive.timeout.unwrap_or(NO_TIMEOUT),
            ping_min_time: settings.keepalive.min_time,
            verify_source: false,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            first_bytes_timeout: FIRST_BYTES_TIMEOUT,
            admission: admission.clone(),
            port,
        }
    }
}

/// Who is on the other end; an extension of every request.
#[derive(Debug, Clone)]
pub struct Caller(Arc<CallerInfo>);

#[derive(Debug)]
#[allow(dead_code, reason = "see `Caller`")]
struct CallerInfo {
    address: Option<SocketAddr>,
    tls: bool,
    identity: Option<PeerIdentity>,
}

#[allow(dead_code, reason = "who calls, and under which name, is for authentication by certificate")]
impl Caller {
    /// The holder of a certificate with this common name, for tests.
    #[cfg(test)]
    pub fn with_common_name(name: &str) -> Caller {
        let identity = PeerIdentity {
            common_name: Some(name.to_owned()),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            serial: Vec::new(),
            not_before: Duration::ZERO,
            not_after: Duration::MAX,
        };
        Caller(Arc::new(CallerInfo { address: None, tls: true, identity: Some(identity) }))
    }

    /// Its connection, for taking turns. A later connection may get the number of one that is gone.
    pub fn source(&self) -> Source {
        Source::connection(Arc::as_ptr(&self.0).addr(), crate::admission::Source::of(self.ip()))
    }

    /// Its address; `None` on a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// Its IP address; `None` on a unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.address.map(|address| address.ip())
    }

    /// Whether the connection is under TLS.
    pub fn is_tls(&self) -> bool {
        self.0.tls
    }

    /// The names in its verified certificate; `None` when no certificate was asked for.
    pub fn identity(&self) -> Option<&PeerIdentity> {
        self.0.identity.as_ref()
    }

    /// Common name of its verified certificate.
    pub fn common_name(&self) -> Option<&str> {
        self.0.identity.as_ref()?.common_name.as_deref()
    }
}

/// Ends listeners in two steps. Clones act as one.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    cut: CancellationToken,
}

impl Shutdown {
    /// Nothing is stopped yet.
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Accept no more; connections end when their open requests are answered.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Returns when no more are accepted.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// End what is still open.
    pub fn cut(&self) {
        self.drain.cancel();
        self.cut.cancel();
    }
}

#[cfg(test)]
mod tests;
