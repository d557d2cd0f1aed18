//! Errors in settings, with etcd's message where etcd has one.

use std::time::Duration;

use super::urls::UrlError;

/// Maximum characters of a value that are repeated in a message.
const SHOWN_CHARS: usize = 200;

/// Why a command line, environment or configuration file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// An unknown flag.
    #[error("flag provided but not defined: -{0}")]
    UnknownFlag(String),
    /// The last argument is a flag that needs a value.
    #[error("flag needs an argument: -{0}")]
    MissingArgument(String),
    /// Three dashes, or an equals sign without a name.
    #[error("bad flag syntax: {0}")]
    BadSyntax(String),
    /// A malformed value on the command line.
    #[error("invalid value {value:?} for flag -{name}: {reason}")]
    FlagValue {
        /// The flag as spelled.
        name: String,
        /// The value, shortened.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// `--flag=x` of a boolean where x is neither true nor false.
    #[error("invalid boolean value {value:?} for -{name}: {reason}")]
    BooleanValue {
        /// The flag as spelled.
        name: String,
        /// The value, shortened.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// An etcd subcommand that this program does not have.
    #[error(
        "the {0:?} command of etcd is not part of this program: clients and HAProxy can be given every member's address \
         instead"
    )]
    Subcommand(String),
    /// An argument that is no flag.
    #[error("{0:?} is not a valid flag")]
    StrayWord(String),
    /// A malformed value in the environment.
    #[error("invalid value {value:?} for {variable}: {reason}")]
    VariableValue {
        /// The variable.
        variable: String,
        /// The value, shortened.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// A flag and its environment variable are both set.
    #[error(
        "conflicting environment variable {0:?} is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag)"
    )]
    Shadowed(String),
    /// One setting given under two spellings.
    #[error("both --{first} and --{second} flags are set. Use only --{plain}")]
    TwoSpellings {
        /// One spelling.
        first: String,
        /// The other.
        second: String,
        /// The current one.
        plain: String,
    },
    /// A gate set by its old flag and by `--feature-gates`.
    #[error(
        "cannot specify both flags: --{flag}=(true|false) and --feature-gates={gate}=(true|false) \
         at the same time, please just use --feature-gates={gate}=(true|false)"
    )]
    GateTwice {
        /// The old flag.
        flag: String,
        /// The gate.
        gate: String,
    },
    /// The configuration file cannot be read or is not YAML or JSON.
    #[error("cannot use configuration file {path}: {reason}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A malformed value in the configuration file.
    #[error("invalid value {value:?} for {key} in {path}: {reason}")]
    FileValue {
        /// Path of the file.
        path: String,
        /// `key` or `section/key`.
        key: String,
        /// The value, shortened.
        value: String,
        /// What was expected.
        reason: String,
    },
    /// The values are well-formed but invalid.
    #[error(transparent)]
    Check(#[from] CheckError),
}

impl SettingsError {
    /// Exit code of the process: 2 for a command line that cannot be parsed, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            SettingsError::UnknownFlag(_)
            | SettingsError::MissingArgument(_)
            | SettingsError::BadSyntax(_)
            | SettingsError::FlagValue { .. }
            | SettingsError::BooleanValue { .. } => 2,
            _ => 1,
        }
    }
}

/// Why a set of well-formed values is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each variant is its sentence
pub enum CheckError {
    /// A value that is not one of those allowed; the message names it.
    #[error("{0}")]
    Value(String),
    #[error("--name must not be empty (give every member its own)")]
    EmptyName,
    #[error("--name {0:?} cannot stand in --initial-cluster: it must not hold ',' or '=', or begin with a space")]
    UnlistableName(String),
    #[error("--{0} must name at least one URL")]
    NoUrl(&'static str),
    #[error("expected IP in URL for binding ({0})")]
    BindNeedsIp(String),
    #[error("--initial-advertise-peer-urls {0:?} must be \"host:port\" (unexpected empty host ({1}))")]
    AdvertisePeerHost(String, String),
    #[error(
        "--advertise-client-urls {0:?} must be in the format \"host:port\", \"unix:/path/to/socket\" \
         or \"unixs:/path/to/socket\" (unexpected empty host ({1}))"
    )]
    AdvertiseClientHost(String, String),
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    AdvertiseClientMissing,
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
         \"discovery-endpoints\" or \"discovery-srv\""
    )]
    SeveralBootstraps,
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    HalfDiscovery,
    #[error("--{0} is not supported: list the members with --initial-cluster instead")]
    Discovery(&'static str),
    #[error("v2 proxy is deprecated, and --{0} can't be configured as {1:?}")]
    Proxy(&'static str, String),
    #[error("--heartbeat-interval must be >0 (set to 0ms)")]
    HeartbeatZero,
    #[error("--election-timeout must be >0 (set to 0ms)")]
    ElectionZero,
    #[error("--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]")]
    ElectionShort { election: u128, heartbeat: u128 },
    #[error("--election-timeout[{0}ms] is too long, and should be set less than 50000ms")]
    ElectionLong(u128),
    #[error("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")]
    PersistWithoutCheckpoint,
    #[error("--compact-hash-check-time must be >0 (set to {0:?})")]
    CompactHashCheckTime(Duration),
    #[error("min version ({0}) is greater than max version ({1})")]
    TlsVersions(&'static str, &'static str),
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    CiphersWithTls13,
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}] (flags --{flags})")]
    HalfPair { key: String, cert: String, flags: &'static str },
    #[error("TLS key/cert (--cert-file, --key-file) must be provided for client url {0} with HTTPS scheme")]
    ClientUrlNeedsCerts(String),
    #[error(
        "cannot listen on TLS for {0}: KeyFile and CertFile are not presented \
         (give --peer-cert-file and --peer-key-file)"
    )]
    PeerUrlNeedsCerts(String),
    #[error("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url {0}")]
    MetricsUrlNeedsCerts(String),
    #[error("AllowedCNs and AllowedHostnames are mutually exclusive (cns={cns:?}, hostnames={hostnames:?})")]
    CnAndHostname { cns: Vec<String>, hostnames: Vec<String> },
    #[error("selfSignedCertValidity is invalid,it should be greater than 0 (flag --self-signed-cert-validity)")]
    SelfSignedValidity,
    #[error("address {0} is in both --listen-client-urls and --listen-client-http-urls (give HTTP its own port)")]
    SharedHttpAddress(String),
    #[error("--{name} must be at least {least} (set to {given})")]
    TooSmall { name: &'static str, least: u64, given: u64 },
    #[error("multi logoutput for {0:?} is not supported yet (give it alone)")]
    LogOutputs(String),
    #[error("--unsafe-no-fsync is refused: acknowledged writes would be lost in a crash (remove the flag)")]
    UnsafeNoFsync,
    #[error("error setting up initial cluster: {0}")]
    InitialCluster(UrlError),
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    LocalNameMissing(String),
    #[error("initial cluster unset and no discovery URL found (list the members with --initial-cluster)")]
    InitialClusterEmpty,
    #[error("initial cluster {cluster} has duplicate url ({url})")]
    DuplicateUrl { cluster: String, url: String },
    #[error("--initial-cluster has {0} but missing from --initial-advertise-peer-urls={1}")]
    MissingFromAdvertise(String, String),
    #[error("--initial-advertise-peer-urls has {0} but missing from --initial-cluster={1}")]
    MissingFromCluster(String, String),
    #[error(
        "--initial-advertise-peer-urls={0} cannot be reached from the {1} other members \
         (advertise an address of this machine, not a wildcard)"
    )]
    WildcardAdvertise(String, usize),
}

/// A value, truncated for a message.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}
