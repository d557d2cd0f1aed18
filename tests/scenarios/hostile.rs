//! Many callers that mean no good, on every port, from one address and from many: others are served all the same.
//!
//! `figures` (ignored; `make soak`) measures what a good client notices of 10,000 of each kind, here and on the newest etcd.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::harness::cluster::START_LIMIT;
use crate::harness::control;
use crate::harness::handshake::{Shows, client};
use crate::harness::hostile::{Flood, Kind, Port, Sources, Target, inside};
use crate::harness::member::{Member, Product};
use crate::harness::net::Network;
use crate::harness::pem::{Authority, GOOD, Says};
use crate::harness::raw::Raw;
use crate::harness::wait::{can, setting, turn, until};

/// Longer than any answer takes; for hangs.
const LIMIT: Duration = Duration::from_secs(30);
/// Addresses that callers from many have.
const MANY: u32 = 2000;

/// One member in a namespace with every kind of port, and a namespace for hostile callers.
struct Besieged {
    member: Member,
    network: Network,
    /// Shows a certificate where the port asks for one.
    good: TlsConnector,
    /// Shows none.
    anonymous: TlsConnector,
    _folder: TempDir,
}

impl Besieged {
    async fn start(product: Product) -> Option<Self> {
        let network = Network::new(2).filter(|network| network.lend_addresses(1));
        if !can("network namespaces", network.is_some()) {
            return None;
        }
        let (network, folder) = (network?, tempfile::tempdir_in("/dev/shm").expect("a folder in memory"));
        let authority = Authority::new(folder.path(), "authority");
        let server = authority.leaf("server");
        // Without names, so that it may come from any address.
        let nameless = authority.issue("nameless", &Says { names: &[], ..GOOD });
        let versions = [&rustls::version::TLS13];
        let host = network.address(0);
        let at = |port: Port| format!("{}://{}", if port.is_tls() { "https" } else { "http" }, address(&host, port));
        let (peer, path) = (at(Port::PeerTls), |path: &Path| path.display().to_string());
        let flags = [
            ("--listen-client-urls", format!("{},{}", at(Port::Client), at(Port::ClientTls))),
            ("--advertise-client-urls", at(Port::Client)),
            ("--listen-metrics-urls", at(Port::Metrics)),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", format!("one={peer}")),
            ("--cert-file", path(&server.certificate)),
            ("--key-file", path(&server.key)),
            ("--peer-cert-file", path(&server.certificate)),
            ("--peer-key-file", path(&server.key)),
            ("--peer-trusted-ca-file", path(&authority.certificate)),
            ("--log-level", "error".to_owned()),
        ];
        let mut flags: Vec<String> = flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        flags.push("--peer-client-cert-auth".to_owned());
        // The limit of open files that the charm's unit has, where this machine allows as many.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit of open files");
        let limit = format!("--nofile={0}:{0}", most.min(65_536));
        let wrapper = [network.wrapper(0), vec!["prlimit".to_owned(), limit]].concat();
        let mut member = Member::new(product, "one", folder.path(), (0, 0), flags).at(&host, wrapper);
        member.start();
        let besieged = Self {
            good: client(&authority.certificate, &Shows::Pair(nameless), &versions),
            anonymous: client(&authority.certificate, &Shows::Nothing, &versions),
            network,
            member,
            _folder: folder,
        };
        for port in Port::ALL {
            let good = besieged.good(port);
            until(&format!("{product:?} serves on {port:?}"), START_LIMIT, || good.fresh()).await;
        }
        Some(besieged)
    }

    fn good(&self, port: Port) -> Good {
        Good { address: address(&self.member.host, port), port, tls: self.good.clone() }
    }

    fn flood(&self, kind: Kind, port: Port, from: From, count: usize, pace: usize) -> Flood {
        let tls = self.anonymous.config().clone();
        let target = Target { address: address(&self.member.host, port), port, tls };
        Flood::start(kind, target, from.sources(&self.network), count, pace)
    }
}

fn address(host: &str, port: Port) -> SocketAddr {
    let number = match port {
        Port::Client => 2379,
        Port::ClientTls => 2378,
        Port::PeerTls => 2380,
        Port::Metrics => 2381,
    };
    SocketAddr::new(host.parse().expect("an address"), number)
}

/// Where hostile callers come from, as the member sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// One address, not that of the good client.
    Another,
    /// The address of the good client.
    TheSame,
    /// Thousands of addresses.
    Many,
}

impl From {
    fn sources(self, network: &Network) -> Sources {
        let (first, count) = match self {
            Self::Another | Self::TheSame => (network.address(1).parse().expect("an address"), 1),
            Self::Many => (Ipv4Addr::new(10, 214, 0, 1), MANY),
        };
        Sources { namespace: Some(network.namespace(1)), first, count }
    }

    /// Where the good client is; `None` is the host, which is on the same bridge.
    fn good(self, network: &Network) -> Option<PathBuf> {
        (self == Self::TheSame).then(|| network.namespace(1))
    }
}

/// A client that does what it should.
#[derive(Clone)]
struct Good {
    address: SocketAddr,
    port: Port,
    tls: TlsConnector,
}

impl Good {
    /// Opens a connection, asks, reads the answer, leaves.
    async fn fresh(&self) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(self.address).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        if !self.port.is_tls() {
            return self.ask(stream).await;
        }
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        self.ask(self.tls.connect(name, stream).await.map_err(text)?).await
    }

    async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
        let path = if self.port == Port::PeerTls { "/members" } else { "/health" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        // Some servers leave without TLS's goodbye.
        let read = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("{read:?}: {answer:?}")) }
    }
}

