//! Builds [`Settings`] from flag texts: defaults from the flag table, etcd's rules for flags whose default depends on
//! other flags, then [`Settings::check`].

use std::path::PathBuf;
use std::time::Duration;

use super::auth::AuthToken;
use super::error::{CheckError, SettingsError};
use super::features::FeatureGates;
use super::flags::{self, split_list};
use super::model::{
    AllowList, Authentication, Checks, Keepalive, Limits, LogOutput, Logging, Memory, Settings, TlsPolicy, TlsSettings,
};
use super::sources::Values;
use super::urls::{InitialCluster, Url, UrlList};
use super::values::{self, AutoCompaction, CipherSuite, LogFormat, LogLevel, Quota, TlsVersion};

/// Raft connection timeouts below this are raised to it, as in etcd.
const LEAST_RAFT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the values come from: the rules for unset flags differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line and the environment.
    FlagsAndVariables,
    /// A configuration file, or no source at all.
    File,
}

/// Builds and checks settings; the strings are warnings to log.
pub fn from_values(values: &Values, source: Source) -> Result<(Settings, Vec<String>), SettingsError> {
    refuse_unsupported(values)?;
    if source == Source::FlagsAndVariables
        && values.is_set("listen-client-urls")
        && !values.is_set("advertise-client-urls")
    {
        return Err(CheckError::AdvertiseClientMissing.into());
    }
    let settings = settings_of(&Reader { values })?;
    settings.check()?;
    let mut notices = values.notices.clone();
    notices.extend(notices_of(values, &settings));
    Ok((settings, notices))
}

/// Rejects values for features this program lacks: ignoring them silently would be worse.
fn refuse_unsupported(values: &Values) -> Result<(), CheckError> {
    let text = |name: &str| values.flags.get(name).map_or("", |given| given.text.as_str());
    let ways = ["initial-cluster", "discovery-srv", "discovery-endpoints"];
    if ways.iter().filter(|name| !text(name).is_empty()).count() > 1 {
        return Err(CheckError::SeveralBootstraps);
    }
    if text("discovery-token").is_empty() != text("discovery-endpoints").is_empty() {
        return Err(CheckError::HalfDiscovery);
    }
    for name in ["discovery-endpoints", "discovery-srv", "discovery"] {
        if !text(name).is_empty() {
            return Err(CheckError::Discovery(name));
        }
    }
    if matches!(text("proxy"), "on" | "readonly") {
        return Err(CheckError::Proxy("proxy", text("proxy").to_owned()));
    }
    if text("discovery-fallback") == "proxy" && !text("discovery").is_empty() {
        return Err(CheckError::Proxy("discovery-fallback", "proxy".to_owned()));
    }
    if text("unsafe-no-fsync") == "true" {
        return Err(CheckError::UnsafeNoFsync);
    }
    if !matches!(text("logger"), "" | "zap") {
        return Err(CheckError::Value(format!("unknown logger option {:?} (use zap)", text("logger"))));
    }
    Ok(())
}

