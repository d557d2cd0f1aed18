//! The byte layout of the state: column families, keys and rows. Every format decision of the state is in this file.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `latest` | user key | encoded `mvccpb.KeyValue` of the live version |
//! | `hist` | main revision u64 BE, sub-revision u32 BE | [`HistoryRow`]: what changed, image after, image before or where |
//! | `vidx` | escaped user key, main u64 BE, sub u32 BE | empty: says which `hist` rows a key has |
//! | `lease` | `l` id, or `k` id user key | lease record, or empty: a key attached to the lease |
//! | `v2` | as `model::v2` lays it out | as `model::v2` lays it out |
//! | `meta` | the names in [`meta`] | small fixed rows |
//!
//! Integers in keys are big endian so that byte order is numeric order. Changing any of this means a new [`FORMAT`].

use bytes::BufMut;
use prost::encoding::{encode_varint, encoded_len_varint};

/// The layout this program writes, and the newest it opens. Since 2 a history row may point to the version before; since 3
/// a lease record says which entry granted it. What 1 and 2 wrote is read as well.
pub const FORMAT: u32 = 3;

/// Live versions by key.
pub const LATEST: &str = "latest";
/// The undo log: every change by revision.
pub const HISTORY: &str = "hist";
/// Which revisions changed a key.
pub const VERSIONS: &str = "vidx";
/// Leases and the keys attached to them.
pub const LEASES: &str = "lease";
/// The v2 keyspace.
pub const V2: &str = "v2";
/// Applied position, membership, compaction, alarms, sizes.
pub const META: &str = "meta";
/// All of ours. RocksDB keeps an empty `default` beside them.
pub const FAMILIES: [&str; 6] = [LATEST, HISTORY, VERSIONS, LEASES, V2, META];

/// Names of the rows in the `meta` family.
pub mod meta {
    /// Layout number, u32 BE.
    pub const FORMAT: &[u8] = b"format";
    /// [`super::Progress`]; written with every batch.
    pub const PROGRESS: &[u8] = b"progress";
    /// Last applied membership and its log id.
    pub const MEMBERSHIP: &[u8] = b"membership";
    /// Ids that were members once and are no more.
    pub const REMOVED: &[u8] = b"removed";
    /// Compaction revision, i64 BE.
    pub const COMPACTED: &[u8] = b"compacted";
    /// [`super::Dropped`]; written by the compactor only.
    pub const DROPPED: &[u8] = b"dropped";
    /// First part of the name of a row that keeps a layer of history: its first revision, i64 BE, follows. See `layers.rs`.
    pub const LAYER: &[u8] = b"layer/";
    /// Allocated size, u64 BE.
    pub const ALLOCATED: &[u8] = b"allocated";
    /// The alarm set.
    pub const ALARMS: &[u8] = b"alarms";
    /// The agreed cluster version, text.
    pub const CLUSTER_VERSION: &[u8] = b"cluster-version";
    /// Whether authentication is on, one byte, and the auth revision, u64 BE.
    pub const AUTH: &[u8] = b"auth";
    /// First part of the name of a user's row, which holds an encoded `authpb.User`. The user's name follows.
    pub const AUTH_USER: &[u8] = b"auth-user/";
    /// The same for a role and `authpb.Role`.
    pub const AUTH_ROLE: &[u8] = b"auth-role/";
}

