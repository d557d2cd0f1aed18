//! Users, roles and the switch of v2 authentication (reference: etcd-v2 §8).
//!
//! They lie beside the tree, invisible to it and to watchers, but every change of them takes an index of the same
//! keyspace. [`rules`] says what a change does, [`access`] who may touch what. Pure: passwords arrive hashed, because
//! hashing draws a random salt and costs more time than apply has.

mod access;
mod rules;
pub mod types;

pub use access::{Want, may};
pub use rules::{enabled, role, roles, user, users};
pub(super) use rules::{run, switched_on};

/// The user who may do everything about users, roles, the switch and members.
pub const ROOT: &str = "root";

/// The role whose permissions hold for requests without credentials.
pub const GUEST: &str = "guest";

#[cfg(test)]
mod tests;
