//! 1→3→5→3→1 units and remove-application from 3, while a writer goes on.

use std::path::Path;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, STAGE_LIMIT};
use super::writer::Writer;
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::status::report::Report;
use crate::world::Options;

/// Prefix of the writer's keys.
const PREFIX: &str = "scale/";

/// Writes that must succeed at each size before the next change.
const WRITES_PER_STAGE: usize = 300;

/// How long those may take.
const WRITE_LIMIT: Duration = Duration::from_secs(120);

pub(super) fn run(lab: &Lab, charm: &Path) -> Result<(), String> {
    let mut cluster = Cluster::deploy(lab, charm, 1, &Options { lease_ms: 20_000, ..Options::default() })?;
    let report = cluster.wait_healthy(1)?;
    let first = unit_names(&report, &cluster.app).remove(0);
    cluster.fetch_credentials(&first)?;
    let writer = Writer::start(PREFIX, cluster.endpoints(&report), &cluster.credentials)?;
    for target in [3, 5, 3, 1, 3] {
        resize(&cluster, &writer, target)?;
    }
    let acked = writer.finish();
    println!("remove-application from 3 units, after {} acknowledged writes", acked.len());
    let failures = cluster.failed_hooks()?.len();
    lab.ask(&Request::RemoveApplication { app: cluster.app.clone(), force: false })?;
    let gone = |report: &Report| report.applications.is_empty();
    lab.wait_until("the application's end", STAGE_LIMIT, &mut |_| {}, &gone)?;
    let failed = cluster.failed_hooks()?;
    if failed.len() > failures {
        return Err(format!("hooks failed while the application was removed: {:#?}", &failed[failures..]));
    }
    println!("scale: PASSED; failed hooks before the removal: {failed:?}");
    Ok(())
}

fn resize(cluster: &Cluster<'_>, writer: &Writer, target: usize) -> Result<(), String> {
    let begun = Instant::now();
    let report = cluster.lab.status()?;
    let units = unit_names(&report, &cluster.app);
    if units.len() < target {
        let count = (target - units.len()) as u32;
        cluster.lab.ask(&Request::AddUnit { app: cluster.app.clone(), count })?;
    } else {
        // The Juju leader goes first: it is the hardest to miss.
        let leader = cluster.juju_leader(&report);
        let mut leaving: Vec<String> = leader.iter().cloned().collect();
        leaving.extend(units.iter().filter(|unit| Some(*unit) != leader.as_ref()).cloned());
        leaving.truncate(units.len() - target);
        println!("removing {}", leaving.join(" and "));
        cluster.lab.ask(&Request::RemoveUnit { units: leaving, force: false })?;
    }
    let report = cluster.wait_healthy(target)?;
    writer.set_endpoints(cluster.endpoints(&report));
    cluster.check_members(&report)?;
    writer.wait_progress(WRITES_PER_STAGE, WRITE_LIMIT)?;
    let acked = writer.acked();
    cluster.check_keys(&report, PREFIX, &acked)?;
    let (errors, _) = writer.errors();
    println!(
        "{} → {target} units in {} s: {} acknowledged keys all there, member list equals units, {errors} writes failed meanwhile",
        units.len(),
        begun.elapsed().as_secs(),
        acked.len()
    );
    Ok(())
}
