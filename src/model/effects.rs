//! The effects of one command, as plain data: what the store writes in one batch, and the response.

use bytes::Bytes;

use super::auth::{AuthEffect, AuthError, Secret};
use super::record::Record;
use super::v2;
use super::view::{Alarm, Lease};
use crate::proto::etcdserverpb as pb;

/// An entry's position in the Raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Index in the log.
    pub index: u64,
}

/// One key changed at a revision. The n-th change of a transaction has sub-revision n.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key that changed.
    pub key: Bytes,
    /// The live version before this change; `None` when the key was absent.
    pub before: Option<Record>,
    /// The live version after it; `None` = deleted.
    pub after: Option<Record>,
    /// Lease the key was attached to before this change; 0 = none.
    pub lease_before: i64,
    /// Lease it is attached to after this change; 0 = none.
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

/// The response to a command's proposer. Headers carry only `revision`, which transactions need; the API layer fills
/// in the rest.
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
    /// Of an alarm change: the alarms that this call touched, as in etcd.
    Alarm(Vec<pb::AlarmMember>),
    /// Of a cluster version change.
    ClusterVersion,
    /// Of a change of users, roles or permissions.
    Auth,
    /// Of a login: the token.
    Login(Secret),
    /// Of a v2 mutation. Boxed: it is much larger than the others.
    V2(Box<v2::types::Outcome>),
    /// Of a blank or membership entry.
    None,
}

/// Why a command changed nothing. Deterministic: every replica refuses it the same way.
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
    /// A lease expiry or checkpoint from the leader of an earlier term.
    #[error("not a primary lessor")]
    NotPrimaryLessor,
    /// Permission denied, or a change of users or roles was refused.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// All effects of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Effects {
    /// Key changes at revision `revision`, in order. Empty unless the revision increased.
    pub changes: Vec<Change>,
    /// The main revision after the command.
    pub revision: i64,
    /// New compaction revision, when the command compacts.
    pub compacted: Option<i64>,
    /// Lease table changes. Keys attached and detached follow from `changes` and are not repeated here.
    pub leases: Vec<LeaseChange>,
    /// The complete new set of alarms, when it changed.
    pub alarms: Option<Vec<Alarm>>,
    /// The cluster version, when it changed.
    pub cluster_version: Option<String>,
    /// Change of the auth store. Boxed: it is rare, and every put carries the field.
    pub auth: Option<Box<AuthEffect>>,
    /// v2 keyspace: key → value, `None` deletes.
    pub v2: Vec<(Bytes, Option<Bytes>)>,
    /// v2 events for waiting clients, oldest first.
    pub v2_events: Vec<v2::types::Event>,
    /// The answer.
    pub outcome: Result<Response, Refusal>,
}

impl Effects {
    /// No changes, only a response.
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

/// The result returned to the proposer: the revision after the entry, its log position and the response.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Store revision right after the entry.
    pub revision: i64,
    /// The entry's log position.
    pub position: Position,
    /// The response, or why nothing changed.
    pub outcome: Result<Response, Refusal>,
}
