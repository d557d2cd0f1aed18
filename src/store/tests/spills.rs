//! The border between the tail in memory and the families it is spilled into: wherever it lies, and whatever a crash
//! leaves of a spill, reads at every revision are the same.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rocksdb::{DB, Options, WriteBatch};

use super::{apply, compact, crash_copy, delete, entry, open, put, small};
use crate::model::record::Record;
use crate::model::view::{KeyRange, View};
use crate::raft::types::Entry;
use crate::store::database::walk;
use crate::store::keys::{self, meta};
use crate::store::{Machine, Store, StoreError, StoreOptions, TailLimits, Watermark};

const KEYS: [&[u8]; 4] = [b"k0", b"k1", b"k2", b"k3"];

/// A store that spills only when it is told to.
fn open_unspilled(dir: &Path) -> (Store, Machine) {
    let tail = TailLimits { changes: usize::MAX, bytes: usize::MAX, history: usize::MAX };
    let options = StoreOptions { tail, ..small() };
    crate::store::open(dir, options, Watermark::already_durable()).unwrap()
}

/// Puts and deletes of a few keys.
fn log(from: u64, to: u64) -> Vec<Entry> {
    let command = |index: u64| match index % 7 {
        6 => delete(KEYS[(index / 7) as usize % KEYS.len()]),
        _ => put(KEYS[index as usize % KEYS.len()], format!("v{index}").as_bytes()),
    };
    (from..to).map(|index| entry(index, command(index))).collect()
}

type Seen = (Vec<Option<Record>>, Vec<Record>, i64);

/// Everything a view can answer at `revision`.
fn seen(view: &impl View, revision: i64) -> Seen {
    let all = KeyRange::Span { start: "k".into(), end: None };
    let mut scanned = Vec::new();
    view.scan_at(&all, revision, &mut |record| {
        scanned.push(record);
        ControlFlow::Continue(())
    })
    .unwrap();
    let got = KEYS.iter().map(|key| view.get_at(key, revision).unwrap()).collect();
    (got, scanned, view.count(&all).unwrap())
}

/// Answers at every revision that is not compacted, and the hash of all of history.
fn everything(store: &Store) -> (Vec<Seen>, u32) {
    let view = store.view();
    let revisions = view.compacted().max(1)..=view.revision();
    (revisions.map(|revision| seen(&view, revision)).collect(), store.hash_kv(0).unwrap().hash)
}

fn indexed(store: &Store) -> i64 {
    store.shared.database().marks.indexed.load(Ordering::SeqCst)
}

#[tokio::test]
async fn reads_are_the_same_wherever_the_border_lies() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (reference, mut applied) = open_unspilled(whole.path());
    let (store, mut machine) = open_unspilled(cut.path());
    for piece in log(0, 60).chunks(4) {
        apply(&mut applied, piece.to_vec()).await;
        apply(&mut machine, piece.to_vec()).await;
        store.shared.database().spill_until(store.revision()).unwrap();
        assert_eq!(indexed(&store), store.revision());
        assert_eq!(everything(&store), everything(&reference));
    }
    assert_eq!(indexed(&reference), 1);
    drop((store, machine));
    let (store, _machine) = open(cut.path());
    assert_eq!(everything(&store), everything(&reference));
}

#[tokio::test]
async fn what_history_points_to_is_kept_as_long_as_what_points() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (reference, mut applied) = open_unspilled(whole.path());
    let (store, mut machine) = open_unspilled(cut.path());
    let mut layers = Vec::new();
    for (at, piece) in log(0, 120).chunks(9).enumerate() {
        apply(&mut applied, piece.to_vec()).await;
        apply(&mut machine, piece.to_vec()).await;
        let database = store.shared.database();
        // A freeze, and its spill only after further changes.
        if at % 2 == 0 {
            assert!(database.tail.freeze())
        } else {
            database.spill().unwrap()
        };
        layers.push(store.revision());
    }
    let pointers = {
        let (database, mut pointers) = (reference.shared.database(), 0);
        walk(database.rows(keys::HISTORY, &[], None), &mut |_, row| {
            let row = keys::HistoryRow::decode(row).unwrap();
            pointers += usize::from(matches!(row.before, Some(keys::Before::At(..))));
            ControlFlow::Continue(())
        })
        .unwrap();
        pointers
    };
    assert!(pointers > 60, "only {pointers} rows of 120 point");
    for (index, floor) in (120..).zip((3..store.revision()).step_by(4)) {
        for machine in [&mut applied, &mut machine] {
            apply(machine, [entry(index, compact(floor))]).await;
        }
        store.compacted_physically(floor).await;
        store.defragment().await.unwrap();
        assert_eq!(everything(&store), everything(&reference), "compacted to {floor}, layers end at {layers:?}");
    }
    let database = store.shared.database();
    let kept = database.rows(keys::HISTORY, &[], None).key().map(|key| keys::parse_revision(key).unwrap().0);
    assert!(kept.is_none_or(|first| first > 60), "history from {kept:?} on was kept though two layers are enough");
    drop((database, store, machine));
    let (store, _machine) = open(cut.path());
    assert_eq!(everything(&store), everything(&reference));
}

