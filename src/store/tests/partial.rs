//! Snapshots that come in several attempts, with restarts, damage and newer snapshots in between.

use std::fs;
use std::io::Read;
use std::path::Path;

use openraft::storage::RaftStateMachine;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::snapshots::{begin, build, ship};
use super::{apply, entry, open, put, small};
use crate::store::{Machine, Proving, SnapshotFiles, SnapshotReceiver, Store, Watermark};

const PIECE: usize = 4096;

/// A leader with `files` flushes of values that do not compress, and what is needed to change it further.
struct Leader {
    store: Store,
    machine: Machine,
    next: u64,
    _dir: tempfile::TempDir,
}

impl Leader {
    async fn new(files: u64) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (store, machine) = open(dir.path());
        let mut leader = Self { store, machine, next: 0, _dir: dir };
        for _ in 0..files {
            leader.grow().await;
        }
        leader
    }

    /// Some more keys, in a table of their own.
    async fn grow(&mut self) {
        let from = self.next;
        self.next += 20;
        let noise = |index: u64| -> Vec<u8> { (0..1000).map(|_| rand::random::<u8>()).chain([index as u8]).collect() };
        let entries =
            (from..self.next).map(|index| entry(index, put(format!("k{index:06}").as_bytes(), &noise(index))));
        apply(&mut self.machine, entries).await;
        self.store.shared.database().flush().unwrap();
    }
}

fn bytes_of(snapshot: &SnapshotFiles, name: &str) -> Vec<u8> {
    let mut contents = Vec::new();
    snapshot.open(name).unwrap().read_to_end(&mut contents).unwrap();
    contents
}

fn held(receiver: &SnapshotReceiver) -> u64 {
    receiver.held().sum()
}

/// Sends up to `most` pieces of what is missing, in the order of the files; says whether all is there.
fn send(receiver: &mut SnapshotReceiver, snapshot: &SnapshotFiles, mut most: usize) -> Result<bool, String> {
    for file in snapshot.files() {
        let contents = bytes_of(snapshot, &file.name);
        while let Some(from) = receiver.written(&file.name).filter(|from| *from < file.size) {
            if most == 0 {
                return Ok(false);
            }
            most -= 1;
            let from = from as usize;
            let to = (from + PIECE).min(contents.len());
            receiver.write(&file.name, from as u64, &contents[from..to]).map_err(|error| error.to_string())?;
        }
    }
    Ok(true)
}

