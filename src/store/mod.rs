//! What is kept on disk: the Raft log (segments) and the replicated state (RocksDB).
//!
//! The write side of the state is [`Machine`], driven by Raft alone. The read side is [`Store`], for everybody. The rules
//! of `model` decide what a command does; this module gives them a view, and writes what they answer.

mod database;
mod error;
mod events;
mod files;
mod hash;
mod housekeeper;
mod install;
mod keys;
mod leases;
pub mod log;
mod machine;
mod open;
mod options;
mod overlay;
mod reader;
mod receiver;
mod records;
mod size;
mod snapshot;
mod spill;
mod tail;
#[cfg(test)]
mod tests;
mod versions;
mod view;
pub mod watermark;
mod worker;

pub use error::StoreError;
pub use events::{Batch, Event, EventKind, EventSink};
pub use hash::HashError;
pub use machine::Machine;
pub use open::open;
pub use options::StoreOptions;
pub use reader::{HistoryError, Store};
pub use receiver::SnapshotReceiver;
pub use snapshot::SnapshotFiles;
#[cfg(test)]
pub use tail::TailLimits;
#[cfg(test)]
pub use watermark::Watermark;
