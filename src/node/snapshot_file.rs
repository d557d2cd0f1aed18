//! A snapshot file on disk: the database, and behind it its SHA-256 when it came through the API.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::bbolt::Reader;
use crate::settings::SnapshotStatus;
use crate::store::{ImportError, file_status};

/// Length of the checksum.
const SUM: u64 = 32;
/// Databases are whole sectors long: a remainder of [`SUM`] is a checksum.
const SECTOR: u64 = 512;
/// Read buffer, bytes.
const BUFFER: usize = 1 << 20;

/// Why a snapshot file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read snapshot file {path}: {cause}")]
    Files {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// It is no file.
    #[error("{0} is no regular file; name the file that etcdctl snapshot save wrote")]
    NoFile(PathBuf),
    /// It has no checksum.
    #[error(
        "snapshot missing hash but --skip-hash-check=false: {0} is cut short, or a copy of a database file; \
         take a new snapshot, or give --skip-hash-check if you trust the file"
    )]
    NoSum(PathBuf),
    /// Its checksum is another.
    #[error("expected sha256 {wanted}, got {found}: {path} is damaged; use another copy")]
    Sum {
        /// The file.
        path: PathBuf,
        /// As the file says.
        wanted: String,
        /// As it is.
        found: String,
    },
    /// It is not what etcd or this program writes.
    #[error("{path}: {cause}")]
    Contents {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: ImportError,
    },
}

/// A file whose checksum was looked at.
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    /// Bytes of the database.
    pub len: u64,
    /// SHA-256 of the database.
    pub sum: [u8; SUM as usize],
}

impl SnapshotFile {
    /// Opens a file and compares it with the checksum behind it.
    ///
    /// # Errors
    /// It cannot be read, has no checksum, or another one; with `trusted` only the first.
    pub fn open(path: &Path, trusted: bool) -> Result<Self, FileError> {
        let unreadable = |cause| FileError::Files { path: path.to_owned(), cause };
        let file = File::open(path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?;
        if !found.is_file() {
            return Err(FileError::NoFile(path.to_owned()));
        }
        let has_sum = found.len() % SECTOR == SUM;
        if !has_sum && !trusted {
            return Err(FileError::NoSum(path.to_owned()));
        }
        let len = if has_sum { found.len() - SUM } else { found.len() };
        let sum = sum_of(&file, len).map_err(unreadable)?;
        if has_sum && !trusted {
            let mut wanted = [0; SUM as usize];
            file.read_exact_at(&mut wanted, len).map_err(unreadable)?;
            if wanted != sum {
                let (wanted, found) = (hexadecimal(&wanted), hexadecimal(&sum));
                return Err(FileError::Sum { path: path.to_owned(), wanted, found });
            }
        }
        Ok(Self { path: path.to_owned(), file, len, sum })
    }

    /// The database.
    ///
    /// # Errors
    /// The file is none.
    pub fn reader(&self) -> Result<Reader<File>, FileError> {
        let file = self.file.try_clone().map_err(|cause| FileError::Files { path: self.path.clone(), cause })?;
        Reader::open(file, self.len).map_err(|error| self.refuse(error.into()))
    }

    /// For what was found inside.
    pub fn refuse(&self, cause: ImportError) -> FileError {
        FileError::Contents { path: self.path.clone(), cause }
    }
}

fn sum_of(file: &File, len: u64) -> io::Result<[u8; SUM as usize]> {
    let mut hash = Sha256::new();
    let mut rest = file.take(len);
    let mut buffer = vec![0; BUFFER];
    loop {
        match rest.read(&mut buffer)? {
            0 if rest.limit() > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `etcd snapshot status`: the line to print.
///
/// # Errors
/// The file is damaged, or none.
pub fn status(asked: &SnapshotStatus) -> Result<String, FileError> {
    // A database copied from a data directory has no checksum, and may still be looked at.
    let file = match SnapshotFile::open(&asked.file, false) {
        Err(FileError::NoSum(path)) => SnapshotFile::open(&path, true)?,
        opened => opened?,
    };
    let found = file_status(file.reader()?).map_err(|cause| file.refuse(cause))?;
    Ok(if asked.json {
        serde_json::json!({
            "hash": found.hash, "revision": found.revision, "totalKey": found.changes, "totalSize": found.size,
            "version": found.version,
        })
        .to_string()
    } else {
        let size = human(found.size);
        format!("{:x}, {}, {}, {size}, {}", found.hash, found.revision, found.changes, found.version)
    })
}

/// Bytes as people read them, in powers of a thousand.
fn human(bytes: u64) -> String {
    let (mut value, mut units) = (bytes as f64, ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter());
    let mut unit = units.next().unwrap_or_default();
    while value >= 1000.0
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1000.0, next);
    }
    let digits = usize::from(value < 10.0 && bytes >= 1000);
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(contents: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(contents).expect("written");
        file
    }

    #[test]
    fn a_file_is_believed_only_with_its_checksum_or_on_demand() {
        let database = vec![7; 1024];
        let sum: [u8; 32] = Sha256::digest(&database).into();
        let whole = [database.clone(), sum.to_vec()].concat();
        let opened = SnapshotFile::open(file(&whole).path(), false).expect("whole");
        assert_eq!((opened.len, opened.sum), (1024, sum));
        assert!(matches!(SnapshotFile::open(file(&database).path(), false), Err(FileError::NoSum(_))));
        assert_eq!(SnapshotFile::open(file(&database).path(), true).expect("trusted").len, 1024);
        for bit in [0, 8 * 1024, 8 * 1055] {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1;
            let error = SnapshotFile::open(file(&flipped).path(), false).err().expect("damaged").to_string();
            assert!(error.starts_with("expected sha256 "), "{error}");
        }
        for cut in [0, 1, 512, 1023, 1055] {
            assert!(SnapshotFile::open(file(&whole[..cut]).path(), false).is_err(), "cut at {cut}");
        }
        assert!(matches!(SnapshotFile::open(Path::new("/tmp"), false), Err(FileError::NoFile(_))));
    }

    #[test]
    fn sizes_print_as_etcds_tools_print_them() {
        let table = [(0, "0 B"), (999, "999 B"), (20_480, "20 kB"), (2_104_000, "2.1 MB"), (25_000_000_000, "25 GB")];
        for (bytes, text) in table {
            assert_eq!(human(bytes), text);
        }
    }
}
