//! Real sockets on loopback: both HTTP versions, plain and TLS, hostile callers, and stopping.

use std::path::Path;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::clock::SystemClock;
use crate::settings::{TlsSettings, Url};
use crate::tls::ClientTls;
use crate::tls::fixtures::{Authority, Leaf};

/// Holds up requests for `/slow`.
struct Gate {
    arrived: Semaphore,
    open: Semaphore,
}

fn gate() -> Arc<Gate> {
    Arc::new(Gate { arrived: Semaphore::new(0), open: Semaphore::new(0) })
}

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

fn options(tls: Option<ServerTls>) -> Options {
    Options::for_clients("client", &Settings::default(), tls)
}

/// With little patience for callers who do not begin.
fn hasty(tls: Option<ServerTls>) -> Options {
    Options { handshake_timeout: Duration::from_secs(1), first_bytes_timeout: Duration::from_secs(1), ..options(tls) }
}

/// Answers who called and how: `HTTP/2.0 tls=true cn=alice`; `/slow` waits for the gate.
async fn answer(request: Request<Incoming>, gate: Arc<Gate>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let caller = request.extensions().get::<Caller>().expect("every request has a caller").clone();
    assert!(caller.ip().is_none_or(|ip| ip.is_loopback()));
    if request.uri().path() == "/slow" {
        gate.arrived.add_permits(1);
        let _permit = gate.open.acquire().await;
    }
    let cn = caller.common_name().unwrap_or("-");
    Ok(Response::new(Full::new(Bytes::from(format!("{:?} tls={} cn={cn}", request.version(), caller.is_tls())))))
}

fn start(bound: Bound, options: Options, gate: &Arc<Gate>) -> Running {
    let address = bound.local_addr().unwrap_or(([127, 0, 0, 1], 0).into());
    let shutdown = Shutdown::new();
    let gate = gate.clone();
    let service = tower::service_fn(move |request| answer(request, gate.clone()));
    let task = tokio::spawn(serve(bound, options, service, shutdown.clone()));
    Running { address, shutdown, task }
}

fn one(urls: &[&str]) -> Bound {
    let urls: Vec<Url> = urls.iter().map(|url| url.parse().expect("url")).collect();
    let mut bound = bind(&urls, false).expect("bind");
    assert_eq!(bound.len(), 1);
    bound.pop().expect("one")
}

fn plain() -> Running {
    start(one(&["http://127.0.0.1:0"]), options(None), &gate())
}

/// The body of `GET path` over HTTP/1.1 on any stream.
async fn get1<I>(io: I, path: &str) -> Result<String, String>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|error| text(&error))?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "x").body(Full::<Bytes>::default()).expect("request");
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let body = response.into_body().collect().await.map_err(|error| text(&error))?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The same over HTTP/2 with prior knowledge.
async fn get2<I>(io: I, path: &str) -> Result<String, String>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
        .await
        .map_err(|error| text(&error))?;
    tokio::spawn(connection);
    let request = Request::get(format!("http://x{path}")).body(Full::<Bytes>::default()).expect("request");
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    let body = response.into_body().collect().await.map_err(|error| text(&error))?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

async fn connect(running: &Running) -> TcpStream {
    TcpStream::connect(running.address).await.expect("connect")
}

struct House {
    dir: tempfile::TempDir,
    ca: Authority,
    server: TlsSettings,
}

fn house() -> House {
    let dir = tempfile::tempdir().expect("dir");
    let ca = Authority::new(dir.path(), "ca");
    let server = ca.settings("ca", &ca.issue("server", &Leaf::default()));
    House { dir, ca, server }
}

fn server_tls(tls: &TlsSettings) -> ServerTls {
    let policy = Settings::default().tls_policy;
    ServerTls::load("client", tls, &policy, Arc::new(SystemClock::new())).expect("server TLS")
}

fn client_tls(house: &House, leaf: Option<&Leaf<'_>>) -> ClientTls {
    let tls = match leaf {
        Some(leaf) => house.ca.settings("ca", &house.ca.issue("client", leaf)),
        None => TlsSettings { cert_file: None, key_file: None, ..house.server.clone() },
    };
    ClientTls::load("test", &tls, &Settings::default().tls_policy, Arc::new(SystemClock::new())).expect("client TLS")
}

