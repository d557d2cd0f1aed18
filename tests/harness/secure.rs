//! Members with TLS on every port, as the charm sets them up: clients and peers show certificates, of two authorities.

use std::net::TcpListener;
use std::path::Path;

use tempfile::TempDir;

use super::cluster::START_LIMIT;
use super::ctl::Ctl;
use super::member::{Member, Product};
use super::pem::{Authority, Leaf};
use super::wait::until;

pub struct Secure {
    pub members: Vec<Member>,
    /// Where data, logs and certificates are, until the test ends.
    pub folder: TempDir,
    product: Product,
    clients: Authority,
    peers: Authority,
    /// What a client shows; its name is `client`.
    pub client: Leaf,
    extra: Vec<String>,
}

impl Secure {
    /// One member for each pair of `ports` (clients, peers), started with `extra` flags; ready when all are healthy.
    pub async fn start(product: Product, ports: &[(u16, u16)], extra: &[&str]) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let (clients, peers) = (Authority::new(folder.path(), "clients"), Authority::new(folder.path(), "peers"));
        let client = clients.leaf("client");
        let extra = extra.iter().map(|&flag| flag.to_owned()).collect();
        let mut cluster = Self { members: Vec::new(), folder, product, clients, peers, client, extra };
        let initial: Vec<String> = ports.iter().enumerate().map(|(n, pair)| format!("m{n}={}", url(pair.1))).collect();
        for &pair in ports {
            cluster.add(pair, &initial.join(","), "new").start();
        }
        cluster.healthy().await;
        cluster
    }

    /// A member more, not started.
    pub fn add(&mut self, ports: (u16, u16), initial: &str, state: &str) -> &mut Member {
        let name = format!("m{}", self.members.len());
        let (client, peer) = (url(ports.0), url(ports.1));
        let (server, member) = (self.clients.leaf("server"), self.peers.leaf("member"));
        let pairs = [
            ("--initial-cluster", initial.to_owned()),
            ("--initial-cluster-state", state.to_owned()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--trusted-ca-file", text(&self.clients.certificate)),
            ("--cert-file", text(&server.certificate)),
            ("--key-file", text(&server.key)),
            ("--peer-trusted-ca-file", text(&self.peers.certificate)),
            ("--peer-cert-file", text(&member.certificate)),
            ("--peer-key-file", text(&member.key)),
        ];
        let mut flags: Vec<String> = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
        flags.extend(["--client-cert-auth", "--peer-client-cert-auth"].map(str::to_owned));
        flags.extend(self.extra.iter().cloned());
        self.members.push(Member::new(self.product, &name, self.folder.path(), ports, flags));
        self.members.last_mut().expect("a member was pushed")
    }

    /// Waits until every member answers a linearizable read.
    pub async fn healthy(&self) {
        let ctl = self.ctl(&self.endpoints());
        until("all members are healthy", START_LIMIT, || async {
            let said = ctl.run(&["endpoint", "health"]);
            if said.code == Some(0) { Ok(()) } else { Err(said.err) }
        })
        .await;
    }

    pub fn endpoint(&self, n: usize) -> String {
        url(self.members[n].client_port)
    }

    pub fn endpoints(&self) -> String {
        (0..self.members.len()).map(|n| self.endpoint(n)).collect::<Vec<_>>().join(",")
    }

    /// `etcdctl` with the right certificates.
    pub fn ctl(&self, endpoints: &str) -> Ctl {
        Ctl::v3(endpoints).with_tls(&self.clients.certificate, Some(&self.client))
    }

    /// The file of the authority that clients trust.
    pub fn authority(&self) -> &Path {
        &self.clients.certificate
    }
}

pub fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Pairs of ports that nobody listens on at the moment and that no outgoing connection gets in the meantime, so that one
/// cluster after another can have them: ids of members follow from their URLs.
pub fn lasting_ports(count: usize) -> Vec<(u16, u16)> {
    // Below Linux's range for outgoing connections; runs beside this one begin elsewhere.
    let first = 12_000 + (std::process::id() % 1000) as u16 * 20;
    let free: Vec<u16> =
        (first..32_000).filter(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).take(2 * count).collect();
    free.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}
