//! Scenarios on real processes: crashes, partitions, bad input, membership, and the stock command line.

mod auth;
mod bad_input;
mod bad_tls;
mod command_line;
mod corruption;
mod crash;
mod disk_full;
mod etcdctl;
mod etcdctl_session;
mod etcdctl_words;
mod floods;
mod force_new;
mod hosts;
mod leaderless;
mod listeners;
mod membership;
mod partition;
mod power;
mod register;
mod snapshot;
mod v2_data;
mod v2_health;
mod v2_lifetimes;
mod v2_waiting;
mod v3_watching;
mod writers;
