//! A crash at any point leaves an applied entry's state, old or new, and what cannot be trusted is refused.

use std::fs;
use std::path::Path;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use rocksdb::{DB, Options};

use super::{apply, compact, crash_copy, delete, entry, open, put, small};
use crate::model::command::Command;
use crate::raft::types::Entry;
use crate::store::{Machine, SnapshotFiles, Store, StoreError, Watermark, keys};

/// A log of every kind of change, long enough to be cut in interesting places.
fn log() -> Vec<Entry> {
    let command = |index: u64| -> Command {
        match index % 10 {
            9 => compact(index as i64 / 2),
            8 => delete(b"k0"),
            step => put(format!("k{}", step % 3).as_bytes(), format!("v{index}").as_bytes()),
        }
    };
    (0..60).map(|index| entry(index, command(index))).collect()
}

fn reopened(dir: &Path) -> Result<(Store, Machine), StoreError> {
    crate::store::open(dir, small(), Watermark::already_durable())
}

fn next_index(store: &Store) -> usize {
    store.applied().map_or(0, |id| id.index as usize + 1)
}

#[tokio::test]
async fn after_a_crash_the_state_is_some_applied_entry_and_replay_completes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    for (at, piece) in log().chunks(7).enumerate() {
        apply(&mut machine, piece.to_vec()).await;
        if at == 3 {
            store.shared.database().flush().unwrap();
        }
        let crashed = tempfile::tempdir().unwrap();
        crash_copy(dir.path(), &crashed.path().join("member"));
        let (after, mut again) = reopened(&crashed.path().join("member")).unwrap();
        let (from, to) = (next_index(&after), next_index(&store));
        assert!(from <= to);
        apply(&mut again, log()[from..to].to_vec()).await;
        assert_eq!(after.hash_kv(0).unwrap(), store.hash_kv(0).unwrap());
        assert_eq!(after.hash().unwrap(), store.hash().unwrap());
        drop((after, again));
    }
}

#[tokio::test]
async fn nothing_a_snapshot_covers_is_lost_by_a_crash_right_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut machine) = open(dir.path());
    apply(&mut machine, log()).await;
    let snapshot = build(&mut machine).await;
    let crashed = tempfile::tempdir().unwrap();
    crash_copy(dir.path(), &crashed.path().join("member"));
    let (after, _machine) = reopened(&crashed.path().join("member")).unwrap();
    // Raft purges its log up to the snapshot's id: the state must be there by itself.
    assert!(after.applied() >= snapshot.meta().last_log_id);
}

async fn build(machine: &mut Machine) -> SnapshotFiles {
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap().snapshot
}

/// A leader with a snapshot, and a member that is behind it.
async fn leader_and_laggard() -> ((Store, SnapshotFiles, tempfile::TempDir), tempfile::TempDir) {
    let (ahead, behind) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, mut machine) = open(ahead.path());
    apply(&mut machine, log()).await;
    let snapshot = build(&mut machine).await;
    let (_laggard, mut machine) = open(behind.path());
    apply(&mut machine, log()[..9].to_vec()).await;
    ((leader, snapshot, ahead), behind)
}

#[tokio::test]
async fn a_crash_between_the_arrival_of_a_snapshot_and_its_install_is_made_up_on_restart() {
    let ((leader, snapshot, _ahead), behind) = leader_and_laggard().await;
    crash_copy(snapshot.dir(), &behind.path().join("snap").join(snapshot.dir().file_name().unwrap()));
    let (store, mut machine) = reopened(behind.path()).unwrap();
    assert_eq!(next_index(&store), 9, "the old state counts until the install");
    // What openraft does at start when the snapshot is ahead of the state; twice, as it may after another crash.
    for _ in 0..2 {
        let found = machine.get_current_snapshot().await.unwrap().unwrap();
        machine.install_snapshot(&found.meta, found.snapshot).await.unwrap();
        assert_eq!(store.hash_kv(0).unwrap(), leader.hash_kv(0).unwrap());
        assert_eq!(store.applied(), leader.applied());
    }
}

#[tokio::test]
async fn a_crash_before_the_pointer_moved_leaves_the_old_state_and_one_after_it_the_new() {
    let ((leader, snapshot, _ahead), behind) = leader_and_laggard().await;
    let state = behind.path().join("state");
    crash_copy(snapshot.dir(), &state.join("g-00000002"));
    let (store, machine) = reopened(behind.path()).unwrap();
    assert_eq!(next_index(&store), 9);
    assert!(!state.join("g-00000002").exists(), "what never counted is removed");
    drop((store, machine));
    crash_copy(snapshot.dir(), &state.join("g-00000002"));
    fs::write(state.join("ACTIVE"), "g-00000002\n").unwrap();
    let (store, _machine) = reopened(behind.path()).unwrap();
    assert_eq!(store.hash_kv(0).unwrap(), leader.hash_kv(0).unwrap());
    assert!(!state.join("g-00000001").exists(), "what counts no more is removed");
}

#[tokio::test]
async fn unfinished_snapshots_are_removed_at_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    for name in ["building-3", "receiving-0"] {
        fs::create_dir(dir.path().join("snap").join(name)).unwrap();
    }
    let (_store, mut machine) = reopened(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path().join("snap")).unwrap().count(), 0);
    assert!(machine.get_current_snapshot().await.unwrap().is_none());
}

/// Opening fails with these words in the message.
fn refused(dir: &Path, words: &str) {
    let error = reopened(dir).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains(words), "{error:?} should say {words:?}");
}

#[tokio::test]
async fn directories_that_cannot_be_trusted_are_refused() {
    let foreign = tempfile::tempdir().unwrap();
    fs::create_dir_all(foreign.path().join("snap")).unwrap();
    fs::write(foreign.path().join("snap/db"), b"bbolt").unwrap();
    refused(foreign.path(), "does not belong to this store");

    let stray = tempfile::tempdir().unwrap();
    drop(open(stray.path()));
    fs::write(stray.path().join("state/notes.txt"), b"").unwrap();
    refused(stray.path(), "does not belong to this store");

    let pointerless = tempfile::tempdir().unwrap();
    drop(open(pointerless.path()));
    fs::remove_file(pointerless.path().join("state/ACTIVE")).unwrap();
    refused(pointerless.path(), "the pointer file ACTIVE is gone");

    let gone = tempfile::tempdir().unwrap();
    drop(open(gone.path()));
    fs::remove_dir_all(gone.path().join("state/g-00000001")).unwrap();
    refused(gone.path(), "which is not there");

    let headless = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(headless.path());
    apply(&mut machine, log()).await;
    drop((store, machine));
    fs::remove_file(headless.path().join("state/g-00000001/CURRENT")).unwrap();
    refused(headless.path(), "CURRENT file is gone");
}

#[tokio::test]
async fn a_newer_format_and_unknown_families_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let engine = dir.path().join("state/g-00000001");
    let db = DB::open_cf(&Options::default(), &engine, keys::FAMILIES).unwrap();
    let newer = (keys::FORMAT + 1).to_be_bytes();
    db.put_cf(db.cf_handle(keys::META).unwrap(), keys::meta::FORMAT, newer).unwrap();
    drop(db);
    refused(dir.path(), "install the newer version again");
    let mut db = DB::open_cf(&Options::default(), &engine, keys::FAMILIES).unwrap();
    db.create_cf("surprise", &Options::default()).unwrap();
    drop(db);
    refused(dir.path(), "unknown column family \"surprise\"");
}

#[tokio::test]
async fn directories_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir.path().join("member")));
    for path in ["member", "member/state", "member/state/g-00000001", "member/snap"] {
        let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{path}");
    }
}
