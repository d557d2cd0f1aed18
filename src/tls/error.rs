//! Errors in certificates, keys and CRLs; every message names the file.

use std::io;
use std::path::PathBuf;

/// Why a TLS configuration could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is missing or unreadable.
    #[error("cannot read {path}: {source} (check the path and the rights of the service's user)")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is too large for a PEM file.
    #[error("{path} is larger than {most} bytes and surely not a PEM file")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        most: u64,
    },
    /// Not PEM, or truncated.
    #[error("{path} is not valid PEM: {reason} (is it complete?)")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// PEM without the required block.
    #[error("{path} holds no {what}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// `certificate`, `private key`, `revocation list`.
        what: &'static str,
    },
    /// An encrypted private key.
    #[error(
        "the private key in {0} is encrypted (store it without a pass phrase, readable by the service's user only)"
    )]
    EncryptedKey(PathBuf),
    /// A certificate that cannot be decoded or used as a trust anchor.
    #[error("a certificate in {path} cannot be used: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The private key does not match the certificate.
    #[error("the private key in {key} does not belong to the certificate in {cert}: {reason}")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// rustls' error.
        reason: String,
    },
    /// The revocation list cannot be decoded.
    #[error("the revocation list {path} is neither DER nor PEM: {reason}")]
    Crl {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A TLS listener without certificate and key.
    #[error("a TLS listener needs a certificate and a key file")]
    NoPair,
    /// Only insecure cipher suites were given.
    #[error("none of the given cipher suites is supported: {0} (name one with ECDHE and GCM or CHACHA20)")]
    NoCipherSuite(String),
    /// Certificates must be verified, but there are no trust anchors.
    #[error("no system certificate bundle was found (looked in {0}); name the authority with a trusted CA file")]
    NoSystemRoots(String),
    /// A self-signed certificate could not be created.
    #[error("cannot make a self-signed certificate in {path}: {reason}")]
    SelfSigned {
        /// Its directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A name that cannot be in a certificate.
    #[error("{0:?} is neither a host name nor an IP address")]
    ServerName(String),
    /// Any other error from rustls.
    #[error("TLS configuration refused: {0}")]
    Config(String),
}

/// The reason for a failed handshake, for the log: the message of our own checks if they refused,
/// otherwise rustls'.
pub fn reason_of(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(refusal))) => refusal.0.to_string(),
        _ => error.to_string(),
    }
}
