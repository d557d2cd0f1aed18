//! The key-value rules: put, delete, range. Transactions are composed of them.

pub mod delete;
pub mod put;
mod range;

pub use range::{range, validate as validate_range};

use super::auth::AuthError;
use super::effects::Refusal;
use super::view::ViewError;
use crate::proto::etcdserverpb::ResponseHeader;

/// Why a rule failed: the request was refused, or the view could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A deterministic refusal, the same on every replica.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// A local failure of this member.
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

/// A header with only the revision, the one field that the rules know.
pub(super) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}
