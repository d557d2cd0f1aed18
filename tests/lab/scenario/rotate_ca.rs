//! Both authorities are replaced under a writer that never changes its credentials; then the peer
//! authority once more, while the machine of the Juju leader dies in the middle.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::cluster::{Cluster, STAGE_LIMIT};
use super::writer::Writer;
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::status::report::Report;
use crate::world::Options;

/// Prefix of the writer's keys.
const PREFIX: &str = "rotate/";

/// Writes that must succeed between two steps.
const WRITES_PER_STAGE: usize = 200;

/// How long those may take.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// What a unit trusts on each port.
pub(super) const TRUST_FILES: [&str; 2] = ["/etc/etcd/tls/server-ca.crt", "/etc/etcd/tls/peer-ca.crt"];

pub(super) fn run(lab: &Lab, charm: &Path) -> Result<(), String> {
    let options = Options { update_status_ms: 20_000, lease_ms: 20_000, ..Options::default() };
    let mut cluster = Cluster::deploy(lab, charm, 3, &options)?;
    let report = cluster.wait_healthy(3)?;
    let units = unit_names(&report, &cluster.app);
    let first = units[0].clone();
    let old = cluster.fetch_credentials(&first)?;
    let writer = Writer::start(PREFIX, cluster.endpoints(&report), &old)?;
    writer.wait_progress(WRITES_PER_STAGE, WRITE_LIMIT)?;
    refuse_bad_wishes(&cluster, &units)?;
    let before = trust_of(&cluster, &first)?;

    println!("\nreplacing both authorities");
    let done = cluster.act("etcd/leader", "rotate-ca", &[("authority", json!("both"))])?;
    println!("rotate-ca says: {}", done["message"]);
    cluster.wait_leader_says("that clients need new credentials", &|text| text.contains("clients need new"))?;
    writer.wait_progress(WRITES_PER_STAGE, WRITE_LIMIT)?;
    let refusal = cluster.act_in_vain("etcd/leader", "rotate-ca", &[])?;
    println!("a second rotate-ca is refused: {refusal}");
    wait_single(&cluster, &units, TRUST_FILES[1], &before[1])?;
    println!("the peer authority is replaced; the client authority waits for the clients");

    let report = cluster.lab.status()?;
    let new = cluster.fetch_credentials(&units[2])?;
    works(&mut cluster, &report, &new, "new")?;
    works(&mut cluster, &report, &old, "old")?;
    calm(&writer, "until the operator ends the clients' time")?;

    cluster.act("etcd/leader", "rotate-ca", &[("finish", json!(true))])?;
    for unit in &units {
        wait_single(&cluster, std::slice::from_ref(unit), TRUST_FILES[0], &before[0])?;
    }
    let report = cluster.wait_healthy(3)?;
    calm(&writer, "on connections opened before the old authority was dropped")?;
    works(&mut cluster, &report, &new, "new")?;
    refused(&mut cluster, &report, &old, "old credentials")?;
    refused(&mut cluster, &report, &mixed(&old, &new)?, "an old certificate with the new ca.pem")?;
    cluster.credentials.clone_from(&new);
    let acked = writer.finish();
    cluster.check_keys(&report, PREFIX, &acked)?;
    println!("old credentials are refused, new ones work, {} acknowledged keys all there", acked.len());
    lose_the_leader(&mut cluster, &new)?;
    println!("rotate-ca: PASSED; failed hooks: {:#?}", cluster.failed_hooks()?);
    Ok(())
}

/// Wishes that cannot be met are refused and change nothing.
fn refuse_bad_wishes(cluster: &Cluster<'_>, units: &[String]) -> Result<(), String> {
    let report = cluster.lab.status()?;
    let leader = cluster.juju_leader(&report).ok_or("no unit leads")?;
    let follower = units.iter().find(|unit| **unit != leader).ok_or("there is no follower")?;
    let refusal = cluster.act_in_vain(follower, "rotate-ca", &[])?;
    println!("on a follower: {refusal}");
    let refusal = cluster.act_in_vain(&leader, "rotate-ca", &[("finish", json!(true))])?;
    println!("finish without a beginning: {refusal}");
    for (name, value) in [("authority", json!("client;reboot")), ("grace-days", json!(-1))] {
        let request = Request::Run {
            unit: leader.clone(),
            action: "rotate-ca".to_owned(),
            params: [(name.to_owned(), value)].into(),
        };
        if let Ok(queued) = cluster.lab.ask(&request) {
            let task = cluster.lab.wait_task(&queued, WRITE_LIMIT)?;
            if task.status() != "failed" {
                return Err(format!("rotate-ca took a bad {name}: {}", task.raw));
            }
        }
    }
    Ok(())
}

