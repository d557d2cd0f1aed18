//! What a committed command means. Pure: no I/O, clock, randomness or async anywhere below this module.
//!
//! [`apply::apply`] takes a view of the state, a command and its position in the log, and returns every effect of it as
//! plain data. Replicas agree because the rule cannot see anything that differs between them.

pub mod command;
pub mod effects;
pub mod record;
pub mod v2;
pub mod view;
