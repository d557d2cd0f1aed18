//! Files made ready ahead of need, on a thread of their own: a spare is filled with zeros before it becomes a segment, so
//! that writing to it later changes no metadata (a sync then costs two thirds), and segments the log is done with become
//! spares again or are removed.
//!
//! Nothing here is needed for correctness: when no spare is ready the log takes an empty file and grows it. The same
//! thread syncs the durable mark now and then.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::segment::{Segment, Spare, sync_directory};
use super::{LogError, LogOptions};
use crate::store::space::{Part, Space};

/// Zeros written at once.
const STEP: usize = 1 << 20;
/// How often the mark is synced while it changes.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// The shelf of spares and the thread that stocks it.
#[derive(Debug)]
pub(super) struct Preparer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Length of a full spare.
    segment_bytes: u64,
    /// Spares may take so many bytes together; one may always be there.
    spare_bytes: u64,
    space: Space,
    shelf: Mutex<Shelf>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Shelf {
    spares: Vec<Spare>,
    released: Vec<Arc<Segment>>,
    /// How many bytes of the next segment should be filled by now.
    wanted: u64,
    mark_moved: bool,
    stopped: bool,
}

impl Preparer {
    /// Starts with the spares and superfluous segments that recovery found. `mark` is a handle on the mark's file.
    pub fn start(
        dir: &Path,
        options: &LogOptions,
        spares: Vec<Spare>,
        released: Vec<Arc<Segment>>,
        mark: File,
    ) -> Result<Self, LogError> {
        let shelf = Mutex::new(Shelf { spares, released, ..Shelf::default() });
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            segment_bytes: options.segment_bytes,
            spare_bytes: options.spare_bytes,
            space: options.space.clone(),
            shelf,
            wake: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("log-prepare".into())
            .spawn({
                let shared = shared.clone();
                move || shared.run(&mark)
            })
            .map_err(|source| LogError::io("start the thread that prepares files", dir, source))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The best spare there is, or a new empty file.
    pub fn take(&self) -> Result<Spare, LogError> {
        let mut shelf = self.shared.shelf.lock();
        shelf.wanted = 0;
        let fullest = (0..shelf.spares.len()).max_by_key(|&at| shelf.spares[at].filled());
        match fullest {
            Some(at) => Ok(shelf.spares.swap_remove(at)),
            None => Spare::create(&self.shared.dir),
        }
    }

    /// How many bytes of the best spare are its own already. Until the next [`take`](Self::take) it becomes no less.
    pub fn ready(&self) -> u64 {
        self.shared.shelf.lock().spares.iter().map(Spare::filled).max().unwrap_or(0)
    }

    /// The mark moved, and the current segment is full to `used` of `capacity` bytes: the next one should be ready by the
    /// time this one is half full.
    pub fn progress(&self, used: u64, capacity: u64) {
        let share = (2 * used).min(capacity) as f64 / capacity as f64;
        let wanted = (self.shared.segment_bytes as f64 * share) as u64;
        let mut shelf = self.shared.shelf.lock();
        shelf.mark_moved = true;
        if wanted >= shelf.wanted + STEP as u64 || (wanted == self.shared.segment_bytes && wanted > shelf.wanted) {
            shelf.wanted = wanted;
            self.shared.wake.notify_one();
        }
    }

    /// The log needs these no more.
    pub fn release(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            self.shared.shelf.lock().released.extend(segments);
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.shared.shelf.lock().stopped = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that prepares raft log files ended in a panic");
        }
    }
}

impl Shared {
    fn run(&self, mark: &File) {
        loop {
            let (released, mark_moved, stopped) = {
                let mut shelf = self.shelf.lock();
                if shelf.released.is_empty() && !shelf.stopped {
                    self.wake.wait_for(&mut shelf, MARK_EVERY);
                }
                (std::mem::take(&mut shelf.released), std::mem::take(&mut shelf.mark_moved), shelf.stopped)
            };
            for segment in released {
                self.retire(segment);
            }
            if mark_moved && let Err(error) = mark.sync_data() {
                tracing::warn!(%error, "cannot sync the raft log's durable mark; recovery does with the older one");
            }
            if stopped {
                return;
            }
            self.shed();
            while self.fill_step() {}
        }
    }

