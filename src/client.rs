//! A small etcd client for the charm and the tests: one connection, short deadlines.
//!
//! [`Client::connect`] takes a list of endpoints and uses the first that completes TCP, TLS and
//! the HTTP/2 preface. A call is sent once, to that endpoint, and never retried: whether to retry a
//! membership change with an unknown outcome is the caller's decision. Every call ends within
//! [`CALL_TIMEOUT`]. TLS is rustls with our own connector; the three PEM texts are kept in
//! memory only.

pub mod copy;
pub mod health;
pub mod http;
mod presented;

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

pub use presented::{Presented, presented};
/// gRPC status codes.
pub use tonic::Code;

use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;

/// Timeout to connect to one endpoint: TCP connect, TLS handshake and HTTP/2 preface.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of one call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of endpoints tried by one [`Client::connect`].
pub const MAX_ENDPOINTS: usize = 16;

/// Why a call to a member failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// An endpoint is not `http://host:port` or `https://host:port`.
    #[error("endpoint {endpoint:?} is not a URL such as https://10.0.0.1:2379: {cause}")]
    Endpoint {
        /// The text given.
        endpoint: String,
        /// The parser's reason.
        cause: String,
    },
    /// A PEM text is unusable.
    #[error("the {what} for reaching etcd is unusable: {cause}")]
    Tls {
        /// Which of the three texts.
        what: &'static str,
        /// The reason.
        cause: String,
    },
    /// No endpoint could be reached.
    #[error("no etcd endpoint could be reached: {0}")]
    Unreachable(String),
    /// A member returned an error, with etcd's message.
    #[error("{}", .0.message())]
    Refused(Box<tonic::Status>),
    /// A member's response cannot be decoded.
    #[error("the answer of etcd to {0} could not be read")]
    Answer(&'static str),
}

impl ClientError {
    /// The gRPC code, if a member returned an error.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            ClientError::Refused(status) => Some(status.code()),
            _ => None,
        }
    }
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        ClientError::Refused(Box::new(status))
    }
}

/// The three PEM texts of a mutual-TLS client.
#[derive(Clone)]
pub struct TlsPem {
    /// CA certificates trusted to sign the server's certificate, one or more.
    pub ca: String,
    /// Our certificate.
    pub certificate: String,
    /// Our private key, PKCS#8.
    pub key: String,
}

/// A member in the cluster's member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Member id.
    pub id: u64,
    /// Name; empty until the member has started for the first time.
    pub name: String,
    /// Peer URLs.
    pub peer_urls: Vec<String>,
    /// Client URLs; empty until the member has started for the first time.
    pub client_urls: Vec<String>,
    /// Whether it is a learner (a non-voting member).
    pub is_learner: bool,
}

/// The status of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its own id.
    pub member_id: u64,
    /// The id of its cluster.
    pub cluster_id: u64,
    /// The Raft leader's id as known to it; 0 when there is none.
    pub leader: u64,
    /// Server version, such as `3.6.1`.
    pub version: String,
    /// Whether it is a learner.
    pub is_learner: bool,
    /// Current revision.
    pub revision: i64,
    /// Raft term.
    pub raft_term: u64,
}

/// A connection to one member.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    endpoint: String,
    /// Auth token, sent with each call once logged in.
    token: Option<tonic::metadata::MetadataValue<tonic::metadata::Ascii>>,
}

impl Client {
    /// Connects to the first endpoint that answers.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] with every endpoint's reason; [`ClientError::Tls`] and
    /// [`ClientError::Endpoint`] for bad input.
    pub async fn connect(endpoints: &[String], tls: Option<&TlsPem>) -> Result<Client, ClientError> {
        Self::connect_with(endpoints, tls.map(tls_config).transpose()?).await
    }

