//! What the fuzz target of v2 does with bodies of users and roles and with credentials; see `src/fuzzing.rs`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::asker::{self, Asker};
use super::json;
use crate::model::v2::auth::types::{Change, Command, PutRole, PutUser};

/// The change that a PUT of a user means.
pub(in crate::api::v2) fn user(name: &str, body: &Bytes) -> Option<Command> {
    let user: PutUser = json::read_user(body, name).ok()?;
    Some(Command { change: Some(Change::PutUser(user)) })
}

/// The change that a PUT of a role means.
pub(in crate::api::v2) fn role(name: &str, body: &Bytes) -> Option<Command> {
    let role: PutRole = json::read_role(body, name).ok()?;
    Some(Command { change: Some(Change::PutRole(role)) })
}

/// Whether an `Authorization` header reads as a name and a password.
pub(in crate::api::v2) fn is_basic(value: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(value) else { return false };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    matches!(asker::credentials(&headers, None), Asker::Basic(..))
}
