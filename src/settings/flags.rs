//! The table of every flag this program accepts: etcd's, in current and `experimental-` spellings,
//! those that etcd has removed, and a few of our own.
//!
//! The table is the single source for the command line, the `ETCD_*` variables, the configuration file
//! and `--help`. A row gives the format of the value ([`Kind`]); combinations of values are
//! checked in `check.rs`.

use super::features::FeatureGates;
use super::urls::UrlList;
use super::values;

/// The format of a flag's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `--flag`, `--flag=false`.
    Bool,
    /// Whole number from 0 to the given maximum.
    Uint(u64),
    /// Signed whole number.
    Int,
    /// Duration such as `100ms`; a configuration file may also give integer nanoseconds.
    Duration,
    /// Any text.
    Text,
    /// Comma-separated texts.
    List,
    /// Comma-separated URLs.
    Urls,
    /// `Gate=true,Other=false`.
    Gates,
    /// One of the listed texts.
    OneOf(&'static [&'static str]),
}

impl Kind {
    /// Checks the format of one value; the error says what was expected.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Kind::Bool => values::parse_bool(text).map(drop),
            Kind::Uint(most) => values::parse_unsigned(text, most).map(drop),
            Kind::Int => values::parse_signed(text).map(drop),
            Kind::Duration => values::parse_duration(text).map(drop),
            Kind::Text | Kind::List => Ok(()),
            Kind::Urls => text.parse::<UrlList>().map(drop).map_err(|e| e.to_string()),
            Kind::Gates => FeatureGates::parse(text).map(drop),
            Kind::OneOf(allowed) if allowed.contains(&text) => Ok(()),
            Kind::OneOf(allowed) => Err(format!("invalid value (use one of {})", allowed.join(", "))),
        }
    }
}

/// The items of a comma-separated list, trimmed, without empty ones.
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Section of `--help` that lists a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// This member, its directories and listeners.
    Member,
    /// The cluster it belongs to.
    Cluster,
    /// TLS and HTTP origin rules.
    Security,
    /// Tokens and passwords.
    Auth,
    /// Logs, metrics, warnings.
    Observe,
    /// Checks, compaction, gates.
    Features,
    /// Flags that can lose data.
    Unsafe,
    /// Flags of this program that etcd does not have.
    Own,
    /// Without effect; accepted so that old command lines still work.
    Dead,
}

impl Group {
    /// All groups in the order of `--help`.
    pub const ALL: [Group; 9] = [
        Group::Member,
        Group::Cluster,
        Group::Security,
        Group::Auth,
        Group::Observe,
        Group::Features,
        Group::Unsafe,
        Group::Own,
        Group::Dead,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Group::Member => "Member",
            Group::Cluster => "Clustering",
            Group::Security => "Security",
            Group::Auth => "Auth",
            Group::Observe => "Logging and monitoring",
            Group::Features => "Features",
            Group::Unsafe => "Unsafe",
            Group::Own => "This program's own",
            Group::Dead => "Accepted without effect",
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// Format of its value.
    pub kind: Kind,
    /// Value when the flag is unset.
    pub default: &'static str,
    /// One sentence for `--help`.
    pub help: &'static str,
    /// Section of `--help`.
    pub group: Group,
    /// False: parsed and checked, but without effect (a warning says so).
    pub used: bool,
    /// Place in the configuration file: `key` or `section/key`.
    pub yaml: &'static str,
}

impl Flag {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        variable_of(self.name)
    }
}

/// `listen-peer-urls` → `ETCD_LISTEN_PEER_URLS`.
pub fn variable_of(name: &str) -> String {
    format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"))
}

const U32: u64 = u32::MAX as u64;
const U64: u64 = u64::MAX;

const fn row(group: Group, name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, help, group, used: true, yaml: name }
}

impl Flag {
    const fn unused(mut self) -> Flag {
        self.used = false;
        self
    }

    const fn at(mut self, yaml: &'static str) -> Flag {
        self.yaml = yaml;
        self
    }
}