fn reopened(dir: &Path) -> (Store, Machine) {
    crate::store::open(dir, small(), Watermark::already_durable()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    crate::store::files::names(&dir.join("snap")).unwrap()
}

#[tokio::test]
async fn what_came_before_a_break_or_a_restart_of_either_side_is_not_sent_again() {
    let mut leader = Leader::new(3).await;
    let snapshot = build(&mut leader.machine).await;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (follower, machine) = open(dir.path());
    let mut receiver = begin(&follower, &snapshot);
    assert_eq!(held(&receiver), 0);
    assert_eq!(send(&mut receiver, &snapshot, 6), Ok(false));
    let came = held(&receiver);
    drop(receiver);
    assert_eq!(held(&begin(&follower, &snapshot)), came, "a broken connection");
    drop((follower, machine));
    let (follower, mut machine) = reopened(dir.path());
    // The sender starts again as well: its snapshot lies on its disk.
    let again = leader.machine.get_current_snapshot().await.unwrap().unwrap().snapshot;
    assert_eq!(again.manifest(), snapshot.manifest());
    let mut receiver = begin(&follower, &again);
    assert_eq!(held(&receiver), came, "a restart");
    assert_eq!(send(&mut receiver, &again, usize::MAX), Ok(true));
    let received = receiver.finish().unwrap();
    machine.install_snapshot(&received.meta().clone(), received).await.unwrap();
    assert_eq!(follower.hash_kv(0).unwrap(), leader.store.hash_kv(0).unwrap());
    assert_eq!(names(dir.path()).len(), 1, "{:?}", names(dir.path()));
    assert!(!dir.path().join("snap").join(&names(dir.path())[0]).join("PARTIAL").exists());
}

#[tokio::test]
async fn a_whole_snapshot_whose_install_failed_need_not_come_again() {
    let mut leader = Leader::new(2).await;
    let snapshot = build(&mut leader.machine).await;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (follower, machine) = open(dir.path());
    drop(ship(&snapshot, &follower).finish().unwrap());
    assert_eq!(held(&begin(&follower, &snapshot)), snapshot.total_bytes());
    // Nor after a crash between the two.
    drop((follower, machine));
    let (follower, _machine) = reopened(dir.path());
    assert_eq!(held(&begin(&follower, &snapshot)), snapshot.total_bytes());
}

/// Bytes that the next attempt reads from the disk, and those that it has then.
fn proven(follower: &Store, snapshot: &SnapshotFiles) -> (u64, u64) {
    let proving = Proving::default();
    let receiver = SnapshotReceiver::begin(follower, &snapshot.manifest(), &proving).unwrap();
    (proving.read(), held(&receiver))
}

#[tokio::test]
async fn what_was_summed_once_is_not_read_again_by_the_next_attempt_unless_it_came_whole() {
    let mut leader = Leader::new(3).await;
    let snapshot = build(&mut leader.machine).await;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (follower, machine) = open(dir.path());
    let mut receiver = begin(&follower, &snapshot);
    assert_eq!(send(&mut receiver, &snapshot, 6), Ok(false));
    let came = held(&receiver);
    drop(receiver);
    assert_eq!(proven(&follower, &snapshot), (0, came), "it was summed as it was written");
    drop((follower, machine));
    let (follower, _machine) = reopened(dir.path());
    assert_eq!(proven(&follower, &snapshot), (came, came), "another process believes nothing");
    assert_eq!(proven(&follower, &snapshot), (0, came), "and reads it once");
    let total = snapshot.total_bytes();
    drop(ship(&snapshot, &follower).finish().unwrap());
    assert_eq!(proven(&follower, &snapshot), (total, total), "an install that fails may have had a reason");
}

#[tokio::test]
async fn a_proof_whose_sender_is_gone_makes_way_for_the_next_and_costs_nothing_of_what_came() {
    let mut leader = Leader::new(2).await;
    let snapshot = build(&mut leader.machine).await;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (follower, _machine) = open(dir.path());
    let mut receiver = begin(&follower, &snapshot);
    assert_eq!(send(&mut receiver, &snapshot, 6), Ok(false));
    let came = held(&receiver);
    drop(receiver);
    let gone = Proving::default();
    gone.give_up();
    let refused = SnapshotReceiver::begin(&follower, &snapshot.manifest(), &gone).err().unwrap();
    assert!(refused.to_string().contains("its sender is gone"), "{refused}");
    assert_eq!(gone.read(), 0);
    assert_eq!(held(&begin(&follower, &snapshot)), came);
}

#[tokio::test]
async fn while_space_is_low_no_piece_is_taken_and_what_came_goes() {
    let mut leader = Leader::new(2).await;
    let snapshot = build(&mut leader.machine).await;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (follower, _machine) = open(dir.path());
    let mut receiver = begin(&follower, &snapshot);
    assert_eq!(send(&mut receiver, &snapshot, 3), Ok(false));
    follower.space().pretend_low(true);
    let came = held(&receiver);
    let refused = send(&mut receiver, &snapshot, 1).unwrap_err();
    assert!(refused.contains("disk space is low on this member"), "{refused}");
    assert_eq!(held(&receiver), came);
    drop(receiver);
    let gone = async {
        while dir.path().join("snap/receiving-partial").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.expect("the housekeeper removes it");
    follower.space().pretend_low(false);
    assert_eq!(send(&mut begin(&follower, &snapshot), &snapshot, usize::MAX), Ok(true), "the next attempt");
}

#[tokio::test]
async fn of_the_next_snapshot_of_the_same_sender_only_what_is_new_comes() {
    let mut leader = Leader::new(3).await;
    let first = build(&mut leader.machine).await;
    leader.grow().await;
    let second = build(&mut leader.machine).await;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (follower, mut machine) = open(dir.path());
    let tables = |snapshot: &SnapshotFiles| -> u64 {
        let shared = snapshot.files().iter().filter(|file| file.name.ends_with(".sst") && first.files().contains(file));
        shared.map(|file| file.size).sum()
    };
    assert!(tables(&second) > 0, "a flush does not rewrite tables");
    let mut receiver = begin(&follower, &first);
    assert_eq!(send(&mut receiver, &first, usize::MAX), Ok(true));
    drop(receiver);
    let receiver = begin(&follower, &second);
    assert!(held(&receiver) >= tables(&second), "from an attempt that broke off");
    drop(receiver);
    // And from one that was installed, which this member goes on with.
    let received = ship(&first, &follower).finish().unwrap();
    machine.install_snapshot(&received.meta().clone(), received).await.unwrap();
    let mut receiver = begin(&follower, &second);
    assert!(held(&receiver) >= tables(&second), "{} of {}", held(&receiver), tables(&second));
    assert_eq!(send(&mut receiver, &second, usize::MAX), Ok(true));
    let received = receiver.finish().unwrap();
    machine.install_snapshot(&received.meta().clone(), received).await.unwrap();
    assert_eq!(follower.hash_kv(0).unwrap(), leader.store.hash_kv(0).unwrap());
}

#[tokio::test]
async fn one_snapshot_comes_in_at_a_time_and_the_place_is_free_again_after_it() {
    let mut leader = Leader::new(1).await;
    let snapshot = build(&mut leader.machine).await;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (follower, _machine) = open(dir.path());
    let first = begin(&follower, &snapshot);
    let second = std::thread::spawn({
        let (follower, snapshot) = (follower.clone(), snapshot.clone());
        move || held(&begin(&follower, &snapshot))
    });
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.join().unwrap(), 0);
}

#[tokio::test]
async fn leftovers_go_when_nobody_needs_them() {
    let mut leader = Leader::new(2).await;
    let snapshot = build(&mut leader.machine).await;
    let last = snapshot.meta().last_log_id;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let leave = |follower: &Store| {
        let mut receiver = begin(follower, &snapshot);
        assert_eq!(send(&mut receiver, &snapshot, 3), Ok(false));
    };
    let partial = dir.path().join("snap/receiving-partial");
    let (follower, machine) = open(dir.path());
    leave(&follower);
    let place = follower.shared.snapshots.partial();
    place.sweep(None, false).unwrap();
    assert!(partial.exists(), "the next attempt goes on with it");
    place.sweep(None, true).unwrap();
    assert!(!partial.exists(), "space is low");
    leave(&follower);
    place.sweep(last, false).unwrap();
    assert!(!partial.exists(), "the member got there without it");
    let receiver = begin(&follower, &snapshot);
    place.sweep(last, true).unwrap();
    assert!(partial.exists(), "not under the hands of one who receives");
    drop(receiver);
    drop((follower, machine));
    // What does not read is removed by the next start.
    fs::write(partial.join("PARTIAL"), b"?").unwrap();
    let (follower, machine) = reopened(dir.path());
    assert!(!partial.exists());
    leave(&follower);
    let received = ship(&snapshot, &follower).finish().unwrap();
    let mut machine = machine;
    machine.install_snapshot(&received.meta().clone(), received).await.unwrap();
    drop((follower, machine));
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("PARTIAL"), snapshot.manifest()).unwrap();
    drop(reopened(dir.path()));
    assert!(!partial.exists(), "not beyond the newest complete one");
}

