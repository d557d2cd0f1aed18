//! The machine of the Juju leader dies: the cluster goes on, another unit issues on the same authority, a
//! new unit joins and votes beside the dead member, which stays listed until its unit is removed.

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
const PREFIX: &str = "kill/";

/// How long writes may stand still when a machine dies.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// How long a unit may take to join before the dead member is removed: leadership must move first.
const JOIN_LIMIT: Duration = STAGE_LIMIT;

pub(super) fn run(lab: &Lab, charm: &Path) -> Result<(), String> {
    let mut cluster = Cluster::deploy(lab, charm, 3, &Options { update_status_ms: 30_000, ..Options::default() })?;
    let report = cluster.wait_healthy(3)?;
    let first = unit_names(&report, &cluster.app).remove(0);
    let old = cluster.fetch_credentials(&first)?;
    let authority = read(&old.join("ca.pem"))?;
    let writer = Writer::start(PREFIX, cluster.endpoints(&report), &old)?;
    for both in [false, true] {
        let report = cluster.wait_healthy(3)?;
        cluster.credentials.clone_from(&old);
        let leader = cluster.juju_leader(&report).ok_or("no unit leads")?;
        let units = unit_names(&report, &cluster.app);
        let other = units.iter().find(|unit| **unit != leader).ok_or("there is no other unit")?;
        cluster.move_raft_leader(&report, if both { &leader } else { other })?;
        println!("\nkilling {leader}, the Juju leader{}", if both { " and raft leader" } else { "" });
        lose(&mut cluster, &writer, &leader, &authority, &old)?;
        let report = cluster.wait_healthy(3)?;
        cluster.check_members(&report)?;
        cluster.check_keys(&report, PREFIX, &writer.acked())?;
        println!("{leader} removed, {} acknowledged keys all there, health is green", writer.acked().len());
    }
    println!("kill-leader: PASSED; failed hooks: {:#?}", cluster.failed_hooks()?);
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// Kills the machine of `unit`, checks that life goes on, replaces and removes the unit.
fn lose(cluster: &mut Cluster<'_>, writer: &Writer, unit: &str, authority: &str, old: &Path) -> Result<(), String> {
    let lab = cluster.lab;
    lab.ask(&Request::KillMachine { machine: unit.to_owned() })?;
    let begun = Instant::now();
    writer.set_endpoints(cluster.endpoints(&lab.status()?));
    let pause = writer.wait_progress(1, WRITE_LIMIT)?;
    println!("writes resumed {} ms after the loss", pause.as_millis());
    let elected = |report: &Report| cluster.juju_leader(report).is_some();
    let report = lab.wait_until("a new Juju leader", STAGE_LIMIT, &mut |_| {}, &elected)?;
    let leader = cluster.juju_leader(&report).unwrap_or_default();
    println!("{leader} leads in Juju after {} s", begun.elapsed().as_secs());
    let said = |report: &Report| says_so(report, &cluster.app);
    lab.wait_until("the others and the application saying that a member is dead", STAGE_LIMIT, &mut |_| {}, &said)?;
    println!("the units and the application say so after {} s", begun.elapsed().as_secs());
    let added = lab.ask(&Request::AddUnit { app: cluster.app.clone(), count: 1 })?;
    let added = added[0].as_str().ok_or("add-unit gave no name")?.to_owned();
    wait_voting(cluster, &added)?;
    let dead = unit.replace('/', "");
    if !cluster.members(&cluster.endpoints(&lab.status()?))?.iter().any(|member| member.name == dead) {
        return Err(format!("{dead} left the member list although its unit was not removed"));
    }
    println!("{added} joined and votes after {} s, the dead member still listed", begun.elapsed().as_secs());
    let report = lab.status()?;
    cluster.credentials = old.to_owned();
    cluster.etcdctl(&cluster.endpoints(&report), &["put", "old-credentials", "work"])?;
    let new = cluster.fetch_credentials(&leader)?;
    if read(&new.join("ca.pem"))? != authority {
        return Err(format!("the credentials issued on {leader} name another authority"));
    }
    cluster.etcdctl(&cluster.endpoints(&report), &["put", "new-credentials", "work"])?;
    println!("old credentials work; {leader} issued new ones on the same authority");
    lab.ask(&Request::RemoveUnit { units: vec![unit.to_owned()], force: true })?;
    writer.set_endpoints(cluster.endpoints(&lab.status()?));
    Ok(())
}

/// Every unit that is left is blocked, and the application with a count.
fn says_so(report: &Report, app: &str) -> bool {
    let app = &report.applications[app];
    let mut left = app.units.values().filter(|unit| unit.juju_status.current != "lost");
    left.all(|unit| unit.workload_status.current == "blocked")
        && app.application_status.current == "blocked"
        && app.application_status.message == "cluster is degraded: 1 of 3 members not healthy"
}

fn wait_voting(cluster: &Cluster<'_>, unit: &str) -> Result<(), String> {
    let name = unit.replace('/', "");
    let votes = |report: &Report| {
        let members = cluster.members(&cluster.endpoints(report)).unwrap_or_default();
        members.iter().any(|member| member.name == name && member.state == "started" && !member.learner)
    };
    cluster.lab.wait_until(&format!("{unit} as a voting member"), JOIN_LIMIT, &mut |_| {}, &votes).map(|_| ())
}