    /// As [`Client::connect`], with the caller's own TLS configuration, which must offer `h2` in ALPN.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(
        endpoints: &[String],
        config: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Client, ClientError> {
        let mut reasons = Vec::new();
        for endpoint in endpoints.iter().take(MAX_ENDPOINTS) {
            match tokio::time::timeout(CONNECT_TIMEOUT, open(endpoint, config.clone())).await {
                Ok(Ok(channel)) => return Ok(Client { channel, endpoint: endpoint.clone(), token: None }),
                Ok(Err(error @ ClientError::Endpoint { .. })) => return Err(error),
                Ok(Err(error)) => reasons.push(format!("{endpoint}: {error}")),
                Err(_) => reasons.push(format!("{endpoint}: no answer in {CONNECT_TIMEOUT:?}")),
            }
        }
        Err(ClientError::Unreachable(reasons.join("; ")))
    }

    /// The endpoint this client is connected to.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Lists the members; `linearizable` confirms the list with a quorum, otherwise it is the member's local list.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with etcd's sentence.
    pub async fn member_list(&self, linearizable: bool) -> Result<Vec<Member>, ClientError> {
        let request = timed(pb::MemberListRequest { linearizable });
        let answer = self.cluster().member_list(request).await?.into_inner();
        Ok(answer.members.into_iter().map(Member::from).collect())
    }

    /// Adds a member as a learner and returns its id.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with etcd's sentence, such as `Peer URLs already exists`.
    pub async fn member_add_learner(&self, peer_urls: &[String]) -> Result<u64, ClientError> {
        let request = timed(pb::MemberAddRequest { peer_ur_ls: peer_urls.to_vec(), is_learner: true });
        let answer = self.cluster().member_add(request).await?.into_inner();
        answer.member.map(|member| member.id).ok_or(ClientError::Answer("member add"))
    }

    /// Promotes a learner to a voting member.
    ///
    /// # Errors
    /// [`ClientError::Refused`] while the learner is not in sync.
    pub async fn member_promote(&self, id: u64) -> Result<(), ClientError> {
        self.cluster().member_promote(timed(pb::MemberPromoteRequest { id })).await?;
        Ok(())
    }

    /// Removes a member.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the member is unknown or the removal would lose the quorum.
    pub async fn member_remove(&self, id: u64) -> Result<(), ClientError> {
        self.cluster().member_remove(timed(pb::MemberRemoveRequest { id })).await?;
        Ok(())
    }

    /// Replaces a member's peer URLs.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the member is unknown or a URL belongs to another member.
    pub async fn member_update(&self, id: u64, peer_urls: &[String]) -> Result<(), ClientError> {
        let request = timed(pb::MemberUpdateRequest { id, peer_ur_ls: peer_urls.to_vec() });
        self.cluster().member_update(request).await?;
        Ok(())
    }

    /// The status of the connected member.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it cannot answer.
    pub async fn status(&self) -> Result<Status, ClientError> {
        let answer = self.maintenance().status(timed(pb::StatusRequest {})).await?.into_inner();
        let header = answer.header.ok_or(ClientError::Answer("status"))?;
        Ok(Status {
            member_id: header.member_id,
            cluster_id: header.cluster_id,
            leader: answer.leader,
            version: answer.version,
            is_learner: answer.is_learner,
            revision: header.revision,
            raft_term: answer.raft_term,
        })
    }

    /// The check of `etcdctl endpoint health`: a linearizable read through this member succeeds
    /// (or is denied for lack of permission, which also proves a quorum) and no alarm is raised.
    /// Returns the names of the raised alarms; empty means healthy.
    ///
    /// # Errors
    /// The reason why the member could not serve the read.
    pub async fn health(&self) -> Result<Vec<String>, ClientError> {
        match self.get("health").await {
            Ok(_) => {}
            Err(error) if error.code() == Some(Code::PermissionDenied) => {}
            Err(error) => return Err(error),
        }
        let request = timed(pb::AlarmRequest { action: 0, member_id: 0, alarm: pb::AlarmType::None.into() });
        let alarms = self.maintenance().alarm(request).await?.into_inner().alarms;
        Ok(alarms.iter().map(|raised| format!("{} on {:x}", raised.alarm().as_str_name(), raised.member_id)).collect())
    }

