//! Options and parameters that cannot be used change nothing; a daemon that was stopped behind the
//! charm's back runs again after the next update-status.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::cluster::{Cluster, STAGE_LIMIT};
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::status::report::Report;
use crate::world::Options;

pub(super) fn run(lab: &Lab, charm: &Path) -> Result<(), String> {
    let cluster = Cluster::deploy(lab, charm, 1, &Options { update_status_ms: 10_000, ..Options::default() })?;
    let report = cluster.wait_healthy(1)?;
    let unit = unit_names(&report, &cluster.app).remove(0);
    let pid = cluster.daemon_pid(&unit)?;
    let settings = cluster.file(&unit, "/etc/etcd/etcd.json")?;
    for bad in
        ["port=70000", "port=2380", "election-timeout=10", "log-level=loud", "auto-compaction-retention=1h; reboot"]
    {
        let app = cluster.app.clone();
        lab.ask(&Request::Config { app: app.clone(), set: vec![bad.to_owned()], reset: Vec::new() })?;
        let name = bad.split('=').next().unwrap_or_default().to_owned();
        let blocked = |report: &Report| {
            let shown = &report.applications[&cluster.app].units[&unit].workload_status;
            shown.current == "blocked" && shown.message.contains(&format!("option {name} is"))
        };
        lab.wait_until(&format!("{bad} being refused"), STAGE_LIMIT, &mut |_| {}, &blocked)?;
        if cluster.file(&unit, "/etc/etcd/etcd.json")? != settings || cluster.daemon_pid(&unit)? != pid {
            return Err(format!("{bad} changed the running daemon"));
        }
        println!("{bad}: blocked, the old value keeps running");
        lab.ask(&Request::Config { app, set: Vec::new(), reset: vec![name] })?;
        cluster.wait_healthy(1)?;
    }
    for days in [json!(0), json!(3_651)] {
        let refusal = lab.run_action(&unit, "generate-client-certificates", days_of(&days), STAGE_LIMIT).err();
        match refusal {
            Some(refusal) if refusal.contains("days") => {}
            other => return Err(format!("days={days} is not refused by its schema: {other:?}")),
        }
    }
    cluster.act(&unit, "generate-client-certificates", &[("cn", json!("system:kube-apiserver"))])?;
    let made = lab.path_inside(&unit, "/home/ubuntu/etcd_client_credentials.tar.gz")?;
    lab.inside(&unit, true, &["rm", &made], None)?;
    let huge = "x".repeat(100_000);
    for name in ["a;reboot", "../../etc/passwd", "two\nlines", "$(id)", "", &huge] {
        let refusal = cluster.act_in_vain(&unit, "generate-client-certificates", &[("cn", json!(name))])?;
        if !refusal.starts_with("cn is") || refusal.len() > 400 || refusal.contains('\n') {
            return Err(format!("the refusal of a bad cn is {refusal:?}"));
        }
    }
    let archive = lab.path_inside(&unit, "/home/ubuntu/etcd_client_credentials.tar.gz")?;
    if lab.inside(&unit, true, &["test", "-e", &archive], None)?.status.success() {
        return Err("a refused action left an archive".to_owned());
    }
    println!("bad parameters: refused, nothing left behind");
    planted(&cluster, &unit, &archive)?;
    lab.inside(&unit, true, &["kill", "-9", &pid], None)?;
    let again = |_: &Report| cluster.daemon_pid(&unit).is_ok_and(|other| other != pid);
    lab.wait_until("the daemon running again", STAGE_LIMIT, &mut |_| {}, &again)?;
    cluster.wait_healthy(1)?;
    println!("bad-input: PASSED; failed hooks: {:#?}", cluster.failed_hooks()?);
    Ok(())
}

fn days_of(days: &Value) -> BTreeMap<String, Value> {
    BTreeMap::from([("days".to_owned(), days.clone())])
}

/// What a user of the machine may have put where the archive goes: replaced, or named and left alone.
fn planted(cluster: &Cluster<'_>, unit: &str, archive: &str) -> Result<(), String> {
    let lab = cluster.lab;
    let inside = |line: &[&str]| lab.inside(unit, true, line, None).map(|output| output.status.success());
    let victim = format!("{archive}.victim");
    inside(&["touch", &victim])?;
    for plant in [vec!["ln", "-s", &victim, archive], vec!["mkfifo", archive]] {
        inside(&plant)?;
        cluster.act(unit, "generate-client-certificates", &[])?;
        if !inside(&["test", "-s", archive, "-a", "!", "-L", archive, "-a", "!", "-s", &victim])? {
            return Err(format!("{plant:?} was not replaced, or was followed"));
        }
        inside(&["rm", archive])?;
    }
    let kept = format!("{archive}/precious");
    inside(&["mkdir", "-p", &kept])?;
    let refusal = cluster.act_in_vain(unit, "generate-client-certificates", &[])?;
    if !refusal.contains("is a directory") || !refusal.contains("move it away") || !inside(&["test", "-d", &kept])? {
        return Err(format!("the refusal of a directory in the way is {refusal:?}"));
    }
    println!("a link and a pipe in the way: replaced; a directory: {refusal}");
    inside(&["rm", "-r", archive])?;
    cluster.act(unit, "generate-client-certificates", &[])?;
    inside(&["rm", archive, &victim])?;
    Ok(())
}
