//! The command line: Juju's words where Juju has them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::client::{Lab, TaskReport, all_units_are};
use crate::controller;
use crate::demo;
use crate::home::Home;
use crate::requests::Request;
use crate::scenario;
use crate::status::{tabular, time_of_day};
use crate::world::generation::Generation;
use crate::world::{LogLine, Options};

const ABOUT: &str = "A small stand-in for Juju on one machine, for this charm's tests and demo.

Units get a systemd-nspawn container each (plain processes where that cannot run). Hook order, buffering,
retries, leadership and the hook tools follow Juju 4.0 or 3.6 (--juju). It is NOT Juju: no controllers, users, models,
clouds, constraints, subordinates, cross-model relations, resources, block storage, secret rotation or
expiry, juju-reboot, series upgrades, and state does not outlive the controller process.";

/// `lab --help` shows the text above.
#[derive(Debug, Parser)]
#[command(name = "lab", about = ABOUT)]
struct Cli {
    /// Which lab; several can run side by side.
    #[arg(long, global = true, default_value = "demo")]
    lab: String,
    /// Which Juju a new lab behaves as: 3 (3.6) or 4 (4.0).
    #[arg(long, global = true, default_value = "4")]
    juju: Generation,
    #[command(subcommand)]
    command: Cmd,
}

/// Knobs of a new controller; ignored when one is running.
#[derive(Debug, Clone, clap::Args)]
struct Knobs {
    /// Drives every random choice: delays, order among relations, who leads.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds between update-status hooks (Juju: 300).
    #[arg(long, default_value_t = 300)]
    update_status: u64,
    /// Seconds until a dead leader is replaced (Juju: up to 60).
    #[arg(long, default_value_t = 60)]
    lease: u64,
    /// `auto` or `process`.
    #[arg(long, default_value = "auto")]
    machines: String,
}

