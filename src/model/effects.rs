//! Everything one command does, as plain data: what the store writes in one batch, and what it answers.

use bytes::Bytes;

use super::auth::{AuthEffect, AuthError, Secret};
use super::record::Record;
use super::v2;
use super::view::{Alarm, Lease};
use crate::proto::etcdserverpb as pb;

/// Where an entry stands in the replicated log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Index in the log.
    pub index: u64,
}

/// One key of one revision. The n-th change of a transaction has sub-revision n.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key that changed.
    pub key: Bytes,
    /// The live version before this change; `None` when the key was absent.
    pub before: Option<Record>,
    /// The live version after it; `None` = deleted.
    pub after: Option<Record>,
    /// Lease the key was attached to before; 0 = none.
    pub lease_before: i64,
    /// Lease it is attached to now; 0 = none.
    pub lease_after: i64,
}

/// A change of the lease table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// Granted: the record to store.
    Granted(Lease),
    /// Its checkpoint changed: the record to store.
    Recorded(Lease),
    /// Revoked; its keys are among the effects' changes.
    Remove(i64),
}

/// What a command answers to whoever proposed it. Headers inside carry only `revision`, as transactions need it; the
/// edge fills the rest.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// Of a put.
    Put(pb::PutResponse),
    /// Of a delete.
    DeleteRange(pb::DeleteRangeResponse),
    /// Of a transaction.
    Txn(pb::TxnResponse),
    /// Of a compaction.
    Compact,
    /// Of a grant: the lease as stored.
    LeaseGrant(Lease),
    /// Of a revoke.
    LeaseRevoke,
    /// Of a checkpoint.
    LeaseCheckpoint,
    /// Of an alarm change: the alarms that this call touched (etcd answers these).
    Alarm(Vec<pb::AlarmMember>),
    /// Of a cluster version change.
    ClusterVersion,
    /// Of a change of users, roles or permissions.
    Auth,
    /// Of a login: the token.
    Login(Secret),
    /// Of a v2 mutation. Boxed: it is large beside the others.
    V2(Box<v2::types::Outcome>),
    /// Of a blank or membership entry.
    None,
}

/// Why a command changed nothing. Deterministic: every replica refuses alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `ignore_value` or `ignore_lease` on a missing key, or an empty operation in a transaction.
    #[error("key not found")]
    KeyNotFound,
    /// A put or a revoke names an unknown lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A grant names an id in use.
    #[error("lease already exists")]
    LeaseExists,
    /// Below the last compaction.
    #[error("required revision has been compacted")]
    Compacted,
    /// Above the current revision.
    #[error("required revision is a future revision")]
    FutureRevision,
    /// The NOSPACE alarm is raised.
    #[error("database space exceeded")]
    NoSpace,
    /// The CORRUPT alarm is raised.
    #[error("corrupt cluster")]
    Corrupt,
    /// An expiry or a checkpoint by a leader of an earlier term.
    #[error("not a primary lessor")]
    NotPrimaryLessor,
    /// Who asked may not, or users and roles forbid it.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// Everything a command does.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// Key changes, all of revision `revision`, in order. Empty unless the revision moved.
    pub changes: Vec<Change>,
    /// The main revision after the command.
    pub revision: i64,
    /// New compaction revision, when the command compacts.
    pub compacted: Option<i64>,
    /// Lease table changes. Attachment of keys to leases follows from `changes` and is not repeated here.
    pub leases: Vec<LeaseChange>,
    /// The whole alarm set, when it changed.
    pub alarms: Option<Vec<Alarm>>,
    /// The cluster version, when it changed.
    pub cluster_version: Option<String>,
    /// What becomes of the auth store. Boxed: it is rare and every put has room for it.
    pub auth: Option<Box<AuthEffect>>,
    /// v2 keyspace: key → value, `None` deletes.
    pub v2: Vec<(Bytes, Option<Bytes>)>,
    /// v2 events for waiting clients, oldest first.
    pub v2_events: Vec<v2::types::Event>,
    /// The answer.
    pub outcome: Result<Response, Refusal>,
}

impl Effects {
    /// No change at all, this answer.
    pub fn nothing(revision: i64, outcome: Result<Response, Refusal>) -> Self {
        Self {
            changes: Vec::new(),
            revision,
            compacted: None,
            leases: Vec::new(),
            alarms: None,
            cluster_version: None,
            auth: None,
            v2: Vec::new(),
            v2_events: Vec::new(),
            outcome,
        }
    }
}

/// What travels back to the proposer: the revision after the entry, its log position and the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Store revision right after the entry.
    pub revision: i64,
    /// Where the entry stood.
    pub position: Position,
    /// The answer, or why nothing changed.
    pub outcome: Result<Response, Refusal>,
}
