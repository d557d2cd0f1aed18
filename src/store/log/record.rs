//! The bytes of one log record.
//!
//! `len u32 | crc u32 | body`, little endian. The first byte of a body is the record's kind. `crc` is CRC-32C over the
//! CRC of the record before it, the length and the body: records form a chain that starts at the segment's header, so a
//! record is valid only where it was written. Bytes left over from a file's earlier life, or from a tail that was cut at
//! an earlier start, never parse. A zero length is the end of what was written.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::state::Point;
use crate::raft::codec::{self, CodecError, Reader};
use crate::raft::types::{Entry, LogId, Vote};

/// Bytes before a record's body.
pub(super) const HEADER: usize = 8;
/// More than a vote, a purge, a hint and a mark take together: what a segment begins with behind its layout.
pub(super) const SUMMARY: usize = 256;
/// No record is longer; a length above it is damage.
pub(super) const MAX_BODY: usize = 1 << 30;
/// Upper bound of what an entry's record needs beyond its payload.
pub(super) const ENTRY_OVERHEAD: usize = HEADER + 1 + codec::entry_size(0);

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const PURGED: u8 = 4;
const TRUNCATED: u8 = 5;
const MARK: u8 = 6;
const LAYOUT: u8 = 7;

/// Tells a mark from chance when the bytes around it are damaged.
const MARK_MAGIC: &[u8; 8] = b"log-mark";
const MARK_BODY: usize = 1 + MARK_MAGIC.len() + 8 + 8 + 4;

/// What the log is made of, in the order it was issued.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    /// A log entry.
    Entry(Entry),
    /// Term and vote. The last one counts.
    Vote(Vote),
    /// A hint, written without a sync of its own: entries up to here were committed.
    Committed(LogId),
    /// Everything up to and including this was dropped from the head.
    Purged(LogId),
    /// Everything after this was dropped from the tail; `None` empties the log.
    Truncated(Option<LogId>),
    /// How far this segment was synced before this write began.
    Mark {
        /// Drawn when the log was opened; makes the chain of this opening unlike that of any earlier one.
        opening: u64,
        /// Every byte of the segment before this offset is on disk.
        durable: u64,
    },
    /// Where all entries lay when a segment was begun; its first record. A start reads the log from the newest one on.
    Layout(Layout),
}

/// Where the entries of the log lie, in segments before the one that says so.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Layout {
    /// The last entry, or the last purged one when there is none.
    pub last: Option<LogId>,
    /// Runs in the order of their entries, without a hole.
    pub runs: Vec<RunPlace>,
}

/// Entries that follow each other in one segment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RunPlace {
    /// The segment's number.
    pub seq: u64,
    /// Indices of the entries.
    pub entries: Range<u64>,
    /// An entry at or before the first of them, where reading starts.
    pub start: Point,
}

/// Bytes of a run in a layout.
const RUN_SIZE: usize = 8 + 8 + 8 + 8 + 8 + 4;

/// No less than the record of a layout with so many runs takes.
pub(super) const fn layout_size(runs: usize) -> usize {
    HEADER + 1 + 1 + 16 + 4 + runs * RUN_SIZE
}

/// Which life of which file a segment is. A client whose values end up in the log knows of neither number, so no value
/// can pass for a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    /// The segment's number.
    pub seq: u64,
    /// The random number of its header.
    pub nonce: u64,
}

/// A record found at some offset, its checksum right.
#[derive(Debug)]
pub(super) struct Found {
    body: Bytes,
    /// CRC of this record, which seeds the next.
    pub chain: u32,
    /// Bytes of the whole record.
    pub size: usize,
}

impl Found {
    /// Reads the body. Commands are slices of the bytes that were parsed.
    ///
    /// # Errors
    /// It is not a record this program knows, although its checksum is right: a newer program wrote it.
    pub fn record(self) -> Result<Record, CodecError> {
        decode(self.body)
    }
}

