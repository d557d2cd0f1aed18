//! Corruption checks: compare the members' keyspaces, and raise the CORRUPT alarm if they differ.
//!
//! Three checks, as in etcd: before a member serves clients ([`before_serving`]), periodically, and after compactions
//! (the latter two only on the leader). A check asks every member for its HashKV at one revision; [`verdict`] compares
//! the comparable ones. The alarm goes through the log, so that from one entry on every member refuses writes; the
//! blocked commands are in `model::gate`.

mod verdict;

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use self::verdict::{Reading, Verdict, ahead, judge, stands_alone};
use crate::model::command::{self, Command};
use crate::model::view::View;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType};
use crate::raft::{Consensus, PeerHash};
use crate::settings::ids::hex;
use crate::store::{HashError, HashKv, Store};

/// Intervals of the checks, from the settings; `None` = never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckTimes {
    /// `--corrupt-check-time`.
    pub every: Option<Duration>,
    /// `--compact-hash-check-time`, when `CompactHashCheck` is on.
    pub compaction: Option<Duration>,
}

/// This member's keyspace differs from the others'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{id} found data inconsistency with peers: its hash at revision {revision} differs from that of {others}; do not let it \
     serve. If it is the one that is damaged, remove it from the cluster, empty its data directory and add it again"
)]
pub struct Inconsistent {
    /// This member.
    pub id: String,
    /// The revision compared.
    pub revision: i64,
    /// The members that differ.
    pub others: String,
}

/// Compares this member with the others.
#[derive(Clone)]
pub struct Checker {
    /// Queries the other members and raises the alarm.
    pub consensus: Consensus,
    /// This member's keyspace.
    pub store: Store,
    /// Timeout of a proposal or read barrier.
    pub patience: Duration,
}

impl Checker {
    /// Runs the leader's checks until `stop`.
    pub fn start(self, times: CheckTimes, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        if let Some(every) = times.every {
            let (checker, mut turns) = (self.clone(), Turns::every(every, &self.consensus, stop));
            tasks.push(tokio::spawn(async move {
                while turns.next().await {
                    turns.until_stop(checker.compare_now()).await;
                }
            }));
        }
        if let Some(every) = times.compaction {
            let mut turns = Turns::every(every, &self.consensus, stop);
            tasks.push(tokio::spawn(async move {
                let mut checked = -1;
                while turns.next().await {
                    turns.until_stop(self.compare_compaction(&mut checked)).await;
                }
            }));
        }
        tasks
    }

    /// Compares all members at the current revision.
    async fn compare_now(&self) {
        let Some(own) = self.own_hash(0).await else { return };
        let peers = self.consensus.peer_hashes(own.hash_revision).await;
        // After this, this member has applied everything that the others had applied when they answered.
        if let Err(error) = self.consensus.read_barrier(Instant::now() + self.patience).await {
            tracing::warn!(%error, "the corruption check did not end: this member cannot confirm that it leads");
            return;
        }
        let (readings, id) = (readings(&peers), self.consensus.status().id);
        let own = reading(id, &own);
        self.act(&own, judge(&own, &readings), "corruption check").await;
        for member in ahead(id, self.store.revision(), self.store.compacted(), &readings) {
            tracing::error!(
                member_id = hex(member),
                "a member has revisions or compactions that the log does not hold"
            );
            self.raise(member).await;
        }
    }

    /// Compares all members at the last compaction revision, unless already done.
    async fn compare_compaction(&self, checked: &mut i64) {
        let compacted = self.store.compacted();
        if compacted <= (*checked).max(0) {
            return;
        }
        let Some(own) = self.own_hash(compacted).await.filter(|own| own.compact_revision == compacted) else { return };
        let readings = readings(&self.consensus.peer_hashes(compacted).await);
        let own = reading(self.consensus.status().id, &own);
        let verdict = judge(&own, &readings);
        let whole = matches!(verdict, Verdict::Equal { missing: 0, .. } | Verdict::Differ { .. });
        self.act(&own, verdict, "compaction hash check").await;
        if whole {
            *checked = compacted;
        }
    }

