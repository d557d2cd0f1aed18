//! The type of checked settings.

use std::path::PathBuf;
use std::time::Duration;

use super::auth::AuthToken;
use super::features::FeatureGates;
use super::urls::{InitialCluster, UrlList};
use super::values::{AutoCompaction, CipherSuite, ClusterState, LogFormat, LogLevel, Quota, TlsVersion};

/// All settings of a member. Fields have etcd's flag names; units are in the types.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `--name`.
    pub name: String,
    /// `--data-dir`, already `<name>.etcd` when it was not given.
    pub data_dir: PathBuf,
    /// `--wal-dir`.
    pub wal_dir: Option<PathBuf>,
    /// `--listen-peer-urls`.
    pub listen_peer_urls: UrlList,
    /// `--listen-client-urls`.
    pub listen_client_urls: UrlList,
    /// `--listen-client-http-urls`; when not empty, `listen_client_urls` serve gRPC only.
    pub listen_client_http_urls: UrlList,
    /// `--listen-metrics-urls`.
    pub listen_metrics_urls: UrlList,
    /// `--socket-reuse-port`.
    pub socket_reuse_port: bool,

    /// `--initial-advertise-peer-urls`.
    pub initial_advertise_peer_urls: UrlList,
    /// `--advertise-client-urls`.
    pub advertise_client_urls: UrlList,
    /// `--initial-cluster`; read only while the data directory is empty.
    pub initial_cluster: InitialCluster,
    /// `--initial-cluster-state`.
    pub initial_cluster_state: ClusterState,
    /// `--initial-cluster-token`.
    pub initial_cluster_token: String,
    /// `--strict-reconfig-check`.
    pub strict_reconfig_check: bool,
    /// `--max-learners`.
    pub max_learners: u32,
    /// `--force-new-cluster`.
    pub force_new_cluster: bool,
    /// `--promote-learners`: the leader promotes learners that have published their attributes and caught up.
    pub promote_learners: bool,

    /// `--heartbeat-interval`.
    pub heartbeat_interval: Duration,
    /// `--election-timeout`: at least five heartbeats, at most 50 s.
    pub election_timeout: Duration,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--snapshot-count`, never 0.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`, never 0.
    pub snapshot_catchup_entries: u64,
    /// `--max-wals`; 0 is no limit.
    pub max_wals: u32,
    /// `--raft-read-timeout`, at least 5 s.
    pub raft_read_timeout: Duration,
    /// `--raft-write-timeout`, at least 5 s.
    pub raft_write_timeout: Duration,

    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// Sizes and counts.
    pub limits: Limits,
    /// gRPC keepalive.
    pub keepalive: Keepalive,
    /// TLS of the client listeners.
    pub client_tls: TlsSettings,
    /// TLS of the peer listeners and of calls to peers.
    pub peer_tls: TlsSettings,
    /// TLS rules common to both.
    pub tls_policy: TlsPolicy,
    /// `--cors`.
    pub cors: AllowList,
    /// `--host-whitelist`.
    pub host_whitelist: AllowList,
    /// Tokens and passwords.
    pub authentication: Authentication,
    /// Logs.
    pub logging: Logging,
    /// `--metrics=extensive`.
    pub extensive_metrics: bool,
    /// Background checks, compaction pace, warnings.
    pub checks: Checks,
    /// `--feature-gates` and the old flags that became gates.
    pub feature_gates: FeatureGates,
    /// `--enable-grpc-gateway`.
    pub enable_grpc_gateway: bool,
    /// `--enable-pprof`.
    pub enable_pprof: bool,
    /// `--enable-v2`.
    pub enable_v2: bool,
    /// Memory ceilings of the store.
    pub memory: Memory,
}

impl Settings {
    /// Timeout of a proposal or linearizable read when the caller sets no deadline:
    /// five seconds plus two election timeouts.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Whether this start bootstraps a cluster (as opposed to joining one).
    pub fn is_new_cluster(&self) -> bool {
        self.initial_cluster_state == ClusterState::New
    }

    /// Maximum gRPC message size from a client: the request limit plus 512 KiB of overhead.
    pub fn max_receive_bytes(&self) -> usize {
        self.limits.max_request_bytes as usize + (512 << 10)
    }
}

/// Size and count limits that clients can hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `--quota-backend-bytes`.
    pub quota: Quota,
    /// `--max-request-bytes`, never 0.
    pub max_request_bytes: u32,
    /// `--max-txn-ops`, never 0.
    pub max_txn_ops: u32,
    /// `--max-concurrent-streams` on a connection, never 0.
    pub max_concurrent_streams: u32,
}

