//! Real handshakes over an in-memory pipe: accepted and refused callers, errors at start, and
//! reloading of files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fixtures::{Authority, Leaf};
use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::settings::{Settings, TlsPolicy, TlsSettings, TlsVersion};

struct House {
    dir: tempfile::TempDir,
    ca: Authority,
    server: TlsSettings,
    client: TlsSettings,
}

fn house() -> House {
    let dir = tempfile::tempdir().expect("dir");
    let ca = Authority::new(dir.path(), "ca");
    let server = ca.settings("ca", &ca.issue("server", &Leaf::default()));
    let client = ca.settings("ca", &ca.issue("client", &Leaf { cn: "alice", serial: 8, ..Leaf::default() }));
    House { dir, ca, server, client }
}

fn policy() -> TlsPolicy {
    Settings::default().tls_policy
}

fn load_server(tls: &TlsSettings) -> Result<ServerTls, TlsError> {
    ServerTls::load("test", super::CLIENT_PORT, tls, &policy(), Arc::new(SystemClock::new()))
}

fn load_client(tls: &TlsSettings) -> ClientTls {
    ClientTls::load("test", tls, &policy(), Arc::new(SystemClock::new())).expect("client")
}

/// A manual clock at today's date.
fn manual_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at_unix(SystemClock::new().unix()))
}

/// One handshake and one byte each way; returns the caller's identity as seen by the server, or its error.
async fn meet(server: &ServerTls, client: &ClientTls) -> Result<Option<PeerIdentity>, String> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ClientTls::server_name("localhost").expect("name");
    let calling = client.connector().connect(name, near);
    let caller = tokio::spawn(async move {
        let mut stream = calling.await.map_err(|error| error.to_string())?;
        stream.write_all(b"x").await.map_err(|error| error.to_string())?;
        stream.read_u8().await.map_err(|error| error.to_string())
    });
    let accepted = server.accept(far, async {}).await;
    let seen = match accepted {
        Ok(mut stream) => {
            let identity = server.caller(stream.get_ref().1).map_err(str::to_owned);
            stream.read_u8().await.map_err(|error| error.to_string())?;
            stream.write_all(b"y").await.map_err(|error| error.to_string())?;
            stream.flush().await.map_err(|error| error.to_string())?;
            identity
        }
        Err(error) => Err(reason_of(&error)),
    };
    let called = caller.await.expect("caller task");
    if seen.is_ok() { called.map(|_| ()).and(seen) } else { seen }
}

#[tokio::test]
async fn a_caller_with_a_certificate_from_the_ca_is_accepted_and_identified() {
    let house = house();
    let server = load_server(&house.server).expect("server");
    let caller = meet(&server, &load_client(&house.client)).await.expect("handshake").expect("identity");
    assert_eq!(caller.common_name.as_deref(), Some("alice"));
    assert_eq!(caller.dns_names, ["localhost"]);
    assert_eq!(caller.serial, [8]);
    assert!(caller.is_valid_for("127.0.0.1"));
    assert!(server.expires().expect("own certificate") > Duration::from_secs(1_700_000_000));
}

#[tokio::test]
async fn without_a_ca_no_client_certificate_is_requested() {
    let house = house();
    let open = TlsSettings { trusted_ca_file: None, ..house.server };
    let anonymous = TlsSettings { cert_file: None, key_file: None, ..house.client };
    let seen = meet(&load_server(&open).expect("server"), &load_client(&anonymous)).await;
    assert_eq!(seen, Ok(None));
}

