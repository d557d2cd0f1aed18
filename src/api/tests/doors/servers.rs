//! Servers that the table is walked on: a member of ours in this process, and real etcd.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower::ServiceExt;

use super::Who;
use crate::api::service::{ClientService, MetricsService};
use crate::api::tests::member::{self, Member};
use crate::api::v2::{Hub, V2};
use crate::clock::SystemClock;
use crate::listen::Caller;
use crate::settings::{AuthToken, Settings};
use crate::tls::ClientTls;
use crate::tls::fixtures::{Authority, Leaf};

/// Longest wait for the part of an answer that shows whether it is a refusal.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait for a program to serve.
const START: Duration = Duration::from_secs(60);

/// One request, without who sends it.
#[derive(Clone)]
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub is_grpc: bool,
    /// The request stays open after its body.
    pub stays_open: bool,
    /// The first message of the answer is all of it.
    pub is_stream: bool,
}

impl Ask {
    pub fn http(method: Method, path: &str, kind: &'static str, body: impl Into<Bytes>) -> Self {
        // Without `accept` etcd's gateway takes its caller for whom its own certificate names (see `theirs`).
        let headers = vec![("content-type", kind.to_owned()), ("accept", "*/*".to_owned())];
        Self {
            method,
            path: path.to_owned(),
            headers,
            body: body.into(),
            is_grpc: false,
            stays_open: false,
            is_stream: false,
        }
    }

    /// A call with the token of a user, which both kinds of call take.
    pub fn with_token(mut self, token: Option<String>) -> Self {
        let name = if self.is_grpc { "token" } else { "authorization" };
        self.headers.extend(token.map(|token| (name, token)));
        self
    }

    pub fn with_password(mut self, name: &str, password: &str) -> Self {
        let coded = BASE64_STANDARD.encode(format!("{name}:{password}"));
        self.headers.push(("authorization", format!("Basic {coded}")));
        self
    }

    /// As a client on HTTP/1 sends it, but for the host.
    fn request(self) -> Request<BoxBody<Bytes, Infallible>> {
        let body = if self.stays_open {
            let first = futures::stream::iter([Ok(Frame::data(self.body))]);
            BodyExt::boxed(StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending())))
        } else {
            Full::new(self.body).boxed()
        };
        let mut request = Request::builder().method(self.method).uri(self.path);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        request.body(body).expect("a request")
    }
}

impl Ask {
    /// As it reaches the service of ours from a client on HTTP/1.
    pub fn into_request(self) -> Request<BoxBody<Bytes, Infallible>> {
        let mut request = self.request();
        request.headers_mut().insert("host", "127.0.0.1".parse().expect("a host"));
        request
    }
}

/// What was heard: a status, and every text in which a refusal may stand.
#[derive(Debug)]
pub struct Heard {
    pub status: u16,
    pub text: String,
    /// A stream that was to have a message ended without one.
    pub is_cut: bool,
}

async fn heard<B>(response: Response<B>, is_stream: bool) -> Heard
where
    B: Body<Data = Bytes> + Unpin,
{
    let (head, mut body) = response.into_parts();
    // Some servers write a space as it is, others as `%20`.
    let message = |headers: &http::HeaderMap| {
        headers.get("grpc-message").map(|text| text.to_str().unwrap_or_default().replace("%20", " "))
    };
    let mut text = message(&head.headers).unwrap_or_default();
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => {
                text.push_str(&String::from_utf8_lossy(&data));
                if is_stream {
                    break;
                }
            }
            Err(frame) => text.push_str(&message(&frame.into_trailers().unwrap_or_default()).unwrap_or_default()),
        }
    }
    let is_cut = is_stream && text.is_empty();
    Heard { status: head.status.as_u16(), text, is_cut }
}

