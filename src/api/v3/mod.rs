//! etcd's v3 services: one file per gRPC service.
//!
//! Every method has the same four beats: admit and check the request, propose it or read, fill the header, map the
//! error. The core of each is a plain async function over [`State`](super::state::State) and
//! [`Call`](super::call::Call); the trait implementations only translate to and from tonic.

pub mod auth;
pub mod cluster;
pub mod election;
pub mod health;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
mod queue;
pub mod reads;
pub mod snapshot;
pub mod watch;
