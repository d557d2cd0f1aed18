//! `--auto-tls` and `--peer-auto-tls`: a self-signed certificate and key under the data directory,
//! generated once and reused.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;

use super::error::TlsError;
use crate::clock::Clock;
use crate::settings::{TlsSettings, UrlList};

/// Days per year of `--self-signed-cert-validity`.
const DAYS_PER_YEAR: i64 = 365;

/// Settings with `cert_file` and `key_file` filled in if only `auto` was given; the files are in
/// `dir` (`<data-dir>/fixtures/client` or `…/peer`), and the SANs are the hosts of `urls`.
pub fn with_files(
    tls: &TlsSettings,
    dir: &Path,
    urls: &[&UrlList],
    years: u32,
    clock: &dyn Clock,
) -> Result<TlsSettings, TlsError> {
    if !tls.auto || tls.has_pair() {
        return Ok(tls.clone());
    }
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if !(cert.is_file() && key.is_file()) {
        let mut hosts: Vec<String> =
            urls.iter().flat_map(|urls| urls.iter()).map(|url| url.host().to_owned()).collect();
        hosts.retain(|host| !host.is_empty());
        hosts.sort();
        hosts.dedup();
        write_pair(dir, &cert, &key, hosts, years, clock)?;
    }
    Ok(TlsSettings { cert_file: Some(cert), key_file: Some(key), ..tls.clone() })
}

fn write_pair(
    dir: &Path,
    cert: &Path,
    key: &Path,
    hosts: Vec<String>,
    years: u32,
    clock: &dyn Clock,
) -> Result<(), TlsError> {
    let failed = |reason: String| TlsError::SelfSigned { path: dir.to_owned(), reason };
    let mut params = CertificateParams::new(hosts).map_err(|error| failed(error.to_string()))?;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "etcd");
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = OffsetDateTime::from_unix_timestamp(clock.unix().as_secs() as i64)
        .map_err(|error| failed(error.to_string()))?;
    params.not_before = now;
    params.not_after = now
        .checked_add(time::Duration::days(DAYS_PER_YEAR * i64::from(years)))
        .ok_or_else(|| failed(format!("{years} years are more than a certificate can live")))?;
    let pair = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
    let signed = params.self_signed(&pair).map_err(|error| failed(error.to_string()))?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed(error.to_string()))?;
    write_private(key.to_owned(), &pair.serialize_pem()).map_err(|error| failed(error.to_string()))?;
    write_private(cert.to_owned(), &signed.pem()).map_err(|error| failed(error.to_string()))
}

/// Writes a file atomically, readable by its owner only.
fn write_private(path: PathBuf, text: &str) -> std::io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(unfinished, path)
}
