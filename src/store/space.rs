//! What is left on the file systems under the log and the state, so that no write is begun that could fail for want of
//! space: a failed write ends the process (`wal`, `error::fatal`), and a member that ended cannot serve reads.
//!
//! Three lines of defence, in this order:
//! 1. **Low.** When less than a low mark is left, the member is *low*: merging of table files pauses, what is in memory
//!    only is flushed while it still fits, and the API refuses what grows the store, unless the member stands *aside*:
//!    a quorum of others has space, and this one need not write for the cluster to go on (`node::space`).
//! 2. **Waiting.** When not even that much is left, what needs new blocks waits instead of failing: the log's thread before
//!    it grows a file, apply before it fills a write buffer, a flush before it starts. Reads go on. Whatever waits goes on
//!    by itself when there is space again, and what would free some does not wait behind it.
//! 3. **The reserve.** A file of real blocks that is given back when a flush, or the opening of the state, needs them.
//!    Its length also tells the next start that this life ended low.
//!
//! The log needs no reserve but what its own files hold for a purge: they are filled with zeros before they are used. One
//! thread looks at the file systems ten times a second; whoever only asks whether space is low reads one flag.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;
/// Between two looks at the file systems.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes that come into memory between two looks at most.
const LOOK_AFTER: u64 = MIB;
/// Left free beside what somebody asks for: directories, extents, the journal.
const MARGIN: u64 = 256 << 10;
/// Written off the reserve's end while space is low, so that its length is no whole mebibyte.
const LOW_SIGN: u64 = 4096;
const RESERVE: &str = "reserve";

/// Which files are to grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// RocksDB's.
    State,
    /// The Raft log's.
    Log,
}