    /// Acts on a verdict.
    async fn act(&self, own: &Reading, verdict: Verdict, check: &str) {
        let (revision, compact_revision) = (own.hash_revision, own.compacted);
        match verdict {
            Verdict::Equal { compared, missing: 0 } => {
                tracing::info!(revision, compact_revision, number_of_peers_checked = compared, "finished {check}");
            }
            Verdict::Equal { compared, missing } => {
                let checked = compared;
                tracing::warn!(
                    revision,
                    compact_revision,
                    number_of_peers_checked = checked,
                    number_of_peers_missing = missing,
                    "finished {check}, but not all members could be compared"
                );
            }
            Verdict::Differ { named, by_hash } => {
                for (hash, members) in by_hash {
                    tracing::error!(
                        revision,
                        compact_revision,
                        hash,
                        members,
                        "{check}: members' keyspaces differ; the hash and who has it"
                    );
                }
                for member in named {
                    self.raise(member).await;
                }
            }
        }
    }

    /// Raises CORRUPT for a member; 0 = unknown member.
    async fn raise(&self, member_id: u64) {
        let kind = i32::from(AlarmType::Corrupt);
        if self.store.view().alarms().contains(&(member_id, kind)) {
            return;
        }
        let alarm = AlarmRequest { action: AlarmAction::Activate.into(), member_id, alarm: kind };
        let raised =
            self.consensus.propose(command::encode(Command::Alarm(alarm)), Instant::now() + self.patience).await;
        match raised {
            Ok(_) => tracing::error!(member_id = hex(member_id), "the CORRUPT alarm is raised"),
            Err(error) => tracing::error!(member_id = hex(member_id), %error, "the CORRUPT alarm could not be raised"),
        }
    }

    async fn own_hash(&self, revision: i64) -> Option<HashKv> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.hash_kv(revision)).await {
            Ok(Ok(hash)) => Some(hash),
            // Compacted in the meantime: leave it to the next check.
            Ok(Err(HashError::Refused(_))) => None,
            Ok(Err(HashError::Store(error))) => {
                tracing::error!(%error, "this member's state cannot be read for a corruption check");
                None
            }
            Err(_stopped) => None,
        }
    }

    /// Compares this member with the others before it serves clients.
    ///
    /// # Errors
    /// Others differ, and no majority agrees with this member.
    pub async fn before_serving(&self) -> Result<(), Inconsistent> {
        let id = self.consensus.status().id;
        tracing::info!(local_member_id = hex(id), "starting initial corruption check");
        let Some(own) = self.own_hash(0).await else { return Ok(()) };
        let own = reading(id, &own);
        let readings = readings(&self.consensus.peer_hashes(own.hash_revision).await);
        let verdict = judge(&own, &readings);
        let others = stands_alone(&own, &readings);
        if others.is_empty() {
            if let Verdict::Differ { .. } = verdict {
                tracing::error!(
                    local_member_id = hex(id),
                    "initial corruption check: a minority of the others differs"
                );
            }
            tracing::info!(local_member_id = hex(id), "initial corruption checking passed; no corruption");
            return Ok(());
        }
        let (revision, others) = (own.hash_revision, others.into_iter().map(hex).collect::<Vec<_>>().join(", "));
        tracing::error!(local_member_id = hex(id), revision, others, "found data inconsistency with peers");
        Err(Inconsistent { id: hex(id), revision, others })
    }
}

/// The ticks at which the leader checks.
struct Turns {
    ticks: Interval,
    consensus: Consensus,
    stop: CancellationToken,
}

impl Turns {
    fn every(every: Duration, consensus: &Consensus, stop: &CancellationToken) -> Self {
        // Not at once: a member that has just started has no peers connected yet.
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, consensus: consensus.clone(), stop: stop.clone() }
    }

    /// Waits for a tick at which this member leads; `false` when the member stops.
    async fn next(&mut self) -> bool {
        loop {
            tokio::select! {
                _ = self.ticks.tick() => {}
                () = self.stop.cancelled() => return false,
            }
            if self.consensus.status().is_leader {
                return true;
            }
        }
    }

    async fn until_stop(&self, check: impl Future<Output = ()>) {
        tokio::select! {
            () = check => {}
            () = self.stop.cancelled() => {}
        }
    }
}

fn reading(member: u64, hash: &HashKv) -> Reading {
    let HashKv { hash, compact_revision, hash_revision, current } = *hash;
    Reading { member, hash, compacted: compact_revision, hash_revision, current }
}

/// The members' answers; `None` = no answer.
fn readings(peers: &[PeerHash]) -> Vec<Option<Reading>> {
    let told = |peer: &PeerHash| match &peer.hash {
        Ok(hash) => Some(reading(peer.id, hash)),
        Err(reason) => {
            tracing::warn!(remote_peer_id = hex(peer.id), reason, "a member cannot be compared");
            None
        }
    };
    peers.iter().map(told).collect()
}
