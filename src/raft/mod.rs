//! Consensus: openraft behind our own words.
//!
//! [`start`] takes an opened log and state machine and returns a [`Consensus`], through which everything else proposes
//! commands, waits for linearizable reads, changes the member list and learns who leads. Any member takes any request:
//! what only the leader can do is carried to it once, never further, and never twice after an unknown result.

mod carry;
pub mod codec;
mod config;
pub mod error;
mod force;
mod guard;
mod hashes;
mod leader;
pub mod members;
mod members_check;
pub mod network;
pub mod propose;
mod read;
mod serve;
mod snapshots;
#[cfg(test)]
mod tests;
pub mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{RaftMetrics, RaftState};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use config::{RaftOptions, Rules};
pub use error::{LeaseError, MemberError, ProposeError, ReadError, StartError};
pub use hashes::PeerHash;
pub use leader::{LeaderDuties, LeaderState, Renewal};
pub use members::MemberInfo;

use self::carry::Carried;
use self::leader::LeadTimes;
use self::network::{Inbound, Network, Peers};
use self::read::ReadQueue;
use self::types::{Member, NodeId, TypeConfig};
use crate::store::{Machine, Store};

/// openraft with our types and our state machine.
pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// Commands in flight from this member, KiB: what waits for its commit may take so much memory and no more.
pub const MAX_IN_FLIGHT_KIB: usize = 64 << 10;

/// A member's part in the cluster's agreement. Cloning shares it.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    id: NodeId,
    cluster_id: u64,
    rules: Rules,
    raft: Raft,
    store: Store,
    peers: Arc<Peers>,
    duties: Arc<dyn LeaderDuties>,
    metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    leader: watch::Sender<LeaderState>,
    lead_times: parking_lot::Mutex<LeadTimes>,
    reads: ReadQueue,
    in_flight: Arc<Semaphore>,
    /// Commands wait until a snapshot lets the log go on.
    log_is_full: watch::Sender<bool>,
    carried: mpsc::Sender<Carried>,
    changing: Mutex<()>,
    /// One hash for other members at a time.
    hashing: Arc<Semaphore>,
    inbound: Inbound,
    stopping: CancellationToken,
}

/// What `Maintenance.Status`, metrics and logs say of this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub id: NodeId,
    /// Its cluster.
    pub cluster_id: u64,
    /// Its current term.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Highest index it knows to be committed.
    pub committed: u64,
    /// Highest index it has applied.
    pub applied: u64,
    /// Last index of its log.
    pub last_log: u64,
    /// Whether it leads.
    pub is_leader: bool,
    /// Whether it has no vote yet.
    pub is_learner: bool,
    /// Whether it stands for election.
    pub is_candidate: bool,
}

/// Starts consensus on this member. The peer listener is [`network::serve`]'s matter.
///
/// # Errors
/// The rules contradict each other, or log and state do not fit together.
pub async fn start(options: RaftOptions) -> Result<Consensus, StartError> {
    let RaftOptions { id, cluster_id, rules, force_alone, mut log, machine, store, tls, duties } = options;
    let config = config::openraft(&rules, cluster_id)?;
    if force_alone {
        let left = force::alone(&mut log, &store, id).await?;
        let left: Vec<String> = left.into_iter().map(|id| format!("{id:x}")).collect();
        tracing::warn!(
            local_member_id = format!("{id:x}"),
            left_behind = left.join(","),
            "forced a new cluster of this member alone; start it without --force-new-cluster from now on"
        );
    }
    let meter = log.meter();
    let peers = Peers::new(id, cluster_id, tls);
    let factory = Network::new(peers.clone(), rules.election);
    let raft = Raft::new(id, Arc::new(config), factory, log, machine)
        .await
        .map_err(|error| StartError::Storage(error.to_string()))?;
    let (carried, to_carry) = mpsc::channel(carry::MAX_QUEUED);
    let inner = Arc::new(Inner {
        id,
        cluster_id,
        metrics: raft.metrics(),
        raft,
        store,
        peers,
        duties,
        leader: watch::Sender::new(LeaderState { leader: None, term: 0 }),
        lead_times: parking_lot::Mutex::default(),
        reads: ReadQueue::default(),
        in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT_KIB)),
        log_is_full: watch::Sender::new(false),
        carried,
        changing: Mutex::new(()),
        hashing: Arc::new(Semaphore::new(1)),
        inbound: Inbound::default(),
        stopping: CancellationToken::new(),
        rules,
    });
    inner.elect_when_alone().await?;
    tokio::spawn(guard::watch(inner.clone()));
    tokio::spawn(carry::carry(inner.clone(), to_carry));
    tokio::spawn(leader::follow(inner.clone()));
    tokio::spawn(members::follow(inner.clone()));
    tokio::spawn(read::rounds(inner.clone()));
    tokio::spawn(snapshots::keep(inner.clone(), meter));
    Ok(Consensus { inner })
}

