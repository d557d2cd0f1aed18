//! `/metrics`: the counters of all rooms under etcd's names, in Prometheus' text format.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering::Relaxed;

use super::health::CHECKS;
use super::methods::Rpc;
use super::metrics::{CheckCounters, Metrics};
use super::process;
use super::state::State;
use super::v2;
use super::v3::maintenance::alarm_name;
use crate::histogram::Observations;
use crate::model::view::View;
use crate::raft::network::Peer;
use crate::settings::SERVER_VERSION;
use crate::watch::HubStats;

/// The names of gRPC's codes in metric labels, by number.
const CODE_NAMES: [&str; super::metrics::CODES] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The whole page.
pub fn render(state: &State) -> String {
    let mut page = Page::default();
    server(&mut page, state);
    requests(&mut page, state);
    store(&mut page, state);
    disk(&mut page, &state.metrics);
    watches(&mut page, state.hub.stats());
    v2_watches(&mut page, &state.metrics.v2);
    network(&mut page, &state.metrics);
    peers(&mut page, state);
    calls(&mut page, &state.metrics);
    handling(&mut page, &state.metrics);
    process::render(&mut page);
    page.0
}

fn server(page: &mut Page, state: &State) {
    let raft = state.consensus.status();
    let metrics = &state.metrics;
    page.gauge("etcd_server_has_leader", "Whether a leader is known.", u8::from(raft.leader.is_some()));
    page.gauge("etcd_server_is_leader", "Whether this member leads.", u8::from(raft.leader == Some(raft.id)));
    page.gauge("etcd_server_is_learner", "Whether this member is a learner.", u8::from(raft.is_learner));
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "Changes of leader seen by this member.",
        state.leader_loss.changes(),
    );
    page.gauge("etcd_server_proposals_committed_total", "Committed log index.", raft.committed);
    page.gauge("etcd_server_proposals_applied_total", "Applied log index.", raft.applied);
    page.gauge(
        "etcd_server_proposals_pending",
        "Proposals waiting for their answer.",
        metrics.proposals_pending.load(Relaxed),
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "Proposals that ended without an answer.",
        metrics.proposals_failed.load(Relaxed),
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "Read barriers that failed.",
        metrics.read_indexes_failed.load(Relaxed),
    );
    page.gauge(
        "etcd_server_quota_backend_bytes",
        "Space quota, 0 when there is none.",
        state.limits.quota_bytes.unwrap_or(0),
    );
    if !metrics.options.features.is_empty() {
        page.head("etcd_server_feature_enabled", "gauge", "Feature gates, 1 = on.");
    }
    for (name, on) in &metrics.options.features {
        page.sample("etcd_server_feature_enabled", &[("name", name), ("stage", stage(name))], u8::from(*on));
    }
    page.head("etcd_server_id", "gauge", "This member's id.");
    page.sample("etcd_server_id", &[("server_id", &format!("{:x}", raft.id))], 1);
    page.head("etcd_server_version", "gauge", "The etcd version whose behaviour this server has.");
    page.sample("etcd_server_version", &[("server_version", SERVER_VERSION)], 1);
    let agreed = state.store.view().cluster_version();
    if let Some((minor, _patch)) = agreed.rsplit_once('.') {
        page.head("etcd_cluster_version", "gauge", "The cluster version.");
        page.sample("etcd_cluster_version", &[("cluster_version", minor)], 1);
    }
}

/// etcd's word for how settled a gate is.
fn stage(gate: &str) -> &'static str {
    match gate {
        "AllBeta" | "TxnModeWriteWithSharedBuffer" | "FastLeaseKeepAlive" => "BETA",
        _ => "ALPHA",
    }
}