/// Appends `record` of the segment `life` to `buffer` and returns the chain after it.
pub(super) fn push(buffer: &mut BytesMut, chain: u32, life: Life, record: &Record) -> u32 {
    if let Record::Entry(entry) = record {
        return push_entry(buffer, chain, entry);
    }
    let start = buffer.len();
    buffer.put_bytes(0, HEADER);
    match record {
        Record::Entry(_) => {}
        Record::Vote(vote) => {
            buffer.put_u8(VOTE);
            codec::put_vote(buffer, vote);
        }
        Record::Committed(id) => {
            buffer.put_u8(COMMITTED);
            codec::put_log_id(buffer, id);
        }
        Record::Purged(id) => {
            buffer.put_u8(PURGED);
            codec::put_log_id(buffer, id);
        }
        Record::Truncated(id) => {
            buffer.put_u8(TRUNCATED);
            codec::put_option(buffer, id.as_ref(), codec::put_log_id);
        }
        Record::Mark { opening, durable } => {
            let body = buffer.len();
            buffer.put_u8(MARK);
            buffer.put_slice(MARK_MAGIC);
            buffer.put_u64_le(*opening);
            buffer.put_u64_le(*durable);
            let own = mark_checksum(life, &buffer[body..]);
            buffer.put_u32_le(own);
        }
        Record::Layout(layout) => {
            buffer.put_u8(LAYOUT);
            put_layout(buffer, layout);
        }
    }
    seal(buffer, start, chain)
}

/// As [`push`] for an entry, without owning it.
pub(super) fn push_entry(buffer: &mut BytesMut, chain: u32, entry: &Entry) -> u32 {
    let start = buffer.len();
    buffer.put_bytes(0, HEADER);
    buffer.put_u8(ENTRY);
    codec::encode_entry(buffer, entry);
    seal(buffer, start, chain)
}

/// Reads the record that starts at offset `at`, if a whole and sound one does.
pub(super) fn parse(bytes: &Bytes, at: usize, chain: u32) -> Option<Found> {
    let size = claimed_size(bytes.get(at..)?)?;
    let record = bytes.get(at..at + size)?;
    let (length, rest) = record.split_at(4);
    let (stored, body) = rest.split_at(HEADER - 4);
    let crc = checksum(chain, length, body);
    (stored == crc.to_le_bytes()).then(|| Found { body: bytes.slice(at + HEADER..at + size), chain: crc, size })
}

/// Whole size of the record that claims to start at `bytes`; `None` at the end of what was written.
pub(super) fn claimed_size(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (length != 0 && length <= MAX_BODY).then_some(HEADER + length)
}

/// Searches `bytes` of the segment `life` from offset `from` on for a mark which says that more than `from` bytes were synced.
/// A mark vouches for itself, so this works beyond damage. Returns the offset it claims.
pub(super) fn later_claim(bytes: &[u8], from: usize, life: Life) -> Option<u64> {
    let mut at = from;
    while let Some(next) = bytes.get(at..)?.windows(MARK_MAGIC.len()).position(|window| window == MARK_MAGIC) {
        let magic = at + next;
        at = magic + 1;
        let Some(body) = magic.checked_sub(1).and_then(|start| bytes.get(start..start + MARK_BODY)) else { continue };
        let (said, own) = body.split_at(MARK_BODY - 4);
        if said[0] == MARK
            && own == mark_checksum(life, said).to_le_bytes()
            && let Ok(Record::Mark { durable, .. }) = decode(Bytes::copy_from_slice(body))
            && durable > from as u64
        {
            return Some(durable);
        }
    }
    None
}

fn mark_checksum(life: Life, said: &[u8]) -> u32 {
    let seeded = crc32c::crc32c_append(crc32c::crc32c(&life.seq.to_le_bytes()), &life.nonce.to_le_bytes());
    crc32c::crc32c_append(seeded, said)
}

fn put_layout(buffer: &mut BytesMut, layout: &Layout) {
    codec::put_option(buffer, layout.last.as_ref(), codec::put_log_id);
    buffer.put_u32_le(layout.runs.len() as u32);
    for run in &layout.runs {
        for number in [run.seq, run.entries.start, run.entries.end, run.start.index, run.start.offset] {
            buffer.put_u64_le(number);
        }
        buffer.put_u32_le(run.start.chain);
    }
}

