//! Members of real clusters in one process: real logs, real state, real sockets on loopback.

mod change;
mod cluster;
mod full;
mod log_bounds;
mod peers;
mod replicate;
mod shipping;