use Group::{Auth, Cluster, Dead, Features, Member, Observe, Own, Security, Unsafe};
use Kind::{Bool, Duration, Gates, Int, List, OneOf, Text, Uint, Urls};

/// Every flag, in the order of `--help`.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    row(Member, "name", Text, "default", "Name of this member."),
    row(Member, "data-dir", Text, "", "Directory of all data; <name>.etcd when empty."),
    row(Member, "wal-dir", Text, "", "Directory of the log; inside the data directory when empty."),
    row(Member, "snapshot-count", Uint(U64), "10000", "Applied entries after which a snapshot is due; at most one in ten seconds for this reason."),
    row(Member, "snapshot-catchup-entries", Uint(U64), "5000", "Log entries kept behind a snapshot for slow followers, where --max-wals and the disk leave room."),
    row(Member, "max-wals", Uint(U32), "5", "Most log files kept, as far as a snapshot covers them; 0 leaves only the limit in bytes."),
    row(Member, "heartbeat-interval", Uint(U32), "100", "Milliseconds between heartbeats."),
    row(Member, "election-timeout", Uint(U32), "1000", "Milliseconds without a leader before an election; at most 50000."),
    row(Member, "initial-election-tick-advance", Bool, "true", "Shorten the first election wait after a start.").unused(),
    row(Member, "pre-vote", Bool, "true", "Ask before raising the term, so that a returning member disturbs nobody."),
    row(Member, "listen-peer-urls", Urls, "http://localhost:2380", "URLs to listen on for other members."),
    row(Member, "listen-client-urls", Urls, "http://localhost:2379", "URLs to listen on for clients."),
    row(Member, "listen-client-http-urls", Urls, "", "URLs for HTTP only; takes HTTP away from --listen-client-urls."),
    row(Member, "listen-metrics-urls", Urls, "", "Further URLs for /metrics and /health."),
    row(Member, "quota-backend-bytes", Int, "0", "Size of the store at which writes are refused; 0 is 2 GiB, negative is no limit."),
    row(Member, "backend-batch-interval", Duration, "0s", "Longest time between two commits of etcd's backend.").unused(),
    row(Member, "backend-batch-limit", Int, "0", "Most operations in a commit of etcd's backend.").unused(),
    row(Member, "backend-bbolt-freelist-type", OneOf(&["map", "array"]), "map", "Free list of etcd's backend.").unused(),
    row(Member, "max-txn-ops", Uint(U32), "128", "Most operations in a list of a transaction."),
    row(Member, "max-request-bytes", Uint(U32), "1572864", "Largest client request in bytes."),
    row(Member, "max-concurrent-streams", Uint(U32), "4294967295", "Most streams a client may open on a connection."),
    row(Member, "grpc-keepalive-min-time", Duration, "5s", "Least time a client waits between pings."),
    row(Member, "grpc-keepalive-interval", Duration, "2h", "Time between the server's pings; 0 sends none."),
    row(Member, "grpc-keepalive-timeout", Duration, "20s", "Wait for a ping's answer before the connection is closed."),
    row(Member, "socket-reuse-port", Bool, "false", "Set SO_REUSEPORT on listeners.").at("socket-options/reuse-port"),
    row(Member, "socket-reuse-address", Bool, "false", "Set SO_REUSEADDR on listeners (always on here).").at("socket-options/reuse-address").unused(),
    row(Member, "raft-read-timeout", Duration, "5s", "Read deadline of peer connections; at least 5s."),
    row(Member, "raft-write-timeout", Duration, "5s", "Write deadline of peer connections; at least 5s."),
    row(Member, "memory-mlock", Bool, "false", "Lock the backend's pages in memory.").unused(),

    row(Cluster, "initial-advertise-peer-urls", Urls, "http://localhost:2380", "This member's peer URLs as the others know them."),
    row(Cluster, "advertise-client-urls", Urls, "http://localhost:2379", "This member's client URLs as clients know them."),
    row(Cluster, "initial-cluster", Text, "default=http://localhost:2380", "Members of the first start, name=url,name=url."),
    row(Cluster, "initial-cluster-state", OneOf(&["new", "existing"]), "new", "new: bootstrap; existing: join a running cluster."),
    row(Cluster, "initial-cluster-token", Text, "etcd-cluster", "Text that keeps clusters apart; part of every id."),
    row(Cluster, "strict-reconfig-check", Bool, "true", "Refuse membership changes that would lose quorum."),
    row(Cluster, "auto-compaction-mode", Text, "periodic", "Whether the retention is a time or a number of revisions."),
    row(Cluster, "auto-compaction-retention", Text, "0", "History to keep: hours, a duration, or revisions; 0 keeps all."),
    row(Cluster, "max-learners", Uint(U32), "1", "Most learners in the cluster."),
    row(Cluster, "discovery-srv", Text, "", "DNS discovery; not supported, refused when given."),
    row(Cluster, "discovery-srv-name", Text, "", "Suffix of the DNS service name.").unused(),
    row(Cluster, "discovery-endpoints", List, "", "Discovery service; not supported, refused when given.").at("discovery-config/endpoints"),
    row(Cluster, "discovery-token", Text, "", "Token at the discovery service.").at("discovery-config/token"),
    row(Cluster, "discovery-dial-timeout", Duration, "2s", "Discovery: dial deadline.").at("discovery-config/dial-timeout").unused(),
    row(Cluster, "discovery-request-timeout", Duration, "5s", "Discovery: request deadline.").at("discovery-config/request-timeout").unused(),
    row(Cluster, "discovery-keepalive-time", Duration, "2s", "Discovery: time between pings.").at("discovery-config/keep-alive-time").unused(),
    row(Cluster, "discovery-keepalive-timeout", Duration, "6s", "Discovery: ping deadline.").at("discovery-config/keep-alive-timeout").unused(),
    row(Cluster, "discovery-insecure-transport", Bool, "true", "Discovery: no TLS.").at("discovery-config/insecure-transport").unused(),
    row(Cluster, "discovery-insecure-skip-tls-verify", Bool, "false", "Discovery: no check of the server.").at("discovery-config/insecure-skip-verify").unused(),
    row(Cluster, "discovery-cert", Text, "", "Discovery: certificate.").at("discovery-config/cert").unused(),
    row(Cluster, "discovery-key", Text, "", "Discovery: key.").at("discovery-config/key").unused(),
    row(Cluster, "discovery-cacert", Text, "", "Discovery: authority.").at("discovery-config/cacert").unused(),
    row(Cluster, "discovery-user", Text, "", "Discovery: user.").at("discovery-config/username").unused(),
    row(Cluster, "discovery-password", Text, "", "Discovery: password.").at("discovery-config/password").unused(),

    row(Security, "cert-file", Text, "", "Certificate chain of the client listeners, PEM.").at("client-transport-security/cert-file"),
    row(Security, "key-file", Text, "", "Private key of the client listeners, PEM.").at("client-transport-security/key-file"),
    row(Security, "client-cert-file", Text, "", "Certificate for own calls to client listeners; --cert-file when empty.").at("client-transport-security/client-cert-file"),
    row(Security, "client-key-file", Text, "", "Key for own calls to client listeners; --key-file when empty.").at("client-transport-security/client-key-file"),
    row(Security, "client-cert-auth", Bool, "false", "Require client certificates and authenticate users by their common name.").at("client-transport-security/client-cert-auth"),
    row(Security, "trusted-ca-file", Text, "", "Authorities of client certificates, PEM; client certificates are required once set.").at("client-transport-security/trusted-ca-file"),
    row(Security, "client-crl-file", Text, "", "Revocation list for client certificates, DER or PEM.").at("client-transport-security/crl-file"),
    row(Security, "client-cert-allowed-hostname", List, "", "Host names of which a client certificate must carry one.").at("client-transport-security/allowed-hostname"),
    row(Security, "client-cert-allowed-cn", List, "", "Common names of which a client certificate must carry one (etcd: in the file only).").at("client-transport-security/allowed-cn"),
    row(Security, "auto-tls", Bool, "false", "Serve clients with a self-signed certificate.").at("client-transport-security/auto-tls"),
    row(Security, "peer-cert-file", Text, "", "Certificate chain of the peer listeners, PEM.").at("peer-transport-security/cert-file"),
    row(Security, "peer-key-file", Text, "", "Private key of the peer listeners, PEM.").at("peer-transport-security/key-file"),
    row(Security, "peer-client-cert-file", Text, "", "Certificate for calls to other members; --peer-cert-file when empty.").at("peer-transport-security/client-cert-file"),
    row(Security, "peer-client-key-file", Text, "", "Key for calls to other members; --peer-key-file when empty.").at("peer-transport-security/client-key-file"),
    row(Security, "peer-client-cert-auth", Bool, "false", "Require certificates from other members.").at("peer-transport-security/client-cert-auth"),
    row(Security, "peer-trusted-ca-file", Text, "", "Authorities of peer certificates, PEM; they are required once set.").at("peer-transport-security/trusted-ca-file"),
    row(Security, "peer-crl-file", Text, "", "Revocation list for peer certificates, DER or PEM.").at("peer-transport-security/crl-file"),
    row(Security, "peer-cert-allowed-cn", List, "", "Common names of which a peer certificate must carry one.").at("peer-transport-security/allowed-cn"),
    row(Security, "peer-cert-allowed-hostname", List, "", "Host names of which a peer certificate must carry one.").at("peer-transport-security/allowed-hostname"),
    row(Security, "peer-auto-tls", Bool, "false", "Talk to members with a self-signed certificate.").at("peer-transport-security/auto-tls"),
    row(Security, "peer-skip-client-san-verification", Bool, "false", "Do not compare a peer's address with its certificate.").at("peer-transport-security/skip-client-san-verification"),
    row(Security, "self-signed-cert-validity", Uint(U32), "1", "Years a self-signed certificate is valid."),
    row(Security, "cipher-suites", List, "", "TLS 1.2 and 1.3 cipher suites by their Go names."),
    row(Security, "tls-min-version", Text, "TLS1.2", "Lowest TLS version."),
    row(Security, "tls-max-version", Text, "", "Highest TLS version; TLS1.3 when empty."),
    row(Security, "cors", List, "*", "Origins of browsers that may call."),
    row(Security, "host-whitelist", List, "*", "Host names under which plain HTTP requests may come."),

    row(Auth, "auth-token", Text, "simple", "simple, or jwt,pub-key=..,priv-key=..,sign-method=..,ttl=.."),
    row(Auth, "auth-token-ttl", Uint(U32), "300", "Seconds a simple token lives after its last use."),
    row(Auth, "bcrypt-cost", Uint(31), "10", "Cost of password hashes, 4 to 31."),

    row(Observe, "logger", Text, "zap", "Shape of log lines.").unused(),
    row(Observe, "log-level", Text, "info", "debug, info, warn, error, panic or fatal."),
    row(Observe, "log-format", Text, "json", "json or console."),
    row(Observe, "log-outputs", List, "default", "stderr, stdout, default, systemd/journal, or file paths."),
    row(Observe, "enable-log-rotation", Bool, "false", "Rotate a log file; here left to the system's log rotation.").unused(),
    row(Observe, "log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, "Limits of log rotation.").unused(),
    row(Observe, "disable-log-sampling", Bool, "false", "Never drop repeated lines (they never are).").unused(),
    row(Observe, "metrics", OneOf(&["basic", "extensive"]), "basic", "extensive adds histograms of calls."),
    row(Observe, "enable-pprof", Bool, "false", "Serve /debug/vars and /debug/pprof/cmdline; Go's profiles do not exist here."),
    row(Observe, "enable-distributed-tracing", Bool, "false", "OpenTelemetry traces.").unused(),
    row(Observe, "distributed-tracing-address", Text, "localhost:4317", "Collector of traces.").unused(),
    row(Observe, "distributed-tracing-service-name", Text, "etcd", "Service name in traces.").unused(),
    row(Observe, "distributed-tracing-instance-id", Text, "", "Instance id in traces.").unused(),
    row(Observe, "distributed-tracing-sampling-rate", Uint(1_000_000), "0", "Traces per million requests.").unused(),
    row(Observe, "warning-apply-duration", Duration, "100ms", "Warn when applying an entry takes longer."),
    row(Observe, "warning-unary-request-duration", Duration, "300ms", "Warn when a call takes longer."),

    row(Features, "corrupt-check-time", Duration, "0s", "Time between comparisons of the members' data; 0 is never."),
    row(Features, "compact-hash-check-time", Duration, "1m", "Time between comparisons of compacted history."),
    row(Features, "compaction-batch-limit", Uint(U32), "1000", "Most revisions removed in one compaction step."),
    row(Features, "compaction-sleep-interval", Duration, "10ms", "Pause between compaction steps."),
    row(Features, "watch-progress-notify-interval", Duration, "10m", "Time between progress notices to idle watchers."),
    row(Features, "bootstrap-defrag-threshold-megabytes", Uint(U32), "0", "Defragment at start when it frees this much.").unused(),
    row(Features, "downgrade-check-time", Duration, "5s", "Time between downgrade checks.").unused(),
    row(Features, "enable-grpc-gateway", Bool, "true", "Serve the JSON form of the API under /v3/."),
    row(Features, "feature-gates", Gates, "", "Gate=true,Other=false."),
    row(Features, "enable-v2", Bool, "true", "Serve the API of version 2 under /v2/."),

    row(Unsafe, "force-new-cluster", Bool, "false", "Start alone from an existing data directory."),
    row(Unsafe, "unsafe-no-fsync", Bool, "false", "Never sync; refused: acknowledged writes would be lost."),

    row(Own, "promote-learners", Bool, "false", "Give learners their vote as soon as they have caught up."),
    row(Own, "block-cache-bytes", Uint(U64), "33554432", "Memory for blocks read from the store."),
    row(Own, "write-buffer-bytes", Uint(U64), "33554432", "Memory for writes not yet flushed to the store."),

    row(Dead, "max-snapshots", Uint(U32), "5", "Most snapshots kept; there is never more than one.").unused(),
    row(Dead, "v2-deprecation", Text, "", "Stage of the removal of etcd's v2 store.").unused(),
    row(Dead, "enable-v2v3", Text, "", "v2 requests on the v3 store.").unused(),
    row(Dead, "discovery", Text, "", "v2 discovery; not supported, refused when given."),
    row(Dead, "discovery-fallback", OneOf(&["exit", "proxy", ""]), "exit", "What to do when v2 discovery fails."),
    row(Dead, "discovery-proxy", Text, "", "HTTP proxy to v2 discovery.").unused(),
    row(Dead, "proxy", OneOf(&["off", "on", "readonly", ""]), "off", "v2 proxy; only off is accepted."),
    row(Dead, "proxy-failure-wait", Uint(U32), "5000", "v2 proxy.").unused(),
    row(Dead, "proxy-refresh-interval", Uint(U32), "30000", "v2 proxy.").unused(),
    row(Dead, "proxy-dial-timeout", Uint(U32), "1000", "v2 proxy.").unused(),
    row(Dead, "proxy-write-timeout", Uint(U32), "5000", "v2 proxy.").unused(),
    row(Dead, "proxy-read-timeout", Uint(U32), "0", "v2 proxy.").unused(),
    row(Dead, "debug", Bool, "false", "Use --log-level=debug.").unused(),
    row(Dead, "log-package-levels", Text, "", "Levels per package.").unused(),
    row(Dead, "log-output", Text, "", "Use --log-outputs.").unused(),
    row(Dead, "cluster-active-size", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "cluster-remove-delay", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "cluster-sync-interval", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "config", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "force", Bool, "false", "From etcd 0.4.").unused(),
    row(Dead, "max-result-buffer", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "max-retry-attempts", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "peer-heartbeat-interval", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "peer-election-timeout", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "retry-interval", Text, "", "From etcd 0.4.").unused(),
    row(Dead, "snapshot", Bool, "false", "From etcd 0.4.").unused(),
    row(Dead, "v", Bool, "false", "From etcd 0.4.").unused(),
    row(Dead, "vv", Bool, "false", "From etcd 0.4.").unused(),
];

