//! What members ask of each other, and what they answer, as bytes.
//!
//! One enum each way. Every request but a snapshot and the entry stream goes through `link`, where an answer finds its
//! request by the frame's id. A tag is never reused.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::answer::{member_error, proposed, put_member_error, put_proposed};
use super::wire::{Frame, put_text};
use crate::raft::codec::{
    CodecError, Reader, decode_entry, encode_entry, log_id, member, put_bytes, put_log_id, put_member, put_option,
    put_vote, vote,
};
use crate::raft::error::MemberError;
use crate::raft::members::{MemberChange, MemberInfo, Membered};
use crate::raft::propose::Proposed;
use crate::raft::types::{NodeId, TypeConfig};
use crate::store::HashKv;

/// Kinds of frames outside [`Request`] and [`Answer`].
pub mod kind {
    /// A batch of entries on the append channel.
    pub const ENTRIES: u8 = 30;
    /// Its answer.
    pub const ACKNOWLEDGED: u8 = 31;
    // 40 began a snapshot that was always sent from its first byte.
    /// A piece of one of its files.
    pub const CHUNK: u8 = 41;
    /// The last frame of it.
    pub const SNAPSHOT_END: u8 = 42;
    /// How the receiver took it.
    pub const INSTALLED: u8 = 43;
    /// First frame of a snapshot: vote, metadata, list of files.
    pub const OFFER: u8 = 44;
    /// Its answer: bytes of each file that are there.
    pub const HELD: u8 = 45;
    /// The receiver is busy with its disk, and this far.
    pub const GETTING_ON: u8 = 46;
}

/// A question to another member.
#[derive(Debug)]
pub enum Request {
    /// Are you there?
    Ping,
    /// An entry-less append: keeps the leader's lease, carries the commit index.
    Heartbeat(AppendEntriesRequest<TypeConfig>),
    /// Would you vote for me, if I stood?
    PreVote(VoteRequest<TypeConfig>),
    /// Vote for me.
    Vote(VoteRequest<TypeConfig>),
    /// Stand for election now.
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// As the leader: up to which index must I have applied to read what is committed now?
    ReadIndex,
    /// As the leader: propose these commands.
    Propose(Vec<Bytes>),
    /// As the leader: renew this lease.
    Renew(i64),
    /// As the leader: how long has this lease left?
    Remaining(i64),
    /// As the leader: change the member list.
    Members(MemberChange),
    /// What is your HashKV at this revision?
    HashKv(i64),
}

/// An answer to a [`Request`].
#[derive(Debug)]
pub enum Answer {
    /// Here.
    Pong,
    /// To a heartbeat.
    Heartbeat(StreamAppendResult<TypeConfig>),
    /// To a vote or a pre-vote.
    Vote(VoteResponse<TypeConfig>),
    /// To a transfer.
    Transfer(TransferLeaderResponse<TypeConfig>),
    /// The index; `None` = not leading, or leadership could not be confirmed.
    ReadIndex(Option<u64>),
    /// One outcome per command, in their order.
    Proposed(Vec<Proposed>),
    /// Granted TTL in seconds, 0 = unknown lease; `None` = not leading.
    Renewed(Option<i64>),
    /// Granted and remaining seconds; inner `None` = unknown lease, outer = not leading.
    Remaining(Option<Option<(i64, i64)>>),
    /// The member list after the change.
    Members(Result<Membered, MemberError>),
    /// The hash, or why there is none.
    HashKv(Result<HashKv, String>),
    /// The asked member cannot answer, for a reason people may read.
    Failed(String),
}

const PING: u8 = 1;
const HEARTBEAT: u8 = 2;
const PRE_VOTE: u8 = 3;
const VOTE: u8 = 4;
const TRANSFER: u8 = 5;
const READ_INDEX: u8 = 6;
const PROPOSE: u8 = 7;
const RENEW: u8 = 8;
const REMAINING: u8 = 9;
const MEMBERS: u8 = 10;
const FAILED: u8 = 11;
const HASH_KV: u8 = 12;