impl Consensus {
    /// Writes the first membership of a new cluster. Every first member does so with the same list, from which all
    /// derive the same cluster id; that makes the entry the same everywhere.
    ///
    /// # Errors
    /// This member has a log already, or is not in the list.
    pub async fn bootstrap(&self, members: BTreeMap<NodeId, Member>) -> Result<(), StartError> {
        let id = self.inner.id;
        self.inner
            .raft
            .initialize(members)
            .await
            .map_err(|error| StartError::Bootstrap { id, cause: error.to_string() })
    }

    /// Whether this member's log has ever held an entry or a vote.
    ///
    /// # Errors
    /// Consensus ended already.
    pub async fn has_log(&self) -> Result<bool, StartError> {
        self.inner.raft.is_initialized().await.map_err(|error| StartError::Storage(error.to_string()))
    }

    /// This member's position in the log and in the cluster.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// The applied member list, by ascending id, or the one with a second voter who has not started yet.
    pub fn members(&self) -> Vec<MemberInfo> {
        self.inner.listed()
    }

    /// Who leads, and every change of it.
    pub fn leader_watch(&self) -> watch::Receiver<LeaderState> {
        self.inner.leader.subscribe()
    }

    /// Turns true when this member has been removed from the cluster: it must stop.
    pub fn expelled(&self) -> watch::Receiver<bool> {
        self.inner.peers.expelled()
    }

    /// Health and traffic of the other members, for metrics.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.inner.peers
    }

    /// Stops consensus on this member; what is in flight answers `Stopped`. Leadership should have moved before.
    pub async fn shutdown(&self) {
        self.inner.stopping.cancel();
        // Before: the core may wait for what waits for space.
        self.inner.store.space().close();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop cleanly");
        }
    }
}

impl Inner {
    /// A cluster of one needs no election timeout to find out that nobody else leads.
    async fn elect_when_alone(&self) -> Result<(), StartError> {
        let stopped = |error: Fatal<TypeConfig>| StartError::Storage(error.to_string());
        let voters = |state: &RaftState<TypeConfig>| state.membership_state.effective().voter_ids().collect();
        let voters: Vec<NodeId> = self.raft.with_raft_state(voters).await.map_err(stopped)?;
        if voters != [self.id] {
            return Ok(());
        }
        self.raft.trigger().elect(false).await.map_err(stopped)
    }

    /// Who leads, straight from the core: fresher than [`Consensus::leader_watch`] and less careful.
    fn current_leader(&self) -> Option<NodeId> {
        self.metrics.borrow_watched().current_leader
    }

    fn status(&self) -> Status {
        let applied = self.store.applied().map_or(0, |log_id| log_id.index);
        // The core blocks while the borrow lives: copy and let go.
        let metrics = self.metrics.borrow_watched();
        let committed = metrics.cluster_committed.max(metrics.local_committed).map_or(0, |log_id| log_id.index);
        let leader = self.leader.borrow().leader;
        Status {
            id: self.id,
            cluster_id: self.cluster_id,
            term: metrics.current_term,
            leader,
            committed: committed.max(applied),
            applied,
            last_log: metrics.last_log_index.unwrap_or(0),
            is_leader: leader == Some(self.id),
            is_learner: metrics.state.is_learner(),
            is_candidate: metrics.state.is_candidate(),
        }
    }
}
