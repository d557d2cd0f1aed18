//! Validation across several values. [`Settings::check`] is for every start and for the charm;
//! [`Settings::check_bootstrap`] only for a start on an empty data directory, because etcd ignores
//! the `--initial-*` flags on every later one.

use std::time::Duration;

use super::error::CheckError;
use super::model::{Settings, TlsSettings};
use super::urls::UrlList;
use super::values::TlsVersion;

/// Maximum election timeout.
const MOST_ELECTION: Duration = Duration::from_millis(50_000);

/// Minimum bcrypt cost.
const LEAST_BCRYPT_COST: u32 = 4;

impl Settings {
    /// Rejects values that cannot be combined. Order and messages follow etcd.
    pub fn check(&self) -> Result<(), CheckError> {
        self.check_names_and_urls()?;
        self.check_timing()?;
        self.check_numbers()?;
        self.check_tls()?;
        self.check_listeners()
    }

    fn check_names_and_urls(&self) -> Result<(), CheckError> {
        if self.name.is_empty() {
            return Err(CheckError::EmptyName);
        }
        if self.name.contains([',', '=']) || self.name.trim_start() != self.name {
            return Err(CheckError::UnlistableName(self.name.clone()));
        }
        for (flag, urls) in [
            ("listen-peer-urls", &self.listen_peer_urls),
            ("listen-client-urls", &self.listen_client_urls),
            ("initial-advertise-peer-urls", &self.initial_advertise_peer_urls),
        ] {
            if urls.is_empty() {
                return Err(CheckError::NoUrl(flag));
            }
        }
        if self.advertise_client_urls.is_empty() {
            return Err(CheckError::AdvertiseClientMissing);
        }
        for urls in
            [&self.listen_peer_urls, &self.listen_client_urls, &self.listen_client_http_urls, &self.listen_metrics_urls]
        {
            for url in urls.iter() {
                if !url.scheme().is_unix() && url.bind_ip().is_none() {
                    return Err(CheckError::BindNeedsIp(url.to_string()));
                }
            }
        }
        if let Some(url) = without_host(&self.initial_advertise_peer_urls) {
            return Err(CheckError::AdvertisePeerHost(self.initial_advertise_peer_urls.to_string(), url));
        }
        if let Some(url) = without_host(&self.advertise_client_urls) {
            return Err(CheckError::AdvertiseClientHost(self.advertise_client_urls.to_string(), url));
        }
        Ok(())
    }

