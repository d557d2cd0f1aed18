//! Hashes of the members' keyspaces, for comparing them. What follows from them is not decided here.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::network::{Answer, Request};
use super::types::NodeId;
use super::{Consensus, Inner};
use crate::store::{HashError, HashKv};

/// How long a member may take: it reads its whole keyspace. One that is gone is noticed much earlier.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a member waits for a revision that it has not applied yet.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Between two looks at the revision.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What another member said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHash {
    /// Which.
    pub id: NodeId,
    /// Its hash, or why there is none, for people.
    pub hash: Result<HashKv, String>,
}

impl Consensus {
    /// Asks every other member for its HashKV at `revision`.
    pub async fn peer_hashes(&self, revision: i64) -> Vec<PeerHash> {
        let members = self.members();
        let others = members.iter().map(|info| info.id).filter(|id| *id != self.inner.id);
        join_all(others.map(|id| self.peer_hash(id, revision))).await
    }

    async fn peer_hash(&self, id: NodeId, revision: i64) -> PeerHash {
        let answer = match self.inner.peers.get(id) {
            Some(peer) => peer.forward.call(Request::HashKv(revision), Instant::now() + PATIENCE).await,
            None => return PeerHash { id, hash: Err("it is not known yet".to_owned()) },
        };
        let hash = match answer {
            Ok(Answer::HashKv(hash)) => hash,
            Ok(Answer::Failed(reason)) => Err(reason),
            Ok(_) => Err("an answer to another question".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        PeerHash { id, hash }
    }
}

impl Inner {
    /// This member's hash, for another. One at a time: it reads everything.
    pub(super) async fn hash_for_peer(self: &Arc<Self>, revision: i64) -> Result<HashKv, String> {
        let deadline = Instant::now() + CATCH_UP;
        while self.store.revision() < revision && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        let turn = Arc::clone(&self.hashing).acquire_owned().await.map_err(|error| error.to_string())?;
        let store = self.store.clone();
        let hashed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            store.hash_kv(revision)
        });
        match hashed.await {
            Ok(hashed) => hashed.map_err(|error: HashError| error.to_string()),
            Err(_stopped) => Err("it is stopping".to_owned()),
        }
    }
}
