//! Writes of single nodes, concurrently, each retried until its outcome is known.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use super::access::{Access, Refusal, Said, ask, encode, form, unexpected};
use super::error::MigrateError;
use super::export::now;
use crate::client::ClientError;
use crate::client::http::Connection;

/// Attempts per write before the whole import stops: over a minute, longer than elections take.
const TRIES: u32 = 60;
/// Delay between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// etcd's error codes for conflicts.
const NOT_A_FILE: u32 = 102;
const NOT_A_DIRECTORY: u32 = 104;
const EXISTS: u32 = 105;
const NOT_FOUND: u32 = 100;
/// Raft errors, which are temporary.
const PASSING: [u32; 2] = [300, 301];

/// One node to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A file: key, value, expiration.
    File(Vec<u8>, Vec<u8>, Option<i64>),
    /// An empty directory.
    Directory(Vec<u8>),
    /// The expiration of a directory, set once everything below it is written.
    Expiry(Vec<u8>, i64),
}

impl Write {
    /// The node's path.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::File(key, ..) | Self::Directory(key) | Self::Expiry(key, _) => key,
        }
    }

    /// Estimated memory use, in bytes.
    pub fn weight(&self) -> usize {
        // The value is held twice: plain and form-encoded.
        if let Self::File(key, value, _) = self { 256 + 2 * (key.len() + value.len()) } else { 256 + self.key().len() }
    }
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written now.
    Written,
    /// It existed already, and is equal.
    Present,
    /// It had expired.
    Expired,
    /// Something else exists there.
    InTheWay(String),
}

/// A pool of idle connections.
pub struct Pool<'a> {
    access: &'a Access,
    free: RefCell<Vec<Connection>>,
    turn: Cell<usize>,
    overwrite: bool,
}

impl<'a> Pool<'a> {
    /// Writes to `access`; with `overwrite` files that exist are replaced.
    pub fn new(access: &'a Access, overwrite: bool) -> Self {
        Self { access, free: RefCell::new(Vec::new()), turn: Cell::new(0), overwrite }
    }

