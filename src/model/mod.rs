//! The state machine: the effects of a committed command. Pure: no I/O, clock, randomness or async below this module.
//!
//! [`apply::apply`] takes a view of the state, a command and its log position, and returns all effects as plain data.
//! Replicas agree because the rules have no input that differs between them.
//!
//! Besides apply: [`check`] and [`quota`] run before a command is proposed, [`kv::range`] and [`txn::read_only`] answer
//! reads with the same code that transactions use, and [`invariants`] holds for the effects of every command.

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
