//! The rules' read access to one consistent state, independent of the storage engine.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::auth::Auth;
use super::record::Record;

/// The storage engine failed to read. The caller cannot go on: apply stops the process, a request returns `Internal`.
#[derive(Debug, thiserror::Error)]
#[error("read {what}: {cause}")]
pub struct ViewError {
    /// What was being read, for the log.
    pub what: &'static str,
    /// The engine's error text.
    pub cause: String,
}

/// A set of keys, already normalised from etcd's `key`/`range_end` forms (reference: etcd-v3 §2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    /// Exactly this key.
    One(Bytes),
    /// From `start` inclusive to `end` exclusive; `end` = `None` means to the last key. Empty when `end <= start`.
    Span {
        /// First key of the range.
        start: Bytes,
        /// First key after the range.
        end: Option<Bytes>,
    },
}

impl KeyRange {
    /// From etcd's pair: no `range_end` = one key; a single zero byte = all keys from `key` on.
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        if range_end.is_empty() {
            Self::One(key)
        } else if range_end.as_ref() == [0] {
            Self::Span { start: key, end: None }
        } else {
            Self::Span { start: key, end: Some(range_end) }
        }
    }

    /// Back to etcd's pair.
    pub fn as_pair(&self) -> (&[u8], &[u8]) {
        match self {
            Self::One(key) => (key, &[]),
            Self::Span { start, end } => (start, end.as_deref().unwrap_or(&[0])),
        }
    }

    /// Whether `key` belongs to the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one.as_ref() == key,
            Self::Span { start, end } => key >= start.as_ref() && end.as_ref().is_none_or(|end| key < end.as_ref()),
        }
    }

    /// Whether the range can contain no key.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Span { start, end: Some(end) } if end <= start)
    }
}

/// The replicated state of a granted lease. Deadlines exist only on the leader (`timers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Never 0; negative ids are legal.
    pub id: i64,
    /// Granted TTL, in seconds, at least the minimum.
    pub ttl: i64,
    /// Last checkpointed remaining TTL, in seconds; 0 = none recorded, the full `ttl` applies.
    pub remaining: i64,
    /// Index of the log entry that granted it; 0 when restored from a snapshot file in etcd's format. Together with the
    /// id it identifies one grant uniquely, while an id alone can be granted again.
    pub granted: u64,
}

/// One raised alarm: (member id, alarm type number of `etcdserverpb.AlarmType`).
pub type Alarm = (u64, i32);

/// What [`View::scan`] and [`View::scan_at`] call for each key, in key order. `Break` ends the scan.
pub type Visit<'a> = dyn FnMut(Record) -> ControlFlow<()> + 'a;

/// A consistent state of the store. During apply it includes the effects of every earlier entry.
///
/// Key-value reads at the current revision are the fast path ([`get`](View::get), [`scan`](View::scan)); reads at an
/// older revision go through the version index. `revision` arguments satisfy `compacted() <= revision <= revision()`;
/// the caller checks that and answers the client.
pub trait View {
    /// Current main revision; 1 on a fresh store.
    fn revision(&self) -> i64;
    /// Revision of the last compaction; -1 when there was none. Reads below it fail, at it they work.
    fn compacted(&self) -> i64;
    /// The live version of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Record>, ViewError>;
    /// The version of `key` that was live at `revision`.
    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, ViewError>;
    /// Every live key of `range`, in key order.
    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError>;
    /// Every key of `range` that was live at `revision`, in key order, with its version at that revision.
    fn scan_at(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) -> Result<(), ViewError>;
    /// How many live keys `range` has. Implementations may count without reading values.
    fn count(&self, range: &KeyRange) -> Result<i64, ViewError>;
    /// A granted lease.
    fn lease(&self, id: i64) -> Result<Option<Lease>, ViewError>;
    /// Keys attached to a lease, in key order.
    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError>;
    /// Raised alarms, ordered by member then type.
    fn alarms(&self) -> Vec<Alarm>;
    /// The agreed cluster version such as `3.6.0`; empty before it is set.
    fn cluster_version(&self) -> String;
    /// Users, roles, permissions, and whether authentication is enabled.
    fn auth(&self) -> Arc<Auth>;
    /// Whether authentication is on; cheaper than [`View::auth`].
    fn auth_is_on(&self) -> bool {
        self.auth().is_enabled()
    }
    /// The latest value of a v2 key, with an index that the keyspace had reached before the read: cheaper than
    /// [`View::v2_get`], because it need not be consistent with other reads of this view. `None` when there is no such
    /// value, or no cheaper read.
    fn v2_latest(&self, key: &[u8]) -> Result<Option<(u64, Bytes)>, ViewError> {
        let _ = key;
        Ok(None)
    }
    /// One value of the v2 keyspace; its layout belongs to `model::v2`.
    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;
    /// The v2 values whose key starts with `prefix`, in key order.
    #[allow(clippy::type_complexity)] // Spelt out, it says more than a name for it would.
    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::new(Bytes::from_static(key), Bytes::from_static(end))
    }

    #[test]
    fn etcds_pairs_mean_what_the_reference_says() {
        type Keys = &'static [&'static [u8]];
        // (key, range_end, belongs, does not)
        let table: [(&[u8], &[u8], Keys, Keys); 6] = [
            (b"k", b"", &[b"k"], &[b"k\0", b"j", b""]),
            (b"k", b"m", &[b"k", b"k\0", b"lz"], &[b"m", b"j"]),
            (b"k", b"\0", &[b"k", b"\xff\xff"], &[b"j"]),
            (b"\0", b"\0", &[b"\0", b"a", b"\xff"], &[]),
            (b"k", b"k", &[], &[b"k", b"a", b"z"]),
            (b"k", b"a", &[], &[b"k", b"a", b"b"]),
        ];
        for (key, end, inside, outside) in table {
            let range = range(key, end);
            assert!(inside.iter().all(|key| range.contains(key)), "{range:?}");
            assert!(!outside.iter().any(|key| range.contains(key)), "{range:?}");
            assert_eq!(range.is_empty(), inside.is_empty(), "{range:?}");
            assert_eq!(range.as_pair(), (key, end));
        }
    }
}
