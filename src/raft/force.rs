//! `--force-new-cluster`: one member of a cluster that lost its quorum for good goes on alone, with all its data.
//!
//! It keeps its id, its cluster's id and every entry of its log, also those of which nobody can say any more whether they
//! were committed: dropping one that was would lose an acknowledged write. (etcd drops what it does not know to be
//! committed.) Behind them goes a membership of this member alone. The others are recorded as removed once it is applied,
//! so they are turned away should they ever come back.

use std::collections::{BTreeMap, BTreeSet};

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};

use super::error::StartError;
use super::types::{Entry, LogId, Membership, NodeId, Payload, Vote};
use crate::store::Store;
use crate::store::log::LogStore;

/// Makes member `id` the only one, on disk. Must run before openraft opens the log. Returns who was left behind; nobody
/// when the member was alone already or has no data.
///
/// # Errors
/// The log cannot be read or written; the member does not belong to the cluster any more.
pub(super) async fn alone(log: &mut LogStore, store: &Store, id: NodeId) -> Result<Vec<NodeId>, StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Storage(error.to_string());
    let last = log.get_log_state().await.map_err(|error| failed(&error))?.last_log_id.max(store.applied());
    let Some(last) = last else { return Ok(Vec::new()) };
    let current = newest_membership(log, store, last).await?;
    let Some(own) = current.get_node(&id).cloned() else { return Err(StartError::ForcedStranger { id }) };
    let left: Vec<NodeId> = current.nodes().map(|(node, _)| *node).filter(|node| *node != id).collect();
    if left.is_empty() && current.voter_ids().eq([id]) {
        return Ok(left);
    }
    let vote = log.read_vote().await.map_err(|error| failed(&error))?;
    let highest = vote.map_or(0, |vote| vote.leader_id.term).max(*last.leader_id);
    // A term of its own: no entry of this term can exist anywhere, so no index of it can be told two stories.
    let term = highest + 1;
    log.save_vote(&Vote::new(term, id)).await.map_err(|error| failed(&error))?;
    let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, own)]));
    let payload = Payload::Membership(membership.map_err(|error| failed(&error))?);
    let entry = Entry { log_id: LogId::new_term_index(term, last.index + 1), payload };
    log.blocking_append([entry]).await.map_err(|error| failed(&error))?;
    Ok(left)
}

/// The membership in force: the newest of the log, which need not be committed, or the applied one.
async fn newest_membership(log: &mut LogStore, store: &Store, last: LogId) -> Result<Membership, StartError> {
    let mut newest = store.membership().membership().clone();
    let mut next = store.applied().map_or(0, |applied| applied.index + 1);
    while next <= last.index {
        let read = log.limited_get_log_entries(next, last.index + 1).await;
        let entries = read.map_err(|error| StartError::Storage(error.to_string()))?;
        let Some(end) = entries.last().map(|entry| entry.log_id.index + 1) else { break };
        for entry in entries {
            if let Payload::Membership(membership) = entry.payload {
                newest = membership;
            }
        }
        next = end;
    }
    Ok(newest)
}
