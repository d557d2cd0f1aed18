//! What this member answers when another asks.

use std::sync::Arc;

use openraft::errors::RaftError;
use openraft::raft::{AppendEntriesResponse, StreamAppendError, VoteResponse};

use super::Inner;
use super::network::{Answer, Request};
use super::types::{NodeId, TypeConfig};

impl Inner {
    /// Whether `id` was a member once and is none any more.
    pub(super) fn was_removed(&self, id: NodeId) -> bool {
        self.store.removed().contains(&id)
    }

    /// Answers one request of another member.
    pub(super) async fn answer(self: &Arc<Self>, request: Request) -> Answer {
        match request {
            Request::Ping => Answer::Pong,
            Request::Heartbeat(append) => {
                let (previous, last) = (append.prev_log_id, append.entries.last().map(|entry| entry.log_id));
                match self.raft.append_entries(append).await {
                    Ok(AppendEntriesResponse::Success) => Answer::Heartbeat(Ok(last.or(previous))),
                    Ok(AppendEntriesResponse::PartialSuccess(matched)) => Answer::Heartbeat(Ok(matched)),
                    Ok(AppendEntriesResponse::HigherVote(vote)) => {
                        Answer::Heartbeat(Err(StreamAppendError::HigherVote(vote)))
                    }
                    Ok(AppendEntriesResponse::Conflict) => match previous {
                        Some(previous) => Answer::Heartbeat(Err(StreamAppendError::Conflict(previous))),
                        None => Answer::Failed("a conflict without a previous entry".to_owned()),
                    },
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            Request::PreVote(request) => voted(self.raft.pre_vote(request).await),
            Request::Vote(request) => voted(self.raft.vote(request).await),
            Request::Transfer(request) => match self.raft.handle_transfer_leader(request).await {
                Ok(response) => Answer::Transfer(response),
                Err(error) => Answer::Failed(error.to_string()),
            },
            Request::ReadIndex => Answer::ReadIndex(match self.current_leader() {
                Some(leader) if leader == self.id => self.confirm_here().await.ok().flatten(),
                _ => None,
            }),
            Request::Propose(commands) => Answer::Proposed(self.propose_carried(commands).await),
            Request::Renew(id) => {
                Answer::Renewed(self.as_leader(|inner, term| inner.renew_here(id, term)).await.flatten())
            }
            Request::Remaining(id) => Answer::Remaining(self.as_leader(|inner, _| inner.lease_times(id)).await),
            Request::Members(change) => Answer::Members(self.change_carried(&change).await),
            Request::HashKv(revision) => Answer::HashKv(self.hash_for_peer(revision).await),
        }
    }
}

fn voted(outcome: Result<VoteResponse<TypeConfig>, RaftError<TypeConfig>>) -> Answer {
    match outcome {
        Ok(response) => Answer::Vote(response),
        Err(error) => Answer::Failed(error.to_string()),
    }
}
