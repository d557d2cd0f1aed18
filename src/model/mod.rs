//! What a committed command means. Pure: no I/O, clock, randomness or async anywhere below this module.
//!
//! [`apply::apply`] takes a view of the state, a command and its position in the log, and returns every effect of it as
//! plain data. Replicas agree because the rule cannot see anything that differs between them.
//!
//! Outwards from the rules: [`check`] and [`quota`] are asked before a command is proposed, [`kv::range`] and
//! [`txn::read_only`] answer reads with the very code that transactions use, [`invariants`] says what every effect obeys.

pub mod alarm;
pub mod apply;
pub mod auth;
pub mod check;
pub mod command;
pub mod compact;
pub mod effects;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub mod gate;
pub mod invariants;
pub mod kv;
pub mod lease;
#[cfg(any(test, fuzzing))]
pub(crate) mod memory;
pub mod quota;
pub mod record;
#[cfg(test)]
pub(crate) mod tests;
pub mod txn;
pub mod v2;
pub mod view;