async fn all_have_come(flood: &Flood, count: usize, what: &str) {
    until(&format!("{what}: all have come"), LIMIT, || async {
        let opened = flood.opened.load(Relaxed);
        if opened >= count { Ok(()) } else { Err(format!("{opened} of {count}")) }
    })
    .await;
}

#[tokio::test]
async fn hostile_callers_of_every_kind_keep_nobody_out_of_any_port() {
    const COUNT: usize = 600;
    let _turn = turn().await;
    let Some(mut besieged) = Besieged::start(Product::Ours).await else { return };
    for port in Port::ALL {
        for &kind in port.kinds() {
            for from in [From::Another, From::TheSame, From::Many] {
                let what = format!("{COUNT} × {kind:?} on {port:?} from {from:?}");
                let flood = besieged.flood(kind, port, from, COUNT, 500);
                all_have_come(&flood, COUNT, &what).await;
                let (good, namespace) = (besieged.good(port), from.good(&besieged.network));
                let served = std::thread::spawn(move || {
                    inside(namespace.as_deref(), async move {
                        for _ in 0..5 {
                            timeout(LIMIT, good.fresh()).await.map_err(|_| "no answer".to_owned())??;
                        }
                        Ok::<_, String>(())
                    })
                });
                let served = tokio::task::spawn_blocking(|| served.join().expect("the good client ends")).await;
                assert_eq!(served.expect("joined"), Ok(()), "{what}");
                assert!(besieged.member.is_running(), "{what}");
            }
        }
    }
}

/// Times of a good client, sorted.
struct Times(Vec<Duration>);

impl Times {
    async fn of<F>(requests: usize, mut request: impl FnMut() -> F) -> Result<Self, String>
    where
        F: Future<Output = Result<(), String>>,
    {
        let mut times = Vec::new();
        for _ in 0..requests {
            let start = Instant::now();
            timeout(LIMIT, request()).await.map_err(|_| "no answer".to_owned())??;
            times.push(start.elapsed());
        }
        times.sort();
        Ok(Self(times))
    }

    fn p99(&self) -> f64 {
        self.0[self.0.len() * 99 / 100].as_secs_f64() * 1000.0
    }
}

/// p99 of fresh connections to a port, and of puts on a connection that lasts, milliseconds.
async fn measure(good: &Good, lasting: &mut Raw, requests: usize) -> Result<(f64, f64), String> {
    let fresh = Times::of(requests, || good.fresh()).await?;
    let mut times = Vec::new();
    for _ in 0..requests {
        let start = Instant::now();
        let body = Some(r#"{"key":"YQ==","value":"YQ=="}"#);
        let put = timeout(LIMIT, lasting.ask("POST", "/v3/kv/put", body)).await;
        let answer = put.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
        if answer.head.status != 200 {
            return Err(format!("a put is answered {}", answer.body));
        }
        times.push(start.elapsed());
    }
    times.sort();
    Ok((fresh.p99(), Times(times).p99()))
}

/// What 10,000 hostile callers of each kind cost a good client: prints a table. `HOSTILE_COUNT`, `HOSTILE_REQUESTS` and
/// `HOSTILE_PACE` (renewed connections a second) change it.
#[tokio::test]
#[ignore = "measures for minutes"]
async fn figures() {
    let (count, requests) = (setting("HOSTILE_COUNT", 10_000) as usize, setting("HOSTILE_REQUESTS", 1000) as usize);
    let pace = setting("HOSTILE_PACE", 1000) as usize;
    let newest = control::newest().is_some();
    let products: &[Product] = if newest { &[Product::Ours, Product::Newest] } else { &[Product::Ours] };
    println!(
        "| program | port | {count} × | held | fresh p99, ms: quiet | beside | × | put p99, ms: quiet | beside | × | RSS, MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for port in Port::ALL {
        for &kind in port.kinds() {
            for &product in products {
                // A fresh member for each: one kind's leavings must not count for the next.
                let Some(besieged) = Besieged::start(product).await else { return };
                println!("{}", row(&besieged, product, port, kind, count, requests, pace).await);
            }
        }
    }
}

async fn row(
    besieged: &Besieged,
    product: Product,
    port: Port,
    kind: Kind,
    count: usize,
    requests: usize,
    pace: usize,
) -> String {
    let good = besieged.good(port);
    let client_port = address(&besieged.member.host, Port::Client).to_string();
    let mut lasting = Raw::open(&client_port).await.expect("a connection that lasts");
    // The first round warms both sides up.
    measure(&good, &mut lasting, requests / 4).await.expect("served");
    let quiet = measure(&good, &mut lasting, requests).await.expect("served while it is quiet");
    let flood = besieged.flood(kind, port, From::Another, count, pace);
    let start = Instant::now();
    while flood.opened.load(Relaxed) < count && start.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let opened = flood.opened.load(Relaxed);
    let held = flood.held.load(Relaxed);
    let beside = measure(&good, &mut lasting, requests).await;
    let memory = besieged.member.process_figure("VmHWM:") >> 10;
    let name = if product == Product::Ours { "ours" } else { "etcd" };
    let held = if opened < count { format!("{held}, {opened} accepted") } else { held.to_string() };
    let head = format!("| {name} | {port:?} | {kind:?} | {held} | {:.2} ", quiet.0);
    match beside {
        Ok((fresh, put)) => format!(
            "{head}| {fresh:.2} | {:.1} | {:.2} | {put:.2} | {:.1} | {memory} |",
            fresh / quiet.0,
            quiet.1,
            put / quiet.1
        ),
        Err(error) => format!("{head}| {error} | ∞ | {:.2} | | | {memory} |", quiet.1),
    }
}
