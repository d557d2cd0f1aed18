//! What every request handler shares: the replica behind it, its limits, and the end of long-lived streams.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::identity::Identities;
use super::leader::LeaderLoss;
use super::metrics::Metrics;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::raft::Consensus;
use crate::store::{EventSink, Store};
use crate::watch::Hub;
use crate::work::Lanes;

/// Bytes a gRPC message may have beyond `--max-request-bytes`, as etcd allows for framing.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;
/// Request timeout before the election timeout is counted in.
const BASE_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Configured bounds of the client API, read once at the start.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest replicated request, bytes.
    pub max_request_bytes: usize,
    /// Operations in one list of a transaction.
    pub max_txn_ops: usize,
    /// Bytes the state may allocate before writes are refused; `None` = no quota.
    pub quota_bytes: Option<u64>,
    /// Time between heartbeats, one tick of etcd's clock.
    pub heartbeat: Duration,
    /// Raft's election timeout.
    pub election_timeout: Duration,
}

impl Limits {
    /// How long a proposal or a read barrier may take: 5 s and two elections, as etcd waits.
    pub fn request_timeout(&self) -> Duration {
        BASE_REQUEST_TIMEOUT + 2 * self.election_timeout
    }

    /// Shortest lease, seconds: one and a half elections in whole ticks, rounded up to seconds.
    pub fn min_lease_ttl(&self) -> i64 {
        let tick = self.heartbeat.as_millis().max(1);
        let ticks = self.election_timeout.as_millis() / tick;
        let shortest = (3 * ticks / 2 * tick).div_ceil(1000);
        i64::try_from(shortest).unwrap_or(i64::MAX).max(1)
    }

    /// Largest gRPC message that is read at all, bytes.
    pub fn max_message_bytes(&self) -> usize {
        self.max_request_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES)
    }
}

/// Shared by all services of the client port.
pub struct State {
    /// The replicated log.
    pub consensus: Consensus,
    /// The applied state.
    pub store: Store,
    /// Committed events on their way to watchers.
    pub hub: Arc<Hub>,
    /// Configured bounds.
    pub limits: Limits,
    /// Counters of this port.
    pub metrics: Arc<Metrics>,
    /// Who is behind requests.
    pub identities: Arc<Identities>,
    /// Says when streams that need a leader must end.
    pub leader_loss: LeaderLoss,
    /// Cancelled when the member begins to stop; streams end then.
    pub stopping: CancellationToken,
    /// Whether the health service says that this member serves.
    pub serving: watch::Sender<bool>,
    /// Turns at what blocks, and bytes of answers.
    pub work: Lanes,
}

impl State {
    /// Gathers what handlers need. Must be called inside the serving runtime: it starts the leader-loss monitor.
    /// `metrics` is made before, because the log is opened with its observer.
    pub fn new(
        consensus: Consensus,
        store: Store,
        hub: Arc<Hub>,
        limits: Limits,
        metrics: Arc<Metrics>,
        identities: Arc<Identities>,
        stopping: CancellationToken,
    ) -> Arc<Self> {
        let leader_loss = LeaderLoss::monitor(consensus.leader_watch(), limits.election_timeout);
        let sink: Arc<dyn EventSink> = metrics.clone();
        store.subscribe(sink);
        let sink: Arc<dyn EventSink> = identities.clone();
        store.subscribe(sink);
        tokio::spawn(Arc::clone(&metrics.keys).follow(store.clone(), stopping.clone()));
        Arc::new(Self {
            consensus,
            store,
            hub,
            limits,
            metrics,
            identities,
            leader_loss,
            stopping,
            serving: watch::Sender::new(true),
            work: Lanes::default(),
        })
    }

    /// Whether a feature gate is on.
    pub fn gate(&self, name: &str) -> bool {
        self.metrics.options.features.iter().any(|(gate, on)| *gate == name && *on)
    }

    /// The header of an answer that shows the state at `revision`.
    pub fn header(&self, revision: i64) -> Option<ResponseHeader> {
        let status = self.consensus.status();
        Some(ResponseHeader { cluster_id: status.cluster_id, member_id: status.id, revision, raft_term: status.term })
    }

    /// The header of an answer that shows the state as it is now.
    pub fn header_now(&self) -> Option<ResponseHeader> {
        self.header(self.store.revision())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(heartbeat: u64, election: u64) -> Limits {
        Limits {
            max_request_bytes: 1_572_864,
            max_txn_ops: 128,
            quota_bytes: None,
            heartbeat: Duration::from_millis(heartbeat),
            election_timeout: Duration::from_millis(election),
        }
    }

    #[test]
    fn shortest_lease_is_one_and_a_half_elections_rounded_up_as_in_etcd() {
        assert_eq!(limits(100, 1000).min_lease_ttl(), 2);
        assert_eq!(limits(10, 100).min_lease_ttl(), 1);
        assert_eq!(limits(100, 5000).min_lease_ttl(), 8);
        assert_eq!(limits(300, 1600).min_lease_ttl(), 3);
    }

    #[test]
    fn request_timeout_and_message_limit_follow_etcds_defaults() {
        assert_eq!(limits(100, 1000).request_timeout(), Duration::from_secs(7));
        assert_eq!(limits(100, 1000).max_message_bytes(), 2_097_152);
    }
}
