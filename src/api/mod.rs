//! The client port: etcd's v3 API over gRPC and plain HTTP beside it, as one service.
//!
//! [`service::ClientService`] tells the two apart by content type. v3 methods live in [`v3`], one file per gRPC service;
//! what they share is [`state`] (the replica and its limits), [`call`] (who is admitted and how long it may take),
//! [`identity`] (who that is), [`access`] (what he may) and [`error`] (the one table of codes and sentences). All methods
//! and routes stand in [`methods`] and [`routes`], the right that each asks for in [`rights`].
//!
//! Invariants: nothing here changes replicated state except through [`call::Call::propose`]; a linearizable answer is
//! read only after [`call::Call::read_barrier`]; no method waits longer than its call's deadline.

pub mod access;
mod body;
pub mod call;
mod debug;
pub mod error;
mod exposition;
pub mod gateway;
mod gather;
mod health;
mod host;
pub mod http;
pub mod identity;
mod key_count;
pub mod leader;
mod limited;
pub mod methods;
pub mod metrics;
mod paid;
mod process;
mod quota;
pub mod rights;
pub mod routes;
pub mod service;
pub mod state;
mod stream;
pub mod v2;
pub mod v3;

#[cfg(test)]
mod tests;
