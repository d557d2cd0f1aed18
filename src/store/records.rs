//! The small protobuf rows of `meta`: membership, alarms, id sets.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::keys::Damaged;
use crate::model::view::Alarm;
use crate::raft::types::{LogId, Member, Membership, StoredMembership};

#[derive(Clone, PartialEq, Message)]
pub(super) struct LogIdRow {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MembershipRow {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdRow>,
    #[prost(message, repeated, tag = "2")]
    configs: Vec<IdsRow>,
    #[prost(message, repeated, tag = "3")]
    nodes: Vec<NodeRow>,
}

#[derive(Clone, PartialEq, Message)]
struct IdsRow {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeRow {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    peer_urls: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct AlarmsRow {
    #[prost(message, repeated, tag = "1")]
    alarms: Vec<AlarmRow>,
}

#[derive(Clone, PartialEq, Message)]
struct AlarmRow {
    #[prost(uint64, tag = "1")]
    member: u64,
    #[prost(int32, tag = "2")]
    kind: i32,
}

/// The log id of term and index.
pub(super) fn log_id((term, index): (u64, u64)) -> LogId {
    LogId::new(term.into(), index)
}

impl From<&LogId> for LogIdRow {
    fn from(id: &LogId) -> Self {
        Self { term: *id.leader_id, index: id.index }
    }
}

impl From<LogIdRow> for LogId {
    fn from(row: LogIdRow) -> Self {
        log_id((row.term, row.index))
    }
}

impl From<&StoredMembership> for MembershipRow {
    fn from(stored: &StoredMembership) -> Self {
        let membership = stored.membership();
        Self {
            log_id: stored.log_id().as_ref().map(LogIdRow::from),
            configs: membership
                .get_joint_config()
                .iter()
                .map(|config| IdsRow { ids: config.iter().copied().collect() })
                .collect(),
            nodes: membership
                .nodes()
                .map(|(id, member)| NodeRow {
                    id: *id,
                    name: member.name.clone(),
                    peer_urls: member.peer_urls.clone(),
                    client_urls: member.client_urls.clone(),
                })
                .collect(),
        }
    }
}

impl TryFrom<MembershipRow> for StoredMembership {
    type Error = Damaged;

    fn try_from(row: MembershipRow) -> Result<Self, Damaged> {
        let log_id = row.log_id.map(LogId::from);
        if row.configs.is_empty() {
            return Ok(Self::new(log_id, Membership::default()));
        }
        let configs = row.configs.into_iter().map(|config| config.ids.into_iter().collect()).collect();
        let nodes: BTreeMap<u64, Member> = row
            .nodes
            .into_iter()
            .map(|node| {
                let NodeRow { id, name, peer_urls, client_urls } = node;
                (id, Member { name, peer_urls, client_urls })
            })
            .collect();
        let membership = Membership::new(configs, nodes).map_err(|_| Damaged("membership"))?;
        Ok(Self::new(log_id, membership))
    }
}

pub(super) fn encode_membership(stored: &StoredMembership) -> Vec<u8> {
    MembershipRow::from(stored).encode_to_vec()
}

pub(super) fn decode_membership(row: &[u8]) -> Result<StoredMembership, Damaged> {
    MembershipRow::decode(row).map_err(|_| Damaged("membership"))?.try_into()
}

pub(super) fn encode_ids(ids: &BTreeSet<u64>) -> Vec<u8> {
    IdsRow { ids: ids.iter().copied().collect() }.encode_to_vec()
}

pub(super) fn decode_ids(row: &[u8]) -> Result<BTreeSet<u64>, Damaged> {
    Ok(IdsRow::decode(row).map_err(|_| Damaged("member id"))?.ids.into_iter().collect())
}

pub(super) fn encode_alarms(alarms: &[Alarm]) -> Vec<u8> {
    AlarmsRow { alarms: alarms.iter().map(|&(member, kind)| AlarmRow { member, kind }).collect() }.encode_to_vec()
}

pub(super) fn decode_alarms(row: &[u8]) -> Result<Vec<Alarm>, Damaged> {
    let row = AlarmsRow::decode(row).map_err(|_| Damaged("alarm"))?;
    Ok(row.alarms.into_iter().map(|alarm| (alarm.member, alarm.kind)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_read_back_whole() {
        let member = |name: &str| Member {
            name: name.to_owned(),
            peer_urls: vec![format!("https://{name}:2380")],
            client_urls: vec![format!("https://{name}:2379")],
        };
        let nodes: BTreeMap<_, _> = [(1, member("a")), (2, member("b")), (u64::MAX, member("c"))].into();
        let membership = Membership::new(vec![[1, 2].into(), [2].into()], nodes).unwrap();
        let stored = StoredMembership::new(Some(log_id((3, 9))), membership);
        assert_eq!(decode_membership(&encode_membership(&stored)), Ok(stored));
        let none = StoredMembership::default();
        assert_eq!(decode_membership(&encode_membership(&none)), Ok(none));
    }
}
