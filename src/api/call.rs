//! What one request may do and how long: the guards every method starts with, and the two ways it reaches the state.
//!
//! A call is admitted once ([`Call::of`], [`Call::admit`]), from the request's own metadata. Everything it then waits for
//! ends at [`Call::deadline`], the nearer of the server's request timeout and the client's `grpc-timeout`. Who asks is
//! found out when it matters, and not at all while authentication is off.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::access;
use super::error::ApiError;
use super::identity::Credentials;
use super::state::State;
use crate::listen::Caller;
use crate::model::auth::Identity;
use crate::model::command::{self, Command};
use crate::model::effects::{Applied, Response};
use crate::raft::ReadError;
use crate::work::{Lane, Source, Turn, Undone};

/// Which members may serve a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every member, learners included: status and serializable ranges.
    Anyone,
    /// Members with a vote.
    Voters,
}

/// For whom a call is made.
#[derive(Clone)]
enum Asker {
    /// For this member itself: nothing to prove.
    Member,
    /// For a client, who presents this; `None` = nothing, or authentication was off when the call came.
    Client(Option<Arc<Credentials>>),
}

/// One admitted request.
#[derive(Clone)]
pub struct Call {
    deadline: Instant,
    /// The client's own deadline, which may be later than `deadline`.
    client: Option<Instant>,
    /// The client wants an error rather than a member that is cut off (`hasleader: true`).
    pub require_leader: bool,
    asker: Asker,
    /// Which connection it came on, for taking turns.
    source: Source,
}

impl Call {
    /// Admits a gRPC request: see [`Call::admit`]; the caller's certificate counts too.
    ///
    /// # Errors
    /// Those of [`Call::admit`].
    pub fn of<T>(state: &State, request: &tonic::Request<T>, audience: Audience) -> Result<Self, ApiError> {
        let (metadata, extensions) = (request.metadata().as_ref(), request.extensions());
        let call = Self::admit_from(state, metadata, || extensions.get(), audience)?;
        Ok(Self { source: source(extensions), ..call })
    }

    /// Admits a request with these headers, in etcd's order: learner, then leader. Who asks is told by a token among
    /// them and by nothing else, which is the rule for requests through the JSON gateway.
    ///
    /// # Errors
    /// [`ApiError::NotSupportedForLearner`], [`ApiError::NoLeader`], [`ApiError::BadTimeout`].
    pub fn admit(state: &State, headers: &HeaderMap, audience: Audience) -> Result<Self, ApiError> {
        Self::admit_from(state, headers, || None, audience)
    }

    /// The same for a gRPC request of which only the head has been read.
    ///
    /// # Errors
    /// Those of [`Call::admit`].
    pub fn of_head(state: &State, head: &http::request::Parts, audience: Audience) -> Result<Self, ApiError> {
        let call = Self::admit_from(state, &head.headers, || head.extensions.get(), audience)?;
        Ok(Self { source: source(&head.extensions), ..call })
    }

