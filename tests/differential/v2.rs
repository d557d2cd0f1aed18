//! v2: random requests over HTTP, as clients of the old API send them.
//!
//! `DIFF_V2_OPS` sets how many operations, `DIFF_V2_SEED` which; the seed of a failure is printed. Status, body,
//! `X-Etcd-Index`, `Content-Type` and the presence of the other headers are compared; expiration times are masked, and
//! listings that were not asked to be sorted are sorted first, since etcd gives them in any order.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;
use tokio::net::TcpStream;

use super::generate_v2::{Call, Generator};
use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::member::Product;
use crate::harness::wait::{setting, turn, until};

/// How long a watch may take before it counts as waiting.
const WATCH_LIMIT: Duration = Duration::from_millis(250);
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The index of a fresh cluster of one: itself published, and the cluster version agreed on.
const FIRST_INDEX: &str = "3";

struct Server {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// What is compared of an answer.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Said {
        status: StatusCode,
        index: Option<String>,
        content_type: Option<String>,
        present: Vec<&'static str>,
        body: String,
    },
    /// A watch without an event so far.
    Waits,
}

impl Server {
    fn new(cluster: &Cluster) -> Self {
        let member = &cluster.members[0];
        Self { address: format!("{}:{}", member.host, member.client_port), sender: None }
    }

    async fn ask(&mut self, call: &Call) -> Answer {
        let limit = if call.is_watch() { WATCH_LIMIT } else { CALL_LIMIT };
        match tokio::time::timeout(limit, self.send(call)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => panic!("{}: {call:?}: {error}", self.address),
            Err(_) if call.is_watch() => {
                self.sender = None;
                Answer::Waits
            }
            Err(_) => panic!("{}: {call:?}: no answer within {limit:?}", self.address),
        }
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Box<dyn std::error::Error>> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().ok_or("a connection was just opened")?;
        sender.ready().await?;
        Ok(sender)
    }

    async fn send(&mut self, call: &Call) -> Result<Answer, Box<dyn std::error::Error>> {
        let mut request =
            Request::builder().method(call.method.clone()).uri(call.target()).header("host", &self.address);
        if call.form.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(Bytes::from(call.form.clone().unwrap_or_default())))?;
        let answer = self.connection().await?.send_request(request).await?;
        let (head, body) = answer.into_parts();
        let body = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
        Ok(Answer::Said {
            status: head.status,
            index: header(&head.headers, "x-etcd-index"),
            content_type: header(&head.headers, "content-type"),
            present: present(&head.headers),
            body: if call.is_sorted() { mask(&body) } else { sort(&mask(&body)) },
        })
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn present(headers: &HeaderMap) -> Vec<&'static str> {
    let names = ["x-etcd-cluster-id", "x-raft-index", "x-raft-term", "allow", "location"];
    names.into_iter().filter(|name| headers.contains_key(*name)).collect()
}

/// Takes the times out: what follows `"expiration":` and `"ttl":`.
fn mask(body: &str) -> String {
    let mut rest = body;
    let mut masked = String::new();
    while let Some(at) =
        ["\"expiration\":", "\"ttl\":"].iter().filter_map(|name| Some(rest.find(name)? + name.len())).min()
    {
        let (before, after) = rest.split_at(at);
        masked += before;
        masked.push('*');
        rest = &after[after.find([',', '}']).unwrap_or(after.len())..];
    }
    masked + rest
}

/// A body with the nodes of directories in order. What is no JSON stays as it is.
fn sort(body: &str) -> String {
    fn visit(value: &mut Value) {
        if let Some(nodes) = value.get_mut("nodes").and_then(Value::as_array_mut) {
            nodes.iter_mut().for_each(visit);
            nodes.sort_by_key(|node| node["key"].as_str().map(str::to_owned));
        }
        if let Some(node) = value.get_mut("node") {
            visit(node);
        }
    }
    if !body.contains("\"nodes\":") {
        return body.to_owned();
    }
    let Ok(mut value) = serde_json::from_str::<Value>(&body.replace(":*", ":\"*\"")) else { return body.to_owned() };
    visit(&mut value);
    value.to_string()
}

async fn fresh(product: Product) -> (Cluster, Server) {
    let cluster = Cluster::start_in_memory(product, 1, &["--enable-v2=true"]).await;
    let address = Server::new(&cluster).address;
    let at_start = until("the first index", START_LIMIT, || async {
        let mut server = Server { address: address.clone(), sender: None };
        match server.ask(&Call::new(Method::GET, "")).await {
            Answer::Said { index: Some(index), .. } if index == FIRST_INDEX => Ok(server),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    (cluster, at_start)
}

#[tokio::test]
async fn random_v2_operations_answer_as_etcd_answers_them() {
    let _turn = turn().await;
    let (operations, seed) = (setting("DIFF_V2_OPS", 3_000), setting("DIFF_V2_SEED", 1));
    let ((_etcd, mut etcd_server), (_ours, mut our_server)) = (fresh(Product::Etcd).await, fresh(Product::Ours).await);
    let mut generator = Generator { random: SmallRng::seed_from_u64(seed), index: 3 };
    let (mut refused, mut waits) = (0u64, 0u64);
    for n in 0..operations {
        let call = generator.next();
        let (expected, got) = tokio::join!(etcd_server.ask(&call), our_server.ask(&call));
        assert!(expected == got, "operation {n} of seed {seed}: {call:?}\netcd: {expected:#?}\nours: {got:#?}");
        match &got {
            Answer::Waits => waits += 1,
            Answer::Said { status, index, .. } => {
                refused += u64::from(!status.is_success());
                let newest = index.as_ref().and_then(|index| index.parse().ok()).unwrap_or(0);
                generator.index = generator.index.max(newest);
            }
        }
    }
    println!(
        "{operations} v2 operations of seed {seed} answered alike, {refused} refused alike, {waits} watches waited alike"
    );
    assert!(refused < operations * 2 / 3, "enough operations must succeed for the comparison to mean something");
}

#[test]
fn masking_hides_times_and_nothing_else() {
    let body =
        r#"{"node":{"key":"/a","expiration":"2026-01-01T00:00:00.5Z","ttl":10,"modifiedIndex":4},"x":{"ttl":3}}"#;
    assert_eq!(mask(body), r#"{"node":{"key":"/a","expiration":*,"ttl":*,"modifiedIndex":4},"x":{"ttl":*}}"#);
}
