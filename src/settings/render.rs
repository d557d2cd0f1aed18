//! Renders [`Settings`] as the configuration file that the charm writes for the server.

use serde_yaml::{Mapping, Value};

use super::flags::{self, Flag, Kind, split_list};
use super::model::{LogOutput, Settings, TlsSettings};
use super::values::{format_duration, parse_duration};

/// Written even when they equal the defaults: the member's identity and URLs.
const ALWAYS: &[&str] = &[
    "name",
    "data-dir",
    "listen-peer-urls",
    "listen-client-urls",
    "initial-advertise-peer-urls",
    "advertise-client-urls",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
];

impl Settings {
    /// The configuration file with these settings: identity and URLs always, everything else only
    /// where it differs from the default. Equal settings give equal bytes.
    pub fn to_yaml(&self) -> String {
        let defaults = Settings::default().flag_values();
        let mut document = Mapping::new();
        for ((name, text), (_, default)) in self.flag_values().into_iter().zip(defaults) {
            let Some(flag) = flags::find(name) else { continue };
            if text == default && !ALWAYS.contains(&name) {
                continue;
            }
            let value = yaml_value(flag, &text);
            match flag.yaml.split_once('/') {
                None => drop(document.insert(flag.yaml.into(), value)),
                Some((section, key)) => {
                    let entry = document.entry(section.into()).or_insert_with(|| Value::Mapping(Mapping::new()));
                    if let Value::Mapping(section) = entry {
                        section.insert(key.into(), value);
                    }
                }
            }
        }
        serde_yaml::to_string(&document).expect("a mapping of plain scalars serializes")
    }

    /// Every flag with its text for these settings, in a fixed order.
    fn flag_values(&self) -> Vec<(&'static str, String)> {
        let mut values = self.member_values();
        values.extend(self.cluster_values());
        values.extend(tls_values("", &self.client_tls));
        values.extend(tls_values("peer-", &self.peer_tls));
        values.extend(self.policy_values());
        values
    }

    fn member_values(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Option<std::path::PathBuf>| {
            path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
        };
        let optional = |duration: Option<_>| format_duration(duration.unwrap_or_default());
        vec![
            ("name", self.name.clone()),
            ("data-dir", self.data_dir.display().to_string()),
            ("wal-dir", path(&self.wal_dir)),
            ("listen-peer-urls", self.listen_peer_urls.to_string()),
            ("listen-client-urls", self.listen_client_urls.to_string()),
            ("listen-client-http-urls", self.listen_client_http_urls.to_string()),
            ("listen-metrics-urls", self.listen_metrics_urls.to_string()),
            ("socket-reuse-port", self.socket_reuse_port.to_string()),
            ("heartbeat-interval", self.heartbeat_interval.as_millis().to_string()),
            ("election-timeout", self.election_timeout.as_millis().to_string()),
            ("pre-vote", self.pre_vote.to_string()),
            ("snapshot-count", self.snapshot_count.to_string()),
            ("snapshot-catchup-entries", self.snapshot_catchup_entries.to_string()),
            ("max-wals", self.max_wals.to_string()),
            ("raft-read-timeout", format_duration(self.raft_read_timeout)),
            ("raft-write-timeout", format_duration(self.raft_write_timeout)),
            ("quota-backend-bytes", self.limits.quota.to_flag()),
            ("max-request-bytes", self.limits.max_request_bytes.to_string()),
            ("max-txn-ops", self.limits.max_txn_ops.to_string()),
            ("max-concurrent-streams", self.limits.max_concurrent_streams.to_string()),
            ("grpc-keepalive-min-time", format_duration(self.keepalive.min_time)),
            ("grpc-keepalive-interval", optional(self.keepalive.interval)),
            ("grpc-keepalive-timeout", optional(self.keepalive.timeout)),
            ("block-cache-bytes", self.memory.block_cache_bytes.to_string()),
            ("write-buffer-bytes", self.memory.write_buffer_bytes.to_string()),
        ]
    }

    fn cluster_values(&self) -> Vec<(&'static str, String)> {
        vec![
            ("initial-advertise-peer-urls", self.initial_advertise_peer_urls.to_string()),
            ("advertise-client-urls", self.advertise_client_urls.to_string()),
            ("initial-cluster", self.initial_cluster.to_string()),
            ("initial-cluster-state", self.initial_cluster_state.as_str().to_owned()),
            ("initial-cluster-token", self.initial_cluster_token.clone()),
            ("strict-reconfig-check", self.strict_reconfig_check.to_string()),
            ("max-learners", self.max_learners.to_string()),
            ("force-new-cluster", self.force_new_cluster.to_string()),
            ("promote-learners", self.promote_learners.to_string()),
            ("auto-compaction-mode", self.auto_compaction.mode().to_owned()),
            ("auto-compaction-retention", self.auto_compaction.retention()),
            ("enable-v2", self.enable_v2.to_string()),
            ("enable-grpc-gateway", self.enable_grpc_gateway.to_string()),
            ("enable-pprof", self.enable_pprof.to_string()),
            ("feature-gates", self.feature_gates.to_string()),
        ]
    }

