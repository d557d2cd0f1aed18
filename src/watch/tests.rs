//! Watchers on a real store: every event once, in order, however slow the reader and wherever it begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use openraft::storage::RaftStateMachine;
use openraft::{Entry as RaftEntry, EntryPayload};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::{CreateRefusal, Hub, WatchCreate, WatchOutput, WatchStream};
use crate::model::command::{self, Command};
use crate::model::view::KeyRange;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb::{Event, event::EventType};
use crate::raft::types::{Entry, Proposal};
use crate::store::{self, Machine, Store, StoreOptions, Watermark};
use crate::work::{Source, WATCH_BYTES, WATCH_LEAST_BYTES};

/// More than any test needs; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    machine: Machine,
    store: Store,
    hub: Arc<Hub>,
    index: u64,
    _folder: TempDir,
}

impl World {
    fn new(ring_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, machine) = store::open(
            folder.path(),
            StoreOptions { flush_after: Duration::from_secs(86_400), ..StoreOptions::default() },
            Watermark::already_durable(),
        )
        .unwrap();
        let hub = Hub::with_ring(store.clone(), Duration::from_millis(20), ring_bytes);
        store.subscribe(hub.clone());
        Self { machine, store, hub, index: 0, _folder: folder }
    }

    async fn apply(&mut self, command: Command) {
        self.index += 1;
        let leader = openraft::vote::leader_id_std::CommittedLeaderId::new(1);
        let log_id = openraft::LogId::new(leader, self.index);
        let entry: Entry = RaftEntry { log_id, payload: EntryPayload::Normal(Proposal(command::encode(command))) };
        self.machine.apply(futures::stream::iter([Ok((entry, None))])).await.unwrap();
    }

    async fn put(&mut self, key: &str, value: &str) -> i64 {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        self.apply(Command::Put(pb::PutRequest { key, value, ..Default::default() })).await;
        self.store.revision()
    }

    async fn delete(&mut self, key: &str) {
        self.apply(Command::DeleteRange(pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }))
            .await;
    }

    async fn compact(&mut self, revision: i64) {
        self.apply(Command::Compact(pb::CompactionRequest { revision, physical: false })).await;
    }
}

fn watch(key: &str, range_end: &str) -> WatchCreate {
    WatchCreate {
        range: KeyRange::new(key.to_owned().into(), Bytes::copy_from_slice(range_end.as_bytes())),
        watch_id: 0,
        start_revision: 0,
        progress_notify: false,
        no_put: false,
        no_delete: false,
        prev_kv: false,
        fragment: false,
    }
}

async fn next(stream: &mut WatchStream) -> WatchOutput {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("a message comes")
}

async fn nothing(stream: &mut WatchStream) {
    let silence = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
    assert!(silence.is_err(), "an unexpected message: {silence:?}");
}

fn events(output: &WatchOutput) -> Vec<(i64, String)> {
    let decode = |bytes: &Bytes| {
        let event = Event::decode(bytes.clone()).unwrap();
        let kv = event.kv.unwrap();
        (kv.mod_revision, String::from_utf8(kv.key.to_vec()).unwrap())
    };
    output.events.iter().map(decode).collect()
}

#[tokio::test]
async fn a_live_watcher_sees_only_its_keys_from_now_on() {
    let mut world = World::new(1 << 20);
    world.put("a", "before").await;
    let mut stream = world.hub.open_stream(Source::numbered(1));
    let created = stream.create(watch("a", "b")).unwrap();
    assert_eq!((created.watch_id, created.revision), (0, 2));
    world.put("z", "other").await;
    let revision = world.put("ab", "mine").await;
    let output = next(&mut stream).await;
    assert_eq!(events(&output), [(revision, "ab".to_owned())]);
    assert_eq!((output.header_revision, output.canceled), (revision, false));
    nothing(&mut stream).await;
}

#[tokio::test]
async fn a_watcher_far_behind_misses_nothing_of_a_history_larger_than_one_step_reads() {
    let mut world = World::new(100);
    let _other = world.hub.open_stream(Source::numbered(1));
    let value = "x".repeat(16 << 10);
    let mut newest = 0;
    for _ in 0..100 {
        for _ in 0..9 {
            world.put("unrelated", &value).await;
        }
        newest = world.put("k", "v").await;
    }
    let mut stream = world.hub.open_stream(Source::numbered(1));
    stream.create(WatchCreate { start_revision: 1, ..watch("k", "") }).unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&newest) {
        seen.extend(events(&next(&mut stream).await).into_iter().map(|(revision, _)| revision));
    }
    assert_eq!(seen, (11..=newest).step_by(10).collect::<Vec<i64>>());
}

