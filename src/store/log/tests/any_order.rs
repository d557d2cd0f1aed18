//! The log against a plain vector: any order of its operations, with closings, kills, torn writes and a full disk
//! in between.
//!
//! `LOG_TEST_OPERATIONS` sets how many operations are made in all (100 to a life, 20 lives to a world); a failure names the
//! seed of its world, and `LOG_TEST_SEED` runs that world alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::raft::types::{TypeConfig, Vote};
use crate::store::space::Space;

/// Operations in a normal run.
const OPERATIONS: u64 = 20_000;
const PER_LIFE: u64 = 100;
const LIVES: u64 = 20;
/// Operations whose end nobody has waited for, at most.
const UNSEEN: usize = 30;
const SECTOR: usize = 512;
/// Appends to a full disk before it must turn out to be full.
const TO_FILL: usize = 60;

fn tiny(space: &Space) -> LogOptions {
    LogOptions {
        segment_bytes: 4 << 10,
        first_segment_bytes: 4 << 10,
        ring_bytes: 2 << 10,
        ring_entries: 8,
        read_bytes: 2 << 10,
        // Else what purges free is enough for a long time.
        spare_bytes: 8 << 10,
        space: space.clone(),
        on_failure: || {},
        ..LogOptions::default()
    }
}

/// What a log holds, as a vector.
#[derive(Debug, Clone, PartialEq, Default)]
struct Model {
    purged: Option<LogId>,
    ids: Vec<LogId>,
    vote: Option<Vote>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.ids.last().copied().or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    fn truncate(&mut self, after: Option<LogId>) {
        self.ids.retain(|id| after.is_some_and(|after| id.index <= after.index));
    }

    fn purge(&mut self, upto: LogId) {
        self.ids.retain(|id| id.index > upto.index);
        self.purged = Some(upto);
    }

    fn holds(&self, id: LogId) -> bool {
        self.purged.is_some_and(|purged| id.index <= purged.index) || self.ids.contains(&id)
    }
}

