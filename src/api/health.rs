//! `/health`, `/livez` and `/readyz`: what probes ask, in etcd's words.
//!
//! `/health` is the old question: no alarm, a leader, a working read. `/livez` asks whether to restart this member,
//! `/readyz` whether to send it traffic; both are lists of named checks.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Response, StatusCode};

use super::body::ClientBody;
use super::call::Call;
use super::error::ApiError;
use super::http::{not_found, plain, text};
use super::state::State;
use crate::model::view::View;
use crate::proto::etcdserverpb::AlarmType;

/// One named check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

/// Every check of every probe, in the order of the report and of the counters.
pub(super) const CHECKS: [(&str, Check); 5] = [
    ("livez", Check::SerializableRead),
    ("readyz", Check::DataCorruption),
    ("readyz", Check::SerializableRead),
    ("readyz", Check::LinearizableRead),
    ("readyz", Check::NonLearner),
];

impl Check {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, state: &State) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                let corrupt = state.store.view().alarms().iter().any(|alarm| alarm.1 == i32::from(AlarmType::Corrupt));
                if corrupt { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            Self::SerializableRead => try_read(state, true).await.map_err(|error| error.to_string()),
            Self::LinearizableRead => try_read(state, false).await.map_err(|error| error.to_string()),
            Self::NonLearner => {
                let learner = state.consensus.status().is_learner;
                if learner { Err("not supported for learner".to_owned()) } else { Ok(()) }
            }
        }
    }
}

/// Answers a GET of a probe. `path` starts with `/health`, `/livez` or `/readyz`.
pub(super) async fn answer(state: &Arc<State>, path: &str, query: &str) -> Response<ClientBody> {
    let question = Question::read(query);
    let (root, one) = match path[1..].split_once('/') {
        Some((root, one)) => (root, Some(one)),
        None => (&path[1..], None),
    };
    if root == "health" {
        return health(state, &question).await;
    }
    let mut report = Report::default();
    let checks = CHECKS.iter().zip(&state.metrics.checks).filter(|((probe, _), _)| *probe == root);
    let mut known = one.is_none();
    for ((_, check), counters) in checks {
        // A check asked for by its own path runs also when it is excluded.
        let wanted = match one {
            Some(one) => one == check.name(),
            None => !question.exclude.iter().any(|name| name == check.name()),
        };
        if wanted {
            known = true;
            let outcome = check.run(state).await;
            counters.count(outcome.is_ok());
            report.add(check.name(), outcome);
        }
    }
    if known { report.into_response(question.verbose) } else { not_found() }
}

async fn health(state: &State, question: &Question) -> Response<ClientBody> {
    let reason = why_unhealthy(state, question).await;
    let counter = if reason.is_none() { &state.metrics.health_success } else { &state.metrics.health_failures };
    counter.fetch_add(1, Relaxed);
    health_response(reason)
}

fn health_response(reason: Option<String>) -> Response<ClientBody> {
    match reason {
        None => plain(StatusCode::OK, r#"{"health":"true","reason":""}"#),
        // A reason is one of our own sentences: nothing in it needs JSON escapes.
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &format!(r#"{{"health":"false","reason":"{reason}"}}"#)),
    }
}

/// The first thing wrong, in etcd's order: alarms, leader, read.
async fn why_unhealthy(state: &State, question: &Question) -> Option<String> {
    for (_member, kind) in state.store.view().alarms() {
        let name = AlarmType::try_from(kind).map_or("UNKNOWN", |kind| kind.as_str_name());
        if !question.exclude.iter().any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !question.serializable && state.consensus.status().leader.is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    try_read(state, question.serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// Reads a key as a client would.
async fn try_read(state: &State, serializable: bool) -> Result<(), ApiError> {
    if !serializable {
        Call::internal(state).read_barrier(state).await?;
    }
    state.store.view().get(b"a")?;
    Ok(())
}

/// What the query string of a probe asks for. Unknown parts are ignored.
#[derive(Debug, Default, PartialEq, Eq)]
struct Question {
    exclude: Vec<String>,
    serializable: bool,
    verbose: bool,
}

impl Question {
    fn read(query: &str) -> Self {
        let mut question = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "exclude" => question.exclude.push(value.into_owned()),
                "serializable" => question.serializable = value == "true",
                "verbose" => question.verbose = true,
                _ => {}
            }
        }
        question
    }
}

/// Outcomes of named checks.
#[derive(Default)]
struct Report {
    lines: String,
    failed: bool,
}

impl Report {
    fn add(&mut self, name: &str, outcome: Result<(), String>) {
        // Writing to a string cannot fail.
        let _infallible = match outcome {
            Ok(()) => writeln!(self.lines, "[+]{name} ok"),
            Err(error) => {
                self.failed = true;
                writeln!(self.lines, "[-]{name} failed: {error}")
            }
        };
    }

    fn into_response(self, verbose: bool) -> Response<ClientBody> {
        match (self.failed, verbose) {
            // The lines end with a newline of their own, and Go adds one to every error.
            (true, _) => text(StatusCode::SERVICE_UNAVAILABLE, &self.lines),
            (false, true) => text(StatusCode::OK, &format!("{}ok", self.lines)),
            (false, false) => text(StatusCode::OK, "ok"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn text_of(response: Response<ClientBody>) -> (u16, String) {
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
        (status, String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[test]
    fn probes_are_read_and_garbage_is_ignored() {
        let question = Question::read("exclude=NOSPACE&exclude=x%20y&serializable=true&verbose&zzz=%ff");
        assert_eq!(question.exclude, ["NOSPACE", "x y"]);
        assert!(question.serializable && question.verbose);
        assert_eq!(Question::read("serializable=yes"), Question::default());
    }

    #[tokio::test]
    async fn health_has_etcds_shape_and_a_newline_only_when_false() {
        let (status, body) = text_of(health_response(None)).await;
        assert_eq!((status, body.as_str()), (200, r#"{"health":"true","reason":""}"#));
        let (status, body) = text_of(health_response(Some("ALARM NOSPACE".to_owned()))).await;
        assert_eq!((status, body.as_str()), (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"));
    }

    #[tokio::test]
    async fn named_checks_show_all_lines_on_failure_and_on_request() {
        let mut good = Report::default();
        good.add("serializable_read", Ok(()));
        let (status, body) = text_of(good.into_response(true)).await;
        assert_eq!((status, body.as_str()), (200, "[+]serializable_read ok\nok\n"));
        let mut bad = Report::default();
        bad.add("data_corruption", Err("alarm activated: CORRUPT".to_owned()));
        bad.add("serializable_read", Ok(()));
        let (status, body) = text_of(bad.into_response(false)).await;
        assert_eq!(status, 503);
        assert_eq!(body, "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\n");
    }
}
