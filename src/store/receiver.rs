//! Receiving a snapshot from a peer: files arrive in pieces, are checked as they come, and become a [`SnapshotFiles`].
//!
//! What came before a connection broke is not sent again: [`SnapshotReceiver::begin`] proves what is there, and
//! [`SnapshotReceiver::held`] tells the sender where to go on.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::StoreError;
use super::files;
use super::partial::Turn;
use super::reader::Store;
use super::snapshot::{SnapshotFile, SnapshotFiles, decode_manifest};
use super::space::Part;
use crate::raft::types::SnapshotMeta;

/// Read buffer for checksums, bytes.
const CHUNK: usize = 1 << 20;

/// A snapshot on its way in. Dropping it before [`finish`](Self::finish) keeps what has come, for the next one.
pub struct SnapshotReceiver {
    turn: Turn,
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    index: HashMap<String, usize>,
    progress: Vec<Progress>,
    /// The file being written, by position in `files`.
    open: Option<(usize, File)>,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    written: u64,
    crc: u32,
}

impl SnapshotReceiver {
    /// Reads the sender's [`manifest`](SnapshotFiles::manifest), finds out what of it is here already (from an attempt that
    /// broke off, or in this member's own snapshot) and makes room for the rest. Adds to `checked` the bytes that it has
    /// read for that, so that somebody else can see it get on. Blocks on the disk.
    ///
    /// # Errors
    /// A manifest that is damaged, of a newer format, names files as RocksDB would not, or announces more than fits; another
    /// snapshot that is being installed.
    pub fn begin(store: &Store, manifest: &[u8], checked: &AtomicU64) -> Result<Self, StoreError> {
        let (meta, files) = decode_manifest(manifest)?;
        let snapshots = &store.shared.snapshots;
        let mut turn = snapshots.partial().take()?;
        turn.prepare(manifest, &meta, &files)?;
        if let Some(own) = snapshots.current() {
            link_known(&own, turn.dir(), &files);
        }
        let progress = files
            .iter()
            .map(|file| prove(&turn.dir().join(&file.name), file, checked))
            .collect::<Result<Vec<_>, _>>()?;
        let missing: u64 = files.iter().zip(&progress).map(|(file, held)| file.size - held.written).sum();
        if !store.space().has_spare_room(Part::State, missing) {
            return Err(StoreError::Snapshot(format!(
                "{missing} bytes of it have to come and do not fit on this member's disk; free some space"
            )));
        }
        let index = files.iter().enumerate().map(|(at, file)| (file.name.clone(), at)).collect();
        let mut receiver = Self { turn, meta, files, index, progress, open: None };
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
    /// that does not match: then that file is thrown away and comes again with the next attempt.
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let refuse = |why: String| Err(StoreError::Snapshot(why));
        let Some(&at) = self.index.get(name) else {
            return refuse(format!("a piece of {name:?} came, which the manifest does not list"));
        };
        let Progress { written, crc } = self.progress[at];
        if offset != written {
            return refuse(format!("a piece of {name} came at {offset}, expected {written}"));
        }
        let size = self.files[at].size;
        let after = written + bytes.len() as u64;
        if after > size {
            return refuse(format!("{name} is longer than the {size} bytes that were announced"));
        }
        let path = self.turn.dir().join(name);
        self.file(at)?.write_all(bytes).map_err(StoreError::files("write", &path))?;
        let crc = crc32c::crc32c_append(crc, bytes);
        self.progress[at] = Progress { written: after, crc };
        if after < size {
            return Ok(());
        }
        if crc != self.files[at].crc {
            self.open = None;
            self.progress[at] = Progress::default();
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
        let Self { turn, meta, files, progress, open, .. } = self;
        drop(open);
        for (file, progress) in files.iter().zip(&progress) {
            if progress.written != file.size {
                let (name, size, written) = (&file.name, file.size, progress.written);
                return Err(StoreError::Snapshot(format!("{name} ended at {written} of {size} bytes")));
            }
        }
        files::sync(turn.dir())?;
        Ok(SnapshotFiles::received(turn, meta, files))
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

/// How much of a file is here and what it sums to. A whole file with another sum is thrown away.
fn prove(path: &Path, wanted: &SnapshotFile, checked: &AtomicU64) -> Result<Progress, StoreError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Progress::default()),
        Err(error) => return Err(StoreError::files("open", path)(error)),
    };
    let mut buffer = vec![0; CHUNK.min(usize::try_from(wanted.size).unwrap_or(CHUNK)).max(1)];
    let mut held = Progress::default();
    loop {
        let read = file.read(&mut buffer).map_err(StoreError::files("read", path))?;
        if read == 0 {
            break;
        }
        held.written += read as u64;
        held.crc = crc32c::crc32c_append(held.crc, &buffer[..read]);
        checked.fetch_add(read as u64, Ordering::Relaxed);
    }
    if held.written > wanted.size || (held.written == wanted.size && held.crc != wanted.crc) {
        fs::remove_file(path).map_err(StoreError::files("remove", path))?;
        return Ok(Progress::default());
    }
    Ok(held)
}
