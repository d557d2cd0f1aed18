//! The charm is refreshed with another daemon: each unit restarts once, one at a time, and the cluster
//! keeps its quorum. A refresh with the same daemon restarts nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, STAGE_LIMIT};
use super::writer::Writer;
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::world::Options;

/// Prefix of the writer's keys.
const PREFIX: &str = "refresh/";

/// How long writes may stand still while members hand over and restart.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// How long a refresh that must change nothing is watched.
const WATCH: Duration = Duration::from_secs(20);

pub(super) fn run(lab: &Lab, charm: &Path) -> Result<(), String> {
    let mut cluster = Cluster::deploy(lab, charm, 3, &Options { update_status_ms: 20_000, ..Options::default() })?;
    let report = cluster.wait_healthy(3)?;
    let units = unit_names(&report, &cluster.app);
    cluster.fetch_credentials(&units[0])?;
    let writer = Writer::start(PREFIX, cluster.endpoints(&report), &cluster.credentials)?;
    writer.wait_progress(100, WRITE_LIMIT)?;
    let before = started(&cluster, &units)?;

    let same = charm.canonicalize().map_err(|error| format!("cannot open {}: {error}", charm.display()))?;
    lab.ask(&Request::Refresh { app: cluster.app.clone(), archive: same.clone() })?;
    std::thread::sleep(WATCH);
    cluster.wait_healthy(3)?;
    if started(&cluster, &units)? != before {
        return Err("a refresh with the same daemon restarted it".to_owned());
    }
    println!("refreshed with the same daemon: nothing restarted");

    let other = lab.home.root().join("other.charm");
    crate::archive::with_longer_file(&same, &other, "bin/etcd")?;
    lab.ask(&Request::Refresh { app: cluster.app.clone(), archive: other })?;
    let begun = Instant::now();
    let mut worst = 0;
    loop {
        let down = units.len() - cluster.answering(&report);
        worst = worst.max(down);
        if down > 1 {
            return Err(format!("{down} of {} members were down at once", units.len()));
        }
        let now = started(&cluster, &units).unwrap_or_default();
        if units.iter().all(|unit| now.get(unit).is_some_and(|at| before.get(unit) != Some(at))) {
            break;
        }
        if begun.elapsed() > STAGE_LIMIT {
            return Err(format!("not every unit runs the new daemon: {now:?}, before {before:?}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let report = cluster.wait_healthy(3)?;
    writer.wait_progress(100, WRITE_LIMIT)?;
    let (errors, last) = writer.errors();
    let acked = writer.finish();
    cluster.check_keys(&report, PREFIX, &acked)?;
    println!("every daemon replaced in {} s, at most {worst} down at once", begun.elapsed().as_secs());
    println!("{} acknowledged keys all there; {errors} writes failed meanwhile {last}", acked.len());
    println!("refresh: PASSED; failed hooks: {:#?}", cluster.failed_hooks()?);
    Ok(())
}

/// The process of each unit's daemon.
fn started(cluster: &Cluster<'_>, units: &[String]) -> Result<BTreeMap<String, String>, String> {
    units.iter().map(|unit| Ok((unit.clone(), cluster.daemon_pid(unit)?))).collect()
}
