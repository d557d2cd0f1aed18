//! One stream of operations to Debian's etcd and to this project's daemon, answers compared field by field.

mod auth;
mod gateway;
mod generate;
mod generate_auth;
mod generate_gateway;
mod generate_v2;
mod mask;
mod v2;
mod v2_defects;
mod v2_requests;
mod v2_session;
mod v3;
mod watch;
