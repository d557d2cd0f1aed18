//! What has come of a snapshot that is not whole yet: one directory, kept over broken connections and restarts.
//!
//! A table file of a sender never changes, and the next snapshot of the same sender has most of them too. So what is kept is
//! not "the rest of that snapshot" but files: whatever the next list names with the same size and checksum need not be sent
//! again. Nothing is believed because it lies there: bytes count once this process has summed them, as it wrote them or by
//! reading them from the disk. It does that once: the sums are kept ([`Progress`]) from one attempt to the next for as long
//! as each file is the same and nobody else has written to it. Those of a snapshot that came whole are forgotten: if its
//! install fails, the next attempt reads what really lies there.
//!
//! There is at most one such directory. It goes when the member has got past it by other means, when space is low, and when
//! nobody went on with it for [`KEPT_FOR`].

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::error::StoreError;
use super::files;
use super::snapshot::{SnapshotFile, decode_manifest};
use crate::raft::types::{LogId, SnapshotMeta};

/// The directory. The prefix is that of everything the next start of an older version removes.
pub(super) const NAME: &str = "receiving-partial";
/// The sender's list, inside it.
pub(super) const LIST: &str = "PARTIAL";
/// How long it is kept while nobody sends. A sender that lost its connection tries again every second or so.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// How long a receiver waits until the one before it has let go: as long as a write to the disk may take.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// The place for one unfinished snapshot.
#[derive(Debug)]
pub(super) struct Partial {
    dir: PathBuf,
    place: Mutex<Place>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct Place {
    taken: bool,
    left: Option<Left>,
}

/// What lies there while nobody receives.
#[derive(Debug)]
struct Left {
    last: Option<LogId>,
    since: Instant,
    summed: HashMap<String, Progress>,
}

/// How much of a file's beginning this process has summed, what it sums to, and which file that was.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Bytes.
    pub written: u64,
    /// CRC-32C of them.
    pub crc: u32,
    stamp: Option<Stamp>,
}

/// Differs once anybody else has written to a file, or put another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    written_at: (i64, i64),
}

impl Progress {
    /// So much of the file that `found` describes, as it is now.
    pub fn of(written: u64, crc: u32, found: &Metadata) -> Self {
        Self { written, crc, stamp: Some(Stamp::of(found)) }
    }

    /// Whether it is about the file that `found` describes.
    pub fn is_of(&self, found: &Metadata) -> bool {
        self.stamp == Some(Stamp::of(found))
    }
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self { inode: found.ino(), size: found.len(), written_at: (found.mtime(), found.mtime_nsec()) }
    }
}

impl Partial {
    /// Looks at what an earlier life left in `snapshots`; removes it when it does not read, or is not beyond `newest`, the
    /// newest complete snapshot.
    pub fn open(snapshots: &Path, newest: Option<LogId>) -> Result<Arc<Self>, StoreError> {
        let dir = snapshots.join(NAME);
        let listed = fs::read(dir.join(LIST)).ok().and_then(|list| decode_manifest(&list).ok());
        let left = match listed {
            Some((meta, _)) if meta.last_log_id > newest => {
                Some(Left { last: meta.last_log_id, since: Instant::now(), summed: HashMap::new() })
            }
            _ => {
                files::remove_dir(&dir)?;
                None
            }
        };
        Ok(Arc::new(Self { dir, place: Mutex::new(Place { taken: false, left }), free: Condvar::new() }))
    }

    /// Takes the place; waits a while for whoever has it. Blocks.
    pub fn take(self: &Arc<Self>) -> Result<Turn, StoreError> {
        let mut place = self.place.lock();
        let until = Instant::now() + TURN_WAIT;
        while place.taken {
            if self.free.wait_until(&mut place, until).timed_out() {
                return Err(StoreError::Snapshot("another one is being installed".to_owned()));
            }
        }
        place.taken = true;
        let (last, summed) = place.left.take().map_or_else(Default::default, |left| (left.last, left.summed));
        Ok(Turn { partial: Arc::clone(self), last, summed })
    }

    /// Removes what lies there if nobody needs it any more; see the module's head. Blocks on the disk.
    pub fn sweep(&self, applied: Option<LogId>, space_is_low: bool) -> Result<(), StoreError> {
        let mut place = self.place.lock();
        let needless = |left: &Left| left.last <= applied || space_is_low || left.since.elapsed() >= KEPT_FOR;
        if place.taken || !place.left.as_ref().is_some_and(needless) {
            return Ok(());
        }
        place.left = None;
        files::remove_dir(&self.dir)?;
        tracing::info!("removed what had come of a snapshot that nobody goes on sending");
        Ok(())
    }
}

/// The right to write into the place. It ends with the last user of what was received.
#[derive(Debug)]
pub(super) struct Turn {
    partial: Arc<Partial>,
    last: Option<LogId>,
    /// By name; only files that lie there have an entry, though not all.
    summed: HashMap<String, Progress>,
}

impl Turn {
    pub fn dir(&self) -> &Path {
        &self.partial.dir
    }

    /// What was summed of a file before, in this turn or an earlier one of this process.
    pub fn summed(&self, name: &str) -> Progress {
        self.summed.get(name).copied().unwrap_or_default()
    }

    /// Keeps what is summed of a file now, for this turn and the next.
    pub fn keep(&mut self, name: &str, progress: Progress) {
        if let Some(kept) = self.summed.get_mut(name) {
            *kept = progress;
        } else {
            self.summed.insert(name.to_owned(), progress);
        }
    }

    /// The next turn reads everything from the disk again.
    pub fn forget_sums(&mut self) {
        self.summed.clear();
    }

    /// Makes the place ready for the files of `manifest`, which reads as `meta` and `listed`: whatever is there and not one
    /// of them goes. What stays is of the right size at most, and unproven.
    pub fn prepare(&mut self, manifest: &[u8], meta: &SnapshotMeta, listed: &[SnapshotFile]) -> Result<(), StoreError> {
        let dir = self.dir().to_owned();
        files::private_dir(&dir)?;
        let before = fs::read(dir.join(LIST)).ok().and_then(|list| decode_manifest(&list).ok());
        let before: HashMap<String, SnapshotFile> = before
            .map(|(_, files)| files)
            .unwrap_or_default()
            .into_iter()
            .map(|file| (file.name.clone(), file))
            .collect();
        let wanted: HashMap<&str, &SnapshotFile> = listed.iter().map(|file| (file.name.as_str(), file)).collect();
        for name in files::names(&dir)? {
            let path = dir.join(&name);
            let same = wanted.get(name.as_str()).is_some_and(|file| before.get(&name) == Some(*file));
            let fits = |file: &SnapshotFile| fs::metadata(&path).is_ok_and(|found| found.len() <= file.size);
            if name != LIST && !(same && wanted.get(name.as_str()).is_some_and(|file| fits(file))) {
                self.summed.remove(&name);
                fs::remove_file(&path).map_err(StoreError::files("remove", &path))?;
            }
        }
        files::replace(&dir.join(LIST), manifest)?;
        self.last = meta.last_log_id;
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut place = self.partial.place.lock();
        // Gone when it became a snapshot.
        let left = self.partial.dir.join(LIST).exists();
        let summed = std::mem::take(&mut self.summed);
        place.left = left.then(|| Left { last: self.last, since: Instant::now(), summed });
        place.taken = false;
        self.partial.free.notify_one();
    }
}
