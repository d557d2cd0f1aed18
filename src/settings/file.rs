//! The configuration file: YAML (JSON is YAML too) with etcd's keys. Keys are the flags' names;
//! TLS files are in the sections `client-transport-security` and `peer-transport-security`;
//! durations are integer nanoseconds, as in etcd, or strings such as `10m`. Unknown keys are
//! ignored, as in etcd, and named in a warning.

use serde_yaml::Value;

use super::MAX_FILE_BYTES;
use super::build::{self, Source};
use super::error::{SettingsError, shown};
use super::flags::{FLAGS, Kind, Meaning, meaning_of};
use super::model::Settings;
use super::sources::Values;

impl Settings {
    /// Parses the output of [`Settings::to_yaml`], or any file that etcd accepts.
    pub fn from_yaml(text: &str) -> Result<Settings, SettingsError> {
        read(text.as_bytes(), "configuration").map(|(settings, _)| settings)
    }
}

/// Parses a configuration file. `path` is used only in messages.
pub fn read(bytes: &[u8], path: &str) -> Result<(Settings, Vec<String>), SettingsError> {
    let values = values_of(bytes, path)?;
    build::from_values(&values, Source::File)
}

fn values_of(bytes: &[u8], path: &str) -> Result<Values, SettingsError> {
    let refuse = |reason: String| SettingsError::File { path: path.to_owned(), reason };
    if bytes.len() > MAX_FILE_BYTES {
        return Err(refuse(format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| refuse(format!("not UTF-8: {error}")))?;
    let document: Value = serde_yaml::from_str(text).map_err(|error| refuse(format!("not YAML: {error}")))?;
    let mut values = Values::default();
    match document {
        Value::Null => {}
        Value::Mapping(map) => {
            for (key, value) in map {
                let key = key.as_str().ok_or_else(|| refuse("a key is not a text".to_owned()))?;
                take(&mut values, path, key, value)?;
            }
        }
        _ => return Err(refuse("must be a list of `key: value` lines".to_owned())),
    }
    Ok(values)
}

/// Adds one key of the document, or the keys of one section, to `values`.
fn take(values: &mut Values, path: &str, key: &str, value: Value) -> Result<(), SettingsError> {
    let Some(meaning) = meaning_at(key) else {
        return match value {
            Value::Mapping(section) if is_section(key) => section.into_iter().try_for_each(|(inner, value)| {
                let inner = inner.as_str().unwrap_or("?");
                take(values, path, &format!("{key}/{inner}"), value)
            }),
            Value::Null => Ok(()),
            _ => {
                values.notices.push(format!("unknown key {key:?} in {path} is ignored"));
                Ok(())
            }
        };
    };
    let refuse = |text: &str, reason: String| SettingsError::FileValue {
        path: path.to_owned(),
        key: key.to_owned(),
        value: shown(text),
        reason,
    };
    let Some(text) = text_of(meaning.kind(), &value).map_err(|reason| refuse("", reason))? else {
        return Ok(());
    };
    // etcd validates this key of a file later, with the whole, and with a different message.
    if key != "initial-cluster-state" {
        meaning.kind().check(&text).map_err(|reason| refuse(&text, reason))?;
    }
    values.put(meaning, key.rsplit('/').next().unwrap_or(key), &text)
}

fn meaning_at(place: &str) -> Option<Meaning> {
    let row = FLAGS.iter().find(|flag| flag.yaml == place).map(Meaning::Flag);
    row.or_else(|| if is_plain_key(place) { meaning_of(place) } else { None })
}

/// Whether a key may appear at the top level: `experimental-…` names and old gate flags may; flags that
/// belong to a section may not.
fn is_plain_key(place: &str) -> bool {
    match meaning_of(place) {
        Some(Meaning::Flag(flag)) => !flag.yaml.contains('/') || place.starts_with("experimental-"),
        Some(Meaning::Gate(_)) => true,
        None => false,
    }
}

fn is_section(key: &str) -> bool {
    FLAGS.iter().any(|flag| flag.yaml.strip_prefix(key).is_some_and(|rest| rest.starts_with('/')))
}

/// The flag's text for a YAML value; `None` for null, which keeps the default. So does an empty string where
/// it is no valid value, because etcd's sample file has many of them.
fn text_of(kind: Kind, value: &Value) -> Result<Option<String>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::Bool(on) => on.to_string(),
        Value::Number(number) if kind == Kind::Duration => match number.as_u64() {
            Some(nanos) => format!("{nanos}ns"),
            None => return Err("use integer nanoseconds, 0 or more, or a text such as 10m".to_owned()),
        },
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Sequence(items) if matches!(kind, Kind::List | Kind::Urls) => {
            let mut texts = Vec::with_capacity(items.len());
            for item in items {
                match item.as_str() {
                    Some(text) if !text.contains(',') => texts.push(text),
                    _ => return Err("items of a list must be texts without commas".to_owned()),
                }
            }
            texts.join(",")
        }
        _ => return Err("must be a single value".to_owned()),
    };
    let empty_means_default = !matches!(kind, Kind::Text | Kind::List | Kind::Bool);
    Ok(Some(text).filter(|text| !(text.is_empty() && empty_means_default)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::values::{LogLevel, TlsVersion};

    fn settings(text: &str) -> Settings {
        Settings::from_yaml(text).expect(text)
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        for text in ["", "---\n", "# nothing\n", "{}"] {
            assert_eq!(settings(text), Settings::default());
        }
    }

    #[test]
    fn keys_sections_lists_and_nanoseconds_are_parsed() {
        let read = settings(
            "name: m1\nheartbeat-interval: 200\nelection-timeout: 2000\npre-vote: false\n\
             grpc-keepalive-timeout: 5000000000\ngrpc-keepalive-min-time: 3s\n\
             log-outputs: [stderr, /tmp/x.log]\nlog-level: debug\n\
             cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n\
             client-transport-security:\n  cert-file: c.pem\n  key-file: k.pem\n  client-cert-auth: true\n\
             peer-transport-security:\n  trusted-ca-file: ca.pem\n  allowed-cn: [a, b]\n",
        );
        assert_eq!(read.name, "m1");
        assert_eq!(read.data_dir.to_str(), Some("m1.etcd"));
        assert_eq!(read.election_timeout.as_millis(), 2000);
        assert!(!read.pre_vote);
        assert_eq!(read.keepalive.timeout.map(|t| t.as_secs()), Some(5));
        assert_eq!(read.keepalive.min_time.as_secs(), 3);
        assert_eq!(read.logging.outputs.len(), 2);
        assert_eq!(read.logging.level, LogLevel::Debug);
        assert_eq!(read.tls_policy.cipher_suites.len(), 1);
        assert!(read.client_tls.has_pair() && read.client_tls.client_cert_auth);
        assert_eq!(read.peer_tls.allowed_cn, ["a", "b"]);
        assert!(read.peer_tls.requires_client_cert());
    }

    #[test]
    fn json_is_parsed_too() {
        assert_eq!(settings(r#"{"name": "j", "max-txn-ops": 7}"#).limits.max_txn_ops, 7);
    }

    #[test]
    fn a_file_like_etcds_sample_is_accepted() {
        let text = "name: 'default'\ndata-dir:\nwal-dir:\nsnapshot-count: 10000\nheartbeat-interval: 100\n\
            election-timeout: 1000\nquota-backend-bytes: 0\nlisten-peer-urls: http://localhost:2380\n\
            listen-client-urls: http://localhost:2379\nmax-snapshots: 5\nmax-wals: 5\ncors:\n\
            initial-advertise-peer-urls: http://localhost:2380\n\
            advertise-client-urls: http://localhost:2379\ndiscovery:\ndiscovery-fallback: 'proxy'\n\
            discovery-proxy:\ndiscovery-srv:\ninitial-cluster:\ninitial-cluster-token: 'etcd-cluster'\n\
            initial-cluster-state: 'new'\nstrict-reconfig-check: false\nenable-pprof: true\nproxy: 'off'\n\
            proxy-failure-wait: 5000\nclient-transport-security:\n  cert-file:\n  key-file:\n\
            \x20 client-cert-auth: false\n  trusted-ca-file:\n  auto-tls: false\n\
            peer-transport-security:\n  cert-file:\n  key-file:\n  client-cert-auth: false\n\
            \x20 trusted-ca-file:\n  auto-tls: false\n  allowed-cn:\n  allowed-hostname:\n\
            self-signed-cert-validity: 1\nlog-level: debug\nlogger: zap\nlog-outputs: [stderr]\n\
            force-new-cluster: false\nauto-compaction-mode: periodic\nauto-compaction-retention: '1'\n\
            tls-min-version: 'TLS1.2'\ntls-max-version: 'TLS1.3'\n\
            cipher-suites: [\n  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,\n\
            \x20 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\n]\n";
        let read = settings(text);
        assert_eq!(read.tls_policy.max_version, TlsVersion::V13);
        assert_eq!(read.initial_cluster.to_string(), "default=http://localhost:2380");
    }

    #[test]
    fn a_listen_url_in_a_file_keeps_the_default_advertise_url() {
        let read = settings("listen-client-urls: http://127.0.0.1:1");
        assert_eq!(read.advertise_client_urls.to_string(), "http://localhost:2379");
    }

    #[test]
    fn unknown_keys_are_ignored_and_named() {
        let (_, notices) =
            read(b"nam: x\ncert-file: x\npeer-transport-security: {nonsense: 1}\nname: a\n", "/c").expect("file");
        assert_eq!(
            notices,
            [
                "unknown key \"nam\" in /c is ignored",
                "unknown key \"cert-file\" in /c is ignored",
                "unknown key \"peer-transport-security/nonsense\" in /c is ignored"
            ]
        );
    }

    #[test]
    fn bad_files_are_refused_with_key_value_and_path() {
        let big = vec![b' '; MAX_FILE_BYTES + 1];
        for (bytes, said) in [
            (&b"\xff\xfe"[..], "cannot use configuration file /c: not UTF-8"),
            (b"a: [", "cannot use configuration file /c: not YAML"),
            (b"\tname: x", "cannot use configuration file /c: not YAML"),
            (b"name: a\nname: b", "cannot use configuration file /c: not YAML: duplicate entry"),
            (b"- a", "cannot use configuration file /c: must be a list of `key: value` lines"),
            (b"1: a", "cannot use configuration file /c: a key is not a text"),
            (&big, "cannot use configuration file /c: larger than 1048576 bytes"),
            (b"name: [a]", "invalid value \"\" for name in /c: must be a single value"),
            (b"pre-vote: maybe", "invalid value \"maybe\" for pre-vote in /c: "),
            (b"max-txn-ops: -1", "invalid value \"-1\" for max-txn-ops in /c: "),
            (b"grpc-keepalive-timeout: -1", "invalid value \"\" for grpc-keepalive-timeout in /c: use integer"),
            (b"listen-peer-urls: x", "invalid value \"x\" for listen-peer-urls in /c: URL scheme"),
            (b"initial-cluster-state: old", "unexpected clusterState \"old\""),
            (b"unsafe-no-fsync: true", "--unsafe-no-fsync is refused"),
        ] {
            let error = read(bytes, "/c").expect_err(said);
            assert!(error.to_string().starts_with(said), "{error}");
            assert_eq!(error.exit_code(), 1);
        }
    }

    #[test]
    fn a_yaml_anchor_bomb_is_refused_in_bounded_time() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let item = format!("*a{}", level - 1);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![item; 9].join(",")));
        }
        assert!(read(text.as_bytes(), "/c").is_err());
    }
}
