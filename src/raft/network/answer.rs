//! Outcomes that travel back from the leader: what a command answered, or why there is no answer.

use bytes::{BufMut, BytesMut};
use prost::Message;

use crate::model::auth::{AuthError, Secret};
use crate::model::effects::{Applied, Position, Refusal, Response};
use crate::model::view::Lease;
use crate::proto::etcdserverpb as pb;
use crate::raft::codec::{CodecError, Reader, put_bytes};
use crate::raft::error::{MemberError, ProposeError};
use crate::raft::propose::Proposed;

/// Appends the outcome of one proposal.
pub fn put_proposed(out: &mut BytesMut, outcome: &Proposed) {
    match outcome {
        Proposed::Applied(applied) => {
            out.put_u8(0);
            put_applied(out, applied);
        }
        Proposed::NotAccepted => out.put_u8(1),
        Proposed::Unknown => out.put_u8(2),
        Proposed::Failed(error) => {
            out.put_u8(3);
            put_propose_error(out, error);
        }
    }
}

/// Reads what [`put_proposed`] wrote.
pub fn proposed(r: &mut Reader) -> Result<Proposed, CodecError> {
    Ok(match r.u8("outcome of a proposal")? {
        0 => Proposed::Applied(Box::new(applied(r)?)),
        1 => Proposed::NotAccepted,
        2 => Proposed::Unknown,
        3 => Proposed::Failed(propose_error(r)?),
        tag => return Err(CodecError::Unknown { what: "outcome of a proposal", tag }),
    })
}

/// A refusal travels as its place here; new ones go to the end.
const REFUSALS: [Refusal; 25] = [
    Refusal::KeyNotFound,
    Refusal::LeaseNotFound,
    Refusal::LeaseExists,
    Refusal::Compacted,
    Refusal::FutureRevision,
    Refusal::NoSpace,
    Refusal::Corrupt,
    Refusal::NotPrimaryLessor,
    Refusal::Auth(AuthError::UserEmpty),
    Refusal::Auth(AuthError::OldRevision),
    Refusal::Auth(AuthError::Denied),
    Refusal::Auth(AuthError::NoRootUser),
    Refusal::Auth(AuthError::NoRootRole),
    Refusal::Auth(AuthError::UserExists),
    Refusal::Auth(AuthError::UserNotFound),
    Refusal::Auth(AuthError::RoleEmpty),
    Refusal::Auth(AuthError::RoleExists),
    Refusal::Auth(AuthError::RoleNotFound),
    Refusal::Auth(AuthError::RoleNotGranted),
    Refusal::Auth(AuthError::PermissionNotGiven),
    Refusal::Auth(AuthError::PermissionNotGranted),
    Refusal::Auth(AuthError::InvalidManagement),
    Refusal::Auth(AuthError::NotEnabled),
    Refusal::Auth(AuthError::LoginFailed),
    Refusal::Auth(AuthError::NoPasswordUser),
];
const REFUSED: u8 = 255;

fn put_applied(out: &mut BytesMut, applied: &Applied) {
    out.put_i64_le(applied.revision);
    out.put_u64_le(applied.position.term);
    out.put_u64_le(applied.position.index);
    match &applied.outcome {
        Ok(response) => put_response(out, response),
        Err(refusal) => {
            out.put_u8(REFUSED);
            let code = REFUSALS.iter().position(|known| known == refusal).unwrap_or(usize::from(u8::MAX));
            out.put_u8(code as u8);
        }
    }
}

fn applied(r: &mut Reader) -> Result<Applied, CodecError> {
    let revision = r.i64("revision")?;
    let position = Position { term: r.u64("term")?, index: r.u64("index")? };
    let tag = r.u8("kind of a response")?;
    let outcome = if tag == REFUSED {
        let tag = r.u8("a refusal")?;
        let refusal = REFUSALS.get(usize::from(tag)).ok_or(CodecError::Unknown { what: "a refusal", tag })?;
        Err(*refusal)
    } else {
        Ok(response(r, tag)?)
    };
    Ok(Applied { revision, position, outcome })
}

fn put_message(out: &mut BytesMut, tag: u8, message: &impl Message) {
    out.put_u8(tag);
    out.put_u32_le(message.encoded_len() as u32);
    message.encode_raw(out);
}

fn message<M: Message + Default>(r: &mut Reader) -> Result<M, CodecError> {
    let bytes = r.bytes("a response")?;
    M::decode(bytes).map_err(|error| CodecError::Invalid { what: "a response", cause: error.to_string() })
}

fn put_response(out: &mut BytesMut, response: &Response) {
    match response {
        Response::None => out.put_u8(0),
        Response::Put(put) => put_message(out, 1, put),
        Response::DeleteRange(delete) => put_message(out, 2, delete),
        Response::Txn(txn) => put_message(out, 3, txn),
        Response::Compact => out.put_u8(4),
        Response::LeaseGrant(lease) => {
            out.put_u8(5);
            out.put_i64_le(lease.id);
            out.put_i64_le(lease.ttl);
            out.put_i64_le(lease.remaining);
            out.put_u64_le(lease.granted);
        }
        Response::LeaseRevoke => out.put_u8(6),
        Response::LeaseCheckpoint => out.put_u8(7),
        Response::Alarm(alarms) => put_message(out, 8, &pb::AlarmResponse { header: None, alarms: alarms.clone() }),
        Response::ClusterVersion => out.put_u8(9),
        Response::Auth => out.put_u8(11),
        Response::Login(token) => {
            out.put_u8(12);
            put_bytes(out, token.expose());
        }
        Response::V2(outcome) => put_message(out, 10, outcome.as_ref()),
    }
}