fn layout(reader: &mut Reader) -> Result<Layout, CodecError> {
    const WHAT: &str = "log layout";
    let last = reader.option(WHAT, codec::log_id)?;
    let count = reader.count(WHAT, RUN_SIZE)?;
    let mut runs: Vec<RunPlace> = Vec::with_capacity(count);
    for _ in 0..count {
        let (seq, first, end) = (reader.u64(WHAT)?, reader.u64(WHAT)?, reader.u64(WHAT)?);
        let start = Point { index: reader.u64(WHAT)?, offset: reader.u64(WHAT)?, chain: reader.u32(WHAT)? };
        let follows = runs.last().is_none_or(|before| before.entries.end == first && before.seq <= seq);
        if !follows || first >= end || start.index > first {
            let cause = format!("entries {first} to {end} of segment {seq} do not follow those before them");
            return Err(CodecError::Invalid { what: WHAT, cause });
        }
        runs.push(RunPlace { seq, entries: first..end, start });
    }
    match (last, runs.last()) {
        (Some(last), Some(run)) if run.entries.end != last.index + 1 => {}
        (None, Some(_)) => {}
        _ => return Ok(Layout { last, runs }),
    }
    Err(CodecError::Invalid { what: WHAT, cause: "its last entry is in none of its runs".into() })
}

fn checksum(chain: u32, length: &[u8], body: &[u8]) -> u32 {
    let seeded = crc32c::crc32c_append(crc32c::crc32c(&chain.to_le_bytes()), length);
    crc32c::crc32c_append(seeded, body)
}