/// The peer authority is replaced again; the leader's machine dies when the replacement has begun.
fn lose_the_leader(cluster: &mut Cluster<'_>, credentials: &Path) -> Result<(), String> {
    let lab = cluster.lab;
    let report = cluster.wait_healthy(3)?;
    let leader = cluster.juju_leader(&report).ok_or("no unit leads")?;
    let units = unit_names(&report, &cluster.app);
    let survivors: Vec<String> = units.iter().filter(|unit| **unit != leader).cloned().collect();
    let before = trust_of(cluster, &survivors[0])?;
    println!("\nreplacing the peer authority; {leader}, which leads, dies in the middle");
    let writer = Writer::start("lost/", cluster.endpoints(&report), credentials)?;
    cluster.act(&leader, "rotate-ca", &[("authority", json!("peer"))])?;
    lab.ask(&Request::KillMachine { machine: leader.clone() })?;
    writer.set_endpoints(cluster.endpoints(&lab.status()?));
    let added = lab.ask(&Request::AddUnit { app: cluster.app.clone(), count: 1 })?;
    let added = added[0].as_str().ok_or("add-unit gave no name")?.to_owned();
    let elected = |report: &Report| cluster.juju_leader(report).is_some_and(|name| name != leader);
    let report = lab.wait_until("another Juju leader", STAGE_LIMIT, &mut |_| {}, &elected)?;
    println!("{} goes on; {leader} is removed", cluster.juju_leader(&report).unwrap_or_default());
    lab.ask(&Request::RemoveUnit { units: vec![leader], force: true })?;
    let all: Vec<String> = survivors.into_iter().chain([added]).collect();
    wait_single(cluster, &all, TRUST_FILES[1], &before[1])?;
    let report = cluster.wait_healthy(3)?;
    cluster.credentials = credentials.to_owned();
    cluster.check_members(&report)?;
    let acked = writer.finish();
    cluster.check_keys(&report, "lost/", &acked)?;
    println!("replaced on {}; {} acknowledged keys all there", all.join(", "), acked.len());
    Ok(())
}

/// The trusted authorities of a unit, per port.
pub(super) fn trust_of(cluster: &Cluster<'_>, unit: &str) -> Result<[String; 2], String> {
    Ok([cluster.file(unit, TRUST_FILES[0])?, cluster.file(unit, TRUST_FILES[1])?])
}

/// Waits until each unit trusts exactly one authority on a port, not the former one.
fn wait_single(cluster: &Cluster<'_>, units: &[String], file: &str, former: &str) -> Result<(), String> {
    let single = |unit: &String| {
        let text = cluster.file(unit, file).unwrap_or_default();
        text.matches("BEGIN CERTIFICATE").count() == 1 && text.trim() != former.trim()
    };
    let what = format!("one new authority alone in {file} of {}", units.join(", "));
    cluster.lab.wait_until(&what, STAGE_LIMIT, &mut |_| {}, &|_| units.iter().all(single)).map(drop)
}

/// No write may have failed: nothing is restarted and no connection is cut by a replacement.
fn calm(writer: &Writer, when: &str) -> Result<(), String> {
    writer.wait_progress(WRITES_PER_STAGE, WRITE_LIMIT)?;
    match writer.errors() {
        (0, _) => {
            println!("{} writes with the old credentials, none failed, {when}", writer.acked().len());
            Ok(())
        }
        (count, last) => Err(format!("{count} writes failed {when}, the last: {last}")),
    }
}

/// Credentials must work on every member, on connections of their own.
fn works(cluster: &mut Cluster<'_>, report: &Report, credentials: &Path, what: &str) -> Result<(), String> {
    cluster.credentials = credentials.to_owned();
    for endpoint in cluster.endpoints(report) {
        let written = cluster.etcdctl(std::slice::from_ref(&endpoint), &["put", "credentials", what]);
        written.map_err(|error| format!("{what} credentials at {endpoint}: {error}"))?;
    }
    println!("{what} credentials work on every member");
    Ok(())
}

fn refused(cluster: &mut Cluster<'_>, report: &Report, credentials: &Path, what: &str) -> Result<(), String> {
    cluster.credentials = credentials.to_owned();
    for endpoint in cluster.endpoints(report) {
        let args = ["--dial-timeout=3s", "--command-timeout=3s", "put", "credentials", what];
        if cluster.etcdctl(std::slice::from_ref(&endpoint), &args).is_ok() {
            return Err(format!("{endpoint} takes {what} after the authority was dropped"));
        }
    }
    println!("{what}: refused by every member");
    Ok(())
}

/// The old pair beside the new authority: it is the server that must refuse this one.
fn mixed(old: &Path, new: &Path) -> Result<PathBuf, String> {
    let dir = old.with_extension("mixed");
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from.join(name), dir.join(name)).map_err(|error| format!("cannot copy {name}: {error}"))
    };
    std::fs::create_dir_all(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    copy(new, "ca.pem")?;
    copy(old, "clientcert.pem")?;
    copy(old, "clientkey.pem")?;
    Ok(dir)
}
