//! Scenarios on real processes: crashes, partitions, bad input, membership, and the stock command line.

mod auth;
mod bad_input;
mod bad_tls;
mod crash;
mod etcdctl;
mod membership;
mod partition;
mod power;
mod register;
mod writers;
