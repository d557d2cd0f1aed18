//! `kill -9` under load: of one member after another, and of all at once.
//!
//! `CRASH_SECONDS` sets for how long members are killed, `CRASH_SEED` which.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::writers::Load;
use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::wait::{setting, turn};

/// From one kill to the next.
const PACE: Duration = Duration::from_secs(1);
/// Writes that must get through before and after the kills.
const ENOUGH: i64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_keep_every_acknowledged_write_through_kills_of_one_and_of_all() {
    kills(3, setting("CRASH_SECONDS", 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_keeps_every_acknowledged_write_through_kills() {
    kills(1, setting("CRASH_SECONDS", 20).div_ceil(2)).await;
}

async fn kills(size: usize, seconds: u64) {
    let _turn = turn().await;
    let mut random = SmallRng::seed_from_u64(setting("CRASH_SEED", 1));
    let mut cluster = Cluster::start(Product::Ours, size, &[]).await;
    let load = Load::start(&cluster, "crash");
    load.proceeds(ENOUGH).await;
    let mut pace = tokio::time::interval(PACE);
    for _ in 0..seconds {
        pace.tick().await;
        let victim = random.random_range(0..size);
        assert!(cluster.members[victim].is_running(), "member {victim} ended by itself");
        cluster.members[victim].crash();
        cluster.members[victim].start();
    }
    load.proceeds(ENOUGH).await;
    cluster.members.iter_mut().for_each(|member| member.crash());
    cluster.members.iter_mut().for_each(|member| member.start());
    load.proceeds(ENOUGH).await;
    let acknowledged = load.stop().await;
    let revision = cluster.assert_equal_hashes().await;
    for n in 0..size {
        acknowledged.assert_all_in(&cluster, n).await;
    }
    println!("{size} members, {seconds} kills of one and one of all: equal hashes at revision {revision}");
}
