//! Three members of either product on loopback, started with the same flags and stopped when dropped.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_charm::proto::etcdserverpb::{StatusRequest, StatusResponse};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::auth;
use super::wire::{Connection, Tls};

const MEMBERS: usize = 3;
const START_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Debian's `etcd-server`.
    Etcd,
    /// This project's daemon.
    Ours,
}

impl Product {
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Ours => "ours",
        }
    }

    fn program(self) -> PathBuf {
        match self {
            Self::Etcd => PathBuf::from(std::env::var("BENCH_ETCD").unwrap_or_else(|_| "/usr/bin/etcd".to_owned())),
            Self::Ours => PathBuf::from(env!("CARGO_BIN_EXE_etcd")),
        }
    }
}

/// How clients reach a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Plain,
    /// TLS in both directions, among members too.
    Tls,
    /// TLS, and authentication: the load comes from a user whose role allows its keys and no others.
    Auth,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Auth];

    /// The word that chooses it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "off",
            Self::Tls => "on",
            Self::Auth => "auth",
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Self::Plain => "off",
            Self::Tls => "on",
            Self::Auth => "on, authentication on",
        }
    }
}

pub struct Cluster {
    product: Product,
    folder: tempfile::TempDir,
    children: Vec<Child>,
    addresses: Vec<SocketAddr>,
    tls: Tls,
    leader: usize,
    /// What the load shows with every call, with authentication.
    token: Option<String>,
}