pub(super) fn seal(buffer: &mut BytesMut, start: usize, chain: u32) -> u32 {
    let length = ((buffer.len() - start - HEADER) as u32).to_le_bytes();
    let crc = checksum(chain, &length, &buffer[start + HEADER..]);
    buffer[start..start + 4].copy_from_slice(&length);
    buffer[start + 4..start + HEADER].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn decode(body: Bytes) -> Result<Record, CodecError> {
    const WHAT: &str = "log record";
    let mut reader = Reader::new(body);
    let record = match reader.u8(WHAT)? {
        ENTRY => Record::Entry(codec::decode_entry(&mut reader)?),
        VOTE => Record::Vote(codec::vote(&mut reader)?),
        COMMITTED => Record::Committed(codec::log_id(&mut reader)?),
        PURGED => Record::Purged(codec::log_id(&mut reader)?),
        TRUNCATED => Record::Truncated(reader.option(WHAT, codec::log_id)?),
        MARK => {
            reader.u64(WHAT)?;
            let mark = Record::Mark { opening: reader.u64(WHAT)?, durable: reader.u64(WHAT)? };
            reader.u32(WHAT)?;
            mark
        }
        LAYOUT => Record::Layout(layout(&mut reader)?),
        tag => return Err(CodecError::Unknown { what: WHAT, tag }),
    };
    match reader.remaining() {
        0 => Ok(record),
        left => Err(CodecError::Invalid { what: WHAT, cause: format!("{left} bytes too long") }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::raft::types::{Member, Membership, Payload, Proposal};

    fn samples() -> Vec<Record> {
        let id = LogId::new_term_index(7, 9);
        let member = |name: &str| Member {
            name: name.into(),
            peer_urls: vec!["https://[::1]:2380".into(), "https://h:2380".into()],
            client_urls: Vec::new(),
        };
        let nodes = BTreeMap::from([(1, member("a")), (u64::MAX, member("é")), (3, Member::default())]);
        let joint = vec![BTreeSet::from([1]), BTreeSet::from([1, u64::MAX])];
        let membership = Membership::new(joint, nodes).expect("every voter has a node");
        vec![
            Record::Entry(Entry { log_id: id, payload: Payload::Blank }),
            Record::Entry(Entry { log_id: id, payload: Payload::Normal(Proposal(Bytes::from_static(b"\0x"))) }),
            Record::Entry(Entry { log_id: id, payload: Payload::Normal(Proposal(Bytes::new())) }),
            Record::Entry(Entry { log_id: id, payload: Payload::Membership(membership) }),
            Record::Vote(Vote::new(u64::MAX, 5)),
            Record::Vote(Vote::new_committed(3, 5)),
            Record::Committed(id),
            Record::Purged(id),
            Record::Truncated(None),
            Record::Truncated(Some(id)),
            Record::Mark { opening: 1, durable: 2 },
            Record::Layout(Layout::default()),
            Record::Layout(Layout { last: Some(id), runs: vec![run(3, 4..8), run(5, 8..10)] }),
        ]
    }

    const LIFE: Life = Life { seq: 4, nonce: 0x0102_0304 };

    fn run(seq: u64, entries: Range<u64>) -> RunPlace {
        let start = Point { index: entries.start.saturating_sub(1), offset: 40, chain: 9 };
        RunPlace { seq, entries, start }
    }

    #[test]
    fn a_layout_with_a_hole_or_another_end_is_no_layout() {
        let last = Some(LogId::new_term_index(1, 9));
        for layout in [
            Layout { last, runs: vec![run(3, 4..7), run(5, 8..10)] },
            Layout { last, runs: vec![run(5, 4..8), run(3, 8..10)] },
            Layout { last, runs: vec![run(3, 4..8)] },
            Layout { last: None, runs: vec![run(3, 4..8)] },
        ] {
            let mut bytes = BytesMut::new();
            push(&mut bytes, 1, LIFE, &Record::Layout(layout.clone()));
            let found = parse(&bytes.freeze(), 0, 1).expect("a sound record");
            assert!(found.record().is_err(), "{layout:?}");
        }
    }

    #[test]
    fn every_record_reads_back_as_it_was_written_and_only_in_its_place() {
        let mut bytes = BytesMut::new();
        let mut chain = 77;
        for record in samples() {
            chain = push(&mut bytes, chain, LIFE, &record);
        }
        let bytes = bytes.freeze();
        let (mut at, mut chain, mut read) = (0, 77, Vec::new());
        while let Some(found) = parse(&bytes, at, chain) {
            assert!(parse(&bytes, at, chain ^ 1).is_none(), "a record parses under a foreign chain");
            assert_eq!(claimed_size(&bytes[at..]), Some(found.size));
            (at, chain) = (at + found.size, found.chain);
            read.push(found.record().expect("a written record decodes"));
        }
        assert_eq!(read, samples());
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn no_single_flipped_or_missing_byte_goes_unseen() {
        for record in samples() {
            let mut buffer = BytesMut::new();
            push(&mut buffer, 1, LIFE, &record);
            let bytes = buffer.clone().freeze();
            for position in 0..bytes.len() {
                assert!(parse(&bytes.slice(..position), 0, 1).is_none(), "{record:?} cut at {position}");
                let mut flipped = buffer.clone();
                flipped[position] ^= 0x10;
                assert!(parse(&flipped.freeze(), 0, 1).is_none(), "{record:?} flipped at {position}");
            }
        }
    }

    #[test]
    fn a_mark_is_found_beyond_damage_but_only_in_its_own_segment_and_only_if_it_claims_more() {
        let mut bytes = BytesMut::from(&[0xAA; 100][..]);
        push(&mut bytes, 9, LIFE, &Record::Mark { opening: 8, durable: 60 });
        assert_eq!(later_claim(&bytes, 40, LIFE), Some(60));
        assert_eq!(later_claim(&bytes, 60, LIFE), None);
        assert_eq!(later_claim(&bytes, 40, Life { seq: 5, ..LIFE }), None);
        assert_eq!(later_claim(&bytes, 40, Life { nonce: 7, ..LIFE }), None, "a value that says it is a mark");
        let mark = bytes.len() - 6;
        bytes[mark] ^= 1;
        assert_eq!(later_claim(&bytes, 40, LIFE), None);
    }
}
