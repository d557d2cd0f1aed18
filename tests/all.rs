//! One test binary, so that the crate links once: house rules, scenarios on real processes, comparisons with real etcd.

mod differential;
mod harness;
mod scenarios;
mod tidy;