    /// Removes spares for which there is no room any more: all but the best while space is low.
    fn shed(&self) {
        let most = if self.space.is_low() { 0 } else { self.spare_bytes };
        loop {
            let mut shelf = self.shelf.lock();
            let held: u64 = shelf.spares.iter().map(Spare::filled).sum();
            if shelf.spares.len() <= 1 || held <= most {
                return;
            }
            let worst = (0..shelf.spares.len()).min_by_key(|&at| shelf.spares[at].filled());
            let Some(spare) = worst.map(|at| shelf.spares.swap_remove(at)) else { return };
            drop(shelf);
            if let Err(error) = spare.remove() {
                tracing::warn!(%error, dir = %self.dir.display(), "cannot remove a spare raft log file");
                return;
            }
        }
    }

    /// Removes `segment`, or keeps its file as a spare when it has the length of a segment, is unread, and there is room.
    /// Longer ones are from before segments were shortened: kept, they would stay for ever.
    fn retire(&self, segment: Arc<Segment>) {
        let path = segment.path.clone();
        let held: u64 = self.shelf.lock().spares.iter().map(Spare::filled).sum();
        let room = held == 0 || (held + segment.length() <= self.spare_bytes && !self.space.is_low());
        let lengths = self.segment_bytes..2 * self.segment_bytes;
        let fits = lengths.contains(&segment.length());
        // A reader may still hold the segment: its file must then not be overwritten, only unlinked.
        let retired = match Arc::try_unwrap(segment) {
            Ok(segment) if room && fits => segment.retire(&self.dir).map(Some),
            _ => fs::remove_file(&path).map(|()| None),
        };
        match retired {
            Ok(spare) => self.shelf.lock().spares.extend(spare),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot remove a raft log file that is no longer needed")
            }
        }
        if let Err(error) = sync_directory(&self.dir) {
            tracing::warn!(%error, "a removed raft log file may come back after a power cut; it is then removed again");
        }
    }

    /// Fills one step of the next segment. Returns whether more is wanted.
    fn fill_step(&self) -> bool {
        const ZEROS: &[u8; STEP] = &[0; STEP];
        let mut shelf = self.shelf.lock();
        let wanted = shelf.wanted;
        let ready = wanted == 0 || shelf.spares.iter().any(|spare| spare.filled() >= wanted);
        if ready || shelf.stopped || !shelf.released.is_empty() {
            return false;
        }
        if !self.space.has_spare_room(Part::Log, STEP as u64) {
            // A file made ready must not be what makes space low; the log waits for space when it needs some.
            return false;
        }
        // Under the lock: once taken, a spare is written by the log alone.
        let filled = self.fill_locked(&mut shelf, ZEROS);
        drop(shelf);
        match filled
            .and_then(|step| step.write_out().map_err(|source| LogError::io("sync a spare in", &self.dir, source)))
        {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "cannot prepare the next raft log file; it will be grown as it is used");
                self.shelf.lock().wanted = 0;
                false
            }
        }
    }

    fn fill_locked(&self, shelf: &mut Shelf, zeros: &[u8]) -> Result<Filled, LogError> {
        if shelf.spares.is_empty() {
            shelf.spares.push(Spare::create(&self.dir)?);
        }
        let failed = |source| LogError::io("fill a spare in", &self.dir, source);
        let spare = &mut shelf.spares[0];
        let step = (self.segment_bytes.saturating_sub(spare.filled())).min(zeros.len() as u64) as usize;
        let from = spare.filled();
        spare.fill(&zeros[..step]).map_err(failed)?;
        let last = spare.filled() >= self.segment_bytes;
        Ok(Filled { file: spare.handle().map_err(failed)?, from, length: step as u64, last })
    }
}

/// A stretch of zeros in the page cache.
struct Filled {
    file: File,
    from: u64,
    length: u64,
    /// The spare is full with it.
    last: bool,
}

impl Filled {
    /// Starts to write the stretch to disk; waits for all of the file when it is the last. A sync per stretch would make
    /// the disk flush once per megabyte of log, beside the log's own syncs.
    fn write_out(&self) -> io::Result<()> {
        if self.last {
            return self.file.sync_data();
        }
        let (from, length) = (self.from as libc::off64_t, self.length as libc::off64_t);
        // SAFETY: the call reads no memory of ours, and the descriptor is open.
        let started =
            unsafe { libc::sync_file_range(self.file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
        if started == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