    /// Writes one node.
    ///
    /// # Errors
    /// The servers have been unavailable for all attempts, or refuse for a reason that is no conflict.
    pub async fn write(&self, write: &Write) -> Result<Outcome, MigrateError> {
        let mut last = None;
        for tried in 0..TRIES {
            if tried > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let mut connection = match self.take().await {
                Ok(connection) => connection,
                Err(ClientError::Unreachable(reason)) => {
                    last = Some(reason);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match self.attempt(&mut connection, write).await {
                Ok(Attempt::Known(outcome)) => {
                    self.free.borrow_mut().push(connection);
                    return Ok(outcome);
                }
                // The next attempt uses another endpoint, with a new connection.
                Ok(Attempt::Passing(reason)) => last = Some(reason),
                Ok(Attempt::Unexpected(said)) => {
                    let what = format!("the write of {}", String::from_utf8_lossy(write.key()));
                    return Err(unexpected(said, connection.endpoint(), &what));
                }
                Err(error) => last = Some(error.to_string()),
            }
        }
        let key = String::from_utf8_lossy(write.key()).into_owned();
        let last = format!("{key} could not be written: {}", last.unwrap_or_default());
        Err(MigrateError::BrokeOff { done: 0, last })
    }

    async fn take(&self) -> Result<Connection, ClientError> {
        let free = self.free.borrow_mut().pop();
        if let Some(connection) = free {
            return Ok(connection);
        }
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        self.access.open(turn).await
    }

    async fn attempt(&self, connection: &mut Connection, write: &Write) -> Result<Attempt, ClientError> {
        let path = format!("/v2/keys{}", encode(write.key()));
        let (target, body) = match write {
            Write::File(_, value, expiration) => {
                let Some(ttl) = remaining(*expiration) else { return Ok(Attempt::Known(Outcome::Expired)) };
                let condition = if self.overwrite { "" } else { "prevExist=false&" };
                (format!("{path}?{condition}noValueOnSuccess=true"), Some(form(value, ttl)))
            }
            Write::Directory(_) => (format!("{path}?dir=true&prevExist=false"), Some(Bytes::new())),
            Write::Expiry(_, at) => match remaining(Some(*at)) {
                Some(Some(ttl)) => (format!("{path}?dir=true&prevExist=true&ttl={ttl}"), Some(Bytes::new())),
                _ => (format!("{path}?recursive=true"), None),
            },
        };
        let method = if body.is_some() { Method::PUT } else { Method::DELETE };
        match ask(connection, method, &target, body).await? {
            Said::Done(..) => Ok(Attempt::Known(match write {
                Write::Expiry(_, at) if remaining(Some(*at)).is_none() => Outcome::Expired,
                _ => Outcome::Written,
            })),
            Said::Refused(refusal) => self.refused(connection, write, &path, refusal).await,
            Said::Other(status) if status.is_server_error() => Ok(Attempt::Passing(format!("HTTP {status}"))),
            said => Ok(Attempt::Unexpected(said)),
        }
    }

    async fn refused(
        &self,
        connection: &mut Connection,
        write: &Write,
        path: &str,
        refusal: Refusal,
    ) -> Result<Attempt, ClientError> {
        match (refusal.code, write) {
            (code, _) if PASSING.contains(&code) => Ok(Attempt::Passing(format!("{code}: {}", refusal.cause))),
            // It has expired, or another client removed it.
            (NOT_FOUND, Write::Expiry(..)) => Ok(Attempt::Known(Outcome::Expired)),
            (EXISTS | NOT_A_FILE, _) => self.compare(connection, write, path).await,
            (NOT_A_DIRECTORY, _) => Ok(Attempt::Known(Outcome::InTheWay(format!(
                "{}: {} is a file in the target",
                String::from_utf8_lossy(write.key()),
                refusal.cause
            )))),
            _ => Ok(Attempt::Unexpected(Said::Refused(refusal))),
        }
    }

    /// Compares with the existing node: from a write whose response was lost, an interrupted import, or another client.
    async fn compare(&self, connection: &mut Connection, write: &Write, path: &str) -> Result<Attempt, ClientError> {
        let bytes = match ask(connection, Method::GET, &format!("{path}?quorum=true"), None).await? {
            Said::Done(_, bytes) => bytes,
            Said::Refused(Refusal { code: NOT_FOUND, .. }) => {
                return Ok(Attempt::Passing("it came and went".to_owned()));
            }
            Said::Refused(Refusal { code, cause, .. }) if PASSING.contains(&code) => {
                return Ok(Attempt::Passing(cause));
            }
            said => return Ok(Attempt::Unexpected(said)),
        };
        let Ok(Event { node }) = serde_json::from_slice::<Event>(&bytes) else {
            return Err(ClientError::Answer("GET /v2/keys"));
        };
        let difference = match write {
            Write::File(_, value, expiration) => match &node.value {
                None => Some("is a directory in the target"),
                Some(there) if there.as_bytes() != String::from_utf8_lossy(value).as_bytes() => {
                    Some("has another value in the target")
                }
                Some(_) if node.expiration.is_some() != expiration.is_some() => {
                    Some("differs in having a TTL in the target")
                }
                Some(_) => None,
            },
            Write::Directory(_) | Write::Expiry(..) => (!node.dir).then_some("is a file in the target"),
        };
        let key = || String::from_utf8_lossy(write.key()).into_owned();
        Ok(Attempt::Known(match difference {
            None => Outcome::Present,
            Some(difference) => Outcome::InTheWay(format!("{} {difference}", key())),
        }))
    }
}

/// The result of one attempt.
enum Attempt {
    Known(Outcome),
    /// A temporary failure.
    Passing(String),
    /// A permanent failure.
    Unexpected(Said),
}

/// The part of a response that is compared.
#[derive(Deserialize)]
struct Event {
    node: Found,
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    dir: bool,
    #[serde(default)]
    expiration: Option<String>,
}

/// Whole seconds until the expiration, at least one; the outer `None` when it has passed.
pub fn remaining(expiration: Option<i64>) -> Option<Option<i64>> {
    const SECOND: i64 = 1_000_000_000;
    let Some(at) = expiration else { return Some(None) };
    let left = at.saturating_sub(now());
    (left > 0).then(|| Some(left / SECOND + i64::from(left % SECOND > 0)))
}
