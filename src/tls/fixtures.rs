//! CAs, leaf certificates and CRLs for tests of this crate; compiled for tests only.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::OffsetDateTime;

use crate::settings::TlsSettings;

/// A CA and the directory of its files.
pub struct Authority {
    dir: PathBuf,
    params: CertificateParams,
    key: KeyPair,
}

/// Overrides for a leaf certificate, by default valid for server and client.
pub struct Leaf<'a> {
    /// Common name.
    pub cn: &'a str,
    /// DNS names and addresses.
    pub names: &'a [&'a str],
    /// Serial number.
    pub serial: u64,
    /// Start and end of its validity, in days from now.
    pub days: (i64, i64),
}

impl Default for Leaf<'_> {
    fn default() -> Self {
        Leaf { cn: "leaf", names: &["localhost", "127.0.0.1"], serial: 7, days: (-1, 30) }
    }
}

fn in_days(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + time::Duration::days(days)
}

impl Authority {
    /// A new CA; its certificate is `<name>.pem` in `dir`.
    pub fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("sign");
        std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).expect("write");
        Authority { dir: dir.to_owned(), params, key }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// Writes `<stem>.pem` and `<stem>.key`.
    pub fn issue(&self, stem: &str, leaf: &Leaf<'_>) -> (PathBuf, PathBuf) {
        let names: Vec<String> = leaf.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("params");
        params.distinguished_name.push(DnType::CommonName, leaf.cn);
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        params.not_before = in_days(leaf.days.0);
        params.not_after = in_days(leaf.days.1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer()).expect("sign");
        let (cert_file, key_file) = (self.dir.join(format!("{stem}.pem")), self.dir.join(format!("{stem}.key")));
        std::fs::write(&cert_file, certificate.pem()).expect("write");
        std::fs::write(&key_file, key.serialize_pem()).expect("write");
        (cert_file, key_file)
    }

    /// Writes a CRL with these serials, as `crl.der` and `crl.pem`.
    pub fn revoke(&self, serials: &[u64]) -> (PathBuf, PathBuf) {
        let list = CertificateRevocationListParams {
            this_update: in_days(-1),
            next_update: in_days(30),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: in_days(-1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer()).expect("sign");
        let (der, pem) = (self.dir.join("crl.der"), self.dir.join("crl.pem"));
        std::fs::write(&der, list.der()).expect("write");
        std::fs::write(&pem, list.pem().expect("pem")).expect("write");
        (der, pem)
    }

    /// TLS settings with this CA and a certificate and key.
    pub fn settings(&self, name: &str, pair: &(PathBuf, PathBuf)) -> TlsSettings {
        TlsSettings {
            cert_file: Some(pair.0.clone()),
            key_file: Some(pair.1.clone()),
            trusted_ca_file: Some(self.dir.join(format!("{name}.pem"))),
            ..TlsSettings::default()
        }
    }
}
