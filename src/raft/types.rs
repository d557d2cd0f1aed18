//! The concrete types openraft runs with, named once.
//!
//! Standard leader ids (one leader per term), because etcd's clients see `raft_term` and expect that.

use std::fmt;

use bytes::Bytes;

use crate::model::effects::Applied;

/// A member id: etcd's u64, derived as etcd derives it.
pub type NodeId = u64;

/// What every member knows of another. The single source of truth for names and addresses; changed by membership
/// entries only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Empty until the member has started and published itself.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until published.
    pub client_urls: Vec<String>,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.peer_urls.join(","))
    }
}

/// An encoded command (`model::command`). Cloning shares the bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Commands can hold secrets: their size is all a log line may show.
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply(pub Box<Applied>);

openraft::declare_raft_types!(
    /// The one Raft type configuration of this program.
    pub TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = NodeId,
        Node = Member,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

/// Raft log id.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// Raft vote.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// Raft log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// What an entry carries: nothing, a command or a membership.
pub type Payload = openraft::EntryPayload<Proposal, NodeId, Member>;
/// Membership and the log id that set it.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// Membership.
pub type Membership = openraft::Membership<NodeId, Member>;
/// Snapshot metadata.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: its metadata and its files on disk.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, crate::store::SnapshotFiles>;
