//! One stream of operations to Debian's etcd and to this project's daemon, answers compared field by field.

mod auth;
mod generate;
mod generate_auth;
mod generate_v2;
mod mask;
mod v2;
mod v3;
