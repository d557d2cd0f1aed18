//! What is kept on disk: the Raft log (segments) and the replicated state (RocksDB).
//!
//! The write side of the state is [`Machine`], driven by Raft alone. The read side is [`Store`], for everybody. The rules
//! of `model` decide what a command does; this module gives them a view, and writes what they answer.

mod auth;
mod backup;
mod database;
mod error;
mod events;
mod files;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod hash;
mod housekeeper;
mod install;
mod keys;
mod layers;
mod leases;
pub mod log;
mod machine;
mod merge;
mod open;
mod options;
mod overlay;
mod partial;
mod reader;
mod receiver;
mod recent;
mod records;
mod room;
mod shipping;
mod size;
mod snapshot;
mod space;
#[cfg(test)]
mod tests;
mod versions;
mod view;
pub mod watermark;

pub use backup::{EtcdFile, ExportError, Import, ImportError, Imported, file_status, import};
pub use error::StoreError;
pub(crate) use error::say_unheard;
pub use events::{AuthEvent, Batch, Event, EventKind, EventSink, Moment, Work};
pub use hash::{HashError, HashKv};
pub use machine::{MAX_REMOVED, Machine};
pub use open::open;
pub use options::StoreOptions;
pub use reader::{HistoryError, Store};
pub use receiver::{Proving, SnapshotReceiver};
pub use recent::CAPACITY as RECENT_BYTES;
#[cfg(test)]
pub use shipping::Shipping;
pub use snapshot::SnapshotFiles;
pub use space::{LogBounds, Part, Space, reserve_bytes};
#[cfg(test)]
pub use watermark::Watermark;