fn response(r: &mut Reader, tag: u8) -> Result<Response, CodecError> {
    Ok(match tag {
        0 => Response::None,
        1 => Response::Put(message(r)?),
        2 => Response::DeleteRange(message(r)?),
        3 => Response::Txn(message(r)?),
        4 => Response::Compact,
        5 => Response::LeaseGrant(Lease {
            id: r.i64("lease")?,
            ttl: r.i64("lease")?,
            remaining: r.i64("lease")?,
            granted: r.u64("lease")?,
        }),
        6 => Response::LeaseRevoke,
        7 => Response::LeaseCheckpoint,
        8 => Response::Alarm(message::<pb::AlarmResponse>(r)?.alarms),
        9 => Response::ClusterVersion,
        10 => Response::V2(Box::new(message(r)?)),
        11 => Response::Auth,
        12 => Response::Login(Secret::new(r.bytes("a token")?)),
        tag => return Err(CodecError::Unknown { what: "a response", tag }),
    })
}

const PROPOSE_ERRORS: [ProposeError; 7] = [
    ProposeError::NoLeader,
    ProposeError::LeaderChanged,
    ProposeError::Timeout,
    ProposeError::TimeoutLeaderFail,
    ProposeError::TimeoutConnectionLost,
    ProposeError::TooManyRequests,
    ProposeError::Stopped,
];

/// Appends why a proposal has no answer. A fatal failure of the other member is `Stopped` to everyone else.
pub fn put_propose_error(out: &mut BytesMut, error: &ProposeError) {
    const STOPPED: usize = 6;
    out.put_u8(PROPOSE_ERRORS.iter().position(|known| known == error).unwrap_or(STOPPED) as u8);
}

fn propose_error(r: &mut Reader) -> Result<ProposeError, CodecError> {
    let tag = r.u8("a failure")?;
    PROPOSE_ERRORS.get(usize::from(tag)).cloned().ok_or(CodecError::Unknown { what: "a failure", tag })
}

const MEMBER_ERRORS: [MemberError; 13] = [
    MemberError::PeerUrlExists,
    MemberError::IdExists,
    MemberError::NotFound,
    MemberError::BadUrls,
    MemberError::NotEnoughStarted,
    MemberError::Unhealthy,
    MemberError::TooManyLearners,
    MemberError::NotLearner,
    MemberError::LearnerNotReady,
    MemberError::NotLeader,
    MemberError::BadTransferee,
    MemberError::TransferTimeout,
    MemberError::Busy,
];
const PROPOSE: u8 = 255;

/// Appends why the member list did not change.
pub fn put_member_error(out: &mut BytesMut, error: &MemberError) {
    match MEMBER_ERRORS.iter().position(|known| known == error) {
        Some(code) => out.put_u8(code as u8),
        None => {
            out.put_u8(PROPOSE);
            let MemberError::Propose(error) = error else { return put_propose_error(out, &ProposeError::Stopped) };
            put_propose_error(out, error);
        }
    }
}

/// Reads what [`put_member_error`] wrote.
pub fn member_error(r: &mut Reader) -> Result<MemberError, CodecError> {
    let tag = r.u8("a failure")?;
    if tag == PROPOSE {
        return Ok(MemberError::Propose(propose_error(r)?));
    }
    MEMBER_ERRORS.get(usize::from(tag)).cloned().ok_or(CodecError::Unknown { what: "a failure", tag })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::v2::types::Outcome;

    fn through(outcome: &Proposed) -> Proposed {
        let mut out = BytesMut::new();
        put_proposed(&mut out, outcome);
        proposed(&mut Reader::new(out.freeze())).expect("our own bytes")
    }

    #[test]
    fn every_outcome_of_a_proposal_reaches_the_member_that_asked() {
        let position = Position { term: 2, index: 40 };
        let lease = Lease { id: -3, ttl: 60, remaining: 0, granted: 31 };
        let alarm = pb::AlarmMember { member_id: 7, alarm: 1 };
        let responses = [
            Response::None,
            Response::Put(pb::PutResponse::default()),
            Response::DeleteRange(pb::DeleteRangeResponse { deleted: 3, ..Default::default() }),
            Response::Txn(pb::TxnResponse { succeeded: true, ..Default::default() }),
            Response::Compact,
            Response::LeaseGrant(lease),
            Response::LeaseRevoke,
            Response::LeaseCheckpoint,
            Response::Alarm(vec![alarm]),
            Response::ClusterVersion,
            Response::V2(Box::new(Outcome { index: 5, ..Outcome::default() })),
            Response::Auth,
            Response::Login(Secret::new("token")),
        ];
        let outcomes = responses.into_iter().map(Ok).chain(REFUSALS.map(Err));
        for outcome in outcomes {
            let wanted = Proposed::Applied(Box::new(Applied { revision: 9, position, outcome }));
            assert_eq!(through(&wanted), wanted);
        }
        for error in PROPOSE_ERRORS {
            let wanted = Proposed::Failed(error);
            assert_eq!(through(&wanted), wanted);
        }
        assert_eq!(through(&Proposed::NotAccepted), Proposed::NotAccepted);
        assert_eq!(through(&Proposed::Unknown), Proposed::Unknown);
    }

    #[test]
    fn every_member_error_keeps_its_meaning() {
        let wrapped = MemberError::Propose(ProposeError::Timeout);
        for error in MEMBER_ERRORS.into_iter().chain([wrapped]) {
            let mut out = BytesMut::new();
            put_member_error(&mut out, &error);
            assert_eq!(member_error(&mut Reader::new(out.freeze())), Ok(error));
        }
    }
}
