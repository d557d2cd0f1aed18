//! Requests that cost much, many at once: the member's threads and memory have a ceiling, and who asks for little is served
//! meanwhile. Figures are printed; `ETCD_UNDER_TEST` runs the same against another server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_charm::proto::etcdserverpb as pb;
use futures::future::join_all;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::wait::{setting, turn};

/// Threads that a storm may add: the whole blocking pool, and not one for each request.
const MORE_THREADS: u64 = 48;
/// Memory that it may add, bytes: the budgets of answers and of watchers, one answer beyond, one being encoded, and what
/// the allocator keeps.
/// Four times the bytes of answers in flight: each is in the store's reader, in the answer and in the connection's buffers,
/// and the allocator gives pages back late.
const MORE_MEMORY: u64 = 512 << 20;
/// A put of somebody else takes no longer. A limit for hangs: the figure is printed.
const PUT_LIMIT: Duration = Duration::from_secs(15);

/// What `/proc` says of the member: threads, bytes.
fn usage(pid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((number("Threads:")?, number("VmRSS:")? << 10))
}

/// Watches the member and puts keys, until it is asked what it saw.
struct Innocent {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<(u64, u64)>,
    putting: JoinHandle<Vec<Duration>>,
    before: (u64, u64),
    what: &'static str,
}

impl Innocent {
    async fn start(what: &'static str, cluster: &Cluster) -> Self {
        let pid = cluster.members[0].pid();
        let before = usage(pid).expect("the member runs");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watching = tokio::spawn(async move {
            let mut peak = before;
            while !stopped.load(Ordering::Relaxed) {
                if let Some(now) = usage(pid) {
                    peak = (peak.0.max(now.0), peak.1.max(now.1));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            peak
        });
        let mut kv = KvClient::new(cluster.channel(0).await.expect("the member accepts"));
        let stopped = stop.clone();
        let putting = tokio::spawn(async move {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let put = pb::PutRequest { key: "innocent".into(), value: "1".into(), ..Default::default() };
                let answer = tokio::time::timeout(PUT_LIMIT, kv.put(put)).await;
                answer.unwrap_or_else(|_| panic!("{what}: a put hangs")).unwrap_or_else(|status| {
                    panic!("{what}: a put of somebody else failed: {status}");
                });
                took.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took
        });
        Self { stop, watching, putting, before, what }
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (threads, bytes) = self.watching.await.expect("it watched");
        let mut took = self.putting.await.expect("every put is answered");
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        println!(
            "{}: threads {} -> {threads}, memory {} -> {} MiB, {} puts of others: p50 {:?}, p99 {:?}, worst {:?}",
            self.what,
            self.before.0,
            self.before.1 >> 20,
            bytes >> 20,
            took.len(),
            at(0.5),
            at(0.99),
            at(1.0),
        );
        assert!(threads <= self.before.0 + MORE_THREADS, "{}: {threads} threads", self.what);
        let more = bytes.saturating_sub(self.before.1);
        assert!(more <= MORE_MEMORY, "{}: {} MiB more", self.what, more >> 20);
    }
}

/// `count` keys below `prefix` with values of `bytes` that do not compress.
async fn fill(cluster: &Cluster, prefix: &str, count: usize, bytes: usize) {
    let channel = cluster.channel(0).await.expect("the member accepts");
    let next = AtomicU64::new(0);
    let writers = (0..16).map(|_| async {
        let mut kv = KvClient::new(channel.clone());
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count as u64 {
                return;
            }
            let value: Vec<u8> = (0..bytes).map(|_| rand::random()).collect();
            let put =
                pb::PutRequest { key: format!("{prefix}{n:08}").into(), value: value.into(), ..Default::default() };
            kv.put(put).await.expect("a put");
        }
    });
    join_all(writers).await;
}

async fn cluster() -> Cluster {
    Cluster::start_in_memory(Product::Ours, 1, &["--quota-backend-bytes", "4294967296"]).await
}

fn create(key: &str, watch_id: i64) -> pb::WatchRequest {
    let create =
        pb::WatchCreateRequest { key: key.to_owned().into(), watch_id, start_revision: 1, ..Default::default() };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

fn cancel(watch_id: i64) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })) }
}