async fn over_tls(running: &Running, tls: &ClientTls) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let name = ClientTls::server_name("localhost").expect("name");
    tls.connector().connect(name, connect(running).await).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn one_plain_port_speaks_both_versions() {
    let running = plain();
    assert_eq!(get1(connect(&running).await, "/").await, Ok("HTTP/1.1 tls=false cn=-".to_owned()));
    assert_eq!(get2(connect(&running).await, "/").await, Ok("HTTP/2.0 tls=false cn=-".to_owned()));
}

#[tokio::test]
async fn a_tls_caller_is_known_by_its_certificate() {
    let house = house();
    let running = start(one(&["https://127.0.0.1:0"]), options(Some(server_tls(&house.server))), &gate());
    let alice = client_tls(&house, Some(&Leaf { cn: "alice", ..Leaf::default() }));
    let stream = over_tls(&running, &alice).await.expect("handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(get2(stream, "/").await, Ok("HTTP/2.0 tls=true cn=alice".to_owned()));
    let stream = over_tls(&running, &alice).await.expect("resumed handshake");
    assert_eq!(get2(stream, "/").await, Ok("HTTP/2.0 tls=true cn=alice".to_owned()));
}

#[tokio::test]
async fn callers_without_certificate_or_without_tls_are_refused_and_others_served() {
    let house = house();
    let running = start(one(&["https://127.0.0.1:0"]), options(Some(server_tls(&house.server))), &gate());
    let anonymous = client_tls(&house, None);
    let refused = match over_tls(&running, &anonymous).await {
        // In TLS 1.3 the client is done before the server has judged it.
        Ok(stream) => get2(stream, "/").await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    assert!(get1(connect(&running).await, "/").await.is_err(), "plain HTTP on a TLS port");
    let alice = client_tls(&house, Some(&Leaf::default()));
    assert!(get2(over_tls(&running, &alice).await.expect("handshake"), "/").await.is_ok());
}

#[tokio::test]
async fn a_port_listed_with_both_schemes_speaks_both() {
    let house = house();
    let free = one(&["http://127.0.0.1:0"]).local_addr().expect("address").port();
    let bound = one(&[&format!("http://127.0.0.1:{free}"), &format!("https://127.0.0.1:{free}")]);
    let open = TlsSettings { trusted_ca_file: None, ..house.server.clone() };
    let running = start(bound, options(Some(server_tls(&open))), &gate());
    assert_eq!(get1(connect(&running).await, "/").await, Ok("HTTP/1.1 tls=false cn=-".to_owned()));
    let stream = over_tls(&running, &client_tls(&house, None)).await.expect("handshake");
    assert_eq!(get2(stream, "/").await, Ok("HTTP/2.0 tls=true cn=-".to_owned()));
}

/// Bytes until the other side closes.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.expect("closed in time"));
    bytes
}

#[tokio::test]
async fn silent_slow_and_senseless_callers_are_cut_off_while_others_are_served() {
    let house = house();
    let tls = start(one(&["https://127.0.0.1:0"]), hasty(Some(server_tls(&house.server))), &gate());
    let plain = start(one(&["http://127.0.0.1:0"]), hasty(None), &gate());
    for running in [&tls, &plain] {
        let silent = connect(running).await;
        let mut one_byte = connect(running).await;
        one_byte.write_all(if running.address == tls.address { b"\x16" } else { b"G" }).await.expect("write");
        let mut garbage = connect(running).await;
        garbage.write_all(&[0xff; 64]).await.expect("write");
        drop(connect(running).await);
        for stream in [silent, one_byte, garbage] {
            rest(stream).await;
        }
    }
    assert!(get1(connect(&plain).await, "/").await.is_ok());
    let alice = client_tls(&house, Some(&Leaf::default()));
    assert!(get2(over_tls(&tls, &alice).await.expect("handshake"), "/").await.is_ok());
}

#[tokio::test]
async fn more_silent_callers_than_handshake_places_do_not_keep_others_out() {
    let house = house();
    let options = Options {
        handshakes: Arc::new(Semaphore::new(1)),
        handshake_timeout: Duration::from_secs(5),
        ..options(Some(server_tls(&house.server)))
    };
    let running = start(one(&["https://127.0.0.1:0"]), options, &gate());
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(connect(&running).await);
    }
    let alice = client_tls(&house, Some(&Leaf::default()));
    assert!(get2(over_tls(&running, &alice).await.expect("handshake"), "/").await.is_ok());
    assert_eq!(silent.len(), 8);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let options = Options {
        connections: Arc::new(Semaphore::new(1)),
        first_bytes_timeout: Duration::from_secs(60),
        ..options(None)
    };
    let running = start(one(&["http://127.0.0.1:0"]), options, &gate());
    let first = connect(&running).await;
    let second = tokio::spawn(get1(connect(&running).await, "/"));
    drop(first);
    assert!(second.await.expect("task").is_ok(), "the place of the first became free");
}