    /// Transfers Raft leadership; only the leader accepts this call.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `not leader` or `bad leader transferee`.
    pub async fn move_leader(&self, target: u64) -> Result<(), ClientError> {
        let request = timed(pb::MoveLeaderRequest { target_id: target });
        self.maintenance().move_leader(request).await?;
        Ok(())
    }

    /// Writes one key and returns the revision of the write.
    ///
    /// # Errors
    /// [`ClientError::Refused`]; after a timeout the write may or may not have happened.
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<i64, ClientError> {
        let (key, value): (Vec<u8>, Vec<u8>) = (key.into(), value.into());
        let request = timed(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() });
        let answer = self.kv().put(request).await?.into_inner();
        answer.header.map(|header| header.revision).ok_or(ClientError::Answer("put"))
    }

    /// Reads one key, linearizably.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when there is no quorum.
    pub async fn get(&self, key: impl Into<Vec<u8>>) -> Result<Option<Vec<u8>>, ClientError> {
        let key: Vec<u8> = key.into();
        let request = timed(pb::RangeRequest { key: key.into(), ..Default::default() });
        let answer = self.kv().range(request).await?.into_inner();
        match answer.kvs.into_iter().next() {
            None => Ok(None),
            Some(encoded) => mvccpb::KeyValue::decode(encoded)
                .map(|kv| Some(kv.value.to_vec()))
                .map_err(|_| ClientError::Answer("get")),
        }
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }
}

impl From<pb::Member> for Member {
    fn from(member: pb::Member) -> Self {
        Member {
            id: member.id,
            name: member.name,
            peer_urls: member.peer_ur_ls,
            client_urls: member.client_ur_ls,
            is_learner: member.is_learner,
        }
    }
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// A parsed endpoint.
#[derive(Debug, Clone)]
struct Target {
    text: String,
    secure: bool,
    /// Without brackets.
    host: String,
    port: u16,
    name: ServerName<'static>,
}

impl Target {
    fn parse(endpoint: &str) -> Result<Target, ClientError> {
        let bad = |cause: &dyn std::fmt::Display| ClientError::Endpoint {
            endpoint: endpoint.to_owned(),
            cause: cause.to_string(),
        };
        let url = url::Url::parse(endpoint).map_err(|e| bad(&e))?;
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(bad(&"the scheme is neither http nor https")),
        };
        let host = url.host_str().ok_or_else(|| bad(&"it has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().ok_or_else(|| bad(&"it has no port"))?;
        let name = ServerName::try_from(host.clone()).map_err(|e| bad(&e))?;
        Ok(Target { text: endpoint.to_owned(), secure, host, port, name })
    }

    /// The TLS configuration this endpoint needs: `https` must have one, `http` has none.
    fn choose(
        &self,
        config: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Option<Arc<rustls::ClientConfig>>, ClientError> {
        match (self.secure, config) {
            (true, None) => Err(ClientError::Endpoint {
                endpoint: self.text.clone(),
                cause: "https needs the three PEM texts".to_owned(),
            }),
            (true, config) => Ok(config),
            (false, _) => Ok(None),
        }
    }

    async fn dial(&self, config: Option<Arc<rustls::ClientConfig>>) -> std::io::Result<Stream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(match config {
            None => Stream::Plain(stream),
            Some(config) => {
                let tls = tokio_rustls::TlsConnector::from(config);
                Stream::Tls(Box::new(tls.connect(self.name.clone(), stream).await?))
            }
        })
    }
}

/// Opens a channel to one endpoint. `config` is required for `https` and forbidden for `http`.
async fn open(endpoint: &str, config: Option<Arc<rustls::ClientConfig>>) -> Result<Channel, ClientError> {
    let bad = |cause: &dyn std::fmt::Display| ClientError::Endpoint {
        endpoint: endpoint.to_owned(),
        cause: cause.to_string(),
    };
    let target = Target::parse(endpoint)?;
    let config = target.choose(config)?;
    let connector = tower::service_fn(move |_: Uri| {
        let (config, target) = (config.clone(), target.clone());
        async move { Ok::<_, std::io::Error>(TokioIo::new(target.dial(config).await?)) }
    });
    Endpoint::from_shared(endpoint.to_owned())
        .map_err(|e| bad(&e))?
        .timeout(CALL_TIMEOUT)
        .connect_with_connector(connector)
        .await
        .map_err(|error| ClientError::Unreachable(causes(&error)))
}

/// The whole error chain in one line; the outermost error alone says only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn tls_config(pem: &TlsPem) -> Result<Arc<rustls::ClientConfig>, ClientError> {
    let (builder, chain, key) = tls_parts(pem)?;
    let mut config = builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| ClientError::Tls { what: "certificate", cause: e.to_string() })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

type TlsParts = (
    rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>,
    Vec<CertificateDer<'static>>,
    PrivateKeyDer<'static>,
);

/// A configuration that verifies servers, and the client's key pair.
fn tls_parts(pem: &TlsPem) -> Result<TlsParts, ClientError> {
    let bad = |what: &'static str, cause: &dyn std::fmt::Display| ClientError::Tls { what, cause: cause.to_string() };
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(pem.ca.as_bytes()) {
        let authority = authority.map_err(|e| bad("authority", &e))?;
        roots.add(authority).map_err(|e| bad("authority", &e))?;
    }
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| bad("certificate", &e))?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())
        .map_err(|_| bad("private key", &"expected one PKCS#8 PEM block"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("protocol choice", &e))?
        .with_root_certificates(roots);
    Ok((builder, chain, key))
}

