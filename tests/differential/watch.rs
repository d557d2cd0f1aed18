//! Watches: random watch streams over random writes, with cancels, past and future revisions, and compactions.
//!
//! `DIFF_WATCHES` sets how many watchers, `DIFF_WATCH_SEED` which. Three things are compared: what either server says when
//! a watcher is created or ends, the events with their previous values, and both with a record of all that happened, so
//! that each watcher sees each event once and in order.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use etcd_charm::proto::mvccpb::event::EventType;
use etcd_charm::proto::mvccpb::{Event, KeyValue};
use pb::kv_client::KvClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::generate::{Call, Generator};
use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::wait::{setting, turn};

const STREAMS: usize = 8;
const WATCHERS_PER_STREAM: usize = 25;
const WRITES_PER_ROUND: usize = 80;
/// How long a server may take for what the other has done. Far more than either needs.
const LIMIT: Duration = Duration::from_secs(30);

/// A watcher as one server shows it.
#[derive(Debug, Default)]
struct Watcher {
    /// What the creation said: revision of the header, id, and whether it was refused at once.
    created: Option<(i64, i64, bool)>,
    /// Compaction revision and reason of its end.
    ended: Option<(i64, String)>,
    events: Vec<Event>,
}

/// One watch stream of one server, and its watchers in the order in which they were asked for.
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: tonic::Streaming<pb::WatchResponse>,
    watchers: Vec<Watcher>,
    answered: usize,
    by_id: BTreeMap<i64, usize>,
    /// Compaction revision when the stream was opened.
    compacted: i64,
}

impl Stream {
    /// Opened by its first watcher: real etcd says nothing, not even that the stream is open, before it is asked.
    async fn open(channel: &Channel, first: pb::WatchCreateRequest, compacted: i64) -> Self {
        let (requests, receiver) = mpsc::channel(WATCHERS_PER_STREAM * 4);
        let first = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(first)) };
        requests.send(first).await.expect("the stream is open");
        let answers = WatchClient::new(channel.clone()).watch(ReceiverStream::new(receiver)).await.expect("a stream");
        let watchers = vec![Watcher::default()];
        let mut stream =
            Self { requests, answers: answers.into_inner(), watchers, answered: 0, by_id: BTreeMap::new(), compacted };
        stream.until("the first creation", |stream| stream.answered == 1).await;
        stream
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) {
        self.watchers.push(Watcher::default());
        self.send(RequestUnion::CreateRequest(request)).await;
        let asked = self.watchers.len();
        self.until("a creation", |stream| stream.answered == asked).await;
    }

    async fn cancel(&mut self, n: usize) {
        if let Some((_, id, false)) = self.watchers[n].created
            && self.watchers[n].ended.is_none()
        {
            self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id })).await;
            self.until("a cancel", |stream| stream.watchers[n].ended.is_some()).await;
        }
    }

    async fn send(&self, union: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(union) }).await.expect("the stream is open");
    }

    async fn until(&mut self, what: impl std::fmt::Debug, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let next = tokio::time::timeout(LIMIT, self.answers.message()).await;
            let answer = next.unwrap_or_else(|_| panic!("nothing more came, waiting for {what:?}"));
            self.take(answer.expect("the stream goes on").expect("the stream goes on"));
        }
    }

    fn take(&mut self, answer: pb::WatchResponse) {
        if answer.created {
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            self.watchers[self.answered].created = Some((revision, answer.watch_id, answer.canceled));
            if answer.canceled {
                self.watchers[self.answered].ended = Some((answer.compact_revision, answer.cancel_reason));
            } else {
                self.by_id.insert(answer.watch_id, self.answered);
            }
            self.answered += 1;
            return;
        }
        let (n, compacted) = (self.by_id[&answer.watch_id], self.compacted);
        assert!(self.watchers[n].ended.is_none(), "something came after the end: {answer:?}");
        let events = answer.events.iter().map(|event| Event::decode(event.clone()).expect("an event"));
        self.watchers[n].events.extend(events.filter(|event| !is_gone(event, compacted)));
        if answer.canceled {
            self.watchers[n].ended = Some((answer.compact_revision, answer.cancel_reason));
        }
    }
}

/// One server.
struct Side {
    kv: KvClient<Channel>,
    channel: Channel,
    streams: Vec<Stream>,
}

impl Side {
    async fn of(cluster: &Cluster) -> Self {
        let channel = cluster.channel(0).await.expect("the server accepts");
        Self { kv: KvClient::new(channel.clone()), channel, streams: Vec::new() }
    }

