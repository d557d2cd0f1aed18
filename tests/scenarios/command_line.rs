//! The command line beside Debian's etcd: the same words must be refused with the same exit code, and start alike.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::member::Product;

const END_LIMIT: Duration = Duration::from_secs(20);

/// Flags, variables, file; and the words that both programs must say, if they say the same.
struct Case {
    flags: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    file: Option<&'static str>,
    words: &'static str,
}

const fn flags(flags: &'static [&'static str], words: &'static str) -> Case {
    Case { flags, variables: &[], file: None, words }
}

const fn variables(variables: &'static [(&'static str, &'static str)], words: &'static str) -> Case {
    Case { flags: &[], variables, file: None, words }
}

const fn file(file: &'static str, words: &'static str) -> Case {
    Case { flags: &[], variables: &[], file: Some(file), words }
}

/// What etcd 3.4 and this program refuse alike. The wording of a bad number or duration is Go's own and not compared.
const REFUSED: &[Case] = &[
    flags(&["--nonsense"], "flag provided but not defined: -nonsense"),
    flags(&["-nonsense=1"], "flag provided but not defined: -nonsense"),
    flags(&["---name"], "bad flag syntax: ---name"),
    flags(&["--name"], "flag needs an argument: -name"),
    flags(&["stray"], "is not a valid flag"),
    flags(&["--pre-vote", "false"], "is not a valid flag"),
    flags(&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote"),
    flags(&["--heartbeat-interval=-1"], "invalid value \"-1\" for flag -heartbeat-interval"),
    flags(&["--heartbeat-interval=ten"], "invalid value \"ten\" for flag -heartbeat-interval"),
    flags(&["--snapshot-count=99999999999999999999"], "for flag -snapshot-count"),
    flags(&["--quota-backend-bytes=1e9"], "invalid value \"1e9\" for flag -quota-backend-bytes"),
    flags(&["--grpc-keepalive-timeout=5"], "invalid value \"5\" for flag -grpc-keepalive-timeout"),
    flags(&["--initial-cluster-state=old"], "invalid value \"old\" for flag -initial-cluster-state"),
    flags(&["--listen-peer-urls=127.0.0.1:1"], "for flag -listen-peer-urls"),
    flags(&["--listen-peer-urls=ftp://127.0.0.1:1"], "for flag -listen-peer-urls"),
    flags(&["--listen-client-urls=http://127.0.0.1:1/x"], "for flag -listen-client-urls"),
    flags(&["--listen-peer-urls=http://example.com:1"], "expected IP in URL for binding (http://example.com:1)"),
    flags(
        &["--listen-client-urls=http://127.0.0.1:1"],
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    flags(&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
    flags(&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
    flags(
        &["--election-timeout=400"],
        "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    flags(
        &["--election-timeout=60000"],
        "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
    ),
    flags(&["--auto-compaction-mode=yearly"], "unknown auto-compaction-mode \"yearly\""),
    flags(&["--cipher-suites=NOPE"], "unexpected TLS cipher suite \"NOPE\""),
    flags(
        &["--name=x", "--initial-cluster=a=http://127.0.0.1:1"],
        "couldn't find local name \"x\" in the initial cluster configuration",
    ),
    flags(&["--logger=capnslog2"], "unknown logger option \"capnslog2\""),
    variables(&[("ETCD_HEARTBEAT_INTERVAL", "0")], "--heartbeat-interval must be >0 (set to 0ms)"),
    variables(&[("ETCD_ELECTION_TIMEOUT", "soon")], "ETCD_ELECTION_TIMEOUT"),
    variables(&[("ETCD_LISTEN_PEER_URLS", "nonsense")], "ETCD_LISTEN_PEER_URLS"),
    Case {
        flags: &["--name=a"],
        variables: &[("ETCD_NAME", "a")],
        file: None,
        words: "is shadowed by corresponding command-line flag",
    },
    Case { flags: &["--config-file=/no/such/file"], variables: &[], file: None, words: "no such file or directory" },
    file("heartbeat-interval: 0\n", "--heartbeat-interval must be >0 (set to 0ms)"),
    file("heartbeat-interval: soon\n", ""),
    file("name: [\n", ""),
    file("initial-cluster-state: old\n", "unexpected clusterState \"old\""),
    file("auto-compaction-mode: yearly\n", "unknown auto-compaction-mode \"yearly\""),
];

/// Runs a program that must end by itself, in a folder of its own where every port it might take is a free one.
fn run(product: Product, case: &Case) -> (Output, bool) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut command = Command::new(product.program());
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    match case.file {
        Some(text) => {
            let path = folder.path().join("etcd.yaml");
            std::fs::write(&path, format!("data-dir: {}\n{text}", data.display())).expect("written");
            command.arg("--config-file").arg(path);
        }
        None => {
            command.arg("--data-dir").arg(&data);
        }
    }
    command.args(case.flags).envs(case.variables.iter().copied());
    let mut child = command.spawn().expect("the program starts");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > END_LIMIT {
            let _ = child.kill();
            let said = child.wait_with_output().expect("ended");
            panic!("{product:?} {:?} was not refused: {}", case.flags, String::from_utf8_lossy(&said.stderr));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    (child.wait_with_output().expect("ended"), data.exists())
}

#[test]
fn what_etcd_refuses_is_refused_with_its_words_and_exit_code_and_creates_nothing() {
    let mut differences = Vec::new();
    for case in REFUSED {
        let (theirs, _) = run(Product::Etcd, case);
        let (ours, created) = run(Product::Ours, case);
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).replace("\\\"", "\"");
        let (their_words, our_words) = (said(&theirs), said(&ours));
        let shown = format!("{:?} {:?} {:?}", case.flags, case.variables, case.file);
        assert!(their_words.contains(case.words), "{shown}: etcd does not say {:?}: {their_words}", case.words);
        if theirs.status.code() != ours.status.code() || !our_words.contains(case.words) || created {
            differences.push(format!(
                "{shown}: etcd {:?}, ours {:?} (created data: {created}), wanted {:?} in: {our_words}",
                theirs.status.code(),
                ours.status.code(),
                case.words
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn version_and_help_print_and_end_with_zero() {
    let run = |words: &[&str]| Command::new(Product::Ours.program()).args(words).output().expect("the program starts");
    for words in [&["--version"][..], &["-version"], &["--version", "--name", "x"]] {
        let output = run(words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(text.lines().next().is_some_and(|line| line.starts_with("etcd Version: 3.6.")), "{text}");
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "our own version as well: {text}");
    }
    for words in [&["--help"][..], &["-h"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("--listen-client-urls"));
    }
    let theirs = Command::new(Product::Etcd.program()).arg("--help").output().expect("etcd starts");
    let theirs = String::from_utf8_lossy(&[theirs.stdout, theirs.stderr].concat()).into_owned();
    let ours = String::from_utf8_lossy(&run(&["--help"]).stdout).into_owned();
    let flag =
        |line: &str| line.trim().strip_prefix("--").and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
    let known: std::collections::BTreeSet<String> = ours.lines().filter_map(flag).collect();
    let missing: Vec<String> = theirs
        .lines()
        .filter(|line| line.starts_with("  --"))
        .filter_map(flag)
        .filter(|name| !known.contains(name) && !name.starts_with("experimental-"))
        .collect();
    assert!(missing.is_empty(), "flags of Debian's etcd that --help does not list: {missing:?}");
}
