//! Loads PEM and DER files into rustls' types.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::error::TlsError;

/// Maximum size of a certificate, key or CA file.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// Maximum size of a CRL: over a million entries.
const MAX_CRL_BYTES: u64 = 64 << 20;

/// Where distributions keep the system CA bundle.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Serial numbers in a CRL, big-endian without leading zeros.
pub type RevokedSerials = HashSet<Vec<u8>>;

fn read(path: &Path, most: u64) -> Result<Vec<u8>, TlsError> {
    let failed = |source: io::Error| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(TlsError::TooLarge { path: path.to_owned(), most });
    }
    Ok(bytes)
}

fn pem_error(path: &Path, error: pem::Error) -> TlsError {
    TlsError::Pem { path: path.to_owned(), reason: error.to_string() }
}

/// All certificates of a file, leaf first: at least one, all of them decodable.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path, MAX_PEM_BYTES)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| pem_error(path, error))?;
    if chain.is_empty() {
        return Err(TlsError::Missing { path: path.to_owned(), what: "certificate" });
    }
    for certificate in &chain {
        x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| TlsError::Certificate { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(chain)
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path, MAX_PEM_BYTES)?;
    let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::EncryptedKey(path.to_owned()));
    }
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(TlsError::Missing { path: path.to_owned(), what: "private key" }),
        Err(error) => Err(pem_error(path, error)),
    }
}

/// The CAs of a file, each a trust anchor; a CA rotation needs several.
pub fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Certificate { path: path.to_owned(), reason: error.to_string() })?;
    }
    Ok(roots)
}

/// The system's CAs; certificates in the bundle that do not decode are skipped.
pub fn system_authorities() -> Result<RootCertStore, TlsError> {
    for bundle in SYSTEM_BUNDLES {
        let Ok(bytes) = read(Path::new(bundle), MAX_PEM_BYTES) else { continue };
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
        if added > 0 {
            return Ok(roots);
        }
    }
    Err(TlsError::NoSystemRoots(SYSTEM_BUNDLES.join(", ")))
}

/// The serial numbers in a CRL file, which is DER or one or more PEM blocks.
pub fn revoked_serials(path: &Path) -> Result<RevokedSerials, TlsError> {
    let bytes = read(path, MAX_CRL_BYTES)?;
    let lists: Vec<Vec<u8>> = if bytes.starts_with(b"-----") || bytes.is_ascii() {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        let lists = lists.map_err(|error| pem_error(path, error))?;
        lists.into_iter().map(|list| list.as_ref().to_vec()).collect()
    } else {
        vec![bytes]
    };
    if lists.is_empty() {
        return Err(TlsError::Missing { path: path.to_owned(), what: "revocation list" });
    }
    let mut serials = RevokedSerials::new();
    for list in &lists {
        let failed = |reason: String| TlsError::Crl { path: path.to_owned(), reason };
        let (_, list) = CertificateRevocationList::from_der(list).map_err(|error| failed(error.to_string()))?;
        serials.extend(list.iter_revoked_certificates().map(|entry| without_leading_zeros(entry.raw_serial())));
    }
    Ok(serials)
}

/// A serial number in canonical form, for comparison.
pub fn without_leading_zeros(serial: &[u8]) -> Vec<u8> {
    let start = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    serial[start..].to_vec()
}

/// Whether a key is world-readable; that is a warning, not an error.
pub fn is_world_readable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}
