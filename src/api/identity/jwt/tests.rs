//! Every method signs, verifies and refuses; keys are read in every form that etcd reads.

use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tempfile::TempDir;

use super::*;

const TTL: Duration = Duration::from_secs(300);

/// Now, as the library tells it.
fn now() -> Duration {
    Duration::from_secs(jsonwebtoken::get_current_timestamp())
}

struct Files {
    dir: TempDir,
    private: PathBuf,
    public: PathBuf,
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn files(private: &str, public: &str) -> Files {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a key file");
        path
    };
    let (private, public) = (write("private", private), write("public", public));
    Files { dir, private, public }
}

fn ec(curve: &'static EcdsaSigningAlgorithm) -> Files {
    let pair = EcdsaKeyPair::generate(curve).expect("a key");
    let private: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().expect("encodes");
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("encodes");
    files(&pem("EC PRIVATE KEY", private.as_ref()), &pem("PUBLIC KEY", public.as_ref()))
}

fn ed() -> Files {
    let pair = Ed25519KeyPair::generate().expect("a key");
    let private = pair.to_pkcs8v1().expect("encodes");
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("encodes");
    files(&pem("PRIVATE KEY", private.as_ref()), &pem("PUBLIC KEY", public.as_ref()))
}

fn rsa() -> Files {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let private: Pkcs8V1Der<'_> = pair.as_der().expect("encodes");
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("encodes");
    files(&pem("PRIVATE KEY", private.as_ref()), &pem("PUBLIC KEY", public.as_ref()))
}

fn settings(method: &'static str, private: Option<&Path>, public: Option<&Path>) -> settings::Jwt {
    let owned = |path: Option<&Path>| path.map(Path::to_path_buf);
    settings::Jwt { public_key: owned(public), private_key: owned(private), sign_method: method, ttl: TTL }
}

fn open(method: &'static str, private: Option<&Path>, public: Option<&Path>) -> Jwt {
    Jwt::open(&settings(method, private, public)).unwrap_or_else(|error| panic!("{method}: {error}"))
}

fn refused(method: &'static str, private: Option<&Path>, public: Option<&Path>) -> String {
    match Jwt::open(&settings(method, private, public)) {
        Ok(_) => panic!("{method} was accepted"),
        Err(error) => error.to_string(),
    }
}

fn identity(user: &str, revision: u64) -> Option<Identity> {
    Some(Identity { user: user.to_owned(), revision })
}

#[test]
fn every_method_of_etcd_signs_what_it_verifies_and_refuses_what_was_touched() {
    let rsa = rsa();
    let curves = [
        ("ES256", ec(&ECDSA_P256_SHA256_FIXED_SIGNING)),
        ("ES384", ec(&ECDSA_P384_SHA384_FIXED_SIGNING)),
        ("ES512", ec(&ECDSA_P521_SHA512_FIXED_SIGNING)),
        ("EdDSA", ed()),
    ];
    let with_rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(|method| (method, &rsa));
    for (method, files) in with_rsa.into_iter().chain(curves.iter().map(|(method, files)| (*method, files))) {
        let both = open(method, Some(&files.private), Some(&files.public));
        let token = both.sign("ann", 7, now()).expect("signs");
        let alone = open(method, Some(&files.private), None);
        let verify_only = open(method, None, Some(&files.public));
        for reader in [&both, &alone, &verify_only] {
            assert_eq!(reader.identity(&token), identity("ann", 7), "{method}");
        }
        assert_eq!(verify_only.sign("ann", 7, now()), Err(SignError::VerifyOnly), "{method}");
        let late = both.sign("ann", 7, now() - TTL - Duration::from_secs(1)).expect("signs");
        assert_eq!(both.identity(&late), None, "{method} after its end");
        let (message, signature) = token.rsplit_once('.').expect("three parts");
        let (header, _) = message.split_once('.').expect("three parts");
        let claims = URL_SAFE_NO_PAD.encode(r#"{"username":"root","revision":7,"exp":99999999999}"#);
        let forged = [
            format!("{header}.{claims}.{signature}"),
            format!("{message}."),
            message.to_owned(),
            format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#)),
            format!("{token}.x"),
            String::new(),
        ];
        for token in forged {
            assert_eq!(both.identity(&token), None, "{method}: {token}");
        }
        assert!(files.dir.path().is_dir());
    }
}

#[test]
fn hmac_takes_the_bytes_of_the_private_file() {
    let secret = files("any bytes", "");
    for method in ["HS256", "HS384", "HS512"] {
        let keys = open(method, Some(&secret.private), None);
        let token = keys.sign("ann", 3, now()).expect("signs");
        assert_eq!(keys.identity(&token), identity("ann", 3));
        assert!(refused(method, None, Some(&secret.private)).contains("missing key data"), "{method}");
        assert!(refused(method, Some(&secret.public), None).contains("missing key data"), "an empty secret");
    }
}

#[test]
fn a_token_of_another_method_is_refused_though_its_key_would_fit() {
    let files = rsa();
    let (one, other) = (open("RS256", Some(&files.private), None), open("PS256", Some(&files.private), None));
    let token = one.sign("ann", 1, now()).expect("signs");
    assert_eq!(other.identity(&token), None);
    // The classic confusion: the public key taken for an HMAC secret.
    let public = std::fs::read(&files.public).expect("a file");
    let header = Header::new(Algorithm::HS256);
    let claims = serde_json::json!({"username": "root", "revision": 1, "exp": 99_999_999_999_u64});
    let forged = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&public)).expect("signs");
    assert_eq!(one.identity(&forged), None);
}

