//! Who is behind a request: its token, or the common name of its client certificate.
//!
//! [`Credentials::of`] reads what a request presents, gRPC and HTTP alike; [`Identities::resolve`] says who that is. A
//! token counts before a certificate, and a bad one is an error even beside a good certificate. The common name counts
//! with `--client-cert-auth` only, and never for what came through the JSON gateway (CVE-2018-16886): there the caller
//! of this room gives none.
//!
//! Tokens are this member's memory, not replicated state. Simple ones become known to every member through the log
//! ([`simple`]); signed ones carry their user and auth revision themselves ([`jwt`]).

pub mod jwt;
pub mod passwords;
pub mod simple;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::watch;

use self::jwt::{Jwt, KeyError};
use self::passwords::Passwords;
use self::simple::SimpleTokens;
use super::call::Call;
use super::error::ApiError;
use super::state::State;
use crate::clock::Clock;
use crate::listen::Caller;
use crate::model::auth::Identity;
use crate::settings::AuthToken;
use crate::store::{AuthEvent, Batch, EventSink, Moment};
use crate::work;

/// A header that only requests relayed by etcd's JSON gateway carry; whose certificate that is says nothing.
const GATEWAY_MARK: &str = "grpcgateway-accept";

/// What a request presents. Nothing in it is believed yet.
#[derive(Default)]
pub struct Credentials {
    token: Option<String>,
    common_name: Option<String>,
}

impl Credentials {
    /// Those of a gRPC request.
    pub fn of_request<T>(request: &tonic::Request<T>) -> Self {
        Self::of(request.metadata().as_ref(), request.extensions().get::<Caller>())
    }

    /// Reads headers: the first `token`, or else the first `authorization`, without a leading `Bearer `. `caller` is the
    /// connection's other end, `None` for requests of the JSON gateway.
    pub fn of(headers: &HeaderMap, caller: Option<&Caller>) -> Self {
        let header = headers.get("token").or_else(|| headers.get("authorization"));
        let token = header.map(|value| {
            // What is not text is no token of ours.
            let text = value.to_str().unwrap_or_default();
            text.strip_prefix("Bearer ").unwrap_or(text).to_owned()
        });
        let relayed = headers.contains_key(GATEWAY_MARK);
        let name = caller.and_then(Caller::common_name).filter(|name| !relayed && !name.is_empty());
        Self { token, common_name: name.map(str::to_owned) }
    }
}

/// What identities are made from, as configured.
#[derive(Debug, Clone)]
pub struct IdentityOptions {
    /// `--auth-token`.
    pub token: AuthToken,
    /// `--auth-token-ttl`; 0 = etcd's default.
    pub token_ttl: Duration,
    /// `--bcrypt-cost`.
    pub bcrypt_cost: u32,
    /// `--client-cert-auth`.
    pub by_certificate: bool,
}

enum Tokens {
    Simple(SimpleTokens),
    Jwt(Box<Jwt>),
}

/// Finds out who is behind requests. There is one per member.
pub struct Identities {
    tokens: Tokens,
    by_certificate: bool,
    passwords: Passwords,
    clock: Arc<dyn Clock>,
    changes: watch::Sender<()>,
}

impl Identities {
    /// # Errors
    /// The keys of signed tokens cannot be used.
    pub fn new(options: &IdentityOptions, clock: Arc<dyn Clock>) -> Result<Arc<Self>, KeyError> {
        let tokens = match &options.token {
            AuthToken::Simple => Tokens::Simple(SimpleTokens::new(options.token_ttl)),
            AuthToken::Jwt(settings) => Tokens::Jwt(Box::new(Jwt::open(settings)?)),
        };
        Ok(Arc::new(Self {
            tokens,
            by_certificate: options.by_certificate,
            passwords: Passwords::new(options.bcrypt_cost, work::password_threads(processors())),
            clock,
            changes: watch::Sender::new(()),
        }))
    }