#[tokio::test]
async fn callers_without_a_valid_certificate_are_refused() {
    let house = house();
    let other = Authority::new(house.dir.path(), "other");
    let with = |pair: (PathBuf, PathBuf)| TlsSettings {
        cert_file: Some(pair.0),
        key_file: Some(pair.1),
        ..house.client.clone()
    };
    let leaf = |days| Leaf { days, ..Leaf::default() };
    let server = load_server(&house.server).expect("server");
    for (case, client, reason) in [
        ("none", TlsSettings { cert_file: None, key_file: None, ..house.client.clone() }, "peer sent no certificates"),
        ("another authority", with(other.issue("stranger", &Leaf::default())), "UnknownIssuer"),
        ("expired", with(house.ca.issue("expired", &leaf((-30, -1)))), "expired"),
        ("not yet valid", with(house.ca.issue("early", &leaf((1, 30)))), "not valid yet"),
    ] {
        let refusal = meet(&server, &load_client(&client)).await.expect_err(case);
        assert!(refusal.contains(reason), "{case}: {refusal}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_required_if_a_ca_is_set() {
    let house = house();
    assert!(!house.server.client_cert_auth, "only the authority is set");
    let anonymous = TlsSettings { cert_file: None, key_file: None, ..house.client };
    assert!(meet(&load_server(&house.server).expect("server"), &load_client(&anonymous)).await.is_err());
}

#[tokio::test]
async fn revoked_serials_are_refused_from_der_and_pem_lists() {
    let house = house();
    let (der, pem) = house.ca.revoke(&[8, 99]);
    for crl in [der, pem] {
        let server = load_server(&TlsSettings { crl_file: Some(crl), ..house.server.clone() }).expect("server");
        let refusal = meet(&server, &load_client(&house.client)).await.expect_err("revoked");
        assert!(refusal.contains("evoked"), "{refusal}");
        let pair = house.ca.issue("fresh", &Leaf { serial: 9, ..Leaf::default() });
        assert!(meet(&server, &load_client(&house.ca.settings("ca", &pair))).await.is_ok());
    }
}

#[tokio::test]
async fn only_allowed_names_are_accepted() {
    let house = house();
    let cn = |name: &str| TlsSettings { allowed_cn: vec!["bob".into(), name.into()], ..house.server.clone() };
    let host = |name: &str| TlsSettings { allowed_hostname: vec![name.into()], ..house.server.clone() };
    for (server, passes) in
        [(cn("alice"), true), (cn("carol"), false), (host("localhost"), true), (host("elsewhere"), false)]
    {
        let seen = meet(&load_server(&server).expect("server"), &load_client(&house.client)).await;
        assert_eq!(seen.is_ok(), passes, "{seen:?}");
        if let Err(refusal) = seen {
            assert!(refusal.contains("client certificate authentication failed"), "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_server_with_another_ca_or_name_is_refused_by_the_caller() {
    let house = house();
    let stranger = Authority::new(house.dir.path(), "stranger");
    let pair = stranger.issue("impostor", &Leaf::default());
    let impostor = TlsSettings { cert_file: Some(pair.0), key_file: Some(pair.1), ..house.server.clone() };
    assert!(meet(&load_server(&impostor).expect("server"), &load_client(&house.client)).await.is_err());
    let elsewhere = house.ca.issue("elsewhere", &Leaf { names: &["elsewhere"], ..Leaf::default() });
    let elsewhere = TlsSettings { cert_file: Some(elsewhere.0), key_file: Some(elsewhere.1), ..house.server };
    assert!(meet(&load_server(&elsewhere).expect("server"), &load_client(&house.client)).await.is_err());
}

#[tokio::test]
async fn both_protocol_versions_work_and_the_lower_bound_holds() {
    let house = house();
    let with = |min_version, max_version| TlsPolicy { min_version, max_version, ..policy() };
    let clock: Arc<SystemClock> = Arc::new(SystemClock::new());
    for (server, client, works) in [
        (with(TlsVersion::V12, TlsVersion::V13), with(TlsVersion::V12, TlsVersion::V12), true),
        (with(TlsVersion::V12, TlsVersion::V12), with(TlsVersion::V12, TlsVersion::V13), true),
        (with(TlsVersion::V13, TlsVersion::V13), with(TlsVersion::V12, TlsVersion::V12), false),
    ] {
        let server =
            ServerTls::load("test", super::CLIENT_PORT, &house.server, &server, clock.clone()).expect("server");
        let client = ClientTls::load("test", &house.client, &client, clock.clone()).expect("client");
        assert_eq!(meet(&server, &client).await.is_ok(), works);
    }
}

#[tokio::test]
async fn new_files_serve_new_handshakes_without_a_restart() {
    let house = house();
    let clock = manual_clock();
    let server = ServerTls::load("test", super::CLIENT_PORT, &house.server, &policy(), clock.clone()).expect("server");
    let old_end = server.expires();
    let client = load_client(&house.client);
    house.ca.issue("server", &Leaf { days: (-1, 60), ..Leaf::default() });
    clock.advance(Duration::from_secs(1));
    assert_ne!(server.expires(), old_end);
    assert!(meet(&server, &client).await.is_ok());
}

#[tokio::test]
async fn a_ca_rotation_trusts_both_cas_for_a_time() {
    let house = house();
    let clock = manual_clock();
    let server = ServerTls::load("test", super::CLIENT_PORT, &house.server, &policy(), clock.clone()).expect("server");
    let next = Authority::new(house.dir.path(), "next");
    let pair = next.issue("newcomer", &Leaf::default());
    let newcomer = TlsSettings { cert_file: Some(pair.0), key_file: Some(pair.1), ..house.client.clone() };
    let (old_client, newcomer) = (load_client(&house.client), load_client(&newcomer));
    assert!(meet(&server, &newcomer).await.is_err(), "not trusted yet");
    let (ca, read) = (house.dir.path().join("ca.pem"), |name: &str| {
        std::fs::read_to_string(house.dir.path().join(name)).expect("read")
    });
    std::fs::write(&ca, read("ca.pem") + &read("next.pem")).expect("write");
    clock.advance(Duration::from_secs(1));
    assert!(meet(&server, &newcomer).await.is_ok());
    assert!(meet(&server, &old_client).await.is_ok());
    std::fs::write(&ca, read("next.pem")).expect("write");
    clock.advance(Duration::from_secs(1));
    assert!(meet(&server, &newcomer).await.is_ok());
    assert!(meet(&server, &old_client).await.is_err(), "no session of the old authority may be resumed");
}

#[tokio::test]
async fn callers_reload_a_bundle_of_both_cas_and_a_new_certificate_without_a_restart() {
    // The client side of a member that calls its peers during a CA rotation.
    let house = house();
    let clock = manual_clock();
    let caller = ClientTls::load("test", &house.client, &policy(), clock.clone()).expect("caller");
    let next = Authority::new(house.dir.path(), "next");
    let renewed = next.settings("ca", &next.issue("renewed", &Leaf::default()));
    let path = |name: &str| house.dir.path().join(name);
    let read = |name: &str| std::fs::read_to_string(path(name)).expect("read");
    let (old_peer, both) = (load_server(&house.server).expect("server"), read("ca.pem") + &read("next.pem"));
    std::fs::write(path("ca.pem"), &both).expect("write");
    let new_peer = load_server(&renewed).expect("server");
    assert!(meet(&new_peer, &caller).await.is_err(), "the bundle was not looked at yet");
    clock.advance(Duration::from_secs(1));
    assert!(meet(&new_peer, &caller).await.is_ok());
    assert!(meet(&old_peer, &caller).await.is_ok());
    next.issue("client", &Leaf { cn: "alice", ..Leaf::default() });
    std::fs::write(path("ca.pem"), read("next.pem")).expect("write");
    clock.advance(Duration::from_secs(1));
    assert!(meet(&new_peer, &caller).await.is_ok());
    assert!(meet(&old_peer, &caller).await.is_err(), "the old authority was dropped");
}

#[tokio::test]
async fn with_a_half_written_pair_the_old_one_stays_in_use() {
    let house = house();
    let clock = manual_clock();
    let server = ServerTls::load("test", super::CLIENT_PORT, &house.server, &policy(), clock.clone()).expect("server");
    let client = load_client(&house.client);
    let key = house.server.key_file.clone().expect("key file");
    let whole = std::fs::read_to_string(&key).expect("read");
    std::fs::write(&key, &whole[..whole.len() / 2]).expect("write");
    for _ in 0..3 {
        clock.advance(Duration::from_secs(1));
        assert!(meet(&server, &client).await.is_ok());
    }
    house.ca.issue("server", &Leaf { days: (-1, 90), ..Leaf::default() });
    let old_end = server.expires();
    clock.advance(Duration::from_secs(1));
    assert_ne!(server.expires(), old_end);
    assert!(meet(&server, &client).await.is_ok());
}

#[tokio::test]
async fn a_resumed_session_ends_with_the_callers_certificate() {
    let house = house();
    let clock = manual_clock();
    let server = ServerTls::load("test", super::CLIENT_PORT, &house.server, &policy(), clock.clone()).expect("server");
    let client = load_client(&house.client);
    for _ in 0..2 {
        assert!(meet(&server, &client).await.is_ok());
    }
    clock.advance(Duration::from_secs(40 * 24 * 3600));
    assert_eq!(meet(&server, &client).await, Err("certificate of a resumed session has expired".to_owned()));
}

#[test]
fn unusable_files_are_refused_at_start_by_name() {
    let house = house();
    let at = |name: &str| house.dir.path().join(name);
    let write = |name: &str, text: &str| {
        std::fs::write(at(name), text).expect("write");
        at(name)
    };
    let server_key = std::fs::read_to_string(at("server.key")).expect("read");
    let encrypted = server_key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let base = &house.server;
    let cert = |path: PathBuf| TlsSettings { cert_file: Some(path), ..base.clone() };
    let key = |path: PathBuf| TlsSettings { key_file: Some(path), ..base.clone() };
    let ca = |path: PathBuf| TlsSettings { trusted_ca_file: Some(path), ..base.clone() };
    let crl = |path: PathBuf| TlsSettings { crl_file: Some(path), ..base.clone() };
    for (tls, said) in [
        (cert(at("none.pem")), "cannot read D/none.pem: No such file or directory"),
        (cert(write("empty.pem", "")), "D/empty.pem holds no certificate"),
        (cert(at("server.key")), "D/server.key holds no certificate"),
        (cert(write("cut.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n")), "D/cut.pem is not valid PEM"),
        (
            cert(write("odd.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            "a certificate in D/odd.pem cannot be used",
        ),
        (key(at("none.key")), "cannot read D/none.key"),
        (key(at("server.pem")), "D/server.pem holds no private key"),
        (key(at("client.key")), "the private key in D/client.key does not belong to the certificate in D/server.pem"),
        (key(write("secret.key", &encrypted)), "the private key in D/secret.key is encrypted"),
        (key(write("half.key", &server_key[..server_key.len() / 2])), "D/half.key is not valid PEM"),
        (ca(at("none-ca.pem")), "cannot read D/none-ca.pem"),
        (ca(write("no-ca.pem", "hello")), "D/no-ca.pem holds no certificate"),
        (crl(write("bad.crl", "hello")), "D/bad.crl holds no revocation list"),
        (TlsSettings::default(), "a TLS listener needs a certificate and a key file"),
    ] {
        let error = load_server(&tls).err().expect(said).to_string();
        let shown = error.replace(&house.dir.path().display().to_string(), "D");
        assert!(shown.starts_with(said), "{shown}");
    }
}

/// An X.509 version 1 certificate, valid for a hundred years, and its key.
const VERSION_1: (&str, &str) = (
    "-----BEGIN CERTIFICATE-----\n\
     MIIBFzCBvwIUc/Rr/7MGi0n97Ucoj20JwLXcDg8wCgYIKoZIzj0EAwIwDjEMMAoG\n\
     A1UEAwwDb2xkMCAXDTI2MTEyNTE0MTA1NFoYDzIxMjYxMTAxMTQxMDU0WjAOMQww\n\
     CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQjeReGh+LjZi0i\n\
     PhFgE5ViWd9HGzRpj67h/CeSsy2AplXVaqK+lMyNwJt/w2Sf+KmeZVziU8jxkNTJ\n\
     Q81tQs5sMAoGCCqGSM49BAMCA0cAMEQCIGtV7/9/dIQh97UEWbz25b3VNxDEeiaj\n\
     DB8pOzVAl25vAiBnXe3MFWKqmFudSs9eeClHwT13RR1i+sU2Nx21uYWxbA==\n\
     -----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n\
     MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgt7sS2gsizxjZ0N8a\n\
     EEShQ4LSo9yA7tQAiZuyNfi9RJehRANCAAQjeReGh+LjZi0iPhFgE5ViWd9HGzRp\n\
     j67h/CeSsy2AplXVaqK+lMyNwJt/w2Sf+KmeZVziU8jxkNTJQ81tQs5s\n\
     -----END PRIVATE KEY-----\n",
);

#[tokio::test]
async fn a_certificate_of_version_1_is_served_with_its_own_key_only() {
    let house = house();
    let at = |name: &str| house.dir.path().join(name);
    std::fs::write(at("old.pem"), VERSION_1.0).expect("write");
    std::fs::write(at("old.key"), VERSION_1.1).expect("write");
    let pair =
        |key: &str| TlsSettings { cert_file: Some(at("old.pem")), key_file: Some(at(key)), ..TlsSettings::default() };
    assert!(load_server(&pair("old.key")).is_ok());
    let error = load_server(&pair("server.key")).err().expect("another key").to_string();
    assert!(error.contains("does not belong to the certificate"), "{error}");
}

#[tokio::test]
async fn auto_tls_generates_a_certificate_once_and_serves() {
    let dir = tempfile::tempdir().expect("dir");
    let mut settings = Settings { data_dir: dir.path().to_owned(), ..Settings::default() };
    settings.peer_tls.auto = true;
    let clock: Arc<SystemClock> = Arc::new(SystemClock::new());
    let server = ServerTls::for_peers(&settings, clock.clone()).expect("server");
    let cert = dir.path().join("fixtures/peer/cert.pem");
    let first = std::fs::read(&cert).expect("written");
    assert_eq!(mode(&dir.path().join("fixtures/peer/key.pem")), 0o600);
    ServerTls::for_peers(&settings, clock.clone()).expect("again");
    assert_eq!(std::fs::read(&cert).expect("kept"), first);
    let client = ClientTls::for_peers(&settings, clock).expect("client");
    assert_eq!(meet(&server, &client).await, Ok(None));
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).expect("file").permissions().mode() & 0o777
}

/// The ALPN protocol that a caller with these offers negotiates with a port.
async fn agreed(server: &ServerTls, client: &ClientTls, offers: Option<&[&[u8]]>) -> Result<Option<Vec<u8>>, String> {
    let mut config = (**client.connector().config()).clone();
    if let Some(offers) = offers {
        config.alpn_protocols = offers.iter().map(|protocol| protocol.to_vec()).collect();
    }
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ClientTls::server_name("localhost").expect("name");
    let calling = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, near);
    let (called, accepted) = tokio::join!(calling, server.accept(far, async {}));
    let called = called.map_err(|error| error.to_string())?;
    let ours = accepted.map_err(|error| error.to_string())?.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    assert_eq!(called.get_ref().1.alpn_protocol().map(<[u8]>::to_vec), ours);
    Ok(ours)
}

#[tokio::test]
async fn a_port_negotiates_only_its_own_protocols() {
    let house = house();
    let client = load_client(&house.client);
    let port = |protocols| ServerTls::load("test", protocols, &house.server, &policy(), Arc::new(SystemClock::new()));
    let (clients, peers) = (port(CLIENT_PORT).expect("server"), port(PEER_PORT).expect("server"));
    let (h2, http1): (&[u8], &[u8]) = (b"h2", b"http/1.1");
    // (port, offers, negotiated). A member of this release offers nothing; an older one offers `h2, http/1.1`.
    for (port, offers, expected) in [
        (&clients, Some(&[][..]), Ok(None)),
        (&clients, Some(&[h2, http1]), Ok(Some(h2))),
        (&clients, Some(&[http1]), Ok(Some(http1))),
        (&clients, Some(&[http1, h2]), Ok(Some(h2))),
        (&peers, Some(&[]), Ok(None)),
        (&peers, None, Ok(None)),
        (&peers, Some(&[h2, http1]), Ok(Some(http1))),
        (&peers, Some(&[http1]), Ok(Some(http1))),
        (&peers, Some(&[h2]), Err("NoApplicationProtocol")),
        // The peer port of an older release: it supported what the client port does.
        (&clients, None, Ok(None)),
    ] {
        let found = agreed(port, &client, offers).await;
        match (expected, found) {
            (Ok(expected), found) => assert_eq!(found, Ok(expected.map(<[u8]>::to_vec)), "{offers:?}"),
            (Err(reason), found) => {
                let refusal = found.expect_err("refused");
                assert!(refusal.contains(reason), "{offers:?}: {refusal}");
            }
        }
    }
}