    /// The revision after the write, or the refusal.
    async fn write(&mut self, call: &Call) -> Result<i64, String> {
        let header = match call.clone() {
            Call::Put(request) => self.kv.put(request).await.map(|answer| answer.into_inner().header),
            Call::Delete(request) => self.kv.delete_range(request).await.map(|answer| answer.into_inner().header),
            Call::Txn(request) => self.kv.txn(request).await.map(|answer| answer.into_inner().header),
            Call::Compact(request) => self.kv.compact(request).await.map(|answer| answer.into_inner().header),
            other => panic!("{other:?} is no write"),
        };
        header.map(|header| header.map_or(0, |header| header.revision)).map_err(|status| status.message().to_owned())
    }
}

/// What a watcher asks for, as the contract defines it.
struct Wish {
    stream: usize,
    request: pb::WatchCreateRequest,
    cancelled: bool,
}

impl Wish {
    fn wants(&self, event: &Event, from: i64) -> bool {
        let kv = event.kv.as_ref().expect("an event has a key");
        let (key, end) = (self.request.key.as_ref(), self.request.range_end.as_ref());
        let key = if key.is_empty() { b"\0".as_ref() } else { key };
        let inside = match end {
            [] => kv.key.as_ref() == key,
            [0] => kv.key.as_ref() >= key,
            end => kv.key.as_ref() >= key && kv.key.as_ref() < end,
        };
        let filtered = self.request.filters.iter().any(|filter| {
            let unwanted = if *filter == 0 { EventType::Put } else { EventType::Delete };
            event.r#type == unwanted as i32
        });
        inside && !filtered && kv.mod_revision >= from
    }
}

/// Up to 3.4.35 and 3.5.18 a compaction takes the deletions of its own revision with it, and a watcher from there misses
/// them; newer versions and we show them. Not compared, since nobody can say which control is there.
fn is_gone(event: &Event, compacted: i64) -> bool {
    event.r#type == EventType::Delete as i32 && event.kv.as_ref().is_some_and(|kv| kv.mod_revision == compacted)
}

