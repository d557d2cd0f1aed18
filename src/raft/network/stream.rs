//! Byte streams between members: TCP, or TLS over it, dialled or accepted, with the handshake done.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::wire::{Channel, HELLO_BYTES, Hello, Refusal, WELCOME_BYTES, WireError, decode_welcome, encode_welcome};
use crate::tls::{ClientTls, ServerTls};

/// The longest a connection may take from the first packet to the end of the handshake. etcd's dial timeout for peers
/// is of the same size.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to another member.
pub trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// A connection whose kind does not matter any more.
pub type Stream = Box<dyn Io>;

/// How peers prove who they are. Both sides follow their files, so new certificates are used at once.
#[derive(Clone)]
pub enum PeerTls {
    /// They do not: every peer URL is `http`.
    Plain,
    /// Mutual TLS.
    Tls {
        /// For connections that arrive.
        server: ServerTls,
        /// For connections that this member opens to `https` URLs.
        client: ClientTls,
        /// Whether a caller must come from an address that its certificate names.
        verify_source: bool,
    },
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "PeerTls::Plain",
            Self::Tls { .. } => "PeerTls::Tls",
        })
    }
}

impl PeerTls {
    /// Makes an accepted connection a secure one, and checks that its caller may be who it says. `turn` as in
    /// [`ServerTls::accept`].
    ///
    /// # Errors
    /// The handshake fails, the certificate does not fit the caller, or this member has none itself.
    pub async fn accept<I, T>(&self, io: I, from: IpAddr, turn: impl Future<Output = T>) -> Result<Stream, WireError>
    where
        I: Io + 'static,
    {
        let Self::Tls { server, verify_source, .. } = self else {
            return Err(bad("no peer certificate is loaded for this listener".to_owned()));
        };
        let stream = server.accept(io, turn).await?;
        let caller = server.caller(stream.get_ref().1).map_err(|why| WireError::Caller(why.to_owned()))?;
        if let (Some(caller), true) = (caller, *verify_source) {
            caller.comes_from(from).await.map_err(WireError::Caller)?;
        }
        Ok(Box::new(stream))
    }
}

fn bad(message: String) -> WireError {
    WireError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, message))
}

/// Opens a connection to a peer URL, without any handshake of ours.
///
/// # Errors
/// The URL is not usable, nobody answers, or TLS fails.
pub async fn connect(peer_url: &str, tls: &PeerTls) -> Result<Stream, WireError> {
    let url = Url::parse(peer_url).map_err(|error| bad(format!("peer URL {peer_url}: {error}")))?;
    let host = url.host_str().ok_or_else(|| bad(format!("peer URL {peer_url} has no host")))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().ok_or_else(|| bad(format!("peer URL {peer_url} has no port")))?;
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    match (url.scheme(), tls) {
        ("http", _) => Ok(Box::new(tcp)),
        ("https", PeerTls::Tls { client, .. }) => {
            let name = ClientTls::server_name(host).map_err(|error| bad(format!("{peer_url}: {error}")))?;
            Ok(Box::new(client.connector().connect(name, tcp).await?))
        }
        ("https", PeerTls::Plain) => Err(bad(format!(
            "peer URL {peer_url} needs TLS and this member has no peer certificate; set --peer-cert-file, \
             --peer-key-file and --peer-trusted-ca-file"
        ))),
        (scheme, _) => Err(bad(format!("peer URL {peer_url}: scheme {scheme} is not http or https"))),
    }
}

/// Opens a connection for `hello.channel` and has the other member accept it. Tries the URLs in their order.
///
/// # Errors
/// No URL led to the member, or the member refuses this one.
pub async fn dial(peer_urls: &[String], tls: &PeerTls, hello: Hello) -> Result<Stream, WireError> {
    let mut last = bad(format!("member {:x} has no peer URLs", hello.to));
    for url in peer_urls {
        let attempt = async {
            let mut stream = connect(url, tls).await?;
            greet(&mut stream, hello).await?;
            Ok(stream)
        };
        match timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => {
                last = WireError::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{url}: no answer")))
            }
        }
    }
    Err(last)
}

async fn greet(stream: &mut Stream, hello: Hello) -> Result<(), WireError> {
    stream.write_all(&hello.encode()).await?;
    stream.flush().await?;
    let mut answer = BytesMut::zeroed(WELCOME_BYTES);
    stream.read_exact(&mut answer).await?;
    decode_welcome(answer.freeze())?.map_err(WireError::Refused)
}

/// What arrived on a fresh connection.
pub enum Greeting {
    /// A member, and what it is here for. It waits for a welcome.
    Member(Hello),
    /// Somebody with an HTTP request, whose first bytes these are.
    Http(BytesMut),
}

/// Reads the first bytes of an accepted connection. A version this member does not speak is refused here.
///
/// # Errors
/// The connection ended, or speaks neither protocol.
pub async fn receive(stream: &mut Stream) -> Result<Greeting, WireError> {
    let mut first = BytesMut::with_capacity(HELLO_BYTES);
    while first.len() < HELLO_BYTES {
        if stream.read_buf(&mut first).await? == 0 {
            return Err(WireError::Closed);
        }
        if first.starts_with(b"GET ") {
            return Ok(Greeting::Http(first));
        }
    }
    match Hello::decode(first.split_to(HELLO_BYTES).freeze())? {
        Ok(hello) => Ok(Greeting::Member(hello)),
        Err(refusal) => {
            refuse(stream, refusal.clone()).await?;
            Err(WireError::Refused(refusal))
        }
    }
}

/// Lets the dialling member in.
pub async fn welcome(stream: &mut Stream) -> Result<(), WireError> {
    stream.write_all(&encode_welcome(&Ok(()))).await?;
    Ok(stream.flush().await?)
}

/// Tells the dialling member why it is not let in.
pub async fn refuse(stream: &mut Stream, refusal: Refusal) -> Result<(), WireError> {
    stream.write_all(&encode_welcome(&Err(refusal))).await?;
    stream.flush().await?;
    Ok(stream.shutdown().await?)
}

/// The handshake of a connection from this member.
pub fn hello(cluster: u64, from: u64, to: u64, channel: Channel) -> Hello {
    Hello { cluster, from, to, channel }
}
