//! The parts of the side-by-side benchmark.

pub mod auth;
pub mod cluster;
pub mod load;
pub mod report;
pub mod syncs;
pub mod v2;
pub mod wire;
