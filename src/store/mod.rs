//! What is kept on disk: the Raft log (segments) and the replicated state (RocksDB).

pub mod log;
pub mod watermark;
