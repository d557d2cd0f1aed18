//! The binary form of what Raft stores and sends: log ids, votes, memberships and entries.
//!
//! Used by the log on disk and by the peer transport, so an entry is encoded the same way everywhere. Integers are
//! little-endian and fixed in width; byte strings and lists carry a `u32` count. Decoding never panics and never
//! allocates more than the input can justify. A change of any layout here raises [`ENTRY_FORMAT`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;

use super::types::{Entry, LogId, Member, Membership, NodeId, Proposal, Vote};

/// Version of the layouts below. The log's segment header and the transport's handshake both carry it.
pub const ENTRY_FORMAT: u16 = 1;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ended inside a value.
    #[error("{what} is cut short: {needed} more bytes expected, {left} there")]
    Short {
        /// What was being read.
        what: &'static str,
        /// Bytes the value needs.
        needed: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// A tag that this version does not know.
    #[error("{what} has unknown kind {tag}")]
    Unknown {
        /// What was being read.
        what: &'static str,
        /// The tag found.
        tag: u8,
    },
    /// Well-formed bytes that make no valid value.
    #[error("{what} is not valid: {cause}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// Why.
        cause: String,
    },
}

/// Reads values off the front of a buffer; byte strings are slices of it, not copies.
#[derive(Debug)]
pub struct Reader {
    left: Bytes,
}

impl Reader {
    /// Starts at the front of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { left: bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.left.len()
    }

    fn need(&self, what: &'static str, needed: usize) -> Result<(), CodecError> {
        let left = self.left.len();
        if left < needed { Err(CodecError::Short { what, needed, left }) } else { Ok(()) }
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        self.need(what, 1)?;
        Ok(self.left.get_u8())
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        self.need(what, 2)?;
        Ok(self.left.get_u16_le())
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        self.need(what, 4)?;
        Ok(self.left.get_u32_le())
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.need(what, 8)?;
        Ok(self.left.get_u64_le())
    }

    /// Eight bytes, signed.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, CodecError> {
        self.need(what, 8)?;
        Ok(self.left.get_i64_le())
    }

    /// A counted byte string.
    pub fn bytes(&mut self, what: &'static str) -> Result<Bytes, CodecError> {
        let len = self.u32(what)? as usize;
        self.need(what, len)?;
        Ok(self.left.split_to(len))
    }

    /// A counted UTF-8 string.
    pub fn string(&mut self, what: &'static str) -> Result<String, CodecError> {
        let bytes = self.bytes(what)?;
        String::from_utf8(bytes.into()).map_err(|error| CodecError::Invalid { what, cause: error.to_string() })
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.left)
    }

    /// A list count, refused when the input cannot hold that many items of at least `item` bytes each.
    pub fn count(&mut self, what: &'static str, item: usize) -> Result<usize, CodecError> {
        let count = self.u32(what)? as usize;
        self.need(what, count.saturating_mul(item))?;
        Ok(count)
    }

    /// A value that may be absent.
    pub fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        match self.u8(what)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            tag => Err(CodecError::Unknown { what, tag }),
        }
    }
}

/// Appends a counted byte string. Values longer than `u32::MAX` cannot occur: every producer has a smaller limit.
pub fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

/// Appends a value that may be absent.
pub fn put_option<T>(out: &mut BytesMut, value: Option<&T>, put: impl FnOnce(&mut BytesMut, &T)) {
    match value {
        None => out.put_u8(0),
        Some(value) => {
            out.put_u8(1);
            put(out, value);
        }
    }
}

/// Appends a log id: term, index.
pub fn put_log_id(out: &mut BytesMut, id: &LogId) {
    out.put_u64_le(id.leader_id.term);
    out.put_u64_le(id.index);
}

/// Reads what [`put_log_id`] wrote.
pub fn log_id(reader: &mut Reader) -> Result<LogId, CodecError> {
    const INDEX: &str = "index of a log id";
    let term = reader.u64("term of a log id")?;
    let index = reader.u64(INDEX)?;
    if index == u64::MAX {
        // Whoever takes a log id asks for the index behind it.
        return Err(CodecError::Invalid { what: INDEX, cause: "no entry could follow it".to_owned() });
    }
    Ok(new_log_id(term, index))
}

