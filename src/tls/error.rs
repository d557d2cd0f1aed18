//! What can be wrong with certificates, keys and lists; every message names the file.

use std::io;
use std::path::PathBuf;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is missing or unreadable.
    #[error("cannot read {path}: {source} (check the path and the rights of the service's user)")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than any PEM file has reason to be.
    #[error("{path} is larger than {most} bytes and surely not a PEM file")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        most: u64,
    },
    /// Not PEM, or cut off.
    #[error("{path} is not valid PEM: {reason} (is it complete?)")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// PEM without the part that is needed.
    #[error("{path} holds no {what}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// `certificate`, `private key`, `revocation list`.
        what: &'static str,
    },
    /// A private key under a pass phrase.
    #[error(
        "the private key in {0} is encrypted (store it without a pass phrase, readable by the service's user only)"
    )]
    EncryptedKey(PathBuf),
    /// A certificate that cannot be decoded or used as an authority.
    #[error("a certificate in {path} cannot be used: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Key and certificate are not a pair.
    #[error("the private key in {key} does not belong to the certificate in {cert}: {reason}")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
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
    /// No listener without a pair.
    #[error("a TLS listener needs a certificate and a key file")]
    NoPair,
    /// Only suites nobody should speak were named.
    #[error("none of the given cipher suites is supported: {0} (name one with ECDHE and GCM or CHACHA20)")]
    NoCipherSuite(String),
    /// Certificates are to be checked and there is nothing to check them against.
    #[error("no system certificate bundle was found (looked in {0}); name the authority with a trusted CA file")]
    NoSystemRoots(String),
    /// A self-signed pair could not be written.
    #[error("cannot make a self-signed certificate in {path}: {reason}")]
    SelfSigned {
        /// Its directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A name that no certificate can carry.
    #[error("{0:?} is neither a host name nor an IP address")]
    ServerName(String),
    /// Anything else rustls refuses.
    #[error("TLS configuration refused: {0}")]
    Config(String),
}

/// What a failed handshake is called in the log: the sentence of our own checks where they refused,
/// rustls' otherwise.
pub fn reason_of(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(refusal))) => refusal.0.to_string(),
        _ => error.to_string(),
    }
}