impl Cluster {
    pub async fn start(product: Product, mode: Mode) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir().map_err(|error| error.to_string())?;
        let tls = mode != Mode::Plain;
        let files = if tls { Some(PemFiles::make(folder.path())?) } else { None };
        let ports = free_ports(MEMBERS * 2)?;
        let scheme = if tls { "https" } else { "http" };
        let peers: Vec<String> = (0..MEMBERS).map(|n| format!("{scheme}://127.0.0.1:{}", ports[MEMBERS + n])).collect();
        let initial = (0..MEMBERS).map(|n| format!("m{n}={}", peers[n])).collect::<Vec<_>>().join(",");
        let mut cluster = Self {
            product,
            children: Vec::new(),
            addresses: ports[..MEMBERS].iter().map(|&port| SocketAddr::from(([127, 0, 0, 1], port))).collect(),
            tls: files.as_ref().map(PemFiles::client).transpose()?,
            leader: 0,
            token: None,
            folder,
        };
        for n in 0..MEMBERS {
            let client = format!("{scheme}://127.0.0.1:{}", ports[n]);
            let mut command = Command::new(product.program());
            command.args(["--name", &format!("m{n}"), "--initial-cluster", &initial, "--initial-cluster-state", "new"]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peers[n], "--initial-advertise-peer-urls", &peers[n]]);
            command.args(["--initial-cluster-token", product.name(), "--log-level", "warn"]);
            command.arg("--enable-v2=true");
            command.arg("--data-dir").arg(cluster.data_dir(n));
            if let Some(files) = &files {
                files.flags(&mut command);
            }
            let log =
                fs::File::create(cluster.folder.path().join(format!("{n}.log"))).map_err(|error| error.to_string())?;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            let child = command.spawn().map_err(|error| format!("start {}: {error}", product.program().display()))?;
            cluster.children.push(child);
        }
        cluster.leader = cluster.find_leader().await?;
        if mode == Mode::Auth {
            let connection = Connection::open(cluster.leader_address(), &cluster.tls).await?;
            cluster.token = Some(auth::enable(&connection).await?);
        }
        Ok(cluster)
    }

    pub fn product(&self) -> Product {
        self.product
    }

    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// `count` connections to the leader: what a client library does that knows its leader, and the kindest case for etcd.
    pub async fn connect(&self, count: usize) -> Result<Vec<Connection>, String> {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let connection = Connection::open(self.addresses[self.leader], &self.tls).await?;
            connections.push(match &self.token {
                Some(token) => connection.with_token(token)?,
                None => connection,
            });
        }
        Ok(connections)
    }

    /// Where the leader serves clients.
    pub fn leader_address(&self) -> SocketAddr {
        self.addresses[self.leader]
    }

    /// TLS of the clients, if any.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Highest resident size of each member so far, MiB.
    pub fn peak_mib(&self) -> Vec<u64> {
        let peak = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
        };
        self.pids().iter().map(peak).collect()
    }

    /// Bytes that the device under the data directories was given to write, by whomever; 0 in memory. What the kernel
    /// counts for a process is no measure: it counts a whole large page of the cache for each small write into it.
    pub fn device_bytes(&self) -> u64 {
        const SECTOR: u64 = 512;
        let Ok(folder) = fs::metadata(self.folder.path()) else { return 0 };
        let (major, minor) = (nix::sys::stat::major(folder.dev()), nix::sys::stat::minor(folder.dev()));
        let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
        SECTOR * stat.split_whitespace().nth(6).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
    }

    /// Size of each member's data directory, MiB.
    pub fn disk_mib(&self) -> Vec<u64> {
        (0..MEMBERS).map(|n| folder_bytes(&self.data_dir(n)) >> 20).collect()
    }

    fn data_dir(&self, n: usize) -> PathBuf {
        self.folder.path().join(format!("data{n}"))
    }

    async fn find_leader(&mut self) -> Result<usize, String> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            for n in 0..MEMBERS {
                if let Ok(status) = self.status(n).await
                    && let Some(header) = &status.header
                    && status.leader != 0
                    && header.member_id == status.leader
                {
                    return Ok(n);
                }
            }
            if Instant::now() > limit {
                return Err(format!(
                    "{} has no leader after {START_LIMIT:?}: {}",
                    self.product.name(),
                    self.last_words()
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn status(&self, n: usize) -> Result<StatusResponse, String> {
        let connection = Connection::open(self.addresses[n], &self.tls).await?;
        let call = connection.unary("/etcdserverpb.Maintenance/Status", &StatusRequest {});
        tokio::time::timeout(Duration::from_secs(2), call).await.map_err(|_| "no answer".to_owned())?
    }

    fn last_words(&self) -> String {
        let log = |n| fs::read_to_string(self.folder.path().join(format!("{n}.log"))).unwrap_or_default();
        (0..MEMBERS).map(|n| log(n).lines().rev().take(3).collect::<Vec<_>>().join("\n")).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One authority and one certificate for everything, as files.
struct PemFiles {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl PemFiles {
    fn make(folder: &Path) -> Result<Self, String> {
        let text = |error: rcgen::Error| error.to_string();
        let ca_key = rcgen::KeyPair::generate().map_err(text)?;
        let mut ca = rcgen::CertificateParams::new(Vec::new()).map_err(text)?;
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key).map_err(text)?;
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().map_err(text)?;
        let mut leaf =
            rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).map_err(text)?;
        leaf.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let cert = leaf.signed_by(&key, &issuer).map_err(text)?;
        let files = Self { ca: folder.join("ca.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        for (path, pem) in [(&files.ca, ca_cert.pem()), (&files.cert, cert.pem()), (&files.key, key.serialize_pem())] {
            fs::write(path, pem).map_err(|error| format!("write {}: {error}", path.display()))?;
        }
        Ok(files)
    }

    fn flags(&self, command: &mut Command) {
        for prefix in ["--", "--peer-"] {
            command.arg(format!("{prefix}cert-file={}", self.cert.display()));
            command.arg(format!("{prefix}key-file={}", self.key.display()));
            command.arg(format!("{prefix}trusted-ca-file={}", self.ca.display()));
            command.arg(format!("{prefix}client-cert-auth"));
        }
    }

    fn client(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        let text = |error: rustls::pki_types::pem::Error| error.to_string();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).map_err(text)?).map_err(|error| error.to_string())?;
        let certs = vec![CertificateDer::from_pem_file(&self.cert).map_err(text)?];
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(text)?;
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(certs, key)
            .map_err(|error| error.to_string())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let held: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let held = held.map_err(|error| format!("find a free port: {error}"))?;
    held.iter()
        .map(|socket| socket.local_addr().map(|address| address.port()).map_err(|error| error.to_string()))
        .collect()
}

fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