/// A server of either kind.
pub enum Server {
    Ours { member: Box<Member>, clients: ClientService, metrics: MetricsService, v2: Arc<V2> },
    Etcd { child: Child, plain: u16, secure: u16, peer_url: String, tls: ClientTls, _folder: tempfile::TempDir },
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Etcd { child, .. } = self {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Server {
    pub async fn ours() -> Self {
        let options = crate::api::identity::IdentityOptions {
            token: AuthToken::Simple,
            token_ttl: Duration::from_secs(300),
            bcrypt_cost: 4,
            by_certificate: true,
        };
        let member = member::start_as(options, |_limits| {}).await;
        let hub = Arc::new(Hub::new(member.state.metrics.v2.clone()));
        member.state.store.subscribe(hub.clone());
        let v2 = V2::new(member.state.clone(), hub, true);
        let clients = ClientService::new(member.state.clone(), member.http_options(), Some(v2.clone()));
        let metrics = MetricsService::new(member.state.clone());
        Self::Ours { member: Box::new(member), clients, metrics, v2 }
    }

    /// A member of real etcd, with a plain port and one that asks for certificates.
    pub async fn etcd(program: &Path, extra: &[&str]) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
        let ca = Authority::new(folder.path(), "ca");
        let pair = ca.issue("server", &Leaf::default());
        let client = ca.settings("ca", &ca.issue("client", &Leaf { cn: "root", serial: 8, ..Leaf::default() }));
        let policy = Settings::default().tls_policy;
        let tls = ClientTls::load("test", &client, &policy, Arc::new(SystemClock::new())).expect("client TLS");
        let [plain, secure, peer] = free_ports();
        let data = folder.path().join("data");
        let text = |path: &Path| path.display().to_string();
        let (plain_url, peer_url) = (format!("http://127.0.0.1:{plain}"), format!("http://127.0.0.1:{peer}"));
        let flags = [
            ("--name", "one".to_owned()),
            ("--data-dir", text(&data)),
            ("--listen-client-urls", format!("{plain_url},https://127.0.0.1:{secure}")),
            ("--advertise-client-urls", plain_url),
            ("--listen-peer-urls", peer_url.clone()),
            ("--initial-advertise-peer-urls", peer_url.clone()),
            ("--initial-cluster", format!("one={peer_url}")),
            ("--cert-file", text(&pair.0)),
            ("--key-file", text(&pair.1)),
            ("--trusted-ca-file", text(client.trusted_ca_file.as_ref().expect("an authority"))),
            ("--bcrypt-cost", "4".to_owned()),
        ];
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new(program);
        command.args(flags.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]));
        command.args(["--client-cert-auth", "--enable-pprof"]).args(extra);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("etcd starts");
        let mut server = Self::Etcd { child, plain, secure, peer_url, tls, _folder: folder };
        server.serves().await;
        server
    }

    async fn serves(&mut self) {
        let begun = std::time::Instant::now();
        loop {
            let Self::Etcd { child, plain, .. } = self else { return };
            assert!(child.try_wait().expect("a child").is_none(), "etcd ended: {}", self.log());
            assert!(begun.elapsed() < START, "etcd does not serve: {}", self.log());
            if TcpStream::connect(("127.0.0.1", *plain)).await.is_ok() {
                let health = Ask::http(Method::GET, "/health", "text/plain", "");
                let said = self.ask(Who::Nobody, health).await;
                if said.text.contains("true") {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> String {
        match self {
            Self::Etcd { _folder, .. } => std::fs::read_to_string(_folder.path().join("log")).unwrap_or_default(),
            Self::Ours { .. } => String::new(),
        }
    }

    /// The peer URL of its only member.
    pub fn peer_url(&self) -> String {
        match self {
            Self::Ours { .. } => Member::PEER_URL.to_owned(),
            Self::Etcd { peer_url, .. } => peer_url.clone(),
        }
    }

    /// Sends the request, over a connection with a certificate if that is who asks.
    pub async fn ask(&self, who: Who, ask: Ask) -> Heard {
        let (method, path) = (ask.method.clone(), ask.path.clone());
        match tokio::time::timeout(PATIENCE, self.exchange(who, ask)).await {
            Ok(heard) => heard,
            Err(_) => Heard { status: 0, text: format!("no answer to {method} {path} by {who:?}"), is_cut: false },
        }
    }

    async fn exchange(&self, who: Who, ask: Ask) -> Heard {
        let (is_grpc, is_stream, with_certificate) = (ask.is_grpc, ask.is_stream, who == Who::Certificate);
        let mut request = ask.request();
        match self {
            Self::Ours { clients, .. } => {
                if is_grpc {
                    *request.version_mut() = Version::HTTP_2;
                } else {
                    request.headers_mut().insert("host", "127.0.0.1".parse().expect("a host"));
                }
                if with_certificate {
                    request.extensions_mut().insert(Caller::with_common_name("root"));
                }
                let is_head = request.method() == Method::HEAD;
                let said = heard(clients.clone().oneshot(request).await.expect("infallible"), is_stream).await;
                // What a service says to HEAD does not reach the wire.
                if is_head { Heard { text: String::new(), ..said } } else { said }
            }
            Self::Etcd { plain, secure, tls, .. } => {
                let port = if with_certificate { *secure } else { *plain };
                let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("etcd accepts");
                if with_certificate {
                    let name = ClientTls::server_name("localhost").expect("a name");
                    // Calls to members offer no protocol (note 077); etcd takes who offers none for HTTP/1.
                    let connector = tls.connector();
                    let offering = connector.with_alpn(vec![b"h2".to_vec()]);
                    let stream = offering.connect(name, stream).await.expect("a handshake");
                    over_http2(TokioIo::new(stream), "https", port, request, is_stream).await
                } else if is_grpc {
                    over_http2(TokioIo::new(stream), "http", port, request, is_stream).await
                } else {
                    let io = TokioIo::new(stream);
                    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1");
                    let connection = tokio::spawn(connection);
                    request.headers_mut().insert("host", format!("127.0.0.1:{port}").parse().expect("a host"));
                    let heard = heard(sender.send_request(request).await.expect("an answer"), is_stream).await;
                    connection.abort();
                    heard
                }
            }
        }
    }

    /// Asks the metrics port; there is one on ours only.
    pub async fn ask_metrics(&self, ask: Ask) -> Heard {
        let Self::Ours { metrics, .. } = self else { panic!("only ours has a metrics port here") };
        heard(metrics.clone().oneshot(ask.into_request()).await.expect("infallible"), false).await
    }

    /// How often passwords of v3 and of v2 have been computed; only ours can be looked into.
    pub fn computed(&self) -> [u64; 2] {
        match self {
            Self::Ours { member, v2, .. } => [member.state.identities.passwords().computed(), v2.computed()],
            Self::Etcd { .. } => panic!("only ours can be looked into"),
        }
    }

    /// The service of the client port of ours.
    pub fn clients(&self) -> ClientService {
        match self {
            Self::Ours { clients, .. } => clients.clone(),
            Self::Etcd { .. } => panic!("only ours can be looked into"),
        }
    }
}

async fn over_http2<I>(
    io: I,
    scheme: &str,
    port: u16,
    mut request: Request<BoxBody<Bytes, Infallible>>,
    is_stream: bool,
) -> Heard
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    *request.uri_mut() = format!("{scheme}://127.0.0.1:{port}{}", request.uri()).parse().expect("a URI");
    *request.version_mut() = Version::HTTP_2;
    let heard = heard(sender.send_request(request).await.expect("an answer"), is_stream).await;
    connection.abort();
    heard
}

fn free_ports() -> [u16; 3] {
    // Held together, so that each is another one.
    let sockets = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    sockets.map(|socket| socket.local_addr().expect("an address").port())
}

/// A program to compare with, or a loud word that the comparison is not made.
pub fn program(variable: &str, default: Option<&str>, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from).or(default.map(PathBuf::from));
    let found = path.filter(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: no {what} to compare the permission table with; name its program in {variable}");
    }
    found
}
