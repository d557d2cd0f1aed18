//! `/metrics`: the counters of all rooms under etcd's names, in Prometheus' text format.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering::Relaxed;

use super::histogram::Observations;
use super::methods::METHODS;
use super::metrics::Metrics;
use super::process;
use super::state::State;
use super::v2;
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
    store(&mut page, state);
    watches(&mut page, state.hub.stats());
    v2_watches(&mut page, &state.metrics.v2);
    network(&mut page, &state.metrics);
    peers(&mut page, state);
    calls(&mut page, &state.metrics);
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
    page.counter("etcd_server_health_success", "Successful /health probes.", metrics.health_success.load(Relaxed));
    page.counter("etcd_server_health_failures", "Failed /health probes.", metrics.health_failures.load(Relaxed));
    page.gauge(
        "etcd_server_quota_backend_bytes",
        "Space quota, 0 when there is none.",
        state.limits.quota_bytes.unwrap_or(0),
    );
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

fn store(page: &mut Page, state: &State) {
    let size = state.store.size();
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes the state takes.", size.allocated);
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of it in use.", size.in_use);
    page.gauge("etcd_debugging_mvcc_current_revision", "Current revision.", state.store.revision());
    page.gauge("etcd_debugging_mvcc_compact_revision", "Compacted revision.", state.store.compacted());
    page.counter("etcd_mvcc_put_total", "Keys put.", state.metrics.puts.load(Relaxed));
    page.counter("etcd_mvcc_delete_total", "Keys deleted.", state.metrics.deletes.load(Relaxed));
    page.counter("etcd_mvcc_txn_total", "Revisions with several changes.", state.metrics.txns.load(Relaxed));
    let syncs = state.metrics.wal_fsync.read();
    page.histogram("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log.", &syncs);
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
}

fn calls(page: &mut Page, metrics: &Metrics) {
    page.head("grpc_server_started_total", "counter", "Calls begun.");
    for ((service, method, kind), counters) in METHODS.iter().zip(&metrics.methods) {
        let labels = [("grpc_method", *method), ("grpc_service", service.name()), ("grpc_type", kind.label())];
        page.sample("grpc_server_started_total", &labels, counters.started.load(Relaxed));
    }
    page.head("grpc_server_handled_total", "counter", "Calls ended, by code.");
    for ((service, method, kind), counters) in METHODS.iter().zip(&metrics.methods) {
        for (code, count) in CODE_NAMES.iter().zip(&counters.handled) {
            let labels = [
                ("grpc_code", *code),
                ("grpc_method", *method),
                ("grpc_service", service.name()),
                ("grpc_type", kind.label()),
            ];
            page.sample("grpc_server_handled_total", &labels, count.load(Relaxed));
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

    pub(super) fn histogram(&mut self, name: &str, help: &str, seen: &Observations) {
        self.head(name, "histogram", help);
        let series = format!("{name}_bucket");
        for (bound, below) in &seen.buckets {
            self.sample(&series, &[("le", &bound.to_string())], below);
        }
        self.sample(&series, &[("le", "+Inf")], seen.count);
        self.sample(&format!("{name}_sum"), &[], seen.sum_seconds);
        self.sample(&format!("{name}_count"), &[], seen.count);
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
    use crate::api::histogram::Histogram;

    #[test]
    fn samples_are_prometheus_lines_with_labels_in_the_order_given() {
        let mut page = Page::default();
        page.gauge("a", "An a.", 1);
        page.sample("b", &[("x", "1"), ("y", "2")], 3);
        assert_eq!(page.0, "# HELP a An a.\n# TYPE a gauge\na 1\nb{x=\"1\",y=\"2\"} 3\n");
    }

    #[test]
    fn histograms_end_with_everything() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(60));
        let mut page = Page::default();
        page.histogram("h", "An h.", &histogram.read());
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
