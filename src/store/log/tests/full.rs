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
        LogOptions { space: space.clone(), spare_bytes: 0, queue_bytes: 4 << 10, ..small() }
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
async fn many_purges_that_free_nothing_do_not_use_up_what_one_needs_that_frees_a_file() {
    let mut disk = Disk::new();
    let (waiting, told) = disk.fill(100).await;
    // All in the first file.
    for index in 0..15 {
        disk.store().purge(log_id(1, index)).await.expect("purges");
        // Each may be written by itself.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(disk.space.is_awaited());
    disk.store().purge(log_id(1, waiting - 2)).await.expect("purges");
    within("the append goes on", told).await.expect("told").expect("is written");
    let store = disk.reopen().await;
    assert_eq!(state(store).await, (Some(log_id(1, waiting - 2)), Some(log_id(1, waiting))));
    assert_holds(store, 1, waiting - 1..waiting + 1, SIZE).await;
}

#[tokio::test]
async fn a_file_of_an_older_version_gets_at_the_start_what_a_purge_needs() {
    let mut disk = Disk::new();
    append(disk.store(), 1, 0..100, SIZE).await;
    disk.store = None;
    let newest = segments(disk.dir.path()).pop().expect("a segment");
    let end = fs::read(&newest).expect("reads").iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    fs::OpenOptions::new().write(true).open(&newest).and_then(|file| file.set_len(end)).expect("is shortened");
    for file in fs::read_dir(disk.dir.path()).expect("lists").flatten() {
        if file.file_name().to_string_lossy().starts_with("spare-") {
            fs::remove_file(file.path()).expect("removes");
        }
    }
    disk.reopen().await;
    assert!(fs::metadata(&newest).expect("is there").len() > end);
    disk.is_full();
    let (waiting, told) = disk.append_until_one_waits(100).await;
    assert_eq!(waiting, 100, "there was room for more than a purge");
    disk.store().purge(log_id(1, 98)).await.expect("purges");
    within("the append goes on", told).await.expect("told").expect("is written");
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

#[tokio::test]
async fn whoever_waits_for_space_in_the_log_is_told_so_when_the_member_stops() {
    let mut disk = Disk::new();
    let (waiting, told) = disk.fill(20).await;
    let mut queued = vec![told];
    let mut blocked = loop {
        let ((done, told), mut store) = (TypeConfig::oneshot(), disk.store().clone());
        let index = waiting + queued.len() as u64;
        queued.push(told);
        let mut next =
            Box::pin(async move { store.append([entry(1, index, SIZE)], IOFlushed::signal(done)).await.map(drop) });
        match futures::poll!(&mut next) {
            std::task::Poll::Ready(appended) => appended.expect("is queued"),
            std::task::Poll::Pending => break next,
        }
    };
    disk.space.close();
    assert!(within("the append that waits for room ends", &mut blocked).await.is_err());
    drop(blocked);
    for told in queued {
        assert!(!matches!(within("who waits is told", told).await, Ok(Ok(()))), "nothing was written");
    }
    assert!(within("a vote is refused", disk.store().save_vote(&crate::raft::types::Vote::new(2, 1))).await.is_err());
    let store = disk.reopen().await;
    assert_eq!(state(store).await, (None, Some(log_id(1, waiting - 1))));
}
