//! The rules of keys: put, delete, range. Transactions are made of these.

pub mod delete;
pub mod put;
mod range;

pub use range::{range, validate as validate_range};

use super::auth::AuthError;
use super::effects::Refusal;
use super::view::ViewError;
use crate::proto::etcdserverpb::ResponseHeader;

/// Why a rule has no answer: the request was refused, or the view could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An answer like any other: every replica gives it.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// This member's own trouble.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        Self::Refusal(error.into())
    }
}

/// How [`range`] and the read-only transactions fail.
pub type RangeError = Failure;

/// A header with the one field that the rules know.
pub(super) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}
