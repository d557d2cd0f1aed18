//! Writes a tree, checks its order while writing, and appends count and checksum.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::line::{End, Header, Node, Trailer};
use super::order::{Order, OrderError};

/// Why a tree could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The source returned a node out of order.
    #[error("the source gave a tree that cannot be kept: {0}")]
    Order(#[from] OrderError),
    /// The output failed.
    #[error("cannot write the tree: {0}")]
    Output(#[from] io::Error),
}

impl From<serde_json::Error> for WriteError {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

/// A tree being written.
pub struct Writer<W> {
    out: W,
    order: Order,
    hash: Sha256,
    nodes: u64,
    line: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Writing the output failed.
    pub fn new(out: W, header: &Header) -> Result<Self, WriteError> {
        let order = Order::new(header.prefix.as_bytes());
        let mut writer = Self { out, order, hash: Sha256::new(), nodes: 0, line: Vec::new() };
        serde_json::to_writer(&mut writer.line, header)?;
        writer.line.push(b'\n');
        writer.flush_line()?;
        Ok(writer)
    }

    /// Writes the next node.
    ///
    /// # Errors
    /// The node is out of order, or writing the output failed.
    pub fn node(&mut self, node: &Node) -> Result<(), WriteError> {
        self.order.admit(&node.key, node.value.is_none())?;
        node.write(&mut self.line)?;
        self.nodes += 1;
        self.flush_line()
    }

    /// Writes the trailer and returns the output.
    ///
    /// # Errors
    /// Writing the output failed.
    pub fn finish(mut self) -> Result<W, WriteError> {
        let sha256 = hex(&self.hash.finalize());
        serde_json::to_writer(&mut self.out, &Trailer { end: End { nodes: self.nodes, sha256 } })?;
        self.out.write_all(b"\n")?;
        Ok(self.out)
    }

    /// The output so far.
    pub fn output(&mut self) -> &mut W {
        &mut self.out
    }

    fn flush_line(&mut self) -> Result<(), WriteError> {
        self.hash.update(&self.line);
        self.out.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
