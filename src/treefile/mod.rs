//! The file that carries a v2 tree from one cluster to another: its lines, their order, their checksum.
//!
//! One JSON object a line: a [`Header`] with the format's name and version, then every node below a prefix, then a
//! trailer with the number of nodes and the SHA-256 of everything before it. Nodes come depth first, the names of a
//! directory in byte order, so that a reader needs no memory to know that parents come before children, that nothing
//! comes twice, and that nothing is missing in between ([`order`]).
//!
//! Pure: no I/O but through [`std::io::Write`], no clock. The server writes it (`GET /v2/export`), the tools of `etcd v2`
//! read and write it. Indexes are not in it: no server can be told them (decision 046).

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
