//! Receiving a snapshot from a peer: files arrive in pieces, are checked as they come, and become a [`SnapshotFiles`].

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::error::StoreError;
use super::files;
use super::reader::Store;
use super::snapshot::{SnapshotFile, SnapshotFiles, decode_manifest};
use super::space::Part;
use crate::raft::types::SnapshotMeta;

/// A snapshot on its way in. Dropping it before [`finish`](Self::finish) throws away what has come.
pub struct SnapshotReceiver {
    dir: PathBuf,
    meta: SnapshotMeta,
    files: Vec<SnapshotFile>,
    index: HashMap<String, usize>,
    progress: Vec<Progress>,
    /// The file being written, by position in `files`.
    open: Option<(usize, File)>,
    finished: bool,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    written: u64,
    crc: u32,
}

impl SnapshotReceiver {
    /// Reads the sender's [`manifest`](SnapshotFiles::manifest) and makes room for its files.
    ///
    /// # Errors
    /// A manifest that is damaged, of a newer format, names files as RocksDB would not, or announces more than fits.
    pub fn begin(store: &Store, manifest: &[u8]) -> Result<Self, StoreError> {
        let (meta, files) = decode_manifest(manifest)?;
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        if !store.space().has_spare_room(Part::State, bytes) {
            return Err(StoreError::Snapshot(format!(
                "its {bytes} bytes do not fit on this member's disk; free some space"
            )));
        }
        let dir = store.shared.snapshots.receiving();
        files::private_dir(&dir)?;
        let index = files.iter().enumerate().map(|(at, file)| (file.name.clone(), at)).collect();
        let progress = vec![Progress::default(); files.len()];
        let mut receiver = Self { dir, meta, files, index, progress, open: None, finished: false };
        for at in 0..receiver.files.len() {
            // Empty files get no piece.
            receiver.file(at)?;
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

    #[cfg(test)]
    /// Bytes of `name` that have come; the next piece starts there. `None` for a file that is not in the manifest.
    pub fn written(&self, name: &str) -> Option<u64> {
        self.index.get(name).map(|&at| self.progress[at].written)
    }

    /// Adds a piece of a file. Pieces of one file come in order; files may come in any order. Blocks on the disk.
    ///
    /// # Errors
    /// A file that was not announced, a piece that leaves a gap or goes beyond the file's size, a failed write.
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
        let path = self.dir.join(name);
        self.file(at)?.write_all(bytes).map_err(StoreError::files("write", path))?;
        self.progress[at] = Progress { written: after, crc: crc32c::crc32c_append(crc, bytes) };
        Ok(())
    }

    /// Checks that everything has come unharmed, syncs it, and hands it over for install. Blocks on the disk.
    ///
    /// # Errors
    /// A file that is short or whose checksum does not match; a failed sync.
    pub fn finish(mut self) -> Result<SnapshotFiles, StoreError> {
        self.open = None;
        for (file, progress) in self.files.iter().zip(&self.progress) {
            if progress.written != file.size {
                let (name, size, written) = (&file.name, file.size, progress.written);
                return Err(StoreError::Snapshot(format!("{name} ended at {written} of {size} bytes")));
            }
            if progress.crc != file.crc {
                return Err(StoreError::Snapshot(format!("the checksum of {} does not match", file.name)));
            }
            files::sync(&self.dir.join(&file.name))?;
        }
        files::sync(&self.dir)?;
        self.finished = true;
        let received = SnapshotFiles::new(self.dir.clone(), self.meta.clone(), std::mem::take(&mut self.files));
        // Until install gives the directory its final name, nobody else will clean it up.
        received.retire();
        Ok(received)
    }

    fn file(&mut self, at: usize) -> Result<&mut File, StoreError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != at) {
            let path = self.dir.join(&self.files[at].name);
            let file = File::options().create(true).append(true).open(&path);
            self.open = Some((at, file.map_err(StoreError::files("create", path))?));
        }
        let (_, file) = self.open.as_mut().expect("the file was opened just above");
        Ok(file)
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = files::remove_dir(&self.dir)
        {
            tracing::warn!(%error, "could not remove a snapshot that never arrived; the next start does");
        }
    }
}
