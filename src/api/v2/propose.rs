//! A v2 command through the log, and what became of it in etcd's words.

use prost::Message;

use super::V2;
use crate::api::identity::passwords::HashError;
use crate::model::command::{self, Command as Replicated};
use crate::model::effects::Response;
use crate::model::v2::types::{Command, Outcome};
use crate::raft::{ProposeError, ReadError};
use crate::work::Undone;

/// Why a command or a barrier has no outcome. After [`Failure::Timeout`] and its kin a command may still take effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// No quorum in time, or nobody leads.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// The leader went away meanwhile.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFail,
    /// The connection to the leader went away meanwhile.
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// This member has more to do than it takes on.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// This member stops.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// The leader changed before the outcome was known.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// Refused as a whole, or an answer that is none of v2.
    #[error("etcdserver: {0}")]
    Refused(String),
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::TimeoutLeaderFail => Self::TimeoutLeaderFail,
            ProposeError::TimeoutConnectionLost => Self::TimeoutConnectionLost,
            ProposeError::TooManyRequests => Self::TooManyRequests,
            ProposeError::Stopped => Self::Stopped,
            ProposeError::LeaderChanged => Self::LeaderChanged,
            ProposeError::NoLeader | ProposeError::Timeout | ProposeError::Fatal(_) => Self::Timeout,
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TimeoutLeaderFail => Self::TimeoutLeaderFail,
            ReadError::TimeoutConnectionLost => Self::TimeoutConnectionLost,
            ReadError::TooManyRequests => Self::TooManyRequests,
            ReadError::Stopped => Self::Stopped,
            ReadError::LeaderChanged => Self::LeaderChanged,
            ReadError::NoLeader | ReadError::Timeout | ReadError::Fatal(_) => Self::Timeout,
        }
    }
}

impl From<HashError> for Failure {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Undone(undone) => busy(undone),
            HashError::Failed(_) => Self::Refused(error.to_string()),
        }
    }
}

/// Why there was no turn for what waits only for its like: other exports, other passwords.
pub(super) fn busy(undone: Undone) -> Failure {
    match undone {
        Undone::Late | Undone::TooMany => Failure::TooManyRequests,
        Undone::Stopped => Failure::Stopped,
    }
}

/// Takes a command through the log.
pub(super) async fn propose(v2: &V2, command: &Command) -> Result<Outcome, Failure> {
    let bytes = command::encode(Replicated::V2(command.encode_to_vec().into()));
    let applied = v2.state.consensus.propose(bytes, v2.deadline()).await?;
    match applied.outcome {
        Ok(Response::V2(outcome)) => Ok(*outcome),
        Ok(_) => Err(Failure::Refused("internal error".to_owned())),
        Err(refusal) => Err(Failure::Refused(refusal.to_string())),
    }
}
