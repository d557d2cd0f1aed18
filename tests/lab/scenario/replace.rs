//! The only unit is replaced: another one is added, then the old one is removed, before or after the new one
//! has joined. Then the same with what operators do when something hangs: `resolved --no-retry` and
//! `--force`. No acknowledged write may be lost without a person having said so, and no second cluster may
//! begin before a person has named the application.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::cluster::{Cluster, STAGE_LIMIT};
use super::writer::Writer;
use crate::client::Lab;
use crate::demo::unit_names;
use crate::requests::Request;
use crate::status::report::Report;
use crate::world::Options;

/// Prefix of the writer's keys.
const PREFIX: &str = "replace/";

/// Writes that must succeed before each removal and after each replacement.
const WRITES: usize = 50;

/// How long those may take.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// How often a machine that is still booting is asked to stand still: before its second hook has run.
const PAUSE_POLL: Duration = Duration::from_millis(5);

/// Longest time between `add-unit` and `remove-unit`: a new unit joins in less.
const MAX_HEAD_START_MS: u64 = 12_000;

fn options(seed: u64) -> Options {
    // Juju's own retry is kept out of the way of the operator's `resolved`.
    Options { seed, lease_ms: 10_000, update_status_ms: 10_000, retry_ms: 300_000, ..Options::default() }
}

pub(super) fn run(lab: &Lab, charm: &Path, rounds: u32, seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    plainly(lab, charm, rounds, seed, &mut rng)?;
    lab.destroy()?;
    for round in 1..=rounds {
        let skips = round % 2 == 1;
        interfered(lab, charm, seed + u64::from(round), skips, &mut rng)
            .map_err(|error| format!("round {round} of those with interference: {error}"))?;
        lab.destroy()?;
    }
    println!("replace: PASSED, {rounds} replacements and {rounds} with interference, {:?}", lab.generation);
    Ok(())
}

/// A cluster of one with a writer.
struct Stage<'a> {
    cluster: Cluster<'a>,
    writer: Writer,
    unit: String,
}

fn deploy<'a>(lab: &'a Lab, charm: &Path, seed: u64) -> Result<Stage<'a>, String> {
    let mut cluster = Cluster::deploy(lab, charm, 1, &options(seed))?;
    let report = cluster.wait_healthy(1)?;
    let unit = unit_names(&report, &cluster.app).remove(0);
    cluster.fetch_credentials(&unit)?;
    let writer = Writer::start(PREFIX, cluster.endpoints(&report), &cluster.credentials)?;
    Ok(Stage { cluster, writer, unit })
}

impl Stage<'_> {
    /// Adds a unit, lets some time pass, removes the old one; gives the new one's name.
    fn exchange(&self, rng: &mut StdRng, force: bool) -> Result<(String, u64), String> {
        self.writer.wait_progress(WRITES, WRITE_LIMIT)?;
        let lab = self.cluster.lab;
        let added = lab.ask(&Request::AddUnit { app: self.cluster.app.clone(), count: 1 })?;
        let added = added[0].as_str().ok_or("add-unit gave no name")?.to_owned();
        // Half of the time at once, as people do.
        let pause = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..MAX_HEAD_START_MS) };
        std::thread::sleep(Duration::from_millis(pause));
        lab.ask(&Request::RemoveUnit { units: vec![self.unit.clone()], force })?;
        Ok((added, pause))
    }

    /// Everything that was acknowledged is there, and `unit` alone has it.
    fn check(&self, unit: &str) -> Result<usize, String> {
        let report = self.cluster.wait_healthy(1)?;
        let units = unit_names(&report, &self.cluster.app);
        if units != [unit] {
            return Err(format!("the units are {units:?}, not {unit}"));
        }
        self.writer.set_endpoints(self.cluster.endpoints(&report));
        self.cluster.check_members(&report)?;
        self.writer.wait_progress(WRITES, WRITE_LIMIT)?;
        let acked = self.writer.acked();
        self.cluster.check_keys(&report, PREFIX, &acked)?;
        Ok(acked.len())
    }

    fn wait_says(&self, unit: &str, word: &str, text: &str) -> Result<String, String> {
        let shown = |report: &Report| {
            let app = report.applications.get(&self.cluster.app)?;
            Some(app.units.get(unit)?.workload_status.clone())
        };
        let says = |report: &Report| {
            shown(report).is_some_and(|status| status.current == word && status.message.contains(text))
        };
        let what = format!("{unit} being {word}, saying {text:?},");
        let report = self.cluster.lab.wait_until(&what, STAGE_LIMIT, &mut |_| {}, &says)?;
        Ok(shown(&report).unwrap_or_else(|| unreachable!("it was shown a moment ago")).message)
    }
}

/// Replacements that nobody disturbs.
fn plainly(lab: &Lab, charm: &Path, rounds: u32, seed: u64, rng: &mut StdRng) -> Result<(), String> {
    let mut stage = deploy(lab, charm, seed)?;
    for round in 1..=rounds {
        let begun = Instant::now();
        let (added, pause) = stage.exchange(rng, false)?;
        let keys = stage.check(&added).map_err(|error| format!("replacement {round}: {error}"))?;
        println!(
            "replacement {round}: {} removed {pause} ms after {added} was added, done in {} s, {keys} keys all there",
            stage.unit,
            begun.elapsed().as_secs()
        );
        stage.unit = added;
    }
    match stage.cluster.failed_hooks()?.as_slice() {
        [] => Ok(()),
        failed => Err(format!("hooks failed: {failed:#?}")),
    }
}