/// A stored row that does not read as what it should be: disk damage, or a format bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {0} row is damaged")]
pub struct Damaged(pub &'static str);

/// Length of a history key, and of the tail of a version key.
pub const REVISION_LEN: usize = 12;

/// The `hist` key of a change.
pub fn revision_key(main: i64, sub: u32) -> [u8; REVISION_LEN] {
    let mut key = [0; REVISION_LEN];
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[8..].copy_from_slice(&sub.to_be_bytes());
    key
}

/// Reads the last twelve bytes of a `hist` or `vidx` key.
pub fn parse_revision(key: &[u8]) -> Result<(i64, u32), Damaged> {
    let tail = key.last_chunk::<REVISION_LEN>().ok_or(Damaged("revision"))?;
    let (main, sub) = tail.split_at(8);
    let main = main.try_into().map_err(|_| Damaged("revision"))?;
    let sub = sub.try_into().map_err(|_| Damaged("revision"))?;
    Ok((i64::from_be_bytes(main), u32::from_be_bytes(sub)))
}

/// Appends the order-preserving form of a user key: 0x00 becomes 0x00 0xFF, 0x00 0x00 ends it. So no key's rows stand
/// between those of another, also when one key is a prefix of the other.
pub fn put_escaped(key: &[u8], out: &mut Vec<u8>) {
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// The `vidx` key of a change.
pub fn version_key(key: &[u8], main: i64, sub: u32, out: &mut Vec<u8>) {
    out.clear();
    put_escaped(key, out);
    out.extend_from_slice(&revision_key(main, sub));
}

/// Reads the user key back from a `vidx` key into `out`.
pub fn parse_version_key(stored: &[u8], out: &mut Vec<u8>) -> Result<(), Damaged> {
    out.clear();
    let end = stored.len().checked_sub(REVISION_LEN + 2).ok_or(Damaged("version"))?;
    let mut escaped = stored[..end].iter();
    while let Some(&byte) = escaped.next() {
        out.push(byte);
        if byte == 0 && escaped.next() != Some(&0xff) {
            return Err(Damaged("version"));
        }
    }
    Ok(())
}

/// The `meta` key that says that a layer of history begins at `start`.
pub fn layer_key(start: i64) -> Vec<u8> {
    [meta::LAYER, &start.to_be_bytes()].concat()
}

/// Reads the revision back from a [`layer_key`].
pub fn parse_layer_key(stored: &[u8]) -> Result<i64, Damaged> {
    let start = stored.strip_prefix(meta::LAYER).and_then(|start| start.try_into().ok());
    start.map(i64::from_be_bytes).ok_or(Damaged("layer"))
}

/// First byte of every `lease` key that holds a lease record.
pub const LEASE_PREFIX: &[u8] = b"l";

/// The `lease` key of a lease record.
pub fn lease_key(id: i64) -> [u8; 9] {
    tagged_id(b'l', id)
}

/// First bytes of every `lease` key that attaches something to lease `id`.
pub fn attachment_prefix(id: i64) -> [u8; 9] {
    tagged_id(b'k', id)
}

fn tagged_id(tag: u8, id: i64) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

/// The smallest key above every key that starts with `prefix`; `None` when there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

const HAS_AFTER: u8 = 1;
const HAS_BEFORE: u8 = 2;
/// The version before is not in the row; its revision, i64 BE, and length, u32 BE, are.
const BEFORE_IS_NEAR: u8 = 4;

/// One change as `hist` keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryRow<'a> {
    /// The key that changed.
    pub key: &'a [u8],
    /// Encoded version after it; `None` = deleted.
    pub after: Option<&'a [u8]>,
    /// The version before it; `None` = the key did not exist.
    pub before: Option<Before<'a>>,
}

/// The version before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before<'a> {
    /// Its encoding.
    Here(&'a [u8]),
    /// It is the version after the change of this key at an earlier revision; see `layers.rs`.
    At {
        /// That revision. The key was put once there, or the row would hold the version.
        main: i64,
        /// Length of the encoding, bytes.
        len: u32,
    },
}

impl Before<'_> {
    /// Length of the encoded version, bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Here(image) => image.len(),
            Self::At { len, .. } => *len as usize,
        }
    }
}

impl<'a> HistoryRow<'a> {
    /// Flags, key length, key, length of the image after, image after, then the image before or where it is.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let before = match self.before {
            None => 0,
            Some(Before::Here(_)) => HAS_BEFORE,
            Some(Before::At { .. }) => HAS_BEFORE | BEFORE_IS_NEAR,
        };
        out.push(before | if self.after.is_some() { HAS_AFTER } else { 0 });
        let after = self.after.unwrap_or_default();
        out.put_u32(u32::try_from(self.key.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(self.key);
        out.put_u32(u32::try_from(after.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(after);
        match self.before {
            None => {}
            Some(Before::Here(image)) => out.extend_from_slice(image),
            Some(Before::At { main, len }) => {
                out.put_i64(main);
                out.put_u32(len);
            }
        }
    }

    /// Reads a row.
    pub fn decode(row: &'a [u8]) -> Result<Self, Damaged> {
        const WHAT: Damaged = Damaged("history");
        let (&flags, rest) = row.split_first().ok_or(WHAT)?;
        let (key, rest) = split_prefixed(rest).ok_or(WHAT)?;
        let (after, before) = split_prefixed(rest).ok_or(WHAT)?;
        Ok(Self {
            key,
            after: (flags & HAS_AFTER != 0).then_some(after),
            before: match flags & (HAS_BEFORE | BEFORE_IS_NEAR) {
                HAS_BEFORE => Some(Before::Here(before)),
                0 => None,
                _ => {
                    let (main, len) = before.split_first_chunk().ok_or(WHAT)?;
                    Some(Before::At {
                        main: i64::from_be_bytes(*main),
                        len: u32::from_be_bytes(len.try_into().map_err(|_| WHAT)?),
                    })
                }
            },
        })
    }

    /// What this row keeps beyond the live version, in the store's own size terms: the same wherever the version before is.
    pub fn superseded_bytes(&self) -> u64 {
        superseded_bytes(self.key.len(), self.before.as_ref().map_or(0, Before::len))
    }
}

/// Bytes charged for a live version.
pub fn live_bytes(record: usize) -> u64 {
    ROW_OVERHEAD + record as u64
}

/// Bytes charged for keeping what a change replaced until compaction.
pub fn superseded_bytes(key: usize, before: usize) -> u64 {
    ROW_OVERHEAD + (key + before) as u64
}

/// What a stored version costs beyond its bytes: etcd's 17-byte revision key and its page bookkeeping.
const ROW_OVERHEAD: u64 = 32;

fn split_prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*len) as usize)
}

