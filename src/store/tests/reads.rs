//! What readers see while apply writes, what they hold back, and what the sinks hear.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::{Entry as RaftEntry, EntryPayload};
use parking_lot::Mutex;
use prost::Message;

use super::{apply, compact, delete, entry, open, put};
use crate::model::command::Command;
use crate::model::view::{KeyRange, View};
use crate::proto::{etcdserverpb as pb, mvccpb};
use crate::raft::types::{Membership, TypeConfig};
use crate::store::records::log_id;
use crate::store::{Batch, EventSink, HistoryError, Store};

/// One transaction that sets both keys, or deletes both.
fn pair(value: Option<u64>) -> Command {
    use pb::request_op::Request;
    let one = |key: &'static [u8]| match value {
        Some(value) => {
            let value = value.to_string().into();
            Request::RequestPut(pb::PutRequest { key: Bytes::from_static(key), value, ..Default::default() })
        }
        None => {
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key: Bytes::from_static(key), ..Default::default() })
        }
    };
    let success = [one(b"x"), one(b"y")].map(|request| pb::RequestOp { request: Some(request) }).into();
    Command::Txn(pb::TxnRequest { success, ..Default::default() })
}

fn check_pair(store: &Store) {
    let view = store.view();
    let read = |key: &[u8]| view.get(key).unwrap().map(|record| record.decode().unwrap());
    let (x, y) = (read(b"x"), read(b"y"));
    assert_eq!(x.as_ref().map(|kv| (&kv.value, kv.mod_revision)), y.as_ref().map(|kv| (&kv.value, kv.mod_revision)));
    assert!(x.is_none_or(|kv| kv.mod_revision <= view.revision()));
    let range = KeyRange::Span { start: "x".into(), end: Some("z".into()) };
    let mut scanned = Vec::new();
    view.scan(&range, &mut |record| {
        scanned.push(record.decode().unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(scanned, [read(b"x"), read(b"y")].into_iter().flatten().collect::<Vec<_>>());
    assert_eq!(view.count(&range).unwrap(), scanned.len() as i64);
}

#[tokio::test]
async fn readers_on_other_threads_always_see_whole_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, done) = (store.clone(), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Ordering::Acquire) {
                    check_pair(&store);
                }
            })
        })
        .collect();
    let mut index = 0;
    for round in 0u64..300 {
        let mut entries = Vec::new();
        for step in 0..5 {
            let command = match (round + step) % 4 {
                3 => pair(None),
                _ => pair(Some(round * 10 + step)),
            };
            entries.push(entry(index, command));
            index += 1;
        }
        if round % 7 == 0 {
            entries.push(entry(index, compact(store.revision())));
            index += 1;
        }
        apply(&mut machine, entries).await;
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        reader.join().unwrap();
    }
}

#[tokio::test]
async fn an_open_view_keeps_the_versions_it_may_read() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    apply(&mut machine, [entry(0, put(b"k", b"old")), entry(1, put(b"k", b"new"))]).await;
    let view = store.view();
    apply(&mut machine, [entry(2, compact(3))]).await;
    let dropped = store.compacted_physically(3);
    tokio::pin!(dropped);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut dropped).await.is_err());
    let old = view.get_at(b"k", 2).unwrap().unwrap().decode().unwrap();
    assert_eq!(old.value, Bytes::from_static(b"old"));
    drop(view);
    dropped.await;
    assert_eq!(store.view().compacted(), 3);
}

#[tokio::test]
async fn history_ends_at_its_byte_limit_but_never_inside_a_revision() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let entries = [pair(Some(1)), put(b"k", b"v"), delete(b"k"), compact(3)];
    apply(&mut machine, (0..).zip(entries).map(|(index, command)| entry(index, command))).await;
    let collect = |from, limit| {
        let mut found = Vec::new();
        let last = store.history(from, 100, limit, &|_| true, &mut |event| {
            found.push(event.revision);
            ControlFlow::Continue(())
        });
        last.map(|last| (last, found))
    };
    assert!(matches!(collect(2, 1), Err(HistoryError::Compacted(3))));
    assert_eq!(collect(3, 1).unwrap(), (3, vec![3]));
    assert_eq!(collect(3, usize::MAX).unwrap(), (4, vec![3, 4]));
    assert_eq!(collect(5, usize::MAX).unwrap(), (4, vec![]));
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Arc<Batch>>>);

