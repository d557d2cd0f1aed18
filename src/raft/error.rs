//! Why consensus could not do what was asked. The edge maps these to etcd's codes and sentences (`api::error`).

use super::types::NodeId;

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nobody leads and the deadline passed; the proposal was certainly not accepted.
    #[error("no leader")]
    NoLeader,
    /// The leader changed under the proposal; it may still commit.
    #[error("leader changed")]
    LeaderChanged,
    /// The deadline passed; it may still commit.
    #[error("request timed out")]
    Timeout,
    /// The deadline passed around a change of leader; it may still commit.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFail,
    /// The deadline passed while the leader, or a quorum, could not be reached; it may still commit.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// Too much is committed and not yet applied, or in flight; nothing was proposed.
    #[error("too many requests")]
    TooManyRequests,
    /// This member is stopping.
    #[error("server stopped")]
    Stopped,
    /// Consensus on this member died; the process is about to end.
    #[error("consensus failed: {0}")]
    Fatal(String),
}

/// Why a linearizable read cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody leads and the deadline passed.
    #[error("no leader")]
    NoLeader,
    /// The leader changed while it confirmed its leadership.
    #[error("leader changed")]
    LeaderChanged,
    /// The deadline passed.
    #[error("request timed out")]
    Timeout,
    /// The deadline passed around a change of leader.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFail,
    /// The deadline passed while the leader, or a quorum, could not be reached.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// Too many readers wait already.
    #[error("too many requests")]
    TooManyRequests,
    /// This member is stopping.
    #[error("server stopped")]
    Stopped,
    /// Consensus on this member died; the process is about to end.
    #[error("consensus failed: {0}")]
    Fatal(String),
}

/// Why the member list stays as it is. Variants travel between members (`network::answer`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// A peer URL belongs to a member already.
    #[error("Peer URLs already exists")]
    PeerUrlExists,
    /// The id belongs to a member already.
    #[error("member ID already exist")]
    IdExists,
    /// No such member, or it was removed and its id is spent.
    #[error("member not found")]
    NotFound,
    /// A peer URL is not `http(s)://host:port`.
    #[error("given member URLs are invalid")]
    BadUrls,
    /// The change would leave fewer started members than a quorum.
    #[error("re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// Too few members are connected to survive the change.
    #[error("unhealthy cluster")]
    Unhealthy,
    /// The cluster has as many learners as it may.
    #[error("too many learner members in cluster")]
    TooManyLearners,
    /// Only learners are promoted.
    #[error("can only promote a learner member")]
    NotLearner,
    /// The learner's log is too far behind the leader's.
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// Asked of a member that does not lead.
    #[error("not leader")]
    NotLeader,
    /// Leadership can only go to another voter.
    #[error("bad leader transferee")]
    BadTransferee,
    /// Leadership did not arrive before the deadline.
    #[error("request timed out, leader transfer took too long")]
    TransferTimeout,
    /// Another change is under way; ask again.
    #[error("another membership change is under way")]
    Busy,
    /// The change could not be carried to the leader or through the log.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Why a lease call cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The asked member leads no more, or nobody does.
    #[error("no leader")]
    NoLeader,
    /// The deadline passed.
    #[error("request timed out")]
    Timeout,
    /// This member is stopping.
    #[error("server stopped")]
    Stopped,
}

/// Why consensus does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// openraft refuses the configuration.
    #[error("consensus settings are not usable: {0}; check --heartbeat-interval and --election-timeout")]
    Config(String),
    /// The log and the state on disk do not fit together, or cannot be read.
    #[error("consensus does not start from the data directory: {0}; replace this member if its disk is damaged")]
    Storage(String),
    /// A removed member cannot become a cluster.
    #[error(
        "--force-new-cluster: member {id:x} is not in the member list of its own data, it was removed from the cluster; \
         use the data directory of a member that was not"
    )]
    ForcedStranger {
        /// This member.
        id: NodeId,
    },
    /// The first membership could not be written.
    #[error("the first membership of member {id:x} was not accepted: {cause}")]
    Bootstrap {
        /// This member.
        id: NodeId,
        /// openraft's reason.
        cause: String,
    },
}
