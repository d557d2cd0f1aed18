//! Client-side TLS: calls to other members, with the same reloading as the listeners.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::error::TlsError;
use super::reload::Reloading;
use super::server::{conditions, peer_files};
use super::verify::{AnyServer, CalledVerifier};
use super::{files, policy};
use crate::clock::Clock;
use crate::settings::{Settings, TlsPolicy, TlsSettings};

/// TLS of calls to other members. It offers no ALPN protocol: the members' own protocol has no registered name, and a
/// member of an older release, which supports `h2`, then negotiates none. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    configuration: Arc<Reloading<Arc<ClientConfig>>>,
}

impl ClientTls {
    /// Loads certificate, key and CAs; the certificate for calls is `client_cert_file` if given and
    /// `cert_file` otherwise. Without a trusted CA file the system's CAs are trusted.
    pub fn load(
        purpose: &'static str,
        tls: &TlsSettings,
        policy: &TlsPolicy,
        clock: Arc<dyn Clock>,
    ) -> Result<ClientTls, TlsError> {
        let (tls, policy) = (tls.clone(), policy.clone());
        let (cert, key) = pair(&tls);
        let watched = [cert, key, tls.trusted_ca_file.clone(), tls.crl_file.clone()];
        let watched: Vec<PathBuf> = watched.into_iter().flatten().collect();
        let configuration = Reloading::start(purpose, watched, clock, move || build(&tls, &policy).map(Arc::new))?;
        Ok(ClientTls { configuration: Arc::new(configuration) })
    }

    /// TLS of calls to other members.
    pub fn for_peers(settings: &Settings, clock: Arc<dyn Clock>) -> Result<ClientTls, TlsError> {
        let tls = peer_files(settings, &*clock)?;
        ClientTls::load("peer calls", &tls, &settings.tls_policy, clock)
    }

    /// A connector for one handshake, with the current files.
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.configuration.get().as_ref().clone())
    }

    /// The server name to verify, from the host of its URL (IPv6 brackets already removed).
    pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
        ServerName::try_from(host.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))
    }
}

/// TLS of a one-shot command: trusts the CAs in `ca` or else the system's, presents the certificate and key if given,
/// and offers these ALPN protocols.
pub fn one_shot(
    ca: Option<&Path>,
    pair: Option<(&Path, &Path)>,
    protocols: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Config(error.to_string()))?
        .with_root_certificates(ca.map_or_else(files::system_authorities, files::authorities)?);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(files::certificates(cert)?, files::private_key(key)?)
            .map_err(|error| TlsError::Mismatch { cert: cert.into(), key: key.into(), reason: error.to_string() })?,
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The client certificate and key files, if any.
fn pair(tls: &TlsSettings) -> (Option<PathBuf>, Option<PathBuf>) {
    match (&tls.client_cert_file, &tls.client_key_file) {
        (Some(cert), Some(key)) => (Some(cert.clone()), Some(key.clone())),
        _ => (tls.cert_file.clone(), tls.key_file.clone()),
    }
}

fn build(tls: &TlsSettings, rules: &TlsPolicy) -> Result<ClientConfig, TlsError> {
    let provider = policy::provider(rules)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&policy::versions(rules))
        .map_err(|error| TlsError::Config(error.to_string()))?;
    let roots = match &tls.trusted_ca_file {
        Some(path) => Some(files::authorities(path)?),
        None if tls.auto => None,
        None => Some(files::system_authorities()?),
    };
    let verifier: Arc<dyn ServerCertVerifier> = match roots {
        Some(roots) => Arc::new(CalledVerifier::new(roots, provider, conditions(tls)?)?),
        None => Arc::new(AnyServer(provider)),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match pair(tls) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(files::certificates(&cert)?, files::private_key(&key)?)
            .map_err(|error| TlsError::Mismatch { cert, key, reason: error.to_string() }),
        _ => Ok(builder.with_no_client_auth()),
    }
}
