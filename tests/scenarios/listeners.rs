//! Every listener against every bad certificate: client, HTTP, metrics and peer, each on a real socket of one daemon.

use std::path::Path;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;

use crate::harness::cluster::START_LIMIT;
use crate::harness::handshake::{Shows, client, connect, get};
use crate::harness::member::{Member, Product, free_ports};
use crate::harness::pem::{Authority, GOOD, Leaf, Says, self_signed};
use crate::harness::wait::until;

const REVOKED: u64 = 4711;

/// A member with TLS on four ports, and the two authorities behind it.
struct House {
    folder: TempDir,
    member: Member,
    clients: Authority,
    peers: Authority,
    good_client: Leaf,
    good_peer: Leaf,
    http: u16,
    metrics: u16,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Started, with `more` flags; ready when it serves.
async fn house(more: &[&str]) -> House {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let (clients, peers) = (Authority::new(folder.path(), "clients"), Authority::new(folder.path(), "peers"));
    let (server, peer) = (clients.leaf("server"), peers.leaf("member"));
    let (good_client, good_peer) = (clients.leaf("user"), peers.leaf("member2"));
    let ports = free_ports(4);
    let url = |n: usize| format!("https://127.0.0.1:{}", ports[n]);
    let mut flags = vec![];
    let pairs = [
        ("--listen-client-urls", url(0)),
        ("--advertise-client-urls", url(0)),
        ("--listen-peer-urls", url(1)),
        ("--initial-advertise-peer-urls", url(1)),
        ("--initial-cluster", format!("tls={}", url(1))),
        ("--listen-client-http-urls", url(2)),
        ("--listen-metrics-urls", url(3)),
        ("--cert-file", text(&server.certificate)),
        ("--key-file", text(&server.key)),
        ("--trusted-ca-file", text(&clients.certificate)),
        ("--client-crl-file", text(&clients.revoke("clients.crl", &[REVOKED]))),
        ("--client-cert-allowed-cn", "user,server".to_owned()),
        ("--peer-cert-file", text(&peer.certificate)),
        ("--peer-key-file", text(&peer.key)),
        ("--peer-trusted-ca-file", text(&peers.certificate)),
        ("--peer-crl-file", text(&peers.revoke("peers.crl", &[REVOKED]))),
        ("--peer-cert-allowed-cn", "member,member2".to_owned()),
    ];
    for (name, value) in pairs {
        flags.extend([name.to_owned(), value]);
    }
    flags.extend(["--client-cert-auth", "--peer-client-cert-auth"].map(str::to_owned));
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    let mut member = Member::new(Product::Ours, "tls", folder.path(), (ports[0], ports[1]), flags);
    member.start();
    let house = House { folder, member, clients, peers, good_client, good_peer, http: ports[2], metrics: ports[3] };
    until("the member serves", START_LIMIT, || async {
        let tls = client(&house.clients.certificate, &Shows::Pair(house.good_client.clone()), &[&TLS13]);
        get(house.http, &tls, "/health").await
    })
    .await;
    house
}

impl House {
    /// Asks a port with what is shown, by both versions of TLS, which must agree.
    async fn ask(&self, port: u16, is_peer: bool, shows: &Shows) -> Result<String, String> {
        let (authority, path) =
            if is_peer { (&self.peers.certificate, "/version") } else { (&self.clients.certificate, "/health") };
        let newer = get(port, &client(authority, shows, &[&TLS13]), path).await;
        let older = get(port, &client(authority, shows, &[&TLS12]), path).await;
        assert_eq!(newer.is_ok(), older.is_ok(), "port {port}: TLS 1.3 {newer:?}, TLS 1.2 {older:?}");
        newer
    }

    /// Asks a client port by TLS 1.3 only, for rules that may change between two handshakes.
    async fn ask_once(&self, port: u16, shows: &Shows) -> Result<String, String> {
        get(port, &client(&self.clients.certificate, shows, &[&TLS13]), "/health").await
    }