/// The space a member lives in. Clones share it; its thread ends with the last one.
#[derive(Debug, Clone)]
pub struct Space {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None`: without bounds, because the system does not say.
    state: Option<Place>,
    log: Option<Place>,
    reserve: Option<Reserve>,
    low: AtomicBool,
    /// Low, and nobody stands in for this member.
    refuses: AtomicBool,
    levels: watch::Sender<bool>,
    waiting: AtomicUsize,
    /// Between two looks of whoever waits.
    look_every: Duration,
    closed: CancellationToken,
    /// What the next flush of the state will write, bytes: taken already, as it were.
    pending: AtomicU64,
    /// How much of it came since the last look.
    unseen: AtomicU64,
    /// Held by who looks.
    looking: Mutex<()>,
    /// A test's folder, there for as long as anybody writes into it.
    #[cfg(test)]
    folder: std::sync::OnceLock<Arc<tempfile::TempDir>>,
}

/// What the log may take on its file system, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// One file. Large ones cost fewer directory syncs.
    pub segment: u64,
    /// All segments together.
    pub segments: u64,
    /// Files made ready, or kept to be used again.
    pub spares: u64,
    /// Entries that wait in memory to be written.
    pub queue: u64,
}

impl LogBounds {
    /// On a file system of `total` bytes: an eighth for segments, no more than a GiB and no less than four files, an
    /// eighth of that for spares, and a quarter of it, 64 MiB at most, for what waits to be written.
    pub fn of(total: u64) -> Self {
        let segment = (total / 128 / MIB * MIB).clamp(4 * MIB, 16 * MIB);
        let segments = (total / 8).clamp(4 * segment, 1024 * MIB);
        let spares = (segments / 8).clamp(segment, 4 * segment);
        Self { segment, segments, spares, queue: (segments / 4).min(64 * MIB) }
    }
}

/// A directory and the marks of its file system, bytes.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    /// With less than this left, space is low.
    low: u64,
    /// With this left, it is low no more.
    enough: u64,
    #[cfg(test)]
    scripted: Option<Scripted>,
}

/// Bytes left, where a test says so.
#[cfg(test)]
#[derive(Clone)]
struct Scripted(Arc<dyn Fn() -> u64 + Send + Sync>);

#[cfg(test)]
impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0())
    }
}

#[derive(Debug)]
struct Reserve {
    path: PathBuf,
    bytes: u64,
    /// How many of them are held, as far as this process knows.
    held: AtomicU64,
    /// The life before this one ended low.
    was_low: bool,
}

/// Total and available bytes of the file system of `dir`.
fn measure(dir: &Path) -> io::Result<(u64, u64)> {
    let found = nix::sys::statvfs::statvfs(dir)?;
    let block = found.fragment_size();
    Ok((found.blocks().saturating_mul(block), found.blocks_available().saturating_mul(block)))
}

/// The low mark of a file system of `total` bytes: a twentieth, but no less than two flushes of full write `buffers` need
/// (on a small disk: a quarter of it), and no more than merging large files does.
fn low_mark(total: u64, buffers: u64) -> u64 {
    (total / 20).clamp((2 * buffers).min(total / 4).max(8 * MIB), 1024 * MIB)
}

/// What is held back on a file system of `total` bytes: room for full write `buffers`, and once more for what is deleted
/// after their flush; on a small disk an eighth of it.
pub fn reserve_bytes(total: u64, buffers: u64) -> u64 {
    (total / 8).clamp(4 * MIB, (2 * buffers).max(4 * MIB)) / MIB * MIB
}

impl Place {
    fn open(dir: &Path, buffers: u64) -> Option<Self> {
        let (total, _) = measure(dir).ok().filter(|(total, _)| *total > 0)?;
        let low = low_mark(total, buffers);
        Some(Self {
            dir: dir.to_path_buf(),
            low,
            enough: low + (low / 4).max(2 * MIB),
            #[cfg(test)]
            scripted: None,
        })
    }

    /// Bytes left. A file system that does not answer is not called full.
    fn left(&self) -> u64 {
        #[cfg(test)]
        if let Some(Scripted(left)) = &self.scripted {
            return left();
        }
        measure(&self.dir).map_or(u64::MAX, |(_, left)| left)
    }
}

impl Reserve {
    /// Gives an earlier life's blocks back: the state is about to be opened, which needs some.
    fn open(path: PathBuf, bytes: u64) -> Self {
        let length = std::fs::metadata(&path).map(|found| found.len());
        let was_low = length.is_ok_and(|length| length == 0 || !length.is_multiple_of(MIB));
        let reserve = Self { path, bytes, held: AtomicU64::new(0), was_low };
        reserve.set_length(0);
        reserve
    }

    /// Takes the blocks. They are as real as data: the system cannot give them to anybody else.
    fn hold(&self) {
        let take = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let file = options.create(true).truncate(false).write(true).mode(0o600).open(&self.path)?;
            // SAFETY: the call reads no memory of ours, and the descriptor is open.
            let failed = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, self.bytes as libc::off_t) };
            if failed == 0 { file.set_len(self.bytes) } else { Err(io::Error::from_raw_os_error(failed)) }
        };
        match take() {
            Ok(()) => self.held.store(self.bytes, Ordering::Release),
            // A reserve of half the size would be mistaken for a whole one.
            Err(_) => {
                self.held.store(0, Ordering::Release);
                self.set_length(0);
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.held.load(Ordering::Acquire) == self.bytes
    }

    /// Leaves the sign that space was low; the blocks stay.
    fn sign(&self) {
        let held = self.held.load(Ordering::Acquire);
        if held > 0 {
            self.set_length(held - LOW_SIGN);
        }
    }

    /// Gives back as many blocks as `needed` bytes take, if so many are held; others on the disk may take what is given
    /// too early. Says whether it did.
    fn give(&self, needed: u64) -> bool {
        let needed = needed.div_ceil(MIB) * MIB;
        let take = |held: u64| held.checked_sub(needed);
        let Ok(held) = self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else { return false };
        self.set_length((held - needed).saturating_sub(LOW_SIGN));
        true
    }

    fn set_length(&self, length: u64) {
        let cut = OpenOptions::new().write(true).open(&self.path).and_then(|file| {
            file.set_len(length)?;
            // A journaling file system gives freed blocks to nobody before it has committed that they are free.
            file.sync_all()
        });
        if let Err(error) = cut
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file = %self.path.display(), %error, "cannot change the reserve of free space");
        }
    }
}

impl Space {
    /// Looks at the file systems of `state` (which must exist) and `log`, gives an earlier reserve back, and starts to
    /// watch. `buffers`: bytes that the state may hold in memory before it flushes.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(state: &Path, log: &Path, buffers: u64) -> io::Result<Self> {
        let log = log.ancestors().find(|dir| dir.is_dir()).unwrap_or(state);
        let place = Place::open(state, buffers);
        let total = measure(state).map_or(0, |(total, _)| total);
        let reserve = place.as_ref().map(|_| Reserve::open(state.join(RESERVE), reserve_bytes(total, buffers)));
        let space = Self::of(place, Place::open(log, buffers), reserve);
        space.look();
        let watched = Arc::downgrade(&space.inner);
        std::thread::Builder::new().name("disk-space".to_owned()).spawn(move || {
            while let Some(inner) = Weak::upgrade(&watched) {
                Self { inner }.look();
                std::thread::sleep(LOOK_EVERY);
            }
        })?;
        Ok(space)
    }

    /// Space without end, for parts that run without a member around them.
    pub fn unbounded() -> Self {
        Self::of(None, None, None)
    }

    fn of(state: Option<Place>, log: Option<Place>, reserve: Option<Reserve>) -> Self {
        let inner = Inner {
            state,
            log,
            reserve,
            low: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            levels: watch::Sender::new(false),
            waiting: AtomicUsize::new(0),
            look_every: LOOK_EVERY,
            closed: CancellationToken::new(),
            pending: AtomicU64::new(0),
            unseen: AtomicU64::new(0),
            looking: Mutex::new(()),
            #[cfg(test)]
            folder: std::sync::OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Whether less than the low mark is left.
    pub fn is_low(&self) -> bool {
        self.inner.low.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    /// Says that space is low, or not, until the next look; for space that nobody measures that is for good.
    pub fn pretend_low(&self, low: bool) {
        self.inner.low.store(low, Ordering::Relaxed);
    }

    #[cfg(test)]
    /// Space in `folder`, which stays until the last part that lives in it has ended. A test ends before a member's own
    /// tasks do, and a store whose folder is gone ends the process, with all other tests.
    pub fn hold(&self, folder: Arc<tempfile::TempDir>) {
        assert!(self.inner.folder.set(folder).is_ok(), "one space is one folder's");
    }

    /// Whether this member must refuse what grows the store.
    pub fn refuses_growth(&self) -> bool {
        self.inner.refuses.load(Ordering::Relaxed)
    }

    /// While space is low: whether others write in this member's place. Refusing is what it begins with.
    pub fn stand_aside(&self, aside: bool) {
        self.inner.refuses.store(!aside && self.is_low(), Ordering::Relaxed);
    }

    /// Whether this member's last life ended low: a NOSPACE alarm of this member is then the disk's, not the quota's.
    pub fn was_low(&self) -> bool {
        self.inner.reserve.as_ref().is_some_and(|reserve| reserve.was_low)
    }

    /// So many bytes more wait in memory for a flush. Looks again where much has come since the last look: a fast writer
    /// fills a small disk between two of the thread's.
    pub fn add_pending(&self, bytes: u64) {
        let inner = &self.inner;
        inner.pending.fetch_add(bytes, Ordering::Relaxed);
        if inner.unseen.fetch_add(bytes, Ordering::Relaxed) + bytes >= LOOK_AFTER {
            self.look();
        }
    }

    /// So many bytes wait in memory for a flush.
    pub fn set_pending(&self, bytes: u64) {
        self.inner.pending.store(bytes, Ordering::Relaxed);
    }

    /// Changes of [`is_low`](Self::is_low).
    pub fn levels(&self) -> watch::Receiver<bool> {
        self.inner.levels.subscribe()
    }

    /// Whether somebody waits for space at this moment.
    pub fn is_awaited(&self) -> bool {
        self.inner.waiting.load(Ordering::Relaxed) > 0
    }

    /// Bytes of the whole file system under `part`; `None` when the system does not say.
    pub fn total(&self, part: Part) -> Option<u64> {
        measure(&self.place(part)?.dir).ok().map(|(total, _)| total)
    }

    /// How much the log may take here.
    pub fn log_bounds(&self) -> LogBounds {
        LogBounds::of(self.total(Part::Log).unwrap_or(u64::MAX))
    }

    fn place(&self, part: Part) -> Option<&Place> {
        match part {
            Part::State => self.inner.state.as_ref(),
            Part::Log => self.inner.log.as_ref(),
        }
    }

    /// Looks now. Says so once when the level changes, and keeps the reserve.
    fn look(&self) {
        let inner = &self.inner;
        let Some(_looking) = inner.looking.try_lock() else { return };
        inner.unseen.store(0, Ordering::Relaxed);
        let was = inner.low.load(Ordering::Acquire);
        let pending = inner.pending.load(Ordering::Relaxed);
        let left = |place: &Option<Place>| {
            place.as_ref().map(|place| (place.left().saturating_sub(pending), place.low, place.enough))
        };
        let places = [left(&inner.state), left(&inner.log)];
        let is_short = |(left, low, enough): &(u64, u64, u64)| *left < if was { *enough } else { *low };
        let low = places.iter().flatten().any(is_short);
        if low != was {
            inner.low.store(low, Ordering::Release);
            inner.refuses.store(low, Ordering::Release);
            self.announce(low, &places);
            inner.levels.send_replace(low);
        }
        let Some(reserve) = &inner.reserve else { return };
        if low && !was {
            reserve.sign();
        } else if !low && (was || !reserve.is_whole()) {
            let missing = reserve.bytes - reserve.held.load(Ordering::Acquire).min(reserve.bytes);
            // While it is whole, only the sign that space was low is taken back.
            if places[0].is_none_or(|(left, _, enough)| missing == 0 || left >= enough + missing) {
                reserve.hold();
            }
        }
    }

    fn announce(&self, low: bool, places: &[Option<(u64, u64, u64)>; 2]) {
        let dir = |part| self.place(part).map(|place: &Place| place.dir.display().to_string());
        let shown: Vec<String> = [(Part::State, places[0]), (Part::Log, places[1])]
            .into_iter()
            .filter_map(|(part, place)| {
                let (left, low, enough) = place?;
                Some(format!("{} bytes left in {} (low below {low}, enough from {enough})", left, dir(part)?))
            })
            .collect();
        let space = shown.join("; ");
        if low {
            tracing::warn!(
                space,
                "disk space is low: this member raises NOSPACE or, where others have space, stands aside, and goes on serving \
                 reads; free space on this file system or enlarge it"
            );
        } else {
            tracing::info!(space, "disk space is sufficient again");
        }
    }

    /// Whether `bytes` can be written to `part` without fear. Gives of the reserve to the state when that helps.
    pub fn has_room(&self, part: Part, bytes: u64) -> bool {
        let Some(place) = self.place(part) else { return true };
        let wanted = bytes.saturating_add(MARGIN);
        let missing = || wanted.saturating_sub(place.left());
        missing() == 0
            || (part == Part::State
                && self.inner.reserve.as_ref().is_some_and(|reserve| reserve.give(missing()))
                && missing() == 0)
    }

    /// Bytes that could still be written to the state, the reserve included, after what is in memory was flushed.
    pub fn writable(&self) -> u64 {
        let Some(place) = self.place(Part::State) else { return u64::MAX };
        let held = self.inner.reserve.as_ref().map_or(0, |reserve| reserve.held.load(Ordering::Acquire));
        let taken = self.inner.pending.load(Ordering::Relaxed).saturating_add(MARGIN);
        place.left().saturating_add(held).saturating_sub(taken)
    }

    /// Whether `bytes` can be written to `part` and the low mark kept: for what is useful but need not be.
    pub fn has_spare_room(&self, part: Part, bytes: u64) -> bool {
        let Some(place) = self.place(part) else { return true };
        !self.is_low() && place.left() >= place.enough.saturating_add(bytes)
    }

    /// Returns when `bytes`, asked anew each time, can be written to `part`, and says what for while it waits. False when
    /// the member stops first.
    pub async fn ready(&self, part: Part, bytes: impl Fn() -> u64, what: &'static str) -> bool {
        if self.has_room(part, bytes()) {
            return true;
        }
        let _waiting = self.start_waiting(part, bytes(), what);
        loop {
            tokio::select! {
                () = self.inner.closed.cancelled() => return false,
                () = tokio::time::sleep(self.look_every()) => {}
            }
            if self.has_room(part, bytes()) {
                return true;
            }
        }
    }

    /// The member stops: nothing waits for space any more.
    pub fn close(&self) {
        self.inner.closed.cancel();
    }

    /// Whether the member stops.
    pub(super) fn is_closed(&self) -> bool {
        self.inner.closed.is_cancelled()
    }

    /// How often whoever waits looks again.
    pub(super) fn look_every(&self) -> Duration {
        self.inner.look_every
    }

    /// Says that somebody waits, until what is returned is dropped.
    pub(super) fn start_waiting(&self, part: Part, bytes: u64, what: &'static str) -> Waiting<'_> {
        self.inner.waiting.fetch_add(1, Ordering::AcqRel);
        let dir = self.place(part).map_or_else(String::new, |place| place.dir.display().to_string());
        tracing::warn!(what, bytes, dir, "no space left: waiting for space instead of failing; free some to go on");
        Waiting { space: self, what }
    }

    /// Space that is never low, in which so many bytes can be written as `left` says.
    #[cfg(test)]
    pub fn scripted(left: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let left = Scripted(Arc::new(move || left().saturating_add(MARGIN)));
        let place = || Some(Place { dir: PathBuf::new(), low: 0, enough: MARGIN, scripted: Some(left.clone()) });
        let mut space = Self::of(place(), place(), None);
        if let Some(inner) = Arc::get_mut(&mut space.inner) {
            inner.look_every = Duration::from_millis(1);
        }
        space
    }
}

/// Somebody waits for space.
pub(super) struct Waiting<'a> {
    space: &'a Space,
    what: &'static str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.space.inner.waiting.fetch_sub(1, Ordering::AcqRel);
        tracing::info!(what = self.what, "the wait for space is over");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(path: &Path) -> u64 {
        std::fs::metadata(path).expect("a reserve").len()
    }

    #[test]
    fn marks_leave_a_small_disk_usable_and_a_large_one_room_to_merge() {
        let buffers = 32 * MIB;
        assert_eq!(low_mark(20 * MIB, buffers), 8 * MIB);
        assert_eq!(low_mark(64 * MIB, buffers), 16 * MIB);
        assert_eq!(low_mark(1 << 30, buffers), 64 * MIB);
        assert_eq!(low_mark(10 << 30, buffers), 512 * MIB);
        assert_eq!(low_mark(1 << 40, buffers), 1024 * MIB);
        assert_eq!(reserve_bytes(20 * MIB, buffers), 4 * MIB);
        assert_eq!(reserve_bytes(100 * MIB, buffers), 12 * MIB);
        assert_eq!(reserve_bytes(1 << 40, buffers), 64 * MIB);
        assert_eq!(reserve_bytes(1 << 40, 0), 4 * MIB);
    }

    #[test]
    fn the_reserve_is_real_and_its_length_tells_the_next_life_how_this_one_ended() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(RESERVE);
        let first = Reserve::open(path.clone(), 4 * MIB);
        assert!(!first.was_low, "a first life follows none");
        first.hold();
        assert_eq!(length(&path), 4 * MIB);
        use std::os::unix::fs::MetadataExt;
        let blocks = std::fs::metadata(&path).expect("a reserve").blocks() * 512;
        assert!(blocks >= 4 * MIB, "{blocks} bytes are held");
        let second = Reserve::open(path.clone(), 4 * MIB);
        assert!(!second.was_low);
        assert_eq!(length(&path), 0, "given back while the state opens");
        second.hold();
        second.sign();
        let third = Reserve::open(path.clone(), 4 * MIB);
        assert!(third.was_low);
        third.hold();
        assert!(third.give(MIB + 1), "two of four");
        assert_eq!(length(&path), 2 * MIB - LOW_SIGN, "no more than is needed");
        assert!(!third.give(3 * MIB), "so much is not held any more");
        assert!(Reserve::open(path.clone(), 4 * MIB).was_low, "one that gave of its reserve was low");
        let fourth = Reserve::open(path.clone(), 4 * MIB);
        fourth.hold();
        assert!(fourth.give(4 * MIB));
        assert!(!fourth.give(1));
        assert!(Reserve::open(path, 4 * MIB).was_low, "and so was one that gave all of it");
    }

    #[test]
    fn space_that_nobody_measures_is_never_low() {
        let space = Space::unbounded();
        space.look();
        assert!(!space.is_low() && !space.was_low());
        assert!(space.has_room(Part::State, u64::MAX) && space.has_spare_room(Part::Log, u64::MAX));
        let bounds = LogBounds { segment: 16 * MIB, segments: 1024 * MIB, spares: 64 * MIB, queue: 64 * MIB };
        assert_eq!(space.log_bounds(), bounds);
    }

    #[test]
    fn the_log_takes_a_share_of_its_disk() {
        let bounds = |total: u64| {
            let LogBounds { segment, segments, spares, .. } = LogBounds::of(total);
            (segment / MIB, segments / MIB, spares / MIB)
        };
        assert_eq!(bounds(64 * MIB), (4, 16, 4));
        assert_eq!(bounds(1 << 30), (8, 128, 16));
        assert_eq!(bounds(10 << 30), (16, 1024, 64));
        assert_eq!(bounds(1 << 40), (16, 1024, 64));
    }

    #[tokio::test]
    async fn a_wait_ends_when_there_is_space_or_the_member_stops() {
        let left = Arc::new(AtomicU64::new(MIB));
        let space = Space::scripted({
            let left = left.clone();
            move || left.load(Ordering::Acquire)
        });
        assert!(space.ready(Part::Log, || MIB, "test").await);
        let freed = async {
            assert!(space.is_awaited());
            left.store(2 * MIB, Ordering::Release);
        };
        let (ready, ()) = tokio::join!(space.ready(Part::Log, || 2 * MIB, "test"), freed);
        assert!(ready && !space.is_awaited());
        space.close();
        assert!(!space.ready(Part::Log, || 4 * MIB, "test").await);
        assert!(!space.is_awaited());
    }
}
