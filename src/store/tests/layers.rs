//! History rows that point to the version before: what they save, what compaction keeps for them, and states from before
//! there were any.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use rocksdb::WriteBatch;

use super::{apply, compact, delete, entry, open, put, small};
use crate::model::command::Command;
use crate::model::view::View;
use crate::proto::etcdserverpb as pb;
use crate::store::keys::{self, Before, HistoryRow, meta};
use crate::store::{Machine, Store, StoreOptions, Watermark};

const LONG: usize = 200;

fn value(n: i64) -> Vec<u8> {
    let mut value = n.to_string().into_bytes();
    value.resize(LONG, b'.');
    value
}

/// Puts `k` at each of the revisions, one batch each; the value says the revision.
async fn put_at(machine: &mut Machine, revisions: std::ops::RangeInclusive<i64>) {
    for revision in revisions {
        apply(machine, [entry(revision as u64, put(b"k", &value(revision)))]).await;
    }
}

/// For each row of history, its revision and, if it points, where to.
fn rows(store: &Store) -> Vec<(i64, Option<i64>)> {
    let database = store.shared.database();
    let mut found = Vec::new();
    let mut rows = database.rows(keys::HISTORY, &[], None);
    while let Some((key, row)) = rows.item() {
        let (main, _) = keys::parse_revision(key).unwrap();
        let to = match HistoryRow::decode(row).unwrap().before {
            Some(Before::At { main, len }) => {
                assert!(len as usize > LONG);
                Some(main)
            }
            _ => None,
        };
        found.push((main, to));
        rows.next();
    }
    found
}

fn check_all_readable(store: &Store, from: i64, to: i64) {
    let view = store.view();
    for revision in from..=to {
        assert_eq!(view.get_at(b"k", revision).unwrap().unwrap().decode().unwrap().value, value(revision));
    }
    let mut next = from;
    store
        .history(from, to, usize::MAX, &|_| true, &mut |event| {
            let prev = event.prev.map(|prev| keys::mod_revision(&prev).unwrap());
            let readable = next > 2 && next > view.compacted();
            assert_eq!((event.revision, prev), (next, readable.then(|| next - 1)));
            next += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(next, to + 1);
}

#[tokio::test]
async fn a_row_points_to_the_version_before_instead_of_holding_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    put_at(&mut machine, 2..=40).await;
    let pointing: Vec<_> = rows(&store).into_iter().skip(1).collect();
    assert_eq!(pointing, (3..=40).map(|revision| (revision, Some(revision - 1))).collect::<Vec<_>>());
    check_all_readable(&store, 2, 40);
    // A short version is held: another read would cost more than its few bytes.
    apply(&mut machine, [entry(41, put(b"s", b"1")), entry(42, put(b"s", b"2"))]).await;
    assert_eq!(rows(&store).last(), Some(&(42, None)));
}

#[tokio::test]
async fn a_row_holds_the_version_before_if_that_lies_more_than_a_layer_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    apply(&mut machine, [entry(1, put(b"old", &value(0)))]).await;
    put_at(&mut machine, 3..=40).await;
    apply(&mut machine, [entry(41, put(b"old", &value(1)))]).await;
    assert_eq!(rows(&store).last(), Some(&(41, None)));
    assert_eq!(store.view().get_at(b"old", 40).unwrap().unwrap().decode().unwrap().value, value(0));
}

#[tokio::test]
async fn compaction_drops_history_but_for_what_is_pointed_to_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    put_at(&mut machine, 2..=100).await;
    apply(&mut machine, [entry(101, compact(60))]).await;
    store.defragment().await.unwrap();
    let first = rows(&store)[0].0;
    assert!((40..60).contains(&first), "history begins at {first}");
    check_all_readable(&store, 60, 100);
    let floor = store.shared.database().floor.load(std::sync::atomic::Ordering::Acquire);
    assert_eq!(first, floor);
    drop((store, machine));
    let (store, mut machine) = open(dir.path());
    assert_eq!(store.shared.database().floor.load(std::sync::atomic::Ordering::Acquire), floor);
    put_at(&mut machine, 102..=140).await;
    apply(&mut machine, [entry(141, compact(130))]).await;
    store.defragment().await.unwrap();
    assert!(rows(&store)[0].0 > 101);
    assert_eq!(store.view().get_at(b"k", 130).unwrap().unwrap().decode().unwrap().mod_revision, 130);
}

#[tokio::test]
async fn a_reader_that_stays_for_long_holds_back_the_compaction_and_no_other_housekeeping() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { flush_after_entries: 10, ..small() };
    let (store, mut machine) = crate::store::open(dir.path(), options, Watermark::already_durable()).unwrap();
    let tables = || {
        let files = std::fs::read_dir(store.shared.database().dir()).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "sst")).count()
    };
    put_at(&mut machine, 2..=60).await;
    let reading = store.view();
    apply(&mut machine, [entry(61, compact(50))]).await;
    let before = tables();
    // Entries come, and are flushed, while the compaction waits.
    let (end, mut next) = (std::time::Instant::now() + Duration::from_secs(60), 62);
    while tables() < before + 10 {
        assert!(std::time::Instant::now() < end, "nothing is flushed: {} tables", tables());
        put_at(&mut machine, next..=next).await;
        next += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(reading.get_at(b"k", 2).unwrap().unwrap().decode().unwrap().value, value(2));
    assert_eq!(rows(&store)[0].0, 2);
    drop(reading);
    store.defragment().await.unwrap();
    assert!(rows(&store)[0].0 > 2, "the compaction goes on when the reader is gone");
}

