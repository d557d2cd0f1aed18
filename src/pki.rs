//! Keys, certificate signing requests (CSRs), certificates and their expiry: bytes in, bytes out.
//!
//! All cryptographic objects of the cluster's two CAs (one for clients, one for peers). ECDSA
//! P-256 throughout. No file, network or clock is used here: a caller passes the current time as
//! seconds since 1970. Private keys are PEM strings that never appear in an error or in `Debug`
//! output. Used by the charm (issuing, renewing) and by tests.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use sha2::{Digest, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate, X509CertificationRequest};

/// Seconds in a day, for lifetimes.
pub const DAY: i64 = 86_400;
/// Validity of a CA certificate, in days.
pub const AUTHORITY_DAYS: i64 = 3_650;
/// Validity of a server or peer certificate, in days; renewed after two thirds of it.
pub const LEAF_DAYS: i64 = 90;
/// How far `notBefore` is back-dated, to tolerate clock skew.
pub const BACKDATE_SECONDS: i64 = 300;

/// Why a key, CSR or certificate cannot be used. No variant carries key material.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The text is not the expected PEM object.
    #[error("{what} is not readable as PEM: {cause}")]
    Unreadable {
        /// The object, in words.
        what: &'static str,
        /// The parser's reason.
        cause: String,
    },
    /// Generation failed.
    #[error("could not make {what}: {cause}")]
    Generate {
        /// The object, in words.
        what: &'static str,
        /// The generator's reason.
        cause: String,
    },
    /// A CSR asks for names that its unit did not publish.
    #[error("the request asks for names {asked:?}, but the unit published {published:?}")]
    NamesDiffer {
        /// Names in the CSR.
        asked: Vec<String>,
        /// Names published by the unit.
        published: Vec<String>,
    },
    /// The private key does not match the certificate.
    #[error("the certificate for {subject} does not belong to the private key beside it")]
    KeyMismatch {
        /// Subject common name of the certificate.
        subject: String,
    },
    /// No CA in the bundle signed the certificate.
    #[error("the certificate for {subject} is signed by none of the trusted authorities")]
    Untrusted {
        /// Subject common name of the certificate.
        subject: String,
    },
}

/// A certificate authority: its certificate and its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Authority {
    /// Certificate, PEM; public.
    pub certificate: String,
    /// Private key, PKCS#8 PEM; secret.
    pub key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Extended key usage of a leaf certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A member: it serves, and calls other members with the same certificate.
    ServerAndClient,
    /// A client only; a stolen certificate cannot be used to impersonate a member.
    ClientOnly,
}

/// Validity period of a certificate, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not valid before.
    pub from: i64,
    /// Not valid after.
    pub until: i64,
}

impl Validity {
    /// Valid for `days` from now (back-dated by [`BACKDATE_SECONDS`]).
    #[must_use]
    pub fn days(now: i64, days: i64) -> Self {
        Validity { from: now - BACKDATE_SECONDS, until: now + days * DAY }
    }

    /// True once two thirds of the validity period have passed.
    #[must_use]
    pub fn renewal_due(&self, now: i64) -> bool {
        now >= self.from + (self.until - self.from) / 3 * 2
    }
}

/// The decoded contents of a certificate or CSR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Subject common name.
    pub subject: String,
    /// Subject alternative names in normal form (see [`normal_names`]).
    pub names: Vec<String>,
    /// SHA-256 of the public key, hex: equal for a key, its CSR and its certificates.
    pub public_key: String,
}