    /// Port, name in the log, whether it is the peers'.
    fn listeners(&self) -> [(u16, &'static str, bool); 4] {
        [
            (self.member.client_port, "client", false),
            (self.http, "client", false),
            (self.metrics, "metrics", false),
            (self.member.peer_port, "peer", true),
        ]
    }

    /// The refusals in the log, from line `from` on, of a listener.
    fn refusals(&self, from: usize, listener: &str) -> Vec<String> {
        let words = format!("rejected connection on {listener} endpoint");
        let log = self.member.log();
        log.lines().skip(from).filter(|line| line.contains(&words)).map(str::to_owned).collect()
    }
}

/// What is shown, whether clients and peers may show it, and words of the reason in the log.
type Row = (&'static str, Shows, bool, bool, &'static str);

/// Bad certificates of one authority; `cn` is the name that its listeners allow.
fn rows(house: &House, authority: &Authority, cn: &'static str, other: &Authority) -> Vec<Row> {
    let good = Says { cn, ..GOOD };
    let issue = |name: &'static str, says: Says| Shows::Pair(authority.issue(name, &says));
    let pair = |name: &'static str| authority.issue(name, &good);
    vec![
        ("nothing", Shows::Nothing, false, false, "peer sent no certificates"),
        ("an expired one", issue("expired", Says { days: (-30, -1), ..good.clone() }), false, false, "xpired"),
        (
            "one not yet valid",
            issue("early", Says { days: (1, 30), ..good.clone() }),
            false,
            false,
            "NotValidYet|not valid yet",
        ),
        ("one of another authority", Shows::Pair(other.issue("stranger", &good)), false, false, "UnknownIssuer"),
        (
            "a self-signed one",
            Shows::Pair(self_signed(house.folder.path(), "alone", &good)),
            false,
            false,
            "UnknownIssuer",
        ),
        (
            "one for servers only",
            issue("server", Says { client: false, ..good.clone() }),
            false,
            false,
            "Purpose|key usage",
        ),
        (
            "one with another name",
            issue("name", Says { cn: "mallory", ..good.clone() }),
            false,
            false,
            "client certificate authentication failed",
        ),
        ("a revoked one", issue("revoked", Says { serial: REVOKED, ..good.clone() }), false, false, "evoked"),
        ("one without SAN", issue("nameless", Says { names: &[], ..good.clone() }), true, true, ""),
        (
            "one with the SAN of another machine",
            issue("elsewhere", Says { names: &["10.255.0.9"], ..good.clone() }),
            true,
            false,
            "does not match any of the certificate's IP addresses",
        ),
        ("one with the key of another", Shows::Mismatched(pair("a"), pair("b")), false, false, "ignature"),
        ("half of one", Shows::Truncated(pair("half")), false, false, "BadEncoding|encod"),
    ]
}

#[tokio::test]
async fn every_listener_refuses_every_bad_certificate_with_a_reason_and_serves_good_ones() {
    let house = house(&[]).await;
    for (port, listener, is_peer) in house.listeners() {
        let rows = if is_peer {
            rows(&house, &house.peers, "member2", &house.clients)
        } else {
            rows(&house, &house.clients, "user", &house.peers)
        };
        for (what, shows, clients_may, peers_may, reason) in rows {
            let from = house.member.log().lines().count();
            let passes = if is_peer { peers_may } else { clients_may };
            let answer = house.ask(port, is_peer, &shows).await;
            assert_eq!(answer.is_ok(), passes, "{listener} port {port}, {what}: {answer:?}");
            if !passes {
                until(&format!("the {listener} port says why it refused {what}"), Duration::from_secs(20), || async {
                    let said = house.refusals(from, listener);
                    if said.iter().any(|line| reason.split('|').any(|words| line.contains(words))) {
                        Ok(())
                    } else {
                        Err(format!("{reason}: {said:?}"))
                    }
                })
                .await;
            }
        }
        let good = if is_peer { &house.good_peer } else { &house.good_client };
        house.ask(port, is_peer, &Shows::Pair(good.clone())).await.expect("a good one passes afterwards");
    }
}

#[tokio::test]
async fn a_port_of_grpc_only_and_one_of_http_only_keep_to_it() {
    let house = house(&[]).await;
    let tls = client(&house.clients.certificate, &Shows::Pair(house.good_client.clone()), &[&TLS13]);
    let refused = get(house.member.client_port, &tls, "/health").await.expect("an answer");
    assert!(refused.starts_with("HTTP/1.1 415"), "{refused}");
    assert_eq!(get(house.http, &tls, "/health").await.expect("an answer"), "HTTP/1.1 200 OK");
    assert_eq!(get(house.metrics, &tls, "/metrics").await.expect("an answer"), "HTTP/1.1 200 OK");
    assert!(get(house.metrics, &tls, "/v2/keys").await.expect("an answer").starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn new_lists_authorities_and_pairs_count_from_the_next_handshake_and_bad_ones_do_not() {
    let mut house = house(&[]).await;
    let user = Shows::Pair(house.good_client.clone());
    let (port, limit) = (house.http, Duration::from_secs(20));
    let doomed = house.clients.issue("doomed", &Says { cn: "user", serial: 77, ..GOOD });
    let doomed = Shows::Pair(doomed);
    let tls = client(&house.clients.certificate, &doomed, &[&TLS13]);
    let mut open = connect(port, &tls).await.expect("not revoked yet");

    std::fs::write(house.folder.path().join("clients/clients.crl"), "no list").expect("written");
    until("the bad list is named", limit, || async {
        house.ask_once(port, &doomed).await?;
        let log = house.member.log();
        let line =
            log.lines().find(|line| line.contains("\"error\"") && line.contains("clients.crl")).map(str::to_owned);
        line.ok_or(log)
    })
    .await;
    house.clients.revoke("clients.crl", &[REVOKED, 77]);
    until("the new list counts", limit, || async {
        house.ask_once(port, &user).await?;
        if house.ask_once(port, &doomed).await.is_err() { Ok(()) } else { Err("still let in".to_owned()) }
    })
    .await;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    open.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("still open");
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.ok();
    assert!(answer.starts_with("HTTP/1.1 200"), "a connection lives by the rules of its handshake: {answer}");

    let next = Authority::new(house.folder.path(), "next");
    let newcomer = Shows::Pair(next.leaf("user"));
    assert!(house.ask_once(port, &newcomer).await.is_err());
    let both = [&house.clients.certificate, &next.certificate].map(|path| std::fs::read_to_string(path).expect("read"));
    let bundle = house.folder.path().join("bundle");
    std::fs::write(&bundle, both.concat()).expect("written");
    // The tests' own clients read the same file, so both authorities are in it from now on.
    std::fs::rename(&bundle, &house.clients.certificate).expect("renamed");
    until("both authorities count", limit, || async {
        house.ask_once(port, &user).await?;
        house.ask_once(port, &newcomer).await
    })
    .await;

    let server = house.folder.path().join("clients/server.crt");
    let before = std::fs::read(&server).expect("read");
    std::fs::write(&server, &before[..before.len() / 2]).expect("written");
    until("the bad pair is named and the old one serves", limit, || async {
        house.ask_once(port, &user).await?;
        let log = house.member.log();
        let line =
            log.lines().find(|line| line.contains("\"error\"") && line.contains("server.crt")).map(str::to_owned);
        line.ok_or(log)
    })
    .await;
    house.clients.issue("server", &Says { cn: "server", serial: 99, ..GOOD });
    let tls = client(&house.clients.certificate, &user, &[&TLS13]);
    until("the new pair serves", limit, || async {
        let stream = connect(port, &tls).await?;
        let shown = stream.get_ref().1.peer_certificates().map(|chain| chain[0].as_ref().to_vec()).unwrap_or_default();
        let (_, shown) = x509_parser::parse_x509_certificate(&shown).map_err(|error| error.to_string())?;
        if shown.raw_serial() == [99] { Ok(()) } else { Err(format!("serial {:?}", shown.raw_serial())) }
    })
    .await;
    assert!(house.member.is_running());
}

#[tokio::test]
async fn old_versions_and_unlisted_suites_are_refused() {
    let house = house(&["--tls-min-version", "TLS1.3"]).await;
    let shows = Shows::Pair(house.good_client.clone());
    let (newer, older) =
        (client(&house.clients.certificate, &shows, &[&TLS13]), client(&house.clients.certificate, &shows, &[&TLS12]));
    get(house.http, &newer, "/health").await.expect("TLS 1.3");
    assert!(get(house.http, &older, "/health").await.is_err(), "TLS 1.2 under --tls-min-version TLS1.3");
}
