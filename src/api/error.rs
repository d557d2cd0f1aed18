//! The one table from what went wrong to what a client hears: a gRPC code and etcd's exact sentence.
//!
//! Clients match on the sentences (and some on the codes too), so nothing here may be decorated or improved; the codes
//! were checked against a running etcd. Every other error enum of the program is translated into [`ApiError`] below,
//! and only here; each service returns `ApiError` and never builds a status of its own.

use std::fmt;

use tonic::{Code, Status};

use crate::model::auth::AuthError;
use crate::model::check::RequestError;
use crate::model::effects::Refusal;
use crate::model::kv::RangeError;
use crate::model::view::ViewError;
use crate::raft::{LeaseError, MemberError, ProposeError, ReadError};
use crate::store::{ExportError, HashError, StoreError};

/// Everything a v3 request can be refused with. [`ApiError::row`] is the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiError {
    /// Empty key in a range, put, delete or compare.
    EmptyKey,
    /// `ignore_value`/`ignore_lease` on a missing key, or an empty operation in a transaction.
    KeyNotFound,
    /// `ignore_value` together with a value.
    ValueProvided,
    /// `ignore_lease` together with a lease.
    LeaseProvided,
    /// More operations in one list of a transaction than allowed.
    TooManyOps,
    /// One key changed twice by one transaction.
    DuplicateKey,
    /// Unknown sort order or target.
    InvalidSortOption,
    /// The replicated request is larger than `--max-request-bytes`.
    RequestTooLarge,
    /// A member's peer URLs are missing or malformed.
    BadMemberUrls,
    /// A `grpc-timeout` header that is not one.
    BadTimeout,
    /// Below the last compaction.
    Compacted,
    /// Above the current revision.
    FutureRevision,
    /// A lease longer than etcd allows.
    LeaseTtlTooLarge,
    /// The NOSPACE alarm is raised, or this request would cross the quota.
    NoSpace,
    /// Commits run too far ahead of apply.
    TooManyRequests,
    /// Unknown lease.
    LeaseNotFound,
    /// A lease id in use.
    LeaseExists,
    /// Unknown, or removed, member.
    MemberNotFound,
    /// A member id in use.
    MemberExists,
    /// A peer URL of another member.
    PeerUrlExists,
    /// The change would leave fewer started members than a quorum.
    NotEnoughStarted,
    /// Promotion of a voter.
    MemberNotLearner,
    /// Promotion of a learner that lags.
    LearnerNotReady,
    /// One more learner than allowed.
    TooManyLearners,
    /// Who asks may not, or users and roles forbid it.
    Auth(AuthError),
    /// A token that is unknown, expired or forged.
    InvalidAuthToken,
    /// A password longer than bcrypt takes.
    PasswordTooLong,
    /// A login at a member that can only verify tokens.
    VerifyOnlyKey,
    /// Leader transfer asked of a follower.
    NotLeader,
    /// Leader transfer to a learner or a stranger.
    BadLeaderTransferee,
    /// Leader transfer did not finish in time.
    LeaderTransferTimeout,
    /// A learner serves only status and serializable ranges.
    NotSupportedForLearner,
    /// No leader is known.
    NoLeader,
    /// The leader changed while a read waited; nothing was done.
    LeaderChanged,
    /// The member is stopping.
    Stopped,
    /// No answer within the request timeout.
    Timeout,
    /// The same, and the leader was lost while waiting.
    TimeoutLeaderFail,
    /// The same, and this member has no connection to a quorum.
    TimeoutConnectionLost,
    /// Too few members are connected for the change.
    Unhealthy,
    /// The CORRUPT alarm is raised.
    Corrupt,
    /// The client ended a watch stream.
    WatchCanceled,
    /// The client's own deadline passed.
    DeadlineExceeded,
    /// This member is not the one that keeps leases.
    NotPrimaryLessor,
    /// The lease of a waiting locker ended, and its key with it.
    SessionExpired,
    /// Nobody leads an election.
    NoElectionLeader,
    /// The leadership named is over.
    NotElectionLeader,
    /// A proclamation or resignation that does not say whose.
    LeaderFieldMissing,
    /// Unknown service name asked of the health service.
    UnknownHealthService,
    /// Part of etcd's API that this version does not serve yet.
    NotImplemented,
    /// A read below this room failed; its cause is in the log.
    Internal,
}