impl Knobs {
    fn options(&self) -> Options {
        Options {
            seed: self.seed,
            update_status_ms: self.update_status * 1000,
            lease_ms: self.lease * 1000,
            ..Options::default()
        }
    }
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Deploy a charm archive; starts the lab if none is running.
    Deploy {
        /// The .charm file.
        charm: PathBuf,
        /// Application name; the charm's own by default.
        app: Option<String>,
        /// Units.
        #[arg(short = 'n', long, default_value_t = 1)]
        num_units: u32,
        /// Options as name=value.
        #[arg(long)]
        config: Vec<String>,
        /// Names of optional storage that each unit gets.
        #[arg(long)]
        storage: Vec<String>,
        #[command(flatten)]
        knobs: Knobs,
    },
    /// Add units to an application.
    AddUnit {
        app: String,
        #[arg(short = 'n', long, default_value_t = 1)]
        num_units: u32,
    },
    /// Add a file system to a unit.
    AddStorage { unit: String, name: String },
    /// Remove units; --force runs no hooks on them.
    RemoveUnit {
        #[arg(required = true)]
        units: Vec<String>,
        #[arg(long)]
        force: bool,
        #[arg(long, hide = true)]
        no_prompt: bool,
    },
    /// Remove an application with all its units.
    RemoveApplication {
        app: String,
        #[arg(long)]
        force: bool,
        #[arg(long, hide = true)]
        no_prompt: bool,
    },
    /// Run an action on a unit (or app/leader) and wait for it.
    Run {
        unit: String,
        action: String,
        /// name=value, values as YAML.
        params: Vec<String>,
        /// How many seconds to wait.
        #[arg(long, default_value_t = 120)]
        wait: u64,
        /// yaml or json; plain text by default.
        #[arg(long)]
        format: Option<String>,
    },
    /// Show, set (name=value) or reset options.
    Config {
        app: String,
        settings: Vec<String>,
        #[arg(long)]
        reset: Vec<String>,
    },
    /// Relate two applications.
    Integrate { one: String, other: String },
    /// End a relation.
    RemoveRelation { one: String, other: String },
    /// Upgrade an application to another archive of its charm.
    Refresh {
        app: String,
        #[arg(long)]
        path: PathBuf,
    },
    /// Show the state of everything.
    Status {
        /// tabular, yaml or json.
        #[arg(long, default_value = "tabular")]
        format: String,
        /// Also list relations.
        #[arg(long)]
        relations: bool,
    },
    /// Wait until every unit shows a workload status with an idle agent.
    Wait {
        #[arg(long = "for", default_value = "active")]
        word: String,
        /// Seconds.
        #[arg(long, default_value_t = 300)]
        timeout: u64,
    },
    /// Copy one file: <unit>:<path> <local> or <local> <unit>:<path>, as user ubuntu.
    Scp { from: String, to: String },
    /// A shell or a command in a unit's machine, as user ubuntu.
    Ssh {
        unit: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Run commands in a hook context on a unit, as root.
    Exec {
        #[arg(long, short)]
        unit: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Retry a failed hook now, or skip it.
    Resolve {
        unit: String,
        #[arg(long)]
        no_retry: bool,
    },
    /// Not in Juju: end and start a unit's agent; a hook that runs is let finish.
    RestartAgent { unit: String },
    /// Not in Juju: kill a unit's agent in the middle of the hook it runs (or of its next one).
    InterruptHook { unit: String },
    /// Not in Juju: hand Juju's leadership to another unit.
    MoveLeadership { app: String },
    /// Not in Juju: cut the power of a machine (by number or unit).
    KillMachine { machine: String },
    /// Not in Juju: stop every process of a machine.
    Pause { machine: String },
    /// Not in Juju: continue a paused machine.
    Resume { machine: String },
    /// Not in Juju: cut a machine off the network.
    Partition { machine: String },
    /// Not in Juju: plug a machine in again.
    Heal { machine: String },
    /// Show the log; --follow keeps going.
    DebugLog {
        #[arg(long)]
        follow: bool,
        /// Lines at and above this level.
        #[arg(long, default_value = "DEBUG")]
        level: String,
    },
    /// Not in Juju: deploy three units and use them with etcdctl, every command shown.
    Demo { charm: PathBuf },
    /// Not in Juju: play one acceptance scenario and report.
    Scenario {
        /// The .charm file.
        #[arg(long, default_value = "etcd.charm")]
        charm: PathBuf,
        /// `auto` or `process`.
        #[arg(long, default_value = "auto")]
        machines: String,
        #[command(subcommand)]
        which: Scenario,
    },
    /// End the lab and remove everything it made.
    Destroy,
    /// The background process; started by `deploy`.
    #[command(hide = true)]
    Controller {
        #[arg(long)]
        home: PathBuf,
        #[arg(long)]
        options: String,
        #[arg(long, default_value = "auto")]
        machines: String,
    },
}

/// The scenarios.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Scenario {
    /// 1→3→5→3→1 units, then remove-application from 3, under a continuous writer.
    Scale,
    /// Deploys three units once per seed; all must become healthy.
    Seeds { count: u64 },
    /// The Juju leader's machine dies; then one that is Juju leader and raft leader.
    KillLeader,
    /// Both authorities are replaced under a continuous writer with old credentials; then the peer
    /// authority again while the leader's machine dies.
    RotateCa,
    /// Both authorities are replaced `rounds` times in a row while Juju's leadership moves.
    Rotations { rounds: u32 },
    /// The only unit is replaced again and again under a writer, with seeded timing; then with skipped hooks and
    /// `--force` in between, after which no second cluster may begin.
    Replace {
        /// Replacements of each kind.
        rounds: u32,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Units come back to addresses that were used before, while Juju goes on listing those that have gone.
    Reuse {
        /// Replacements.
        rounds: u32,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// The charm is refreshed with another daemon, one unit at a time.
    Refresh,
    /// Data in a storage: there from the start, too late, taken away.
    Storage,
    /// Bad options and bad action parameters change nothing; a stopped daemon is started again.
    BadInput,
    /// A new setting of an only unit is taken at once; the application's line is one sentence.
    Alone,
}

/// Parses the command line and does what it says.
pub fn run() -> Result<ExitCode, String> {
    let cli = Cli::parse();
    let lab = Lab { generation: cli.juju, ..Lab::named(&cli.lab)? };
    match cli.command {
        Cmd::Deploy { charm, app, num_units, config, storage, knobs } => {
            lab.start(&knobs.options(), knobs.machines == "process", &|line| eprintln!("{line}"))?;
            let done = lab.deploy(&charm, app.as_deref(), num_units, &config, &storage)?;
            println!("Deploying {} from local charm {}", done["application"], charm.display());
        }
        Cmd::Run { unit, action, params, wait, format } => {
            return run_action(&lab, unit, action, &params, wait, format.as_deref());
        }
        Cmd::Config { app, settings, reset } => {
            let quiet = !settings.is_empty() || !reset.is_empty();
            let all = lab.ask(&Request::Config { app, set: settings, reset })?;
            if !quiet {
                print!("{}", yaml(&all)?);
            }
        }
        Cmd::Status { format, relations } => {
            let report = lab.status()?;
            match format.as_str() {
                "json" => println!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?),
                "yaml" => print!("{}", yaml(&serde_json::to_value(&report).map_err(|error| error.to_string())?)?),
                _ => print!("{}", tabular::render(&report, relations)),
            }
        }
        Cmd::Wait { word, timeout } => {
            let done = |report: &crate::status::report::Report| all_units_are(report, None, &word);
            lab.wait_settled(&format!("every unit {word}"), Duration::from_secs(timeout), &mut |_| {}, &done)?;
        }
        Cmd::Scp { from, to } => scp(&lab, &from, &to)?,
        Cmd::Ssh { unit, command } => return ssh(&lab, &unit, &command),
        Cmd::Exec { unit, command } => {
            let queued = lab.ask(&Request::Exec { unit, script: command.join(" ") })?;
            let task = lab.wait_task(&queued, Duration::from_secs(300))?;
            print!("{}", text(&task.raw["stdout"]));
            eprint!("{}", text(&task.raw["stderr"]));
            return Ok(ExitCode::from(task.raw["return-code"].as_i64().unwrap_or(1) as u8));
        }
        Cmd::DebugLog { follow, level } => debug_log(&lab, follow, &level)?,
        Cmd::Demo { charm } => demo::run(&lab, &charm, &std::env::args().next().unwrap_or_default())?,
        Cmd::Scenario { charm, machines, which } => {
            let lab = Lab { plain: machines == "process", ..lab };
            scenario::run(&lab, &charm, which)?;
        }
        Cmd::Destroy => lab.destroy()?,
        Cmd::Controller { home, options, machines } => {
            let options = serde_json::from_str(&options).map_err(|error| format!("bad --options: {error}"))?;
            controller::run(Home::at(home), options, machines == "process")?;
        }
        simple => {
            lab.ask(&request_of(simple)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Commands that are one request and print nothing.
fn request_of(command: Cmd) -> Result<Request, String> {
    let absolute =
        |path: PathBuf| path.canonicalize().map_err(|error| format!("cannot open {}: {error}", path.display()));
    Ok(match command {
        Cmd::AddUnit { app, num_units } => Request::AddUnit { app, count: num_units },
        Cmd::AddStorage { unit, name } => Request::AddStorage { unit, name },
        Cmd::RemoveUnit { units, force, .. } => Request::RemoveUnit { units, force },
        Cmd::RemoveApplication { app, force, .. } => Request::RemoveApplication { app, force },
        Cmd::Integrate { one, other } => Request::Integrate { one, other },
        Cmd::RemoveRelation { one, other } => Request::RemoveRelation { one, other },
        Cmd::Refresh { app, path } => Request::Refresh { app, archive: absolute(path)? },
        Cmd::Resolve { unit, no_retry } => Request::Resolve { unit, retry: !no_retry },
        Cmd::RestartAgent { unit } => Request::RestartAgent { unit },
        Cmd::InterruptHook { unit } => Request::InterruptHook { unit },
        Cmd::MoveLeadership { app } => Request::MoveLeadership { app },
        Cmd::KillMachine { machine } => Request::KillMachine { machine },
        Cmd::Pause { machine } => Request::Pause { machine, stop: true },
        Cmd::Resume { machine } => Request::Pause { machine, stop: false },
        Cmd::Partition { machine } => Request::Partition { machine, cut: true },
        Cmd::Heal { machine } => Request::Partition { machine, cut: false },
        other => return Err(format!("not a plain request: {other:?}")),
    })
}

fn yaml(value: &Value) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|error| error.to_string())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `name=value` with YAML values and dotted names.
fn params_of(pairs: &[String]) -> Result<BTreeMap<String, Value>, String> {
    pairs
        .iter()
        .map(|pair| {
            let (name, value) =
                pair.split_once('=').ok_or(format!("argument {pair:?} must be of the form name=value"))?;
            let value = serde_yaml::from_str(value).unwrap_or_else(|_| Value::from(value));
            Ok((name.to_owned(), value))
        })
        .collect()
}

fn run_action(
    lab: &Lab,
    unit: String,
    action: String,
    params: &[String],
    wait: u64,
    format: Option<&str>,
) -> Result<ExitCode, String> {
    let queued = lab.ask(&Request::Run { unit, action, params: params_of(params)? })?;
    let unit = text(&queued["unit"]).to_owned();
    eprintln!("Running operation {} with 1 task", queued["task"]);
    eprintln!("  - task {} on {}\n", queued["task"], crate::world::unit_tag(&unit));
    eprintln!("Waiting for task {}...", queued["task"]);
    let task = lab.wait_task(&queued, Duration::from_secs(wait))?;
    match format {
        Some(format) => {
            let all = full_result(&unit, &task);
            print!("{}", if format == "json" { all.to_string() + "\n" } else { yaml(&all)? });
        }
        None => print!("{}", plain_result(&task)?),
    }
    let code = task.raw["return-code"].as_i64();
    if let Some(code) = code.filter(|code| *code != 0) {
        eprintln!("ERROR the following task failed:\n - id \"{}\" with return code {code}", text(&task.raw["id"]));
        return Ok(ExitCode::FAILURE);
    }
    Ok(if code.is_none() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What `juju run` prints: the results, then standard output and standard error.
pub fn plain_result(task: &TaskReport) -> Result<String, String> {
    let mut out = String::new();
    if task.status() == "failed" {
        out.push_str(&format!("Action id {} failed: {}\n", text(&task.raw["id"]), text(&task.raw["message"])));
    }
    for line in task.raw["log"].as_array().into_iter().flatten() {
        out.push_str(&format!("{}\n", text(line)));
    }
    if task.results().as_object().is_some_and(|results| !results.is_empty()) {
        out.push_str(&yaml(task.results())?);
    }
    for stream in ["stdout", "stderr"] {
        let content = text(&task.raw[stream]);
        if !content.is_empty() {
            out.push_str(&format!("\n{content}"));
        }
    }
    Ok(out)
}

/// The same as data, in Juju's shape.
fn full_result(unit: &str, task: &TaskReport) -> Value {
    let mut results = task.results().clone();
    if let Some(map) = results.as_object_mut() {
        map.insert("return-code".to_owned(), task.raw["return-code"].clone());
        for stream in ["stdout", "stderr"] {
            if !text(&task.raw[stream]).is_empty() {
                map.insert(stream.to_owned(), task.raw[stream].clone());
            }
        }
    }
    let mut body = serde_json::Map::new();
    for key in ["id", "status", "message", "log", "timing", "unit"] {
        let value = &task.raw[key];
        if value.as_str() != Some("") && value.as_array().is_none_or(|list| !list.is_empty()) {
            body.insert(key.to_owned(), value.clone());
        }
    }
    body.insert("results".to_owned(), results);
    Value::Object(serde_json::Map::from_iter([(unit.to_owned(), Value::Object(body))]))
}

fn scp(lab: &Lab, from: &str, to: &str) -> Result<(), String> {
    let remote = |text: &str| text.split_once(':').map(|(unit, path)| (unit.to_owned(), path.to_owned()));
    match (remote(from), remote(to)) {
        (Some((unit, path)), None) => {
            let mut target = PathBuf::from(to);
            if target.is_dir() {
                target.push(path.rsplit('/').next().unwrap_or(&path));
            }
            lab.copy_out(&unit, &path, &target)
        }
        (None, Some((unit, path))) => lab.copy_in(std::path::Path::new(from), &unit, &path),
        _ => Err("give exactly one of the two as <unit>:<path>".to_owned()),
    }
}

fn ssh(lab: &Lab, unit: &str, command: &[String]) -> Result<ExitCode, String> {
    let script = command.join(" ");
    let argv: Vec<&str> = if command.is_empty() { vec!["bash", "-l"] } else { vec!["bash", "-c", &script] };
    let line = lab.enter(unit, false, &argv)?;
    let status =
        Command::new(&line[0]).args(&line[1..]).status().map_err(|error| format!("cannot run {}: {error}", line[0]))?;
    Ok(ExitCode::from(status.code().unwrap_or(255) as u8))
}

fn debug_log(lab: &Lab, follow: bool, level: &str) -> Result<(), String> {
    const LEVELS: [&str; 5] = ["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"];
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level).unwrap_or(0);
    let mut from = 0;
    loop {
        let answer = lab.ask(&Request::Log { from })?;
        let lines: Vec<LogLine> = serde_json::from_value(answer["lines"].clone()).map_err(|error| error.to_string())?;
        for line in lines.iter().filter(|line| rank(&line.level) >= rank(&level.to_uppercase())) {
            println!("{}: {} {} {} {}", line.entity, time_of_day(line.at), line.level, line.module, line.message);
        }
        from = answer["next"].as_u64().unwrap_or(from);
        if !follow {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
