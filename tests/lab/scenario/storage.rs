//! Data in a storage of its own: used when it is there from the start, not when it comes later, and
//! given up only by a unit that leaves.

use std::path::Path;
use std::time::Duration;

use super::cluster::{Cluster, STAGE_LIMIT};
use super::writer::Writer;
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::status::report::Report;
use crate::world::Options;

/// Prefix of the writer's keys.
const PREFIX: &str = "storage/";

/// How long writes may stand still.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run(lab: &Lab, charm: &Path) -> Result<(), String> {
    let options = Options { update_status_ms: 20_000, lease_ms: 20_000, ..Options::default() };
    let mut cluster = Cluster::deploy_with(lab, charm, 3, &options, &["data".to_owned()])?;
    let report = cluster.wait_healthy(3)?;
    let units = unit_names(&report, &cluster.app);
    for (number, unit) in units.iter().enumerate() {
        let settings = cluster.file(unit, "/etc/etcd/etcd.json")?;
        let wanted = format!("/var/lib/juju/storage/data/{number}/etcd\"");
        if !settings.contains(&wanted) {
            return Err(format!("{unit} does not keep its data in {wanted}: {settings}"));
        }
        let folder = format!("/var/lib/juju/storage/data/{number}/etcd/member/wal");
        let folder = lab.path_inside(unit, &folder)?;
        if !lab.inside(unit, true, &["test", "-d", &folder], None)?.status.success() {
            return Err(format!("{unit} has no {folder}"));
        }
    }
    println!("every unit keeps its data in its storage");
    cluster.fetch_credentials(&units[0])?;
    let writer = Writer::start(PREFIX, cluster.endpoints(&report), &cluster.credentials)?;
    writer.wait_progress(100, WRITE_LIMIT)?;

    let leader = cluster.juju_leader(&report).ok_or("no unit leads")?;
    println!("removing {leader}, whose storage is detached first");
    lab.ask(&Request::RemoveUnit { units: vec![leader.clone()], force: false })?;
    let report = cluster.wait_healthy(2)?;
    writer.set_endpoints(cluster.endpoints(&report));
    writer.wait_progress(100, WRITE_LIMIT)?;
    cluster.check_members(&report)?;
    let acked = writer.finish();
    cluster.check_keys(&report, PREFIX, &acked)?;
    println!("{} acknowledged keys all there", acked.len());
    let failed = cluster.failed_hooks()?;
    lab.destroy()?;

    let cluster = Cluster::deploy(lab, charm, 1, &options)?;
    let report = cluster.wait_healthy(1)?;
    let unit = unit_names(&report, &cluster.app).remove(0);
    lab.ask(&Request::AddStorage { unit: unit.clone(), name: "data".to_owned() })?;
    let says = |report: &Report| {
        let unit = &report.applications[&cluster.app].units[&unit];
        unit.workload_status.current == "blocked"
            && unit.workload_status.message.contains("is not used, the data is in")
    };
    let report = lab.wait_until("the late storage being refused", STAGE_LIMIT, &mut |_| {}, &says)?;
    println!("{unit}: {}", report.applications[&cluster.app].units[&unit].workload_status.message);
    cluster.act(&unit, "health", &[])?;
    println!("storage: PASSED; failed hooks: {failed:#?}");
    Ok(())
}