/// A plaintext or TLS byte stream, for HTTP/2 on top.
enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

mod stream {
    //! Delegates every poll to the inner stream.
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Stream;

    impl AsyncRead for Stream {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Stream::Plain(inner) => Pin::new(inner).poll_read(cx, buf),
                Stream::Tls(inner) => Pin::new(inner).poll_read(cx, buf),
            }
        }
    }

    impl AsyncWrite for Stream {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            match self.get_mut() {
                Stream::Plain(inner) => Pin::new(inner).poll_write(cx, buf),
                Stream::Tls(inner) => Pin::new(inner).poll_write(cx, buf),
            }
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Stream::Plain(inner) => Pin::new(inner).poll_flush(cx),
                Stream::Tls(inner) => Pin::new(inner).poll_flush(cx),
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                Stream::Plain(inner) => Pin::new(inner).poll_shutdown(cx),
                Stream::Tls(inner) => Pin::new(inner).poll_shutdown(cx),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_bad_endpoint_is_named_with_an_example_of_a_good_one() {
        for bad in ["10.0.0.1:2379", "ftp://10.0.0.1:2379", "https://10.0.0.1:2379", "https://"] {
            let error = runtime().block_on(Client::connect(&[bad.to_owned()], None)).err().unwrap();
            let text = error.to_string();
            assert!(text.contains(bad) && text.contains("such as https://10.0.0.1:2379"), "{text}");
        }
    }

    #[test]
    fn a_closed_port_is_reported_as_unreachable_with_its_endpoint() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = runtime().block_on(Client::connect(std::slice::from_ref(&endpoint), None)).err().unwrap();
        assert!(matches!(error, ClientError::Unreachable(_)));
        assert!(error.to_string().contains(&endpoint), "{error}");
    }

    #[test]
    fn an_unresponsive_endpoint_times_out_and_the_next_one_is_tried() {
        // The first listener accepts connections into its backlog and never answers the HTTP/2 preface.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoints: Vec<String> =
            [&silent, &closed].iter().map(|l| format!("https://{}", l.local_addr().unwrap())).collect();
        drop(closed);
        let authority = crate::pki::make_authority("test", 1_800_000_000).unwrap();
        let tls = TlsPem {
            ca: authority.certificate.clone(),
            certificate: authority.certificate.clone(),
            key: authority.key.clone(),
        };
        let error = runtime().block_on(Client::connect(&endpoints, Some(&tls))).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("no answer in 2s") && text.contains(&endpoints[1]), "{text}");
    }
}