/// `--grpc-keepalive-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepalive {
    /// Minimum interval between a client's pings.
    pub min_time: Duration,
    /// Interval of the server's pings; `None` sends none.
    pub interval: Option<Duration>,
    /// How long to wait for a ping's ack; `None` waits forever.
    pub timeout: Option<Duration>,
}

/// Files and rules of one kind of listener, client or peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// Certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Private key, PEM. Given exactly when `cert_file` is.
    pub key_file: Option<PathBuf>,
    /// Certificate for outgoing calls; `cert_file` when absent.
    pub client_cert_file: Option<PathBuf>,
    /// Key for outgoing calls. Given exactly when `client_cert_file` is.
    pub client_key_file: Option<PathBuf>,
    /// `--client-cert-auth`: client certificates required, users named by common name.
    pub client_cert_auth: bool,
    /// Trusted CA bundle; if set, client certificates are required.
    pub trusted_ca_file: Option<PathBuf>,
    /// Certificate revocation list (CRL).
    pub crl_file: Option<PathBuf>,
    /// Allowed common names, of which one must match; empty allows any.
    pub allowed_cn: Vec<String>,
    /// Allowed host names, of which one must match; empty allows any.
    pub allowed_hostname: Vec<String>,
    /// Use a self-signed certificate when no files are given.
    pub auto: bool,
    /// Peers only: do not check the caller's address against its certificate's SANs.
    pub skip_client_san_verification: bool,
}

impl TlsSettings {
    /// Whether certificate and key files are set.
    pub fn has_pair(&self) -> bool {
        self.cert_file.is_some() && self.key_file.is_some()
    }

    /// Whether a TLS listener can be opened: with files or with a self-signed certificate.
    pub fn can_serve(&self) -> bool {
        self.has_pair() || self.auto
    }

    /// Whether callers must present a certificate.
    pub fn requires_client_cert(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }
}

/// TLS rules common to client and peer traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPolicy {
    /// `--cipher-suites`; empty = the built-in list.
    pub cipher_suites: Vec<CipherSuite>,
    /// `--tls-min-version`.
    pub min_version: TlsVersion,
    /// `--tls-max-version`.
    pub max_version: TlsVersion,
    /// `--self-signed-cert-validity` in years.
    pub self_signed_years: u32,
}

/// `--auth-token`, `--auth-token-ttl`, `--bcrypt-cost`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Kind of token.
    pub token: AuthToken,
    /// Lifetime of a simple token after its last use.
    pub token_ttl: Duration,
    /// bcrypt cost of password hashes, 4 to 31.
    pub bcrypt_cost: u32,
}

/// A list of allowed names; `*` or an empty list allows any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowList {
    /// Any name.
    Any,
    /// Only these.
    Only(Vec<String>),
}

impl AllowList {
    /// Whether this name is allowed.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            AllowList::Any => true,
            AllowList::Only(names) => names.iter().any(|known| known == name),
        }
    }

    /// The flag's text.
    pub(super) fn text(&self) -> String {
        match self {
            AllowList::Any => "*".to_owned(),
            AllowList::Only(names) => names.join(","),
        }
    }
}

/// `--log-level`, `--log-format`, `--log-outputs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// Lowest level that is logged.
    pub level: LogLevel,
    /// Format of a line.
    pub format: LogFormat,
    /// Where lines go; never empty.
    pub outputs: Vec<LogOutput>,
}

/// One destination of log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// The systemd journal's native socket.
    Journal,
    /// Appended to a file.
    File(PathBuf),
}

/// Background checks, the pace of compaction, and when to warn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// `--corrupt-check-time`; `None` disables the check.
    pub corrupt_check_time: Option<Duration>,
    /// `--compact-hash-check-time`, never 0.
    pub compact_hash_check_time: Duration,
    /// `--compaction-batch-limit`, never 0.
    pub compaction_batch_limit: u32,
    /// `--compaction-sleep-interval`.
    pub compaction_sleep_interval: Duration,
    /// `--watch-progress-notify-interval`, never 0.
    pub watch_progress_notify_interval: Duration,
    /// `--warning-apply-duration`.
    pub warning_apply_duration: Duration,
    /// `--warning-unary-request-duration`.
    pub warning_unary_request_duration: Duration,
}

/// Memory ceilings of the store, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// `--block-cache-bytes`.
    pub block_cache_bytes: u64,
    /// `--write-buffer-bytes`.
    pub write_buffer_bytes: u64,
}
