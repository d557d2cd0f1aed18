//! Certificates for tests.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

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

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Self {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).expect("a folder for certificates");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let path = folder.join("ca.crt");
        fs::write(&path, params.self_signed(&key).expect("an authority").pem()).expect("the authority is written");
        Self { folder, issuer: Issuer::new(params, key), certificate: path }
    }

    /// A certificate for 127.0.0.1 and localhost, good for servers and clients.
    pub fn leaf(&self, name: &str) -> Leaf {
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("two names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let leaf =
            Leaf { certificate: self.folder.join(format!("{name}.crt")), key: self.folder.join(format!("{name}.key")) };
        fs::write(&leaf.certificate, certificate.pem()).expect("the certificate is written");
        fs::write(&leaf.key, key.serialize_pem()).expect("the key is written");
        leaf
    }
}
