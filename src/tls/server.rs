//! Server-side TLS: one configuration per kind of listener, current at every handshake.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::Acceptor;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::error::TlsError;
use super::identity::PeerIdentity;
use super::reload::Reloading;
use super::verify::{AllowedNames, CallerVerifier, Conditions};
use super::{files, identity, policy, self_signed};
use crate::clock::Clock;
use crate::settings::{Settings, TlsPolicy, TlsSettings};

/// TLS of the client listeners or of the peer listeners. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    inner: Arc<Inner>,
}

struct Inner {
    configuration: Reloading<Loaded>,
    clock: Arc<dyn Clock>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    own: Option<PeerIdentity>,
}

impl ServerTls {
    /// Loads the files, or reports which one is wrong. `purpose` names the listeners in the log:
    /// `client` or `peer`; `protocols` are their ALPN protocols.
    pub fn load(
        purpose: &'static str,
        protocols: &'static [&'static [u8]],
        tls: &TlsSettings,
        policy: &TlsPolicy,
        clock: Arc<dyn Clock>,
    ) -> Result<ServerTls, TlsError> {
        let (tls, policy) = (tls.clone(), policy.clone());
        let watched: Vec<PathBuf> = [&tls.cert_file, &tls.key_file, &tls.trusted_ca_file, &tls.crl_file]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        if let Some(key) = tls.key_file.as_ref().filter(|key| files::is_world_readable(key)) {
            tracing::warn!(purpose, file = %key.display(), "private key is readable by everybody; give it mode 0600");
        }
        let configuration = Reloading::start(purpose, watched, clock.clone(), move || build(protocols, &tls, &policy))?;
        let loaded = ServerTls { inner: Arc::new(Inner { configuration, clock }) };
        if loaded.expires().is_some_and(|end| end < loaded.inner.clock.unix()) {
            tracing::warn!(purpose, "the certificate has expired; callers that check it will refuse this member");
        }
        Ok(loaded)
    }

    /// TLS of the client listeners, with a self-signed certificate under `--auto-tls`.
    pub fn for_clients(settings: &Settings, clock: Arc<dyn Clock>) -> Result<ServerTls, TlsError> {
        let dir = settings.data_dir.join("fixtures/client");
        let urls = [&settings.listen_client_urls, &settings.listen_client_http_urls];
        let years = settings.tls_policy.self_signed_years;
        let tls = self_signed::with_files(&settings.client_tls, &dir, &urls, years, &*clock)?;
        ServerTls::load("client", policy::CLIENT_PORT, &tls, &settings.tls_policy, clock)
    }

    /// TLS of the peer listeners, with a self-signed certificate under `--peer-auto-tls`.
    pub fn for_peers(settings: &Settings, clock: Arc<dyn Clock>) -> Result<ServerTls, TlsError> {
        let tls = peer_files(settings, &*clock)?;
        ServerTls::load("peer", policy::PEER_PORT, &tls, &settings.tls_policy, clock)
    }

    /// Does the TLS handshake of a connection, with the current files. `turn` is awaited after the complete
    /// ClientHello, and its permit held while the expensive ServerHello is computed.
    ///
    /// # Errors
    /// The caller disconnected, or the handshake failed: then `InvalidData`, with the reason inside.
    pub async fn accept<I, T>(&self, stream: I, turn: impl Future<Output = T>) -> std::io::Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let answering = {
            let _turn = turn.await;
            start.into_stream(self.inner.configuration.get().config.clone())
        };
        // Let other tasks run first: the ServerHello is computed, and the client has yet to complete the handshake.
        tokio::task::yield_now().await;
        answering.await
    }

    /// End of our own certificate's validity, since 1970 UTC, for metrics and alerts.
    pub fn expires(&self) -> Option<Duration> {
        self.inner.configuration.get().own.as_ref().map(|own| own.not_after)
    }

    /// The caller's identity, after the handshake. `Ok(None)`: no client certificate was requested.
    /// `Err`: the certificate of a resumed session has expired; the chain itself was verified by the
    /// handshake.
    pub fn caller(&self, connection: &ServerConnection) -> Result<Option<PeerIdentity>, &'static str> {
        let Some(leaf) = connection.peer_certificates().and_then(|chain| chain.first()) else {
            return Ok(None);
        };
        let identity = PeerIdentity::of(leaf).ok_or("certificate does not decode")?;
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        if resumed && !identity.lives_at(self.inner.clock.unix()) {
            return Err("certificate of a resumed session has expired");
        }
        Ok(Some(identity))
    }
}

/// The peer section with the files of `--peer-auto-tls` filled in.
pub(super) fn peer_files(settings: &Settings, clock: &dyn Clock) -> Result<TlsSettings, TlsError> {
    let dir = settings.data_dir.join("fixtures/peer");
    let years = settings.tls_policy.self_signed_years;
    self_signed::with_files(&settings.peer_tls, &dir, &[&settings.listen_peer_urls], years, clock)
}

/// The conditions for the peer's certificate beyond a valid chain.
pub(super) fn conditions(tls: &TlsSettings) -> Result<Conditions, TlsError> {
    let revoked = tls.crl_file.as_ref().map(|path| files::revoked_serials(path)).transpose()?.unwrap_or_default();
    let allowed = AllowedNames { cns: tls.allowed_cn.clone(), hostnames: tls.allowed_hostname.clone() };
    Ok(Conditions { revoked, allowed })
}

fn build(protocols: &[&[u8]], tls: &TlsSettings, rules: &TlsPolicy) -> Result<Loaded, TlsError> {
    let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) else { return Err(TlsError::NoPair) };
    let provider = policy::provider(rules)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&policy::versions(rules))
        .map_err(|error| TlsError::Config(error.to_string()))?;
    let chain = files::certificates(cert)?;
    let own = chain.first().and_then(PeerIdentity::of);
    let private = files::private_key(key)?;
    let builder = if tls.requires_client_cert() {
        let roots = match &tls.trusted_ca_file {
            Some(path) => files::authorities(path)?,
            None => files::system_authorities()?,
        };
        let verifier = CallerVerifier::new(roots, provider.clone(), conditions(tls)?)?;
        builder.with_client_cert_verifier(Arc::new(verifier))
    } else {
        builder.with_no_client_auth()
    };
    let pair = certified(chain, private, &provider).map_err(|error| TlsError::Mismatch {
        cert: cert.clone(),
        key: key.clone(),
        reason: error.to_string(),
    })?;
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer =
        rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| TlsError::Config(error.to_string()))?;
    Ok(Loaded { config: Arc::new(config), own })
}

/// A certificate chain with its private key. rustls cannot parse X.509 version 1 certificates, so it cannot check their
/// key; Go serves them and leaves their verification to clients. Their key is compared here.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, rustls::Error> {
    let pair = CertifiedKey::new(chain, provider.key_provider.load_private_key(private)?);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(rustls::Error::InvalidCertificate(_)) if has_key_of(&pair) => Ok(pair),
        Err(error) => Err(error),
    }
}

fn has_key_of(pair: &CertifiedKey) -> bool {
    let certified = pair.cert.first().and_then(identity::public_key);
    let own = pair.key.public_key();
    own.zip(certified).is_some_and(|(own, certified)| *own == *certified)
}
