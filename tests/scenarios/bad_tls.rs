//! Wrong certificates: no start or no handshake, a reason in the log, and nothing changed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::harness::cluster::START_LIMIT;
use crate::harness::ctl::Ctl;
use crate::harness::member::{Member, Product, free_ports};
use crate::harness::pem::{Authority, Leaf};
use crate::harness::wait::until;

const END_LIMIT: Duration = Duration::from_secs(20);

/// A single member that wants client certificates, not started.
pub(super) fn member(folder: &Path, authority: &Path, leaf: &Leaf) -> Member {
    let ports = free_ports(2);
    let (client, peer) = (format!("https://127.0.0.1:{}", ports[0]), format!("http://127.0.0.1:{}", ports[1]));
    let pairs = [
        ("--listen-client-urls", client.as_str()),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &format!("tls={peer}")),
        ("--trusted-ca-file", &authority.display().to_string()),
        ("--cert-file", &leaf.certificate.display().to_string()),
        ("--key-file", &leaf.key.display().to_string()),
    ]
    .map(|(name, value)| [name.to_owned(), value.to_owned()]);
    let mut flags = pairs.concat();
    flags.push("--client-cert-auth".to_owned());
    Member::new(Product::Ours, "tls", folder, (ports[0], ports[1]), flags)
}

#[tokio::test]
async fn pem_files_that_are_missing_or_wrong_are_named_and_nothing_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new(folder.path(), "authority");
    let (good, other) = (authority.leaf("good"), authority.leaf("other"));
    let nonsense = folder.path().join("nonsense.pem");
    fs::write(&nonsense, "no certificate").expect("a file");
    let missing = folder.path().join("missing.pem");
    let with = |certificate: &Path, key: &Path| Leaf { certificate: certificate.to_owned(), key: key.to_owned() };
    let cases = [
        ("a missing certificate", with(&missing, &good.key), authority.certificate.clone(), &missing),
        ("a missing key", with(&good.certificate, &missing), authority.certificate.clone(), &missing),
        ("a certificate that is none", with(&nonsense, &good.key), authority.certificate.clone(), &nonsense),
        ("a key that is none", with(&good.certificate, &nonsense), authority.certificate.clone(), &nonsense),
        (
            "a key of another certificate",
            with(&good.certificate, &other.key),
            authority.certificate.clone(),
            &other.key,
        ),
        ("a missing authority", good.clone(), missing.clone(), &missing),
        ("an authority that is none", good.clone(), nonsense.clone(), &nonsense),
    ];
    for (n, (what, leaf, authority, named)) in cases.into_iter().enumerate() {
        let mut member = member(&folder.path().join(n.to_string()), &authority, &leaf);
        member.start();
        let ended = member.ends_within(END_LIMIT).await;
        assert_eq!(ended.code(), Some(1), "{what}: {}", member.log());
        let said = member.log();
        let error = said.lines().last().unwrap_or_default();
        assert!(error.contains(&named.display().to_string()), "{what} must name {}: {error}", named.display());
    }
}

#[tokio::test]
async fn clients_without_the_right_certificate_are_turned_away_with_a_reason_in_the_log() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let (authority, foreign) = (Authority::new(folder.path(), "authority"), Authority::new(folder.path(), "foreign"));
    let (server, client, stranger) = (authority.leaf("server"), authority.leaf("client"), foreign.leaf("stranger"));
    let mut member = member(folder.path(), &authority.certificate, &server);
    member.start();
    let url = format!("https://127.0.0.1:{}", member.client_port);
    let right = Ctl::v3(&url).with_tls(&authority.certificate, Some(&client));
    until("the member serves", START_LIMIT, || async {
        let said = right.run(&["put", "a", "1"]);
        if said.code == Some(0) { Ok(()) } else { Err(format!("{said:?}; {}", member.log())) }
    })
    .await;
    let revision = || {
        right
            .run(&["get", "a", "-w", "fields"])
            .ok()
            .lines()
            .find(|line| line.contains("\"Revision\""))
            .map(str::to_owned)
    };
    let before = revision();
    assert!(before.is_some());
    let wrong = [
        ("without a certificate", Ctl::v3(&url).with_tls(&authority.certificate, None)),
        ("of another authority", Ctl::v3(&url).with_tls(&authority.certificate, Some(&stranger))),
        ("without TLS", Ctl::v3(format!("http://127.0.0.1:{}", member.client_port))),
    ];
    for (what, ctl) in wrong {
        let logged = member.log().lines().count();
        let said = ctl.run(&["--command-timeout=2s", "--dial-timeout=2s", "put", "a", "2"]);
        assert_ne!(said.code, Some(0), "a client {what} was let in: {said:?}");
        until("the refusal is logged", START_LIMIT, || async {
            let log = member.log();
            let reason = log
                .lines()
                .skip(logged)
                .find(|line| line.contains("rejected connection") || line.contains("handshake"));
            reason.map(|line| println!("a client {what}: {line}")).ok_or(log)
        })
        .await;
    }
    assert_eq!(revision(), before, "nothing changed");
}
