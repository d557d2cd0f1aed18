//! TLS of the listeners and of calls to peers: rustls configurations built from PEM files, validated
//! when loaded and reloaded when the files change.
//!
//! Invariants: a bad file at start is an error that names it; with a bad file later, the last good
//! configuration stays in force and one error is logged; once a trusted CA is configured, every
//! connection needs a certificate from that CA; every reload starts with an empty session cache, so
//! a revoked certificate cannot be used through session resumption.

mod client;
mod error;
mod files;
mod identity;
mod policy;
mod reload;
mod self_signed;
mod server;
mod verify;

pub use client::{ClientTls, one_shot};
pub use error::{TlsError, reason_of};
pub use identity::PeerIdentity;
#[cfg(test)]
pub use policy::{CLIENT_PORT, PEER_PORT};
pub use server::ServerTls;

#[cfg(test)]
pub mod fixtures;
#[cfg(test)]
mod tests;
