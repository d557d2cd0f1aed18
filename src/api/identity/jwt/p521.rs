//! ES512: ECDSA on P-521 with SHA-512, the one of etcd's methods that the JWT library lacks. RFC 7515 compact form,
//! RFC 7518 §3.4 signature (both numbers side by side).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P521_SHA512_FIXED, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::SignError;

const HEADER: &str = r#"{"typ":"JWT","alg":"ES512"}"#;
/// Length of an uncompressed point.
pub const POINT_BYTES: usize = 133;

/// A key for ES512.
pub struct P521 {
    pair: Option<EcdsaKeyPair>,
    public: Vec<u8>,
}

impl P521 {
    /// A key that signs. `der` is PKCS#8 or SEC1.
    pub fn private(der: &[u8]) -> Result<Self, String> {
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P521_SHA512_FIXED_SIGNING, der)
            .map_err(|rejected| rejected.to_string())?;
        let public = pair.public_key().as_ref().to_vec();
        Ok(Self { pair: Some(pair), public })
    }

    /// A key that only verifies: an uncompressed point.
    pub fn public(point: Vec<u8>) -> Self {
        Self { pair: None, public: point }
    }

    /// The public point.
    pub fn point(&self) -> &[u8] {
        &self.public
    }

    pub(super) fn sign(&self, claims: &Value) -> Result<String, SignError> {
        let pair = self.pair.as_ref().ok_or(SignError::VerifyOnly)?;
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).map_err(|_| SignError::Failed)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a good token whose time is not over at `now`, seconds since 1970.
    pub(super) fn claims(&self, token: &str, now: u64) -> Option<Map<String, Value>> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Value = decoded(header)?;
        if header.get("alg")?.as_str()? != "ES512" {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, &self.public);
        key.verify(message.as_bytes(), &signature).ok()?;
        let claims: Map<String, Value> = decoded(claims)?;
        let bound = |name: &str| match claims.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(value) => value.as_f64().map(Some),
        };
        let (until, from) = (bound("exp")?, bound("nbf")?);
        let now = now as f64;
        (until.is_none_or(|until| now < until) && from.is_none_or(|from| from <= now)).then_some(claims)
    }
}

fn decoded<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