fn requests(page: &mut Page, state: &State) {
    let metrics = &state.metrics;
    page.counter(
        "etcd_server_slow_apply_total",
        "Batches of entries that took longer than --warning-apply-duration to apply.",
        metrics.slow_applies.load(Relaxed),
    );
    page.counter(
        "etcd_server_slow_read_indexes_total",
        "Read barriers that were not confirmed in time.",
        metrics.slow_read_indexes.load(Relaxed),
    );
    page.counter("etcd_server_health_success", "Successful /health probes.", metrics.health_success.load(Relaxed));
    page.counter("etcd_server_health_failures", "Failed /health probes.", metrics.health_failures.load(Relaxed));
    let asked = |counters: &CheckCounters| counters.success.load(Relaxed) + counters.error.load(Relaxed) > 0;
    let checks = || CHECKS.iter().zip(&metrics.checks).filter(|(_, counters)| asked(counters));
    if checks().next().is_some() {
        page.head("etcd_server_healthcheck", "gauge", "The last result of each check, 1 = good.");
        for ((probe, check), counters) in checks() {
            let last = u8::from(counters.last.load(Relaxed));
            page.sample("etcd_server_healthcheck", &[("name", check.name()), ("type", probe)], last);
        }
        page.head("etcd_server_healthchecks_total", "counter", "Checks by result.");
        for ((probe, check), counters) in checks() {
            for (status, count) in [("error", &counters.error), ("success", &counters.success)] {
                let labels = [("name", check.name()), ("status", status), ("type", *probe)];
                page.sample("etcd_server_healthchecks_total", &labels, count.load(Relaxed));
            }
        }
    }
    page.counter(
        "etcd_server_learner_promote_successes",
        "Learners promoted through this member.",
        metrics.promotions.load(Relaxed),
    );
    page.head("promhttp_metric_handler_requests_total", "counter", "Scrapes by HTTP status code.");
    page.sample("promhttp_metric_handler_requests_total", &[("code", "200")], metrics.scrapes.load(Relaxed));
    page.counter("etcd_debugging_lease_granted_total", "Leases granted.", metrics.leases_granted.load(Relaxed));
    page.counter("etcd_debugging_lease_revoked_total", "Leases ended.", metrics.leases_revoked.load(Relaxed));
    page.counter(
        "etcd_debugging_lease_renewed_total",
        "Renewals for clients of this member.",
        metrics.leases_renewed.load(Relaxed),
    );
}

fn disk(page: &mut Page, metrics: &Metrics) {
    let histograms = [
        ("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log.", &metrics.wal_fsync),
        ("etcd_disk_backend_commit_duration_seconds", "Writes of applied batches.", &metrics.backend_commit),
        ("etcd_disk_backend_snapshot_duration_seconds", "Checkpoints of the state.", &metrics.backend_snapshot),
        ("etcd_disk_backend_defrag_duration_seconds", "Defragmentations.", &metrics.backend_defrag),
    ];
    let hashes = [
        ("etcd_mvcc_hash_duration_seconds", "Hashes over the whole state.", &metrics.hash),
        ("etcd_mvcc_hash_rev_duration_seconds", "Hashes up to a revision.", &metrics.hash_rev),
    ];
    for (name, help, histogram) in histograms.into_iter().chain(hashes) {
        page.histogram(name, &[], help, &histogram.read());
    }
    page.gauge("etcd_disk_defrag_inflight", "Defragmentations under way.", metrics.defrag_inflight.load(Relaxed));
}

fn store(page: &mut Page, state: &State) {
    let size = state.store.size();
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes the state takes.", size.allocated);
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of it in use.", size.in_use);
    page.gauge("etcd_debugging_mvcc_current_revision", "Current revision.", state.store.revision());
    page.gauge("etcd_debugging_auth_revision", "Revision of the auth store.", state.store.auth().revision());
    page.gauge("etcd_debugging_mvcc_compact_revision", "Compacted revision.", state.store.compacted());
    page.counter("etcd_mvcc_put_total", "Keys put.", state.metrics.puts.load(Relaxed));
    page.counter("etcd_mvcc_delete_total", "Keys deleted.", state.metrics.deletes.load(Relaxed));
    page.counter("etcd_mvcc_txn_total", "Revisions with several changes.", state.metrics.txns.load(Relaxed));
    if let Some(keys) = state.metrics.keys.read() {
        page.gauge("etcd_debugging_mvcc_keys_total", "Live keys.", keys);
    }
    page.gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "When history was last compacted, seconds since the epoch.",
        state.metrics.compaction_last.load(Relaxed),
    );
    page.gauge("etcd_mvcc_db_open_read_transactions", "Reads on the blocking pool.", state.work.reads.running());
    let alarms = state.store.view().alarms();
    if !alarms.is_empty() {
        page.head("etcd_debugging_server_alarms", "gauge", "Alarms that are raised.");
    }
    for (member, kind) in alarms {
        let (kind, member) = (alarm_name(kind), format!("{member:x}"));
        page.sample("etcd_debugging_server_alarms", &[("alarm_type", &kind), ("server_id", &member)], 1);
    }
    page.counter("etcd_mvcc_range_total", "Ranges served by this member.", state.metrics.ranges.load(Relaxed));
}

