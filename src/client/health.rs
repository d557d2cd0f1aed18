//! The check of etcdctl's `cluster-health`: `GET /health` of each member on its client URLs.
//!
//! The first URL that answers decides; a member with no URL that answers is unreachable. As in etcdctl, a healthy
//! answer is `{"health":"true"}`, as a string or as a boolean, whatever the HTTP status.

use std::time::Duration;

use http::Method;
use serde::Deserialize;

use super::http::{Connection, body};
use super::{ClientError, Member, TlsPem};

/// Timeout of one URL, connecting included: a member that has no quorum says so after 7 s.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(8);
/// Maximum size of an answer.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The health of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkup {
    /// The member.
    pub id: u64,
    /// URLs that did not answer, with the reason, in the order they were tried.
    pub failed: Vec<(String, String)>,
    /// The outcome.
    pub verdict: Verdict,
}

/// The result of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This URL reported a healthy member.
    Healthy(String),
    /// This URL reported an unhealthy member, with the member's reason if there is one.
    Unhealthy(String, String),
    /// None of these URLs answered.
    Unreachable(Vec<String>),
    /// The member has published no client URLs: it has not started yet.
    Unpublished,
}

impl Checkup {
    /// Whether the member is healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        matches!(self.verdict, Verdict::Healthy(_))
    }

    /// The lines that `etcdctl cluster-health` prints for the member.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let id = format!("{:x}", self.id);
        let failed = self.failed.iter();
        let mut lines: Vec<String> =
            failed.map(|(url, why)| format!("failed to check the health of member {id} on {url}: {why}")).collect();
        lines.push(match &self.verdict {
            Verdict::Healthy(url) => format!("member {id} is healthy: got healthy result from {url}"),
            Verdict::Unhealthy(url, reason) if reason.is_empty() => {
                format!("member {id} is unhealthy: got unhealthy result from {url}")
            }
            Verdict::Unhealthy(url, reason) => {
                format!("member {id} is unhealthy: got unhealthy result from {url}: {reason}")
            }
            Verdict::Unreachable(urls) => {
                format!("member {id} is unreachable: [{}] are all unreachable", urls.join(" "))
            }
            Verdict::Unpublished => format!("member {id} is unreachable: no available published client urls"),
        });
        lines
    }
}

/// The last line of `etcdctl cluster-health`.
#[must_use]
pub fn summary(checkups: &[Checkup]) -> &'static str {
    verdict(checkups.iter().filter(|checkup| checkup.is_healthy()).count(), checkups.len())
}

/// The same, for `well` healthy members of `all`.
#[must_use]
pub fn verdict(well: usize, all: usize) -> &'static str {
    match well {
        0 => "cluster is unavailable",
        well if well == all => "cluster is healthy",
        _ => "cluster is degraded",
    }
}

/// Checks one member.
pub async fn check(member: &Member, tls: Option<&TlsPem>) -> Checkup {
    check_urls(member.id, &member.client_urls, tls).await
}

/// Checks the member `id` on its client URLs.
pub async fn check_urls(id: u64, urls: &[String], tls: Option<&TlsPem>) -> Checkup {
    let mut failed = Vec::new();
    for url in urls {
        match ask(url, tls).await {
            Ok(Answer { health: true, .. }) => return Checkup { id, failed, verdict: Verdict::Healthy(url.clone()) },
            Ok(Answer { reason, .. }) => {
                return Checkup { id, failed, verdict: Verdict::Unhealthy(url.clone(), reason) };
            }
            Err(error) => failed.push((url.clone(), error.to_string())),
        }
    }
    let verdict = if urls.is_empty() { Verdict::Unpublished } else { Verdict::Unreachable(urls.to_vec()) };
    Checkup { id, failed, verdict }
}

/// The body of `/health`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct Answer {
    #[serde(deserialize_with = "boolean")]
    health: bool,
    #[serde(default)]
    reason: String,
}

/// Older servers send `true`, newer ones `"true"`.
fn boolean<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Boolean(bool),
        Text(String),
    }
    Ok(match Either::deserialize(value)? {
        Either::Boolean(health) => health,
        Either::Text(text) => text == "true",
    })
}

async fn ask(url: &str, tls: Option<&TlsPem>) -> Result<Answer, ClientError> {
    let exchange = async {
        let mut connection = Connection::open(url, tls).await?;
        let response = connection.call(Method::GET, "/health", None, HEALTH_TIMEOUT).await?;
        let bytes = body(response, MAX_ANSWER_BYTES, HEALTH_TIMEOUT).await?;
        serde_json::from_slice(&bytes).map_err(|_| ClientError::Answer("GET /health"))
    };
    let late = |_| ClientError::Unreachable(format!("{url}: no answer in {HEALTH_TIMEOUT:?}"));
    tokio::time::timeout(HEALTH_TIMEOUT, exchange).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with `answer`, then stops.
    fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        url
    }

    fn closed() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    fn ask_all(urls: &[String]) -> Checkup {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check_urls(0xab, urls, None))
    }

    const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{\"health\":\"true\",\"reason\":\"\"}";
    const OLD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"health\": true}";
    const ILL: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 44\r\n\r\n{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n";
    const ODD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[test]
    fn the_first_url_that_answers_decides_and_dead_ones_are_named() {
        let urls = [closed(), server(ODD), server(WELL), closed()];
        let checkup = ask_all(&urls);
        assert_eq!(checkup.verdict, Verdict::Healthy(urls[2].clone()));
        let lines = checkup.lines();
        assert!(
            lines[0].starts_with(&format!("failed to check the health of member ab on {}: ", urls[0])),
            "{lines:?}"
        );
        assert!(
            lines[1].starts_with(&format!("failed to check the health of member ab on {}: ", urls[1])),
            "{lines:?}"
        );
        assert_eq!(lines[2], format!("member ab is healthy: got healthy result from {}", urls[2]));
    }

    #[test]
    fn an_unhealthy_answer_decides_even_if_the_next_url_would_be_healthy() {
        let urls = [server(ILL), closed()];
        let checkup = ask_all(&urls);
        assert_eq!(
            checkup.lines(),
            [format!("member ab is unhealthy: got unhealthy result from {}: RAFT NO LEADER", urls[0])]
        );
    }

    #[test]
    fn health_may_be_a_boolean_or_a_string() {
        assert!(ask_all(&[server(OLD)]).is_healthy());
    }

    #[test]
    fn members_without_urls_or_answers_are_unreachable_with_etcdctls_messages() {
        assert_eq!(ask_all(&[]).lines(), ["member ab is unreachable: no available published client urls"]);
        let urls = [closed(), closed()];
        let last = ask_all(&urls).lines().pop().unwrap();
        assert_eq!(last, format!("member ab is unreachable: [{} {}] are all unreachable", urls[0], urls[1]));
    }

    #[test]
    fn the_summary_is_healthy_degraded_or_unavailable() {
        let checkup = |verdict| Checkup { id: 1, failed: Vec::new(), verdict };
        let (well, ill) = (checkup(Verdict::Healthy(String::new())), checkup(Verdict::Unpublished));
        assert_eq!(summary(&[well.clone(), well.clone()]), "cluster is healthy");
        assert_eq!(summary(&[well, ill.clone()]), "cluster is degraded");
        assert_eq!(summary(std::slice::from_ref(&ill)), "cluster is unavailable");
    }
}
