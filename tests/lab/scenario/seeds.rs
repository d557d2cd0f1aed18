//! Deploys of three units under many seeds: other delays, other orders, other first leaders.

use std::path::Path;
use std::time::Instant;

use super::cluster::Cluster;
use crate::client::Lab;
use crate::demo::unit_names;
use crate::world::Options;

/// Longer pauses than usual, so that the seeds differ.
const JITTER_MS: u64 = 1_500;

pub(super) fn run(lab: &Lab, charm: &Path, count: u64) -> Result<(), String> {
    for seed in 1..=count {
        let begun = Instant::now();
        let options = Options { seed, jitter_ms: JITTER_MS, ..Options::default() };
        let mut cluster = Cluster::deploy(lab, charm, 3, &options)?;
        let report = cluster.wait_healthy(3).map_err(|error| format!("seed {seed}: {error}"))?;
        let leader = cluster.juju_leader(&report).unwrap_or_default();
        let first = unit_names(&report, &cluster.app).remove(0);
        cluster.fetch_credentials(&first)?;
        cluster.check_members(&report).map_err(|error| format!("seed {seed}: {error}"))?;
        let failed = cluster.failed_hooks()?;
        println!(
            "seed {seed}: healthy after {} s, leader {leader}, failed hooks {failed:?}",
            begun.elapsed().as_secs()
        );
        lab.destroy()?;
    }
    println!("seeds: PASSED, {count} of {count}");
    Ok(())
}