#[tokio::test]
async fn a_compaction_right_after_a_large_deletion_keeps_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let all = |n: i64| format!("k{n:03}").into_bytes();
    for n in 0..100 {
        apply(&mut machine, [entry(n as u64, put(&all(n), &value(n)))]).await;
    }
    let everything = pb::DeleteRangeRequest { key: "k".into(), range_end: "l".into(), prev_kv: false };
    apply(&mut machine, [entry(100, Command::DeleteRange(everything))]).await;
    assert_eq!(store.revision(), 102);
    apply(&mut machine, [entry(101, compact(102))]).await;
    store.defragment().await.unwrap();
    assert!(rows(&store).iter().all(|(at, _)| *at == 102), "only the deletion itself, which a watcher may ask for");
    apply(&mut machine, [entry(102, put(b"n", b"")), entry(103, compact(103))]).await;
    store.defragment().await.unwrap();
    assert_eq!(rows(&store), [(103, None)]);
}

#[tokio::test]
async fn a_member_that_restarts_often_drops_history_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let options = || StoreOptions { history_layer: 1 << 30, ..small() };
    for life in 0..10 {
        let (store, mut machine) = crate::store::open(dir.path(), options(), Watermark::already_durable()).unwrap();
        put_at(&mut machine, 2 + life * 10..=11 + life * 10).await;
        drop((store, machine));
    }
    let (store, mut machine) = crate::store::open(dir.path(), options(), Watermark::already_durable()).unwrap();
    check_all_readable(&store, 2, 101);
    apply(&mut machine, [entry(200, compact(85))]).await;
    store.defragment().await.unwrap();
    assert_eq!(rows(&store)[0].0, 72, "the life before the one that wrote what comes behind the compaction");
    check_all_readable(&store, 85, 101);
}

#[tokio::test]
async fn the_row_of_a_key_is_found_among_many_of_one_transaction() {
    use pb::request_op::Request;
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let key = |n: i64| format!("k{n}");
    let put = |n: i64| pb::PutRequest { key: key(n).into(), value: value(n).into(), ..Default::default() };
    let success = (0..3).map(|n| pb::RequestOp { request: Some(Request::RequestPut(put(n))) }).collect();
    let txn = Command::Txn(pb::TxnRequest { success, ..Default::default() });
    apply(&mut machine, [entry(1, txn), entry(2, super::put(key(2).as_bytes(), b"")), entry(3, delete(b"k1"))]).await;
    assert_eq!(rows(&store)[3..], [(3, Some(2)), (4, Some(2))]);
    for n in 1..3 {
        let before = store.view().get_at(key(n).as_bytes(), 2).unwrap().unwrap().decode().unwrap();
        assert_eq!(before.value, value(n));
    }
}

#[tokio::test]
async fn a_state_from_before_layers_is_opened_and_its_rows_are_pointed_to_by_none() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    put_at(&mut machine, 2..=9).await;
    {
        // What the program before this layout left: rows that hold everything, and no layers.
        let database = store.shared.database();
        let mut batch = WriteBatch::default();
        let (history, names) = (database.family(keys::HISTORY), database.family(keys::META));
        for revision in 3..=9 {
            let stored = database.get(keys::HISTORY, &keys::revision_key(revision, 0)).unwrap().unwrap();
            let row = HistoryRow::decode(&stored).unwrap();
            let before = database.image_before(&row).unwrap().unwrap();
            let mut whole = Vec::new();
            HistoryRow { before: Some(Before::Here(&before)), ..row }.encode(&mut whole);
            batch.put_cf(history, keys::revision_key(revision, 0), whole);
        }
        for layer in database.layers.lock().forget_all() {
            batch.delete_cf(names, keys::layer_key(layer.start));
        }
        batch.put_cf(names, meta::FORMAT, 1u32.to_be_bytes());
        database.write(batch).unwrap();
        database.flush().unwrap();
    }
    drop((store, machine));
    let (store, mut machine) = open(dir.path());
    let format = store.shared.database().get(keys::META, meta::FORMAT).unwrap();
    assert_eq!(format, Some(Bytes::copy_from_slice(&keys::FORMAT.to_be_bytes())));
    put_at(&mut machine, 10..=12).await;
    let pointing: Vec<_> = rows(&store).into_iter().filter_map(|(at, to)| Some((at, to?))).collect();
    assert_eq!(pointing, [(11, 10), (12, 11)]);
    check_all_readable(&store, 2, 12);
}

#[tokio::test]
async fn members_whose_layers_end_elsewhere_agree_on_size_and_hash() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [(one, mut first), (other, mut second)] = [open(dirs[0].path()), open(dirs[1].path())];
    put_at(&mut first, 2..=50).await;
    let entries = (2..=50).map(|revision| entry(revision as u64, put(b"k", &value(revision))));
    apply(&mut second, entries).await;
    assert_ne!(*one.shared.database().layers.lock(), *other.shared.database().layers.lock());
    for (store, machine) in [(&one, &mut first), (&other, &mut second)] {
        apply(machine, [entry(51, compact(30))]).await;
        store.defragment().await.unwrap();
    }
    assert_eq!(one.size(), other.size());
    assert_eq!(one.hash_kv(0).unwrap(), other.hash_kv(0).unwrap());
}