/// Names that have or had an `experimental-` spelling.
const EXPERIMENTAL: &[&str] = &[
    "corrupt-check-time",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "watch-progress-notify-interval",
    "downgrade-check-time",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "memory-mlock",
    "bootstrap-defrag-threshold-megabytes",
    "max-learners",
    "snapshot-catchup-entries",
    "snapshot-catch-up-entries",
    "peer-skip-client-san-verification",
    "enable-distributed-tracing",
    "distributed-tracing-address",
    "distributed-tracing-service-name",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "backend-bbolt-freelist-type",
    "enable-v2v3",
];

/// Boolean `experimental-` flags that became feature gates.
const GATE_FLAGS: &[(&str, &str)] = &[
    ("experimental-initial-corrupt-check", "InitialCorruptCheck"),
    ("experimental-compact-hash-check-enabled", "CompactHashCheck"),
    ("experimental-txn-mode-write-with-shared-buffer", "TxnModeWriteWithSharedBuffer"),
    ("experimental-stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"),
    ("experimental-enable-lease-checkpoint", "LeaseCheckpoint"),
    ("experimental-enable-lease-checkpoint-persist", "LeaseCheckpointPersist"),
    ("experimental-set-member-localaddr", "SetMemberLocalAddr"),
];

/// What a given flag name refers to.
#[derive(Debug, Clone, Copy)]
pub enum Meaning {
    /// A row of the table, under its own name or an `experimental-` one.
    Flag(&'static Flag),
    /// A boolean that sets the named feature gate.
    Gate(&'static str),
}

impl Meaning {
    /// Format of the value.
    pub fn kind(self) -> Kind {
        match self {
            Meaning::Flag(flag) => flag.kind,
            Meaning::Gate(_) => Kind::Bool,
        }
    }
}

/// The row called exactly `name`.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Resolves a flag name as given by the user.
pub fn meaning_of(spelled: &str) -> Option<Meaning> {
    if let Some(flag) = find(spelled) {
        return Some(Meaning::Flag(flag));
    }
    if let Some((_, gate)) = GATE_FLAGS.iter().find(|(name, _)| *name == spelled) {
        return Some(Meaning::Gate(gate));
    }
    let plain = spelled.strip_prefix("experimental-")?;
    if !EXPERIMENTAL.contains(&plain) {
        return None;
    }
    let plain = if plain == "snapshot-catch-up-entries" { "snapshot-catchup-entries" } else { plain };
    find(plain).map(Meaning::Flag)
}

/// Every accepted flag name, the table's first.
pub fn spellings() -> impl Iterator<Item = String> {
    FLAGS
        .iter()
        .map(|flag| flag.name.to_owned())
        .chain(EXPERIMENTAL.iter().map(|name| format!("experimental-{name}")))
        .chain(GATE_FLAGS.iter().map(|(name, _)| (*name).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_has_the_format_of_its_row() {
        for flag in FLAGS {
            if let Err(reason) = flag.kind.check(flag.default) {
                panic!("--{} default {:?}: {reason}", flag.name, flag.default);
            }
        }
    }

    #[test]
    fn names_and_yaml_keys_are_unique() {
        let mut names: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        let mut places: Vec<&str> = FLAGS.iter().map(|flag| flag.yaml).collect();
        names.sort_unstable();
        places.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(places.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn every_spelling_resolves() {
        for name in spellings() {
            assert!(meaning_of(&name).is_some(), "{name}");
        }
        assert!(meaning_of("experimental-name").is_none());
        assert!(meaning_of("no-such-flag").is_none());
    }
}
