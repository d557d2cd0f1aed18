//! `/debug/`, with `--enable-pprof` only: how the process was started and where its replica stands. Profiles in Go's
//! format cannot exist here; whoever asks for one is told what to use.

use std::fmt::Write;

use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::body::ClientBody;
use super::http::{not_found, plain, text, typed};
use super::state::State;

/// Profiles that Go programs have.
const PROFILES: [&str; 8] = ["allocs", "block", "goroutine", "heap", "mutex", "profile", "threadcreate", "trace"];

/// Answers a GET below `/debug/`.
pub(super) fn answer(state: &State, path: &str) -> Response<ClientBody> {
    match path.strip_prefix("/debug/") {
        Some("vars") => typed(StatusCode::OK, HeaderValue::from_static("application/json; charset=utf-8"), vars(state)),
        Some("pprof/cmdline") => plain(StatusCode::OK, arguments().join("\0")),
        Some("pprof" | "pprof/") => plain(StatusCode::OK, index()),
        Some(rest) => match rest.strip_prefix("pprof/") {
            Some(profile) if PROFILES.contains(&profile) || profile == "symbol" => refuse(profile),
            _ => not_found(),
        },
        None => not_found(),
    }
}

fn arguments() -> Vec<String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

fn index() -> String {
    let mut page = String::from("/debug/vars\n/debug/pprof/cmdline\n");
    // Writing to a string cannot fail.
    let _infallible = writeln!(page, "not available in this program: {}", PROFILES.join(" "));
    page
}

fn refuse(profile: &str) -> Response<ClientBody> {
    let process = std::process::id();
    let message = format!(
        "there is no {profile} profile: this server is not a Go program. On its machine, `perf record -g -p {process}` \
         samples where time goes and `perf trace -p {process}` shows what it waits for; /metrics has its memory and files"
    );
    text(StatusCode::NOT_IMPLEMENTED, &message)
}

/// The variables etcd publishes, as far as this program has them.
fn vars(state: &State) -> String {
    let raft = state.consensus.status();
    let id = |id: u64| format!("{id:x}");
    let role = match raft.leader {
        Some(leader) if leader == raft.id => "StateLeader",
        _ => "StateFollower",
    };
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let vars = json!({
        "cmdline": arguments(),
        "file_descriptor_limit": limit.map_or(0, |(soft, _hard)| soft),
        "raft.status": {
            "id": id(raft.id),
            "term": raft.term,
            "commit": raft.committed,
            "applied": raft.applied,
            "lead": id(raft.leader.unwrap_or(0)),
            "raftState": role,
        },
    });
    format!("{vars:#}\n")
}