    fn check_timing(&self) -> Result<(), CheckError> {
        let (heartbeat, election) = (self.heartbeat_interval, self.election_timeout);
        if heartbeat.is_zero() {
            return Err(CheckError::HeartbeatZero);
        }
        if election.is_zero() {
            return Err(CheckError::ElectionZero);
        }
        if heartbeat.saturating_mul(5) > election {
            return Err(CheckError::ElectionShort { election: election.as_millis(), heartbeat: heartbeat.as_millis() });
        }
        if election > MOST_ELECTION {
            return Err(CheckError::ElectionLong(election.as_millis()));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), CheckError> {
        let gate = |name| self.feature_gates.enabled(name);
        if gate("LeaseCheckpointPersist") && !gate("LeaseCheckpoint") {
            return Err(CheckError::PersistWithoutCheckpoint);
        }
        if self.checks.compact_hash_check_time.is_zero() {
            return Err(CheckError::CompactHashCheckTime(self.checks.compact_hash_check_time));
        }
        let progress = self.checks.watch_progress_notify_interval;
        for (name, least, given) in [
            ("max-request-bytes", 1, self.limits.max_request_bytes.into()),
            ("max-txn-ops", 1, self.limits.max_txn_ops.into()),
            ("max-concurrent-streams", 1, self.limits.max_concurrent_streams.into()),
            ("compaction-batch-limit", 1, self.checks.compaction_batch_limit.into()),
            ("snapshot-count", 1, self.snapshot_count),
            ("snapshot-catchup-entries", 1, self.snapshot_catchup_entries),
            ("bcrypt-cost", LEAST_BCRYPT_COST.into(), self.authentication.bcrypt_cost.into()),
            ("watch-progress-notify-interval", 1, u64::from(!progress.is_zero())),
            ("block-cache-bytes", 1 << 20, self.memory.block_cache_bytes),
            ("write-buffer-bytes", 1 << 20, self.memory.write_buffer_bytes),
        ] {
            if given < least {
                return Err(CheckError::TooSmall { name, least, given });
            }
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), CheckError> {
        let policy = &self.tls_policy;
        if policy.min_version > policy.max_version {
            return Err(CheckError::TlsVersions(policy.min_version.as_str(), policy.max_version.as_str()));
        }
        if policy.min_version == TlsVersion::V13 && !policy.cipher_suites.is_empty() {
            return Err(CheckError::CiphersWithTls13);
        }
        check_files(&self.client_tls, "cert-file and --key-file", "client-cert-file and --client-key-file")?;
        check_files(
            &self.peer_tls,
            "peer-cert-file and --peer-key-file",
            "peer-client-cert-file and --peer-client-key-file",
        )?;
        let self_signed = [&self.client_tls, &self.peer_tls].iter().any(|tls| tls.auto && !tls.has_pair());
        if self_signed && policy.self_signed_years == 0 {
            return Err(CheckError::SelfSignedValidity);
        }
        Ok(())
    }

    fn check_listeners(&self) -> Result<(), CheckError> {
        let first_tls = |urls: &UrlList| urls.iter().find(|url| url.scheme().is_tls()).map(ToString::to_string);
        if let Some(url) = first_tls(&self.listen_peer_urls)
            && !self.peer_tls.can_serve()
        {
            return Err(CheckError::PeerUrlNeedsCerts(url));
        }
        if !self.client_tls.can_serve() {
            for urls in [&self.listen_client_urls, &self.listen_client_http_urls] {
                if let Some(url) = first_tls(urls) {
                    return Err(CheckError::ClientUrlNeedsCerts(url));
                }
            }
            if let Some(url) = first_tls(&self.listen_metrics_urls) {
                return Err(CheckError::MetricsUrlNeedsCerts(url));
            }
        }
        for http in self.listen_client_http_urls.iter().filter(|url| url.port() != 0 || url.scheme().is_unix()) {
            if self.listen_client_urls.iter().any(|url| url.authority() == http.authority()) {
                return Err(CheckError::SharedHttpAddress(http.authority()));
            }
        }
        Ok(())
    }

    /// Rejects a first start whose `--initial-cluster` does not match this member. Call it only when the
    /// data directory holds no member.
    pub fn check_bootstrap(&self) -> Result<(), CheckError> {
        let cluster = &self.initial_cluster;
        if cluster.is_empty() {
            return Err(CheckError::InitialClusterEmpty);
        }
        let own = cluster.get(&self.name).ok_or_else(|| CheckError::LocalNameMissing(self.name.clone()))?;
        if let Some(url) = cluster.duplicate_url() {
            return Err(CheckError::DuplicateUrl { cluster: cluster.to_string(), url: url.to_string() });
        }
        let advertised = &self.initial_advertise_peer_urls;
        let missing = self.named_missing(own, advertised);
        if !missing.is_empty() {
            return Err(CheckError::MissingFromAdvertise(missing, advertised.to_string()));
        }
        let missing = self.named_missing(advertised, own);
        if !missing.is_empty() {
            return Err(CheckError::MissingFromCluster(missing, cluster.to_string()));
        }
        let wildcard = advertised.iter().find(|url| url.bind_ip().is_some_and(|ip| ip.is_unspecified()));
        match wildcard {
            Some(url) if cluster.len() > 1 => Err(CheckError::WildcardAdvertise(url.to_string(), cluster.len() - 1)),
            _ => Ok(()),
        }
    }

    /// `name=url,…` for the URLs in `have` that are not in `want`.
    fn named_missing(&self, have: &UrlList, want: &UrlList) -> String {
        let missing: Vec<String> =
            have.iter().filter(|url| !want.contains(url)).map(|url| format!("{}={url}", self.name)).collect();
        missing.join(",")
    }
}

fn without_host(urls: &UrlList) -> Option<String> {
    urls.iter().find(|url| !url.scheme().is_unix() && url.host().is_empty()).map(ToString::to_string)
}

fn check_files(tls: &TlsSettings, pair_flags: &'static str, client_pair_flags: &'static str) -> Result<(), CheckError> {
    for (cert, key, flags) in
        [(&tls.cert_file, &tls.key_file, pair_flags), (&tls.client_cert_file, &tls.client_key_file, client_pair_flags)]
    {
        if cert.is_some() != key.is_some() {
            let shown = |path: &Option<std::path::PathBuf>| {
                path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
            };
            return Err(CheckError::HalfPair { key: shown(key), cert: shown(cert), flags });
        }
    }
    if !tls.allowed_cn.is_empty() && !tls.allowed_hostname.is_empty() {
        return Err(CheckError::CnAndHostname { cns: tls.allowed_cn.clone(), hostnames: tls.allowed_hostname.clone() });
    }
    Ok(())
}
