//! Table-driven tests of the flag table: every flag, from every source, with invalid values.

use std::collections::BTreeMap;

use super::flags::{FLAGS, Flag, Kind};
use super::{SettingsError, file, read};

/// Malformed values for flags of this kind.
fn bad_values(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Bool => &["maybe", "2", "yes"],
        Kind::Uint(_) => &["-1", "ten", "1.5", "99999999999999999999", "1e3"],
        Kind::Int => &["ten", "1.5", "99999999999999999999", "0x"],
        Kind::Duration => &["5", "soon", "-1s", "5 s", "9999999999h", "1d"],
        Kind::Urls => &["nonsense", "ftp://127.0.0.1:1", "http://127.0.0.1", "http://127.0.0.1:70000", "http://a:1/x"],
        Kind::Gates => &["NoSuchGate=true", "InitialCorruptCheck", "InitialCorruptCheck=maybe"],
        Kind::OneOf(_) => &["none-of-these"],
        Kind::Text | Kind::List => &[],
    }
}

/// Well-formed but invalid values, with their flag.
const MEANINGLESS: [(&str, &str); 16] = [
    ("name", "a,b"),
    ("name", "a=b"),
    ("name", " a"),
    ("auto-compaction-mode", "yearly"),
    ("auto-compaction-retention", "-1"),
    ("initial-cluster", "a"),
    ("cipher-suites", "TLS_NOPE"),
    ("tls-min-version", "TLS1.1"),
    ("tls-max-version", "SSL3"),
    ("auth-token", "magic"),
    ("log-level", "loud"),
    ("log-format", "xml"),
    ("logger", "capnslog"),
    ("log-outputs", "default,stderr"),
    ("discovery", "https://discovery.example"),
    ("discovery-srv", "example"),
];

fn by_flag(flag: &Flag, value: &str) -> Result<(), SettingsError> {
    read(&[format!("--{}={value}", flag.name)], &BTreeMap::new(), &|_| Ok(Vec::new())).map(drop)
}

fn by_variable(flag: &Flag, value: &str) -> Result<(), SettingsError> {
    read(&[], &BTreeMap::from([(flag.variable(), value.to_owned())]), &|_| Ok(Vec::new())).map(drop)
}

fn by_file(flag: &Flag, value: &str) -> Result<(), SettingsError> {
    let text = match flag.yaml.split_once('/') {
        Some((section, key)) => format!("{section}: {{{key}: '{value}'}}"),
        None => format!("{}: '{value}'", flag.yaml),
    };
    file::read(text.as_bytes(), "/etc/file").map(drop)
}

#[test]
fn a_malformed_value_is_refused_from_every_source_and_named() {
    let mut checked = 0;
    for flag in FLAGS {
        for value in bad_values(flag.kind) {
            let error = by_flag(flag, value).expect_err(flag.name);
            assert_eq!(error.exit_code(), 2, "--{}={value}", flag.name);
            let said = error.to_string();
            assert!(said.contains(&format!("-{}", flag.name)) && said.contains(value), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");

            let error = by_variable(flag, value).expect_err(flag.name);
            assert_eq!(error.exit_code(), 1, "{}={value}", flag.variable());
            let said = error.to_string();
            assert!(said.contains(&flag.variable()) && said.contains(value), "{said}");

            // In a file etcd validates this key later; it is tested with the invalid values then.
            let error = by_file(flag, value).expect_err(flag.name);
            assert_eq!(error.exit_code(), 1, "{}: {value}", flag.yaml);
            let said = error.to_string();
            let named = said.contains(flag.yaml) && said.contains("/etc/file");
            assert!(named || flag.name == "initial-cluster-state", "{said}");
            assert!(said.contains(value), "{said}");
            checked += 1;
        }
    }
    assert!(checked > 150, "{checked} pairs of flag and value");
}

#[test]
fn an_invalid_value_is_refused_from_every_source_with_exit_code_one() {
    for (name, value) in MEANINGLESS {
        let flag = FLAGS.iter().find(|flag| flag.name == name).expect(name);
        let (flag_says, variable_says, file_says) =
            (by_flag(flag, value), by_variable(flag, value), by_file(flag, value));
        for (source, outcome) in [("flag", flag_says), ("variable", variable_says), ("file", file_says)] {
            let error = outcome.expect_err(&format!("{name} by {source}"));
            assert_eq!(error.exit_code(), 1, "{name} by {source}: {error}");
        }
    }
}

#[test]
fn every_flag_is_refused_together_with_its_variable() {
    for flag in FLAGS.iter().filter(|flag| flag.kind != Kind::Bool) {
        let words = [format!("--{}={}", flag.name, flag.default)];
        let environment = BTreeMap::from([(flag.variable(), flag.default.to_owned())]);
        let error = read(&words, &environment, &|_| Ok(Vec::new())).expect_err(flag.name);
        assert!(error.to_string().contains(&flag.variable()), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
}

#[test]
fn every_long_value_is_truncated_in_the_message() {
    let flag = FLAGS.iter().find(|flag| flag.name == "listen-peer-urls").expect("a flag");
    let long = "x".repeat(1 << 20);
    assert!(by_flag(flag, &long).expect_err("refused").to_string().len() < 10 << 20);
    let unknown = read(&[format!("--{long}")], &BTreeMap::new(), &|_| Ok(Vec::new())).expect_err("refused");
    assert!(unknown.to_string().len() < 1000);
}
