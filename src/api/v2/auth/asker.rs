//! Who asks: the user of an `Authorization` header, of a client certificate, or nobody; and whether he is a root.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Request, header};

use super::super::V2;
use super::super::propose::{Failure, busy};
use crate::api::body::AnyBody;
use crate::listen::Caller;
use crate::model::v2::auth::types::User;
use crate::model::v2::auth::{self as model, ROOT, Want};
use crate::model::view::ViewError;
use crate::work::Source;

/// The credentials that came with a request. They are looked up when they are needed, and only while authentication is
/// on; otherwise nobody looks at them, as in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api::v2) enum Asker {
    /// No credentials.
    Nobody,
    /// The common name of a verified client certificate.
    Certificate(String),
    /// A name and a password, and the connection they came on.
    Basic(String, String, Source),
    /// A header that does not read as a name and a password: it lets nobody in, not even as a guest.
    Malformed,
}

/// Who may be behind credentials.
enum Known {
    /// No credentials were given, or a certificate names no user.
    Guest,
    /// A user.
    User(User),
    /// Credentials that are nobody's.
    Stranger,
}

/// Reads the credentials of a request. A header comes before a certificate.
pub(in crate::api::v2) fn asker(v2: &V2, request: &Request<AnyBody>) -> Asker {
    let named = request.extensions().get::<Caller>().filter(|_| v2.client_cert_auth);
    // The leaf's name only: etcd also tries the names of the authorities above it.
    match credentials(request.headers(), named.and_then(Caller::common_name)) {
        Asker::Basic(name, password, _) => Asker::Basic(name, password, source(request)),
        other => other,
    }
}

/// The connection a request came on.
pub(in crate::api::v2) fn source<B>(request: &Request<B>) -> Source {
    request.extensions().get::<Caller>().map(Caller::source).unwrap_or_default()
}

pub(super) fn credentials(headers: &HeaderMap, common_name: Option<&str>) -> Asker {
    let value = headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
    if value.is_empty() {
        return common_name.map_or(Asker::Nobody, |name| Asker::Certificate(name.to_owned()));
    }
    basic(value).map_or(Asker::Malformed, |(name, password)| Asker::Basic(name, password, Source::default()))
}

fn basic(value: &[u8]) -> Option<(String, String)> {
    let (scheme, coded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let plain = String::from_utf8(STANDARD.decode(coded).ok()?).ok()?;
    let (name, password) = plain.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

impl Asker {
    /// Whether keys may be touched so, by v2's own rules.
    pub(in crate::api::v2) async fn may_touch(&self, v2: &Arc<V2>, want: Want<'_>) -> Result<bool, Failure> {
        let user = match self.known(v2).await? {
            Known::Guest => None,
            Known::User(user) => Some(user),
            Known::Stranger => return Ok(false),
        };
        model::may(&v2.state.store.view(), user.as_ref(), want).map_err(unreadable)
    }

    /// Whether this is somebody with the role root of v2.
    pub(in crate::api::v2) async fn is_v2_root(&self, v2: &Arc<V2>) -> Result<bool, Failure> {
        match self.known(v2).await? {
            Known::User(user) => Ok(user.roles().iter().any(|role| role == ROOT)),
            Known::Guest | Known::Stranger => Ok(false),
        }
    }

    /// Whether this is somebody with the role root of v3, by his password or certificate there.
    pub(in crate::api::v2) async fn is_v3_root(&self, v2: &Arc<V2>) -> Result<bool, Failure> {
        let (name, checked) = match self {
            Self::Nobody | Self::Malformed => return Ok(false),
            Self::Certificate(name) => (name, None),
            Self::Basic(name, password, source) => {
                let auth = v2.state.store.auth();
                let hash = auth.user(name).filter(|user| !user.no_password).map(|user| user.password.clone());
                let passwords = v2.state.identities.passwords();
                let stored = hash.as_ref().map(|hash| &hash.expose()[..]);
                let right = passwords.is_right(*source, v2.deadline(), stored, password).await.map_err(busy)?;
                match hash {
                    Some(hash) if right => (name, Some(hash)),
                    _ => return Ok(false),
                }
            }
        };
        // As users and roles are now: the check of a password takes its time.
        let auth = v2.state.store.auth();
        let user = auth.user(name).filter(|user| checked.is_none_or(|hash| hash.expose() == user.password.expose()));
        Ok(user.is_some_and(crate::model::auth::User::is_root))
    }

    async fn known(&self, v2: &Arc<V2>) -> Result<Known, Failure> {
        let user = |name: &str| model::user(&v2.state.store.view(), name).map_err(unreadable);
        match self {
            Self::Nobody => Ok(Known::Guest),
            Self::Malformed => Ok(Known::Stranger),
            Self::Certificate(name) => Ok(user(name)?.map_or(Known::Guest, Known::User)),
            Self::Basic(name, password, source) => {
                let user = user(name)?;
                let hash = user.as_ref().map(|user| user.password.as_bytes());
                let right = v2.passwords.is_right(*source, v2.deadline(), hash, password).await.map_err(busy)?;
                Ok(user.filter(|_| right).map_or(Known::Stranger, Known::User))
            }
        }
    }
}

fn unreadable(error: ViewError) -> Failure {
    tracing::error!(%error, "cannot read v2 users and roles");
    Failure::Refused("the state cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn asked(value: &'static str, common_name: Option<&str>) -> Asker {
        credentials(&HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))]), common_name)
    }

    #[test]
    fn a_header_is_read_as_go_reads_it_and_never_falls_back() {
        assert_eq!(asked("Basic cm9vdDpy", None), Asker::Basic("root".into(), "r".into(), Source::default()));
        assert_eq!(
            asked("basic cm9vdDpwOnE=", Some("cn")),
            Asker::Basic("root".into(), "p:q".into(), Source::default())
        );
        for value in ["Bearer x", "Basic !!", "Basic", "Basic cm9vdA==", "Basic cm9vdDpwOnE"] {
            assert_eq!(asked(value, Some("cn")), Asker::Malformed, "{value}");
        }
    }

    #[test]
    fn without_a_header_the_certificate_counts_and_without_both_nobody_asks() {
        assert_eq!(asked("", Some("cn")), Asker::Certificate("cn".into()));
        assert_eq!(credentials(&HeaderMap::new(), None), Asker::Nobody);
    }
}