    /// The caller is looked for only when he matters.
    fn admit_from<'a>(
        state: &State,
        headers: &HeaderMap,
        caller: impl FnOnce() -> Option<&'a Caller>,
        audience: Audience,
    ) -> Result<Self, ApiError> {
        let status = state.consensus.status();
        if audience == Audience::Voters && status.is_learner {
            return Err(ApiError::NotSupportedForLearner);
        }
        let require_leader = headers.get("hasleader").is_some_and(|value| value.as_bytes() == b"true");
        if require_leader && status.leader.is_none() {
            return Err(ApiError::NoLeader);
        }
        let asker = state.store.auth_mark().is_on().then(|| Arc::new(Credentials::of(headers, caller())));
        let mut call = Self { require_leader, asker: Asker::Client(asker), ..Self::internal(state) };
        if let Some(value) = headers.get("grpc-timeout") {
            let timeout = parse_timeout(value.as_bytes()).ok_or(ApiError::BadTimeout)?;
            let client = Instant::now() + timeout.min(MAX_TIMEOUT);
            (call.deadline, call.client) = (call.deadline.min(client), Some(client));
        }
        Ok(call)
    }

    /// A call this member makes for itself, such as a health check.
    pub fn internal(state: &State) -> Self {
        let deadline = Instant::now() + state.limits.request_timeout();
        Self { deadline, client: None, require_leader: false, asker: Asker::Member, source: Source::MEMBER }
    }

    /// One request of many on a stream that was opened with `credentials`. It has its own deadline, since the stream
    /// lives as long as the client wants.
    pub fn on_stream(state: &State, credentials: &Arc<Credentials>) -> Self {
        Self { asker: Asker::Client(Some(Arc::clone(credentials))), ..Self::internal(state) }
    }

    /// The same asker again, with a deadline of its own: for what goes on after the call, such as cleaning up.
    pub fn again(&self, state: &State) -> Self {
        Self { asker: self.asker.clone(), source: self.source, ..Self::internal(state) }
    }

    /// The same call for something that this member does on the way and for itself.
    pub fn as_member(&self) -> Self {
        Self { asker: Asker::Member, ..self.clone() }
    }

    /// Whether this member asks for itself.
    pub fn is_member(&self) -> bool {
        matches!(self.asker, Asker::Member)
    }

    /// Which connection it came on.
    pub fn source(&self) -> Source {
        self.source
    }

    /// A turn in `lane`, before the deadline.
    ///
    /// # Errors
    /// [`Call::undone`].
    pub async fn turn(&self, lane: &Lane) -> Result<Turn, ApiError> {
        lane.turn(self.source, Some(self.deadline)).await.map_err(|undone| self.undone(undone))
    }

    /// What a client hears when there was no turn for it.
    pub fn undone(&self, undone: Undone) -> ApiError {
        match undone {
            Undone::Late => self.timed_out(),
            Undone::TooMany => ApiError::TooManyRequests,
            Undone::Stopped => ApiError::Stopped,
        }
    }

    /// Who asks; nobody for the member itself, while authentication is off, and where nothing is presented.
    ///
    /// # Errors
    /// [`ApiError::InvalidAuthToken`]; barrier errors, for a token that this member has yet to hear of.
    pub async fn identity(&self, state: &State) -> Result<Identity, ApiError> {
        match &self.asker {
            // Boxed, here and below: what happens only with authentication on must not make every call's future larger.
            Asker::Client(Some(credentials)) => Box::pin(state.identities.resolve(state, self, credentials)).await,
            Asker::Client(None) | Asker::Member => Ok(Identity::nobody()),
        }
    }

    /// One step of a call that takes several and may wait long between them: the step has the server's request timeout,
    /// all of them together have what the client gives.
    pub fn step(&self, state: &State) -> Self {
        let deadline = Self::internal(state).deadline;
        Self { deadline: self.client.map_or(deadline, |client| client.min(deadline)), ..self.clone() }
    }

    /// Returns when the client's own deadline has passed; never when it has none.
    pub async fn given_up(&self) {
        match self.client {
            Some(client) => tokio::time::sleep_until(client).await,
            None => std::future::pending().await,
        }
    }

    /// When the call must have been answered.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What a client hears when a wait that changes nothing reached the deadline.
    pub fn timed_out(&self) -> ApiError {
        if self.client == Some(self.deadline) { ApiError::DeadlineExceeded } else { ApiError::Timeout }
    }

    /// Waits for `work`, but not beyond the deadline.
    ///
    /// # Errors
    /// The work's own; [`Call::timed_out`].
    pub async fn within<T, E: Into<ApiError>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, ApiError> {
        match tokio::time::timeout_at(self.deadline, work).await {
            Ok(outcome) => outcome.map_err(Into::into),
            Err(_elapsed) => Err(self.timed_out()),
        }
    }

    /// Waits until this member has applied everything that was committed when the call began.
    ///
    /// # Errors
    /// The barrier's, in etcd's words.
    pub async fn read_barrier(&self, state: &State) -> Result<(), ApiError> {
        let Err(error) = state.consensus.read_barrier(self.deadline).await else {
            return Ok(());
        };
        if error == ReadError::Timeout {
            state.metrics.slow_read_indexes.fetch_add(1, Relaxed);
            return Err(self.timed_out());
        }
        state.metrics.read_indexes_failed.fetch_add(1, Relaxed);
        Err(error.into())
    }

    /// Puts a command through the log and returns its answer and the revision right after it.
    ///
    /// # Errors
    /// [`ApiError::RequestTooLarge`]; that the asker may not; the proposal's errors (after a timeout the command may
    /// still happen); the command's refusal.
    pub async fn propose(&self, state: &State, command: Command) -> Result<(i64, Response), ApiError> {
        let bytes = if state.store.auth_mark().is_on() && !self.is_member() {
            Box::pin(access::signed(state, self, command)).await?
        } else {
            command::encode(command)
        };
        if bytes.len() > state.limits.max_request_bytes {
            return Err(ApiError::RequestTooLarge);
        }
        let pending = state.metrics.proposal();
        let Applied { revision, outcome, .. } = state.consensus.propose(bytes, self.deadline).await?;
        pending.done();
        Ok((revision, outcome?))
    }
}

/// The connection that a call came on. A call from the gateway brings that alone, without the caller's certificate.
fn source(extensions: &http::Extensions) -> Source {
    extensions.get().copied().or_else(|| extensions.get().map(Caller::source)).unwrap_or_default()
}

/// Longest client timeout that is taken literally; longer ones are cut by the request timeout anyway.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads gRPC's timeout header: up to eight digits and a unit.
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_in_every_unit() {
        let cases: [(&[u8], Option<Duration>); 12] = [
            (b"1H", Some(Duration::from_secs(3600))),
            (b"2M", Some(Duration::from_secs(120))),
            (b"5S", Some(Duration::from_secs(5))),
            (b"250m", Some(Duration::from_millis(250))),
            (b"7u", Some(Duration::from_micros(7))),
            (b"99999999n", Some(Duration::from_nanos(99_999_999))),
            (b"", None),
            (b"S", None),
            (b"5", None),
            (b"-5S", None),
            (b"999999999S", None),
            (b"zzz", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), expected, "{}", String::from_utf8_lossy(text));
        }
    }
}
