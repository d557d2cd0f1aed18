//! Snapshots as files: shipping them piece by piece, refusing what is wrong with them, superseding them.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use tokio::time::{sleep, timeout};

use super::{apply, entry, open, put, small};
use crate::model::view::View;
use crate::store::{
    EventSink, Machine, Moment, Proving, Shipping, SnapshotFiles, SnapshotReceiver, Space, Store, StoreOptions,
    Watermark,
};

const PIECE: usize = 1000;

pub(super) async fn build(machine: &mut Machine) -> SnapshotFiles {
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap().snapshot
}

fn contents(snapshot: &SnapshotFiles, name: &str) -> Vec<u8> {
    let mut contents = Vec::new();
    snapshot.open(name).unwrap().read_to_end(&mut contents).unwrap();
    contents
}

pub(super) fn begin(to: &Store, snapshot: &SnapshotFiles) -> SnapshotReceiver {
    SnapshotReceiver::begin(to, &snapshot.manifest(), &Proving::default()).unwrap()
}

pub(super) fn ship(snapshot: &SnapshotFiles, to: &Store) -> SnapshotReceiver {
    let mut receiver = begin(to, snapshot);
    assert_eq!(receiver.meta(), snapshot.meta());
    for file in snapshot.files() {
        let contents = contents(snapshot, &file.name);
        let held = receiver.written(&file.name).unwrap() as usize;
        for (at, piece) in contents[held..].chunks(PIECE).enumerate() {
            let from = (held + at * PIECE) as u64;
            assert_eq!(receiver.written(&file.name), Some(from));
            receiver.write(&file.name, from, piece).unwrap();
        }
    }
    receiver
}

struct Resets(AtomicI64);

impl EventSink for Resets {
    fn reset(&self, revision: i64, _compacted: i64, moment: Moment<'_>) {
        moment.pass();
        self.0.store(revision, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_shipped_snapshot_replaces_the_state_while_old_views_read_on() {
    let (ahead, behind) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, mut leading) = open(ahead.path());
    apply(&mut leading, (0..50).map(|index| entry(index, put(b"k", &[index as u8; 100])))).await;
    let snapshot = build(&mut leading).await;
    let (follower, mut following) = open(behind.path());
    apply(&mut following, [entry(0, put(b"k", b"mine"))]).await;
    let resets = Arc::new(Resets(AtomicI64::new(0)));
    follower.subscribe(resets.clone());
    let before = follower.view();

    let received = ship(&snapshot, &follower).finish().unwrap();
    following.install_snapshot(&received.meta().clone(), received).await.unwrap();

    assert_eq!(follower.hash_kv(0).unwrap(), leader.hash_kv(0).unwrap());
    assert_eq!(resets.0.load(Ordering::SeqCst), leader.revision());
    assert_eq!(before.get(b"k").unwrap().unwrap().decode().unwrap().value, "mine");
    let old = behind.path().join("state/g-00000001");
    assert!(old.exists(), "a reader keeps the state it reads");
    drop(before);
    // The housekeeper may be looking at it and is the last reader then.
    let gone = async {
        while old.exists() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), gone).await.expect("the last reader removes it");
    follower.wait_applied(49).await;
    apply(&mut following, [entry(50, put(b"k", b"next"))]).await;
    apply(&mut leading, [entry(50, put(b"k", b"next"))]).await;
    assert_eq!(follower.hash_kv(0).unwrap(), leader.hash_kv(0).unwrap());
}

#[tokio::test]
async fn a_newer_snapshot_takes_the_place_of_the_older_once_nobody_reads_that() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut machine) = open(dir.path());
    apply(&mut machine, [entry(0, put(b"k", b"1"))]).await;
    let older = build(&mut machine).await;
    apply(&mut machine, [entry(1, put(b"k", b"2"))]).await;
    let newer = build(&mut machine).await;
    assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, *newer.meta());
    let first = &older.files()[0];
    assert_eq!(contents(&older, &first.name).len() as u64, first.size);
    let path = older.dir().to_owned();
    drop(older);
    assert!(!path.exists());
}

