//! Reads a tree line by line; the file is verified only with the trailer.

use sha2::{Digest, Sha256};

use super::line::{FORMAT, Header, Node, Probe, TRAILER_START, Trailer, VERSION};
use super::order::{Order, OrderError};
use super::writer::hex;

/// Maximum line length, in bytes: a value of 10 MiB with a six-byte escape for every byte, and its key.
pub const MAX_LINE_BYTES: usize = 80 << 20;

/// Why a file is not a complete, unmodified export.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not an export.
    #[error("this is no export of a v2 tree: its first line is not a header of the format {FORMAT:?}")]
    Foreign,
    /// A version this program does not know.
    #[error("this export has format version {0}; this program reads version {VERSION} (use the program that wrote it)")]
    Version(u64),
    /// A line that cannot be read.
    #[error("line {line} is damaged: {reason}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A node out of order.
    #[error("line {line} is out of place: {error}")]
    Order {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        error: OrderError,
    },
    /// No trailer.
    #[error("the export breaks off after line {0}: it has no trailer (export again)")]
    Truncated(u64),
    /// Something after the trailer.
    #[error("there is something after the end of the export, in line {0}")]
    Trailing(u64),
    /// Count or checksum differ.
    #[error("the checksum does not match: the export was changed or damaged after it was written (export again)")]
    Checksum,
}

/// A parsed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The first line.
    Header(Header),
    /// A node.
    Node(Node),
    /// The trailer; everything before it is verified.
    End(Totals),
}

/// Totals of a complete export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Directories, the exported one included unless it is the root.
    pub directories: u64,
    /// Files.
    pub files: u64,
    /// Nodes with an expiration.
    pub expiring: u64,
    /// Nodes whose path or value contains U+FFFD, with which servers replace invalid UTF-8.
    pub replaced: u64,
}

impl Totals {
    /// Counts one node.
    pub fn count(&mut self, node: &Node) {
        let replaced = |bytes: &[u8]| bytes.windows(3).any(|three| three == "\u{fffd}".as_bytes());
        match &node.value {
            None => self.directories += 1,
            Some(_) => self.files += 1,
        }
        self.expiring += u64::from(node.expiration.is_some());
        self.replaced += u64::from(replaced(&node.key) || node.value.as_deref().is_some_and(replaced));
    }

    /// Files and directories.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.directories + self.files
    }
}

/// Verifies the lines of an export one after another.
#[derive(Default)]
pub struct Lines {
    line: u64,
    order: Option<Order>,
    hash: Sha256,
    totals: Totals,
    ended: bool,
}

impl Lines {
    /// Parses and checks the next line, without its newline.
    ///
    /// # Errors
    /// The file is not a complete, unmodified export.
    pub fn take(&mut self, line: &[u8]) -> Result<Part, FileError> {
        self.line += 1;
        if self.ended {
            return Err(FileError::Trailing(self.line));
        }
        let damaged = |line, reason| FileError::Line { line, reason };
        let Some(order) = &mut self.order else {
            let header = read_header(line)?;
            self.order = Some(Order::new(header.prefix.as_bytes()));
            self.add(line);
            return Ok(Part::Header(header));
        };
        if line.starts_with(TRAILER_START) {
            return self.end(line).map(Part::End);
        }
        let node = Node::read(line).map_err(|reason| damaged(self.line, reason))?;
        let admitted = order.admit(&node.key, node.value.is_none());
        admitted.map_err(|error| FileError::Order { line: self.line, error })?;
        self.totals.count(&node);
        self.add(line);
        Ok(Part::Node(node))
    }

    /// To be called at the end of the file.
    ///
    /// # Errors
    /// The file is truncated.
    pub fn finish(&self) -> Result<(), FileError> {
        match (self.ended, self.order.is_some()) {
            (true, _) => Ok(()),
            (false, true) => Err(FileError::Truncated(self.line)),
            (false, false) => Err(FileError::Foreign),
        }
    }

    /// The error for a file that ends in the middle of a line, or a line that is too long.
    #[must_use]
    pub fn cut(&self) -> FileError {
        if self.order.is_some() { FileError::Truncated(self.line) } else { FileError::Foreign }
    }

    fn add(&mut self, line: &[u8]) {
        self.hash.update(line);
        self.hash.update(b"\n");
    }

    fn end(&mut self, line: &[u8]) -> Result<Totals, FileError> {
        let trailer: Trailer = serde_json::from_slice(line)
            .map_err(|error| FileError::Line { line: self.line, reason: error.to_string() })?;
        // It must re-encode to the same bytes, so that every byte of the file is verified, even in the trailer.
        let same = serde_json::to_vec(&trailer).is_ok_and(|again| again == line);
        let sum = hex(&std::mem::take(&mut self.hash).finalize());
        if !same || trailer.end.nodes != self.totals.nodes() || trailer.end.sha256 != sum {
            return Err(FileError::Checksum);
        }
        self.ended = true;
        Ok(self.totals)
    }
}

fn read_header(line: &[u8]) -> Result<Header, FileError> {
    let probe: Probe = serde_json::from_slice(line).map_err(|_| FileError::Foreign)?;
    if probe.format.as_deref() != Some(FORMAT) {
        return Err(FileError::Foreign);
    }
    if probe.version != Some(u64::from(VERSION)) {
        return Err(FileError::Version(probe.version.unwrap_or(0)));
    }
    let header: Header =
        serde_json::from_slice(line).map_err(|error| FileError::Line { line: 1, reason: error.to_string() })?;
    let prefix = header.prefix.as_bytes();
    if prefix != b"/" && (!prefix.starts_with(b"/") || prefix.ends_with(b"/")) {
        return Err(FileError::Line { line: 1, reason: format!("{:?} is no path of a node", header.prefix) });
    }
    Ok(header)
}