/// Creates and cancels watchers of a long history as fast as the member answers.
async fn create_and_cancel(channel: Channel, rounds: i64) {
    let (requests, receiver) = mpsc::channel(64);
    let mut client = WatchClient::new(channel);
    let mut answers = client.watch(ReceiverStream::new(receiver)).await.expect("a stream").into_inner();
    let asking = async move {
        for n in 1..=rounds {
            for request in [create("nothing", n), cancel(n)] {
                if requests.send(request).await.is_err() {
                    return;
                }
            }
        }
    };
    let answered = async {
        let mut ended = 0;
        while ended < rounds {
            let answer = answers.message().await.expect("the stream lives").expect("it goes on");
            ended += i64::from(answer.canceled);
        }
    };
    tokio::join!(asking, answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_watchers_over_a_long_history_costs_a_few_threads_and_no_memory() {
    let _turn = turn().await;
    let cluster = cluster().await;
    // More than the newest events that are in memory.
    fill(&cluster, "h", 40_000, 1024).await;
    let rounds = setting("STORM_ROUNDS", 100) as i64;
    let innocent = Innocent::start("watch create/cancel storm", &cluster).await;
    let mut storm = Vec::new();
    for _ in 0..32 {
        let channel = cluster.channel(0).await.expect("the member accepts");
        storm.extend((0..4).map(|_| create_and_cancel(channel.clone(), rounds)));
    }
    join_all(storm).await;
    innocent.end().await;
    // Streams that come and go with their watchers behind.
    let innocent = Innocent::start("watch streams that leave at once", &cluster).await;
    for _ in 0..rounds {
        let channel = cluster.channel(0).await.expect("the member accepts");
        let streams = (0..16).map(|n| {
            let channel = channel.clone();
            async move {
                let requests = tokio_stream::iter([create("nothing", n + 1)]);
                let requests = futures::StreamExt::chain(requests, futures::stream::pending());
                let mut answers = WatchClient::new(channel).watch(requests).await.expect("a stream").into_inner();
                answers.message().await.expect("an answer");
            }
        });
        join_all(streams).await;
    }
    innocent.end().await;
}

fn everything(prefix: &str) -> pb::RangeRequest {
    let end = format!("{prefix}~");
    pb::RangeRequest { key: prefix.to_owned().into(), range_end: end.into(), ..Default::default() }
}

/// A list, and whether it came whole; etcd's words for "not now" are the only other answer.
async fn list(channel: Channel, prefix: &'static str, keys: usize) -> bool {
    let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
    match kv.range(everything(prefix)).await {
        Ok(answer) => {
            assert_eq!(answer.into_inner().kvs.len(), keys, "a list that is answered is whole");
            true
        }
        Err(status) => {
            let known = ["etcdserver: request timed out", "etcdserver: too many requests"];
            assert!(known.contains(&status.message()), "{status}");
            assert!([Code::Unavailable, Code::ResourceExhausted].contains(&status.code()), "{status}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_lists_at_once_wait_for_memory_and_hold_up_nobody() {
    let _turn = turn().await;
    let cluster = cluster().await;
    // 40 MB.
    fill(&cluster, "l", 400, 100_000).await;
    let innocent = Innocent::start("16 lists of 40 MB, twice", &cluster).await;
    let begun = Instant::now();
    let mut whole = 0;
    for _ in 0..2 {
        let mut lists = Vec::new();
        for _ in 0..16 {
            lists.push(list(cluster.channel(0).await.expect("the member accepts"), "l", 400));
        }
        whole += join_all(lists).await.into_iter().filter(|whole| *whole).count();
    }
    println!("{whole} of 32 lists came whole, all were answered after {:?}", begun.elapsed());
    assert!(whole >= 4, "some fit");
    innocent.end().await;

    let innocent = Innocent::start("8 lists of 40 MB through the gateway", &cluster).await;
    let body = r#"{"key":"bA==","range_end":"bX4="}"#;
    let port = cluster.members[0].client_port;
    let asked = join_all((0..8).map(|_| async move {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("accepted");
        let head = format!(
            "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = vec![0; 1 << 20];
        let (mut first, mut bytes) = (Vec::new(), 0);
        loop {
            let read = stream.read(&mut answer).await.expect("open");
            if read == 0 {
                return (String::from_utf8_lossy(&first).into_owned(), bytes);
            }
            bytes += read;
            if first.len() < 64 {
                first.extend_from_slice(&answer[..read.min(64)]);
            }
        }
    }));
    let answers = asked.await;
    let whole = answers.iter().filter(|(head, bytes)| head.starts_with("HTTP/1.1 200") && *bytes > 50 << 20).count();
    println!("{whole} of 8 came whole");
    assert!(whole >= 1, "{:?}", answers.iter().map(|(head, bytes)| (head.lines().next(), bytes)).collect::<Vec<_>>());
    innocent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_who_take_nothing_of_their_lists_do_not_keep_others_from_theirs() {
    let _turn = turn().await;
    let cluster = cluster().await;
    fill(&cluster, "l", 200, 100_000).await;
    let innocent = Innocent::start("64 readers of 20 MB who take nothing", &cluster).await;
    let mut asleep = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(("127.0.0.1", cluster.members[0].client_port)).await.expect("accepted");
        let body = r#"{"key":"bA==","range_end":"bX4="}"#;
        let head = format!("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.expect("sent");
        asleep.push(stream);
    }
    let limit = Duration::from_secs(180);
    let others = async {
        // As soon as the first sleeper has lost its answer there is room; until then a list is refused in time.
        while !list(cluster.channel(0).await.expect("the member accepts"), "l", 200).await {}
    };
    tokio::time::timeout(limit, others).await.expect("a reader who reads is served");
    innocent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_merges_and_snapshots_at_once_take_turns() {
    let _turn = turn().await;
    let cluster = cluster().await;
    fill(&cluster, "s", 20_000, 1024).await;
    let innocent = Innocent::start("200 hashes, 50 defragmentations, 30 snapshots", &cluster).await;
    let mut channels = Vec::new();
    for _ in 0..10 {
        channels.push(cluster.channel(0).await.expect("the member accepts"));
    }
    let client = |n: usize| MaintenanceClient::new(channels[n % channels.len()].clone());
    let hashes = join_all((0..200).map(|n| async move {
        client(n).hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("a hash");
    }));
    let merges = join_all((0..50).map(|n| async move {
        // Half of them are not waited for.
        let mut client = client(n);
        let merge = client.defragment(pb::DefragmentRequest {});
        if n % 2 == 0 {
            merge.await.expect("merged");
        } else {
            let _left = tokio::time::timeout(Duration::from_millis(n as u64), merge).await;
        }
    }));
    let snapshots = join_all((0..30).map(|n| async move {
        let mut pieces = client(n).snapshot(pb::SnapshotRequest {}).await.expect("a snapshot").into_inner();
        let mut last = None;
        while let Some(piece) = pieces.message().await.expect("whole") {
            last = Some(piece.remaining_bytes);
        }
        assert_eq!(last, Some(0));
    }));
    tokio::join!(hashes, merges, snapshots);
    innocent.end().await;
}
