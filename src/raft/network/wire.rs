//! Frames of the peer transport, and the handshake before the first of them.
//!
//! A connection starts with a [`Hello`] from the dialling member and a [`Welcome`] from the other; each names the
//! protocol version, the cluster and both members, and each side checks what the other said before any Raft byte is
//! used. After that both directions carry frames: length (`u32`), CRC-32C of the body (`u32`), body = kind (`u8`),
//! id (`u64`), contents. An answer carries the id of its request.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::raft::codec::{CodecError, ENTRY_FORMAT, Reader, put_bytes};
use crate::raft::types::NodeId;

/// The largest frame either side accepts, bytes. A batch of entries is cut far below it; one entry must fit.
pub const MAX_FRAME: usize = 64 << 20;
/// The newest handshake this program speaks.
pub const PROTOCOL: u16 = 1;

const MAGIC: &[u8; 8] = b"raftpeer";
const HEADER: usize = 8;
const PREFIX: usize = 9;

/// Why a connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other side closed it, or the network did.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The other side closed it between two frames.
    #[error("connection closed by the peer")]
    Closed,
    /// Not our protocol.
    #[error("the other side does not speak the peer protocol; check that the address is a peer URL of this cluster")]
    Magic,
    /// A frame longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    /// A frame whose bytes changed on the way.
    #[error("a frame arrived damaged (checksum)")]
    Checksum,
    /// A frame that cannot be read.
    #[error("a frame does not decode: {0}")]
    Codec(#[from] CodecError),
    /// The caller is not who its certificate names.
    #[error("{0}")]
    Caller(String),
    /// The handshake was answered with a refusal.
    #[error("{0}")]
    Refused(Refusal),
    /// The follower needs entries that the log has no room for.
    #[error("the follower is further behind than the log may reach back; it is sent a snapshot")]
    TooFarBehind,
}

/// What a connection is for. Bulk never shares a connection with what must be prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Heartbeats, votes, read rounds, pings.
    Pulse = 1,
    /// Proposals and other requests carried to the leader.
    Forward = 2,
    /// The pipelined stream of entries.
    Append = 3,
    /// One snapshot.
    Snapshot = 4,
}

impl Channel {
    fn read(tag: u8) -> Result<Self, CodecError> {
        match tag {
            1 => Ok(Self::Pulse),
            2 => Ok(Self::Forward),
            3 => Ok(Self::Append),
            4 => Ok(Self::Snapshot),
            tag => Err(CodecError::Unknown { what: "channel of a peer connection", tag }),
        }
    }
}

/// What the dialling member says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Cluster the dialling member belongs to.
    pub cluster: u64,
    /// Who dials.
    pub from: NodeId,
    /// Who it wants to reach.
    pub to: NodeId,
    /// What for.
    pub channel: Channel,
}

/// Why a member does not talk to another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Other protocol or entry format.
    #[error("the peer speaks protocol {theirs}, this member {PROTOCOL}; run the same version on both")]
    Version {
        /// What the other side speaks.
        theirs: u16,
    },
    /// Members of two clusters met.
    #[error(
        "cluster ID mismatch: this member belongs to {ours:x}, the peer to {theirs:x}; \
         check --initial-cluster and --initial-cluster-token"
    )]
    Cluster {
        /// Of the member that reports.
        ours: u64,
        /// Of the other.
        theirs: u64,
    },
    /// The address leads to another member.
    #[error("the address belongs to member {actual:x}, not to {wanted:x}; check the peer URLs of the member list")]
    Target {
        /// Whom the dialling member wanted.
        wanted: NodeId,
        /// Who answered.
        actual: NodeId,
    },
    /// The dialling member was removed from the cluster.
    #[error("member {0:x} has been removed from the cluster")]
    Removed(NodeId),
}

/// What the other member answers.
pub type Welcome = Result<(), Refusal>;

/// Length of an encoded [`Hello`].
pub const HELLO_BYTES: usize = 8 + 2 + 2 + 8 + 8 + 8 + 1;

impl Hello {
    /// The bytes to send.
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(HELLO_BYTES);
        out.put_slice(MAGIC);
        out.put_u16_le(PROTOCOL);
        out.put_u16_le(ENTRY_FORMAT);
        out.put_u64_le(self.cluster);
        out.put_u64_le(self.from);
        out.put_u64_le(self.to);
        out.put_u8(self.channel as u8);
        out
    }

    /// Reads [`HELLO_BYTES`] bytes. The inner error is a version this member does not speak.
    pub fn decode(bytes: Bytes) -> Result<Result<Self, Refusal>, WireError> {
        if bytes.len() < HELLO_BYTES || &bytes[..8] != MAGIC {
            return Err(WireError::Magic);
        }
        let mut reader = Reader::new(bytes.slice(8..));
        let protocol = reader.u16("protocol")?;
        let format = reader.u16("entry format")?;
        if protocol != PROTOCOL || format != ENTRY_FORMAT {
            return Ok(Err(Refusal::Version { theirs: protocol }));
        }
        Ok(Ok(Self {
            cluster: reader.u64("cluster")?,
            from: reader.u64("sender")?,
            to: reader.u64("target")?,
            channel: Channel::read(reader.u8("channel")?)?,
        }))
    }
}

/// Length of an encoded [`Welcome`].
pub const WELCOME_BYTES: usize = 8 + 1 + 8 + 8;