    fn policy_values(&self) -> Vec<(&'static str, String)> {
        let policy = &self.tls_policy;
        let suites: Vec<&str> = policy.cipher_suites.iter().map(|suite| suite.name()).collect();
        let outputs: Vec<String> = self.logging.outputs.iter().map(output_text).collect();
        let checks = &self.checks;
        let authentication = &self.authentication;
        let metrics = if self.extensive_metrics { "extensive" } else { "basic" };
        vec![
            ("self-signed-cert-validity", policy.self_signed_years.to_string()),
            ("cipher-suites", suites.join(",")),
            ("tls-min-version", policy.min_version.as_str().to_owned()),
            ("tls-max-version", policy.max_version.as_str().to_owned()),
            ("cors", self.cors.text()),
            ("host-whitelist", self.host_whitelist.text()),
            ("auth-token", authentication.token.text()),
            ("auth-token-ttl", authentication.token_ttl.as_secs().to_string()),
            ("bcrypt-cost", authentication.bcrypt_cost.to_string()),
            ("log-level", self.logging.level.as_str().to_owned()),
            ("log-format", self.logging.format.as_str().to_owned()),
            ("log-outputs", outputs.join(",")),
            ("metrics", metrics.to_owned()),
            ("warning-apply-duration", format_duration(checks.warning_apply_duration)),
            ("warning-unary-request-duration", format_duration(checks.warning_unary_request_duration)),
            ("corrupt-check-time", format_duration(checks.corrupt_check_time.unwrap_or_default())),
            ("compact-hash-check-time", format_duration(checks.compact_hash_check_time)),
            ("compaction-batch-limit", checks.compaction_batch_limit.to_string()),
            ("compaction-sleep-interval", format_duration(checks.compaction_sleep_interval)),
            ("watch-progress-notify-interval", format_duration(checks.watch_progress_notify_interval)),
        ]
    }
}

/// The flags of one TLS section; `prefix` is empty for clients and `peer-` for peers. The caller's
/// lookup drops names that do not exist for a side.
fn tls_values(prefix: &str, tls: &TlsSettings) -> Vec<(&'static str, String)> {
    let path =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let crl = if prefix.is_empty() { "client-crl-file" } else { "peer-crl-file" };
    let cn = if prefix.is_empty() { "client-cert-allowed-cn" } else { "peer-cert-allowed-cn" };
    let hostname = if prefix.is_empty() { "client-cert-allowed-hostname" } else { "peer-cert-allowed-hostname" };
    let named = [
        (format!("{prefix}cert-file"), path(&tls.cert_file)),
        (format!("{prefix}key-file"), path(&tls.key_file)),
        (format!("{prefix}client-cert-file"), path(&tls.client_cert_file)),
        (format!("{prefix}client-key-file"), path(&tls.client_key_file)),
        (format!("{prefix}client-cert-auth"), tls.client_cert_auth.to_string()),
        (format!("{prefix}trusted-ca-file"), path(&tls.trusted_ca_file)),
        (crl.to_owned(), path(&tls.crl_file)),
        (cn.to_owned(), tls.allowed_cn.join(",")),
        (hostname.to_owned(), tls.allowed_hostname.join(",")),
        (format!("{prefix}auto-tls"), tls.auto.to_string()),
        (format!("{prefix}skip-client-san-verification"), tls.skip_client_san_verification.to_string()),
    ];
    named.into_iter().filter_map(|(name, text)| flags::find(&name).map(|flag| (flag.name, text))).collect()
}

fn output_text(output: &LogOutput) -> String {
    match output {
        LogOutput::Stderr => "stderr".to_owned(),
        LogOutput::Stdout => "stdout".to_owned(),
        LogOutput::Journal => "systemd/journal".to_owned(),
        LogOutput::File(path) => path.display().to_string(),
    }
}

/// A flag's text as the YAML value etcd would read.
fn yaml_value(flag: &Flag, text: &str) -> Value {
    let number = |text: &str| text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from);
    match flag.kind {
        Kind::Bool => Value::Bool(text == "true"),
        Kind::Uint(_) | Kind::Int => number(text),
        Kind::Duration => match parse_duration(text) {
            Ok(duration) => Value::from(duration.as_nanos() as u64),
            Err(_) => Value::from(text),
        },
        Kind::List if !matches!(flag.name, "cors" | "host-whitelist") => {
            Value::Sequence(split_list(text).map(Value::from).collect())
        }
        Kind::List | Kind::Text | Kind::Urls | Kind::Gates | Kind::OneOf(_) => Value::from(text),
    }
}