/// An event without its previous value.
fn bare(event: &Event) -> (i32, Option<KeyValue>) {
    (event.r#type, event.kv.clone())
}

struct Comparison {
    etcd: Side,
    ours: Side,
    generator: Generator,
    /// A watcher of everything on real etcd: what happened.
    record: Stream,
    seed: u64,
}

impl Comparison {
    fn record(&self) -> &[Event] {
        &self.record.watchers[0].events
    }

    async fn write(&mut self, call: &Call) {
        let (expected, got) = (self.etcd.write(call).await, self.ours.write(call).await);
        assert_eq!(expected, got, "seed {}: {call:#?}", self.seed);
        if let Ok(revision) = expected {
            let before = self.generator.revision;
            self.generator.revision = revision;
            if let Call::Compact(request) = call {
                self.generator.compacted = request.revision;
            } else if revision > before {
                let seen = |stream: &Stream| {
                    stream.watchers[0].events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision)
                };
                // All events of a revision come in one answer.
                self.record.until("the record", |stream| seen(stream) >= revision).await;
            }
        }
    }

    async fn create(&mut self) -> Vec<Wish> {
        let mut wishes = Vec::new();
        for stream in 0..STREAMS {
            for n in 0..WATCHERS_PER_STREAM {
                let request = self.generator.watch();
                for side in [&mut self.etcd, &mut self.ours] {
                    if n == 0 {
                        side.streams.push(Stream::open(&side.channel, request.clone(), self.generator.compacted).await);
                    } else {
                        side.streams[stream].create(request.clone()).await;
                    }
                }
                let last = |side: &Side| side.streams[stream].watchers.last().and_then(|watcher| watcher.created);
                assert_eq!(last(&self.etcd), last(&self.ours), "seed {}: {request:?}", self.seed);
                wishes.push(Wish { stream, request, cancelled: false });
            }
        }
        wishes
    }

    /// What watcher `n` is to see of what has happened so far; `None` if it was refused, or its past is compacted.
    fn expected(&self, wish: &Wish, n: usize, compacted: i64) -> Option<Vec<&Event>> {
        let (revision, _, refused) = self.etcd.streams[wish.stream].watchers[n].created.expect("it was created");
        let start = wish.request.start_revision;
        if refused || (start > 0 && start < compacted) {
            return None;
        }
        let from = if start > 0 { start } else { revision + 1 };
        Some(self.record().iter().filter(|event| wish.wants(event, from) && !is_gone(event, compacted)).collect())
    }

    /// Waits until every watcher has seen what it is to see, and compares.
    async fn settle(&mut self, wishes: &[Wish], compacted: i64) {
        for (at, wish) in wishes.iter().enumerate() {
            let n = at % WATCHERS_PER_STREAM;
            let expected =
                self.expected(wish, n, compacted).map(|events| events.into_iter().cloned().collect::<Vec<_>>());
            for (name, side) in [("etcd", &mut self.etcd), ("ours", &mut self.ours)] {
                let stream = &mut side.streams[wish.stream];
                let what = (name, self.seed, &wish.request, compacted, stream.watchers[n].events.len(), &expected);
                match &expected {
                    Some(events) if !wish.cancelled => {
                        stream.until(what, |stream| stream.watchers[n].events.len() >= events.len()).await;
                    }
                    Some(_) => {}
                    None => stream.until(what, |stream| stream.watchers[n].ended.is_some()).await,
                }
            }
            self.compare(wish, n, expected);
        }
    }

    fn compare(&self, wish: &Wish, n: usize, expected: Option<Vec<Event>>) {
        let (etcd, ours) = (&self.etcd.streams[wish.stream].watchers[n], &self.ours.streams[wish.stream].watchers[n]);
        let now = (self.generator.revision, self.generator.compacted);
        let what = format!(
            "seed {}, {:?}, cancelled: {}, now and compacted: {now:?}",
            self.seed, wish.request, wish.cancelled
        );
        assert_eq!(etcd.ended, ours.ended, "{what}");
        let Some(expected) = expected else {
            assert_eq!((&etcd.events, &ours.events), (&Vec::new(), &Vec::new()), "{what}");
            return;
        };
        for (name, watcher) in [("etcd", etcd), ("ours", ours)] {
            let (seen, due): (Vec<_>, Vec<_>) =
                (watcher.events.iter().map(bare).collect(), expected.iter().map(bare).collect());
            // A cancelled one has seen a part, from the beginning on.
            let due = if wish.cancelled { due[..seen.len().min(due.len())].to_vec() } else { due };
            assert_eq!(seen, due, "{name}, {what}");
        }
        let both = etcd.events.len().min(ours.events.len());
        // At a cancel etcd forgets at once that previous values were wanted, and sends what is under way without them.
        let forgotten =
            |etcd: &Event, ours: &Event| wish.cancelled && etcd.prev_kv.is_none() && bare(etcd) == bare(ours);
        let mut pairs = etcd.events[..both].iter().zip(&ours.events[..both]);
        let differs = pairs.find(|(etcd, ours)| etcd != ours && !forgotten(etcd, ours));
        assert_eq!(differs, None, "{what}");
    }

    async fn round(&mut self) -> usize {
        let compacted = self.generator.compacted;
        let mut wishes = self.create().await;
        self.settle(&wishes, compacted).await;
        for _ in 0..WRITES_PER_ROUND {
            let call = self.generator.write();
            self.write(&call).await;
            if self.generator.random.random_range(0..4) == 0 {
                let at = self.generator.random.random_range(0..wishes.len());
                wishes[at].cancelled = true;
                for side in [&mut self.etcd, &mut self.ours] {
                    side.streams[wishes[at].stream].cancel(at % WATCHERS_PER_STREAM).await;
                }
            }
            if self.generator.random.random_range(0..60) == 0 {
                // A watcher that lags behind a compaction ends; when it lags is chance.
                self.settle(&wishes, compacted).await;
                let call = self.generator.compaction();
                self.write(&call).await;
            }
        }
        self.settle(&wishes, compacted).await;
        for (at, wish) in wishes.iter().enumerate() {
            for side in [&mut self.etcd, &mut self.ours] {
                side.streams[wish.stream].cancel(at % WATCHERS_PER_STREAM).await;
            }
        }
        // Whatever came twice or too late has come before the answer to the cancel.
        self.settle(&wishes, compacted).await;
        self.etcd.streams.clear();
        self.ours.streams.clear();
        wishes.len()
    }
}

#[tokio::test]
async fn random_watches_see_each_event_once_in_order_and_as_etcd_shows_it() {
    let _turn = turn().await;
    let (watches, seed) = (setting("DIFF_WATCHES", 2_000), setting("DIFF_WATCH_SEED", 1));
    let (etcd, ours) =
        (Cluster::start_in_memory(Product::Etcd, 1, &[]).await, Cluster::start_in_memory(Product::Ours, 1, &[]).await);
    let etcd_side = Side::of(&etcd).await;
    let all = pb::WatchCreateRequest {
        key: b"\0".to_vec().into(),
        range_end: b"\0".to_vec().into(),
        start_revision: 1,
        ..Default::default()
    };
    let record = Stream::open(&etcd_side.channel, all, 0).await;
    let generator = Generator { random: SmallRng::seed_from_u64(seed), revision: 1, compacted: 0 };
    let mut comparison = Comparison { etcd: etcd_side, ours: Side::of(&ours).await, generator, record, seed };
    let mut done = 0;
    while done < watches {
        done += comparison.round().await as u64;
    }
    let (revision, events) = (comparison.generator.revision, comparison.record().len());
    println!("{done} watchers of seed {seed} saw the same of {events} events in {revision} revisions");
}
