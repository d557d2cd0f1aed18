//! What a TLS server presents in a handshake: its certificate, and the CAs from which it accepts client
//! certificates. Used to check whether a member has reloaded its replaced files.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;

use super::{CONNECT_TIMEOUT, ClientError, TlsPem, tls_parts};
use crate::pki;

/// The certificate and the accepted CAs of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Common names of the CAs from which it accepts client certificates.
    pub accepts: BTreeSet<String>,
}

/// Does one handshake with `https://host:port`, verifies the server's certificate against `tls.ca`,
/// presents our own, and closes. Ends within [`CONNECT_TIMEOUT`].
///
/// # Errors
/// [`ClientError::Unreachable`] with the reason; [`ClientError::Tls`] and [`ClientError::Endpoint`]
/// for bad input.
pub async fn presented(endpoint: &str, tls: &TlsPem) -> Result<Presented, ClientError> {
    let bad = |cause: &str| ClientError::Endpoint { endpoint: endpoint.to_owned(), cause: cause.to_owned() };
    let unreachable = |cause: String| ClientError::Unreachable(format!("{endpoint}: {cause}"));
    let url = url::Url::parse(endpoint).map_err(|e| bad(&e.to_string()))?;
    let host = url.host_str().ok_or_else(|| bad("it has no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_or_known_default().ok_or_else(|| bad("it has no port"))?;
    let name = ServerName::try_from(host.clone()).map_err(|e| bad(&e.to_string()))?;
    let (builder, chain, key) = tls_parts(tls)?;
    let key = any_supported_type(&key).map_err(|e| ClientError::Tls { what: "private key", cause: e.to_string() })?;
    let witness = Arc::new(Witness { pair: Arc::new(CertifiedKey::new(chain, key)), heard: Mutex::default() });
    let mut config = builder.with_client_cert_resolver(Arc::clone(&witness) as Arc<dyn ResolvesClientCert>);
    // The client port supports both; the peer port only the second, and refuses clients that offer only the first.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would present the certificate of an earlier handshake.
    config.resumption = rustls::client::Resumption::disabled();
    let shake = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, shake)
        .await
        .map_err(|_| unreachable(format!("no answer in {CONNECT_TIMEOUT:?}")))?
        .map_err(|e| unreachable(e.to_string()))?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = pki::certificate_to_pem(leaf.ok_or_else(|| unreachable("it has no certificate".to_owned()))?);
    let accepts = witness.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Presented { certificate, accepts })
}

/// A client certificate resolver that records the CAs named in the server's CertificateRequest.
#[derive(Debug)]
struct Witness {
    pair: Arc<CertifiedKey>,
    heard: Mutex<BTreeSet<String>>,
}

impl ResolvesClientCert for Witness {
    fn resolve(&self, authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let names = authorities.iter().filter_map(|name| pki::common_name_of_der(name)).collect();
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = names;
        Some(Arc::clone(&self.pair))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::settings::{Settings, TlsSettings};
    use crate::tls::ServerTls;

    const NAMES: [&str; 1] = ["127.0.0.1"];

    fn pair(authority: &pki::Authority, now: i64) -> (String, String) {
        let names = NAMES.map(str::to_owned);
        let key = pki::make_key().unwrap();
        let request = pki::make_request(&key, "etcd0", &names).unwrap();
        let life = pki::Validity::days(now, 1);
        let certificate = pki::sign_request(authority, &request, &names, pki::Usage::ServerAndClient, life).unwrap();
        (certificate, key)
    }

    #[tokio::test]
    async fn a_server_presents_its_certificate_and_every_ca_it_accepts() {
        for protocols in [crate::tls::CLIENT_PORT, crate::tls::PEER_PORT] {
            shows_itself(protocols).await;
        }
    }

    async fn shows_itself(protocols: &'static [&'static [u8]]) {
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let make = |name: &str| pki::make_authority(name, now).unwrap();
        let (old, new) = (make("clients 1"), make("clients 2"));
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            Some(dir.path().join(name))
        };
        let (certificate, key) = pair(&old, now);
        let both = format!("{}{}", old.certificate, new.certificate);
        let settings = TlsSettings {
            cert_file: write("crt", &certificate),
            key_file: write("key", &key),
            trusted_ca_file: write("ca", &both),
            ..TlsSettings::default()
        };
        let server = ServerTls::load(
            "test",
            protocols,
            &settings,
            &Settings::default().tls_policy,
            Arc::new(SystemClock::new()),
        )
        .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let serve = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = server.accept(stream, async {}).await;
            }
        });
        let (own, own_key) = pair(&new, now);
        let tls = TlsPem { ca: both.clone(), certificate: own, key: own_key };
        let seen = presented(&endpoint, &tls).await.unwrap();
        assert_eq!(seen.accepts, ["clients 1", "clients 2"].map(str::to_owned).into());
        let issuer = |pem: &str| pki::issuer_in(pem, &both).unwrap();
        assert_eq!(issuer(&seen.certificate), issuer(&certificate));
        let blind = TlsPem { ca: new.certificate.clone(), ..tls };
        assert!(matches!(presented(&endpoint, &blind).await, Err(ClientError::Unreachable(_))));
        serve.abort();
    }
}
