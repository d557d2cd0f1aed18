//! Both authorities are replaced many times in a row, without any grace for clients, while Juju's leadership
//! moves and agents start anew: no hook may fail, none may ask Juju after it has changed something, and of the
//! secret nothing may be left but the revision in use.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::{Cluster, STAGE_LIMIT};
use super::rotate_ca::{TRUST_FILES, trust_of};
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::world::Options;

/// Pause between two tries to move leadership, which its holder's hook keeps from moving.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub(super) fn run(lab: &Lab, charm: &Path, rounds: u32) -> Result<(), String> {
    let options = Options { update_status_ms: 5_000, lease_ms: 20_000, jitter_ms: 100, ..Options::default() };
    let cluster = Cluster::deploy(lab, charm, 3, &options)?;
    let report = cluster.wait_healthy(3)?;
    let units = unit_names(&report, &cluster.app);
    let begun = Instant::now();
    let mut moves = 0;
    for round in 1..=rounds {
        let before = trust_of(&cluster, &units[0])?;
        let former = begin(&cluster)?;
        // Another number of changes at another moment of the replacement in each round.
        for _ in 0..round % 4 {
            move_leadership(&cluster)?;
            moves += 1;
        }
        lab.ask(&Request::RestartAgent { unit: former })?;
        let what = format!("round {round}: new authorities alone, and one revision of the secret");
        let done = |_: &_| replaced(&cluster, &units, &before).unwrap_or(false) && revisions(lab).is_ok_and(one);
        lab.wait_until(&what, STAGE_LIMIT, &mut |_| {}, &done).map_err(|error| {
            format!("{error}\nrevisions {:?}, failed hooks {:#?}", revisions(lab), cluster.failed_hooks())
        })?;
        clean(&cluster, round)?;
    }
    cluster.wait_healthy(3)?;
    clean(&cluster, rounds)?;
    println!(
        "rotations: PASSED under Juju {}: both authorities {rounds} times, {moves} changes of the leader, \
         {rounds} restarts of an agent, {} s; revisions left {:?}, no failed hook, nothing read after a write",
        lab.generation.version(),
        begun.elapsed().as_secs(),
        revisions(lab)?
    );
    Ok(())
}

/// Begins on whoever leads, and again when leadership has moved just then; gives the unit that did it.
fn begin(cluster: &Cluster<'_>) -> Result<String, String> {
    let wishes = [("authority", json!("both")), ("grace-days", json!(0))];
    let deadline = Instant::now() + STAGE_LIMIT;
    loop {
        let leader = cluster.juju_leader(&cluster.lab.status()?);
        let Some(leader) = leader else { continue };
        match cluster.act(&leader, "rotate-ca", &wishes) {
            Ok(_) => return Ok(leader),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(error) if error.contains("only the leader") || error.contains("just moved") => {}
            Err(error) => return Err(error),
        }
    }
}

fn move_leadership(cluster: &Cluster<'_>) -> Result<(), String> {
    let deadline = Instant::now() + STAGE_LIMIT;
    loop {
        match cluster.lab.ask(&Request::MoveLeadership { app: cluster.app.clone() }) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(RETRY_PAUSE),
        }
    }
}

/// True when every unit trusts one authority alone on each port, and not the former one.
fn replaced(cluster: &Cluster<'_>, units: &[String], before: &[String; 2]) -> Result<bool, String> {
    for unit in units {
        for (file, former) in TRUST_FILES.iter().zip(before) {
            let text = cluster.file(unit, file)?;
            if text.matches("BEGIN CERTIFICATE").count() != 1 || text.trim() == former.trim() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// What Juju keeps: `{label: [revisions]}`.
fn revisions(lab: &Lab) -> Result<Value, String> {
    lab.ask(&Request::Secrets)
}

fn one(kept: Value) -> bool {
    kept["pki"].as_array().is_some_and(|revisions| revisions.len() == 1)
}

/// Nothing went wrong so far.
fn clean(cluster: &Cluster<'_>, round: u32) -> Result<(), String> {
    let (failed, read_back) = (cluster.failed_hooks()?, cluster.reads_after_writes()?);
    if failed.is_empty() && read_back.is_empty() {
        return Ok(());
    }
    Err(format!("round {round}: failed hooks {failed:#?}, reads after a write {read_back:#?}"))
}