/// The log id of `index` written by the leader of `term`.
pub fn new_log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: openraft::vote::leader_id_std::CommittedLeaderId::new(term), index }
}

/// Appends a vote: term, candidate, whether a quorum granted it.
pub fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

/// Reads what [`put_vote`] wrote.
pub fn vote(reader: &mut Reader) -> Result<Vote, CodecError> {
    let term = reader.u64("term of a vote")?;
    let node = reader.u64("candidate of a vote")?;
    match reader.u8("state of a vote")? {
        0 => Ok(Vote::new(term, node)),
        1 => Ok(Vote::new_committed(term, node)),
        tag => Err(CodecError::Unknown { what: "state of a vote", tag }),
    }
}

fn put_strings(out: &mut BytesMut, strings: &[String]) {
    out.put_u32_le(strings.len() as u32);
    for string in strings {
        put_bytes(out, string.as_bytes());
    }
}

fn strings(reader: &mut Reader, what: &'static str) -> Result<Vec<String>, CodecError> {
    let count = reader.count(what, 4)?;
    (0..count).map(|_| reader.string(what)).collect()
}

/// Appends a member: name, peer URLs, client URLs.
pub fn put_member(out: &mut BytesMut, member: &Member) {
    put_bytes(out, member.name.as_bytes());
    put_strings(out, &member.peer_urls);
    put_strings(out, &member.client_urls);
}

/// Reads what [`put_member`] wrote.
pub fn member(reader: &mut Reader) -> Result<Member, CodecError> {
    Ok(Member {
        name: reader.string("name of a member")?,
        peer_urls: strings(reader, "peer URLs of a member")?,
        client_urls: strings(reader, "client URLs of a member")?,
    })
}

/// Appends a membership: voter sets (two while a change is under way), then every member with its attributes.
pub fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.put_u32_le(configs.len() as u32);
    for config in configs {
        out.put_u32_le(config.len() as u32);
        for id in config {
            out.put_u64_le(*id);
        }
    }
    out.put_u32_le(membership.nodes().count() as u32);
    for (id, node) in membership.nodes() {
        out.put_u64_le(*id);
        put_member(out, node);
    }
}

/// Reads what [`put_membership`] wrote.
pub fn membership(reader: &mut Reader) -> Result<Membership, CodecError> {
    const WHAT: &str = "membership";
    let configs = reader.count(WHAT, 4)?;
    let mut voters: Vec<BTreeSet<NodeId>> = Vec::with_capacity(configs);
    for _ in 0..configs {
        let ids = reader.count(WHAT, 8)?;
        voters.push((0..ids).map(|_| reader.u64(WHAT)).collect::<Result<_, _>>()?);
    }
    let count = reader.count(WHAT, 8)?;
    let mut nodes: BTreeMap<NodeId, Member> = BTreeMap::new();
    for _ in 0..count {
        let id = reader.u64(WHAT)?;
        nodes.insert(id, member(reader)?);
    }
    Membership::new(voters, nodes).map_err(|error| CodecError::Invalid { what: WHAT, cause: error.to_string() })
}

/// Appends an entry: log id, kind, counted payload.
pub fn encode_entry(out: &mut BytesMut, entry: &Entry) {
    put_log_id(out, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => {
            out.put_u8(BLANK);
            out.put_u32_le(0);
        }
        EntryPayload::Normal(Proposal(bytes)) => {
            out.put_u8(NORMAL);
            put_bytes(out, bytes);
        }
        EntryPayload::Membership(membership) => {
            out.put_u8(MEMBERSHIP);
            let at = out.len();
            out.put_u32_le(0);
            put_membership(out, membership);
            let len = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&len.to_le_bytes());
        }
    }
}

