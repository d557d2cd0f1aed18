//! The client port against a real member: one voter in this process, its log and state in a temporary directory, called
//! through the generated clients without a network between.

mod auth;
mod doors;
mod gateway;
mod http;
mod kv;
mod lease;
mod limits;
mod member;
mod queue;
mod watch;