/// The modification revision inside an encoded `mvccpb.KeyValue`, without decoding the rest.
pub fn mod_revision(record: &[u8]) -> Result<i64, Damaged> {
    const WHAT: Damaged = Damaged("key-value");
    let mut rest = record;
    while let Some((&tag, after)) = rest.split_first() {
        rest = after;
        let number = varint(&mut rest).ok_or(WHAT)?;
        match tag {
            MOD_REVISION_TAG => return Ok(number as i64),
            // Any other varint.
            tag if tag & 7 == 0 => {}
            // A byte string: step over it.
            tag if tag & 7 == 2 => rest = rest.get(number as usize..).ok_or(WHAT)?,
            _ => return Err(WHAT),
        }
    }
    Err(WHAT)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// How far the state has come. One row, written with every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Term and index of the last applied entry.
    pub applied: Option<(u64, u64)>,
    /// Main revision.
    pub revision: i64,
    /// [`live_bytes`] of every live version.
    pub live: u64,
    /// [`superseded_bytes`] of every change ever made.
    pub superseded: u64,
}

impl Progress {
    const LEN: usize = 1 + 5 * 8;

    /// The row.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut row = [0; Self::LEN];
        let mut out = &mut row[..];
        let (term, index) = self.applied.unwrap_or_default();
        out.put_u8(u8::from(self.applied.is_some()));
        out.put_u64(term);
        out.put_u64(index);
        out.put_i64(self.revision);
        out.put_u64(self.live);
        out.put_u64(self.superseded);
        row
    }

    /// Reads the row.
    pub fn decode(row: &[u8]) -> Result<Self, Damaged> {
        let (&applied, numbers) = row.split_first().ok_or(Damaged("progress"))?;
        let [term, index, revision, live, superseded] = numbers_of::<5>(numbers, "progress")?;
        Ok(Self { applied: (applied == 1).then_some((term, index)), revision: revision as i64, live, superseded })
    }
}

/// How far old history was really dropped, and how much of `Progress::superseded` went with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// History rows of revisions below this are garbage.
    pub floor: i64,
    /// Superseded bytes below the floor.
    pub bytes: u64,
}

impl Dropped {
    /// The row.
    pub fn encode(&self) -> [u8; 16] {
        let mut row = [0; 16];
        row[..8].copy_from_slice(&self.floor.to_be_bytes());
        row[8..].copy_from_slice(&self.bytes.to_be_bytes());
        row
    }

    /// Reads the row.
    pub fn decode(row: &[u8]) -> Result<Self, Damaged> {
        let [floor, bytes] = numbers_of::<2>(row, "dropped")?;
        Ok(Self { floor: floor as i64, bytes })
    }
}

/// Reads a row of exactly `N` big-endian u64.
pub fn numbers_of<const N: usize>(row: &[u8], what: &'static str) -> Result<[u64; N], Damaged> {
    let mut numbers = [0; N];
    if row.len() != N * 8 {
        return Err(Damaged(what));
    }
    for (number, bytes) in numbers.iter_mut().zip(row.chunks_exact(8)) {
        *number = u64::from_be_bytes(bytes.try_into().map_err(|_| Damaged(what))?);
    }
    Ok(numbers)
}

/// Appends an encoded `mvccpb.Event` that ends with `record`.
pub fn put_event(record: &[u8], deleted: bool, out: &mut impl BufMut) {
    if deleted {
        out.put_slice(&[0x08, 0x01]);
    }
    out.put_u8(0x12);
    encode_varint(record.len() as u64, out);
    out.put_slice(record);
}

