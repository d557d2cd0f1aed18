//! Consensus: openraft behind our own words.

pub mod types;
