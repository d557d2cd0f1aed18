//! Receiving a snapshot from a peer: files arrive in pieces, are checked as they come, and become a [`SnapshotFiles`].
//!
//! What came before a connection broke is not sent again: [`SnapshotReceiver::begin`] proves what is there, and
//! [`SnapshotReceiver::held`] tells the sender where to go on.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::StoreError;
use super::files;
use super::partial::{Progress, Turn};
use super::reader::Store;
use super::snapshot::{SnapshotFile, SnapshotFiles, decode_manifest};
use super::space::{Part, Space};
use crate::raft::types::SnapshotMeta;

/// Read buffer for checksums, bytes.
const CHUNK: usize = 1 << 20;

/// A snapshot on its way in. Dropping it before [`finish`](Self::finish) keeps what has come, for the next one.
pub struct SnapshotReceiver {
    turn: Turn,
    space: Space,
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    index: HashMap<String, usize>,
    progress: Vec<Progress>,
    /// The file being written, by position in `files`.
    open: Option<(usize, File)>,
}

/// A look at what is here of a snapshot, for others to see how it gets on, or to end it.
#[derive(Debug, Default)]
pub struct Proving {
    read: AtomicU64,
    given_up: AtomicBool,
}

impl Proving {
    /// Bytes that were read from the disk for it.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Nobody waits for it any more: it ends at its next step, and what it has proven until then counts for the next.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    fn go_on(&self) -> Result<(), StoreError> {
        if self.given_up.load(Ordering::Acquire) {
            return Err(StoreError::Snapshot("its sender is gone".to_owned()));
        }
        Ok(())
    }
}

impl SnapshotReceiver {
    /// Reads the sender's [`manifest`](SnapshotFiles::manifest), finds out what of it is here already (from an attempt that
    /// broke off, or in this member's own snapshot) and makes room for the rest. `proving` shows how it gets on. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// A manifest that is damaged, of a newer format, names files as RocksDB would not, or announces more than fits; another
    /// snapshot that is being installed; a sender that is gone.
    pub fn begin(store: &Store, manifest: &[u8], proving: &Proving) -> Result<Self, StoreError> {
        let (meta, files) = decode_manifest(manifest)?;
        let snapshots = &store.shared.snapshots;
        let mut turn = snapshots.partial().take()?;
        proving.go_on()?;
        turn.prepare(manifest, &meta, &files)?;
        if let Some(own) = snapshots.current() {
            link_known(&own, turn.dir(), &files);
        }
        let progress = files.iter().map(|file| prove(&mut turn, file, proving)).collect::<Result<Vec<_>, _>>()?;
        let missing: u64 = files.iter().zip(&progress).map(|(file, held)| file.size - held.written).sum();
        if !store.space().has_spare_room(Part::State, missing) {
            return Err(StoreError::Snapshot(format!(
                "{missing} bytes of it have to come and do not fit on this member's disk; free some space"
            )));
        }
        let index = files.iter().enumerate().map(|(at, file)| (file.name.clone(), at)).collect();
        let mut receiver = Self { turn, space: store.space().clone(), meta, files, index, progress, open: None };
        for at in 0..receiver.files.len() {
            if receiver.files[at].size == 0 {
                // Empty files get no piece.
                receiver.file(at)?;
            }
        }
        Ok(receiver)
    }

