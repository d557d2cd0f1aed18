//! Raft between members: framed bytes over TCP or mutual TLS on the peer port.
//!
//! A member keeps up to three connections to each other member and one more per snapshot, so that bulk never delays
//! what must be prompt (`wire::Channel`). openraft gets a [`PeerNetwork`] per purpose; everything else goes through
//! [`Peers`].

mod answer;
mod append;
mod counted;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod http;
mod link;
mod message;
mod peers;
mod server;
mod snapshot;
mod stream;
mod wire;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tokio::time::{Instant, timeout};

use self::append::{AppendStream, Connection};
use super::types::{Member, NodeId, Snapshot, TypeConfig, Vote};
use crate::store::SnapshotFiles;

pub use append::MAX_UNSENT;
pub use http::{PeerMembers, fetch_has_space, fetch_members};
pub(crate) use link::CallError;
pub(crate) use message::{Answer, Request};
pub use peers::{Peer, Peers};
pub use server::{APPEND_QUEUE, PeerListener, serve};
pub(crate) use snapshot::Inbound;
pub(crate) use snapshot::Patience;
#[cfg(test)]
pub(crate) use snapshot::ship;
pub use stream::PeerTls;
#[cfg(test)]
pub(crate) use stream::dial;
pub(crate) use wire::{Channel, WireError};
#[cfg(test)]
pub(crate) use wire::{Hello, Refusal};

type RpcError = RPCError<TypeConfig>;

/// Makes openraft's clients.
pub(crate) struct Network {
    peers: Arc<Peers>,
    election: Duration,
}

impl Network {
    /// Clients to `peers`; a follower that is silent for longer than `election` has lost its connection.
    pub fn new(peers: Arc<Peers>, election: Duration) -> Self {
        Self { peers, election }
    }

    fn client(&self, target: NodeId, node: &Member, purpose: Purpose) -> PeerNetwork {
        let peer = self.peers.learn(target, node);
        PeerNetwork { peers: self.peers.clone(), peer, purpose, connection: None, patience: self.election }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> PeerNetwork {
        self.client(target, node, Purpose::Entries)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> PeerNetwork {
        self.client(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Member) -> PeerNetwork {
        self.client(target, node, Purpose::Entries)
    }
}

/// What a client's appends are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The stream of entries, on a connection of its own.
    Entries,
    /// One append without entries at a time, on the shared prompt connection.
    Heartbeat,
}

/// openraft's client to one member.
pub(crate) struct PeerNetwork {
    peers: Arc<Peers>,
    peer: Arc<Peer>,
    purpose: Purpose,
    /// The append channel, kept from one stream to the next.
    connection: Option<Connection>,
    patience: Duration,
}

impl PeerNetwork {
    /// Sorts a failure as openraft wants it: who cannot be reached at all is left alone for a while.
    fn rpc_error(&self, error: &CallError) -> RpcError {
        match error {
            CallError::NotSent(_) => RPCError::Unreachable(Unreachable::new(error)),
            CallError::Refused(refusal) => {
                self.peers.refused(refusal);
                RPCError::Unreachable(Unreachable::new(error))
            }
            CallError::Lost(_) => RPCError::Network(NetworkError::new(error)),
        }
    }

    async fn ask(&self, request: Request, option: &RPCOption) -> Result<Answer, RpcError> {
        let deadline = Instant::now() + option.soft_ttl();
        self.peer.pulse.call(request, deadline).await.map_err(|error| self.rpc_error(&error))
    }

    fn unexpected(&self, answer: &Answer) -> RpcError {
        let reason = match answer {
            Answer::Failed(reason) => reason.clone(),
            other => format!("an answer of kind {} to another question", other.kind()),
        };
        RPCError::Unreachable(Unreachable::from_string(format!("member {:x}: {reason}", self.peer.id)))
    }

    async fn voted(&self, request: Request, option: &RPCOption) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.ask(request, option).await? {
            Answer::Vote(response) => Ok(response),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        option: &RPCOption,
    ) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
        match self.ask(Request::Heartbeat(request), option).await? {
            Answer::Heartbeat(result) => Ok(result),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn connect(&mut self) -> Result<(), RpcError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let opened = timeout(self.patience, self.peer.address.open(Channel::Append)).await;
        match opened.unwrap_or_else(|_| Err(WireError::Io(std::io::ErrorKind::TimedOut.into()))) {
            Ok(stream) => {
                self.connection = Some(Connection::new(stream, self.peers.appends().clone()));
                Ok(())
            }
            Err(error) => {
                if let WireError::Refused(refusal) = &error {
                    self.peers.refused(refusal);
                }
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
        }
    }
}

type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>;

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        Ok(match self.heartbeat(rpc, &option).await? {
            Ok(matched) if matched == last => AppendEntriesResponse::Success,
            Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendResults<'s>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft waits inside its stream while a member is to be left alone: ask it before dialling.
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as AppendResults<'s>);
            };
            if self.purpose == Purpose::Heartbeat {
                let result = self.heartbeat(first, &option).await;
                return Ok(Box::pin(futures::stream::once(async { result })) as AppendResults<'s>);
            }
            self.connect().await?;
            let input = futures::stream::iter([first]).chain(input);
            // A batch is answered after the follower's disk has it: that may take longer than a heartbeat interval.
            let patience = option.soft_ttl().max(self.patience);
            Ok(Box::pin(AppendStream::new(&mut self.connection, input, patience)) as AppendResults<'s>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.voted(Request::Vote(rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.voted(Request::PreVote(rpc), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let patience = Patience { silence: option.hard_ttl(), ..Patience::DEFAULT };
        let shipping = snapshot::ship(&self.peer.address, vote, snapshot, patience);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            shipped = shipping => shipped.map_err(|error| {
                if let WireError::Refused(refusal) = &error {
                    self.peers.refused(refusal);
                }
                // The other side first proves what it has: always leave a while between two tries.
                StreamingError::Unreachable(Unreachable::new(&error))
            }),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        match self.ask(Request::Transfer(req), &option).await? {
            Answer::Transfer(response) => Ok(response),
            other => Err(self.unexpected(&other)),
        }
    }
}