/// Creates a self-signed CA that may sign leaf certificates but no intermediate CA.
///
/// # Errors
/// [`PkiError::Generate`] when the random source or the encoder fails.
pub fn make_authority(common_name: &str, now: i64) -> Result<Authority, PkiError> {
    let fail = |e: rcgen::Error| PkiError::Generate { what: "an authority", cause: e.to_string() };
    let key = KeyPair::generate().map_err(fail)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name_of(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, Validity::days(now, AUTHORITY_DAYS))?;
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok(Authority { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Generates a private key, PKCS#8 PEM.
///
/// # Errors
/// [`PkiError::Generate`] when the random source fails.
pub fn make_key() -> Result<String, PkiError> {
    KeyPair::generate()
        .map(|key| key.serialize_pem())
        .map_err(|e| PkiError::Generate { what: "a private key", cause: e.to_string() })
}

/// Creates a CSR for the key, with `names` (host names and addresses) as SANs.
///
/// # Errors
/// [`PkiError::Unreadable`] for a bad key, [`PkiError::Generate`] for a name that is no DNS name.
pub fn make_request(key: &str, common_name: &str, names: &[String]) -> Result<String, PkiError> {
    let fail = |e: rcgen::Error| PkiError::Generate { what: "a request", cause: e.to_string() };
    let key = read_key(key)?;
    let mut params = CertificateParams::new(normal_names(names)).map_err(fail)?;
    params.distinguished_name = name_of(common_name);
    params.serialize_request(&key).and_then(|request| request.pem()).map_err(fail)
}

/// Signs a CSR after checking its signature and that it asks for exactly the names in `published`.
///
/// Only the public key, the common name and the names are taken from the CSR; usages and validity
/// are set by the signer. The validity is limited to the CA's own.
///
/// # Errors
/// [`PkiError::NamesDiffer`] when the names differ; [`PkiError::Unreadable`] for bad input.
pub fn sign_request(
    authority: &Authority,
    request: &str,
    published: &[String],
    usage: Usage,
    validity: Validity,
) -> Result<String, PkiError> {
    let described = describe_request(request)?;
    let published = normal_names(published);
    if described.names != published {
        return Err(PkiError::NamesDiffer { asked: described.names, published });
    }
    let fail = |e: rcgen::Error| PkiError::Generate { what: "a certificate", cause: e.to_string() };
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, read_key(&authority.key)?)
        .map_err(|e| unreadable("the authority's certificate", &e))?;
    let mut signing = CertificateSigningRequestParams::from_pem(request).map_err(|e| unreadable("the request", &e))?;
    let until = validity.until.min(certificate_validity(&authority.certificate)?.until);
    let mut params = CertificateParams::new(published).map_err(fail)?;
    params.distinguished_name = name_of(&described.subject);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match usage {
        Usage::ServerAndClient => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
        Usage::ClientOnly => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial_for(&described, validity));
    set_validity(&mut params, Validity { from: validity.from, until })?;
    signing.params = params;
    Ok(signing.signed_by(&issuer).map_err(fail)?.pem())
}

/// Decodes a CSR and verifies its signature with the key in it.
///
/// # Errors
/// [`PkiError::Unreadable`] for bad PEM or a bad signature.
pub fn describe_request(request: &str) -> Result<Described, PkiError> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).map_err(|e| unreadable("the request", &e))?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| unreadable("the request", &e))?;
    parsed.verify_signature().map_err(|e| unreadable("the request's signature", &e))?;
    let info = &parsed.certification_request_info;
    let mut names = Vec::new();
    for extension in parsed.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension {
            names.extend(san.general_names.iter().filter_map(name_text));
        }
    }
    Ok(Described {
        subject: common_name(&info.subject),
        names: normal_names(&names),
        public_key: fingerprint(&info.subject_pki.subject_public_key.data),
    })
}

/// Decodes the first certificate of a PEM text.
///
/// # Errors
/// [`PkiError::Unreadable`] for bad PEM.
pub fn describe_certificate(certificate: &str) -> Result<Described, PkiError> {
    with_certificate(certificate, described)
}

fn described(parsed: &X509Certificate<'_>) -> Described {
    let names: Vec<String> = match parsed.subject_alternative_name() {
        Ok(Some(san)) => san.value.general_names.iter().filter_map(name_text).collect(),
        _ => Vec::new(),
    };
    Described {
        subject: common_name(parsed.subject()),
        names: normal_names(&names),
        public_key: fingerprint(&parsed.public_key().subject_public_key.data),
    }
}

/// The validity period of the first certificate of a PEM text.
///
/// # Errors
/// [`PkiError::Unreadable`] for bad PEM.
pub fn certificate_validity(certificate: &str) -> Result<Validity, PkiError> {
    with_certificate(certificate, |parsed| Validity {
        from: parsed.validity().not_before.timestamp(),
        until: parsed.validity().not_after.timestamp(),
    })
}

/// SHA-256 of a private key's public key, hex; equals [`Described::public_key`].
///
/// # Errors
/// [`PkiError::Unreadable`] for a bad key.
pub fn key_fingerprint(key: &str) -> Result<String, PkiError> {
    Ok(fingerprint(read_key(key)?.public_key_raw()))
}

