//! The JSON gateway: random requests over HTTP on every path, status and body compared.
//!
//! `DIFF_GATEWAY_OPS` sets how many, `DIFF_GATEWAY_SEED` which; the seed of a failure is printed. With an etcd 3.6 in
//! `ETCD_CONTROL` nothing but ids is masked. Debian's is 3.4, which differs from 3.6 in what [`as_3_6`] changes:
//!
//! - error bodies carry the sentence twice, under `error` and `message`: grpc-gateway v1 did, v2 does not;
//! - `FailedPrecondition` is 412 in v1 and 400 in v2; `Canceled` is 408 and 499;
//! - an unknown path and a wrong method are answered as plain text by v1, as errors like any other by v2 (404, 501);
//! - errors of streams are spelled `{"grpc_code":…,"http_code":…}` by v1, and a request of a stream that cannot be read is
//!   answered with 500; v2 closes the requests and says nothing, so only good requests go to streams here;
//! - values that do not fit are told in the sentences of another JSON library; it also refuses unknown enum names,
//!   and base64 other than the padded standard one, so that good requests here do without them;
//! - answers to alarms have no header; paths of methods newer than 3.4 are unknown.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;
use tokio::net::TcpStream;

use super::generate_gateway::{Call, Generator, Rule};
use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::wait::{setting, turn};

const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Fields that may differ between two correct servers.
const MASKED: [&str; 14] = [
    "cluster_id",
    "member_id",
    "raft_term",
    "version",
    "dbSize",
    "dbSizeInUse",
    "leader_id",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "peerURLs",
    "clientURLs",
    "storageVersion",
    "dbSizeQuota",
];

struct Server {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

impl Server {
    fn new(cluster: &Cluster) -> Self {
        let member = &cluster.members[0];
        Self { address: format!("{}:{}", member.host, member.client_port), sender: None }
    }

    async fn ask(&mut self, call: &Call) -> Answer {
        match tokio::time::timeout(CALL_LIMIT, self.send(call)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => panic!("{}: {call:?}: {error}", self.address),
            Err(_) => panic!("{}: {call:?}: no answer within {CALL_LIMIT:?}", self.address),
        }
    }