    /// From now on logins count. What the log held before this member was ready may be older than any token's life.
    pub fn open(&self) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.open();
        }
    }

    /// Who `credentials` are of; nobody while authentication is off, or when they are empty.
    ///
    /// # Errors
    /// [`ApiError::InvalidAuthToken`]; barrier errors, for a token from the log's future.
    pub async fn resolve(&self, state: &State, call: &Call, credentials: &Credentials) -> Result<Identity, ApiError> {
        if !state.store.auth_mark().is_on() {
            return Ok(Identity::nobody());
        }
        if let Some(token) = &credentials.token {
            let identity = match &self.tokens {
                Tokens::Simple(tokens) => self.of_simple(tokens, state, call, token).await?,
                Tokens::Jwt(jwt) => jwt.identity(token),
            };
            return identity.ok_or(ApiError::InvalidAuthToken);
        }
        match &credentials.common_name {
            Some(name) if self.by_certificate => {
                Ok(Identity { user: name.clone(), revision: state.store.auth().revision() })
            }
            _ => Ok(Identity::nobody()),
        }
    }

    /// A token says which entry made it known. If this member is not there yet, it catches up first.
    async fn of_simple(
        &self,
        tokens: &SimpleTokens,
        state: &State,
        call: &Call,
        token: &str,
    ) -> Result<Option<Identity>, ApiError> {
        let Some(index) = simple::index_of(token) else { return Ok(None) };
        if state.consensus.status().applied < index {
            call.read_barrier(state).await?;
        }
        // In this order: a change that voids the token and is in the revision has voided it. The other way round the
        // request could pass at apply, after the change, with a token that was looked at before it.
        let revision = state.store.auth().revision();
        let user = tokens.user_of(token, self.clock.monotonic());
        Ok(user.map(|user| Identity { user: user.to_string(), revision }))
    }

    /// The signed-token half, when that is what this member uses.
    pub fn jwt(&self) -> Option<&Jwt> {
        match &self.tokens {
            Tokens::Jwt(jwt) => Some(jwt),
            Tokens::Simple(_) => None,
        }
    }

    /// The calendar time that signed tokens end by, since 1970.
    pub fn unix_time(&self) -> Duration {
        self.clock.unix()
    }

    /// Hashes passwords.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Changes of users, roles, permissions and the switch.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether the JSON gateway must refuse this caller (etcd: status 400 and [`GATEWAY_REFUSAL`]), because he believes
    /// to be known by his certificate there.
    pub fn refuses_at_gateway(&self, state: &State, caller: Option<&Caller>) -> bool {
        let named = || caller.and_then(Caller::common_name).is_some_and(|name| !name.is_empty());
        self.by_certificate && state.store.auth_mark().is_on() && named()
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the JSON gateway answers whoever comes with a certificate that has a common name.
pub const GATEWAY_REFUSAL: &str =
    "CommonName of client sending a request against gateway will be ignored and not used as expected";

impl EventSink for Identities {
    /// Before: whoever reads that a password changed finds the tokens gone that it voids.
    fn publish(&self, batch: &Arc<Batch>) {
        for event in &batch.auth {
            match (event, &self.tokens) {
                (AuthEvent::Login { user, token }, Tokens::Simple(tokens)) => {
                    tokens.add(user, token, self.clock.monotonic());
                }
                (AuthEvent::Changed { enabled: false, .. }, Tokens::Simple(tokens)) => tokens.clear(),
                (AuthEvent::Changed { logged_out: Some(user), .. }, Tokens::Simple(tokens)) => tokens.forget(user),
                _ => {}
            }
        }
    }

    /// Afterwards: who is told of a change looks at what it left.
    fn show(&self, batch: &Arc<Batch>, moment: Moment<'_>) {
        moment.pass();
        if batch.auth.iter().any(|event| matches!(event, AuthEvent::Changed { .. })) {
            self.changes.send_replace(());
        }
    }

    /// Nobody knows who was logged out in what was skipped.
    fn reset(&self, _revision: i64, _compacted: i64, moment: Moment<'_>) {
        if let Tokens::Simple(tokens) = &self.tokens {
            tokens.clear();
        }
        moment.pass();
        self.changes.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let headers = headers
            .iter()
            .map(|&(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        Credentials::of(&headers.collect(), None).token
    }

    #[test]
    fn tokens_are_read_from_either_header_with_or_without_bearer() {
        assert_eq!(token(&[]), None);
        assert_eq!(token(&[("token", "a.1")]).as_deref(), Some("a.1"));
        assert_eq!(token(&[("authorization", "a.1")]).as_deref(), Some("a.1"));
        assert_eq!(token(&[("authorization", "Bearer a.1")]).as_deref(), Some("a.1"));
        assert_eq!(token(&[("authorization", "b"), ("token", "a")]).as_deref(), Some("a"));
        assert_eq!(token(&[("token", "")]).as_deref(), Some(""), "an empty token is a bad token, not none");
    }
}
