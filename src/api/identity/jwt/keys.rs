//! The keys of signed tokens, from files to what the methods need.
//!
//! Private keys come as PKCS#8, PKCS#1 (RSA) or SEC1 (EC), public ones as a public key or a whole certificate, all in
//! PEM; HMAC takes the bytes of the file. With a private key alone the public one is derived; with both they must match.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::p521::{self, P521};
use super::{Method, rules};
use crate::pki;
use crate::settings::Jwt as Settings;

/// Why the keys of signed tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read.
    #[error("auth: the {which} of --auth-token cannot be read: {path}: {cause}")]
    File {
        /// `pub-key` or `priv-key`.
        which: &'static str,
        /// The file.
        path: String,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The method has no key.
    #[error("auth: missing key data: --auth-token=jwt with sign-method={method} needs {wanted}")]
    Missing {
        /// The method.
        method: &'static str,
        /// Which option to give.
        wanted: &'static str,
    },
    /// A file holds no such key.
    #[error("auth: {path} (the {which} of --auth-token) is no key for sign-method={method}: {cause}")]
    Unfit {
        /// `pub-key` or `priv-key`.
        which: &'static str,
        /// The file.
        path: String,
        /// The method.
        method: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The two files are of different pairs.
    #[error("auth: public and private keys don't match: {public} and {private} (see --auth-token)")]
    Mismatch {
        /// The public key's file.
        public: String,
        /// The private key's file.
        private: String,
    },
}

const PUBLIC: &str = "pub-key";
const PRIVATE: &str = "priv-key";

/// A file that was read.
struct Source {
    which: &'static str,
    path: String,
    method: &'static str,
    bytes: Vec<u8>,
}

impl Source {
    fn read(which: &'static str, method: &'static str, path: Option<&PathBuf>) -> Result<Option<Self>, KeyError> {
        let Some(path) = path else { return Ok(None) };
        let name = |path: &Path| path.display().to_string();
        let bytes = std::fs::read(path).map_err(|cause| KeyError::File { which, path: name(path), cause })?;
        Ok(Some(Self { which, path: name(path), method, bytes }))
    }

    fn unfit(&self, cause: impl ToString) -> KeyError {
        let Self { which, path, method, .. } = self;
        KeyError::Unfit { which, path: path.clone(), method, cause: cause.to_string() }
    }

    /// The private key in DER, PKCS#8 or SEC1.
    fn private_der(&self) -> Result<PrivateKeyDer<'static>, KeyError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|_| self.unfit("it holds no private key in PEM"))
    }

    /// What stands for the key inside a public key or certificate: a point, or an RSA key.
    fn public_bits(&self) -> Result<Vec<u8>, KeyError> {
        pki::public_key_bits(&self.bytes)
            .ok_or_else(|| self.unfit("it holds neither a public key nor a certificate in PEM"))
    }
}

/// Loads what the settings name.
pub(super) fn load(settings: &Settings) -> Result<Method, KeyError> {
    let method = settings.sign_method;
    let private = Source::read(PRIVATE, method, settings.private_key.as_ref())?;
    let public = Source::read(PUBLIC, method, settings.public_key.as_ref())?;
    let missing = |wanted| KeyError::Missing { method, wanted };
    let algorithm = match method {
        "ES512" => return es512(private, public).ok_or_else(|| missing("pub-key or priv-key"))?,
        known => known.parse::<Algorithm>().map_err(|_| missing("another sign-method"))?,
    };
    let keys = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => hmac(private).ok_or_else(|| missing("priv-key"))?,
        Algorithm::ES256 => pair(private, public, |source| ec(source, &ECDSA_P256_SHA256_FIXED_SIGNING), point::<65>),
        Algorithm::ES384 => pair(private, public, |source| ec(source, &ECDSA_P384_SHA384_FIXED_SIGNING), point::<97>),
        Algorithm::EdDSA => pair(private, public, ed25519, point::<32>),
        _ => pair(private, public, rsa, rsa_public),
    };
    let (signing, bits) = keys?.ok_or_else(|| missing("pub-key or priv-key"))?;
    let verifying = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => DecodingKey::from_secret(&bits),
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_der(&bits),
        Algorithm::EdDSA => DecodingKey::from_ed_der(&bits),
        _ => DecodingKey::from_rsa_der(&bits),
    };
    Ok(Method::Library { algorithm, signing, verifying, rules: rules(algorithm) })
}

