//! From a command to its outcome: proposed here when this member leads, carried to the leader otherwise.
//!
//! A command is tried again only while it is certain that nobody has accepted it. After an unknown result the caller
//! gets an error, because a second try could apply the command twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::{WriteResponse, WriteResult};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::carry::Carried;
use super::error::ProposeError;
use super::types::{NodeId, Proposal, TypeConfig};
use super::{Consensus, Inner, MAX_IN_FLIGHT_KIB};
use crate::model::effects::Applied;

/// Committed entries that may wait to be applied before new commands are refused. etcd's number.
const MAX_UNAPPLIED: u64 = 5000;
/// Between two tries while nobody takes the command.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// What became of one try to propose.
#[derive(Debug, Clone, PartialEq)]
pub enum Proposed {
    /// Committed and applied.
    Applied(Box<Applied>),
    /// Certainly not accepted: it may be tried again.
    NotAccepted,
    /// Accepted or not, nobody knows: it must not be tried again.
    Unknown,
    /// Refused for good.
    Failed(ProposeError),
}

impl Consensus {
    /// Proposes an encoded command and waits until it is applied on this member.
    ///
    /// # Errors
    /// See [`ProposeError`]; the variants say whether the command may still commit.
    pub async fn propose(&self, command: Bytes, deadline: Instant) -> Result<Applied, ProposeError> {
        let _room = self.inner.room(command.len())?;
        let started = Instant::now();
        let proposed = async {
            self.inner.log_room().await;
            self.inner.propose_until_accepted(command, deadline).await
        };
        match timeout_at(deadline, proposed).await {
            Ok(outcome) => outcome,
            Err(_) if self.inner.stopping.is_cancelled() => Err(ProposeError::Stopped),
            Err(_) => Err(self.inner.why_late(started).into()),
        }
    }
}

