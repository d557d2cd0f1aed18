//! One file of the log, and the names and directory syncs around it.
//!
//! `<sequence number>.wal` is part of the log; `spare-<random>.wal` waits to become part of it. A segment starts with a
//! header that names its number and says where the segment before it ended and with which chain, so that a shortened or
//! missing predecessor shows. A spare may hold anything: zeros, or the records of an earlier life.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::LogError;

/// Bytes of a segment's header; its first record follows.
pub(super) const HEADER: usize = 40;
/// The last byte is the format of the records and of what they hold (`raft::codec`).
const MAGIC: &[u8; 8] = b"raftlog1";
const EXTENSION: &str = "wal";
const SPARE: &str = "spare-";

/// One file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    /// Position in the log: consecutive numbers.
    pub seq: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Open for reading and writing at offsets.
    pub file: File,
    /// Bytes the file takes on disk.
    length: AtomicU64,
    /// Bytes of it that are records.
    used: AtomicU64,
}

/// What the first bytes of a segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The segment's number, as in its name.
    pub seq: u64,
    /// Random: two lives of one file never share a chain.
    pub nonce: u64,
    /// Where the segment before this one ended. 0 when there was none.
    pub previous_end: u64,
    /// The chain after the last record of the segment before this one.
    pub previous_chain: u32,
}

impl Header {
    /// The header's bytes and the chain that its first record continues.
    pub fn encode(&self) -> ([u8; HEADER], u32) {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.previous_chain.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Reads a header and the chain it starts. `None` when there is none, as in a spare that was never used.
    pub fn decode(bytes: &[u8]) -> Option<(Self, u32)> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let u64_at = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let u32_at = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let header =
            Self { seq: u64_at(8)?, nonce: u64_at(16)?, previous_end: u64_at(24)?, previous_chain: u32_at(32)? };
        let crc = crc32c::crc32c(&bytes[..36]);
        (bytes[..8] == *MAGIC && u32_at(36)? == crc).then_some((header, crc))
    }

    /// The random number that the bytes of a header name, sound or not.
    pub fn claimed_nonce(bytes: &[u8]) -> u64 {
        bytes.get(16..24).and_then(|nonce| nonce.try_into().ok()).map_or(0, u64::from_le_bytes)
    }

    /// The format character of a sound header that a newer program wrote.
    pub fn newer_format(bytes: &[u8]) -> Option<char> {
        let bytes = bytes.get(..HEADER)?;
        let sound = bytes[36..] == crc32c::crc32c(&bytes[..36]).to_le_bytes();
        (sound && bytes[..7] == MAGIC[..7] && bytes[7] > MAGIC[7]).then_some(bytes[7] as char)
    }
}

impl Segment {
    /// Opens a file that is already part of the log.
    pub fn open(path: PathBuf, seq: u64) -> Result<Self, LogError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| LogError::io("open", &path, source))?;
        let length = file.metadata().map_err(|source| LogError::io("stat", &path, source))?.len();
        Ok(Self { seq, path, file, length: length.into(), used: 0.into() })
    }

    /// Bytes the file takes on disk.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Bytes of it that are records, those that were just written included.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The records end at `offset`.
    pub fn set_used(&self, offset: u64) {
        self.used.store(offset, Ordering::Relaxed);
    }

    /// Makes `spare` segment `seq` of the log in `dir`; the new name is durable on return.
    pub fn adopt(dir: &Path, spare: Spare, seq: u64) -> Result<Self, LogError> {
        let path = dir.join(name(seq));
        fs::rename(&spare.path, &path).map_err(|source| LogError::io("rename", &spare.path, source))?;
        sync_directory(dir)?;
        Ok(Self { seq, path, file: spare.file, length: spare.filled.into(), used: 0.into() })
    }

    /// Turns a segment that the log no longer needs into a spare. The name need not be durable: an old segment that comes
    /// back after a crash is dropped again.
    pub fn retire(self, dir: &Path) -> io::Result<Spare> {
        let path = spare_path(dir);
        fs::rename(&self.path, &path)?;
        let filled = self.file.metadata()?.len();
        Ok(Spare { path, file: self.file, filled })
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<(), LogError> {
        self.length.fetch_max(offset + bytes.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(bytes, offset).map_err(|source| LogError::io("write", &self.path, source))
    }

    /// The first `wanted` bytes, or all of a shorter file.
    pub fn start_of(path: &Path, wanted: usize) -> Result<Vec<u8>, LogError> {
        let mut start = Vec::with_capacity(wanted);
        File::open(path)
            .and_then(|file| file.take(wanted as u64).read_to_end(&mut start))
            .map_err(|source| LogError::io("read", path, source))?;
        Ok(start)
    }

    /// Returns when everything written is on disk.
    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|source| LogError::io("sync", &self.path, source))
    }
}

/// A file that waits to become a segment.
#[derive(Debug)]
pub(super) struct Spare {
    path: PathBuf,
    file: File,
    /// Bytes that are allocated and written, so that overwriting them changes no metadata.
    filled: u64,
}

impl Spare {
    /// A new, empty file under a name of its own.
    pub fn create(dir: &Path) -> Result<Self, LogError> {
        let path = spare_path(dir);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| LogError::io("create", &path, source))?;
        Ok(Self { path, file, filled: 0 })
    }

    /// Takes up a spare that an earlier run left behind.
    pub fn reuse(path: PathBuf) -> Result<Self, LogError> {
        let segment = Segment::open(path, 0)?;
        Ok(Self { filled: segment.length(), path: segment.path, file: segment.file })
    }

    /// How much of the file may be overwritten without changing its metadata.
    pub fn filled(&self) -> u64 {
        self.filled
    }

    /// Removes the file.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// Writes `zeros` behind what is filled. An error (disk full) loses nothing: the file grows when it is used.
    pub fn fill(&mut self, zeros: &[u8]) -> io::Result<()> {
        self.file.write_all_at(zeros, self.filled)?;
        self.filled += zeros.len() as u64;
        Ok(())
    }

    /// A second handle on the file, to sync it while others use the spare.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

fn spare_path(dir: &Path) -> PathBuf {
    let number: u64 = rand::random();
    dir.join(format!("{SPARE}{number:016x}.{EXTENSION}"))
}

/// File name of segment `seq`.
pub(super) fn name(seq: u64) -> String {
    format!("{seq:016x}.{EXTENSION}")
}

/// What a log directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Segments by number, ascending.
    pub segments: Vec<(u64, PathBuf)>,
    /// Spares, in no order.
    pub spares: Vec<PathBuf>,
}

/// Lists `dir`. Files with other names are left alone.
pub(super) fn list(dir: &Path) -> Result<Listing, LogError> {
    let mut listing = Listing::default();
    let failed = |source| LogError::io("list", dir, source);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if stem.starts_with(SPARE) {
            listing.spares.push(path);
        } else if let Ok(seq) = u64::from_str_radix(stem, 16) {
            listing.segments.push((seq, path));
        }
    }
    listing.segments.sort_unstable();
    Ok(listing)
}

/// Makes names in `dir` durable.
pub(super) fn sync_directory(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| LogError::io("sync directory", dir, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_no_flipped_byte_passes() {
        let header = Header { seq: 3, nonce: 9, previous_end: 1 << 40, previous_chain: 7 };
        let (bytes, chain) = header.encode();
        assert_eq!(Header::decode(&bytes), Some((header, chain)));
        for position in 0..HEADER {
            let mut flipped = bytes;
            flipped[position] ^= 1;
            assert_eq!(Header::decode(&flipped), None, "byte {position}");
        }
        assert_eq!(Header::decode(&[0; 64]), None);
    }
}
