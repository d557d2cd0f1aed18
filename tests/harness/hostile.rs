//! Callers that mean no good: each opens a connection, says what its kind says, holds on, and comes again as soon as it is
//! let go.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;

use super::frames::{HEADERS, PREFACE, SETTINGS, call, frame};

/// What a hostile caller does before it holds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Silent,
    /// The first byte of what the port expects.
    OneByte,
    /// The first half of a ClientHello.
    HalfHello,
    /// A whole ClientHello, which makes the other side compute a signature.
    WholeHello,
    /// Text to a port for TLS, noise to others.
    WrongProtocol,
    /// A TLS session, without the certificate that the peer port asks for.
    IdleSession,
    /// Half of HTTP/2's preface.
    HalfPreface,
    /// The preface, and not the settings that belong behind it.
    PrefaceAlone,
    /// Preface and settings; the other side's are never acknowledged and no request comes.
    IdleHttp2,
    /// A header block that does not end.
    OpenHeaders,
    /// The head of an HTTP/1 request without its end.
    HalfHead,
    /// A request whose body stops after some bytes.
    SlowBody,
    /// One whole request, then nothing.
    UsedThenIdle,
}

use Kind::{
    HalfHead, HalfHello, HalfPreface, IdleHttp2, IdleSession, OneByte, OpenHeaders, PrefaceAlone, Silent, SlowBody,
    UsedThenIdle, WholeHello, WrongProtocol,
};

/// The ports of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Clients, `http`.
    Client,
    /// Clients, `https` without client certificates.
    ClientTls,
    /// Members, `https` with certificates.
    PeerTls,
    /// Metrics and health, `http`.
    Metrics,
}

impl Port {
    pub const ALL: [Self; 4] = [Self::Client, Self::ClientTls, Self::PeerTls, Self::Metrics];

    pub fn is_tls(self) -> bool {
        matches!(self, Self::ClientTls | Self::PeerTls)
    }

    /// The kinds that differ on this port.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Client => &[
                Silent,
                OneByte,
                WrongProtocol,
                HalfPreface,
                PrefaceAlone,
                IdleHttp2,
                OpenHeaders,
                HalfHead,
                SlowBody,
                UsedThenIdle,
            ],
            Self::ClientTls => &[
                Silent,
                OneByte,
                HalfHello,
                WholeHello,
                WrongProtocol,
                IdleSession,
                HalfPreface,
                IdleHttp2,
                HalfHead,
                UsedThenIdle,
            ],
            Self::PeerTls => &[Silent, OneByte, HalfHello, WholeHello, WrongProtocol, IdleSession],
            Self::Metrics => &[Silent, OneByte, WrongProtocol, HalfPreface, IdleHttp2, HalfHead, UsedThenIdle],
        }
    }
}

/// Who is attacked.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub port: Port,
    /// How a session is made on a TLS port.
    pub tls: Arc<ClientConfig>,
}

/// Where the callers come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The network namespace, as a file; `None` is the test's own.
    pub namespace: Option<std::path::PathBuf>,
    /// The first address.
    pub first: Ipv4Addr,
    /// How many addresses, one after another.
    pub count: u32,
}

/// Running callers; dropping it lets go of them.
pub struct Flood {
    pub held: Arc<AtomicUsize>,
    pub opened: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// `count` callers that hold on at the same time. They come within a second or two; whoever is let go comes again, all
    /// together at most `pace` times a second.
    pub fn start(kind: Kind, target: Target, sources: Sources, count: usize, pace: usize) -> Self {
        let (held, opened, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let caller =
            Caller { kind, target, held: held.clone(), opened: opened.clone(), permits: Arc::new(Semaphore::new(0)) };
        let stopping: Arc<AtomicBool> = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // They stand for other machines: this one's time belongs to the member and its good clients.
            let _ = Command::new("renice").args(["-n", "19", "-p", &nix::unistd::gettid().to_string()]).output();
            inside(sources.namespace.as_deref(), async {
                for n in 0..count {
                    let from = u32::from(sources.first) + n as u32 % sources.count;
                    tokio::spawn(caller.clone().again_and_again(Ipv4Addr::from(from)));
                }
                let mut tick = interval(TICK);
                while !stopping.load(Relaxed) {
                    tick.tick().await;
                    let now = if caller.opened.load(Relaxed) < count { RAMP } else { pace };
                    let each = (now * TICK.as_millis() as usize).div_ceil(1000);
                    if caller.permits.available_permits() < 4 * each {
                        caller.permits.add_permits(each);
                    }
                }
            });
        });
        Self { held, opened, stop, thread: Some(thread) }
    }
}