#[test]
fn claims_of_others_are_read_as_etcd_reads_them() {
    let secret = files("secret", "");
    let keys = open("HS256", Some(&secret.private), None);
    let key = EncodingKey::from_secret(b"secret");
    let read = |claims: Value| {
        keys.identity(&jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("signs"))
    };
    let soon = now().as_secs() + 100;
    assert_eq!(read(serde_json::json!({"username": "u", "revision": 2})), identity("u", 2), "no end");
    assert_eq!(read(serde_json::json!({"username": "u", "revision": 2.0, "aud": "x", "exp": soon})), identity("u", 2));
    assert_eq!(read(serde_json::json!({"username": "u", "revision": 2, "nbf": soon})), None, "not yet");
    assert_eq!(read(serde_json::json!({"username": "u", "revision": "2"})), None);
    assert_eq!(read(serde_json::json!({"username": 5, "revision": 2})), None);
    assert_eq!(read(serde_json::json!({"revision": 2})), None);
}

#[test]
fn a_certificate_stands_for_its_public_key() {
    let params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    let key = rcgen::KeyPair::generate().expect("a P-256 key");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    let files = files(&key.serialize_pem(), &certificate);
    let keys = open("ES256", Some(&files.private), Some(&files.public));
    let token = keys.sign("ann", 1, now()).expect("signs");
    assert_eq!(open("ES256", None, Some(&files.public)).identity(&token), identity("ann", 1));
}

#[test]
fn keys_that_cannot_work_stop_the_start_and_are_named() {
    let (p256, p384, other) = (
        ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
        ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
        ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
    );
    let garbage = files("no key at all", "nor here");
    assert!(refused("ES256", None, None).contains("missing key data"));
    let absent = refused("ES256", Some(Path::new("/nowhere/key")), None);
    assert!(absent.contains("priv-key") && absent.contains("/nowhere/key"), "{absent}");
    for method in ["ES256", "ES512", "RS256", "EdDSA"] {
        let unfit = refused(method, Some(&garbage.private), None);
        assert!(unfit.contains(&garbage.private.display().to_string()) && unfit.contains(method), "{unfit}");
        refused(method, None, Some(&garbage.public));
        refused(method, Some(&p384.private), None);
        refused(method, None, Some(&p384.public));
    }
    let mixed = refused("ES256", Some(&p256.private), Some(&other.public));
    assert!(mixed.contains("public and private keys don't match"), "{mixed}");
}