impl Request {
    /// The frame kind of this request.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Ping => PING,
            Self::Heartbeat(_) => HEARTBEAT,
            Self::PreVote(_) => PRE_VOTE,
            Self::Vote(_) => VOTE,
            Self::Transfer(_) => TRANSFER,
            Self::ReadIndex => READ_INDEX,
            Self::Propose(_) => PROPOSE,
            Self::Renew(_) => RENEW,
            Self::Remaining(_) => REMAINING,
            Self::Members(_) => MEMBERS,
            Self::HashKv(_) => HASH_KV,
        }
    }

    /// Appends the contents of this request's frame.
    pub fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Ping | Self::ReadIndex => {}
            Self::Heartbeat(request) => put_append(out, request),
            Self::PreVote(request) | Self::Vote(request) => {
                put_vote(out, &request.vote);
                put_option(out, request.last_log_id.as_ref(), put_log_id);
                out.put_u8(u8::from(request.leadership_transfer));
            }
            Self::Transfer(request) => {
                put_vote(out, request.from_leader());
                out.put_u64_le(*request.to_node_id());
                put_option(out, request.last_log_id(), put_log_id);
            }
            Self::Propose(commands) => {
                out.put_u32_le(commands.len() as u32);
                for command in commands {
                    put_bytes(out, command);
                }
            }
            Self::Renew(number) | Self::Remaining(number) | Self::HashKv(number) => out.put_i64_le(*number),
            Self::Members(change) => put_change(out, change),
        }
    }

    /// Reads a request.
    pub fn decode(frame: Frame) -> Result<Self, CodecError> {
        let mut r = Reader::new(frame.body);
        Ok(match frame.kind {
            PING => Self::Ping,
            HEARTBEAT => Self::Heartbeat(append(&mut r)?),
            PRE_VOTE => Self::PreVote(vote_request(&mut r)?),
            VOTE => Self::Vote(vote_request(&mut r)?),
            TRANSFER => {
                let from = vote(&mut r)?;
                let to = r.u64("target of a transfer")?;
                Self::Transfer(TransferLeaderRequest::new(from, to, r.option("log id of a transfer", log_id)?))
            }
            READ_INDEX => Self::ReadIndex,
            PROPOSE => {
                let count = r.count("proposals", 4)?;
                Self::Propose((0..count).map(|_| r.bytes("a proposal")).collect::<Result<_, _>>()?)
            }
            RENEW => Self::Renew(r.i64("lease")?),
            REMAINING => Self::Remaining(r.i64("lease")?),
            MEMBERS => Self::Members(change(&mut r)?),
            HASH_KV => Self::HashKv(r.i64("revision of a hash")?),
            tag => return Err(CodecError::Unknown { what: "a request of a peer", tag }),
        })
    }
}