/// A signing key where there is one, and the bits that verify.
type Keys = (Option<EncodingKey>, Vec<u8>);

fn hmac(private: Option<Source>) -> Option<Result<Option<Keys>, KeyError>> {
    let secret = private.filter(|source| !source.bytes.is_empty())?.bytes;
    Some(Ok(Some((Some(EncodingKey::from_secret(&secret)), secret))))
}

/// Reads either or both halves; `None` when neither is given.
fn pair(
    private: Option<Source>,
    public: Option<Source>,
    read_private: impl Fn(&Source) -> Result<(EncodingKey, Vec<u8>), KeyError>,
    read_public: impl Fn(&Source) -> Result<Vec<u8>, KeyError>,
) -> Result<Option<Keys>, KeyError> {
    let given = public.as_ref().map(&read_public).transpose()?;
    let Some(source) = &private else { return Ok(given.map(|bits| (None, bits))) };
    let (signing, derived) = read_private(source)?;
    if given.is_some_and(|given| given != derived) {
        return Err(mismatch(&private, &public));
    }
    Ok(Some((Some(signing), derived)))
}

fn mismatch(private: &Option<Source>, public: &Option<Source>) -> KeyError {
    let name = |source: &Option<Source>| source.as_ref().map(|source| source.path.clone()).unwrap_or_default();
    KeyError::Mismatch { public: name(public), private: name(private) }
}

fn rsa(source: &Source) -> Result<(EncodingKey, Vec<u8>), KeyError> {
    let key = EncodingKey::from_rsa_pem(&source.bytes).map_err(|error| source.unfit(error))?;
    let pair = RsaKeyPair::from_der(key.as_bytes()).map_err(|rejected| source.unfit(rejected))?;
    let public = pair.public_key().as_ref().to_vec();
    Ok((key, public))
}

fn rsa_public(source: &Source) -> Result<Vec<u8>, KeyError> {
    let bits = source.public_bits()?;
    match aws_lc_rs::rsa::PublicKey::from_der(&bits) {
        Ok(_) => Ok(bits),
        Err(rejected) => Err(source.unfit(rejected)),
    }
}

fn ec(source: &Source, curve: &'static EcdsaSigningAlgorithm) -> Result<(EncodingKey, Vec<u8>), KeyError> {
    let der = source.private_der()?;
    let pair =
        EcdsaKeyPair::from_private_key_der(curve, der.secret_der()).map_err(|rejected| source.unfit(rejected))?;
    let document = pair.to_pkcs8v1().map_err(|rejected| source.unfit(rejected))?;
    Ok((EncodingKey::from_ec_der(document.as_ref()), pair.public_key().as_ref().to_vec()))
}

fn ed25519(source: &Source) -> Result<(EncodingKey, Vec<u8>), KeyError> {
    let der = source.private_der()?;
    let pair = Ed25519KeyPair::from_pkcs8(der.secret_der()).map_err(|rejected| source.unfit(rejected))?;
    Ok((EncodingKey::from_ed_der(der.secret_der()), pair.public_key().as_ref().to_vec()))
}

/// A public key of `LEN` bytes: the curve tells itself by that.
fn point<const LEN: usize>(source: &Source) -> Result<Vec<u8>, KeyError> {
    let bits = source.public_bits()?;
    if bits.len() == LEN { Ok(bits) } else { Err(source.unfit("it is of another kind or curve")) }
}

fn es512(private: Option<Source>, public: Option<Source>) -> Option<Result<Method, KeyError>> {
    let given = match public.as_ref().map(point::<{ p521::POINT_BYTES }>).transpose() {
        Ok(given) => given,
        Err(error) => return Some(Err(error)),
    };
    let Some(source) = &private else { return Some(Ok(Method::P521(P521::public(given?)))) };
    let key =
        source.private_der().and_then(|der| P521::private(der.secret_der()).map_err(|rejected| source.unfit(rejected)));
    Some(match key {
        Ok(key) if given.is_some_and(|given| given != key.point()) => Err(mismatch(&private, &public)),
        Ok(key) => Ok(Method::P521(key)),
        Err(error) => Err(error),
    })
}
