//! Real processes for tests: members of this project's daemon or of Debian's etcd, started alike.

pub mod cluster;
pub mod member;
pub mod wait;