impl Answer {
    /// The frame kind of this answer.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Pong => PING,
            Self::Heartbeat(_) => HEARTBEAT,
            Self::Vote(_) => VOTE,
            Self::Transfer(_) => TRANSFER,
            Self::ReadIndex(_) => READ_INDEX,
            Self::Proposed(_) => PROPOSE,
            Self::Renewed(_) => RENEW,
            Self::Remaining(_) => REMAINING,
            Self::Members(_) => MEMBERS,
            Self::HashKv(_) => HASH_KV,
            Self::Failed(_) => FAILED,
        }
    }

    /// Appends the contents of this answer's frame.
    pub fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Pong => {}
            Self::Heartbeat(result) => put_append_result(out, result),
            Self::Vote(response) => {
                put_vote(out, &response.vote);
                out.put_u8(u8::from(response.vote_granted));
                put_option(out, response.last_log_id.as_ref(), put_log_id);
            }
            Self::Transfer(response) => put_transfer(out, response),
            Self::ReadIndex(index) => put_option(out, index.as_ref(), |out, index| out.put_u64_le(*index)),
            Self::Proposed(outcomes) => {
                out.put_u32_le(outcomes.len() as u32);
                for outcome in outcomes {
                    put_proposed(out, outcome);
                }
            }
            Self::Renewed(ttl) => put_option(out, ttl.as_ref(), |out, ttl| out.put_i64_le(*ttl)),
            Self::Remaining(lease) => put_option(out, lease.as_ref(), |out, lease| {
                put_option(out, lease.as_ref(), |out, (granted, remaining)| {
                    out.put_i64_le(*granted);
                    out.put_i64_le(*remaining);
                });
            }),
            Self::Members(Ok(changed)) => {
                out.put_u8(0);
                put_membered(out, changed);
            }
            Self::Members(Err(error)) => {
                out.put_u8(1);
                put_member_error(out, error);
            }
            Self::HashKv(Ok(hash)) => {
                out.put_u8(0);
                put_hash(out, hash);
            }
            Self::HashKv(Err(reason)) => {
                out.put_u8(1);
                put_text(out, reason);
            }
            Self::Failed(reason) => put_text(out, reason),
        }
    }

    /// Reads an answer.
    pub fn decode(frame: Frame) -> Result<Self, CodecError> {
        let mut r = Reader::new(frame.body);
        Ok(match frame.kind {
            PING => Self::Pong,
            HEARTBEAT => Self::Heartbeat(append_result(&mut r)?),
            VOTE => {
                let vote = vote(&mut r)?;
                let granted = r.u8("a vote")? == 1;
                Self::Vote(VoteResponse::new(vote, r.option("log id of a voter", log_id)?, granted))
            }
            TRANSFER => Self::Transfer(transfer(&mut r)?),
            READ_INDEX => Self::ReadIndex(r.option("read index", |r| r.u64("read index"))?),
            PROPOSE => {
                let count = r.count("outcomes", 1)?;
                Self::Proposed((0..count).map(|_| proposed(&mut r)).collect::<Result<_, _>>()?)
            }
            RENEW => Self::Renewed(r.option("ttl", |r| r.i64("ttl"))?),
            REMAINING => Self::Remaining(
                r.option("lease", |r| r.option("lease", |r| Ok((r.i64("granted ttl")?, r.i64("remaining ttl")?))))?,
            ),
            MEMBERS => Self::Members(match r.u8("outcome of a member change")? {
                0 => Ok(membered(&mut r)?),
                _ => Err(member_error(&mut r)?),
            }),
            HASH_KV => Self::HashKv(match r.u8("outcome of a hash")? {
                0 => Ok(hash(&mut r)?),
                _ => Err(r.string("a reason")?),
            }),
            FAILED => Self::Failed(r.string("a reason")?),
            tag => return Err(CodecError::Unknown { what: "an answer of a peer", tag }),
        })
    }
}

/// Appends a batch of entries: vote, entry before the first, commit index, entries.
pub fn put_append(out: &mut BytesMut, request: &AppendEntriesRequest<TypeConfig>) {
    put_vote(out, &request.vote);
    put_option(out, request.prev_log_id.as_ref(), put_log_id);
    put_option(out, request.leader_commit.as_ref(), put_log_id);
    out.put_u32_le(request.entries.len() as u32);
    for entry in &request.entries {
        encode_entry(out, entry);
    }
}

/// Reads what [`put_append`] wrote.
pub fn append(r: &mut Reader) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let vote = vote(r)?;
    let prev_log_id = r.option("previous log id", log_id)?;
    let leader_commit = r.option("commit index", log_id)?;
    let count = r.count("entries", crate::raft::codec::entry_size(0))?;
    let entries = (0..count).map(|_| decode_entry(r)).collect::<Result<_, _>>()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, leader_commit, entries })
}

/// Appends how a batch of entries was taken.
pub fn put_append_result(out: &mut BytesMut, result: &StreamAppendResult<TypeConfig>) {
    match result {
        Ok(matched) => {
            out.put_u8(0);
            put_option(out, matched.as_ref(), put_log_id);
        }
        Err(StreamAppendError::Conflict(at)) => {
            out.put_u8(1);
            put_log_id(out, at);
        }
        Err(StreamAppendError::HigherVote(higher)) => {
            out.put_u8(2);
            put_vote(out, higher);
        }
    }
}

/// Reads what [`put_append_result`] wrote.
pub fn append_result(r: &mut Reader) -> Result<StreamAppendResult<TypeConfig>, CodecError> {
    Ok(match r.u8("outcome of an append")? {
        0 => Ok(r.option("matched log id", log_id)?),
        1 => Err(StreamAppendError::Conflict(log_id(r)?)),
        2 => Err(StreamAppendError::HigherVote(vote(r)?)),
        tag => return Err(CodecError::Unknown { what: "outcome of an append", tag }),
    })
}