impl EventSink for Recorder {
    fn publish(&self, batch: &Arc<Batch>) {
        self.0.lock().push(Arc::clone(batch));
    }
}

#[tokio::test]
async fn sinks_hear_each_batch_with_wire_ready_events() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let recorder = Arc::new(Recorder::default());
    store.subscribe(recorder.clone());
    apply(&mut machine, [entry(0, put(b"k", b"1")), entry(1, put(b"k", b"2")), entry(2, delete(b"k"))]).await;
    apply(&mut machine, [entry(3, delete(b"k"))]).await;
    let batches = recorder.0.lock();
    let [batch, empty] = batches.as_slice() else { panic!("two batches, got {}", batches.len()) };
    assert_eq!((batch.changes[0].0, batch.last, batch.applied_term), (2, 4, 1));
    assert_eq!((empty.last, empty.events().len()), (4, 0));
    let events: Vec<_> = batch.events().iter().map(|e| mvccpb::Event::decode(e.event.clone()).unwrap()).collect();
    let kv = |event: &mvccpb::Event| event.kv.clone().unwrap();
    assert_eq!((kv(&events[1]).value, kv(&events[1]).version), (Bytes::from_static(b"2"), 2));
    assert_eq!((events[2].r#type, kv(&events[2]).mod_revision), (1, 4));
    let prev = mvccpb::KeyValue::decode(batch.events()[2].prev.clone().unwrap()).unwrap();
    assert_eq!(prev, kv(&events[1]));
    assert!(batch.events().iter().all(|event| event.key == "k"));
}

#[tokio::test]
async fn ids_that_left_the_membership_are_remembered_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let membership = |index, ids: &[u64]| -> openraft::type_config::alias::EntryOf<TypeConfig> {
        let ids: BTreeSet<u64> = ids.iter().copied().collect();
        let membership = Membership::new_with_defaults(vec![ids], []);
        RaftEntry { log_id: log_id((1, index)), payload: EntryPayload::Membership(membership) }
    };
    apply(&mut machine, [membership(0, &[1, 2, 3]), membership(1, &[1, 3])]).await;
    apply(&mut machine, [membership(2, &[1])]).await;
    assert_eq!(store.removed(), [2, 3].into());
    assert_eq!(store.revision(), 1, "membership entries take no revision");
    drop((store, machine));
    let (store, _machine) = open(dir.path());
    assert_eq!(store.removed(), [2, 3].into());
    assert_eq!(*store.membership().log_id(), Some(log_id((1, 2))));
}

#[tokio::test]
async fn the_size_behaves_like_a_file_that_keeps_history() {
    const QUOTA: u64 = 53_248;
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let fresh = store.size();
    assert!(fresh.allocated > 0 && fresh.allocated < QUOTA, "{fresh:?}");
    let mut index = 0;
    while store.size().allocated < QUOTA {
        assert!(index < 20, "the quota trips soon");
        apply(&mut machine, [entry(index, put(b"k", &[7; 4096]))]).await;
        index += 1;
    }
    let full = store.size();
    apply(&mut machine, [entry(index, compact(store.revision()))]).await;
    store.compacted_physically(store.revision()).await;
    let compacted = store.size();
    assert_eq!(compacted.allocated, full.allocated, "compaction alone gives nothing back");
    assert!(compacted.in_use < full.in_use - 3 * 4096, "{compacted:?} against {full:?}");
    store.defragment().await.unwrap();
    let packed = store.size();
    assert!(packed.allocated < QUOTA - 4096, "{packed:?}");
    drop((store, machine));
    assert_eq!(open(dir.path()).0.size(), packed);
}

#[tokio::test]
async fn waiting_for_an_applied_index_ends_when_it_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move {
            store.wait_applied(1).await;
            store.revision()
        })
    };
    apply(&mut machine, [entry(0, put(b"a", b""))]).await;
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    apply(&mut machine, [entry(1, put(b"b", b""))]).await;
    assert_eq!(waiting.await.unwrap(), 3);
    store.wait_applied(0).await;
}
