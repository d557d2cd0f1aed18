//! A new setting of an application of one unit is taken by the hook that brings it, and what the
//! application says does not change with the unit that is asked.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, STAGE_LIMIT};
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::status::report::Report;
use crate::world::Options;

/// Longer than the whole scenario: no `update-status` helps.
const NO_UPDATE_STATUS_MS: u64 = 3_600_000;

/// How often the application's line is read.
const LOOKS: u32 = 40;

pub(super) fn run(lab: &Lab, charm: &Path) -> Result<(), String> {
    let options = Options { update_status_ms: NO_UPDATE_STATUS_MS, ..Options::default() };
    let cluster = Cluster::deploy(lab, charm, 1, &options)?;
    let report = cluster.wait_healthy(1)?;
    let unit = unit_names(&report, &cluster.app).remove(0);
    let pid = cluster.daemon_pid(&unit)?;
    let begun = Instant::now();
    lab.ask(&Request::Config { app: cluster.app.clone(), set: vec!["port=2390".to_owned()], reset: Vec::new() })?;
    let moved = |report: &Report| {
        let shown = &report.applications[&cluster.app].units[&unit];
        shown.open_ports == ["2380/tcp", "2390/tcp"] && shown.workload_status.current == "active"
    };
    lab.wait_until("the new port", STAGE_LIMIT, &mut |_| {}, &moved)?;
    if cluster.daemon_pid(&unit)? == pid {
        return Err("the daemon was not restarted".to_owned());
    }
    println!("a new port of an only unit was taken after {} ms", begun.elapsed().as_millis());
    lab.ask(&Request::Config { app: cluster.app.clone(), set: Vec::new(), reset: vec!["port".to_owned()] })?;
    lab.ask(&Request::AddUnit { app: cluster.app.clone(), count: 2 })?;
    cluster.wait_healthy(3)?;
    let mut lines = BTreeSet::new();
    for _ in 0..LOOKS {
        let status = &lab.status()?.applications[&cluster.app].application_status;
        lines.insert(format!("{} {}", status.current, status.message));
        std::thread::sleep(Duration::from_millis(25));
    }
    if lines.len() != 1 {
        return Err(format!("the application says now this, now that: {lines:?}"));
    }
    println!(
        "alone: PASSED; {LOOKS} looks at the application: {lines:?}; failed hooks: {:#?}",
        cluster.failed_hooks()?
    );
    Ok(())
}