/// Typed access to values and defaults.
struct Reader<'a> {
    values: &'a Values,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> &str {
        match self.values.flags.get(name) {
            Some(given) => &given.text,
            None => flags::find(name).map_or("", |flag| flag.default),
        }
    }

    fn parse<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, CheckError> {
        parse(self.text(name)).map_err(CheckError::Value)
    }

    fn flag(&self, name: &str) -> Result<bool, CheckError> {
        self.parse(name, values::parse_bool)
    }

    fn count(&self, name: &str) -> Result<u32, CheckError> {
        self.parse(name, |text| values::parse_unsigned(text, u32::MAX.into()))
            .map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn size(&self, name: &str) -> Result<u64, CheckError> {
        self.parse(name, |text| values::parse_unsigned(text, u64::MAX))
    }

    /// A number where etcd reads 0 as "the default".
    fn size_or_default(&self, name: &str) -> Result<u64, CheckError> {
        match self.size(name)? {
            0 => values::parse_unsigned(flags::find(name).map_or("", |flag| flag.default), u64::MAX)
                .map_err(CheckError::Value),
            given => Ok(given),
        }
    }

    fn duration(&self, name: &str) -> Result<Duration, CheckError> {
        self.parse(name, values::parse_duration)
    }

    /// A duration where 0 disables the feature.
    fn optional_duration(&self, name: &str) -> Result<Option<Duration>, CheckError> {
        Ok(Some(self.duration(name)?).filter(|duration| !duration.is_zero()))
    }

    fn millis(&self, name: &str) -> Result<Duration, CheckError> {
        Ok(Duration::from_millis(self.count(name)?.into()))
    }

    fn urls(&self, name: &str) -> Result<UrlList, CheckError> {
        self.parse(name, |text| text.parse::<UrlList>().map_err(|error| error.to_string()))
    }

    fn list(&self, name: &str) -> Vec<String> {
        split_list(self.text(name)).map(str::to_owned).collect()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn allow_list(&self, name: &str) -> AllowList {
        let names = self.list(name);
        if names.is_empty() || names.iter().any(|name| name == "*") {
            return AllowList::Any;
        }
        AllowList::Only(names)
    }
}

fn settings_of(read: &Reader<'_>) -> Result<Settings, SettingsError> {
    let name = read.text("name").to_owned();
    let initial_advertise_peer_urls = read.urls("initial-advertise-peer-urls")?;
    let initial_cluster = initial_cluster_of(read, &name, &initial_advertise_peer_urls)?;
    Ok(Settings {
        data_dir: read.path("data-dir").unwrap_or_else(|| PathBuf::from(format!("{name}.etcd"))),
        wal_dir: read.path("wal-dir"),
        listen_peer_urls: read.urls("listen-peer-urls")?,
        listen_client_urls: read.urls("listen-client-urls")?,
        listen_client_http_urls: read.urls("listen-client-http-urls")?,
        listen_metrics_urls: read.urls("listen-metrics-urls")?,
        socket_reuse_port: read.flag("socket-reuse-port")?,
        initial_advertise_peer_urls,
        advertise_client_urls: read.urls("advertise-client-urls")?,
        initial_cluster,
        initial_cluster_state: read.parse("initial-cluster-state", str::parse)?,
        initial_cluster_token: read.text("initial-cluster-token").to_owned(),
        strict_reconfig_check: read.flag("strict-reconfig-check")?,
        max_learners: read.count("max-learners")?,
        force_new_cluster: read.flag("force-new-cluster")?,
        heartbeat_interval: read.millis("heartbeat-interval")?,
        election_timeout: read.millis("election-timeout")?,
        pre_vote: read.flag("pre-vote")?,
        snapshot_count: read.size_or_default("snapshot-count")?,
        snapshot_catchup_entries: read.size_or_default("snapshot-catchup-entries")?,
        max_wals: read.count("max-wals")?,
        raft_read_timeout: read.duration("raft-read-timeout")?.max(LEAST_RAFT_TIMEOUT),
        raft_write_timeout: read.duration("raft-write-timeout")?.max(LEAST_RAFT_TIMEOUT),
        auto_compaction: AutoCompaction::parse(
            read.text("auto-compaction-mode"),
            read.text("auto-compaction-retention"),
        )
        .map_err(CheckError::Value)?,
        limits: limits_of(read)?,
        keepalive: Keepalive {
            min_time: read.duration("grpc-keepalive-min-time")?,
            interval: read.optional_duration("grpc-keepalive-interval")?,
            timeout: read.optional_duration("grpc-keepalive-timeout")?,
        },
        client_tls: client_tls_of(read)?,
        peer_tls: peer_tls_of(read)?,
        tls_policy: tls_policy_of(read)?,
        cors: read.allow_list("cors"),
        host_whitelist: read.allow_list("host-whitelist"),
        authentication: Authentication {
            token: read.parse("auth-token", AuthToken::parse)?,
            token_ttl: Duration::from_secs(read.count("auth-token-ttl")?.into()),
            bcrypt_cost: read.count("bcrypt-cost")?,
        },
        logging: logging_of(read)?,
        extensive_metrics: read.text("metrics") == "extensive",
        checks: checks_of(read)?,
        feature_gates: feature_gates_of(read)?,
        enable_grpc_gateway: read.flag("enable-grpc-gateway")?,
        enable_pprof: read.flag("enable-pprof")?,
        enable_v2: read.flag("enable-v2")?,
        promote_learners: read.flag("promote-learners")?,
        memory: Memory {
            block_cache_bytes: read.size("block-cache-bytes")?,
            write_buffer_bytes: read.size("write-buffer-bytes")?,
        },
        name,
    })
}

/// With `--name` alone the member forms a single-member cluster, at the URLs it advertises.
fn initial_cluster_of(read: &Reader<'_>, name: &str, advertised: &UrlList) -> Result<InitialCluster, CheckError> {
    let default_name = flags::find("name").map_or("", |flag| flag.default);
    if !read.values.is_set("initial-cluster") && name != default_name {
        let own = advertised.iter().map(|url: &Url| (name.to_owned(), url.clone()));
        return Ok(InitialCluster::new(own));
    }
    read.text("initial-cluster").parse().map_err(CheckError::InitialCluster)
}

fn limits_of(read: &Reader<'_>) -> Result<Limits, CheckError> {
    Ok(Limits {
        quota: Quota::from_flag(read.parse("quota-backend-bytes", values::parse_signed)?),
        max_request_bytes: read.count("max-request-bytes")?,
        max_txn_ops: read.count("max-txn-ops")?,
        max_concurrent_streams: read.count("max-concurrent-streams")?,
    })
}

fn client_tls_of(read: &Reader<'_>) -> Result<TlsSettings, CheckError> {
    Ok(TlsSettings {
        cert_file: read.path("cert-file"),
        key_file: read.path("key-file"),
        client_cert_file: read.path("client-cert-file"),
        client_key_file: read.path("client-key-file"),
        client_cert_auth: read.flag("client-cert-auth")?,
        trusted_ca_file: read.path("trusted-ca-file"),
        crl_file: read.path("client-crl-file"),
        allowed_cn: read.list("client-cert-allowed-cn"),
        allowed_hostname: read.list("client-cert-allowed-hostname"),
        auto: read.flag("auto-tls")?,
        skip_client_san_verification: false,
    })
}

fn peer_tls_of(read: &Reader<'_>) -> Result<TlsSettings, CheckError> {
    Ok(TlsSettings {
        cert_file: read.path("peer-cert-file"),
        key_file: read.path("peer-key-file"),
        client_cert_file: read.path("peer-client-cert-file"),
        client_key_file: read.path("peer-client-key-file"),
        client_cert_auth: read.flag("peer-client-cert-auth")?,
        trusted_ca_file: read.path("peer-trusted-ca-file"),
        crl_file: read.path("peer-crl-file"),
        allowed_cn: read.list("peer-cert-allowed-cn"),
        allowed_hostname: read.list("peer-cert-allowed-hostname"),
        auto: read.flag("peer-auto-tls")?,
        skip_client_san_verification: read.flag("peer-skip-client-san-verification")?,
    })
}

fn tls_policy_of(read: &Reader<'_>) -> Result<TlsPolicy, CheckError> {
    let suites: Result<Vec<CipherSuite>, String> = split_list(read.text("cipher-suites")).map(str::parse).collect();
    Ok(TlsPolicy {
        cipher_suites: suites.map_err(CheckError::Value)?,
        min_version: read.parse("tls-min-version", TlsVersion::parse)?.unwrap_or(TlsVersion::V12),
        max_version: read.parse("tls-max-version", TlsVersion::parse)?.unwrap_or(TlsVersion::V13),
        self_signed_years: read.count("self-signed-cert-validity")?,
    })
}

fn logging_of(read: &Reader<'_>) -> Result<Logging, CheckError> {
    let outputs = read.list("log-outputs");
    let output = |text: &String| match text.as_str() {
        "default" | "stderr" => LogOutput::Stderr,
        "stdout" => LogOutput::Stdout,
        "systemd/journal" => LogOutput::Journal,
        path => LogOutput::File(PathBuf::from(path)),
    };
    for alone in ["default", "systemd/journal"] {
        if outputs.len() > 1 && outputs.iter().any(|text| text == alone) {
            return Err(CheckError::LogOutputs(alone.to_owned()));
        }
    }
    let mut outputs: Vec<LogOutput> = outputs.iter().map(output).collect();
    outputs.dedup();
    if outputs.is_empty() {
        outputs.push(LogOutput::Stderr);
    }
    Ok(Logging {
        level: read.parse("log-level", str::parse::<LogLevel>)?,
        format: read.parse("log-format", str::parse::<LogFormat>)?,
        outputs,
    })
}

fn checks_of(read: &Reader<'_>) -> Result<Checks, CheckError> {
    Ok(Checks {
        corrupt_check_time: read.optional_duration("corrupt-check-time")?,
        compact_hash_check_time: read.duration("compact-hash-check-time")?,
        compaction_batch_limit: read.count("compaction-batch-limit")?,
        compaction_sleep_interval: read.duration("compaction-sleep-interval")?,
        watch_progress_notify_interval: read.duration("watch-progress-notify-interval")?,
        warning_apply_duration: read.duration("warning-apply-duration")?,
        warning_unary_request_duration: read.duration("warning-unary-request-duration")?,
    })
}

fn feature_gates_of(read: &Reader<'_>) -> Result<FeatureGates, SettingsError> {
    let mut gates = read.parse("feature-gates", FeatureGates::parse)?;
    for (gate, (on, flag)) in &read.values.gates {
        if gates.is_set(gate) {
            return Err(SettingsError::GateTwice { flag: flag.clone(), gate: (*gate).to_owned() });
        }
        gates.set(gate, *on).map_err(CheckError::Value)?;
    }
    Ok(gates)
}

/// Warnings: deprecated spellings, flags without effect, and valid but misleading combinations.
fn notices_of(values: &Values, settings: &Settings) -> Vec<String> {
    let mut notices = Vec::new();
    for (name, given) in &values.flags {
        let Some(flag) = flags::find(name) else { continue };
        if given.spelled.starts_with("experimental-") {
            notices.push(format!("--{} is deprecated. Use --{name} instead.", given.spelled));
        }
        if !flag.used && given.text != flag.default && !given.text.is_empty() {
            notices.push(format!("--{} is accepted and has no effect in this program", given.spelled));
        }
    }
    for (gate, (_, flag)) in &values.gates {
        notices.push(format!("--{flag} is deprecated. Use --feature-gates={gate}=true instead."));
    }
    if settings.name == "default" {
        notices.push(
            "it isn't recommended to use default name, please set a value for --name. Note that etcd \
             might run into issue when multiple members have the same default name"
                .to_owned(),
        );
    }
    for (flag, urls) in [
        ("advertise-client-urls", &settings.advertise_client_urls),
        ("initial-advertise-peer-urls", &settings.initial_advertise_peer_urls),
    ] {
        for url in urls.iter().filter(|url| url.bind_ip().is_some_and(|ip| ip.is_unspecified())) {
            notices.push(format!("--{flag} has {url}, which others cannot reach; advertise an address"));
        }
    }
    for (side, tls) in [("client", &settings.client_tls), ("peer", &settings.peer_tls)] {
        let asks = !tls.allowed_cn.is_empty() || !tls.allowed_hostname.is_empty() || tls.crl_file.is_some();
        if asks && !tls.requires_client_cert() {
            notices.push(format!(
                "allowed names and revocation lists of {side} certificates have no effect: no certificate is asked \
                 for without a trusted CA file or client-cert-auth"
            ));
        }
    }
    for url in settings.listen_client_urls.iter().filter(|url| !url.scheme().is_tls()) {
        if settings.client_tls.has_pair() {
            notices.push(format!(
                "scheme is http or unix while key and cert files are present; ignoring key and cert \
                 files for {url}"
            ));
        }
    }
    notices
}

impl Default for Settings {
    /// The settings of a start without any flag, variable or file.
    fn default() -> Settings {
        from_values(&Values::default(), Source::File)
            .map(|(settings, _)| settings)
            .expect("the defaults in the table of flags form valid settings")
    }
}
