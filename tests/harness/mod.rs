//! Real processes for tests: members of this project's daemon or of Debian's etcd, started alike, and the faults they meet.

pub mod checker;
pub mod cluster;
pub mod control;
pub mod ctl;
pub mod disk;
pub mod frames;
pub mod handshake;
pub mod history;
pub mod hostile;
pub mod http;
pub mod member;
pub mod net;
pub mod pem;
pub mod raw;
pub mod secure;
pub mod snapshot;
pub mod tool;
pub mod wait;