/// Checks that a private key matches a certificate.
///
/// # Errors
/// [`PkiError::KeyMismatch`] when they do not; [`PkiError::Unreadable`] for bad input.
pub fn check_pair(certificate: &str, key: &str) -> Result<(), PkiError> {
    let described = describe_certificate(certificate)?;
    if described.public_key == key_fingerprint(key)? {
        Ok(())
    } else {
        Err(PkiError::KeyMismatch { subject: described.subject })
    }
}

/// Checks that one of the CAs in a PEM bundle signed the certificate.
///
/// # Errors
/// [`PkiError::Untrusted`] when none did; [`PkiError::Unreadable`] for bad input.
pub fn check_issued_by(certificate: &str, bundle: &str) -> Result<(), PkiError> {
    let subject = describe_certificate(certificate)?.subject;
    issuer_in(certificate, bundle)?.map(drop).ok_or(PkiError::Untrusted { subject })
}

/// The CA of a PEM bundle that signed the certificate, identified by its public key as in
/// [`Described::public_key`]; `None` when none of them did.
///
/// # Errors
/// [`PkiError::Unreadable`] for bad input.
pub fn issuer_in(certificate: &str, bundle: &str) -> Result<Option<String>, PkiError> {
    let mut issuer = None;
    for authority in x509_parser::pem::Pem::iter_from_buffer(bundle.as_bytes()) {
        let authority = authority.map_err(|e| unreadable("the authority bundle", &e))?;
        let (_, authority) =
            X509Certificate::from_der(&authority.contents).map_err(|e| unreadable("the authority bundle", &e))?;
        let signed = with_certificate(certificate, |leaf| {
            leaf.issuer() == authority.subject() && leaf.verify_signature(Some(authority.public_key())).is_ok()
        })?;
        if signed {
            issuer = Some(fingerprint(&authority.public_key().subject_public_key.data));
        }
    }
    Ok(issuer)
}

/// Decodes each certificate of a PEM bundle, in the bundle's order.
///
/// # Errors
/// [`PkiError::Unreadable`] for bad input.
pub fn describe_bundle(bundle: &str) -> Result<Vec<Described>, PkiError> {
    let mut all = Vec::new();
    for pem in x509_parser::pem::Pem::iter_from_buffer(bundle.as_bytes()) {
        let pem = pem.map_err(|e| unreadable("the authority bundle", &e))?;
        let (_, parsed) =
            X509Certificate::from_der(&pem.contents).map_err(|e| unreadable("the authority bundle", &e))?;
        all.push(described(&parsed));
    }
    Ok(all)
}

/// The common name in a DER-encoded X.500 name, such as those in a TLS CertificateRequest;
/// `None` for anything else.
#[must_use]
pub fn common_name_of_der(name: &[u8]) -> Option<String> {
    let (_, name) = x509_parser::x509::X509Name::from_der(name).ok()?;
    name.iter_common_name().next().and_then(|cn| cn.as_str().ok()).map(str::to_owned)
}

/// Encodes a DER certificate as PEM.
#[must_use]
pub fn certificate_to_pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// The normal form of a list of names: addresses in canonical form, names in lower case, sorted and
/// deduplicated. Two normalised lists are equal exactly when they contain the same names, so a
/// reordered list never causes a certificate to be reissued.
#[must_use]
pub fn normal_names<S: AsRef<str>>(names: &[S]) -> Vec<String> {
    let set: BTreeSet<String> = names
        .iter()
        .map(|name| name.as_ref().trim())
        .filter(|name| !name.is_empty())
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => address.to_string(),
            Err(_) => name.trim_end_matches('.').to_ascii_lowercase(),
        })
        .collect();
    set.into_iter().collect()
}

fn name_of(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, DnValue::Utf8String(common_name.to_owned()));
    name
}

fn read_key(key: &str) -> Result<KeyPair, PkiError> {
    // The parser's error is dropped on purpose: it could contain the key.
    KeyPair::from_pem(key)
        .map_err(|_| PkiError::Unreadable { what: "a private key", cause: "expected one PKCS#8 PEM block".to_owned() })
}

fn set_validity(params: &mut CertificateParams, validity: Validity) -> Result<(), PkiError> {
    let time = |seconds| {
        time::OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|e| PkiError::Generate { what: "a validity date", cause: e.to_string() })
    };
    params.not_before = time(validity.from)?;
    params.not_after = time(validity.until)?;
    Ok(())
}

