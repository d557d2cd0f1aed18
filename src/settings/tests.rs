//! The three sources together, every error message, and the round trip through the configuration file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

fn run(line: &str, variables: &[(&str, &str)], file: Option<&str>) -> Result<Invocation, SettingsError> {
    let words: Vec<String> = line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect();
    let environment: BTreeMap<String, String> =
        variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let file = file.map(str::to_owned);
    read(&words, &environment, &move |_: &Path| {
        file.clone().map(String::into_bytes).ok_or_else(|| io::ErrorKind::NotFound.into())
    })
}

fn settings(line: &str) -> Settings {
    match run(line, &[], None) {
        Ok(Invocation::Run { settings, .. }) => *settings,
        other => panic!("{line}: {other:?}"),
    }
}

fn notices(line: &str) -> Vec<String> {
    match run(line, &[], None) {
        Ok(Invocation::Run { notices, .. }) => notices,
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str) -> (u8, String) {
    let error = run(line, &[], None).expect_err(line);
    (error.exit_code(), error.to_string())
}

#[test]
fn defaults_are_etcds() {
    let settings = settings("");
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.name, "default");
    assert_eq!(settings.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(settings.listen_client_urls.to_string(), "http://localhost:2379");
    assert_eq!(settings.initial_cluster.to_string(), "default=http://localhost:2380");
    assert_eq!(settings.limits.max_request_bytes, 1_572_864);
    assert_eq!(settings.limits.quota.limit(), Some(2 << 30));
    assert_eq!(settings.request_timeout(), Duration::from_secs(7));
    assert_eq!(settings.keepalive.interval, Some(Duration::from_secs(7200)));
    assert_eq!(settings.auto_compaction, AutoCompaction::Off);
    assert_eq!(settings.cors, AllowList::Any);
    assert!(settings.enable_v2 && settings.pre_vote && settings.strict_reconfig_check);
    assert_eq!(settings.check_bootstrap(), Ok(()));
}

#[test]
fn a_name_alone_gives_a_single_member_cluster() {
    assert_eq!(settings("--name m1").initial_cluster.to_string(), "m1=http://localhost:2380");
    let moved = settings("--name m1 --initial-advertise-peer-urls http://10.0.0.1:2380");
    assert_eq!(moved.initial_cluster.to_string(), "m1=http://10.0.0.1:2380");
    assert_eq!(moved.check_bootstrap(), Ok(()));
}

#[test]
fn variables_and_files_set_what_flags_set() {
    let by_flag = settings("--name m1 --election-timeout 2000 --cert-file c --key-file k");
    let variables =
        [("ETCD_NAME", "m1"), ("ETCD_ELECTION_TIMEOUT", "2000"), ("ETCD_CERT_FILE", "c"), ("ETCD_KEY_FILE", "k")];
    let file = "name: m1\nelection-timeout: 2000\nclient-transport-security: {cert-file: c, key-file: k}\n";
    for (line, variables, file) in [
        ("", &variables[..], None),
        ("--config-file=/c", &[][..], Some(file)),
        ("", &[("ETCD_CONFIG_FILE", "/c")][..], Some(file)),
    ] {
        match run(line, variables, file) {
            Ok(Invocation::Run { settings, .. }) => assert_eq!(*settings, by_flag),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn a_file_replaces_flags_and_variables() {
    let line = "--name flag --config-file /c";
    match run(line, &[("ETCD_NAME", "variable"), ("ETCD_DATA_DIR", "/x")], Some("name: file")) {
        Ok(Invocation::Run { settings, notices }) => {
            assert_eq!(settings.name, "file");
            assert_eq!(settings.data_dir, PathBuf::from("file.etcd"));
            assert!(notices.contains(&"flags beside --config-file are ignored: --name".to_owned()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = run("--config-file /no/such", &[], None).expect_err("file");
    assert!(error.to_string().starts_with("cannot use configuration file /no/such: "), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn version_and_help_print_and_exit_with_zero() {
    match run("--version", &[], None) {
        Ok(Invocation::Print(text)) => {
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("etcd Version: 3.6.5"));
            assert!(lines.next().is_some_and(|line| line.starts_with("etcd-charm ")));
        }
        other => panic!("{other:?}"),
    }
    match run("--help", &[], None) {
        Ok(Invocation::Print(text)) => {
            for flag in FLAGS {
                assert!(text.contains(&format!("--{} '", flag.name)), "{}", flag.name);
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn invalid_settings_are_refused_with_etcds_messages() {
    let lots = "--name a --initial-cluster a=http://h:1,b=http://h:2";
    for (line, said) in [
        (
            "--listen-client-urls http://127.0.0.1:1",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        ("--listen-peer-urls http://example.com:1", "expected IP in URL for binding (http://example.com:1)"),
        ("--listen-metrics-urls http://:1", "expected IP in URL for binding (http://:1)"),
        (
            "--initial-advertise-peer-urls http://:1",
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (
            "--advertise-client-urls http://:1",
            "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:1))",
        ),
        (
            "--election-timeout 400",
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        ("--election-timeout 60000", "--election-timeout[60000ms] is too long, and should be set less than 50000ms"),
        ("--election-timeout 0", "--election-timeout must be >0 (set to 0ms)"),
        ("--heartbeat-interval 0", "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            "--heartbeat-interval 4294967295",
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[4294967295ms]",
        ),
        (
            "--initial-cluster a=http://h:1 --discovery-srv d",
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        ("--discovery-token t", "both --discovery-token and --discovery-endpoints must be set"),
        ("--discovery-srv d", "--discovery-srv is not supported: list the members with --initial-cluster instead"),
        ("--auto-compaction-mode yearly", "unknown auto-compaction-mode \"yearly\""),
        ("--auto-compaction-mode=", "undefined auto-compaction-mode"),
        (
            "--auto-compaction-retention=-1",
            "error parsing CompactionRetention: negative duration \"-1\" (use 0 or more)",
        ),
        ("--compact-hash-check-time 0", "--compact-hash-check-time must be >0 (set to 0ns)"),
        (
            "--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://h:1",
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            "--listen-peer-urls https://127.0.0.1:1",
            "cannot listen on TLS for https://127.0.0.1:1: KeyFile and CertFile are not presented (give --peer-cert-file and --peer-key-file)",
        ),
        (
            "--listen-metrics-urls https://127.0.0.1:1",
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url https://127.0.0.1:1",
        ),
        (
            "--cert-file c",
            "KeyFile and CertFile must both be present[key: , cert: c] (flags --cert-file and --key-file)",
        ),
        (
            "--peer-key-file k",
            "KeyFile and CertFile must both be present[key: k, cert: ] (flags --peer-cert-file and --peer-key-file)",
        ),
        (
            "--peer-cert-allowed-cn a --peer-cert-allowed-hostname b",
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"a\"], hostnames=[\"b\"])",
        ),
        (
            "--tls-min-version TLS1.3 --tls-max-version TLS1.2",
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        ("--tls-min-version TLS1.1", "unexpected TLS version \"TLS1.1\", only TLS1.2 and TLS1.3 are supported"),
        (
            "--tls-min-version TLS1.3 --cipher-suites TLS_AES_128_GCM_SHA256",
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        ("--cipher-suites TLS_NOPE", "unexpected TLS cipher suite \"TLS_NOPE\""),
        (
            "--auto-tls --self-signed-cert-validity 0",
            "selfSignedCertValidity is invalid,it should be greater than 0 (flag --self-signed-cert-validity)",
        ),
        ("--log-level loud", "unrecognized level: \"loud\" (use debug, info, warn, error, panic or fatal)"),
        ("--log-format xml", "unknown log format: xml, supported values json, console"),
        ("--logger capnslog", "unknown logger option \"capnslog\" (use zap)"),
        ("--log-outputs default,stderr", "multi logoutput for \"default\" is not supported yet (give it alone)"),
        ("--max-txn-ops 0", "--max-txn-ops must be at least 1 (set to 0)"),
        ("--bcrypt-cost 3", "--bcrypt-cost must be at least 4 (set to 3)"),
        ("--auth-token magic", "auth: invalid auth options (--auth-token=\"magic\"; use simple or jwt,sign-method=…)"),
        (
            "--unsafe-no-fsync",
            "--unsafe-no-fsync is refused: acknowledged writes would be lost in a crash (remove the flag)",
        ),
        ("--proxy on", "v2 proxy is deprecated, and --proxy can't be configured as \"on\""),
        ("--initial-cluster a", "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "),
        ("--name=", "--name must not be empty (give every member its own)"),
        ("--listen-peer-urls=", "--listen-peer-urls must name at least one URL"),
        (
            "--feature-gates LeaseCheckpointPersist=true",
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (
            "--experimental-initial-corrupt-check --feature-gates InitialCorruptCheck=true",
            "cannot specify both flags: --experimental-initial-corrupt-check=(true|false) and --feature-gates=InitialCorruptCheck=(true|false) at the same time, please just use --feature-gates=InitialCorruptCheck=(true|false)",
        ),
        (
            "--listen-client-urls http://127.0.0.1:1 --advertise-client-urls http://h:1 --listen-client-http-urls http://127.0.0.1:1",
            "address 127.0.0.1:1 is in both --listen-client-urls and --listen-client-http-urls (give HTTP its own port)",
        ),
    ] {
        assert_eq!(refusal(line), (1, said.to_owned()), "{line}");
    }
    assert_eq!(settings(lots).initial_cluster.len(), 2);
}

#[test]
fn a_first_start_needs_an_initial_cluster_that_matches_this_member() {
    for (line, said) in [
        (
            "--name x --initial-cluster a=http://h:1",
            "couldn't find local name \"x\" in the initial cluster configuration",
        ),
        (
            "--initial-cluster=",
            "initial cluster unset and no discovery URL found (list the members with --initial-cluster)",
        ),
        (
            "--name a --initial-cluster a=http://h:1,b=http://h:1 --initial-advertise-peer-urls http://h:1",
            "initial cluster a=http://h:1,b=http://h:1 has duplicate url (http://h:1)",
        ),
        (
            "--name a --initial-cluster a=http://h:1",
            "--initial-cluster has a=http://h:1 but missing from --initial-advertise-peer-urls=http://localhost:2380",
        ),
        (
            "--name a --initial-cluster a=http://h:1 --initial-advertise-peer-urls http://h:1,http://h:2",
            "--initial-advertise-peer-urls has a=http://h:2 but missing from --initial-cluster=a=http://h:1",
        ),
        (
            "--name a --initial-cluster a=http://0.0.0.0:1,b=http://h:1 --initial-advertise-peer-urls http://0.0.0.0:1",
            "--initial-advertise-peer-urls=http://0.0.0.0:1 cannot be reached from the 1 other members (advertise an address of this machine, not a wildcard)",
        ),
    ] {
        let error = settings(line).check_bootstrap().expect_err(line);
        assert_eq!(error.to_string(), said);
    }
}

#[test]
fn zero_counts_mean_the_defaults_and_short_raft_timeouts_are_raised() {
    let settings = settings("--snapshot-count 0 --snapshot-catchup-entries 0 --raft-read-timeout 1s");
    assert_eq!(settings.snapshot_count, 10_000);
    assert_eq!(settings.snapshot_catchup_entries, 5_000);
    assert_eq!(settings.raft_read_timeout, Duration::from_secs(5));
}

#[test]
fn settings_without_effect_are_warned_about() {
    let said = notices("--name a --memory-mlock --experimental-max-learners 2 --max-snapshots 5");
    assert_eq!(
        said,
        [
            "--experimental-max-learners is deprecated. Use --max-learners instead.",
            "--memory-mlock is accepted and has no effect in this program",
        ]
    );
}

#[test]
fn docker_style_wildcards_are_accepted_with_a_warning() {
    let said = notices("--name a --listen-client-urls http://0.0.0.0:1 --advertise-client-urls http://0.0.0.0:1");
    assert_eq!(said, ["--advertise-client-urls has http://0.0.0.0:1, which others cannot reach; advertise an address"]);
}

#[test]
fn every_flag_takes_its_own_default_from_all_three_sources() {
    for flag in FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
        if flag.name == "unsafe-no-fsync" {
            continue;
        }
        let words = vec![format!("--{}={}", flag.name, flag.default)];
        let by_flag = read(&words, &BTreeMap::new(), &|_| Ok(Vec::new()));
        assert!(by_flag.is_ok() || flag.name == "listen-client-urls", "--{}: {by_flag:?}", flag.name);
        let environment = BTreeMap::from([(flag.variable(), flag.default.to_owned())]);
        let by_variable = read(&[], &environment, &|_| Ok(Vec::new()));
        assert!(by_variable.is_ok() || flag.name == "listen-client-urls", "{}: {by_variable:?}", flag.variable());
        let document = match flag.yaml.split_once('/') {
            Some((section, key)) => format!("{section}: {{{key}: '{}'}}", flag.default),
            None => format!("{}: '{}'", flag.yaml, flag.default),
        };
        let by_file = Settings::from_yaml(&document);
        assert_eq!(by_file.as_ref().ok(), Some(&Settings::default()), "{document}: {by_file:?}");
    }
}

/// A value different from the default for every used flag, to check that a new flag is in both
/// the struct and the file.
fn everything_changed() -> Settings {
    settings(
        "--name m1 --data-dir /d --wal-dir /w --snapshot-count 7 --snapshot-catchup-entries 8 \
         --heartbeat-interval 50 --election-timeout 500 --pre-vote=false \
         --listen-peer-urls https://127.0.0.1:1 --listen-client-urls https://127.0.0.1:2,unixs:///s \
         --listen-client-http-urls https://127.0.0.1:3 --listen-metrics-urls http://127.0.0.1:4 \
         --quota-backend-bytes=-5 --max-txn-ops 9 --max-request-bytes 10 --max-concurrent-streams 11 \
         --grpc-keepalive-min-time 1ms --grpc-keepalive-interval 0 --grpc-keepalive-timeout 90ns \
         --socket-reuse-port --raft-read-timeout 6s --raft-write-timeout 7s \
         --initial-advertise-peer-urls https://h:1 --advertise-client-urls https://h:2 \
         --initial-cluster m1=https://h:1,m2=https://h:5 --initial-cluster-state existing \
         --initial-cluster-token t --strict-reconfig-check=false --auto-compaction-mode revision \
         --auto-compaction-retention 12 --max-learners 2 --max-wals 7 --cert-file c --key-file k \
         --client-cert-file cc --client-key-file ck --client-cert-auth --trusted-ca-file ca \
         --client-crl-file crl --client-cert-allowed-hostname a.b,c.d --auto-tls --peer-cert-file pc \
         --peer-key-file pk --peer-client-cert-file pcc --peer-client-key-file pck \
         --peer-client-cert-auth --peer-trusted-ca-file pca --peer-crl-file pcrl \
         --peer-cert-allowed-cn x,y --peer-auto-tls --peer-skip-client-san-verification \
         --self-signed-cert-validity 3 --cipher-suites TLS_AES_128_GCM_SHA256 \
         --tls-max-version TLS1.2 --cors http://a:1 --host-whitelist a,b \
         --auth-token jwt,sign-method=ES256,ttl=7s --auth-token-ttl 5 --bcrypt-cost 4 \
         --log-level debug --log-format console --log-outputs stdout,/l --metrics extensive \
         --warning-apply-duration 1s --warning-unary-request-duration 2s --corrupt-check-time 3s \
         --compact-hash-check-time 4s --compaction-batch-limit 5 --compaction-sleep-interval 6ms \
         --watch-progress-notify-interval 7s --enable-grpc-gateway=false --enable-pprof \
         --feature-gates InitialCorruptCheck=true --enable-v2=false --force-new-cluster --promote-learners \
         --block-cache-bytes 2000000 --write-buffer-bytes 3000000",
    )
}

#[test]
fn a_file_written_from_settings_reads_back_as_the_same_settings() {
    let mut peers_by_name = everything_changed();
    peers_by_name.peer_tls.allowed_cn.clear();
    peers_by_name.peer_tls.allowed_hostname = vec!["h.example".to_owned()];
    let by_hand = Settings {
        name: "etcd3".to_owned(),
        auto_compaction: AutoCompaction::Periodic(Duration::from_secs(5400)),
        tls_policy: TlsPolicy { min_version: TlsVersion::V13, ..Settings::default().tls_policy },
        ..Settings::default()
    };
    for settings in [Settings::default(), everything_changed(), peers_by_name, by_hand] {
        assert_eq!(settings.check(), Ok(()));
        let text = settings.to_yaml();
        assert_eq!(Settings::from_yaml(&text), Ok(settings.clone()), "{text}");
        assert_eq!(Settings::from_yaml(&text).expect("read above").to_yaml(), text);
    }
}

#[test]
fn every_used_flag_changes_the_written_file() {
    let text = everything_changed().to_yaml();
    let refused = [
        "discovery",
        "discovery-srv",
        "discovery-endpoints",
        "discovery-token",
        "discovery-fallback",
        "proxy",
        "unsafe-no-fsync",
    ];
    for flag in FLAGS.iter().filter(|flag| flag.used && !refused.contains(&flag.name)) {
        // These flags exclude others in this set of values: see the sets above.
        if matches!(flag.name, "peer-cert-allowed-hostname" | "client-cert-allowed-cn" | "tls-min-version") {
            continue;
        }
        let key = flag.yaml.rsplit('/').next().expect("a place has a last part");
        assert!(text.contains(&format!("{key}:")), "--{} is missing:\n{text}", flag.name);
    }
}

#[test]
fn the_written_file_uses_etcds_keys_and_units() {
    let text = everything_changed().to_yaml();
    for line in [
        "name: m1",
        "grpc-keepalive-min-time: 1000000",
        "quota-backend-bytes: -1",
        "client-transport-security:",
        "  cert-file: c",
        "  client-cert-auth: true",
        "peer-transport-security:",
        "auto-compaction-retention: '12'",
        "- stdout",
    ] {
        assert!(text.lines().any(|found| found == line || found.trim() == line), "{line} in\n{text}");
    }
    assert!(!Settings::default().to_yaml().contains("heartbeat"), "defaults stay unwritten");
}
