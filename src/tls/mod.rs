//! TLS of the listeners and of calls to peers: rustls configurations made from PEM files, checked
//! when they are loaded and loaded again when the files change.
//!
//! What holds true: a bad file at start is an error that names it; a bad file later leaves the last
//! good configuration in force and one error line in the log; once a trusted authority is given, no
//! connection without a certificate of that authority passes; every reload starts with no
//! remembered sessions, so a revoked certificate cannot slip in by resumption.

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
