//! `lab demo`: deploys three units of a charm and uses the cluster with stock etcdctl, every command shown.
//!
//! Stops at the first thing that is not as it must be, and then leaves the lab up to be looked at.

mod etcdctl;
pub mod steps;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::plain_result;
use crate::client::{Lab, all_units_are};
use crate::status::report::Report;
use crate::status::tabular;
use crate::world::{Options, unit_number};

/// Units of the demo.
const UNITS: u32 = 3;

/// How long three units may take to become active.
const DEPLOY_LIMIT: Duration = Duration::from_secs(300);

/// How long an action may take.
const ACTION_LIMIT: Duration = Duration::from_secs(60);

/// The file the charm leaves for its operator.
const TARBALL: &str = "etcd_client_credentials.tar.gz";

/// Plays the demo; an error names the step that was not as it must be.
pub fn run(lab: &Lab, charm: &Path, program: &str) -> Result<(), String> {
    let begun = Instant::now();
    if lab.home.root().exists() {
        println!("Removing the lab of an earlier run.");
        lab.destroy()?;
    }
    println!("$ lab deploy {} -n {UNITS}", charm.display());
    lab.start(&Options::default(), false, &|line| println!("{line}"))?;
    let answer = lab.deploy(charm, None, UNITS, &[], &[])?;
    let app = answer["application"].as_str().ok_or("the lab gave no application name")?.to_owned();
    println!("Deploying \"{app}\"; the units, as they change:\n");
    let report = wait_active(lab, &app)?;
    println!("\n$ lab status\n{}", tabular::render(&report, false));
    check_status(&report, &app)?;
    let units = unit_names(&report, &app);
    let first = units.first().ok_or("there are no units")?;
    action(lab, first, "health")?;
    action(lab, first, "generate-client-certificates")?;
    let dir = fetch_credentials(lab, first)?;
    let address = |unit: &String| report.applications[&app].units[unit].public_address.clone();
    let addresses: Vec<String> = units.iter().map(address).collect();
    etcdctl::api_2(&dir, &addresses)?;
    etcdctl::api_3(&dir, &addresses)?;
    println!("== Done in {} s: every step worked. The cluster stays up. ==\n", begun.elapsed().as_secs());
    println!("To reach it:   cd {} && . ./env-v3 && etcdctl endpoint health --cluster", dir.display());
    println!("To look at it: {program} status      {program} ssh {first}      {program} debug-log");
    println!("To stop it:    make demo-down");
    Ok(())
}

/// Waits until all units are active, printing each unit's line whenever it changes.
fn wait_active(lab: &Lab, app: &str) -> Result<Report, String> {
    let begun = Instant::now();
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let mut tick = |report: &Report| {
        for (name, unit) in report.applications.get(app).map(|app| &app.units).into_iter().flatten() {
            let status = &unit.workload_status;
            let line = format!("{:<8} {:<12} {}", name, status.current, status.message);
            if shown.get(name) != Some(&line) {
                println!("  {:>3} s  {line}", begun.elapsed().as_secs());
                shown.insert(name.clone(), line);
            }
        }
    };
    let done = |report: &Report| all_units_are(report, Some(app), "active");
    lab.wait_settled("every unit active", DEPLOY_LIMIT, &mut tick, &done)
}

/// The sentences and ports the product's documentation shows.
fn check_status(report: &Report, app: &str) -> Result<(), String> {
    let units = &report.applications[app].units;
    let count = |message: &str| units.values().filter(|unit| unit.workload_status.message == message).count();
    let (leader, others) = (count("(leader) cluster is healthy"), count("cluster is healthy"));
    if (leader, others) != (1, UNITS as usize - 1) {
        return Err(format!(
            "expected the message `(leader) cluster is healthy` once and `cluster is healthy` {} times, got {leader} and {others}",
            UNITS - 1
        ));
    }
    for (name, unit) in units {
        if unit.open_ports != ["2379/tcp", "2380/tcp"] {
            return Err(format!(
                "unit {name} should show ports 2379/tcp,2380/tcp, shows {:?}",
                unit.open_ports.join(",")
            ));
        }
        if unit.leader != (unit.workload_status.message == "(leader) cluster is healthy") {
            return Err(format!("unit {name}: the message and the `*` disagree on who leads"));
        }
    }
    Ok(())
}

/// Names of the units in natural order.
pub fn unit_names(report: &Report, app: &str) -> Vec<String> {
    let mut names: Vec<String> =
        report.applications.get(app).map(|app| app.units.keys().cloned().collect()).unwrap_or_default();
    names.sort_by_key(|name| unit_number(name));
    names
}

fn action(lab: &Lab, unit: &str, name: &str) -> Result<(), String> {
    println!("$ lab run {unit} {name}");
    let task = lab.run_action(unit, name, BTreeMap::new(), ACTION_LIMIT)?;
    println!("{}", plain_result(&task)?);
    if task.status() == "completed" { Ok(()) } else { Err(format!("action {name} on {unit} {}", task.status())) }
}

/// Copies the tarball out of the unit and unpacks it; gives the directory.
pub fn fetch_credentials(lab: &Lab, unit: &str) -> Result<PathBuf, String> {
    let dir = lab.home.root().join("credentials");
    std::fs::create_dir_all(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    println!("$ cd {}", dir.display());
    println!("$ lab scp {unit}:{TARBALL} .");
    lab.copy_out(unit, TARBALL, &dir.join(TARBALL))?;
    let shell = steps::Shell::new(&dir);
    shell.run(&format!("tar -xzvf {TARBALL}"), None)?;
    for file in ["ca.pem", "clientcert.pem", "clientkey.pem"] {
        if !dir.join(file).is_file() {
            return Err(format!("the tarball has no {file}"));
        }
    }
    Ok(dir)
}