    #[cfg(test)]
    /// Last log id and membership of what is being received.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The files that should come.
    pub fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    /// Bytes of each of [`files`](Self::files) that are here and proven; the next piece of it starts there.
    pub fn held(&self) -> impl Iterator<Item = u64> + '_ {
        self.progress.iter().map(|file| file.written)
    }

    #[cfg(test)]
    /// Bytes of `name` that have come; the next piece starts there. `None` for a file that is not in the manifest.
    pub fn written(&self, name: &str) -> Option<u64> {
        self.index.get(name).map(|&at| self.progress[at].written)
    }

    /// Adds a piece of a file. Pieces of one file come in order; files may come in any order. The last piece of a file makes
    /// it durable. Blocks on the disk.
    ///
    /// # Errors
    /// A file that was not announced, a piece that leaves a gap or goes beyond the file's size, a failed write, a checksum
    /// that does not match: then that file is thrown away and comes again with the next attempt. While disk space is low
    /// nothing more is taken, and what has come goes (`partial`).
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let refuse = |why: String| Err(StoreError::Snapshot(why));
        if self.space.is_low() {
            return refuse(
                "disk space is low on this member, which takes nothing more of it; free some space".to_owned(),
            );
        }
        let Some(&at) = self.index.get(name) else {
            return refuse(format!("a piece of {name:?} came, which the manifest does not list"));
        };
        let Progress { written, crc, .. } = self.progress[at];
        if offset != written {
            return refuse(format!("a piece of {name} came at {offset}, expected {written}"));
        }
        let size = self.files[at].size;
        let after = written + bytes.len() as u64;
        if after > size {
            return refuse(format!("{name} is longer than the {size} bytes that were announced"));
        }
        let path = self.turn.dir().join(name);
        let file = self.file(at)?;
        file.write_all(bytes).map_err(StoreError::files("write", &path))?;
        let found = file.metadata().map_err(StoreError::files("look at", &path))?;
        let crc = crc32c::crc32c_append(crc, bytes);
        self.set(at, Progress::of(after, crc, &found));
        if after < size {
            return Ok(());
        }
        if crc != self.files[at].crc {
            self.open = None;
            self.set(at, Progress::default());
            fs::remove_file(&path).map_err(StoreError::files("remove", &path))?;
            return refuse(format!("the checksum of {name} does not match"));
        }
        self.file(at)?.sync_data().map_err(StoreError::files("sync", &path))
    }

    /// Checks that everything has come and hands it over for install. Blocks on the disk.
    ///
    /// # Errors
    /// A file that is short; a failed sync.
    pub fn finish(self) -> Result<SnapshotFiles, StoreError> {
        let Self { mut turn, meta, files, progress, open, .. } = self;
        drop(open);
        for (file, progress) in files.iter().zip(&progress) {
            if progress.written != file.size {
                let (name, size, written) = (&file.name, file.size, progress.written);
                return Err(StoreError::Snapshot(format!("{name} ended at {written} of {size} bytes")));
            }
        }
        files::sync(turn.dir())?;
        turn.forget_sums();
        Ok(SnapshotFiles::received(turn, meta, files))
    }

    fn set(&mut self, at: usize, progress: Progress) {
        self.turn.keep(&self.files[at].name, progress);
        self.progress[at] = progress;
    }

    fn file(&mut self, at: usize) -> Result<&mut File, StoreError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != at) {
            let path = self.turn.dir().join(&self.files[at].name);
            let file = File::options().create(true).append(true).open(&path);
            self.open = Some((at, file.map_err(StoreError::files("create", path))?));
        }
        let (_, file) = self.open.as_mut().expect("the file was opened just above");
        Ok(file)
    }
}

/// Links tables that this member's own snapshot has under the same name, size and checksum: it was fed by the same sender
/// before. They are proven like everything else; one that cannot be linked is sent.
fn link_known(own: &SnapshotFiles, dir: &Path, wanted: &[SnapshotFile]) {
    let known: HashMap<&str, &SnapshotFile> = own.files().iter().map(|file| (file.name.as_str(), file)).collect();
    for file in wanted.iter().filter(|file| file.name.ends_with(".sst") && known.get(file.name.as_str()) == Some(file))
    {
        let (from, to) = (own.dir().join(&file.name), dir.join(&file.name));
        // A part of it that came is not appended to but replaced: the whole is here.
        let short = fs::metadata(&to).map_or(true, |found| found.len() < file.size);
        if short && (fs::remove_file(&to).is_ok() || !to.exists()) {
            let _linked = fs::hard_link(&from, &to);
        }
    }
}

/// How much of a file is here and what it sums to; reads what was not summed before. A whole file with another sum is thrown
/// away.
fn prove(turn: &mut Turn, wanted: &SnapshotFile, proving: &Proving) -> Result<Progress, StoreError> {
    let path = turn.dir().join(&wanted.name);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Progress::default()),
        Err(error) => return Err(StoreError::files("open", path)(error)),
    };
    let found = file.metadata().map_err(StoreError::files("look at", &path))?;
    let mut held = Some(turn.summed(&wanted.name)).filter(|kept| kept.is_of(&found)).unwrap_or_default();
    file.seek(SeekFrom::Start(held.written)).map_err(StoreError::files("read", &path))?;
    let mut buffer = vec![0; CHUNK.min(usize::try_from(wanted.size).unwrap_or(CHUNK)).max(1)];
    loop {
        proving.go_on()?;
        let read = file.read(&mut buffer).map_err(StoreError::files("read", &path))?;
        if read == 0 {
            break;
        }
        held = Progress::of(held.written + read as u64, crc32c::crc32c_append(held.crc, &buffer[..read]), &found);
        turn.keep(&wanted.name, held);
        proving.read.fetch_add(read as u64, Ordering::Relaxed);
    }
    if held.written > wanted.size || (held.written == wanted.size && held.crc != wanted.crc) {
        turn.keep(&wanted.name, Progress::default());
        fs::remove_file(&path).map_err(StoreError::files("remove", &path))?;
        return Ok(Progress::default());
    }
    Ok(held)
}