fn vote_request(r: &mut Reader) -> Result<VoteRequest<TypeConfig>, CodecError> {
    let vote = vote(r)?;
    let last_log_id = r.option("log id of a candidate", log_id)?;
    let leadership_transfer = r.u8("leadership transfer")? == 1;
    Ok(VoteRequest { vote, last_log_id, leadership_transfer })
}

fn put_transfer(out: &mut BytesMut, response: &TransferLeaderResponse<TypeConfig>) {
    match response {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            put_vote(out, expected);
            put_vote(out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            put_option(out, expected.as_ref(), put_log_id);
            put_option(out, actual.as_ref(), put_log_id);
        }
    }
}

fn transfer(r: &mut Reader) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    const WHAT: &str = "outcome of a transfer";
    Ok(match r.u8(WHAT)? {
        0 => Ok(()),
        1 => Err(TransferLeaderError::VoteChanged { expected: vote(r)?, actual: vote(r)? }),
        2 => Err(TransferLeaderError::LogNotFlushed {
            expected: r.option(WHAT, log_id)?,
            actual: r.option(WHAT, log_id)?,
        }),
        tag => return Err(CodecError::Unknown { what: WHAT, tag }),
    })
}

fn put_hash(out: &mut BytesMut, hash: &HashKv) {
    out.put_u32_le(hash.hash);
    for revision in [hash.compact_revision, hash.hash_revision, hash.current] {
        out.put_i64_le(revision);
    }
}

fn hash(r: &mut Reader) -> Result<HashKv, CodecError> {
    const WHAT: &str = "a hash";
    let hash = r.u32(WHAT)?;
    let (compact_revision, hash_revision, current) = (r.i64(WHAT)?, r.i64(WHAT)?, r.i64(WHAT)?);
    Ok(HashKv { hash, compact_revision, hash_revision, current })
}

fn put_urls(out: &mut BytesMut, urls: &[String]) {
    out.put_u32_le(urls.len() as u32);
    for url in urls {
        put_bytes(out, url.as_bytes());
    }
}

fn urls(r: &mut Reader) -> Result<Vec<String>, CodecError> {
    let count = r.count("URLs", 4)?;
    (0..count).map(|_| r.string("a URL")).collect()
}

fn put_change(out: &mut BytesMut, change: &MemberChange) {
    match change {
        MemberChange::Add { peer_urls, learner } => {
            out.put_u8(1);
            put_urls(out, peer_urls);
            out.put_u8(u8::from(*learner));
        }
        MemberChange::Remove(id) => {
            out.put_u8(2);
            out.put_u64_le(*id);
        }
        MemberChange::Update { id, peer_urls } => {
            out.put_u8(3);
            out.put_u64_le(*id);
            put_urls(out, peer_urls);
        }
        MemberChange::Promote(id) => {
            out.put_u8(4);
            out.put_u64_le(*id);
        }
        MemberChange::Publish { id, name, client_urls } => {
            out.put_u8(5);
            out.put_u64_le(*id);
            put_bytes(out, name.as_bytes());
            put_urls(out, client_urls);
        }
    }
}

fn change(r: &mut Reader) -> Result<MemberChange, CodecError> {
    const WHAT: &str = "a member change";
    Ok(match r.u8(WHAT)? {
        1 => MemberChange::Add { peer_urls: urls(r)?, learner: r.u8(WHAT)? == 1 },
        2 => MemberChange::Remove(r.u64(WHAT)?),
        3 => MemberChange::Update { id: r.u64(WHAT)?, peer_urls: urls(r)? },
        4 => MemberChange::Promote(r.u64(WHAT)?),
        5 => MemberChange::Publish { id: r.u64(WHAT)?, name: r.string(WHAT)?, client_urls: urls(r)? },
        tag => return Err(CodecError::Unknown { what: WHAT, tag }),
    })
}

fn put_membered(out: &mut BytesMut, changed: &Membered) {
    out.put_u64_le(changed.index);
    out.put_u64_le(changed.affected);
    out.put_u32_le(changed.members.len() as u32);
    for info in &changed.members {
        out.put_u64_le(info.id);
        out.put_u8(u8::from(info.is_learner));
        put_member(out, &info.member);
    }
}