/// The `mvccpb.KeyValue` of a deletion: only the key and the revision that deleted it.
pub fn tombstone(key: &[u8], revision: i64) -> Vec<u8> {
    let mut record = Vec::with_capacity(tombstone_len(key, revision));
    record.push(KEY_TAG);
    encode_varint(key.len() as u64, &mut record);
    record.extend_from_slice(key);
    record.push(MOD_REVISION_TAG);
    encode_varint(revision as u64, &mut record);
    record
}

/// An `mvccpb.KeyValue` that holds nothing but the key.
pub fn only_key(key: &[u8]) -> Vec<u8> {
    let mut record = vec![KEY_TAG];
    encode_varint(key.len() as u64, &mut record);
    record.extend_from_slice(key);
    record
}

/// Length of [`tombstone`].
pub fn tombstone_len(key: &[u8], revision: i64) -> usize {
    2 + encoded_len_varint(key.len() as u64) + key.len() + encoded_len_varint(revision as u64)
}

/// The key inside an encoded `mvccpb.KeyValue`; it stands first, as encoders write fields in order.
pub fn key_of(record: &[u8]) -> Result<&[u8], Damaged> {
    const WHAT: Damaged = Damaged("key-value");
    let mut rest = record.strip_prefix(&[KEY_TAG]).ok_or(WHAT)?;
    let len = varint(&mut rest).ok_or(WHAT)?;
    rest.get(..len as usize).ok_or(WHAT)
}

/// Tags of `mvccpb.KeyValue`: field 1 as bytes, field 3 as a varint.
const KEY_TAG: u8 = 0x0a;
const MOD_REVISION_TAG: u8 = 0x18;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::mvccpb::{Event, KeyValue};

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 1..6)
    }

    proptest! {
        #[test]
        fn version_keys_sort_as_key_then_revision(
            a in key(), b in key(), x in (2i64..9, 0u32..3), y in (2i64..9, 0u32..3),
        ) {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            version_key(&a, x.0, x.1, &mut left);
            version_key(&b, y.0, y.1, &mut right);
            prop_assert_eq!(left.cmp(&right), (&a, x).cmp(&(&b, y)));
        }

        #[test]
        fn version_keys_read_back(a in key(), main in 0i64.., sub in any::<u32>()) {
            let (mut stored, mut back) = (Vec::new(), Vec::new());
            version_key(&a, main, sub, &mut stored);
            parse_version_key(&stored, &mut back).unwrap();
            prop_assert_eq!(&back, &a);
            prop_assert_eq!(parse_revision(&stored), Ok((main, sub)));
        }

        #[test]
        fn the_modification_revision_is_found_in_any_record(
            key in key(), create in any::<i64>(), modified in 1i64.., version in any::<i64>(), lease in any::<i64>(),
            value in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let kv = KeyValue {
                key: key.into(), create_revision: create, mod_revision: modified, version, value: value.into(), lease,
            };
            prop_assert_eq!(mod_revision(&kv.encode_to_vec()), Ok(modified));
        }

        #[test]
        fn history_rows_read_back(
            key in key(),
            after in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
            before in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
            near in prop::option::of((any::<i64>(), any::<u32>())),
        ) {
            let before = match near {
                Some((main, len)) => Some(Before::At { main, len }),
                None => before.as_deref().map(Before::Here),
            };
            let row = HistoryRow { key: &key, after: after.as_deref(), before };
            let mut stored = Vec::new();
            row.encode(&mut stored);
            prop_assert_eq!(HistoryRow::decode(&stored), Ok(row));
        }
    }

    #[test]
    fn events_decode_as_the_wire_contract_says() {
        let put = KeyValue { key: "k".into(), mod_revision: 7, version: 1, ..Default::default() };
        let mut out = Vec::new();
        put_event(&put.encode_to_vec(), false, &mut out);
        assert_eq!(Event::decode(&out[..]).unwrap(), Event { r#type: 0, kv: Some(put), prev_kv: None });
        out.clear();
        put_event(&tombstone(b"k", 8), true, &mut out);
        let gone = KeyValue { key: "k".into(), mod_revision: 8, ..Default::default() };
        assert_eq!(Event::decode(&out[..]).unwrap(), Event { r#type: 1, kv: Some(gone), prev_kv: None });
    }

    #[test]
    fn the_end_of_a_prefix_skips_trailing_ff() {
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }

    #[test]
    fn a_short_history_row_is_damage() {
        assert_eq!(HistoryRow::decode(&[1, 0, 0, 0, 9, 1]), Err(Damaged("history")));
        let mut near = Vec::new();
        HistoryRow { key: b"k", after: None, before: Some(Before::At { main: 7, len: 100 }) }.encode(&mut near);
        near.pop();
        assert_eq!(HistoryRow::decode(&near), Err(Damaged("history")));
    }
}
