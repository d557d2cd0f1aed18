//! What holds while the log is open.

use std::sync::Arc;

use futures::StreamExt;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use parking_lot::Mutex;

use super::super::wal::{Operation, Wal};
use super::*;
use crate::raft::types::{TypeConfig, Vote};

#[tokio::test]
async fn entries_can_be_read_from_memory_and_from_every_segment_and_again_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, watermark) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..300, 500).await;
    assert_eq!(watermark.durable(), 299);
    assert!(segments(dir.path()).len() > 5, "the test must span segments");
    assert_holds(&mut store, 1, 0..300, 500).await;
    drop((store, watermark));
    let (mut store, watermark) = open(dir.path(), small()).expect("opens");
    assert_eq!(watermark.durable(), 299);
    assert_holds(&mut store, 1, 0..300, 500).await;
    append(&mut store, 1, 300..310, 500).await;
    assert_holds(&mut store, 1, 0..310, 500).await;
}

#[tokio::test]
async fn a_limited_read_returns_some_entries_in_order_and_never_starts_late() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..100, 300).await;
    let mut next = 0;
    while next < 100 {
        let part = store.limited_get_log_entries(next, 100).await.expect("reads");
        assert!(!part.is_empty() && part.len() < 30, "{} entries at {next}", part.len());
        for entry in part {
            assert_eq!(entry.log_id.index, next);
            next += 1;
        }
    }
    store.purge(log_id(1, 50)).await.expect("purges");
    assert!(store.limited_get_log_entries(50, 60).await.expect("reads").is_empty());
    let all: Vec<u64> =
        store.entries_stream(0..1000).await.map(|entry| entry.expect("reads").log_id.index).collect().await;
    assert_eq!(all, (51..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_truncated_tail_is_replaced_and_stays_replaced_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, watermark) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..200, 300).await;
    store.truncate_after(Some(log_id(1, 49))).await.expect("truncates");
    assert_eq!(watermark.durable(), 49);
    assert_holds(&mut store, 1, 0..50, 300).await;
    append(&mut store, 2, 50..120, 200).await;
    drop(store);
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    let entries = read(&mut store, 0..1000).await;
    let expected: Vec<Entry> =
        (0..50).map(|index| entry(1, index, 300)).chain((50..120).map(|index| entry(2, index, 200))).collect();
    assert_eq!(entries, expected);
    store.truncate_after(None).await.expect("truncates");
    assert_eq!(state(&mut store).await, (None, None));
    append(&mut store, 3, 0..5, 8).await;
    drop(store);
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    assert_holds(&mut store, 3, 0..5, 8).await;
}

#[tokio::test]
async fn purged_segments_go_and_their_files_are_used_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    store.save_vote(&Vote::new_committed(7, 3)).await.expect("saves");
    for round in 0..20 {
        append(&mut store, 7, round * 100..(round + 1) * 100, 300).await;
        store.purge(log_id(7, round * 100 + 90)).await.expect("purges");
    }
    append(&mut store, 7, 2000..2001, 300).await;
    drop(store);
    let left = fs::read_dir(dir.path()).expect("a readable directory").count();
    assert!(left <= 7, "{left} files are left of about 45 segments");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    assert_eq!(state(&mut store).await, (Some(log_id(7, 1990)), Some(log_id(7, 2000))));
    assert_eq!(store.read_vote().await.expect("reads"), Some(Vote::new_committed(7, 3)), "it was in a purged segment");
    assert_holds(&mut store, 7, 1991..2001, 300).await;
}

#[tokio::test]
async fn purging_past_the_end_is_remembered() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, watermark) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..50, 300).await;
    store.purge(log_id(4, 1000)).await.expect("purges");
    append(&mut store, 4, 1001..1010, 300).await;
    assert_eq!(watermark.durable(), 1009);
    drop(store);
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    assert_eq!(state(&mut store).await, (Some(log_id(4, 1000)), Some(log_id(4, 1009))));
    assert_holds(&mut store, 4, 1001..1010, 300).await;
}

#[tokio::test]
async fn a_gap_is_refused_and_the_caller_is_told_through_both_ways() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    append(&mut store, 2, 0..3, 8).await;
    for wrong in [entry(2, 4, 8), entry(2, 2, 8), entry(1, 3, 8)] {
        let (done, told) = TypeConfig::oneshot();
        let refused = store.append([entry(2, 3, 8), entry(2, 4, 8), wrong], IOFlushed::signal(done)).await;
        assert!(refused.expect_err("refused").to_string().contains("does not follow"));
        assert!(told.await.expect("told").is_err());
        assert_eq!(state(&mut store).await.1, Some(log_id(2, 2)), "a refused batch leaves nothing behind");
    }
    append(&mut store, 2, 3..4, 8).await;
}

#[tokio::test]
async fn everybody_is_told_once_in_the_order_of_the_calls_and_the_mark_is_there_first() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (store, watermark) = open(dir.path(), small()).expect("opens");
    let told = Arc::new(Mutex::new(Vec::new()));
    let wal: Arc<Wal> = store.wal();
    for index in 0..500 {
        let (told, watermark) = (told.clone(), watermark.clone());
        let done = Box::new(move |result: std::io::Result<()>| {
            result.expect("is written");
            assert!(watermark.durable() >= index);
            told.lock().push(index);
        });
        wal.submit(Some(done), |state| Ok(Some(Operation::Append(vec![state.push(entry(1, index, 64))?]))))
            .expect("submits");
    }
    watermark.wait(499).await;
    drop((store, wal));
    assert_eq!(*told.lock(), (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_killed_log_finds_its_vote_and_its_committed_hint() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..10, 100).await;
    store.save_vote(&Vote::new(9, 77)).await.expect("saves");
    store.save_committed(Some(log_id(1, 8))).await.expect("saves");
    // As a kill leaves it: the files as they are now, once the idle log has written its hint.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let copy = copy(dir.path());
        let (mut again, _) = open(copy.path(), small()).expect("opens");
        assert_eq!(again.read_vote().await.expect("reads"), Some(Vote::new(9, 77)));
        assert_eq!(state(&mut again).await.1, Some(log_id(1, 9)));
        if again.read_committed().await.expect("reads") == Some(log_id(1, 8)) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the hint never reached the file");
    }
}

#[tokio::test]
async fn the_ring_keeps_no_network_buffer_alive() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    let network = Bytes::from(vec![7; 1 << 20]);
    let slice = Entry { log_id: log_id(1, 0), payload: Payload::Normal(Proposal(network.slice(..10))) };
    store.blocking_append([slice]).await.expect("appends");
    assert!(network.is_unique(), "the appended entry still points into the buffer");
}