/// Runs `work` on a runtime of its own on this thread, whose sockets are made in a network namespace from then on.
pub fn inside<T>(namespace: Option<&Path>, work: impl Future<Output = T>) -> T {
    if let Some(namespace) = namespace {
        let namespace = File::open(namespace).expect("the network namespace");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the hostile callers failed");
        }
    }
}

/// Connections a second until all callers have come once.
const RAMP: usize = 4000;
const TICK: Duration = Duration::from_millis(10);
/// A connection that is not accepted by then is tried again.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Caller {
    kind: Kind,
    target: Target,
    held: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
}

impl Caller {
    async fn again_and_again(self, from: Ipv4Addr) {
        loop {
            let Ok(permit) = self.permits.acquire().await else { return };
            permit.forget();
            let Some(stream) = self.connect(from).await else { continue };
            self.opened.fetch_add(1, Relaxed);
            // What the other side thinks of it is not this side's business.
            let _ = self.hold(stream).await;
        }
    }

    async fn connect(&self, from: Ipv4Addr) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_reuseaddr(true).ok()?;
        socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).ok()?;
        timeout(CONNECT_LIMIT, socket.connect(self.target.address)).await.ok()?.ok()
    }

    async fn hold(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let tls = self.target.port.is_tls();
        let plain_bytes = match self.kind {
            Silent => Some(Vec::new()),
            OneByte => Some(if tls { vec![0x16] } else { b"G".to_vec() }),
            HalfHello => Some(self.hello().split_at(100).0.to_vec()),
            WholeHello => Some(self.hello()),
            WrongProtocol if tls => Some(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
            WrongProtocol => Some(vec![0xff; 64]),
            _ => None,
        };
        if let Some(bytes) = plain_bytes {
            stream.write_all(&bytes).await?;
            return self.wait(stream).await;
        }
        if !tls {
            return self.speak(stream).await;
        }
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(self.target.tls.clone()).connect(name, stream).await?;
        self.speak(stream).await
    }

    async fn speak(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let bytes = match self.kind {
            HalfPreface => PREFACE[..12].to_vec(),
            PrefaceAlone => PREFACE.to_vec(),
            IdleHttp2 => [PREFACE, &settings].concat(),
            OpenHeaders => [PREFACE, &settings, &frame(HEADERS, 0, 1, &call("/etcdserverpb.KV/Range"))].concat(),
            HalfHead => b"GET /version HTTP/1.1\r\nHost: x\r\nX-More: to come".to_vec(),
            SlowBody => b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{\"key\":".to_vec(),
            UsedThenIdle => b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            _ => Vec::new(),
        };
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        self.wait(stream).await
    }

    /// Holds on until the other side lets go, whatever it says until then.
    async fn wait(&self, mut stream: impl AsyncRead + Unpin) -> std::io::Result<()> {
        self.held.fetch_add(1, Relaxed);
        let mut said = [0; 512];
        let ended = loop {
            match stream.read(&mut said).await {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        self.held.fetch_sub(1, Relaxed);
        ended
    }

    fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session = ClientConnection::new(self.target.tls.clone(), name).expect("a session");
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).expect("a ClientHello");
        bytes
    }
}
