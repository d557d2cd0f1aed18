//! TLS by hand: a client that shows whatever it is told to, on a socket of its own.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pem::Leaf;

const LIMIT: Duration = Duration::from_secs(20);

/// What a client shows.
#[derive(Debug, Clone)]
pub enum Shows {
    Nothing,
    /// A certificate and its key.
    Pair(Leaf),
    /// The certificate of one pair with the key of another.
    Mismatched(Leaf, Leaf),
    /// The first half of a certificate.
    Truncated(Leaf),
}

/// Shows its certificate without asking whether it fits anything.
#[derive(Debug)]
struct Stubborn(Arc<CertifiedKey>);

impl ResolvesClientCert for Stubborn {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    let text = fs::read(path).expect("a certificate");
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().expect("PEM")
}

fn certified(provider: &CryptoProvider, chain: Vec<CertificateDer<'static>>, key: &Path) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    Arc::new(CertifiedKey::new(chain, provider.key_provider.load_private_key(key).expect("a key of a known kind")))
}

/// A client that trusts `authority`.
pub fn client(authority: &Path, shows: &Shows, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    chain(authority).into_iter().for_each(|certificate| roots.add(certificate).expect("an authority"));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let shown = match shows {
        Shows::Nothing => None,
        Shows::Pair(leaf) => Some(certified(&provider, chain(&leaf.certificate), &leaf.key)),
        Shows::Mismatched(leaf, other) => Some(certified(&provider, chain(&leaf.certificate), &other.key)),
        Shows::Truncated(leaf) => {
            let whole = chain(&leaf.certificate).remove(0);
            let half = CertificateDer::from(whole[..whole.len() / 2].to_vec());
            Some(certified(&provider, vec![half], &leaf.key))
        }
    };
    TlsConnector::from(Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_cert_resolver(Arc::new(Stubborn(shown))),
    }))
}

/// Connects to a port of this machine and shakes hands.
pub async fn connect(port: u16, client: &TlsConnector) -> Result<TlsStream<TcpStream>, String> {
    let text = |error: std::io::Error| error.to_string();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(text)?;
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    timeout(LIMIT, client.connect(name, stream)).await.map_err(|_| "no handshake in time".to_owned())?.map_err(text)
}

/// The first line of the answer to a GET. In TLS 1.3 a client learns only now that it was refused.
pub async fn get(port: u16, client: &TlsConnector, path: &str) -> Result<String, String> {
    let mut stream = connect(port, client).await?;
    let text = |error: std::io::Error| error.to_string();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    stream.flush().await.map_err(text)?;
    let mut answer = Vec::new();
    let read = timeout(LIMIT, stream.read_to_end(&mut answer)).await.map_err(|_| "no answer in time".to_owned())?;
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    match read {
        // Some servers leave without saying goodbye.
        _ if !line.is_empty() => Ok(line),
        Ok(_) => Err("closed without an answer".to_owned()),
        Err(error) => Err(text(error)),
    }
}