/// Takes a share of the memory for commands in flight.
fn reserve(in_flight: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, ProposeError> {
    let kib = (bytes / 1024 + 1).min(MAX_IN_FLIGHT_KIB) as u32;
    in_flight.clone().try_acquire_many_owned(kib).map_err(|error| match error {
        TryAcquireError::NoPermits => ProposeError::TooManyRequests,
        TryAcquireError::Closed => ProposeError::Stopped,
    })
}

impl Inner {
    /// Whether one more command may be taken; the returned share is given back when it is dropped.
    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ProposeError> {
        if self.stopping.is_cancelled() {
            return Err(ProposeError::Stopped);
        }
        let status = self.status();
        if status.committed.saturating_sub(status.applied) > MAX_UNAPPLIED {
            return Err(ProposeError::TooManyRequests);
        }
        reserve(&self.in_flight, bytes)
    }

    async fn propose_until_accepted(&self, command: Bytes, deadline: Instant) -> Result<Applied, ProposeError> {
        loop {
            let outcome = match self.current_leader() {
                Some(leader) if leader == self.id => self.propose_here(command.clone()).await,
                Some(leader) => self.propose_there(leader, command.clone(), deadline).await,
                None => Proposed::NotAccepted,
            };
            match outcome {
                Proposed::Applied(applied) => return Ok(*applied),
                Proposed::Unknown => return Err(ProposeError::LeaderChanged),
                Proposed::Failed(error) => return Err(error),
                Proposed::NotAccepted => self.pause(RETRY_EVERY).await,
            }
            if self.stopping.is_cancelled() {
                return Err(ProposeError::Stopped);
            }
        }
    }

    /// Waits for the next change of leader, but no longer than `at_most`.
    pub(super) async fn pause(&self, at_most: Duration) {
        let mut changes = self.leader.subscribe();
        let _ = timeout(at_most, changes.changed()).await;
    }

    /// Proposes on this member, which should lead.
    async fn propose_here(&self, command: Bytes) -> Proposed {
        let (responder, outcome) = ProgressResponder::<TypeConfig, _>::complete_only();
        if let Err(error) = self.raft.client_write_ff(Proposal(command), Some(responder)).await {
            return Proposed::Failed(self.fatal(&error.to_string()));
        }
        match outcome.await {
            Ok(result) => proposed(result.map(WriteResponse::from)),
            Err(_) if self.stopping.is_cancelled() => Proposed::Failed(ProposeError::Stopped),
            Err(_) => Proposed::Unknown,
        }
    }

    /// What a dead core means for a request: the end of this process, ordered or not.
    pub(super) fn fatal(&self, cause: &str) -> ProposeError {
        if self.stopping.is_cancelled() { ProposeError::Stopped } else { ProposeError::Fatal(cause.to_owned()) }
    }

    /// Proposes a batch that another member carried here, in one message to the core. Never carried further.
    pub(super) async fn propose_carried(&self, commands: Vec<Bytes>) -> Vec<Proposed> {
        let count = commands.len();
        let bytes = commands.iter().map(Bytes::len).sum();
        let _room = match self.room(bytes) {
            Ok(room) => room,
            Err(error) => return vec![Proposed::Failed(error); count],
        };
        if timeout(self.rules.request_timeout, self.log_room()).await.is_err() {
            return vec![Proposed::Failed(ProposeError::TooManyRequests); count];
        }
        let Ok(results) = self.raft.client_write_many(commands.into_iter().map(Proposal)).await else {
            return vec![Proposed::NotAccepted; count];
        };
        let outcome = |result| match result {
            Ok(result) => proposed(result),
            Err(_) => Proposed::Unknown,
        };
        let mut outcomes: Vec<Proposed> = results.map(outcome).collect().await;
        // The results end early when the core does.
        outcomes.resize(count, Proposed::Unknown);
        outcomes
    }

    /// Has one command carried to the leader, and waits until its effect can be read here too.
    async fn propose_there(&self, leader: NodeId, command: Bytes, deadline: Instant) -> Proposed {
        let (outcome, known) = oneshot::channel();
        match self.carried.try_send(Carried { leader, command, outcome }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Proposed::Failed(ProposeError::TooManyRequests),
            Err(TrySendError::Closed(_)) => return Proposed::Failed(ProposeError::Stopped),
        }
        let outcome = match known.await {
            Ok(outcome) => outcome,
            Err(_) if self.stopping.is_cancelled() => Proposed::Failed(ProposeError::Stopped),
            Err(_) => Proposed::Unknown,
        };
        if let Proposed::Applied(applied) = &outcome {
            // Committed whatever happens now: a slow member must not turn success into an error.
            let _ = timeout_at(deadline - margin(deadline), self.store.wait_applied(applied.position.index)).await;
        }
        outcome
    }

    /// Why a request that started at `started` has no answer at its deadline: etcd's distinction.
    pub(super) fn why_late(&self, started: Instant) -> Late {
        let times = *self.lead_times.lock();
        let election = 2 * self.rules.election;
        if times.elected.is_some_and(|elected| started > elected - election && started < elected) {
            return Late::LeaderFail;
        }
        let voters: Vec<NodeId> = self.store.membership().voter_ids().collect();
        let since = started.elapsed();
        let now = *self.leader.borrow();
        match now.leader {
            None => Late::NoLeader,
            Some(leader) if leader == self.id => {
                let reached = self.peers.active(voters.iter().copied(), since);
                if reached < voters.len() / 2 + 1 { Late::ConnectionLost } else { Late::Plain }
            }
            Some(leader) if self.peers.active([leader], since) == 0 => Late::ConnectionLost,
            Some(_) => Late::Plain,
        }
    }
}

/// How far before the deadline to stop waiting for one's own apply.
fn margin(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()) / 10
}

/// Why something is late; see [`Inner::why_late`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    NoLeader,
    LeaderFail,
    ConnectionLost,
    Plain,
}

impl From<Late> for ProposeError {
    fn from(late: Late) -> Self {
        match late {
            // etcd says so too: a proposal without a leader waits, and its caller sees a timeout.
            Late::NoLeader | Late::Plain => Self::Timeout,
            Late::LeaderFail => Self::TimeoutLeaderFail,
            Late::ConnectionLost => Self::TimeoutConnectionLost,
        }
    }
}

fn proposed(result: WriteResult<TypeConfig>) -> Proposed {
    match result {
        Ok(written) => Proposed::Applied(written.response.0),
        // Rejected before it was appended, says openraft.
        Err(ClientWriteError::ForwardToLeader(_)) => Proposed::NotAccepted,
        Err(ClientWriteError::LogEntryDiscarded(_)) => Proposed::Unknown,
        Err(error) => Proposed::Failed(ProposeError::Fatal(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_flight_have_a_limit_in_bytes() {
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT_KIB));
        let half = MAX_IN_FLIGHT_KIB * 512;
        let first = reserve(&in_flight, half).expect("there is room");
        assert_eq!(reserve(&in_flight, half).err(), Some(ProposeError::TooManyRequests));
        drop(first);
        assert!(reserve(&in_flight, half).is_ok());
    }

    #[test]
    fn a_command_larger_than_the_whole_limit_still_passes_alone() {
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT_KIB));
        assert!(reserve(&in_flight, MAX_IN_FLIGHT_KIB * 2048).is_ok());
    }
}
