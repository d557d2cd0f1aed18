//! The export file format of v2 trees: its lines, their order, their checksum.
//!
//! One JSON object per line: a [`Header`] with the format's name and version, then every node below a prefix, then a
//! trailer with the number of nodes and the SHA-256 of everything before it. Nodes are in depth-first order, the names
//! of a directory in byte order, so that a reader can check in little memory that parents precede children and that no
//! node is duplicated or has no parent ([`order`]).
//!
//! Pure: no I/O except through [`std::io::Write`], no clock. The server writes it (`GET /v2/export`), the tools of
//! `etcd v2` read and write it. It has no node indexes: they cannot be set through any server's API (decision 046).

#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod line;
pub mod order;
mod reader;
mod writer;

pub use line::{Header, Node, parse_time};
pub use reader::{FileError, Lines, MAX_LINE_BYTES, Part, Totals};
pub use writer::{WriteError, Writer};

#[cfg(test)]
mod tests;
