//! Export files: replaced atomically when written, and verified before they are used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::MigrateError;
use crate::treefile::{FileError, Header, Lines, MAX_LINE_BYTES, Node, Part, Totals};

const BUFFER_BYTES: usize = 256 << 10;

/// Whether the path stands for standard input or output.
pub fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A new file that replaces an old one only once complete; values may be secret, so only its owner can read it.
pub struct Pending {
    part: PathBuf,
    path: PathBuf,
    out: BufWriter<File>,
}

impl Pending {
    /// Creates the temporary file beside the target.
    pub fn begin(path: &Path) -> Result<Self, MigrateError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
        let out = BufWriter::with_capacity(BUFFER_BYTES, opened.map_err(failed("write", &part))?);
        Ok(Self { part, path: path.to_owned(), out })
    }

    /// Syncs the file and renames it to the target.
    pub fn finish(mut self) -> Result<(), MigrateError> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        synced.and_then(|()| fs::rename(&self.part, &self.path)).map_err(failed("write", &self.path))?;
        Ok(())
    }
}

impl Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _gone = fs::remove_file(&self.part);
    }
}

/// A verified export, kept open, so that later reads get the verified file; writes to it in between are detected.
pub struct Spool {
    path: PathBuf,
    file: File,
    pub header: Header,
    pub totals: Totals,
}

impl Spool {
    /// Verifies the export in `path`; standard input is first copied to an unnamed file.
    pub fn open(path: &Path) -> Result<Self, MigrateError> {
        if is_dash(path) {
            let path = PathBuf::from("standard input");
            let mut kept = nameless()?;
            io::copy(&mut io::stdin().lock(), &mut kept).map_err(failed("read", &path))?;
            return Self::prove(path, kept);
        }
        let file = File::open(path).map_err(failed("read", path))?;
        Self::prove(path.to_owned(), file)
    }

    /// Verifies an export that was just written to `file`.
    pub fn prove(path: PathBuf, mut file: File) -> Result<Self, MigrateError> {
        file.seek(SeekFrom::Start(0)).map_err(failed("read", &path))?;
        let mut parts = Parts::new(&path, &file);
        let (mut header, mut totals) = (None, Totals::default());
        while let Some(part) = parts.next()? {
            match part {
                Part::Header(first) => header = Some(first),
                Part::End(counted) => totals = counted,
                Part::Node(_) => {}
            }
        }
        let header = header.ok_or_else(|| MigrateError::File { path: path.clone(), error: FileError::Foreign })?;
        Ok(Self { path, file, header, totals })
    }

    /// The nodes from the start. They are verified again while reading.
    pub fn nodes(&mut self) -> Result<impl Iterator<Item = Result<Node, MigrateError>> + '_, MigrateError> {
        self.file.seek(SeekFrom::Start(0)).map_err(failed("read", &self.path))?;
        let mut parts = Parts::new(&self.path, &self.file);
        Ok(std::iter::from_fn(move || {
            loop {
                match parts.next() {
                    Ok(Some(Part::Node(node))) => return Some(Ok(node)),
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(MigrateError::File { path, error }) => return Some(Err(MigrateError::Changed { path, error })),
                    Err(error) => return Some(Err(error)),
                }
            }
        }))
    }
}

/// An unnamed temporary file, deleted when closed.
pub fn nameless() -> Result<File, MigrateError> {
    tempfile::tempfile().map_err(failed("write", &std::env::temp_dir()))
}

/// The lines of a file, checked.
struct Parts<'f> {
    path: &'f Path,
    input: BufReader<&'f File>,
    lines: Lines,
    line: Vec<u8>,
}

impl<'f> Parts<'f> {
    fn new(path: &'f Path, file: &'f File) -> Self {
        let input = BufReader::with_capacity(BUFFER_BYTES, file);
        Self { path, input, lines: Lines::default(), line: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<Part>, MigrateError> {
        let bad = |error| MigrateError::File { path: self.path.to_owned(), error };
        self.line.clear();
        let mut limited = (&mut self.input).take(MAX_LINE_BYTES as u64);
        let read = limited.read_until(b'\n', &mut self.line).map_err(failed("read", self.path))?;
        if read == 0 {
            return self.lines.finish().map(|()| None).map_err(bad);
        }
        // A last line without its newline means a truncated file.
        let whole = self.line.pop() == Some(b'\n');
        if !whole {
            return Err(bad(self.lines.cut()));
        }
        self.lines.take(&self.line).map(Some).map_err(bad)
    }
}

fn failed<'p>(doing: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> MigrateError + use<'p> {
    move |source| MigrateError::Io { doing, path: path.to_owned(), source }
}
