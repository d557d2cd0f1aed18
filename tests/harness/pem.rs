//! Certificates for tests: good ones, and every kind of bad one.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// A certificate authority whose files lie in a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pub certificate: PathBuf,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Says {
    pub cn: &'static str,
    pub names: &'static [&'static str],
    /// First and last day of its life, from today.
    pub days: (i64, i64),
    pub serial: u64,
    pub server: bool,
    pub client: bool,
}

/// Good for servers and clients on this machine.
pub const GOOD: Says =
    Says { cn: "good", names: &["127.0.0.1", "localhost"], days: (-1, 30), serial: 1000, server: true, client: true };

impl Says {
    fn params(&self) -> CertificateParams {
        let names: Vec<String> = self.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, self.cn);
        params.not_before = OffsetDateTime::now_utc() + Duration::days(self.days.0);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(self.days.1);
        params.serial_number = Some(SerialNumber::from(self.serial));
        let usages =
            [(self.server, ExtendedKeyUsagePurpose::ServerAuth), (self.client, ExtendedKeyUsagePurpose::ClientAuth)];
        params.extended_key_usages = usages.into_iter().filter(|(wanted, _)| *wanted).map(|(_, usage)| usage).collect();
        params
    }
}

fn write(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> Leaf {
    let leaf = Leaf { certificate: folder.join(format!("{name}.crt")), key: folder.join(format!("{name}.key")) };
    fs::write(&leaf.certificate, certificate).expect("the certificate is written");
    fs::write(&leaf.key, key.serialize_pem()).expect("the key is written");
    leaf
}

/// A certificate that nobody but its own key vouches for.
pub fn self_signed(folder: &Path, name: &str, says: &Says) -> Leaf {
    let key = KeyPair::generate().expect("a key");
    let certificate = says.params().self_signed(&key).expect("a certificate");
    write(folder, name, &certificate.pem(), &key)
}

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).expect("a folder for certificates");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let path = folder.join("ca.crt");
        fs::write(&path, params.self_signed(&key).expect("an authority").pem()).expect("the authority is written");
        Self { folder, issuer: Issuer::new(params, key), certificate: path }
    }

    /// A certificate for 127.0.0.1 and localhost, good for servers and clients.
    pub fn leaf(&self, name: &'static str) -> Leaf {
        self.issue(name, &Says { cn: name, ..GOOD })
    }

    /// Writes `<name>.crt` and `<name>.key`, over older ones if there are any.
    pub fn issue(&self, name: &str, says: &Says) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let certificate = says.params().signed_by(&key, &self.issuer).expect("a certificate");
        write(&self.folder, name, &certificate.pem(), &key)
    }

    /// Writes a revocation list that names `serials`, DER as etcd wants it, and returns its path.
    pub fn revoke(&self, name: &str, serials: &[u64]) -> PathBuf {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(30),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.folder.join(name);
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, list.signed_by(&self.issuer).expect("a list").der()).expect("the list is written");
        fs::rename(unfinished, &path).expect("the list gets its name");
        path
    }
}