#[tokio::test]
async fn what_happens_while_nobody_watches_is_not_lost_to_who_comes_back() {
    let mut world = World::new(1 << 20);
    let mut seen = Vec::new();
    for round in 0..20 {
        let last = seen.last().copied().unwrap_or(1);
        let mut stream = world.hub.open_stream(Source::numbered(1));
        stream.create(WatchCreate { start_revision: last + 1, ..watch("k", "") }).unwrap();
        let newest = world.put("k", &format!("watched {round}")).await;
        while seen.last() != Some(&newest) {
            seen.extend(events(&next(&mut stream).await).into_iter().map(|(revision, _)| revision));
        }
        drop(stream);
        for n in 0..round % 4 {
            world.put("k", &format!("unwatched {n}")).await;
        }
    }
    assert_eq!(seen, (2..=*seen.last().unwrap()).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_watcher_of_the_past_replays_and_then_follows() {
    // From the disk because the ring is small, from the ring, and from the disk because nobody watched at that time.
    for (ring, watched) in [(100, true), (1 << 20, true), (1 << 20, false)] {
        let mut world = World::new(ring);
        let _other = watched.then(|| world.hub.open_stream(Source::numbered(1)));
        for n in 0..50 {
            world.put("k", &n.to_string()).await;
        }
        let mut stream = world.hub.open_stream(Source::numbered(1));
        stream.create(WatchCreate { start_revision: 10, prev_kv: true, ..watch("k", "") }).unwrap();
        world.put("k", "live").await;
        let mut seen = Vec::new();
        while seen.last() != Some(&52) {
            let output = next(&mut stream).await;
            for event in &output.events {
                let event = Event::decode(event.clone()).unwrap();
                let revision = event.kv.unwrap().mod_revision;
                assert_eq!(event.prev_kv.unwrap().mod_revision, revision - 1);
                seen.push(revision);
            }
        }
        assert_eq!(seen, (10..=52).collect::<Vec<i64>>());
    }
}

#[tokio::test]
async fn a_start_in_the_future_shows_nothing_before_it() {
    let mut world = World::new(1 << 20);
    let mut stream = world.hub.open_stream(Source::numbered(1));
    stream.create(WatchCreate { start_revision: 4, ..watch("k", "") }).unwrap();
    for value in ["2", "3"] {
        world.put("k", value).await;
    }
    nothing(&mut stream).await;
    world.put("k", "4").await;
    assert_eq!(events(&next(&mut stream).await), [(4, "k".to_owned())]);
}

#[tokio::test]
async fn the_header_of_history_says_how_far_the_store_is() {
    for ring in [100, 1 << 20] {
        let mut world = World::new(ring);
        world.put("k", "1").await;
        let newest = world.put("other", &"x".repeat(200)).await;
        let mut stream = world.hub.open_stream(Source::numbered(1));
        stream.create(WatchCreate { start_revision: 2, ..watch("k", "") }).unwrap();
        let output = next(&mut stream).await;
        assert_eq!((events(&output), output.header_revision), (vec![(2, "k".to_owned())], newest));
    }
}

#[tokio::test]
async fn filters_drop_kinds_and_send_no_empty_message() {
    let mut world = World::new(1 << 20);
    let mut stream = world.hub.open_stream(Source::numbered(1));
    stream.create(WatchCreate { no_put: true, ..watch("k", "") }).unwrap();
    world.put("k", "1").await;
    nothing(&mut stream).await;
    world.delete("k").await;
    let output = next(&mut stream).await;
    let event = Event::decode(output.events[0].clone()).unwrap();
    assert_eq!(event.r#type(), EventType::Delete);
    assert_eq!(event.kv.unwrap().mod_revision, 3);
}

#[tokio::test]
async fn ids_count_up_and_a_chosen_id_in_use_is_refused() {
    let world = World::new(1 << 20);
    let mut stream = world.hub.open_stream(Source::numbered(1));
    let chosen = |id| WatchCreate { watch_id: id, ..watch("k", "") };
    assert_eq!(stream.create(chosen(1)).unwrap().watch_id, 1);
    assert_eq!(stream.create(chosen(0)).unwrap().watch_id, 0);
    assert_eq!(stream.create(chosen(0)).unwrap().watch_id, 2);
    assert_eq!(stream.create(chosen(1)), Err(CreateRefusal::DuplicateId));
}

#[tokio::test]
async fn a_cancelled_watcher_is_silent_and_frees_its_place() {
    let mut world = World::new(1 << 20);
    let mut stream = world.hub.open_stream(Source::numbered(1));
    let id = stream.create(watch("k", "")).unwrap().watch_id;
    world.put("k", "1").await;
    assert!(stream.cancel(id));
    assert!(!stream.cancel(id));
    nothing(&mut stream).await;
    assert_eq!(world.hub.stats().watchers.load(std::sync::atomic::Ordering::Relaxed), 0);
    drop(stream);
    assert_eq!(world.hub.stats().streams.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_watcher_below_the_compaction_is_told_and_ends() {
    let mut world = World::new(100);
    for n in 0..10 {
        world.put("k", &n.to_string()).await;
    }
    let mut stream = world.hub.open_stream(Source::numbered(1));
    let behind = stream.create(WatchCreate { start_revision: 3, ..watch("k", "") }).unwrap().watch_id;
    world.compact(8).await;
    let output = next(&mut stream).await;
    assert_eq!(
        (output.watch_id, output.canceled, output.compact_revision, output.header_revision),
        (behind, true, 8, 0)
    );
    let at = stream.create(WatchCreate { start_revision: 8, prev_kv: true, ..watch("k", "") }).unwrap().watch_id;
    let output = next(&mut stream).await;
    assert_eq!((output.watch_id, events(&output)[0].0), (at, 8));
    let previous: Vec<_> = output.events.iter().map(|event| Event::decode(event.clone()).unwrap().prev_kv).collect();
    let revisions: Vec<_> = previous.iter().map(|kv| kv.as_ref().map(|kv| kv.mod_revision)).collect();
    assert_eq!(revisions[..2], [None, Some(8)], "the value before the compaction revision is compacted");
}

#[tokio::test]
async fn the_id_of_a_watcher_that_a_compaction_ended_is_taken_until_it_is_cancelled() {
    let mut world = World::new(100);
    for n in 0..10 {
        world.put("k", &n.to_string()).await;
    }
    world.compact(8).await;
    let mut stream = world.hub.open_stream(Source::numbered(1));
    let chosen = WatchCreate { watch_id: 7, start_revision: 3, ..watch("k", "") };
    stream.create(chosen.clone()).unwrap();
    assert!(next(&mut stream).await.canceled);
    assert_eq!(stream.create(chosen.clone()).unwrap_err(), CreateRefusal::DuplicateId);
    assert!(stream.cancel(7), "a cancel is answered once more, as etcd does");
    assert!(!stream.cancel(7));
    assert_eq!(stream.create(chosen).unwrap().watch_id, 7);
}

#[tokio::test]
async fn manual_progress_comes_after_every_event_below_it() {
    let mut world = World::new(1 << 20);
    let mut stream = world.hub.open_stream(Source::numbered(1));
    stream.request_progress();
    nothing(&mut stream).await;
    stream.create(watch("k", "")).unwrap();
    world.put("k", "1").await;
    world.put("other", "1").await;
    stream.request_progress();
    assert_eq!(events(&next(&mut stream).await), [(2, "k".to_owned())]);
    let output = next(&mut stream).await;
    assert_eq!((output.watch_id, output.header_revision, output.events.len()), (-1, 3, 0));
    nothing(&mut stream).await;
}

#[tokio::test]
async fn periodic_progress_goes_to_quiet_watchers_that_asked() {
    let mut world = World::new(1 << 20);
    let mut stream = world.hub.open_stream(Source::numbered(1));
    stream.create(watch("a", "")).unwrap();
    let asked = stream.create(WatchCreate { progress_notify: true, ..watch("b", "") }).unwrap().watch_id;
    world.put("other", "1").await;
    let output = next(&mut stream).await;
    assert_eq!((output.watch_id, output.events.len()), (asked, 0));
    assert!(output.header_revision <= 2);
}

#[tokio::test]
async fn a_replaced_state_is_read_from_history_without_a_gap() {
    let mut world = World::new(1 << 20);
    let mut stream = world.hub.open_stream(Source::numbered(1));
    stream.create(watch("k", "")).unwrap();
    world.put("k", "1").await;
    // The hub hears nothing of these, as if they had come in a snapshot.
    let deaf = Hub::with_ring(world.store.clone(), PATIENCE, 1 << 20);
    let hub = std::mem::replace(&mut world.hub, deaf);
    for value in ["2", "3"] {
        world.put("k", value).await;
    }
    store::Moment::alone(|moment| {
        store::EventSink::reset(&*hub, world.store.revision(), world.store.compacted(), moment);
    });
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(events(&next(&mut stream).await).into_iter().map(|(revision, _)| revision));
    }
    assert_eq!(seen, [2, 3, 4]);
}

/// What a busy client's stream does: it looks whether there is a message and is called away by the next request.
fn glance(stream: &mut WatchStream) -> Option<WatchOutput> {
    stream.next().now_or_never()
}

#[tokio::test]
async fn a_client_that_asks_all_the_time_gets_its_history_and_it_is_read_once() {
    let mut world = World::new(100);
    let _other = world.hub.open_stream(Source::numbered(1));
    let newest = {
        for _ in 0..2_000 {
            world.put("unrelated", &"x".repeat(4 << 10)).await;
        }
        world.put("k", "v").await
    };
    let mut stream = world.hub.open_stream(Source::numbered(1));
    stream.create(WatchCreate { start_revision: 2, ..watch("k", "") }).unwrap();
    let begun = Instant::now();
    let output = loop {
        if let Some(output) = glance(&mut stream) {
            break output;
        }
        assert!(begun.elapsed() < PATIENCE, "history is begun again with every request");
        assert!(world.hub.readers().running() <= 1, "a read that nobody waits for goes on beside the next");
        let id = stream.create(watch("other", "")).unwrap().watch_id;
        assert!(stream.cancel(id));
        tokio::task::yield_now().await;
    };
    assert_eq!(events(&output), [(newest, "k".to_owned())]);
}

#[tokio::test]
async fn streams_whose_readers_are_slow_hold_no_more_than_the_budget_and_a_little_each() {
    let mut world = World::new(100);
    let _other = world.hub.open_stream(Source::numbered(1));
    for _ in 0..800 {
        world.put("k", &"x".repeat(10 << 10)).await;
    }
    // Each would look up 4 MiB, and takes one message of it.
    let mut asleep = Vec::new();
    for _ in 0..64 {
        let mut stream = world.hub.open_stream(Source::numbered(2));
        stream.create(WatchCreate { start_revision: 2, ..watch("k", "") }).unwrap();
        next(&mut stream).await;
        asleep.push(stream);
        let most = WATCH_BYTES + asleep.len() * (WATCH_LEAST_BYTES + (32 << 10));
        assert!(world.hub.memory().taken() <= most, "{} of {most}", world.hub.memory().taken());
    }
    assert!(world.hub.memory().taken() > WATCH_BYTES / 2, "they hold something");
    // Whoever comes now is served in small steps.
    let mut stream = world.hub.open_stream(Source::numbered(3));
    stream.create(WatchCreate { start_revision: 2, ..watch("k", "") }).unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&801) {
        seen.extend(events(&next(&mut stream).await).into_iter().map(|(revision, _)| revision));
    }
    assert_eq!(seen, (2..=801).collect::<Vec<i64>>());
    drop((stream, asleep));
    assert_eq!(world.hub.memory().taken(), 0);
}

/// Another thread reads a revision and begins to watch, from it or from now on: it misses nothing, is told nothing twice,
/// and nothing that it cannot read.
#[tokio::test]
async fn a_thread_that_read_a_revision_watches_from_there_without_a_gap() {
    for ring_bytes in [200, 1 << 20] {
        let mut world = World::new(ring_bytes);
        // Of revision 1 there is no event.
        world.put("k", "0").await;
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (store, hub, stopped) = (world.store.clone(), world.hub.clone(), stop.clone());
        let watching = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut rounds = 0;
                while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                    let mut stream = hub.open_stream(Source::numbered(4));
                    let read = store.revision();
                    let from_read = WatchCreate { start_revision: read, watch_id: 7, ..watch("k", "") };
                    let created = stream.create(from_read).unwrap();
                    assert!(created.revision >= read, "the hub is behind what was read: {created:?} < {read}");
                    let now = stream.create(WatchCreate { watch_id: 8, ..watch("k", "") }).unwrap();
                    let mut next = BTreeMap::from([(7, read), (8, now.revision + 1)]);
                    while next[&7] < read + 20 && !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                        let message = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
                        let Ok(message) = message else { continue };
                        for (revision, _) in events(&message) {
                            assert!(revision <= store.revision(), "told of {revision}, which cannot be read");
                            let expected = next.get_mut(&message.watch_id).unwrap();
                            assert_eq!(revision, *expected, "watcher {} read {read}", message.watch_id);
                            *expected += 1;
                        }
                    }
                    rounds += 1;
                }
                rounds
            })
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            world.put("k", "v").await;
            tokio::task::yield_now().await;
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(watching.join().expect("no gap, nothing twice, nothing early") > 1);
    }
}

