//! Events through the layer and the buffer, as they appear in the log; and a real process that
//! panics or whose log reader is blocked.

use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::settings::LogLevel;

/// The lines that `code` logs at this level.
fn logged(level: LogLevel, code: impl FnOnce()) -> Vec<Value> {
    let queue = Arc::new(Queue::new());
    let layer = LineLayer::new(level, LogFormat::Json, queue.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), code);
    queue.push_always(b"{}\n");
    let mut batch = Vec::new();
    queue.take(&mut batch);
    let text = String::from_utf8(batch).expect("UTF-8");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    lines.pop();
    lines
}

#[test]
fn every_line_parses_and_has_etcds_keys() {
    let lines = logged(LogLevel::Debug, || {
        tracing::info!(member_id = %"8e9e", attempts = 3, ratio = f64::NAN, ok = true, "ready to serve client requests");
        tracing::debug!(error = ?std::io::Error::other("x"), "quotes \" and \n newlines");
    });
    assert_eq!(lines.len(), 2);
    for line in &lines {
        for key in ["level", "ts", "caller", "msg"] {
            assert!(line[key].is_string(), "{key} in {line}");
        }
    }
    assert_eq!(lines[0]["msg"], "ready to serve client requests");
    assert_eq!(lines[0]["member-id"], "8e9e");
    assert_eq!(lines[0]["attempts"], 3);
    assert_eq!(lines[0]["ratio"], "NaN");
    assert_eq!(lines[0]["ok"], true);
    let caller = lines[0]["caller"].as_str().expect("text");
    assert!(caller.starts_with("logging/tests.rs:"), "{caller}");
    let ts = lines[0]["ts"].as_str().expect("text");
    assert_eq!((ts.len(), &ts[19..20], &ts[26..]), (27, ".", "Z"), "{ts}");
}

#[test]
fn events_below_the_level_are_not_logged() {
    let all = || {
        tracing::debug!("d");
        tracing::info!("i");
        tracing::warn!("w");
        tracing::error!("e");
    };
    for (level, count) in [(LogLevel::Debug, 4), (LogLevel::Info, 3), (LogLevel::Warn, 2), (LogLevel::Error, 1)] {
        assert_eq!(logged(level, all).len(), count, "{level:?}");
    }
}

#[test]
fn other_crates_are_logged_from_warn_up_and_never_as_errors() {
    let lines = logged(LogLevel::Debug, || {
        tracing::info!(target: "openraft::core", "chatter");
        tracing::warn!(target: "openraft::core", "every try to reach a member that is away");
        tracing::warn!(target: "h2::codec", "odd");
        tracing::error!(target: "openraft::core", "bad");
        tracing::error!(target: "etcd_charm::node", "ours");
    });
    let seen: Vec<(&str, &str)> =
        lines.iter().map(|line| (line["level"].as_str().expect("level"), line["msg"].as_str().expect("msg"))).collect();
    assert_eq!(seen, [("warn", "odd"), ("warn", "bad"), ("error", "ours")]);
    assert!(logged(LogLevel::Error, || tracing::error!(target: "h2", "bad")).is_empty());
}

#[test]
fn spans_are_disabled_and_not_logged() {
    let lines = logged(LogLevel::Debug, || {
        let span = tracing::info_span!("outer", secret = 1);
        assert!(span.is_disabled());
        span.in_scope(|| tracing::info!("inside"));
    });
    assert_eq!(lines.len(), 1);
    assert!(lines[0].get("secret").is_none());
}

/// A command that runs this test binary with only one of the tests below.
fn child(test: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().expect("test binary"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("ETCD_LOG_CHILD", "1");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    command
}

fn is_child() -> bool {
    std::env::var_os("ETCD_LOG_CHILD").is_some()
}

fn to_stderr() -> Logging {
    Logging { level: LogLevel::Info, format: LogFormat::Json, outputs: vec![crate::settings::LogOutput::Stderr] }
}

/// Full path of a test in this module, for the test binary's filter.
fn path_of(test: &str) -> String {
    format!("{}::{test}", module_path!().split_once("::").expect("crate and module").1)
}

#[test]
fn a_panic_is_one_line_and_the_end_of_the_process() {
    if is_child() {
        let _guard = init(&to_stderr()).expect("log");
        tracing::info!("before");
        std::thread::spawn(|| panic!("invariant broken")).join().expect("never joined: the process aborts");
    }
    let output = child(&path_of("a_panic_is_one_line_and_the_end_of_the_process")).output().expect("child");
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let last: Value = serde_json::from_str(text.lines().last().expect("lines")).expect(&text);
    assert_eq!(last["level"], "fatal");
    assert_eq!(last["error"], "invariant broken");
    assert!(text.contains("\"msg\":\"before\""));
}

#[test]
fn the_last_words_of_a_process_are_written_before_it_ends_itself() {
    if is_child() {
        let _guard = init(&to_stderr()).expect("log");
        tracing::error!(target: "last_words", "the disk is gone");
        std::process::abort();
    }
    let output =
        child(&path_of("the_last_words_of_a_process_are_written_before_it_ends_itself")).output().expect("child");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    let last: Value = serde_json::from_str(text.lines().last().expect("lines")).expect(&text);
    assert_eq!((&last["level"], &last["msg"]), (&"error".into(), &"the disk is gone".into()));
}

#[test]
fn a_reader_who_stops_reading_never_stops_the_program() {
    const LINES: u64 = 200_000;
    if is_child() {
        let guard = init(&to_stderr()).expect("log");
        for number in 0..LINES {
            tracing::info!(number, "a line nobody reads while the pipe is full");
        }
        let dropped = dropped_lines();
        drop(guard);
        std::process::exit(if dropped > 0 { 42 } else { 43 });
    }
    let mut running = child(&path_of("a_reader_who_stops_reading_never_stops_the_program")).spawn().expect("child");
    // The pipe is kept open but never read; the child must exit all the same.
    let unread = running.stderr.take().expect("piped");
    let status = running.wait().expect("child ends");
    drop(unread);
    assert_eq!(status.code(), Some(42), "lines were dropped and counted, and nothing waited");
}
