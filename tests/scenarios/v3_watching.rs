//! v3 watchers, ten thousand on one member, some of whose streams nobody reads: each watcher sees each event once and in
//! order, the readers are not held up by the sleepers, and a watcher costs so much memory.

use std::time::{Duration, Instant};

use etcd_charm::proto::etcdserverpb as pb;
use etcd_charm::proto::mvccpb::Event;
use pb::kv_client::KvClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::wait::{setting, turn};

const STREAMS: u64 = 20;
/// Streams that are not read while others are.
const ASLEEP: u64 = 4;
/// Writes of each key.
const ROUNDS: u64 = 4;
/// Writes of a key that only sleepers watch, far more bytes than their connections take in.
const FLOOD: u64 = 3_000;
const FLOOD_BYTES: usize = 16 << 10;
/// How long a stream may be silent while something is due.
const LIMIT: Duration = Duration::from_secs(60);
/// Most that a watcher may cost the member, bytes.
const MEMORY_EACH: u64 = 4 << 10;

/// A stream with a watcher for each of its keys.
struct Stream {
    _requests: mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
    /// Number of its first key.
    first: u64,
    /// By watcher: the version of its key that it saw last.
    seen: Vec<i64>,
}

impl Stream {
    async fn open(cluster: &Cluster, first: u64, watchers: u64) -> Self {
        let channel = cluster.channel(0).await.expect("the member accepts");
        let (requests, receiver) = mpsc::channel(usize::try_from(watchers).expect("few"));
        for n in 0..watchers {
            let create = pb::WatchCreateRequest {
                key: key(first + n).into(),
                watch_id: i64::try_from(n + 1).expect("few"),
                ..Default::default()
            };
            let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            requests.send(request).await.expect("there is room");
        }
        // Real etcd sends what is behind in one message, whatever its size.
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let answers = client.watch(ReceiverStream::new(receiver)).await.expect("a stream");
        let seen = vec![0; usize::try_from(watchers).expect("few")];
        let mut stream = Self { _requests: requests, answers: answers.into_inner(), first, seen };
        for _ in 0..watchers {
            let answer = stream.next().await;
            assert!(answer.created && !answer.canceled, "{answer:?}");
        }
        stream
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(LIMIT, self.answers.message()).await.expect("something comes");
        next.expect("the stream goes on").expect("the stream goes on")
    }

    /// Takes the next events, each of which must be the next of its key.
    async fn take(&mut self) -> Vec<Event> {
        let answer = self.next().await;
        assert!(!answer.canceled, "{answer:?}");
        let place = usize::try_from(answer.watch_id - 1).expect("an id we gave");
        let events: Vec<Event> =
            answer.events.iter().map(|event| Event::decode(event.clone()).expect("an event")).collect();
        for event in &events {
            let kv = event.kv.as_ref().expect("an event has a key");
            assert_eq!(kv.key.as_ref(), key(self.first + place as u64), "an event of another watcher");
            self.seen[place] += 1;
            assert_eq!(kv.version, self.seen[place], "an event is missing, came twice or out of order");
        }
        events
    }

    async fn take_until(&mut self, version: u64) {
        while self.seen.iter().any(|seen| *seen < version as i64) {
            self.take().await;
        }
    }
}

fn key(n: u64) -> Vec<u8> {
    format!("watched/{n:06}").into_bytes()
}

async fn put(kv: &mut KvClient<Channel>, key: Vec<u8>, value: Vec<u8>) {
    let request = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    kv.put(request).await.expect("a put");
}

/// Writes every key once, many at a time.
async fn write_all(kv: &KvClient<Channel>, keys: u64) {
    for first in (0..keys).step_by(200) {
        let puts = (first..keys.min(first + 200)).map(|n| {
            let mut kv = kv.clone();
            async move { put(&mut kv, key(n), b"v".to_vec()).await }
        });
        futures::future::join_all(puts).await;
    }
}

/// Middle and 99th of a hundred writes until the watcher of their key has them.
async fn delays(kv: &mut KvClient<Channel>, stream: &mut Stream) -> (Duration, Duration) {
    let mut delays = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        put(kv, key(stream.first), b"v".to_vec()).await;
        stream.take().await;
        delays.push(begun.elapsed());
    }
    delays.sort();
    (delays[50], delays[98])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_watchers_see_each_event_once_in_order_though_some_streams_are_not_read() {
    let _turn = turn().await;
    let each = setting("V3_WATCHERS", 10_000) / STREAMS;
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let member = &cluster.members[0];
    let mut kv = KvClient::new(cluster.channel(0).await.expect("the member accepts"));
    put(&mut kv, b"warm".to_vec(), b"v".to_vec()).await;
    let (threads, memory) = (member.process_figure("Threads:"), member.process_figure("VmRSS:"));
    let mut streams = Vec::new();
    for n in 0..STREAMS {
        streams.push(Stream::open(&cluster, n * each, each).await);
    }
    let watchers = STREAMS * each;
    let cost = (member.process_figure("VmRSS:").saturating_sub(memory) << 10) / watchers;
    println!("{watchers} watchers on {STREAMS} streams: {cost} bytes each, streams included");
    assert!(member.process_figure("Threads:") <= threads + 2, "threads must not grow with watchers");
    assert!(cost < MEMORY_EACH, "{cost} bytes for each watcher");

    let mut asleep = streams.split_off(usize::try_from(STREAMS - ASLEEP).expect("few"));
    let before = delays(&mut kv, &mut streams[0]).await;
    let flooded = asleep[0].first;
    for n in 0..FLOOD {
        put(&mut kv, key(flooded), vec![b'x'; FLOOD_BYTES]).await;
        // All sleepers get more than their connections take in.
        let other = asleep[1 + (n % (ASLEEP - 1)) as usize].first;
        put(&mut kv, key(other), vec![b'x'; FLOOD_BYTES]).await;
    }
    let beside = delays(&mut kv, &mut streams[0]).await;
    println!("write to event, p50 and p99: {before:?} before, {beside:?} with {ASLEEP} full streams asleep");

    let rounds = async {
        for _ in 0..ROUNDS {
            write_all(&kv, watchers).await;
        }
    };
    let extra: Vec<u64> = streams.iter().map(|stream| stream.seen[0] as u64).collect();
    let reading = streams.iter_mut().zip(extra).map(|(stream, extra)| async move {
        let due = ROUNDS as i64;
        while stream.seen[0] < due + extra as i64 || stream.seen[1..].iter().any(|seen| *seen < due) {
            stream.take().await;
        }
    });
    tokio::join!(rounds, futures::future::join_all(reading));

    // Those who slept find everything too, from memory or from the disk.
    for stream in &mut asleep {
        stream.take_until(ROUNDS).await;
    }
    let flood: i64 = asleep.iter().map(|stream| stream.seen[0]).sum();
    let due = (2 * FLOOD + ASLEEP * ROUNDS) as i64;
    for stream in &mut asleep {
        put(&mut kv, key(stream.first), b"last".to_vec()).await;
        while stream.take().await.last().and_then(|event| event.kv.as_ref()).is_none_or(|kv| kv.value != "last") {}
    }
    let all: i64 = asleep.iter().map(|stream| stream.seen[0]).sum();
    assert_eq!(all, due + ASLEEP as i64, "of which {flood} came before the last");
    let peak = member.process_figure("VmHWM:") >> 10;
    println!("everybody saw {} events of their own; peak memory {peak} MiB", watchers * ROUNDS + 2 * FLOOD);
}
