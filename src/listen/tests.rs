//! Real sockets on loopback: both HTTP versions, plain and TLS, hostile callers, and stopping.

use std::path::Path;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::admission::{Limits, Pool};
use crate::clock::SystemClock;
use crate::settings::{TlsSettings, Url};
use crate::tls::ClientTls;
use crate::tls::fixtures::{Authority, Leaf};

/// Holds up requests for `/slow`.
struct Barrier {
    arrived: Semaphore,
    open: Semaphore,
}

fn gate() -> Arc<Barrier> {
    Arc::new(Barrier { arrived: Semaphore::new(0), open: Semaphore::new(0) })
}

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

fn options(tls: Option<ServerTls>) -> Options {
    Options::for_clients(&Settings::default(), tls, &Admission::start().expect("a thread"))
}

/// With pools of these sizes.
fn narrow(tls: Option<ServerTls>, waiting: usize, seats: usize) -> Options {
    let pool = |connections| Pool::new(Limits { connections, bytes: usize::MAX, each: 1, leaving: 64 });
    Options { port: Port { waiting: pool(waiting), seats: pool(seats) }, ..options(tls) }
}

/// With little patience for callers who do not begin.
fn hasty(tls: Option<ServerTls>) -> Options {
    Options { handshake_timeout: Duration::from_secs(1), first_bytes_timeout: Duration::from_secs(1), ..options(tls) }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Answers who called and how: `HTTP/2.0 tls=true cn=alice`. `/slow` waits for the gate, `/stream` in the midst of its body.
async fn answer(request: Request<Incoming>, gate: Arc<Barrier>) -> Result<Response<Body>, std::io::Error> {
    let caller = request.extensions().get::<Caller>().expect("every request has a caller").clone();
    assert!(caller.ip().is_none_or(|ip| ip.is_loopback()));
    let path = request.uri().path();
    if path == "/slow" {
        gate.arrived.add_permits(1);
        let _permit = gate.open.acquire().await;
    }
    if path == "/stream" {
        let end = futures::stream::once(async move {
            let _permit = gate.open.acquire().await;
            Ok(http_body::Frame::data(Bytes::from_static(b"end")))
        });
        return Ok(Response::new(StreamBody::new(end).boxed_unsync()));
    }
    let cn = caller.common_name().unwrap_or("-");
    let body = Full::new(Bytes::from(format!("{:?} tls={} cn={cn}", request.version(), caller.is_tls())));
    Ok(Response::new(body.map_err(|never| match never {}).boxed_unsync()))
}

fn start(bound: Bound, options: Options, gate: &Arc<Barrier>) -> Running {
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
    ServerTls::load("client", crate::tls::CLIENT_PORT, tls, &policy, Arc::new(SystemClock::new())).expect("server TLS")
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

/// Reads until the other side closes.
async fn rest_of(stream: &mut TcpStream) {
    drop(tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await.expect("closed"));
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
        for mut stream in [silent, one_byte, garbage] {
            rest_of(&mut stream).await;
        }
    }
    assert!(get1(connect(&plain).await, "/").await.is_ok());
    let alice = client_tls(&house, Some(&Leaf::default()));
    assert!(get2(over_tls(&tls, &alice).await.expect("handshake"), "/").await.is_ok());
}

/// Whether this side has closed the connection, without waiting for it.
async fn is_closed(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(Duration::from_millis(20), stream.read_u8()).await.is_ok_and(|read| read.is_err())
}

#[tokio::test]
async fn more_callers_than_may_wait_push_out_the_oldest_and_never_the_newcomer() {
    let house = house();
    let alice = client_tls(&house, Some(&Leaf::default()));
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x01\x00"] {
        let running = start(one(&["https://127.0.0.1:0"]), narrow(Some(server_tls(&house.server)), 4, 100), &gate());
        let mut silent = Vec::new();
        for _ in 0..40 {
            let mut stream = connect(&running).await;
            stream.write_all(begun).await.expect("sent");
            silent.push(stream);
        }
        assert!(get2(over_tls(&running, &alice).await.expect("handshake"), "/").await.is_ok());
        for stream in &mut silent[..36] {
            rest_of(stream).await;
        }
        assert!(!is_closed(&mut silent[39]).await, "the newest of them waits still");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_push_out_idle_ones_and_never_those_that_are_answered() {
    let barrier = gate();
    let running = start(one(&["http://127.0.0.1:0"]), narrow(None, 100, 2), &barrier);
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut idle = connect(&running).await;
    idle.write_all(request).await.expect("sent");
    idle.read_u8().await.expect("answered");
    let answered = start_answer(&running).await;
    assert_eq!(get1(connect(&running).await, "/").await, Ok("HTTP/1.1 tls=false cn=-".to_owned()));
    assert_eq!(get1(connect(&running).await, "/").await, Ok("HTTP/1.1 tls=false cn=-".to_owned()));
    rest_of(&mut idle).await;
    assert!(!answered.is_finished(), "an answer that is being sent keeps its connection");
    barrier.open.add_permits(1);
    assert_eq!(answered.await.expect("task"), Ok("end".to_owned()));
}

/// A stream from another address of this machine.
async fn connect_from(running: &Running, from: [u8; 4]) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of loopback");
    socket.connect(running.address).await.expect("connect")
}

#[tokio::test]
async fn streams_without_end_from_one_address_keep_no_other_address_out() {
    let running = start(one(&["http://127.0.0.1:0"]), narrow(None, 100, 4), &gate());
    let mut pinned = Vec::new();
    for _ in 0..4 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
            TokioExecutor::new(),
            TokioIo::new(connect(&running).await),
        )
        .await
        .expect("handshake");
        let connection = tokio::spawn(connection);
        let request = Request::get("http://x/stream").body(Full::default()).expect("request");
        let answer = sender.send_request(request).await.expect("the head of an answer");
        pinned.push((sender, connection, answer));
    }
    for _ in 0..200 {
        let newcomer = connect_from(&running, [127, 0, 0, 2]).await;
        assert_eq!(get2(newcomer, "/").await, Ok("HTTP/2.0 tls=false cn=-".to_owned()));
    }
    assert!(get1(connect(&running).await, "/").await.is_ok(), "the address itself may take idle seats");
    let (_, first, _) = &mut pinned[0];
    tokio::time::timeout(Duration::from_secs(10), first).await.expect("the oldest stream lost its seat").ok();
    assert!(
        pinned[1..].iter().all(|(_, connection, _)| !connection.is_finished()),
        "there was an idle seat from then on"
    );
}

#[tokio::test]
async fn a_connection_whose_request_is_worked_on_is_not_idle() {
    let barrier = gate();
    let running = start(one(&["http://127.0.0.1:0"]), narrow(None, 100, 2), &barrier);
    let slow = tokio::spawn(get2(connect(&running).await, "/slow"));
    drop(barrier.arrived.acquire().await.expect("the request arrives"));
    for _ in 0..5 {
        assert!(get1(connect(&running).await, "/").await.is_ok());
    }
    assert!(!slow.is_finished());
    barrier.open.add_permits(1);
    assert!(slow.await.expect("task").is_ok());
}

/// A request whose answer has begun and ends when the gate is opened.
async fn start_answer(running: &Running) -> JoinHandle<Result<String, String>> {
    let mut stream = connect(running).await;
    stream.write_all(b"GET /stream HTTP/1.0\r\n\r\n").await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("the head of an answer"));
    }
    tokio::spawn(async move {
        let mut body = String::new();
        stream.read_to_string(&mut body).await.map_err(|error| error.to_string())?;
        Ok(body)
    })
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
