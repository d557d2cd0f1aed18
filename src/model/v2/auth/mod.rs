//! Users, roles and the enabled flag of v2 authentication (reference: etcd-v2 §8).
//!
//! They are stored beside the tree, invisible to it and to watchers, but every change of them takes an index of the
//! same keyspace. [`rules`] applies changes, [`access`] checks permissions. Pure: passwords arrive hashed, because
//! hashing draws a random salt and is too slow for apply.

mod access;
mod rules;
pub mod types;

pub use access::{Want, may};
pub use rules::{enabled, role, roles, user, users};
pub(super) use rules::{run, switched_on};

/// The user who may manage users, roles, members and whether authentication is enabled.
pub const ROOT: &str = "root";

/// The role whose permissions apply to requests without credentials.
pub const GUEST: &str = "guest";

#[cfg(test)]
mod tests;