fn watches(page: &mut Page, stats: &HubStats) {
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams.", stats.streams.load(Relaxed));
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", stats.watchers.load(Relaxed));
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers catching up.", stats.slow_watchers.load(Relaxed));
    page.counter("etcd_debugging_mvcc_events_total", "Events sent to watchers.", stats.events.load(Relaxed));
}

fn v2_watches(page: &mut Page, stats: &v2::HubStats) {
    page.gauge("etcd_debugging_store_watchers", "Clients that wait for v2 events.", stats.waiting.load(Relaxed));
    page.counter("etcd_debugging_store_watch_requests_total", "Waits for v2 events begun.", stats.begun.load(Relaxed));
    page.counter("etcd_debugging_store_expires_total", "v2 nodes that expired.", stats.expired.load(Relaxed));
    page.counter(
        "etcd_charm_v2_events_delivered_total",
        "Events put before clients that wait for v2 events; each wakes one client.",
        stats.woken.load(Relaxed),
    );
    page.counter(
        "etcd_charm_v2_slow_watchers_ended_total",
        "Clients whose wait ended because they had fallen behind the window of v2 events.",
        stats.dropped.load(Relaxed),
    );
}

fn network(page: &mut Page, metrics: &Metrics) {
    page.counter(
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes of gRPC messages from clients.",
        metrics.received_bytes.load(Relaxed),
    );
    page.counter(
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes of gRPC messages to clients.",
        metrics.sent_bytes.load(Relaxed),
    );
}

fn peers(page: &mut Page, state: &State) {
    let me = format!("{:x}", state.consensus.status().id);
    let peers = state.consensus.peers().all();
    let mut per_peer = |name, kind, help, local: bool, value: &dyn Fn(&Peer) -> u64| {
        page.head(name, kind, help);
        for peer in &peers {
            let remote = format!("{:x}", peer.id);
            let both = [("Local", me.as_str()), ("Remote", remote.as_str())];
            let to = [("To", remote.as_str())];
            page.sample(name, if local { &both } else { &to }, value(peer));
        }
    };
    per_peer("etcd_network_known_peers", "gauge", "Other members.", true, &|_peer| 1);
    per_peer("etcd_network_active_peers", "gauge", "Other members within reach.", true, &|peer| {
        u64::from(peer.active_since().is_some())
    });
    per_peer("etcd_network_peer_sent_failures_total", "counter", "Requests that did not reach it.", false, &|peer| {
        peer.traffic.failures.load(Relaxed)
    });
    per_peer("etcd_network_peer_sent_bytes_total", "counter", "Bytes sent to it.", false, &|peer| {
        peer.traffic.sent_bytes.load(Relaxed)
    });
    page.head("etcd_network_peer_received_bytes_total", "counter", "Bytes received from it.");
    for peer in &peers {
        let from = format!("{:x}", peer.id);
        let received = peer.traffic.received_bytes.load(Relaxed);
        page.sample("etcd_network_peer_received_bytes_total", &[("From", &from)], received);
    }
    page.head("etcd_network_peer_round_trip_time_seconds", "histogram", "Round trips to it.");
    for peer in &peers {
        let to = format!("{:x}", peer.id);
        page.buckets("etcd_network_peer_round_trip_time_seconds", &[("To", &to)], &peer.traffic.round_trips.read());
    }
}