/// A serial number that is unique per certificate, even for the same key: 16 bytes, positive.
fn serial_for(described: &Described, validity: Validity) -> SerialNumber {
    let mut hash = Sha256::new();
    hash.update(described.public_key.as_bytes());
    hash.update(described.names.join(",").as_bytes());
    hash.update(validity.from.to_be_bytes());
    hash.update(validity.until.to_be_bytes());
    let mut serial = hash.finalize()[..16].to_vec();
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from(serial)
}

fn fingerprint(public_key: &[u8]) -> String {
    Sha256::digest(public_key).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bits of the first public key in a PEM text, bare or in a certificate: an elliptic-curve point or an RSA PKCS#1
/// key. `None` when there is none.
#[must_use]
pub fn public_key_bits(pem: &[u8]) -> Option<Vec<u8>> {
    let bits = |key: &SubjectPublicKeyInfo<'_>| key.subject_public_key.data.to_vec();
    let blocks = x509_parser::pem::Pem::iter_from_buffer(pem).filter_map(Result::ok);
    blocks.into_iter().find_map(|block| match block.label.as_str() {
        "PUBLIC KEY" => SubjectPublicKeyInfo::from_der(&block.contents).ok().map(|(_, key)| bits(&key)),
        "RSA PUBLIC KEY" => Some(block.contents),
        "CERTIFICATE" => X509Certificate::from_der(&block.contents).ok().map(|(_, read)| bits(read.public_key())),
        _ => None,
    })
}

fn common_name(name: &x509_parser::x509::X509Name<'_>) -> String {
    name.iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default().to_owned()
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn with_certificate<T>(certificate: &str, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, PkiError> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|e| unreadable("the certificate", &e))?;
    let parsed = pem.parse_x509().map_err(|e| unreadable("the certificate", &e))?;
    Ok(read(&parsed))
}

fn unreadable(what: &'static str, cause: &dyn std::fmt::Display) -> PkiError {
    PkiError::Unreadable { what, cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn leaf(authority: &Authority, usage: Usage) -> (String, String) {
        let key = make_key().unwrap();
        let san = names(&["10.0.0.5", "etcd0"]);
        let request = make_request(&key, "etcd0", &san).unwrap();
        let cert = sign_request(authority, &request, &san, usage, Validity::days(NOW, LEAF_DAYS)).unwrap();
        (cert, key)
    }

    #[test]
    fn a_signed_request_yields_a_certificate_for_its_key_under_its_authority() {
        let authority = make_authority("clients", NOW).unwrap();
        let (cert, key) = leaf(&authority, Usage::ServerAndClient);
        check_pair(&cert, &key).unwrap();
        check_issued_by(&cert, &authority.certificate).unwrap();
        let described = describe_certificate(&cert).unwrap();
        assert_eq!(described.names, names(&["10.0.0.5", "etcd0"]));
        assert_eq!(described.subject, "etcd0");
        assert_eq!(certificate_validity(&cert).unwrap(), Validity::days(NOW, LEAF_DAYS));
    }

    #[test]
    fn another_authority_with_the_same_name_is_not_trusted() {
        let authority = make_authority("clients", NOW).unwrap();
        let twin = make_authority("clients", NOW).unwrap();
        let (cert, _) = leaf(&authority, Usage::ClientOnly);
        assert!(matches!(check_issued_by(&cert, &twin.certificate), Err(PkiError::Untrusted { .. })));
        let bundle = format!("{}{}", twin.certificate, authority.certificate);
        check_issued_by(&cert, &bundle).unwrap();
    }

    #[test]
    fn a_bundle_lists_its_cas_and_which_of_them_signed() {
        let (old, new) = (make_authority("clients 1", NOW).unwrap(), make_authority("clients 2", NOW).unwrap());
        let bundle = format!("{}{}", old.certificate, new.certificate);
        let told = describe_bundle(&bundle).unwrap();
        let subjects: Vec<&str> = told.iter().map(|one| one.subject.as_str()).collect();
        assert_eq!(subjects, ["clients 1", "clients 2"]);
        for (authority, says) in [&old, &new].into_iter().zip(&told) {
            let (signed, _) = leaf(authority, Usage::ClientOnly);
            assert_eq!(issuer_in(&signed, &bundle).unwrap().as_ref(), Some(&says.public_key));
        }
        let (foreign, _) = leaf(&make_authority("clients 1", NOW).unwrap(), Usage::ClientOnly);
        assert_eq!(issuer_in(&foreign, &bundle).unwrap(), None);
        assert!(describe_bundle("-----BEGIN CERTIFICATE-----\nx").is_err());
    }

    #[test]
    fn der_encodes_to_the_pem_it_came_from() {
        let pem = make_authority("clients", NOW).unwrap().certificate;
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let again = certificate_to_pem(&parsed.contents);
        assert_eq!(describe_certificate(&again).unwrap(), describe_certificate(&pem).unwrap());
        assert_eq!(common_name_of_der(b"x"), None);
    }

    #[test]
    fn a_request_for_names_its_unit_did_not_publish_is_refused() {
        let authority = make_authority("peers", NOW).unwrap();
        let key = make_key().unwrap();
        let request = make_request(&key, "etcd0", &names(&["10.0.0.5", "10.0.0.9"])).unwrap();
        let refused =
            sign_request(&authority, &request, &names(&["10.0.0.5"]), Usage::ServerAndClient, Validity::days(NOW, 1));
        assert!(matches!(refused, Err(PkiError::NamesDiffer { .. })));
    }

    #[test]
    fn a_request_with_a_broken_signature_is_refused() {
        let key = make_key().unwrap();
        let request = make_request(&key, "etcd0", &names(&["etcd0"])).unwrap();
        let (_, mut pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).unwrap();
        let last = pem.contents.len() - 1;
        pem.contents[last] ^= 1;
        use base64::Engine as _;
        let broken = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            base64::engine::general_purpose::STANDARD.encode(&pem.contents)
        );
        assert!(matches!(describe_request(&broken), Err(PkiError::Unreadable { .. })));
    }

    #[test]
    fn a_client_certificate_cannot_serve_and_a_server_certificate_can_do_both() {
        let authority = make_authority("clients", NOW).unwrap();
        for (usage, server) in [(Usage::ClientOnly, false), (Usage::ServerAndClient, true)] {
            let (cert, _) = leaf(&authority, usage);
            let (_, pem) = x509_parser::pem::parse_x509_pem(cert.as_bytes()).unwrap();
            let parsed = pem.parse_x509().unwrap();
            let eku = parsed.extended_key_usage().unwrap().unwrap().value;
            assert!(eku.client_auth);
            assert_eq!(eku.server_auth, server);
        }
    }

    #[test]
    fn two_certificates_for_one_key_have_different_serials() {
        let authority = make_authority("clients", NOW).unwrap();
        let key = make_key().unwrap();
        let request = make_request(&key, "a", &names(&["a"])).unwrap();
        let serial = |now| {
            let validity = Validity::days(now, 30);
            let cert = sign_request(&authority, &request, &names(&["a"]), Usage::ClientOnly, validity).unwrap();
            with_certificate(&cert, |parsed| parsed.raw_serial().to_vec()).unwrap()
        };
        assert_ne!(serial(NOW), serial(NOW + 1));
    }

    #[test]
    fn renewal_is_due_after_two_thirds_of_the_validity() {
        let validity = Validity { from: 0, until: 300 };
        assert!(!validity.renewal_due(199));
        assert!(validity.renewal_due(200));
        assert!(validity.renewal_due(301));
    }

    #[test]
    fn a_leaf_never_outlives_its_authority() {
        let authority = make_authority("clients", NOW).unwrap();
        let key = make_key().unwrap();
        let request = make_request(&key, "a", &names(&["a"])).unwrap();
        let cert = sign_request(
            &authority,
            &request,
            &names(&["a"]),
            Usage::ClientOnly,
            Validity::days(NOW, AUTHORITY_DAYS * 2),
        )
        .unwrap();
        assert_eq!(certificate_validity(&cert).unwrap().until, NOW + AUTHORITY_DAYS * DAY);
    }

    #[test]
    fn names_normalise_regardless_of_order_and_spelling() {
        let a = normal_names(&["Host.Example.", "10.0.0.5", "::1", "host.example"]);
        let b = normal_names(&["0:0:0:0:0:0:0:1", "host.example", "10.0.0.5", ""]);
        assert_eq!(a, b);
        assert_eq!(a, names(&["10.0.0.5", "::1", "host.example"]));
    }

    #[test]
    fn a_bad_key_is_reported_without_its_text() {
        let error = key_fingerprint("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
}
