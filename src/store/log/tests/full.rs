//! A disk that is full for a while, or for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::OneshotReceiverOf;

use super::*;
use crate::raft::types::TypeConfig;
use crate::store::space::Space;

const PATIENCE: Duration = Duration::from_secs(60);
const SIZE: usize = 300;

type Told = OneshotReceiverOf<TypeConfig, Result<(), std::io::Error>>;

/// A log that has a disk to itself, of any size.
struct Disk {
    dir: tempfile::TempDir,
    bytes: Arc<AtomicU64>,
    space: Space,
    store: Option<LogStore>,
}

impl Disk {
    fn new() -> Self {
        let (dir, bytes) = (tempfile::tempdir().expect("a temporary directory"), Arc::new(AtomicU64::new(u64::MAX)));
        let space = Space::scripted({
            let (dir, bytes) = (dir.path().to_owned(), bytes.clone());
            move || bytes.load(Ordering::Acquire).saturating_sub(taken(&dir))
        });
        let (store, _) = open(dir.path(), Self::options(&space)).expect("opens");
        Self { dir, bytes, space, store: Some(store) }
    }

    fn options(space: &Space) -> LogOptions {
        LogOptions { space: space.clone(), spare_bytes: 0, ..small() }
    }

    fn store(&mut self) -> &mut LogStore {
        self.store.as_mut().expect("open")
    }

    fn is_large(&self) {
        self.bytes.store(u64::MAX, Ordering::Release);
    }

    fn is_full(&self) {
        self.bytes.store(taken(self.dir.path()), Ordering::Release);
    }

    async fn append(&mut self, index: u64) -> Told {
        let (done, told) = TypeConfig::oneshot();
        self.store().append([entry(1, index, SIZE)], IOFlushed::signal(done)).await.expect("appends");
        told
    }

    /// Appends entries from 0 on to a disk that is full after `free` of them, until one waits. Its index.
    async fn fill(&mut self, free: u64) -> (u64, Told) {
        append(self.store(), 1, 0..free, SIZE).await;
        self.is_full();
        self.append_until_one_waits(free).await
    }

    async fn append_until_one_waits(&mut self, from: u64) -> (u64, Told) {
        for index in from.. {
            let mut told = self.append(index).await;
            let waits = async {
                while !self.space.is_awaited() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                written = &mut told => written.expect("told").expect("is written"),
                () = waits => return (index, told),
            }
        }
        unreachable!("no disk is that large")
    }

    /// The log as a restart finds it, on a disk with room.
    async fn reopen(&mut self) -> &mut LogStore {
        self.is_large();
        self.store = None;
        let (store, _) = open(self.dir.path(), Self::options(&self.space)).unwrap_or_else(|error| panic!("{error}"));
        self.store.insert(store)
    }
}

/// Bytes of all files.
fn taken(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum()
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("never: {what}"))
}

#[tokio::test]
async fn a_purge_frees_the_space_that_an_append_before_it_waits_for() {
    let mut disk = Disk::new();
    let (waiting, told) = disk.fill(100).await;
    assert!(segments(disk.dir.path()).len() > 2, "nothing could be freed");
    disk.store().purge(log_id(1, waiting - 2)).await.expect("purges");
    within("the append goes on in what the purge freed", told).await.expect("told").expect("is written");
    assert!(!disk.space.is_awaited());
    let store = disk.reopen().await;
    assert_eq!(state(store).await, (Some(log_id(1, waiting - 2)), Some(log_id(1, waiting))));
    assert_holds(store, 1, waiting - 1..waiting + 1, SIZE).await;
}

#[tokio::test]
async fn a_disk_stays_full_and_the_log_lives_on_what_its_purges_free() {
    let mut disk = Disk::new();
    let (mut waiting, mut told) = disk.fill(100).await;
    for _ in 0..20 {
        disk.store().purge(log_id(1, waiting - 1)).await.expect("purges");
        within("a purge frees a file", told).await.expect("told").expect("is written");
        (waiting, told) = disk.append_until_one_waits(waiting + 1).await;
    }
    disk.is_large();
    within("there is space", told).await.expect("told").expect("is written");
}

#[tokio::test]
async fn a_snapshot_from_elsewhere_frees_all_of_a_full_disk_although_appends_wait_before_it() {
    let mut disk = Disk::new();
    let (waiting, told) = disk.fill(100).await;
    disk.store().purge(log_id(2, waiting + 1000)).await.expect("purges");
    within("the append goes on", told).await.expect("told").expect("is written");
    let mut next = disk.store().clone();
    within("what comes after goes on", append(&mut next, 2, waiting + 1001..waiting + 1003, SIZE)).await;
    drop(next);
    let store = disk.reopen().await;
    assert_eq!(state(store).await, (Some(log_id(2, waiting + 1000)), Some(log_id(2, waiting + 1002))));
    assert_holds(store, 2, waiting + 1001..waiting + 1003, SIZE).await;
}

#[tokio::test]
async fn many_purges_on_a_full_disk_that_free_nothing_harm_nothing() {
    let mut disk = Disk::new();
    let (waiting, told) = disk.fill(3).await;
    let settled = waiting - 1;
    for index in 0..settled {
        disk.store().purge(log_id(1, index)).await.expect("purges");
        // Each may be written by itself.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    disk.is_large();
    within("there is space", told).await.expect("told").expect("is written");
    let store = disk.reopen().await;
    assert_eq!(state(store).await, (Some(log_id(1, settled - 1)), Some(log_id(1, waiting))));
    assert_holds(store, 1, settled..waiting + 1, SIZE).await;
}

#[tokio::test]
async fn a_log_that_is_closed_while_it_waits_loses_only_what_was_not_acknowledged() {
    let mut disk = Disk::new();
    let (waiting, told) = disk.fill(20).await;
    // Closing waits for the thread, which must not wait for space.
    disk.store = None;
    assert!(within("who waits is told", told).await.expect("told").is_err());
    let store = disk.reopen().await;
    assert_eq!(state(store).await, (None, Some(log_id(1, waiting - 1))));
}
