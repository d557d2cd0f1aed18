//! v2: random requests over HTTP, as clients of the old API send them, and clients that wait meanwhile.
//!
//! `DIFF_V2_OPS` sets how many operations, `DIFF_V2_SEED` which; one client begins to wait per twenty-five operations,
//! and every so often a round lets nodes expire. Requests are sent ahead of their answers, so that half a million take
//! minutes. Compared are status, body, and all headers but dates, lengths and the numbers of Raft; expiration times are
//! masked, and listings that were not asked to be sorted are sorted first, since etcd gives them in any order.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;

use super::generate_v2::{Call, Generator, Watch};
use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::member::Product;
use crate::harness::raw::{Head, Raw, Whole};
use crate::harness::wait::{setting, turn, until};

/// Operations between two looks at the clients that wait.
const ROUND: u64 = 500;
/// Clients that begin to wait in a round.
const WATCHES: usize = 20;
/// Requests sent ahead of their answers.
const AHEAD: usize = 50;
/// A round in which nodes expire comes every so many.
const EXPIRY_EVERY: u64 = 25;
/// Operations in it.
const EXPIRY_OPS: u64 = 300;
const SHORT_TTL: u64 = 12;
/// How long the writes of such a round may take, so that nothing expires between them.
const LAST_WRITE: Duration = Duration::from_secs(8);
/// Between two sweeps of either server, with room.
const SWEEP: Duration = Duration::from_millis(1500);
/// Where to look so that most of what is hidden is seen too.
const HIDDEN_AND_OPEN: [&str; 5] = ["/", "/_hidden", "/a/_hidden", "/c/_hidden", "/a/a/_hidden"];
/// How long the other side may take for what one side has answered.
const LIMIT: Duration = Duration::from_secs(60);
/// The index of a fresh cluster of one: itself published, and the cluster version agreed on.
const FIRST_INDEX: &str = "3";

/// One server: a connection for operations, others for clients that wait.
struct Server {
    address: String,
    operations: Raw,
    idle: Vec<Raw>,
}

/// What is compared of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Server {
    async fn of(cluster: &Cluster) -> Self {
        let member = &cluster.members[0];
        let address = format!("{}:{}", member.host, member.client_port);
        let operations = Raw::open(&address).await.expect("the member answers");
        Self { address, operations, idle: Vec::new() }
    }

    async fn ask_all(&mut self, calls: &[Call]) -> Vec<Answer> {
        let mut bytes = Vec::new();
        for call in calls {
            bytes.extend(self.operations.request(call.method.as_str(), &call.target(), &[], call.form.as_deref()));
        }
        self.operations.send(&bytes).await.expect("requests are sent");
        let mut answers = Vec::new();
        for call in calls {
            let whole = self.operations.whole(call.method.as_str());
            let whole = tokio::time::timeout(LIMIT, whole).await;
            let whole = whole.unwrap_or_else(|_| panic!("{}: no answer to {call:?}", self.address));
            let whole = whole.unwrap_or_else(|error| panic!("{}: {call:?}: {error}", self.address));
            answers.push(answer(whole, call.is_sorted()));
        }
        answers
    }

    async fn get(&mut self, target: &str) -> Whole {
        self.operations.ask("GET", target, None).await.expect("an answer")
    }

    /// Begins to wait, and reads the head of the answer, which comes at once.
    async fn wait(&mut self, watch: &Watch) -> (Raw, Head) {
        let mut raw = match self.idle.pop() {
            Some(raw) => raw,
            None => Raw::open(&self.address).await.expect("a connection for a client that waits"),
        };
        let request = raw.request("GET", &watch.target(), &[], None);
        raw.send(&request).await.expect("a request is sent");
        let head = tokio::time::timeout(LIMIT, raw.head()).await;
        let head = head.unwrap_or_else(|_| panic!("{}: no head of an answer to {watch:?}", self.address));
        (raw, head.expect("a head"))
    }

    /// The rest of the answer to a client that waits. Its connection must be fit for another request afterwards.
    async fn rest(&mut self, mut raw: Raw, head: &Head) -> String {
        let rest = async {
            let mut body = Vec::new();
            if head.is_chunked() {
                while let Some(chunk) = raw.chunk().await.expect("a chunk") {
                    body.extend(chunk);
                }
            }
            String::from_utf8_lossy(&body).into_owned()
        };
        let body = tokio::time::timeout(LIMIT, rest).await;
        let body = body.unwrap_or_else(|_| panic!("{}: the other side has answered, this one has not", self.address));
        self.idle.push(raw);
        body
    }
}

/// Headers that differ between two correct servers, or between two answers of one.
const UNCOMPARED: [&str; 4] = ["date", "content-length", "transfer-encoding", "connection"];

fn compared(head: &Head) -> Vec<(String, String)> {
    let masked = ["x-etcd-cluster-id", "x-raft-index", "x-raft-term"];
    let shown = head.headers.iter().filter(|(name, _)| !UNCOMPARED.contains(&name.as_str()));
    let mut headers: Vec<(String, String)> = shown
        .map(|(name, value)| {
            let value = if masked.contains(&name.as_str()) { "*" } else { value };
            (name.clone(), value.to_owned())
        })
        .collect();
    headers.sort();
    headers
}

