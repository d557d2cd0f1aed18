//! The store behind the `etcd` charm: a replicated key-value daemon that speaks etcd's v3 and v2 APIs.
//!
//! # Import law
//!
//! `model` is pure: std and plain data crates only. `bbolt` knows a file format and nothing else. `store` sees these two;
//! `raft` sees `store` and `model`; `watch` sees `model` and the read side of `store`; `api` sees `raft`, `watch` and `model`; `node` sees all. The charm sees `settings`, `client` and
//! `pki`, and nothing else. Each foreign crate has one address: RocksDB in `store`, openraft in `raft` (and the two files
//! of `store` that implement its storage traits), tonic in `api`, `raft::network`, `client` and `proto`.
//! `treefile` is a pure format that `api` writes and `migrate` reads; `migrate` holds the tools of `etcd v2`, which are
//! clients: they see `client`, `treefile` and `tls`, and nothing of a running member.
//! `fuzzing` is the door of the fuzz targets: it sees all, and there is none in a build that ships.
//! `tests/tidy.rs` reads the `use` lines and fails on a breach.

pub mod client;
pub mod migrate;
pub mod node;
pub mod pki;
pub mod proto;
pub mod settings;

mod admission;
mod api;
mod bbolt;
mod clock;
mod corruption;
#[cfg(fuzzing)]
pub mod fuzzing;
mod histogram;
mod listen;
mod logging;
mod model;
mod raft;
mod store;
mod timers;
mod tls;
mod treefile;
mod watch;
mod work;
