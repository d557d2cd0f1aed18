//! Signed tokens (`--auth-token=jwt,…`): JSON web tokens with etcd's three claims, `username`, `revision` and `exp`.
//!
//! The method is fixed by configuration, and a token of any other is refused whatever its header says. Tokens made
//! elsewhere with the right key are as good as ours; only what they carry is checked.

mod keys;
mod p521;

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value};

pub use self::keys::KeyError;
use self::p521::P521;
use crate::model::auth::Identity;
use crate::settings;

/// Makes and reads signed tokens.
pub struct Jwt {
    method: Method,
    ttl: Duration,
}

enum Method {
    Library {
        algorithm: Algorithm,
        signing: Option<EncodingKey>,
        verifying: DecodingKey,
        rules: Validation,
    },
    /// ES512, which the library does not know.
    P521(P521),
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignError {
    /// Only the public key is configured.
    VerifyOnly,
    /// The key does not sign; the log says why.
    Failed,
}

impl Jwt {
    /// Loads the keys and tries them.
    ///
    /// # Errors
    /// A file that cannot be read, a key that is missing, does not fit the method, or does not match its other half.
    pub fn open(settings: &settings::Jwt) -> Result<Self, KeyError> {
        Ok(Self { method: keys::load(settings)?, ttl: settings.ttl })
    }

    /// A token for `user`, good from `now` (since 1970) while the auth revision stays.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign(&self, user: &str, revision: u64, now: Duration) -> Result<String, SignError> {
        let claims = serde_json::json!({
            "username": user,
            "revision": revision,
            "exp": (now + self.ttl).as_secs(),
        });
        match &self.method {
            Method::Library { signing: None, .. } => Err(SignError::VerifyOnly),
            Method::Library { algorithm, signing: Some(key), .. } => {
                jsonwebtoken::encode(&Header::new(*algorithm), &claims, key).map_err(|error| {
                    tracing::error!(%error, "a token could not be signed; see the keys of --auth-token");
                    SignError::Failed
                })
            }
            Method::P521(key) => key.sign(&claims),
        }
    }

    /// Who a token is of, and at which auth revision; `None` when it is bad or its time is over.
    pub fn identity(&self, token: &str) -> Option<Identity> {
        let claims = match &self.method {
            Method::Library { verifying, rules, .. } => {
                let read = jsonwebtoken::decode::<Map<String, Value>>(token, verifying, rules);
                read.inspect_err(|error| tracing::debug!(%error, "a signed token was refused")).ok()?.claims
            }
            Method::P521(key) => key.claims(token, jsonwebtoken::get_current_timestamp())?,
        };
        let user = claims.get("username")?.as_str()?.to_owned();
        // Tokens of others may carry the number as a float, which is how etcd reads it.
        let revision = claims.get("revision")?.as_f64()? as u64;
        Some(Identity { user, revision })
    }
}

/// What of the standard claims counts: an end and a beginning where given, to the second. An end is not demanded.
fn rules(algorithm: Algorithm) -> Validation {
    let mut rules = Validation::new(algorithm);
    rules.required_spec_claims.clear();
    rules.leeway = 0;
    rules.validate_nbf = true;
    rules.validate_aud = false;
    rules
}

#[cfg(test)]
mod tests;