/// An entry that its id alone determines, so that a vector of ids is all there is to remember.
fn made(id: LogId) -> Entry {
    let mixed = (id.index ^ (*id.leader_id << 40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let size = match mixed >> 58 {
        0 => 3_000,
        1..8 => 500,
        _ => 8 + (mixed >> 40) as usize % 120,
    };
    entry(*id.leader_id, id.index, size)
}

/// A folder in memory where there is one: the test syncs a million times.
fn folder() -> tempfile::TempDir {
    let builder = tempfile::Builder::new();
    let made = if Path::new("/dev/shm").is_dir() { builder.tempdir_in("/dev/shm") } else { builder.tempdir() };
    made.expect("a temporary directory")
}

struct World {
    random: StdRng,
    dir: tempfile::TempDir,
    /// Bytes left on the disk.
    left: Arc<AtomicU64>,
    space: Space,
    /// `None` only between two lives.
    store: Option<LogStore>,
    watermark: Watermark,
    /// The disk was full, and nobody has waited for a record since.
    was_full: bool,
    /// What must be there at least, then after each record that nobody has waited for.
    states: Vec<Model>,
    /// The states that one operation went through.
    trail: Vec<Model>,
    term: u64,
    hints: BTreeSet<LogId>,
}

impl World {
    fn new(seed: u64) -> Self {
        let dir = folder();
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let space = Space::scripted({
            let left = left.clone();
            move || left.load(Ordering::Acquire)
        });
        let (store, watermark) = open(dir.path(), tiny(&space)).expect("a new log opens");
        let random = StdRng::seed_from_u64(seed);
        Self {
            random,
            dir,
            left,
            space,
            store: Some(store),
            watermark,
            was_full: false,
            states: vec![Model::default()],
            trail: Vec::new(),
            term: 1,
            hints: BTreeSet::new(),
        }
    }

    fn log(&mut self) -> &mut LogStore {
        self.store.as_mut().expect("a life")
    }

    fn now(&self) -> &Model {
        self.states.last().expect("never empty")
    }

    fn step(&mut self, change: impl FnOnce(&mut Model)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.trail.push(next.clone());
        self.states.push(next);
    }

    /// Everything so far is on disk.
    fn seen(&mut self) {
        self.states.drain(..self.states.len() - 1);
        self.was_full = false;
    }

    async fn operate(&mut self) {
        self.trail.clear();
        match self.random.random_range(0..100) {
            0..55 => {
                let waits = self.random.random_bool(0.3);
                self.append(waits).await;
            }
            55..68 => self.truncate().await,
            68..83 => self.purge().await,
            83..90 => self.vote().await,
            90..96 => self.hint().await,
            96..98 => self.full_disk().await,
            _ => self.read().await,
        }
        if self.states.len() > UNSEEN {
            self.vote().await;
        }
    }

    async fn append(&mut self, waits: bool) {
        let next = self.now().next();
        if self.random.random_ratio(1, 10) {
            self.term += 1;
        }
        let count = self.random.random_range(1..8);
        let ids: Vec<LogId> = (next..next + count).map(|index| log_id(self.term, index)).collect();
        for id in &ids {
            self.step(|model| model.ids.push(*id));
        }
        let (done, told) = TypeConfig::oneshot();
        let entries: Vec<Entry> = ids.into_iter().map(made).collect();
        self.log().append(entries, IOFlushed::signal(done)).await.expect("appends");
        if waits {
            told.await.expect("told").expect("is written");
            self.seen();
        }
    }

    /// Cuts back to anywhere that is not purged: mostly a little, sometimes everything.
    async fn truncate(&mut self) {
        let held = self.now().ids.len();
        let depth = if self.random.random_ratio(1, 4) { held } else { held.min(30) };
        let gone = self.random.random_range(0..=depth);
        let ids = &self.now().ids;
        let after = ids[..ids.len() - gone].last().copied().or(self.now().purged);
        self.step(|model| model.truncate(after));
        self.log().truncate_after(after).await.expect("truncates");
        // What was cut may be written again by another leader only.
        self.term += 1;
        if gone > 0 {
            // A cut of nothing waits for nothing.
            self.seen();
        }
    }

    async fn purge(&mut self) {
        let (last, ids) = (self.now().next(), self.now().ids.len());
        let upto = if self.random.random_ratio(1, 20) {
            // A snapshot from elsewhere, far ahead.
            self.term += 1;
            log_id(self.term, last + self.random.random_range(0..200))
        } else if ids > 0 {
            let at = self.random.random_range(0..ids);
            self.now().ids[at]
        } else {
            return;
        };
        self.step(|model| model.purge(upto));
        self.log().purge(upto).await.expect("purges");
    }

    async fn vote(&mut self) {
        self.term += u64::from(self.random.random_bool(0.2));
        let vote = Vote::new(self.term, self.random.random_range(1..4));
        self.step(|model| model.vote = Some(vote));
        self.log().save_vote(&vote).await.expect("saves");
        self.seen();
    }

    async fn hint(&mut self) {
        let ids = self.now().ids.len();
        if ids > 0 {
            let at = self.random.random_range(0..ids);
            let hint = self.now().ids[at];
            self.hints.insert(hint);
            self.log().save_committed(Some(hint)).await.expect("saves");
        }
    }

    async fn read(&mut self) {
        let end = self.now().next() + 2;
        let from = self.random.random_range(0..end);
        let to = self.random.random_range(from..=end);
        let expected: Vec<Entry> =
            self.now().ids.iter().filter(|id| (from..to).contains(&id.index)).copied().map(made).collect();
        assert_eq!(read(self.log(), from..to).await, expected, "{from}..{to}");
        let first = self.now().ids.first().map_or(end, |id| id.index);
        if from >= first && from < to {
            let part = self.log().limited_get_log_entries(from, to).await.expect("reads");
            assert!(!part.is_empty() || expected.is_empty(), "{from}..{to}");
            assert_eq!(part, expected[..part.len()], "{from}..{to}");
        }
    }

    /// The disk is full for a while: appends wait, purges come that may go ahead of them, and then there is space again or
    /// the life ends.
    async fn full_disk(&mut self) {
        self.left.store(0, Ordering::Release);
        self.was_full = true;
        for _ in 0..TO_FILL {
            self.append(false).await;
            let last = self.now().next() - 1;
            while !self.space.is_awaited() && self.watermark.durable() < last {
                std::thread::sleep(Duration::from_micros(100));
            }
            if self.space.is_awaited() {
                break;
            }
        }
        for _ in 0..self.random.random_range(1..8) {
            match self.random.random_range(0..10) {
                0..5 => self.purge().await,
                5..7 => self.append(false).await,
                7 => self.hint().await,
                _ => self.read().await,
            }
        }
        // The log looks again each millisecond: any number of purges may have gone ahead.
        std::thread::sleep(Duration::from_micros(self.random.random_range(0..3000)));
        match self.random.random_range(0..4) {
            0 => self.begin_again(None).await,
            1 => {
                let killed = alive(self.dir.path());
                self.begin_again(Some(killed)).await;
            }
            _ => self.left.store(u64::MAX, Ordering::Release),
        }
    }

    /// Ends this life in one of three ways and begins the next.
    async fn die(&mut self) {
        let next = match self.random.random_range(0..3) {
            0 => {
                self.store = None;
                self.seen();
                None
            }
            1 => Some(alive(self.dir.path())),
            _ => Some(self.torn().await),
        };
        self.begin_again(next).await;
    }

    /// Whether the log may be `found` so: as after any record, or with a purge ahead of what waited for space, as far as the
    /// disk went when it was written.
    fn may_be(&self, found: &Model) -> bool {
        let ahead = |at: usize, state: &Model| {
            let asked = self.states[at..].iter().filter_map(|later| later.purged).map(|id| id.index).max();
            let Some(upto) = found.purged.filter(|upto| self.was_full && state.holds(*upto)) else { return false };
            let mut state = state.clone();
            state.purge(upto);
            asked >= Some(upto.index) && state == *found
        };
        self.states.iter().enumerate().any(|(at, state)| state == found || ahead(at, state))
    }

    /// Begins a life, in the files `next` if there are any, on a disk with space. It must find one of the states that it may
    /// find.
    async fn begin_again(&mut self, next: Option<tempfile::TempDir>) {
        self.store = None;
        self.left.store(u64::MAX, Ordering::Release);
        if let Some(next) = next {
            self.dir = next;
        }
        let options = tiny(&self.space);
        let (mut store, watermark) = open(self.dir.path(), options).unwrap_or_else(|error| panic!("{error}"));
        let (purged, last) = state(&mut store).await;
        let held = read(&mut store, 0..u64::MAX).await;
        let found = Model {
            purged,
            ids: held.iter().map(|entry| entry.log_id).collect(),
            vote: store.read_vote().await.expect("reads"),
        };
        assert_eq!(last, found.last());
        assert!(self.may_be(&found), "found {found:?} instead of one of {:?}", self.states);
        assert_eq!(held, found.ids.iter().copied().map(made).collect::<Vec<_>>());
        assert_eq!(watermark.durable(), last.map_or(0, |id| id.index));
        let hint = store.read_committed().await.expect("reads");
        assert!(
            hint.is_none_or(|hint| self.hints.contains(&hint) && found.holds(hint)),
            "the hint {hint:?} of {found:?}"
        );
        self.states = vec![found];
        self.was_full = false;
        self.watermark = watermark;
        self.store = Some(store);
    }

    /// One write of which any sectors reached the disk.
    async fn torn(&mut self) -> tempfile::TempDir {
        self.vote().await;
        let before = alive(self.dir.path());
        let base = self.now().clone();
        self.trail.clear();
        match self.random.random_range(0..4) {
            0 => self.vote().await,
            1 => self.truncate().await,
            _ => self.append(true).await,
        }
        let after = alive(self.dir.path());
        self.states = std::iter::once(base).chain(self.trail.drain(..)).collect();
        self.mixed(before.path(), after.path())
    }

    /// `before` with some of the sectors by which `after` differs. Only the newest file can be torn: the log syncs a file
    /// before it goes on in another.
    fn mixed(&mut self, before: &Path, after: &Path) -> tempfile::TempDir {
        let mixed = folder();
        fs::copy(before.join("mark"), mixed.path().join("mark")).expect("copies");
        let newest = segments(after).pop().expect("a segment");
        let share = self.random.random_range(0.0..=1.0);
        for path in segments(before).iter().chain([&newest]) {
            let name = path.file_name().expect("a name");
            let old = fs::read(before.join(name)).unwrap_or_default();
            let Ok(new) = fs::read(after.join(name)) else {
                fs::write(mixed.path().join(name), old).expect("writes");
                continue;
            };
            let mut bytes = old;
            bytes.resize(new.len().max(bytes.len()), 0);
            for (at, sector) in new.chunks(SECTOR).enumerate() {
                if path.file_name() != newest.file_name() || self.random.random_bool(share) {
                    bytes[at * SECTOR..at * SECTOR + sector.len()].copy_from_slice(sector);
                }
            }
            fs::write(mixed.path().join(name), bytes).expect("writes");
        }
        mixed
    }
}

/// The files of an open log as a kill would leave them at some moment during this call. The mark first and the segments
/// from the newest to the oldest, so that nothing in the copy speaks of what is not in it yet.
fn alive(dir: &Path) -> tempfile::TempDir {
    loop {
        let copy = folder();
        fs::copy(dir.join("mark"), copy.path().join("mark")).expect("copies");
        let before = segments(dir);
        let took = |path: &PathBuf| fs::copy(path, copy.path().join(path.file_name().expect("a name"))).is_ok();
        // A file that went meanwhile took with it the reason why it might.
        if before.iter().rev().all(took) && segments(dir).starts_with(&before) {
            return copy;
        }
    }
}

async fn live(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..LIVES {
        for _ in 0..PER_LIFE {
            world.operate().await;
        }
        world.die().await;
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_the_order_of_operations_a_restart_finds_all_that_was_synced_and_nothing_else() {
    let worlds = number("LOG_TEST_OPERATIONS").unwrap_or(OPERATIONS).div_ceil(PER_LIFE * LIVES);
    let seeds = number("LOG_TEST_SEED").map_or(0..worlds, |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(live(seed));
        });
        assert!(run.is_ok(), "LOG_TEST_SEED={seed} fails");
    }
    println!("{} operations in {} lives", count * LIVES * PER_LIFE, count * LIVES);
}

#[tokio::test]
async fn a_tail_cut_back_into_a_segment_that_is_purged_later_leaves_a_sound_log() {
    let dir = folder();
    let (mut store, _) = open(dir.path(), small()).expect("opens");
    append(&mut store, 1, 0..10, 300).await;
    store.purge(log_id(1, 4)).await.expect("purges");
    // An uncommitted tail that reaches into a second segment, and a new leader that cuts it back into the first.
    let mut next = 10;
    while segments(dir.path()).len() < 2 {
        append(&mut store, 1, next..next + 1, 300).await;
        next += 1;
    }
    append(&mut store, 1, next..next + 3, 300).await;
    let first = segments(dir.path()).first().cloned().expect("a segment");
    store.truncate_after(Some(log_id(1, 9))).await.expect("truncates");
    append(&mut store, 2, 10..20, 300).await;
    store.purge(log_id(1, 9)).await.expect("purges");
    append(&mut store, 2, 20..21, 300).await;
    drop(store);
    assert!(!first.exists(), "the segment that the cut reached back into must be gone");
    let (mut store, _) = open(dir.path(), small()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(state(&mut store).await, (Some(log_id(1, 9)), Some(log_id(2, 20))));
    assert_holds(&mut store, 2, 10..21, 300).await;
}