#[tokio::test]
async fn draining_answers_open_requests_and_takes_no_new_ones() {
    let gate = gate();
    let running = start(one(&["http://127.0.0.1:0"]), options(None), &gate);
    let slow =
        [tokio::spawn(get1(connect(&running).await, "/slow")), tokio::spawn(get2(connect(&running).await, "/slow"))];
    drop(gate.arrived.acquire_many(2).await.expect("both requests arrive"));
    running.shutdown.drain();
    gate.open.add_permits(2);
    for task in slow {
        assert!(task.await.expect("task").is_ok());
    }
    running.task.await.expect("serve returns");
    assert!(TcpStream::connect(running.address).await.is_err(), "the socket is closed");
}

#[tokio::test]
async fn cutting_ends_requests_that_never_end() {
    let gate = gate();
    let running = start(one(&["http://127.0.0.1:0"]), options(None), &gate);
    let slow = tokio::spawn(get2(connect(&running).await, "/slow"));
    drop(gate.arrived.acquire().await.expect("the request arrives"));
    running.shutdown.drain();
    assert!(!running.task.is_finished());
    running.shutdown.cut();
    running.task.await.expect("serve returns");
    assert!(slow.await.expect("task").is_err());
}

#[tokio::test]
async fn a_port_in_use_and_a_name_are_refused_by_address() {
    let running = plain();
    let taken: Url = format!("http://{}", running.address).parse().expect("url");
    let error = bind(&[taken], false).expect_err("in use").to_string();
    assert!(error.starts_with(&format!("listen tcp {}: bind: Address already in use", running.address)), "{error}");
    let named: Url = "http://example.com:1".parse().expect("url");
    assert_eq!(
        bind(&[named], false).expect_err("name").to_string(),
        "expected IP in URL for binding (http://example.com:1)"
    );
}

#[tokio::test]
async fn unix_sockets_serve_replace_stale_files_and_leave_none() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("s");
    let url = format!("unix://{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a killed process's socket"));
    assert!(path.exists());
    let running = start(one(&[&url]), options(None), &gate());
    let stream = tokio::net::UnixStream::connect(&path).await.expect("connect");
    assert_eq!(get1(stream, "/").await, Ok("HTTP/1.1 tls=false cn=-".to_owned()));
    running.shutdown.cut();
    running.task.await.expect("serve returns");
    assert!(!path.exists());
    std::fs::write(&path, "precious").expect("write");
    let urls: [Url; 1] = [url.parse().expect("url")];
    assert!(bind(&urls, false).is_err(), "a file that is no socket is not removed");
    assert_eq!(std::fs::read_to_string(Path::new(&path)).expect("kept"), "precious");
}

#[tokio::test]
async fn a_peer_from_an_address_outside_its_certificate_is_refused() {
    let house = house();
    let options = Options { verify_source: true, ..options(Some(server_tls(&house.server))) };
    let running = start(one(&["https://127.0.0.1:0"]), options, &gate());
    for (names, passes) in [
        (&["127.0.0.1"][..], true),
        (&["10.9.9.9"][..], false),
        (&["10.9.9.9", "localhost"][..], true),
        (&["no-such-host.invalid"][..], false),
        (&[][..], true),
    ] {
        let tls = client_tls(&house, Some(&Leaf { names, ..Leaf::default() }));
        let served = match over_tls(&running, &tls).await {
            Ok(stream) => get2(stream, "/").await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(served, passes, "{names:?}");
    }
    drop(house.dir);
}

#[test]
fn descriptors_are_kept_back_from_connections() {
    for (open_files, connections) in [(1024, 874), (65536, 65386), (160, 32), (0, 32)] {
        assert_eq!(connections_for(open_files), connections);
    }
    assert_eq!(connections_for(u64::MAX), Semaphore::MAX_PERMITS);
}
