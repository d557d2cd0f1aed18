//! The durable mark: a small file beside the segments that says up to where the log was synced.
//!
//! Written after every sync of the log, and itself synced about once a second. It is therefore exact after a crash of the
//! process, and at most a second old after a power cut; it never claims more than is on disk. At the next start, damage
//! before the mark is loss of something acknowledged, damage behind it is a write that nobody was told of.
//!
//! The file's lock keeps a second process out of the log.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::LogError;

const FILE: &str = "mark";
/// Two slots are written in turn, so that one of them is whole whatever happens to the other.
const SLOT: usize = 32;

/// A place in the log: a segment's number and an offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Segment number.
    pub seq: u64,
    /// Offset of the first byte behind.
    pub offset: u64,
}

/// The mark's file, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    turn: u64,
}

impl Mark {
    /// Opens or creates the mark in `dir`, takes the lock and reads the latest place; `None` on a fresh log.
    pub fn open(dir: &Path) -> Result<(Self, Option<Place>), LogError> {
        let path = dir.join(FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| LogError::io("open", &path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::Busy { dir: dir.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(LogError::io("lock", &path, source)),
        }
        let mut bytes = [0; 2 * SLOT];
        let mut length = 0;
        while length < bytes.len() {
            match file.read_at(&mut bytes[length..], length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(source) => return Err(LogError::io("read", &path, source)),
            }
        }
        let latest = bytes.chunks(SLOT).filter_map(decode).max();
        let turn = latest.map_or(0, |(turn, _)| turn);
        Ok((Self { file, path, turn }, latest.map(|(_, place)| place)))
    }

    /// Records that the log is on disk up to `place`. Not synced.
    pub fn write(&mut self, place: Place) -> Result<(), LogError> {
        self.turn += 1;
        let slot = (self.turn % 2) * SLOT as u64;
        let bytes = encode(self.turn, place);
        self.file.write_all_at(&bytes, slot).map_err(|source| LogError::io("write", &self.path, source))
    }

    /// A second handle on the file, to sync it from another thread.
    pub fn handle(&self) -> Result<File, LogError> {
        self.file.try_clone().map_err(|source| LogError::io("open", &self.path, source))
    }
}

fn encode(turn: u64, place: Place) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    bytes[..8].copy_from_slice(&turn.to_le_bytes());
    bytes[8..16].copy_from_slice(&place.seq.to_le_bytes());
    bytes[16..24].copy_from_slice(&place.offset.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(slot: &[u8]) -> Option<(u64, Place)> {
    let u64_at = |at: usize| slot.get(at..at + 8)?.try_into().map(u64::from_le_bytes).ok();
    let crc = slot.get(24..28)?.try_into().map(u32::from_le_bytes).ok()?;
    let (turn, seq, offset) = (u64_at(0)?, u64_at(8)?, u64_at(16)?);
    (turn != 0 && crc == crc32c::crc32c(&slot[..24])).then_some((turn, Place { seq, offset }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_place_is_read_back_and_a_torn_slot_falls_back_to_the_one_before() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut mark, none) = Mark::open(dir.path()).expect("opens");
        assert_eq!(none, None);
        for offset in 1..=3 {
            mark.write(Place { seq: 1, offset }).expect("writes");
        }
        drop(mark);
        let (mark, place) = Mark::open(dir.path()).expect("opens");
        assert_eq!(place, Some(Place { seq: 1, offset: 3 }));
        mark.file.write_all_at(&[0xFF; 4], SLOT as u64 + 8).expect("damages the newest slot");
        drop(mark);
        let (_, place) = Mark::open(dir.path()).expect("opens");
        assert_eq!(place, Some(Place { seq: 1, offset: 2 }));
    }

    #[test]
    fn a_second_opener_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let _held = Mark::open(dir.path()).expect("opens");
        assert!(matches!(Mark::open(dir.path()), Err(LogError::Busy { .. })));
    }
}