impl ApiError {
    /// The code and the sentence a client receives.
    pub fn row(self) -> (Code, &'static str) {
        match self {
            Self::EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
            Self::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
            Self::ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
            Self::LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
            Self::TooManyOps => (Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            Self::DuplicateKey => (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            Self::InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
            Self::RequestTooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
            Self::BadMemberUrls => (Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
            Self::BadTimeout => (Code::InvalidArgument, "malformed grpc-timeout"),
            Self::Compacted => (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            Self::FutureRevision => (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
            Self::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
            Self::NoSpace => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            // etcd means ResourceExhausted here and FailedPrecondition for NotEnoughStarted, but both reach the wire
            // as Unknown (the second was seen to).
            Self::TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
            Self::LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
            Self::LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
            Self::MemberNotFound => (Code::NotFound, "etcdserver: member not found"),
            Self::MemberExists => (Code::FailedPrecondition, "etcdserver: member ID already exist"),
            Self::PeerUrlExists => (Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
            Self::NotEnoughStarted => {
                (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members")
            }
            Self::MemberNotLearner => (Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
            Self::LearnerNotReady => {
                (Code::FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader")
            }
            Self::TooManyLearners => (Code::FailedPrecondition, "etcdserver: too many learner members in cluster"),
            Self::Auth(error) => auth_row(error),
            Self::InvalidAuthToken => (Code::Unauthenticated, "etcdserver: invalid auth token"),
            // These two have no row in etcd's own table and reach the wire as they are.
            Self::PasswordTooLong => (Code::Unknown, "bcrypt: password length exceeds 72 bytes"),
            Self::VerifyOnlyKey => (Code::Unknown, "auth: token signing attempted with verify-only key"),
            Self::NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
            Self::BadLeaderTransferee => (Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            Self::LeaderTransferTimeout => {
                (Code::Unknown, "etcdserver: request timed out, leader transfer took too long")
            }
            Self::NotSupportedForLearner => (Code::FailedPrecondition, "etcdserver: rpc not supported for learner"),
            Self::NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            Self::LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
            Self::Stopped => (Code::Unavailable, "etcdserver: server stopped"),
            Self::Timeout => (Code::Unavailable, "etcdserver: request timed out"),
            Self::TimeoutLeaderFail => {
                (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure")
            }
            Self::TimeoutConnectionLost => {
                (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost")
            }
            Self::Unhealthy => (Code::Unavailable, "etcdserver: unhealthy cluster"),
            Self::Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
            Self::WatchCanceled => (Code::Cancelled, "etcdserver: watch canceled"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, "context deadline exceeded"),
            Self::NotPrimaryLessor => (Code::Unknown, "not a primary lessor"),
            Self::SessionExpired => (Code::Unknown, "mutex: session is expired"),
            Self::NoElectionLeader => (Code::Unknown, "election: no leader"),
            Self::NotElectionLeader => (Code::Unknown, "election: not leader"),
            Self::LeaderFieldMissing => (Code::Unknown, "\"leader\" field must be provided"),
            Self::UnknownHealthService => (Code::NotFound, "unknown service"),
            Self::NotImplemented => (Code::Unimplemented, "this server does not serve this method yet"),
            Self::Internal => (Code::Internal, "the store could not be read; the cause is in this member's log"),
        }
    }
}

/// The rows about users, roles and permissions.
fn auth_row(error: AuthError) -> (Code, &'static str) {
    match error {
        AuthError::UserEmpty => (Code::InvalidArgument, "etcdserver: user name is empty"),
        AuthError::OldRevision => (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        AuthError::Denied => (Code::PermissionDenied, "etcdserver: permission denied"),
        AuthError::NoRootUser => (Code::FailedPrecondition, "etcdserver: root user does not exist"),
        AuthError::NoRootRole => (Code::FailedPrecondition, "etcdserver: root user does not have root role"),
        AuthError::UserExists => (Code::FailedPrecondition, "etcdserver: user name already exists"),
        AuthError::UserNotFound => (Code::FailedPrecondition, "etcdserver: user name not found"),
        AuthError::RoleEmpty => (Code::InvalidArgument, "etcdserver: role name is empty"),
        AuthError::RoleExists => (Code::FailedPrecondition, "etcdserver: role name already exists"),
        AuthError::RoleNotFound => (Code::FailedPrecondition, "etcdserver: role name not found"),
        AuthError::RoleNotGranted => (Code::FailedPrecondition, "etcdserver: role is not granted to the user"),
        AuthError::PermissionNotGiven => (Code::InvalidArgument, "etcdserver: permission not given"),
        AuthError::PermissionNotGranted => {
            (Code::FailedPrecondition, "etcdserver: permission is not granted to the role")
        }
        AuthError::InvalidManagement => (Code::InvalidArgument, "etcdserver: invalid auth management"),
        AuthError::NotEnabled => (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
        AuthError::LoginFailed => {
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
        }
        // No row in etcd's own table.
        AuthError::NoPasswordUser => {
            (Code::Unknown, "auth: authentication failed, password was given for no password user")
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

impl std::error::Error for ApiError {}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let (code, sentence) = error.row();
        Status::new(code, sentence)
    }
}

/// What a caller of a lock or an election hears: the sentence of the step that failed, but the code `Unknown`, because
/// in etcd the recipe runs over a client of its own, whose errors carry no code. Deadlines keep theirs.
pub fn in_recipe(error: ApiError) -> Status {
    match error {
        ApiError::DeadlineExceeded => error.into(),
        _ => Status::unknown(error.row().1),
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::EmptyKey => Self::EmptyKey,
            RequestError::KeyNotFound => Self::KeyNotFound,
            RequestError::ValueProvided => Self::ValueProvided,
            RequestError::LeaseProvided => Self::LeaseProvided,
            RequestError::TooManyOps => Self::TooManyOps,
            RequestError::DuplicateKey => Self::DuplicateKey,
            RequestError::InvalidSort => Self::InvalidSortOption,
            RequestError::LeaseTtlTooLarge => Self::LeaseTtlTooLarge,
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::KeyNotFound => Self::KeyNotFound,
            Refusal::LeaseNotFound => Self::LeaseNotFound,
            Refusal::LeaseExists => Self::LeaseExists,
            Refusal::Compacted => Self::Compacted,
            Refusal::FutureRevision => Self::FutureRevision,
            Refusal::NoSpace => Self::NoSpace,
            Refusal::Corrupt => Self::Corrupt,
            Refusal::NotPrimaryLessor => Self::NotPrimaryLessor,
            Refusal::Auth(error) => error.into(),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

impl From<ViewError> for ApiError {
    fn from(error: ViewError) -> Self {
        tracing::error!(error = %error, "failed to read the store for a client request");
        Self::Internal
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, "failed to read the store for a client request");
        Self::Internal
    }
}

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        tracing::error!(error = %error, "failed to make a snapshot for a client");
        match error {
            ExportError::NoRoom { .. } => Self::NoSpace,
            ExportError::Abandoned => Self::Stopped,
            ExportError::Store(_) | ExportError::File(_) => Self::Internal,
        }
    }
}

impl From<HashError> for ApiError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Refused(refusal) => refusal.into(),
            HashError::Store(error) => error.into(),
        }
    }
}

impl From<RangeError> for ApiError {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Refusal(refusal) => refusal.into(),
            RangeError::View(error) => error.into(),
        }
    }
}

impl From<ProposeError> for ApiError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NoLeader => Self::NoLeader,
            ProposeError::LeaderChanged => Self::LeaderChanged,
            ProposeError::Timeout => Self::Timeout,
            ProposeError::TimeoutLeaderFail => Self::TimeoutLeaderFail,
            ProposeError::TimeoutConnectionLost => Self::TimeoutConnectionLost,
            ProposeError::TooManyRequests => Self::TooManyRequests,
            // The process is about to end: the client must go to another member.
            ProposeError::Stopped | ProposeError::Fatal(_) => Self::Stopped,
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader => Self::NoLeader,
            ReadError::LeaderChanged => Self::LeaderChanged,
            ReadError::Timeout => Self::Timeout,
            ReadError::TimeoutLeaderFail => Self::TimeoutLeaderFail,
            ReadError::TimeoutConnectionLost => Self::TimeoutConnectionLost,
            ReadError::TooManyRequests => Self::TooManyRequests,
            ReadError::Stopped | ReadError::Fatal(_) => Self::Stopped,
        }
    }
}

impl From<LeaseError> for ApiError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::NoLeader => Self::NoLeader,
            LeaseError::Timeout => Self::Timeout,
            LeaseError::Stopped => Self::Stopped,
        }
    }
}

impl From<MemberError> for ApiError {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::PeerUrlExists => Self::PeerUrlExists,
            MemberError::IdExists => Self::MemberExists,
            MemberError::NotFound => Self::MemberNotFound,
            MemberError::BadUrls => Self::BadMemberUrls,
            MemberError::NotEnoughStarted => Self::NotEnoughStarted,
            // etcd has no sentence for a change that must wait for another; this one makes clients try again.
            MemberError::Unhealthy | MemberError::Busy => Self::Unhealthy,
            MemberError::TooManyLearners => Self::TooManyLearners,
            MemberError::NotLearner => Self::MemberNotLearner,
            MemberError::LearnerNotReady => Self::LearnerNotReady,
            MemberError::NotLeader => Self::NotLeader,
            MemberError::BadTransferee => Self::BadLeaderTransferee,
            MemberError::TransferTimeout => Self::LeaderTransferTimeout,
            MemberError::Propose(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What etcd answers, copied from its contract and, where marked, from the wire of a running one.
    const GOLDEN: &[(ApiError, Code, &str)] = &[
        (ApiError::EmptyKey, Code::InvalidArgument, "etcdserver: key is not provided"),
        (ApiError::KeyNotFound, Code::InvalidArgument, "etcdserver: key not found"),
        (ApiError::ValueProvided, Code::InvalidArgument, "etcdserver: value is provided"),
        (ApiError::LeaseProvided, Code::InvalidArgument, "etcdserver: lease is provided"),
        (ApiError::TooManyOps, Code::InvalidArgument, "etcdserver: too many operations in txn request"),
        (ApiError::DuplicateKey, Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        (ApiError::InvalidSortOption, Code::InvalidArgument, "etcdserver: invalid sort option"),
        (ApiError::RequestTooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
        (ApiError::BadMemberUrls, Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
        (ApiError::Compacted, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        (ApiError::FutureRevision, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        (ApiError::LeaseTtlTooLarge, Code::OutOfRange, "etcdserver: too large lease TTL"),
        (ApiError::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        (ApiError::TooManyRequests, Code::Unknown, "etcdserver: too many requests"),
        (ApiError::LeaseNotFound, Code::NotFound, "etcdserver: requested lease not found"),
        (ApiError::LeaseExists, Code::FailedPrecondition, "etcdserver: lease already exists"),
        (ApiError::MemberNotFound, Code::NotFound, "etcdserver: member not found"),
        (ApiError::MemberExists, Code::FailedPrecondition, "etcdserver: member ID already exist"),
        (ApiError::PeerUrlExists, Code::FailedPrecondition, "etcdserver: Peer URLs already exists"),
        // Seen on the wire of 3.4.23: Unknown, although its source means FailedPrecondition.
        (
            ApiError::NotEnoughStarted,
            Code::Unknown,
            "etcdserver: re-configuration failed due to not enough started members",
        ),
        (ApiError::MemberNotLearner, Code::FailedPrecondition, "etcdserver: can only promote a learner member"),
        (
            ApiError::LearnerNotReady,
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        (ApiError::TooManyLearners, Code::FailedPrecondition, "etcdserver: too many learner members in cluster"),
        (ApiError::Auth(AuthError::NotEnabled), Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
        (ApiError::Auth(AuthError::UserEmpty), Code::InvalidArgument, "etcdserver: user name is empty"),
        (ApiError::Auth(AuthError::OldRevision), Code::InvalidArgument, "etcdserver: revision of auth store is old"),
        (ApiError::Auth(AuthError::Denied), Code::PermissionDenied, "etcdserver: permission denied"),
        (ApiError::InvalidAuthToken, Code::Unauthenticated, "etcdserver: invalid auth token"),
        (
            ApiError::Auth(AuthError::LoginFailed),
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        ),
        (
            ApiError::Auth(AuthError::NoPasswordUser),
            Code::Unknown,
            "auth: authentication failed, password was given for no password user",
        ),
        (ApiError::PasswordTooLong, Code::Unknown, "bcrypt: password length exceeds 72 bytes"),
        (ApiError::VerifyOnlyKey, Code::Unknown, "auth: token signing attempted with verify-only key"),
        (ApiError::Auth(AuthError::NoRootUser), Code::FailedPrecondition, "etcdserver: root user does not exist"),
        (
            ApiError::Auth(AuthError::NoRootRole),
            Code::FailedPrecondition,
            "etcdserver: root user does not have root role",
        ),
        (ApiError::Auth(AuthError::UserExists), Code::FailedPrecondition, "etcdserver: user name already exists"),
        (ApiError::Auth(AuthError::UserNotFound), Code::FailedPrecondition, "etcdserver: user name not found"),
        (ApiError::Auth(AuthError::RoleEmpty), Code::InvalidArgument, "etcdserver: role name is empty"),
        (ApiError::Auth(AuthError::RoleExists), Code::FailedPrecondition, "etcdserver: role name already exists"),
        (ApiError::Auth(AuthError::RoleNotFound), Code::FailedPrecondition, "etcdserver: role name not found"),
        (
            ApiError::Auth(AuthError::RoleNotGranted),
            Code::FailedPrecondition,
            "etcdserver: role is not granted to the user",
        ),
        (ApiError::Auth(AuthError::PermissionNotGiven), Code::InvalidArgument, "etcdserver: permission not given"),
        (
            ApiError::Auth(AuthError::PermissionNotGranted),
            Code::FailedPrecondition,
            "etcdserver: permission is not granted to the role",
        ),
        (ApiError::Auth(AuthError::InvalidManagement), Code::InvalidArgument, "etcdserver: invalid auth management"),
        (ApiError::NotLeader, Code::FailedPrecondition, "etcdserver: not leader"),
        (ApiError::BadLeaderTransferee, Code::FailedPrecondition, "etcdserver: bad leader transferee"),
        (
            ApiError::LeaderTransferTimeout,
            Code::Unknown,
            "etcdserver: request timed out, leader transfer took too long",
        ),
        (ApiError::NotSupportedForLearner, Code::FailedPrecondition, "etcdserver: rpc not supported for learner"),
        (ApiError::NoLeader, Code::Unavailable, "etcdserver: no leader"),
        (ApiError::LeaderChanged, Code::Unavailable, "etcdserver: leader changed"),
        (ApiError::Stopped, Code::Unavailable, "etcdserver: server stopped"),
        (ApiError::Timeout, Code::Unavailable, "etcdserver: request timed out"),
        (
            ApiError::TimeoutLeaderFail,
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        ),
        (
            ApiError::TimeoutConnectionLost,
            Code::Unavailable,
            "etcdserver: request timed out, possibly due to connection lost",
        ),
        (ApiError::Unhealthy, Code::Unavailable, "etcdserver: unhealthy cluster"),
        (ApiError::Corrupt, Code::DataLoss, "etcdserver: corrupt cluster"),
        (ApiError::DeadlineExceeded, Code::DeadlineExceeded, "context deadline exceeded"),
        (ApiError::NotPrimaryLessor, Code::Unknown, "not a primary lessor"),
        (ApiError::SessionExpired, Code::Unknown, "mutex: session is expired"),
        (ApiError::NoElectionLeader, Code::Unknown, "election: no leader"),
        (ApiError::NotElectionLeader, Code::Unknown, "election: not leader"),
        (ApiError::LeaderFieldMissing, Code::Unknown, "\"leader\" field must be provided"),
        (ApiError::UnknownHealthService, Code::NotFound, "unknown service"),
    ];

    #[test]
    fn every_error_reaches_the_client_with_etcds_code_and_sentence() {
        for (error, code, sentence) in GOLDEN {
            let status = Status::from(*error);
            assert_eq!((status.code(), status.message()), (*code, *sentence), "{error:?}");
            assert_eq!(error.to_string(), *sentence);
        }
    }

    #[test]
    fn refusals_of_apply_keep_their_meaning() {
        let cases = [
            (Refusal::KeyNotFound, ApiError::KeyNotFound),
            (Refusal::LeaseNotFound, ApiError::LeaseNotFound),
            (Refusal::LeaseExists, ApiError::LeaseExists),
            (Refusal::Compacted, ApiError::Compacted),
            (Refusal::FutureRevision, ApiError::FutureRevision),
            (Refusal::NoSpace, ApiError::NoSpace),
            (Refusal::Corrupt, ApiError::Corrupt),
            (Refusal::NotPrimaryLessor, ApiError::NotPrimaryLessor),
        ];
        for (refusal, error) in cases {
            assert_eq!(ApiError::from(refusal), error);
            assert!(error.to_string().ends_with(&refusal.to_string()), "{refusal} became {error}");
        }
    }

    #[test]
    fn consensus_errors_keep_their_words() {
        let cases = [
            ProposeError::NoLeader,
            ProposeError::LeaderChanged,
            ProposeError::Timeout,
            ProposeError::TimeoutLeaderFail,
            ProposeError::TimeoutConnectionLost,
            ProposeError::TooManyRequests,
            ProposeError::Stopped,
        ];
        for error in cases {
            assert_eq!(ApiError::from(error.clone()).to_string(), format!("etcdserver: {error}"));
            assert_eq!(ApiError::from(MemberError::Propose(error.clone())).to_string(), format!("etcdserver: {error}"));
        }
        assert_eq!(ApiError::from(ProposeError::Fatal("disk".to_owned())), ApiError::Stopped);
    }

    #[test]
    fn the_cause_of_a_failed_read_stays_in_the_log() {
        let error = ViewError { what: "a key", cause: "IO error: /secret/path".to_owned() };
        let status = Status::from(ApiError::from(error));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"));
    }
}
