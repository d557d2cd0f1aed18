//! Rows as etcd's backend has them: bucket names, keys and values. Pure.
//!
//! | bucket | key | value |
//! | --- | --- | --- |
//! | `key` | main u64 BE, `_`, sub u64 BE, `t` for a deletion | encoded `mvccpb.KeyValue`; of a deletion, only the key |
//! | `meta` | `consistent_index`, `term` | u64 BE |
//! | | `scheduledCompactRev`, `finishedCompactRev` | a revision as in `key` |
//! | | `confState` | JSON: who votes |
//! | | `storageVersion` | `3.6.0` |
//! | `lease` | id i64 BE | `leasepb.Lease` |
//! | `alarm` | encoded `AlarmMember` | empty |
//! | `members`, `members_removed` | id in hexadecimal | JSON; `removed` |
//! | `auth` | `authEnabled`, `authRevision` | one byte; u64 BE |
//! | `authUsers`, `authRoles` | name | `authpb.User`, `authpb.Role` |
//! | `cluster` | | empty here: each release writes its own version into it, and refuses a later one |

use prost::Message;
use serde_json::json;

use crate::raft::types::StoredMembership;

pub const KEY: &str = "key";
pub const META: &str = "meta";
pub const LEASE: &str = "lease";
pub const ALARM: &str = "alarm";
pub const CLUSTER: &str = "cluster";
pub const MEMBERS: &str = "members";
pub const MEMBERS_REMOVED: &str = "members_removed";
pub const AUTH: &str = "auth";
pub const AUTH_USERS: &str = "authUsers";
pub const AUTH_ROLES: &str = "authRoles";

pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub const TERM: &[u8] = b"term";
pub const SCHEDULED: &[u8] = b"scheduledCompactRev";
pub const FINISHED: &[u8] = b"finishedCompactRev";
pub const CONF_STATE: &[u8] = b"confState";
pub const STORAGE_VERSION: &[u8] = b"storageVersion";

pub const AUTH_ENABLED: &[u8] = b"authEnabled";
pub const AUTH_REVISION: &[u8] = b"authRevision";

/// Version of the layout above, as etcd 3.6 names it.
pub const LAYOUT: &str = "3.6.0";

/// `leasepb.Lease`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct LeaseRow {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    #[prost(int64, tag = "3")]
    pub remaining: i64,
}

/// One change in the `key` bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    pub main: i64,
    pub sub: u32,
    pub deleted: bool,
}

/// Bytes of a revision, without the mark of a deletion.
const REVISION: usize = 17;

impl Revision {
    /// Appends the row's key.
    pub fn encode(self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.main.to_be_bytes());
        out.push(b'_');
        out.extend_from_slice(&u64::from(self.sub).to_be_bytes());
        if self.deleted {
            out.push(b't');
        }
    }

    /// Reads a row's key; `None` if it is none.
    pub fn decode(key: &[u8]) -> Option<Self> {
        let (revision, mark) = key.split_at_checked(REVISION)?;
        let deleted = match mark {
            [] => false,
            [b't'] => true,
            _ => return None,
        };
        let (main, rest) = revision.split_first_chunk::<8>()?;
        let (separator, sub) = rest.split_first()?;
        let main = i64::from_be_bytes(*main);
        let sub = u64::from_be_bytes(sub.try_into().ok()?);
        (*separator == b'_' && main > 0).then_some(())?;
        Some(Self { main, sub: u32::try_from(sub).ok()?, deleted })
    }
}

/// A compaction revision as `meta` has it.
pub fn compaction(revision: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(REVISION);
    Revision { main: revision, sub: 0, deleted: false }.encode(&mut out);
    out
}

/// Reads a compaction revision. 0 is one, unlike in `key`.
pub fn parse_compaction(value: &[u8]) -> Option<i64> {
    let main = i64::from_be_bytes(*value.first_chunk::<8>()?);
    (value.len() == REVISION && main >= 0).then_some(main)
}

/// Who votes and who learns, as etcd's JSON.
pub fn conf_state(membership: &StoredMembership) -> Vec<u8> {
    let voters: Vec<u64> = membership.voter_ids().collect();
    let learners: Vec<u64> = membership.membership().learner_ids().collect();
    let mut state = json!({ "voters": voters, "auto_leave": false });
    if !learners.is_empty() {
        state["learners"] = json!(learners);
    }
    state.to_string().into_bytes()
}

/// The `members` bucket: key and value of each member, keys ascending.
pub fn members(membership: &StoredMembership) -> Vec<(Vec<u8>, Vec<u8>)> {
    let learners: Vec<u64> = membership.membership().learner_ids().collect();
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = membership
        .nodes()
        .map(|(id, member)| {
            let mut row = json!({ "id": id, "peerURLs": member.peer_urls });
            if learners.contains(id) {
                row["isLearner"] = json!(true);
            }
            if !member.name.is_empty() {
                row["name"] = json!(member.name);
            }
            if !member.client_urls.is_empty() {
                row["clientURLs"] = json!(member.client_urls);
            }
            (member_key(*id), row.to_string().into_bytes())
        })
        .collect();
    rows.sort_unstable();
    rows
}

/// A member's key.
pub fn member_key(id: u64) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_laid_out_as_etcd_lays_them_out() {
        let mut out = Vec::new();
        Revision { main: 0x0102, sub: 3, deleted: false }.encode(&mut out);
        assert_eq!(out, b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        let gone = Revision { main: 7, sub: 0, deleted: true };
        gone.encode(&mut out);
        assert_eq!(out, b"\0\0\0\0\0\0\0\x07_\0\0\0\0\0\0\0\0t");
        assert_eq!(Revision::decode(&out), Some(gone));
        for bad in
            [&b""[..], b"\0\0\0\0\0\0\0\x07_\0\0\0\0\0\0\0\0x", b"\0\0\0\0\0\0\0\x07-\0\0\0\0\0\0\0\0", &[0xff; 17]]
        {
            assert_eq!(Revision::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_compaction_revision_reads_back() {
        assert_eq!(parse_compaction(&compaction(90)), Some(90));
        assert_eq!(parse_compaction(&compaction(0)), Some(0));
        assert_eq!(parse_compaction(b"90"), None);
    }

    #[test]
    fn a_lease_is_the_message_that_etcd_stores() {
        let row = LeaseRow { id: 1, ttl: 60, remaining: 0 };
        assert_eq!(row.encode_to_vec(), b"\x08\x01\x10\x3c");
    }
}