/// Random writers, watchers and pauses: each watcher must have seen exactly the matching events, once and in order.
#[tokio::test]
async fn every_watcher_sees_every_matching_event_once_and_in_order() {
    for seed in 0..40u64 {
        let mut random = SmallRng::seed_from_u64(seed);
        // Small rings force every path: live, ring, history.
        let mut world = World::new([200, 2_000, 1 << 20][seed as usize % 3]);
        let mut all: Vec<(i64, String)> = Vec::new();
        let mut streams: Vec<WatchStream> = (0..3).map(|_| world.hub.open_stream(Source::numbered(1))).collect();
        let mut wanted: BTreeMap<(usize, i64), (WatchCreate, i64)> = BTreeMap::new();
        let mut seen: BTreeMap<(usize, i64), Vec<(i64, String)>> = BTreeMap::new();
        for _ in 0..300 {
            match random.random_range(0..12) {
                10.. => {
                    // Leaves a step of history on its way, which the next watchers are not part of.
                    let at = random.random_range(0..streams.len());
                    if let Some(output) = glance(&mut streams[at]) {
                        seen.entry((at, output.watch_id)).or_default().extend(events(&output));
                    }
                }
                0..7 => {
                    let key = ["a", "ab", "b", "c"][random.random_range(0..4)];
                    let revision = world.put(key, "v").await;
                    all.push((revision, key.to_owned()));
                }
                7 => {
                    let at = random.random_range(0..streams.len());
                    let (key, end) = [("a", ""), ("a", "b"), ("a", "\0"), ("b", "")][random.random_range(0..4)];
                    let start_revision = random.random_range(0..=world.store.revision() + 3);
                    let create = WatchCreate { start_revision, ..watch(key, end) };
                    let created = streams[at].create(create.clone()).unwrap();
                    let from = if start_revision == 0 { created.revision + 1 } else { start_revision };
                    wanted.insert((at, created.watch_id), (create, from));
                }
                _ => {
                    let at = random.random_range(0..streams.len());
                    drain(&mut streams[at], at, &mut seen, Duration::from_millis(1)).await;
                }
            }
        }
        let expected = |(create, from): &(WatchCreate, i64)| -> Vec<(i64, String)> {
            let matches = |(revision, key): &&(i64, String)| revision >= from && create.range.contains(key.as_bytes());
            all.iter().filter(matches).cloned().collect()
        };
        let begun = Instant::now();
        for (at, stream) in streams.iter_mut().enumerate() {
            let of_stream = || wanted.iter().filter(|((stream, _), _)| *stream == at);
            let count: usize = of_stream().map(|(_, wanted)| expected(wanted).len()).sum();
            let got = |seen: &BTreeMap<_, Vec<_>>| of_stream().filter_map(|(id, _)| Some(seen.get(id)?.len())).sum();
            while begun.elapsed() < PATIENCE && count > got(&seen) {
                drain(stream, at, &mut seen, Duration::from_millis(20)).await;
            }
            // And whether more comes than there is.
            drain(stream, at, &mut seen, Duration::from_millis(100)).await;
        }
        for (watcher, wanted) in &wanted {
            let expected = expected(wanted);
            assert_eq!(seen.remove(watcher).unwrap_or_default(), expected, "watcher {watcher:?} of seed {seed}");
        }
        assert!(seen.is_empty(), "messages for unknown watchers: {seen:?}");
    }
}

async fn drain(
    stream: &mut WatchStream,
    at: usize,
    seen: &mut BTreeMap<(usize, i64), Vec<(i64, String)>>,
    patience: Duration,
) {
    while let Ok(output) = tokio::time::timeout(patience, stream.next()).await {
        assert!(!output.canceled);
        seen.entry((at, output.watch_id)).or_default().extend(events(&output));
    }
}