/// Does something to a file of the leftover, as a disk or a crash would.
fn harm(dir: &Path, rng: &mut SmallRng) {
    let partial = dir.join("snap/receiving-partial");
    let Ok(entries) = fs::read_dir(&partial) else { return };
    let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("PARTIAL")).collect();
    if files.is_empty() {
        return;
    }
    let path = &files[rng.random_range(0..files.len())];
    let mut bytes = fs::read(path).unwrap();
    match rng.random_range(0..4) {
        0 if !bytes.is_empty() => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        1 => bytes.truncate(rng.random_range(0..=bytes.len())),
        2 => bytes.extend_from_slice(&[0; 100]),
        // As after a power cut: the length is there, the contents are not.
        _ => bytes.fill(0),
    }
    // A new inode: tables are shared with this member's own snapshot, which the disk did not harm.
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn whatever_happens_between_attempts_what_is_installed_is_what_was_sent() {
    const LIVES: u64 = 150;
    let mut leader = Leader::new(2).await;
    let mut snapshots = vec![build(&mut leader.machine).await];
    for _ in 0..2 {
        leader.grow().await;
        snapshots.push(build(&mut leader.machine).await);
    }
    let (mut attempts, mut sent, mut resumed) = (0u64, 0u64, 0u64);
    for seed in 0..LIVES {
        let mut rng = SmallRng::seed_from_u64(seed);
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (mut follower, mut machine) = open(dir.path());
        let mut newest = 0;
        for attempt in 0.. {
            assert!(attempt < 200, "seed {seed}: it never arrives");
            attempts += 1;
            let snapshot = &snapshots[newest];
            let mut receiver = begin(&follower, snapshot);
            let before = held(&receiver);
            resumed += u64::from(before > 0);
            let most = if attempt > 20 { usize::MAX } else { rng.random_range(0..12) };
            let outcome = send(&mut receiver, snapshot, most);
            sent += held(&receiver).saturating_sub(before);
            if outcome == Ok(true) {
                let received = receiver.finish().unwrap();
                machine.install_snapshot(&received.meta().clone(), received).await.unwrap();
                if newest + 1 == snapshots.len() {
                    break;
                }
                newest += 1;
            } else {
                drop(receiver);
            }
            match rng.random_range(0..5) {
                0 => harm(dir.path(), &mut rng),
                1 => {
                    drop((follower, machine));
                    harm(dir.path(), &mut rng);
                    (follower, machine) = reopened(dir.path());
                }
                2 => newest = (newest + 1).min(snapshots.len() - 1),
                _ => {}
            }
            assert!(names(dir.path()).len() <= 2, "seed {seed}: {:?}", names(dir.path()));
        }
        assert_eq!(follower.hash_kv(0).unwrap(), leader.store.hash_kv(0).unwrap(), "seed {seed}");
        assert!(!dir.path().join("snap/receiving-partial").exists(), "seed {seed}");
    }
    println!("{LIVES} lives, {attempts} attempts, {resumed} of which went on from something, {sent} bytes sent");
}