/// Writes live versions and index rows as a spill does, but only of the first `keys` keys, and not the mark.
fn spill_partly(store: &Store, keys: usize) {
    let database = store.shared.database();
    assert!(database.tail.freeze());
    let layer = database.tail.unspilled().unwrap();
    let (mut batch, mut at) = (WriteBatch::default(), 0);
    layer
        .each(&mut |key, live, changes| {
            if at < keys {
                match live {
                    Some(record) => batch.put_cf(database.family(keys::LATEST), key, record.bytes()),
                    None => batch.delete_cf(database.family(keys::LATEST), key),
                }
                let (mut row, mut earlier) = (Vec::new(), Vec::new());
                let ((main, sub), before) = changes.split_last().unwrap();
                keys::version_key(key, *main, *sub, &mut row);
                keys::version_row(before, &mut earlier);
                batch.put_cf(database.family(keys::VERSIONS), &row, &earlier);
            }
            at += 1;
            Ok::<(), StoreError>(())
        })
        .unwrap();
    assert!(at >= keys);
    database.write(batch).unwrap();
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_spill_loses_and_invents_nothing() {
    for spilled in 0..=KEYS.len() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut machine) = open_unspilled(dir.path());
        apply(&mut machine, log(0, 20)).await;
        store.shared.database().spill_until(store.revision()).unwrap();
        apply(&mut machine, log(20, 45)).await;
        spill_partly(&store, spilled);
        store.shared.database().flush().unwrap();
        let crashed = tempfile::tempdir().unwrap();
        crash_copy(dir.path(), crashed.path());
        let (after, mut again) = open_unspilled(crashed.path());
        assert!(indexed(&after) < after.revision());
        assert_eq!(everything(&after), everything(&store), "{spilled} keys spilled");
        // The second spill repeats, with other runs, what the first one wrote.
        apply(&mut again, log(45, 60)).await;
        after.shared.database().spill_until(after.revision()).unwrap();
        apply(&mut machine, log(45, 60)).await;
        assert_eq!(everything(&after), everything(&store), "{spilled} keys spilled twice");
    }
}

#[tokio::test]
async fn history_goes_only_after_what_is_made_of_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open_unspilled(dir.path());
    apply(&mut machine, log(0, 40)).await;
    assert_eq!(indexed(&store), 1, "nothing is spilled");
    apply(&mut machine, [entry(40, compact(30))]).await;
    store.compacted_physically(30).await;
    let crashed = tempfile::tempdir().unwrap();
    crash_copy(dir.path(), crashed.path());
    let (after, _machine) = open_unspilled(crashed.path());
    assert!(indexed(&after) >= 30);
    assert_eq!(everything(&after), everything(&store));
    store.defragment().await.unwrap();
    assert_eq!(everything(&after), everything(&store), "and merged away");
}

#[tokio::test]
async fn history_that_the_tail_needs_and_lacks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open_unspilled(dir.path());
    apply(&mut machine, (0..9).map(|index| entry(index, put(b"k", b"v")))).await;
    drop((store, machine));
    for lost in [2, 5, 10] {
        let damaged = tempfile::tempdir().unwrap();
        crash_copy(dir.path(), damaged.path());
        let engine = damaged.path().join("state/g-00000001");
        let db = DB::open_cf(&Options::default(), &engine, keys::FAMILIES).unwrap();
        db.delete_cf(db.cf_handle(keys::HISTORY).unwrap(), keys::revision_key(lost, 0)).unwrap();
        drop(db);
        let refused = crate::store::open(damaged.path(), small(), Watermark::already_durable()).err();
        let message = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains("history"), "without revision {lost}: {message:?}");
    }
}

#[tokio::test]
async fn a_state_of_the_first_format_reads_on() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open_unspilled(dir.path());
    apply(&mut machine, log(0, 30)).await;
    let database = store.shared.database();
    database.spill_until(store.revision()).unwrap();
    // One index row per revision, no mark, the old number.
    let mut batch = WriteBatch::default();
    let all: (&[u8], &[u8]) = (b"", b"\xff\xff");
    batch.delete_range_cf(database.family(keys::VERSIONS), all.0, all.1);
    for row in history(&store) {
        let mut key = Vec::new();
        keys::version_key(&row.1, row.0, 0, &mut key);
        batch.put_cf(database.family(keys::VERSIONS), &key, []);
    }
    batch.delete_cf(database.family(keys::META), meta::INDEXED);
    batch.put_cf(database.family(keys::META), meta::FORMAT, 1u32.to_be_bytes());
    let expected = everything(&store);
    database.write(batch).unwrap();
    drop((database, store, machine));
    let (store, mut machine) = open_unspilled(dir.path());
    assert_eq!(everything(&store), expected);
    apply(&mut machine, log(30, 40)).await;
    let expected = everything(&store);
    drop((store, machine));
    let (store, _machine) = open_unspilled(dir.path());
    assert_eq!(everything(&store), expected, "and is of the new format from then on");
}

fn history(store: &Store) -> Vec<(i64, Bytes)> {
    let mut found = Vec::new();
    store
        .history(1, i64::MAX - 1, usize::MAX, &mut |event| {
            found.push((event.revision, event.key));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[tokio::test]
async fn a_view_reads_its_revision_while_layers_sink_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    apply(&mut machine, log(0, 20)).await;
    let view = store.view();
    let expected = seen(&view, view.revision());
    let done = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (done, store) = (Arc::clone(&done), store.clone());
        move || {
            while !done.load(Ordering::Acquire) {
                assert_eq!(seen(&view, view.revision()), expected);
                let newest = store.view();
                assert_eq!(seen(&newest, newest.revision()), seen(&newest, newest.revision()));
            }
        }
    });
    for piece in log(20, 2000).chunks(3) {
        apply(&mut machine, piece.to_vec()).await;
    }
    done.store(true, Ordering::Release);
    reader.join().unwrap();
    store.shared.database().spill_until(store.revision()).unwrap();
}
