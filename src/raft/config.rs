//! What consensus is told at start, and how that becomes openraft's configuration.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};

use super::LeaderDuties;
use super::error::StartError;
use super::network::PeerTls;
use super::types::NodeId;
use crate::store::log::LogStore;
use crate::store::{Machine, Store};

/// Entries in one batch to a follower. The log cuts a batch by bytes long before (`limited_get_log_entries`).
const MAX_BATCH_ENTRIES: u64 = 4096;
/// How long nothing may move while a snapshot is shipped. All of it may take as long as the network needs.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(60);
/// A removed leader goes on this long, so that whoever asked for the removal gets its answer.
const REMOVED_LEADER_STAYS_MS: u64 = 150;

/// Rules and times that consensus follows; durations as in `settings`.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `--heartbeat-interval`.
    pub heartbeat: Duration,
    /// `--election-timeout`; a member that hears of no leader asks for votes after one and a half to two times it.
    pub election: Duration,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--snapshot-count`: a snapshot is due after so many entries.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`: so many entries stay behind a snapshot, where the bounds below leave room.
    pub catchup_entries: u64,
    /// Bytes that the log's segments may take. A snapshot is due when what came since the last one takes half of it; at three quarters commands wait.
    pub log_bytes: u64,
    /// `--max-wals`: segments that stay when a snapshot makes more of them superfluous.
    pub max_wals: usize,
    /// `--strict-reconfig-check`.
    pub strict_reconfig: bool,
    /// `--max-learners`.
    pub max_learners: usize,
    /// How long a request may take that has no deadline of its own.
    pub request_timeout: Duration,
}

/// Everything [`super::start`] needs.
pub struct RaftOptions {
    /// This member.
    pub id: NodeId,
    /// This cluster.
    pub cluster_id: u64,
    /// Rules and times.
    pub rules: Rules,
    /// Leave every other member behind: `--force-new-cluster`.
    pub force_alone: bool,
    /// The opened log.
    pub log: LogStore,
    /// The opened state machine.
    pub machine: Machine,
    /// The read side of the same state.
    pub store: Store,
    /// How peers prove who they are.
    pub tls: PeerTls,
    /// What this member does while it leads.
    pub duties: Arc<dyn LeaderDuties>,
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().min(u128::from(u64::MAX)) as u64
}

/// openraft's configuration. Its defaults are made for a laptop; the reasons are in `docs/decisions`.
pub(super) fn openraft(rules: &Rules, cluster_id: u64) -> Result<Config, StartError> {
    let heartbeat = millis(rules.heartbeat).max(1);
    let election = millis(rules.election).max(heartbeat * 3);
    let config = Config {
        cluster_name: format!("{cluster_id:x}"),
        heartbeat_interval: heartbeat,
        // Under load every append proves what a heartbeat would.
        heartbeat_min_interval: Some(heartbeat / 2),
        // openraft waits out the leader's lease, which is `max`, before the random part: together that is what etcd's
        // followers wait, one to two election timeouts.
        election_timeout_min: election / 2,
        election_timeout_max: election,
        enable_pre_vote: Some(rules.pre_vote),
        // Without it a leader that can send but not hear would keep the others from electing one that can.
        quorum_loss_probe_interval: Some(election * 4),
        max_payload_entries: MAX_BATCH_ENTRIES,
        // Snapshots follow our own rule (`snapshots`): a checkpoint costs a flush, whatever the number of entries.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: rules.catchup_entries,
        // Once per snapshot, so one write buys it, however few they are.
        purge_batch_size: 1,
        install_snapshot_timeout: millis(SNAPSHOT_SILENCE),
        api_batch_linger_ms: 0,
        // A restarted member must not go on leading: it has forgotten what was committed, so it would confirm reads at
        // the beginning of its term. openraft's own default is to go on.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        removed_leader_step_down: StepDownPolicy::After(REMOVED_LEADER_STAYS_MS),
        backoff: "50ms 100ms 200ms ...1s".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Config(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(heartbeat: u64, election: u64) -> Rules {
        Rules {
            heartbeat: Duration::from_millis(heartbeat),
            election: Duration::from_millis(election),
            pre_vote: true,
            snapshot_count: 10_000,
            catchup_entries: 5_000,
            log_bytes: 1 << 30,
            max_wals: 5,
            strict_reconfig: true,
            max_learners: 1,
            request_timeout: Duration::from_secs(7),
        }
    }

    #[test]
    fn every_pair_of_times_that_settings_accept_is_a_configuration_openraft_accepts() {
        for (heartbeat, election) in [(100, 1000), (10, 50), (1, 5), (500, 2500), (10_000, 50_000)] {
            let config = openraft(&rules(heartbeat, election), 1).expect("a valid configuration");
            assert_eq!((config.heartbeat_interval, config.election_timeout_max), (heartbeat, election));
            assert!(config.election_timeout_min > heartbeat && config.election_timeout_min < election);
        }
    }

    #[test]
    fn log_reversion_and_leader_restore_stay_off() {
        let config = openraft(&rules(100, 1000), 1).expect("a valid configuration");
        assert_eq!((config.allow_log_reversion, config.enable_leader_restore), (Some(false), Some(false)));
    }
}