/// Bytes that [`encode_entry`] needs for an entry with a command of `payload` bytes.
pub const fn entry_size(payload: usize) -> usize {
    8 + 8 + 1 + 4 + payload
}

/// Reads what [`encode_entry`] wrote. The command is a slice of the input.
///
/// # Errors
/// The bytes are cut short, of an unknown kind, or hold an impossible membership.
pub fn decode_entry(reader: &mut Reader) -> Result<Entry, CodecError> {
    let log_id = log_id(reader)?;
    let kind = reader.u8("kind of an entry")?;
    let payload = reader.bytes("payload of an entry")?;
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Proposal(payload)),
        MEMBERSHIP => EntryPayload::Membership(membership(&mut Reader::new(payload))?),
        tag => return Err(CodecError::Unknown { what: "payload of an entry", tag }),
    };
    Ok(Entry { log_id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_membership() -> Membership {
        let member = |n: u64| Member {
            name: format!("m{n}"),
            peer_urls: vec![format!("https://10.0.0.{n}:2380")],
            client_urls: vec![],
        };
        Membership::new(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3])],
            BTreeMap::from([(1, member(1)), (2, member(2)), (3, member(3)), (9, member(9))]),
        )
        .expect("voters are members")
    }

    fn samples() -> Vec<Entry> {
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposal(Bytes::from_static(b"command"))),
            EntryPayload::Normal(Proposal(Bytes::new())),
            EntryPayload::Membership(sample_membership()),
        ];
        payloads.into_iter().zip(7..).map(|(payload, i)| Entry { log_id: new_log_id(3, i), payload }).collect()
    }

    #[test]
    fn every_kind_of_entry_survives_the_round_trip() {
        let mut out = BytesMut::new();
        for entry in samples() {
            encode_entry(&mut out, &entry);
        }
        let mut reader = Reader::new(out.freeze());
        for entry in samples() {
            assert_eq!(decode_entry(&mut reader).expect("our own bytes"), entry);
        }
        assert_eq!(reader.remaining(), 0);
    }

    #[test]
    fn an_entry_cut_anywhere_is_refused_and_never_read_as_a_shorter_one() {
        for entry in samples() {
            let mut out = BytesMut::new();
            encode_entry(&mut out, &entry);
            let whole = out.freeze();
            for cut in 0..whole.len() {
                assert!(decode_entry(&mut Reader::new(whole.slice(..cut))).is_err(), "cut at {cut} of {entry:?}");
            }
        }
    }

    #[test]
    fn an_absurd_count_is_refused_before_anything_is_allocated() {
        let mut out = BytesMut::new();
        out.put_u32_le(u32::MAX);
        assert!(matches!(membership(&mut Reader::new(out.freeze())), Err(CodecError::Short { .. })));
    }

    #[test]
    fn an_index_behind_which_no_entry_can_come_is_refused() {
        let read = |index| {
            let mut out = BytesMut::new();
            put_log_id(&mut out, &new_log_id(1, index));
            log_id(&mut Reader::new(out.freeze()))
        };
        assert!(matches!(read(u64::MAX), Err(CodecError::Invalid { .. })));
        assert_eq!(read(u64::MAX - 1), Ok(new_log_id(1, u64::MAX - 1)));
    }

    #[test]
    fn entry_size_is_what_encoding_writes() {
        let entry =
            Entry { log_id: new_log_id(1, 1), payload: EntryPayload::Normal(Proposal(Bytes::from(vec![7; 50]))) };
        let mut out = BytesMut::new();
        encode_entry(&mut out, &entry);
        assert_eq!(out.len(), entry_size(50));
    }

    #[test]
    fn votes_keep_their_candidate_and_whether_they_are_granted() {
        for wanted in [Vote::new(4, 2), Vote::new_committed(u64::MAX, u64::MAX)] {
            let mut out = BytesMut::new();
            put_vote(&mut out, &wanted);
            assert_eq!(vote(&mut Reader::new(out.freeze())), Ok(wanted));
        }
    }
}
