//! Units go, and new ones come to the addresses they had, while Juju goes on listing those that are gone: in
//! Juju 4 it tells an agent of a departure only when the agent starts again.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::cluster::{Cluster, STAGE_LIMIT};
use super::writer::Writer;
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::status::report::Report;
use crate::world::Options;
use crate::world::generation::Generation;

/// Prefix of the writer's keys.
const PREFIX: &str = "reuse/";

/// Writes that must succeed in each round.
const WRITES: usize = 50;

/// How long those may take.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Units that stay listed before an agent is started again.
const ROUNDS_BETWEEN_RESTARTS: u32 = 5;

pub(super) fn run(lab: &Lab, charm: &Path, rounds: u32, seed: u64) -> Result<(), String> {
    let withhold_departures = lab.generation == Generation::Juju4;
    let options = Options {
        seed,
        lease_ms: 10_000,
        update_status_ms: 10_000,
        reuse_machines: true,
        withhold_departures,
        ..Options::default()
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::deploy(lab, charm, 2, &options)?;
    let report = cluster.wait_healthy(2)?;
    let mut units = unit_names(&report, &cluster.app);
    cluster.fetch_credentials(&units[0])?;
    let writer = Writer::start(PREFIX, cluster.endpoints(&report), &cluster.credentials)?;
    for round in 1..=rounds {
        let begun = Instant::now();
        writer.wait_progress(WRITES, WRITE_LIMIT)?;
        let going = units.remove(rng.random_range(0..units.len()));
        let address =
            |report: &Report, unit: &str| report.applications[&cluster.app].units[unit].public_address.clone();
        let used = address(&lab.status()?, &going);
        lab.ask(&Request::RemoveUnit { units: vec![going.clone()], force: false })?;
        let gone = |report: &Report| !report.applications[&cluster.app].units.contains_key(&going);
        let report = lab.wait_until(&format!("the end of {going}"), STAGE_LIMIT, &mut |_| {}, &gone)?;
        writer.set_endpoints(cluster.endpoints(&report));
        if withhold_departures && !listed(&cluster, &units[0])?.contains(&going) {
            return Err(format!("{} no longer lists {going}: the lab did not withhold its departure", units[0]));
        }
        lab.ask(&Request::AddUnit { app: cluster.app.clone(), count: 1 })?;
        let report = cluster.wait_healthy(2).map_err(|error| format!("round {round}: {error}"))?;
        units = unit_names(&report, &cluster.app);
        let added = units.last().ok_or("there is no unit")?;
        if address(&report, added) != used {
            return Err(format!("{added} is not at {used}"));
        }
        writer.set_endpoints(cluster.endpoints(&report));
        cluster.check_members(&report)?;
        let acked = writer.acked();
        cluster.check_keys(&report, PREFIX, &acked)?;
        println!(
            "round {round}: {added} joined at {used}, where {going} was, in {} s; {} keys all there",
            begun.elapsed().as_secs(),
            acked.len()
        );
        if round % ROUNDS_BETWEEN_RESTARTS == 0 {
            for unit in &units {
                lab.ask(&Request::RestartAgent { unit: unit.clone() })?;
            }
            cluster.wait_healthy(2)?;
        }
    }
    match cluster.failed_hooks()?.as_slice() {
        [] => println!("reuse: PASSED, {rounds} rounds, {:?}", lab.generation),
        failed => return Err(format!("hooks failed: {failed:#?}")),
    }
    Ok(())
}

/// What `relation-list` says on a unit.
fn listed(cluster: &Cluster<'_>, unit: &str) -> Result<String, String> {
    let script = "relation-list -r $(relation-ids peer)".to_owned();
    let queued = cluster.lab.ask(&Request::Exec { unit: unit.to_owned(), script })?;
    let task = cluster.lab.wait_task(&queued, STAGE_LIMIT)?;
    Ok(task.raw["stdout"].as_str().unwrap_or_default().to_owned())
}