/// What tells the series of one method from those of another.
fn labels(rpc: Rpc) -> [(&'static str, &'static str); 3] {
    [("grpc_method", rpc.name()), ("grpc_service", rpc.service().name()), ("grpc_type", rpc.kind().label())]
}

fn calls(page: &mut Page, metrics: &Metrics) {
    page.head("grpc_server_started_total", "counter", "Calls begun.");
    for (rpc, counters) in Rpc::ALL.iter().zip(&metrics.methods) {
        let labels = labels(*rpc);
        page.sample("grpc_server_started_total", &labels, counters.started.load(Relaxed));
    }
    page.head("grpc_server_handled_total", "counter", "Calls ended, by code.");
    for (rpc, counters) in Rpc::ALL.iter().zip(&metrics.methods) {
        for (code, count) in CODE_NAMES.iter().zip(&counters.handled) {
            let [method, service, kind] = labels(*rpc);
            let labels = [("grpc_code", *code), method, service, kind];
            page.sample("grpc_server_handled_total", &labels, count.load(Relaxed));
        }
    }
}

/// How long calls took, where that is asked for.
fn handling(page: &mut Page, metrics: &Metrics) {
    let Some(handling) = &metrics.handling else { return };
    page.head("grpc_server_handling_seconds", "histogram", "How long calls took.");
    for (rpc, histogram) in Rpc::ALL.iter().zip(handling) {
        let seen = histogram.read();
        if seen.count > 0 {
            let labels = labels(*rpc);
            page.buckets("grpc_server_handling_seconds", &labels, &seen);
        }
    }
}

/// The page under construction. Writing to a string cannot fail, so results are dropped.
#[derive(Default)]
pub(super) struct Page(String);

impl Page {
    /// What stands so far.
    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.sample(name, &[], value);
    }

    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], help: &str, seen: &Observations) {
        self.head(name, "histogram", help);
        self.buckets(name, labels, seen);
    }

    /// The samples of one histogram; the head stands before all of a name.
    pub(super) fn buckets(&mut self, name: &str, labels: &[(&str, &str)], seen: &Observations) {
        let series = format!("{name}_bucket");
        let finite = seen.buckets.iter().map(|(bound, below)| (bound.to_string(), *below));
        for (bound, below) in finite.chain([("+Inf".to_owned(), seen.count)]) {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&series, &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, seen.sum_seconds);
        self.sample(&format!("{name}_count"), labels, seen.count);
    }

    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            let _infallible = write!(self.0, "{open}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _infallible = writeln!(self.0, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::histogram::{DISK, Histogram};

    #[test]
    fn samples_are_prometheus_lines_with_labels_in_the_order_given() {
        let mut page = Page::default();
        page.gauge("a", "An a.", 1);
        page.sample("b", &[("x", "1"), ("y", "2")], 3);
        assert_eq!(page.0, "# HELP a An a.\n# TYPE a gauge\na 1\nb{x=\"1\",y=\"2\"} 3\n");
    }

    #[test]
    fn histograms_end_with_everything() {
        let histogram = Histogram::new(DISK);
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(60));
        let mut page = Page::default();
        page.histogram("h", &[], "An h.", &histogram.read());
        let lines: Vec<&str> = page.0.lines().collect();
        assert_eq!(lines[2], "h_bucket{le=\"0.001\"} 1");
        assert_eq!(lines[15..], ["h_bucket{le=\"8.192\"} 1", "h_bucket{le=\"+Inf\"} 2", "h_sum 60.001", "h_count 2"]);
    }

    #[test]
    fn code_names_stand_at_their_numbers() {
        for (code, name) in
            [(Code::Ok, "OK"), (Code::Cancelled, "Canceled"), (Code::Unauthenticated, "Unauthenticated")]
        {
            assert_eq!(CODE_NAMES[code as usize], name);
        }
    }
}
