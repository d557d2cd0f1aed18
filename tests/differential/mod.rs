//! One stream of operations to Debian's etcd and to this project's daemon, answers compared field by field.

mod generate;
mod mask;
mod v3;
