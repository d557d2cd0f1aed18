//! Consensus: openraft behind our own words.

pub mod codec;
pub mod types;