    async fn send(&mut self, call: &Call) -> Result<Answer, Box<dyn std::error::Error>> {
        if self.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut().ok_or("a connection was just opened")?;
        sender.ready().await?;
        let request = Request::builder()
            .method(call.method)
            .uri(&call.path)
            .header("host", &self.address)
            .body(Full::new(Bytes::from(call.body.clone())))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let kind = head.headers.get("content-type").map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
        Ok(Answer {
            status: head.status.as_u16(),
            content_type: kind.unwrap_or_default(),
            body: String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned(),
        })
    }
}

/// What 3.6 would have answered where 3.4 answered this.
fn as_3_6(mut answer: Answer) -> Answer {
    let plain = answer.content_type.starts_with("text/plain");
    let text = match (answer.status, plain) {
        (404, true) => Some((404, r#"{"code":5,"message":"Not Found"}"#)),
        (405, true) => Some((501, r#"{"code":12,"message":"Method Not Allowed"}"#)),
        _ => None,
    };
    if let Some((status, body)) = text {
        return Answer { status, content_type: "application/json".to_owned(), body: body.to_owned() };
    }
    answer.status = match answer.status {
        412 => 400,
        408 => 499,
        other => other,
    };
    answer
}

/// The body as lines of JSON with ids taken out; the names in it, in their order; whatever is no JSON as it is.
fn compared(call: &Call, answer: &Answer) -> (Vec<Value>, Vec<String>, Option<String>) {
    let mut values = Vec::new();
    for line in answer.body.lines() {
        let Ok(mut value) = serde_json::from_str::<Value>(line) else {
            return (Vec::new(), Vec::new(), Some(answer.body.clone()));
        };
        mask(call, &mut value);
        values.push(value);
    }
    (values, names(call, &answer.body), None)
}

fn mask(call: &Call, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("code") {
                fields.remove("error");
            }
            for name in MASKED {
                fields.remove(name);
            }
            fields.remove("downgradeInfo");
            if call.path.ends_with("/alarm") {
                fields.remove("header");
            }
            if call.path.ends_with("/status") {
                fields.remove("leader");
            }
            if call.path.ends_with("/timetolive") && fields.contains_key("grantedTTL") {
                // Remaining seconds run on while the two servers are asked in turn.
                fields.insert("TTL".to_owned(), "*".into());
                // etcd names the keys in the order of its map, which is another one each time.
                if let Some(keys) = fields.get_mut("keys").and_then(Value::as_array_mut) {
                    keys.sort_by_key(|key| key.as_str().map(str::to_owned));
                }
            }
            if call.path.ends_with("/list") {
                fields.remove("ID");
            }
            if let Some(leases) = fields.get_mut("leases").and_then(Value::as_array_mut) {
                for lease in leases.iter_mut().filter(|lease| is_servers_choice(&lease["ID"])) {
                    lease["ID"] = "chosen by the server".into();
                }
                leases.sort_by_key(|lease| lease["ID"].as_str().map(str::to_owned));
            }
            fields.values_mut().for_each(|value| mask(call, value));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| mask(call, value)),
        Value::String(text) => *text = text.replace("proto:\u{a0}", "proto: "),
        _ => {}
    }
}

/// Ids of requests are small, those that a server picks are not.
fn is_servers_choice(id: &Value) -> bool {
    id.as_str().and_then(|text| text.parse::<i64>().ok()).is_some_and(|id| id > 1_000_000)
}

/// Names of fields as they stand in a text, without those that may differ.
fn names(call: &Call, text: &str) -> Vec<String> {
    let loose = call.path.ends_with("/status") || call.path.ends_with("/alarm") || text.contains("\"code\":");
    let mut found: Vec<String> = Vec::new();
    for (at, _) in text.match_indices("\":").filter(|_| !loose) {
        let name = text[..at].rsplit('"').next().unwrap_or_default();
        if !MASKED.contains(&name) {
            found.push(name.to_owned());
        }
    }
    found
}

/// Whether an answer says that the request is no JSON.
fn is_syntax(answer: &Answer) -> bool {
    answer.body.contains("invalid character ") || answer.body.contains("\"unexpected EOF\"")
}

fn agree(call: &Call, expected: &Answer, got: &Answer, modern: bool) -> bool {
    if call.rule == Rule::Broken && !modern && !(is_syntax(expected) && is_syntax(got)) {
        let refused = |answer: &Answer| answer.status == 400;
        // 3.4 reads a number in quotes as JSON of its own and so finds fault with its syntax.
        if refused(expected) && refused(got) && got.body.contains("invalid value for") {
            return true;
        }
        // What is valid JSON may fit the fields of one version and not those of the other; then only 3.6 is compared.
        return !(is_syntax(expected) || is_syntax(got))
            && (refused(expected) || refused(got) || expected.status == got.status);
    }
    expected.status == got.status
        && expected.content_type == got.content_type
        && compared(call, expected) == compared(call, got)
}

async fn is_modern(server: &mut Server) -> bool {
    let call = Call { method: "GET", path: "/version".to_owned(), body: Vec::new(), rule: Rule::Same };
    let version = server.ask(&call).await.body;
    !version.contains("\"etcdserver\":\"3.4") && !version.contains("\"etcdserver\":\"3.5")
}

#[tokio::test]
async fn random_json_requests_answer_as_etcds_gateway_answers_them() {
    let _turn = turn().await;
    let (operations, seed) = (setting("DIFF_GATEWAY_OPS", 1_500), setting("DIFF_GATEWAY_SEED", 1));
    let (etcd, ours) =
        (Cluster::start_in_memory(Product::Etcd, 1, &[]).await, Cluster::start_in_memory(Product::Ours, 1, &[]).await);
    let (mut etcd_server, mut our_server) = (Server::new(&etcd), Server::new(&ours));
    let modern = is_modern(&mut etcd_server).await;
    let mut generator = Generator { random: SmallRng::seed_from_u64(seed), revision: 1, modern };
    let (mut good, mut refused) = (0u64, 0u64);
    for n in 0..operations {
        let call = if n % 5 == 4 { generator.broken() } else { generator.next() };
        let mut expected = etcd_server.ask(&call).await;
        if !modern {
            expected = as_3_6(expected);
        }
        let got = our_server.ask(&call).await;
        assert!(
            agree(&call, &expected, &got, modern),
            "request {n} of seed {seed}: {} {} {}\netcd: {expected:?}\nours: {got:?}",
            call.method,
            call.path,
            String::from_utf8_lossy(&call.body)
        );
        *(if got.status == 200 { &mut good } else { &mut refused }) += 1;
        let header = serde_json::from_str::<Value>(&expected.body).unwrap_or_default();
        let revision = header["header"]["revision"].as_str().and_then(|text| text.parse().ok());
        generator.revision = revision.unwrap_or(generator.revision);
    }
    println!("{operations} requests of seed {seed} answered alike: {good} well, {refused} refused");
    assert!(good > operations / 3 && refused > operations / 10, "the mixture proves little");
}