#[tokio::test]
async fn of_superseded_snapshots_only_the_oldest_goes_on_to_a_slow_follower_and_none_while_space_is_low() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    let mut shipped = Vec::new();
    for index in 0..4 {
        apply(&mut machine, [entry(index, put(b"k", &[index as u8]))]).await;
        let snapshot = build(&mut machine).await;
        shipped.push((snapshot.shipping(), snapshot));
    }
    let ended =
        |shipped: &[(Shipping, SnapshotFiles)]| shipped.iter().map(|(one, _)| one.has_ended()).collect::<Vec<_>>();
    assert_eq!(ended(&shipped), [false, true, true, false], "the oldest and the current one go on");
    shipped.drain(1..3);
    assert_eq!(std::fs::read_dir(dir.path().join("snap")).unwrap().count(), 2);
    store.space().pretend_low(true);
    timeout(Duration::from_secs(60), shipped[0].0.ended()).await.expect("the housekeeper looks");
    assert_eq!(ended(&shipped), [true, false], "the current one takes no space of its own");
    drop(shipped);
    assert_eq!(std::fs::read_dir(dir.path().join("snap")).unwrap().count(), 1);
}

#[tokio::test]
async fn pieces_that_do_not_fit_the_manifest_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    apply(&mut machine, [entry(0, put(b"k", b"1"))]).await;
    let snapshot = build(&mut machine).await;
    let mut receiver = begin(&store, &snapshot);
    let file = &snapshot.files()[0];
    let name = &file.name;
    assert!(receiver.write("../escape", 0, b"x").is_err());
    assert!(receiver.write("unlisted.sst", 0, b"x").is_err());
    assert!(receiver.write(name, 1, b"x").is_err(), "a gap");
    assert!(receiver.write(name, 0, &vec![0; file.size as usize + 1]).is_err(), "too long");
    assert!(receiver.finish().is_err(), "nothing came");
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("snap")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let [partial, kept] = &left[..] else { panic!("{left:?}") };
    let (partial, kept) = if partial == "receiving-partial" { (partial, kept) } else { (kept, partial) };
    assert_eq!((partial.to_str(), Some(kept.as_os_str())), (Some("receiving-partial"), snapshot.dir().file_name()));
}

#[tokio::test]
async fn a_flipped_bit_is_refused_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut machine) = open(dir.path());
    apply(&mut machine, [entry(0, put(b"k", b"1"))]).await;
    let snapshot = build(&mut machine).await;
    let manifest = snapshot.manifest();
    for at in 0..manifest.len() {
        let mut flipped = manifest.to_vec();
        flipped[at] ^= 0x10;
        assert!(SnapshotReceiver::begin(&store, &flipped, &Proving::default()).is_err(), "byte {at} of the manifest");
    }
    // Another member: this one knows the tables.
    let other = tempfile::tempdir().unwrap();
    let (store, _machine) = open(other.path());
    let mut receiver = begin(&store, &snapshot);
    let damaged = snapshot.files().iter().position(|file| file.name.ends_with(".sst"));
    for (at, file) in snapshot.files().iter().enumerate() {
        let mut bytes = contents(&snapshot, &file.name);
        if Some(at) == damaged {
            bytes[0] ^= 1;
        }
        let written = receiver.write(&file.name, 0, &bytes);
        assert_eq!(written.is_err(), Some(at) == damaged);
    }
    assert!(damaged.is_some() && receiver.finish().is_err());
}

#[tokio::test]
async fn a_snapshot_that_waits_for_space_ends_when_the_member_stops() {
    let dir = tempfile::tempdir().unwrap();
    let space = Space::scripted(|| 0);
    let options = StoreOptions { space: space.clone(), ..small() };
    let (store, mut machine) = crate::store::open(dir.path(), options, Watermark::already_durable()).unwrap();
    apply(&mut machine, [entry(1, put(b"k", b"v"))]).await;
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    let building = tokio::spawn(async move { builder.build_snapshot().await.map(drop) });
    while !space.is_awaited() {
        sleep(Duration::from_millis(1)).await;
    }
    store.space().close();
    let ended = timeout(Duration::from_secs(60), building).await.expect("ends").unwrap();
    assert!(ended.is_err_and(|error| error.to_string().contains("stops")));
    drop((store, machine));
    // Nothing holds the state any more.
    let _ = open(dir.path());
}
