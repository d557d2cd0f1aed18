//! openraft's storage suite on the log, with the smallest state machine that satisfies it.

use std::io;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, StorageError};

use super::super::{LogStore, open};
use super::small;
use crate::model::effects::{Applied, Position, Response};
use crate::raft::types::{LogId, Payload, Reply, SnapshotMeta, StoredMembership, TypeConfig};

/// Remembers what was applied last, nothing else.
#[derive(Debug, Default, Clone)]
struct Memory {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

type Taken = Snapshot<<LogId as openraft::log_id::RaftLogId>::CommittedLeaderId, u64, crate::raft::types::Member, ()>;

impl RaftStateMachine<TypeConfig> for Memory {
    type SnapshotData = ();
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            if let Payload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                let position = Position { term: entry.log_id.leader_id.term, index: entry.log_id.index };
                responder.send(Reply(Box::new(Applied { revision: 1, position, outcome: Ok(Response::None) })));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        let last_log_id = self.applied;
        let meta = SnapshotMeta { last_log_id, last_membership: self.membership.clone() };
        self.snapshot = Some(meta.clone());
        Builder(meta)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Taken>, io::Error> {
        Ok(self.snapshot.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct Builder(SnapshotMeta);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<Taken, io::Error> {
        Ok(Snapshot { meta: self.0.clone(), snapshot: () })
    }
}

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, Memory, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Memory), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (log, _) = open(dir.path(), small()).expect("opens");
        Ok((dir, log, Memory::default()))
    }
}

#[tokio::test]
async fn the_log_passes_openrafts_storage_suite() {
    Suite::test_all(OnDisk).await.expect("the suite passes");
}