/// A replacement in which the old unit's `stop` is skipped, or the old unit is removed by force.
fn interfered(lab: &Lab, charm: &Path, seed: u64, skips: bool, rng: &mut StdRng) -> Result<(), String> {
    let mut stage = deploy(lab, charm, seed)?;
    stage.writer.wait_progress(WRITES, WRITE_LIMIT)?;
    if skips {
        let added = skip_stop(&stage)?;
        // The old unit still serves, and what its status says helps.
        stage.writer.wait_progress(WRITES, WRITE_LIMIT)?;
        if rng.random_bool(0.5) {
            stage.wait_says(&added, "waiting", "sign the certificates")?;
            let script = "hooks/update-status".to_owned();
            let queued = lab.ask(&Request::Exec { unit: stage.unit.clone(), script })?;
            lab.wait_task(&queued, STAGE_LIMIT)?;
            let keys = stage.check(&added)?;
            println!("{}: stop skipped, then handed over as its status said: {keys} keys all there", stage.unit);
            return Ok(());
        }
        lab.ask(&Request::RemoveUnit { units: vec![stage.unit.clone()], force: true })?;
        return stays_blocked(&mut stage, &added);
    }
    // Before the new unit can have joined.
    let added = lab.ask(&Request::AddUnit { app: stage.cluster.app.clone(), count: 1 })?;
    let added = added[0].as_str().ok_or("add-unit gave no name")?.to_owned();
    if rng.random_bool(0.5) {
        lab.ask(&Request::RemoveUnit { units: vec![stage.unit.clone()], force: false })?;
        std::thread::sleep(Duration::from_millis(rng.random_range(0..800)));
    }
    lab.ask(&Request::RemoveUnit { units: vec![stage.unit.clone()], force: true })?;
    stays_blocked(&mut stage, &added)
}

/// Kills the agent in `stop` before a new unit is there, skips the hook, and waits for what `remove` says.
fn skip_stop(stage: &Stage<'_>) -> Result<String, String> {
    let lab = stage.cluster.lab;
    let unit = &stage.unit;
    // The new machine stands still, so that the old unit has nobody to hand over to.
    let added = lab.ask(&Request::AddUnit { app: stage.cluster.app.clone(), count: 1 })?;
    let added = added[0].as_str().ok_or("add-unit gave no name")?.to_owned();
    let pause = |stop| lab.ask(&Request::Pause { machine: added.clone(), stop });
    let begun = Instant::now();
    while let Err(error) = pause(true) {
        if begun.elapsed() > STAGE_LIMIT {
            return Err(format!("the new machine cannot be stopped: {error}"));
        }
        std::thread::sleep(PAUSE_POLL);
    }
    lab.ask(&Request::RemoveUnit { units: vec![unit.clone()], force: false })?;
    stage.wait_says(unit, "waiting", "leaves once another unit has the data")?;
    lab.ask(&Request::InterruptHook { unit: unit.clone() })?;
    stage.wait_says(unit, "error", "hook failed: \"stop\"")?;
    lab.ask(&Request::Resolve { unit: unit.clone(), retry: false })?;
    let says = stage.wait_says(unit, "blocked", "has the only copy of the data")?;
    println!("{unit}, its stop skipped: {says}");
    pause(false)?;
    Ok(added)
}

/// Nobody has the data any more: the new unit begins nothing until it is told to, by name.
fn stays_blocked(stage: &mut Stage<'_>, added: &str) -> Result<(), String> {
    let lab = stage.cluster.lab;
    let acked = stage.writer.acked().len();
    let says = stage.wait_says(added, "blocked", "new-cluster")?;
    for again in 1..=2 {
        let queued = lab.ask(&Request::Exec { unit: added.to_owned(), script: "hooks/update-status".to_owned() })?;
        lab.wait_task(&queued, STAGE_LIMIT)?;
        let address = lab.status()?.applications[&stage.cluster.app].units[added].public_address.clone();
        let endpoint = [format!("https://{address}:2379")];
        if let Ok(members) = stage.cluster.members(&endpoint) {
            return Err(format!("after hook {again} {added} serves a second cluster: {members:?}"));
        }
    }
    let leads = |report: &Report| stage.cluster.juju_leader(report).as_deref() == Some(added);
    lab.wait_until(&format!("{added} leading"), STAGE_LIMIT, &mut |_| {}, &leads)?;
    stage.wait_says(added, "blocked", "new-cluster")?;
    println!("{added} is blocked, {acked} keys having been given up by force: {says}");
    for wrong in ["yes", "other"] {
        let refusal = stage.cluster.act_in_vain(added, "new-cluster", &[("confirm", json!(wrong))])?;
        if !refusal.starts_with("confirm is not") {
            return Err(format!("new-cluster confirm={wrong}: {refusal}"));
        }
    }
    stage.cluster.act(added, "new-cluster", &[("confirm", json!(stage.cluster.app))])?;
    let report = stage.cluster.wait_healthy(1)?;
    stage.cluster.fetch_credentials(added)?;
    stage.cluster.check_members(&report)?;
    let text = stage.cluster.etcdctl(&stage.cluster.endpoints(&report), &["get", "--prefix", "--keys-only", PREFIX])?;
    if !text.trim().is_empty() {
        return Err(format!("the new cluster is not empty: {text}"));
    }
    println!("{added} began an empty cluster when it was told to");
    Ok(())
}