fn membered(r: &mut Reader) -> Result<Membered, CodecError> {
    const WHAT: &str = "a member list";
    let index = r.u64(WHAT)?;
    let affected: NodeId = r.u64(WHAT)?;
    let count = r.count(WHAT, 9)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let id = r.u64(WHAT)?;
        let is_learner = r.u8(WHAT)? == 1;
        members.push(MemberInfo { id, is_learner, member: member(r)? });
    }
    Ok(Membered { index, affected, members })
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::raft::codec::new_log_id;
    use crate::raft::types::{Entry, Member, Proposal, Vote};

    fn through(request: &Request) -> Request {
        let mut body = BytesMut::new();
        request.put(&mut body);
        Request::decode(Frame { kind: request.kind(), id: 0, body: body.freeze() }).expect("our own bytes")
    }

    fn back(answer: &Answer) -> Answer {
        let mut body = BytesMut::new();
        answer.put(&mut body);
        Answer::decode(Frame { kind: answer.kind(), id: 0, body: body.freeze() }).expect("our own bytes")
    }

    #[test]
    fn every_request_survives_the_round_trip() {
        let vote = Vote::new(3, 1);
        let entry =
            Entry { log_id: new_log_id(3, 9), payload: EntryPayload::Normal(Proposal(Bytes::from_static(b"x"))) };
        let change = MemberChange::Publish { id: 4, name: "n".into(), client_urls: vec!["http://a:1".into()] };
        let requests = [
            Request::Ping,
            Request::Heartbeat(AppendEntriesRequest {
                vote: Vote::new_committed(3, 1),
                prev_log_id: Some(new_log_id(2, 8)),
                leader_commit: None,
                entries: vec![entry],
            }),
            Request::PreVote(VoteRequest::new(vote, None)),
            Request::Vote(VoteRequest { vote, last_log_id: Some(new_log_id(1, 1)), leadership_transfer: true }),
            Request::Transfer(TransferLeaderRequest::new(vote, 5, Some(new_log_id(1, 2)))),
            Request::ReadIndex,
            Request::Propose(vec![Bytes::from_static(b"a"), Bytes::new()]),
            Request::Renew(-4),
            Request::Remaining(7),
            Request::Members(MemberChange::Add { peer_urls: vec!["http://a:2".into()], learner: true }),
            Request::Members(MemberChange::Remove(7)),
            Request::Members(MemberChange::Update { id: 7, peer_urls: vec![] }),
            Request::Members(MemberChange::Promote(7)),
            Request::Members(change),
            Request::HashKv(70),
        ];
        for request in requests {
            assert_eq!(format!("{:?}", through(&request)), format!("{request:?}"));
        }
    }

    #[test]
    fn every_answer_survives_the_round_trip() {
        let vote = Vote::new(3, 1);
        let member = Member { name: "a".into(), peer_urls: vec!["http://a:2".into()], client_urls: vec![] };
        let info = MemberInfo { id: 9, member, is_learner: true };
        let answers = [
            Answer::Pong,
            Answer::Heartbeat(Ok(Some(new_log_id(1, 2)))),
            Answer::Heartbeat(Err(StreamAppendError::Conflict(new_log_id(1, 2)))),
            Answer::Heartbeat(Err(StreamAppendError::HigherVote(vote))),
            Answer::Vote(VoteResponse::new(vote, Some(new_log_id(1, 1)), true)),
            Answer::Transfer(Ok(())),
            Answer::Transfer(Err(TransferLeaderError::LogNotFlushed {
                expected: Some(new_log_id(1, 1)),
                actual: None,
            })),
            Answer::Transfer(Err(TransferLeaderError::VoteChanged { expected: vote, actual: Vote::new(4, 2) })),
            Answer::ReadIndex(Some(12)),
            Answer::ReadIndex(None),
            Answer::Renewed(Some(0)),
            Answer::Remaining(Some(Some((10, 3)))),
            Answer::Remaining(Some(None)),
            Answer::Remaining(None),
            Answer::Members(Ok(Membered { index: 4, affected: 9, members: vec![info] })),
            Answer::Members(Err(MemberError::Unhealthy)),
            Answer::HashKv(Ok(HashKv { hash: 7, compact_revision: -1, hash_revision: 8, current: 9 })),
            Answer::HashKv(Err("compacted".into())),
            Answer::Failed("why".into()),
        ];
        for answer in answers {
            assert_eq!(format!("{:?}", back(&answer)), format!("{answer:?}"));
        }
    }
}
