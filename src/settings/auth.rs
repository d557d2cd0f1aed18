//! `--auth-token`: the kind of token that authentication issues.

use std::path::PathBuf;
use std::time::Duration;

use super::values::{format_duration, parse_duration};

/// Kind of authentication token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthToken {
    /// Random text, known to the members that applied the login.
    Simple,
    /// Signed JSON Web Token.
    Jwt(Jwt),
}

/// Options of `--auth-token=jwt,…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// `pub-key`: file of the verification key.
    pub public_key: Option<PathBuf>,
    /// `priv-key`: file of the signing key.
    pub private_key: Option<PathBuf>,
    /// `sign-method`, one of etcd's.
    pub sign_method: &'static str,
    /// `ttl`, five minutes when not given.
    pub ttl: Duration,
}

/// Signature methods a token may use.
const SIGN_METHODS: [&str; 13] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "EdDSA",
];

const JWT_DEFAULT_TTL: Duration = Duration::from_secs(300);

impl AuthToken {
    /// Reads the flag.
    pub fn parse(text: &str) -> Result<AuthToken, String> {
        let mut parts = text.split(',');
        match parts.next() {
            Some("simple") => Ok(AuthToken::Simple),
            Some("jwt") => Jwt::parse(parts).map(AuthToken::Jwt),
            _ => Err(format!("auth: invalid auth options (--auth-token={text:?}; use simple or jwt,sign-method=…)")),
        }
    }

    /// The flag's text.
    pub(super) fn text(&self) -> String {
        let jwt = match self {
            AuthToken::Simple => return "simple".to_owned(),
            AuthToken::Jwt(jwt) => jwt,
        };
        let mut text = format!("jwt,sign-method={},ttl={}", jwt.sign_method, format_duration(jwt.ttl));
        for (name, path) in [("pub-key", &jwt.public_key), ("priv-key", &jwt.private_key)] {
            if let Some(path) = path {
                text.push_str(&format!(",{name}={}", path.display()));
            }
        }
        text
    }
}

impl Jwt {
    fn parse<'a>(options: impl Iterator<Item = &'a str>) -> Result<Jwt, String> {
        let wrong = |what: &str| format!("auth: invalid auth options (--auth-token=jwt: {what})");
        let (mut public_key, mut private_key, mut method, mut ttl) = (None, None, None, None);
        for option in options {
            let (name, value) = option.split_once('=').ok_or_else(|| wrong(&format!("{option:?} has no value")))?;
            let twice = match name {
                "pub-key" => public_key.replace(PathBuf::from(value)).is_some(),
                "priv-key" => private_key.replace(PathBuf::from(value)).is_some(),
                "sign-method" => {
                    let known = SIGN_METHODS.iter().find(|known| **known == value);
                    let known = known.ok_or_else(|| wrong(&format!("unknown sign-method {value:?}")))?;
                    method.replace(*known).is_some()
                }
                "ttl" => ttl.replace(parse_duration(value).map_err(|why| wrong(&why))?).is_some(),
                _ => return Err(wrong(&format!("unknown option {name:?}"))),
            };
            if twice {
                return Err(wrong(&format!("{name} is given twice")));
            }
        }
        let sign_method = method.ok_or_else(|| wrong("sign-method is missing"))?;
        let ttl = ttl.unwrap_or(JWT_DEFAULT_TTL);
        Ok(Jwt { public_key, private_key, sign_method, ttl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_token_parse_and_render_back() {
        for text in ["simple", "jwt,sign-method=RS512,ttl=10m,pub-key=a.pub,priv-key=a"] {
            assert_eq!(AuthToken::parse(text).expect(text).text(), text);
        }
    }

    #[test]
    fn invalid_token_options_are_refused() {
        for text in ["", "magic", "jwt", "jwt,sign-method=XX1", "jwt,sign-method=RS256,ttl=x", "jwt,a=b"] {
            let error = AuthToken::parse(text).expect_err(text);
            assert!(error.starts_with("auth: invalid auth options"), "{error}");
        }
    }
}