fn answer(whole: Whole, sorted: bool) -> Answer {
    let body = if sorted { mask(&whole.body) } else { sort(&mask(&whole.body)) };
    Answer { status: whole.head.status, headers: compared(&whole.head), body }
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

/// Both servers, and what the comparison has seen.
struct Both {
    etcd: Server,
    ours: Server,
    generator: Generator,
    seed: u64,
    operations: u64,
    refused: u64,
    answered: u64,
    waiting: u64,
    expired: u64,
}

/// A client that waits at both.
struct Waiting {
    watch: Watch,
    etcd: (Raw, Head),
    ours: (Raw, Head),
}

impl Both {
    async fn operate(&mut self, calls: &[Call]) -> Vec<Answer> {
        let mut all = Vec::new();
        for calls in calls.chunks(AHEAD) {
            let (expected, got) = tokio::join!(self.etcd.ask_all(calls), self.ours.ask_all(calls));
            for ((call, expected), got) in calls.iter().zip(expected).zip(got) {
                let (n, seed) = (self.operations, self.seed);
                assert!(expected == got, "operation {n} of seed {seed}: {call:?}\netcd: {expected:#?}\nours: {got:#?}");
                self.operations += 1;
                self.refused += u64::from(got.status >= 400);
                let index = got.headers.iter().find(|(name, _)| name == "x-etcd-index");
                let index = index.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
                self.generator.index = self.generator.index.max(index);
                all.push(got);
            }
        }
        all
    }

    async fn round(&mut self) {
        let mut waiting = Vec::new();
        for _ in 0..WATCHES {
            let watch = self.generator.watch();
            let (etcd, ours) = tokio::join!(self.etcd.wait(&watch), self.ours.wait(&watch));
            let (expected, got) = (compared(&etcd.1), compared(&ours.1));
            assert!(
                (etcd.1.status, &expected) == (ours.1.status, &got),
                "seed {}: {watch:?} after operation {}\netcd: {:#?}\nours: {:#?}",
                self.seed,
                self.operations,
                etcd.1,
                ours.1
            );
            waiting.push(Waiting { watch, etcd, ours });
        }
        let calls: Vec<Call> = (0..ROUND).map(|_| self.generator.next()).collect();
        self.operate(&calls).await;
        for watch in waiting {
            self.look(watch).await;
        }
    }

    /// What one side has answered the other must answer alike.
    async fn look(&mut self, waiting: Waiting) {
        let Waiting { watch, mut etcd, mut ours } = waiting;
        let refused = !etcd.1.is_chunked();
        if refused {
            let length = |head: &Head| head.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let (expected, got) = (length(&etcd.1), length(&ours.1));
            let expected = read_exactly(&mut etcd.0, expected).await;
            let got = read_exactly(&mut ours.0, got).await;
            assert_eq!(expected, got, "seed {}: {watch:?}", self.seed);
            self.etcd.idle.push(etcd.0);
            self.ours.idle.push(ours.0);
            self.answered += 1;
            return;
        }
        if !etcd.0.has_arrived().await && !ours.0.has_arrived().await {
            // Both wait: their connections end here.
            self.waiting += 1;
            return;
        }
        let (expected, got) = tokio::join!(self.etcd.rest(etcd.0, &etcd.1), self.ours.rest(ours.0, &ours.1));
        assert_eq!(mask(&expected), mask(&got), "seed {}: {watch:?} before operation {}", self.seed, self.operations);
        self.answered += 1;
    }

    /// Operations that give nodes a short life, then the end of those lives: their order, indexes and events.
    async fn expire(&mut self) -> bool {
        self.generator.short_ttl = Some(SHORT_TTL);
        let calls: Vec<Call> = (0..EXPIRY_OPS).map(|_| self.generator.next()).collect();
        self.generator.short_ttl = None;
        let start = Instant::now();
        let (etcd, ours) = (self.etcd.address.clone(), self.ours.address.clone());
        self.operate(&calls).await;
        if start.elapsed() > LAST_WRITE {
            eprintln!("{etcd} and {ours} were too slow for lives of {SHORT_TTL} s: what follows is not comparable");
            return false;
        }
        let before = self.generator.index;
        let mortal: BTreeSet<String> = self.mortal(&calls).await;
        for server in [&mut self.etcd, &mut self.ours] {
            for path in &mortal {
                gone(server, path).await;
            }
        }
        self.settle(start + Duration::from_secs(SHORT_TTL) + LAST_WRITE).await;
        self.operate(&HIDDEN_AND_OPEN.map(Call::whole)).await;
        self.expired += self.generator.index - before;
        for path in &mortal {
            let target = format!("{path}?wait=true&waitIndex={}", before + 1);
            let target = format!("/v2/keys{target}");
            let (expected, got) = tokio::join!(self.etcd.get(&target), self.ours.get(&target));
            assert_eq!(mask(&expected.body), mask(&got.body), "seed {}: {target}", self.seed);
        }
        true
    }

    /// Waits until everything that was written with a short life is over on both sides, seen or not: their indexes are the
    /// same then, and nothing moves them any more.
    async fn settle(&mut self, over: Instant) {
        tokio::time::sleep_until(over.into()).await;
        let end = Instant::now() + LIMIT;
        loop {
            let (etcd, ours) = tokio::join!(self.etcd.get("/v2/keys"), self.ours.get("/v2/keys"));
            let index = |whole: &Whole| whole.head.get("x-etcd-index").map(str::to_owned);
            let swept = [&etcd, &ours].iter().all(|whole| Instant::now() > over + SWEEP && whole.head.status == 200);
            if swept && index(&etcd) == index(&ours) {
                return;
            }
            assert!(Instant::now() < end, "seed {}: {etcd:?}\n{ours:?}: not the same expired", self.seed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Paths that will expire soon, percent-encoded, the same on both sides: written by `calls` or right below.
    async fn mortal(&mut self, calls: &[Call]) -> BTreeSet<String> {
        let mut mortal = BTreeSet::new();
        for path in calls.iter().filter_map(Call::written_path).collect::<BTreeSet<_>>() {
            let whole = self.etcd.get(&format!("/v2/keys{path}")).await;
            if let Ok(found) = serde_json::from_str::<Value>(&whole.body) {
                collect_mortal(&found["node"], &mut mortal);
            }
        }
        mortal
    }
}

fn collect_mortal(node: &Value, mortal: &mut BTreeSet<String>) {
    let lives = node["expiration"].is_string() && node["ttl"].as_u64().unwrap_or(0) <= SHORT_TTL;
    if let Some(key) = node["key"].as_str().filter(|_| lives) {
        let encoded: String = key
            .bytes()
            .map(|byte| match byte {
                b'/' | b'_' | b'+' => char::from(byte).to_string(),
                byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                byte => format!("%{byte:02X}"),
            })
            .collect();
        mortal.insert(encoded);
        // What is below goes with it and has no event of its own.
        return;
    }
    for child in node["nodes"].as_array().into_iter().flatten() {
        collect_mortal(child, mortal);
    }
}

async fn gone(server: &mut Server, path: &str) {
    let start = Instant::now();
    while server.get(&format!("/v2/keys{path}")).await.head.status != 404 {
        assert!(start.elapsed() < LIMIT, "{}: {path} has outlived its {SHORT_TTL} s", server.address);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn read_exactly(raw: &mut Raw, length: usize) -> String {
    raw.exactly(length).await.expect("a body")
}

async fn fresh(product: Product) -> (Cluster, Server) {
    let cluster = Cluster::start_in_memory(product, 1, &["--enable-v2=true"]).await;
    let server = until("the first index", START_LIMIT, || async {
        let mut server = Server::of(&cluster).await;
        let index = server.get("/v2/keys").await.head.get("x-etcd-index").map(str::to_owned);
        if index.as_deref() == Some(FIRST_INDEX) { Ok(server) } else { Err(format!("{index:?}")) }
    })
    .await;
    (cluster, server)
}

#[tokio::test]
async fn random_v2_operations_and_waits_answer_as_etcd_answers_them() {
    let _turn = turn().await;
    let (operations, seed) = (setting("DIFF_V2_OPS", 5_000), setting("DIFF_V2_SEED", 1));
    let ((_etcd, etcd), (_ours, ours)) = (fresh(Product::Etcd).await, fresh(Product::Ours).await);
    let generator = Generator { random: SmallRng::seed_from_u64(seed), index: 3, short_ttl: None };
    let mut both = Both { etcd, ours, generator, seed, operations: 0, refused: 0, answered: 0, waiting: 0, expired: 0 };
    let mut comparable = true;
    for round in 0.. {
        if both.operations >= operations {
            break;
        }
        both.round().await;
        if round % EXPIRY_EVERY == 1 && comparable {
            comparable = both.expire().await;
            assert!(comparable, "seed {seed}: this machine is too busy to compare expiry; run it again");
        }
    }
    println!(
        "{} v2 operations of seed {seed} answered alike, {} refused alike, {} waits answered alike, {} waited alike, \
         {} nodes expired alike",
        both.operations, both.refused, both.answered, both.waiting, both.expired
    );
    assert!(
        both.refused < both.operations * 2 / 3,
        "enough operations must succeed for the comparison to mean something"
    );
    assert!(both.answered > both.waiting / 4, "enough waits must be answered for the comparison to mean something");
    assert!(both.expired > 0, "something must expire for the comparison to mean something");
}

#[test]
fn masking_hides_times_and_nothing_else() {
    let body =
        r#"{"node":{"key":"/a","expiration":"2026-01-01T00:00:00.5Z","ttl":10,"modifiedIndex":4},"x":{"ttl":3}}"#;
    assert_eq!(mask(body), r#"{"node":{"key":"/a","expiration":*,"ttl":*,"modifiedIndex":4},"x":{"ttl":*}}"#);
}
