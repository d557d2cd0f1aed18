//! Other threads read while batches are applied and while the state is replaced: what they read is known to the sinks
//! already, and what sinks are told of after the moment can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;
use prost::Message;

use super::snapshots::build;
use super::{apply, compact, entry, open, put};
use crate::model::command::{Command, LeaseGrant};
use crate::model::effects::LeaseChange;
use crate::model::v2;
use crate::model::v2::types::{Command as V2Command, Verb};
use crate::model::view::View;
use crate::store::{Batch, EventSink, Machine, Moment, Store};

/// A sink that knows what it was told, and checks what it can read when.
#[derive(Default)]
struct Witness {
    store: Mutex<Option<Store>>,
    revision: AtomicI64,
    compacted: AtomicI64,
    v2_index: AtomicU64,
    leases: Mutex<BTreeSet<i64>>,
    shown: AtomicU64,
}

impl Witness {
    fn of(store: &Store) -> Arc<Self> {
        let witness = Arc::new(Self::default());
        *witness.store.lock() = Some(store.clone());
        // The index of a tree that nothing was written to is not 0.
        witness.v2_index.store(v2::index(&store.view()).unwrap(), Ordering::SeqCst);
        store.subscribe(witness.clone());
        witness
    }

    fn read(&self) -> (i64, i64) {
        let store = self.store.lock().clone().expect("the test runs");
        (store.revision(), store.compacted())
    }
}

impl EventSink for Witness {
    fn subscribed(&self, revision: i64, compacted: i64) {
        self.revision.store(revision, Ordering::SeqCst);
        self.compacted.store(compacted, Ordering::SeqCst);
    }

    fn publish(&self, batch: &Arc<Batch>) {
        for change in &batch.leases {
            if let LeaseChange::Granted(lease) = change {
                self.leases.lock().insert(lease.id);
            }
        }
        self.revision.fetch_max(batch.last, Ordering::SeqCst);
        self.compacted.fetch_max(batch.compacted.unwrap_or(-1), Ordering::SeqCst);
        let last = batch.v2_events.last().and_then(|event| event.node.as_ref());
        self.v2_index.fetch_max(last.map_or(0, |node| node.modified), Ordering::SeqCst);
    }

    fn show(&self, batch: &Arc<Batch>, moment: Moment<'_>) {
        let (revision, compacted) = self.read();
        assert!(revision < batch.last || batch.changes.is_empty(), "readable before its moment");
        assert!(batch.compacted.is_none_or(|at| compacted < at), "compacted before its moment");
        moment.pass();
        let (revision, compacted) = self.read();
        assert_eq!(revision, batch.last, "not readable after its moment");
        assert!(batch.compacted.is_none_or(|at| compacted == at));
        self.shown.fetch_add(1, Ordering::SeqCst);
    }

    fn reset(&self, revision: i64, compacted: i64, moment: Moment<'_>) {
        assert!(self.read().0 < revision, "another state before its moment");
        self.revision.fetch_max(revision, Ordering::SeqCst);
        self.compacted.fetch_max(compacted, Ordering::SeqCst);
        self.v2_index.store(u64::MAX, Ordering::SeqCst);
        self.leases.lock().extend(0..10_000);
        moment.pass();
        assert_eq!(self.read(), (revision, compacted));
        self.shown.fetch_add(1, Ordering::SeqCst);
    }
}

/// Reads until told to stop, and compares with what the witness knows. Returns how often, and how much it saw change.
fn watch_over(store: &Store, witness: &Witness, stop: &AtomicBool) -> (u64, usize) {
    let (mut rounds, mut seen) = (0, BTreeSet::new());
    while !stop.load(Ordering::SeqCst) {
        let compacted = store.compacted();
        assert!(compacted <= witness.compacted.load(Ordering::SeqCst), "an unknown compaction can be read");
        let revision = store.view().revision();
        assert!(revision <= witness.revision.load(Ordering::SeqCst), "an unknown revision can be read");
        let index = v2::index(&store.view()).unwrap();
        assert!(index <= witness.v2_index.load(Ordering::SeqCst), "an unknown index of v2 can be read");
        let leases = store.leases().unwrap();
        let known = witness.leases.lock();
        assert!(leases.iter().all(|lease| known.contains(&lease.id)), "an unknown lease can be read");
        seen.insert(revision);
        rounds += 1;
    }
    (rounds, seen.len())
}

fn set(key: &str) -> Command {
    let command = V2Command { verb: Verb::Set as i32, path: key.to_owned().into(), ..V2Command::default() };
    Command::V2(command.encode_to_vec().into())
}

fn change(index: u64) -> Command {
    match index % 4 {
        0 => Command::LeaseGrant(LeaseGrant { id: index as i64 + 1, ttl: 60 }),
        1 => set("/a"),
        2 if index % 64 == 62 => compact(index as i64 / 8),
        _ => put(b"k", &index.to_be_bytes()),
    }
}

async fn changes(machine: &mut Machine, range: std::ops::Range<u64>) {
    for index in range {
        apply(machine, [entry(index, change(index))]).await;
    }
}

/// Runs readers on threads of their own beside `work`.
async fn beside_readers(store: &Store, witness: &Arc<Witness>, work: impl Future<Output = ()>) -> BTreeMap<usize, u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let readers = (0..2).map(|_| {
        let (store, witness, stop) = (store.clone(), witness.clone(), stop.clone());
        std::thread::spawn(move || watch_over(&store, &witness, &stop))
    });
    let readers: Vec<_> = readers.collect();
    work.await;
    stop.store(true, Ordering::SeqCst);
    let seen = readers.into_iter().map(|reader| reader.join().expect("what is readable is known"));
    *witness.store.lock() = None;
    seen.map(|(rounds, seen)| (seen, rounds)).collect()
}

#[tokio::test]
async fn whatever_another_thread_reads_is_known_to_the_sinks() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (store, mut machine) = open(dir.path());
    let witness = Witness::of(&store);
    let seen = beside_readers(&store, &witness, async {
        let mut next = 0;
        // Until readers and batches have met often, however few processors there are.
        while next < 20_000 {
            changes(&mut machine, next..next + 100).await;
            next += 100;
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(witness.shown.load(Ordering::SeqCst), 20_000);
    assert!(seen.keys().all(|seen| *seen > 1), "the readers saw nothing change: {seen:?}");
}

#[tokio::test]
async fn a_replaced_state_is_known_to_the_sinks_when_another_thread_reads_it() {
    let (ahead, behind) = (tempfile::tempdir_in("/dev/shm").unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let (_leader, mut leading) = open(ahead.path());
    let (store, mut machine) = open(behind.path());
    changes(&mut machine, 0..100).await;
    let witness = Witness::of(&store);
    witness.leases.lock().extend(0..100);
    witness.v2_index.store(u64::MAX, Ordering::SeqCst);
    let mut next = 0;
    let _seen = beside_readers(&store, &witness, async {
        for _ in 0..20 {
            changes(&mut leading, next..next + 200).await;
            next += 200;
            let snapshot = build(&mut leading).await;
            machine.install_snapshot(&snapshot.meta().clone(), snapshot).await.unwrap();
        }
    })
    .await;
    assert_eq!(witness.shown.load(Ordering::SeqCst), 20);
}
