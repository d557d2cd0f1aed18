//! Checks of the peer's certificate beyond its chain: revocation by serial number, and the lists of
//! allowed names. They are part of the handshake, so no listener and no call can omit them.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::error::TlsError;
use super::files::RevokedSerials;
use super::identity::PeerIdentity;

/// The certificate matches none of the allowed names; etcd's message.
#[derive(Debug, thiserror::Error)]
#[error("client certificate authentication failed")]
struct NotAllowed;

/// Allowed names, of which a certificate must have one; empty lists allow any.
#[derive(Debug, Clone, Default)]
pub struct AllowedNames {
    /// Common names.
    pub cns: Vec<String>,
    /// Host names the certificate must be valid for.
    pub hostnames: Vec<String>,
}

impl AllowedNames {
    fn admit(&self, identity: &PeerIdentity) -> bool {
        let cn = |allowed: &String| identity.common_name.as_ref() == Some(allowed);
        let host = |allowed: &String| identity.is_valid_for(allowed);
        (self.cns.is_empty() || self.cns.iter().any(cn))
            && (self.hostnames.is_empty() || self.hostnames.iter().any(host))
    }
}

/// Conditions for a certificate with a valid chain.
#[derive(Default)]
pub struct Conditions {
    /// Serial numbers that are refused.
    pub revoked: RevokedSerials,
    /// Names of which the leaf must have one.
    pub allowed: AllowedNames,
}

impl Conditions {
    /// Checks revocation of every certificate in the chain first, then the leaf's names.
    fn check(&self, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        let unreadable = || Error::InvalidCertificate(CertificateError::BadEncoding);
        for certificate in std::iter::once(leaf).chain(intermediates) {
            let identity = PeerIdentity::of(certificate).ok_or_else(unreadable)?;
            if self.revoked.contains(&identity.serial) {
                return Err(Error::InvalidCertificate(CertificateError::Revoked));
            }
        }
        if !self.allowed.admit(&PeerIdentity::of(leaf).ok_or_else(unreadable)?) {
            let other = CertificateError::Other(OtherError(Arc::new(NotAllowed)));
            return Err(Error::InvalidCertificate(other));
        }
        Ok(())
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conditions({} revoked, allowed {:?})", self.revoked.len(), self.allowed)
    }
}

/// Verifies client certificates: chain first, then the conditions.
#[derive(Debug)]
pub struct CallerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    conditions: Conditions,
}

impl CallerVerifier {
    /// A verifier that requires a certificate issued under `roots`.
    pub fn new(
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
        conditions: Conditions,
    ) -> Result<CallerVerifier, TlsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| TlsError::Config(error.to_string()))?;
        Ok(CallerVerifier { chain, conditions })
    }
}

/// Verifies server certificates, with the same conditions: etcd applies `--peer-cert-allowed-cn` to
/// both ends of a peer connection.
#[derive(Debug)]
pub struct CalledVerifier {
    chain: Arc<WebPkiServerVerifier>,
    conditions: Conditions,
}

impl CalledVerifier {
    /// A verifier for servers with certificates issued under `roots`.
    pub fn new(
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
        conditions: Conditions,
    ) -> Result<CalledVerifier, TlsError> {
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| TlsError::Config(error.to_string()))?;
        Ok(CalledVerifier { chain, conditions })
    }
}

impl ServerCertVerifier for CalledVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        self.conditions.check(leaf, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        self.conditions.check(leaf, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Accepts any server certificate. Only for `--peer-auto-tls`, where every member's certificate is
/// self-signed and cannot be verified: it encrypts traffic but authenticates nobody.
#[derive(Debug)]
pub struct AnyServer(pub Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