/// The answer to a handshake: fixed length, whatever the outcome.
pub fn encode_welcome(welcome: &Welcome) -> BytesMut {
    let (tag, a, b) = match welcome {
        Ok(()) => (0, 0, 0),
        Err(Refusal::Version { .. }) => (1, u64::from(PROTOCOL), 0),
        Err(Refusal::Cluster { ours, theirs }) => (2, *ours, *theirs),
        Err(Refusal::Target { wanted, actual }) => (3, *wanted, *actual),
        Err(Refusal::Removed(id)) => (4, *id, 0),
    };
    let mut out = BytesMut::with_capacity(WELCOME_BYTES);
    out.put_slice(MAGIC);
    out.put_u8(tag);
    out.put_u64_le(a);
    out.put_u64_le(b);
    out
}

/// Reads [`WELCOME_BYTES`] bytes; the refusal is told from this side's point of view.
pub fn decode_welcome(bytes: Bytes) -> Result<Welcome, WireError> {
    if bytes.len() < WELCOME_BYTES || &bytes[..8] != MAGIC {
        return Err(WireError::Magic);
    }
    let mut reader = Reader::new(bytes.slice(8..));
    let tag = reader.u8("answer to a handshake")?;
    let (a, b) = (reader.u64("answer to a handshake")?, reader.u64("answer to a handshake")?);
    Ok(match tag {
        0 => Ok(()),
        1 => Err(Refusal::Version { theirs: a as u16 }),
        2 => Err(Refusal::Cluster { ours: b, theirs: a }),
        3 => Err(Refusal::Target { wanted: a, actual: b }),
        4 => Err(Refusal::Removed(a)),
        tag => return Err(CodecError::Unknown { what: "answer to a handshake", tag }.into()),
    })
}

/// One message of either direction.
#[derive(Debug)]
pub struct Frame {
    /// What the contents are; the numbers belong to `message`.
    pub kind: u8,
    /// Pairs an answer with its request.
    pub id: u64,
    /// The contents.
    pub body: Bytes,
}

/// Appends one frame whose contents `write` puts.
pub fn put_frame(out: &mut BytesMut, kind: u8, id: u64, write: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_u64_le(0);
    out.put_u8(kind);
    out.put_u64_le(id);
    write(out);
    let body = at + HEADER;
    let len = (out.len() - body) as u32;
    let crc = crc32c::crc32c(&out[body..]);
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    out[at + 4..body].copy_from_slice(&crc.to_le_bytes());
}

/// Takes the first whole frame off `buffer`, if there is one.
///
/// # Errors
/// The stream is damaged or not ours; the connection must be dropped.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    if buffer.len() < HEADER {
        return Ok(None);
    }
    let len = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
    let crc = u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
    if len > MAX_FRAME {
        return Err(WireError::TooLong(len));
    }
    if len < PREFIX {
        return Err(CodecError::Short { what: "a frame", needed: PREFIX, left: len }.into());
    }
    if buffer.len() < HEADER + len {
        buffer.reserve(HEADER + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER);
    let mut body = buffer.split_to(len).freeze();
    if crc32c::crc32c(&body) != crc {
        return Err(WireError::Checksum);
    }
    let kind = body.get_u8();
    let id = body.get_u64_le();
    Ok(Some(Frame { kind, id, body }))
}

/// Appends a short text for people, cut to fit its place.
pub fn put_text(out: &mut BytesMut, text: &str) {
    const MOST: usize = 512;
    let mut end = text.len().min(MOST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put_bytes(out, &text.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_and_in_order_however_the_bytes_arrive() {
        let mut sent = BytesMut::new();
        put_frame(&mut sent, 1, 10, |out| out.put_slice(b"first"));
        put_frame(&mut sent, 2, 11, |_| ());
        let mut buffer = BytesMut::new();
        let mut got = Vec::new();
        for byte in sent {
            buffer.put_u8(byte);
            while let Some(frame) = take_frame(&mut buffer).expect("our own frames") {
                got.push((frame.kind, frame.id, frame.body));
            }
        }
        assert_eq!(got, [(1, 10, Bytes::from_static(b"first")), (2, 11, Bytes::new())]);
    }

    #[test]
    fn a_changed_bit_is_noticed() {
        let mut sent = BytesMut::new();
        put_frame(&mut sent, 1, 10, |out| out.put_slice(b"first"));
        for at in HEADER..sent.len() {
            let mut damaged = sent.clone();
            damaged[at] ^= 1;
            assert!(matches!(take_frame(&mut damaged), Err(WireError::Checksum)), "byte {at}");
        }
    }

    #[test]
    fn a_frame_longer_than_the_limit_is_refused_before_it_is_read() {
        let mut buffer = BytesMut::new();
        buffer.put_u32_le(MAX_FRAME as u32 + 1);
        buffer.put_u32_le(0);
        assert!(matches!(take_frame(&mut buffer), Err(WireError::TooLong(_))));
    }

    #[test]
    fn a_handshake_says_who_dials_whom_in_which_cluster() {
        let hello = Hello { cluster: 7, from: 1, to: 2, channel: Channel::Append };
        let bytes = hello.encode().freeze();
        assert_eq!(bytes.len(), HELLO_BYTES);
        assert_eq!(Hello::decode(bytes).expect("our own bytes"), Ok(hello));
        assert!(matches!(Hello::decode(Bytes::from_static(&[b'G'; HELLO_BYTES])), Err(WireError::Magic)));
    }

    #[test]
    fn a_refusal_is_told_from_the_reading_side() {
        let theirs: Welcome = Err(Refusal::Cluster { ours: 5, theirs: 6 });
        let read = decode_welcome(encode_welcome(&theirs).freeze()).expect("our own bytes");
        assert_eq!(read, Err(Refusal::Cluster { ours: 6, theirs: 5 }));
        assert_eq!(decode_welcome(encode_welcome(&Ok(())).freeze()).expect("our own bytes"), Ok(()));
    }
}
