//! The command line's side: finds or starts the controller and asks it things. Scenarios and the demo use
//! the same calls.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::home::Home;
use crate::machine::{Provider, base};
use crate::requests::Request;
use crate::status::report::Report;
use crate::wire;
use crate::world::Options;
use crate::world::generation::Generation;

/// How long a new controller may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a condition must hold to count as settled.
const SETTLE: Duration = Duration::from_secs(3);

/// A lab as seen from outside its controller.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Its directory.
    pub home: Home,
    /// Scenarios use plain processes even where containers can run.
    pub plain: bool,
    /// The Juju a lab behaves as from its start on.
    pub generation: Generation,
}

/// A finished task.
#[derive(Debug, Clone)]
pub struct TaskReport {
    /// As the controller answered it.
    pub raw: Value,
}

impl TaskReport {
    /// `completed`, `failed` or `aborted`.
    pub fn status(&self) -> &str {
        self.raw["status"].as_str().unwrap_or_default()
    }

    /// What `action-set` collected.
    pub fn results(&self) -> &Value {
        &self.raw["results"]
    }
}

impl Lab {
    /// The lab of that name; nothing is started.
    pub fn named(name: &str) -> Result<Self, String> {
        Ok(Self { home: Home::new(name)?, plain: false, generation: Generation::default() })
    }

    /// One request to the running controller.
    pub fn ask(&self, request: &Request) -> Result<Value, String> {
        let socket = self.home.control_socket();
        let down = |error: std::io::Error| {
            format!("no lab is running ({}: {error}); start one with `lab deploy <charm>`", socket.display())
        };
        let mut stream = UnixStream::connect(&socket).map_err(down)?;
        wire::send(&mut stream, request).map_err(down)?;
        wire::receive::<Result<Value, String>>(&mut stream).map_err(down)?
    }

    /// True when the controller answers.
    pub fn is_up(&self) -> bool {
        UnixStream::connect(self.home.control_socket()).is_ok()
    }

    /// Starts the controller unless it is up; cleans a crashed one first.
    pub fn start(&self, options: &Options, force_process: bool, say: &dyn Fn(&str)) -> Result<(), String> {
        if self.is_up() {
            return Ok(());
        }
        self.home.clean()?;
        let io = |error: std::io::Error| format!("cannot prepare {}: {error}", self.home.root().display());
        self.home.create().map_err(io)?;
        if !force_process && Provider::wants_base() {
            base::ensure(say)?;
        }
        let options = Options { generation: self.generation, ..options.clone() };
        let own = std::env::current_exe().map_err(io)?;
        fs::copy(&own, self.home.program()).map_err(io)?;
        let log = File::create(self.home.root().join("controller.log")).map_err(io)?;
        let mut command = Command::new(self.home.program());
        command.arg0("lab").arg("controller").arg("--home").arg(self.home.root());
        command.arg("--options").arg(serde_json::to_string(&options).map_err(|error| error.to_string())?);
        if force_process {
            command.args(["--machines", "process"]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(io)?).stderr(log).process_group(0);
        let mut child = command.spawn().map_err(io)?;
        let deadline = Instant::now() + START_LIMIT;
        while !self.is_up() {
            let ended = child.try_wait().map_err(io)?.is_some();
            if ended || Instant::now() > deadline {
                let log = fs::read_to_string(self.home.root().join("controller.log")).unwrap_or_default();
                return Err(format!("the lab's controller did not start: {}", log.trim()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for line in fs::read_to_string(self.home.root().join("controller.log")).unwrap_or_default().lines() {
            say(line);
        }
        Ok(())
    }

    /// Ends the lab and removes everything it made.
    pub fn destroy(&self) -> Result<(), String> {
        if self.is_up() {
            self.ask(&Request::Stop)?;
        }
        self.home.clean()
    }

    /// Deploys an archive.
    pub fn deploy(
        &self,
        archive: &Path,
        app: Option<&str>,
        units: u32,
        config: &[String],
        storage: &[String],
    ) -> Result<Value, String> {
        let archive =
            archive.canonicalize().map_err(|error| format!("cannot open charm {}: {error}", archive.display()))?;
        let (app, config, storage) = (app.map(str::to_owned), config.to_vec(), storage.to_vec());
        self.ask(&Request::Deploy { archive, app, units, config, storage })
    }

    /// The report.
    pub fn status(&self) -> Result<Report, String> {
        serde_json::from_value(self.ask(&Request::Status)?).map_err(|error| format!("bad status: {error}"))
    }

    /// Waits until a queued task is over.
    pub fn wait_task(&self, queued: &Value, limit: Duration) -> Result<TaskReport, String> {
        let id = queued["task"].as_u64().ok_or("the controller gave no task number")?;
        let deadline = Instant::now() + limit;
        loop {
            let raw = self.ask(&Request::Task { id })?;
            if raw["over"] == json!(true) {
                return Ok(TaskReport { raw });
            }
            if Instant::now() > deadline {
                return Err(format!("timed out waiting for results from: unit {}", queued["unit"]));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs an action to its end.
    pub fn run_action(
        &self,
        unit: &str,
        action: &str,
        params: BTreeMap<String, Value>,
        limit: Duration,
    ) -> Result<TaskReport, String> {
        let queued = self.ask(&Request::Run { unit: unit.to_owned(), action: action.to_owned(), params })?;
        self.wait_task(&queued, limit)
    }

    /// Runs a command in a unit's machine and gives its output; `stdin` is fed to it.
    pub fn inside(&self, unit: &str, root: bool, argv: &[&str], stdin: Option<File>) -> Result<Output, String> {
        let line = self.enter(unit, root, argv)?;
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdin(stdin.map_or_else(Stdio::null, Stdio::from));
        command.output().map_err(|error| format!("cannot run `{}`: {error}", line.join(" ")))
    }

    /// The command line for that.
    pub fn enter(&self, unit: &str, root: bool, argv: &[&str]) -> Result<Vec<String>, String> {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let line = self.ask(&Request::Enter { unit: unit.to_owned(), root, argv })?;
        serde_json::from_value(line).map_err(|error| format!("bad answer: {error}"))
    }

    /// A path of a unit's machine as commands run there name it.
    pub fn path_inside(&self, unit: &str, path: &str) -> Result<String, String> {
        let line = self.enter(unit, true, &["true"])?;
        let root = line.iter().find_map(|word| word.strip_prefix("ETCD_CHARM_ROOT="));
        Ok(format!("{}{path}", root.unwrap_or_default()))
    }

    /// Copies a file out of a unit's machine, as user `ubuntu`.
    pub fn copy_out(&self, unit: &str, path: &str, target: &Path) -> Result<(), String> {
        let output = self.inside(unit, false, &["cat", "--", path], None)?;
        if !output.status.success() {
            return Err(format!("cannot read {unit}:{path}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        // What is fetched may hold a key, so it is readable by its owner only.
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(target);
        file.and_then(|mut file| file.write_all(&output.stdout))
            .map_err(|error| format!("cannot write {}: {error}", target.display()))
    }

    /// Copies a file into a unit's machine, as user `ubuntu`.
    pub fn copy_in(&self, source: &Path, unit: &str, path: &str) -> Result<(), String> {
        let file = File::open(source).map_err(|error| format!("cannot read {}: {error}", source.display()))?;
        let output = self.inside(unit, false, &["sh", "-c", "cat > \"$1\"", "sh", path], Some(file))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("cannot write {unit}:{path}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Polls the report until `done` says so; `tick` sees every report. The error holds the last table.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        tick: &mut dyn FnMut(&Report),
        done: &dyn Fn(&Report) -> bool,
    ) -> Result<Report, String> {
        let deadline = Instant::now() + limit;
        loop {
            let report = self.status()?;
            tick(&report);
            if done(&report) {
                return Ok(report);
            }
            if Instant::now() > deadline {
                let table = crate::status::tabular::render(&report, false);
                return Err(format!("{what} did not happen within {} s:\n{table}", limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// `wait_until`, but `done` must stay true for [`SETTLE`]: agents are idle for a moment between hooks.
    pub fn wait_settled(
        &self,
        what: &str,
        limit: Duration,
        tick: &mut dyn FnMut(&Report),
        done: &dyn Fn(&Report) -> bool,
    ) -> Result<Report, String> {
        let since: Cell<Option<Instant>> = Cell::new(None);
        let settled = |report: &Report| {
            if !done(report) {
                since.set(None);
                return false;
            }
            let start = since.get().unwrap_or_else(Instant::now);
            since.set(Some(start));
            start.elapsed() >= SETTLE
        };
        self.wait_until(what, limit, tick, &settled)
    }
}

/// True when every unit (of `app`, if given) shows the workload status `word` and an idle agent.
pub fn all_units_are(report: &Report, app: Option<&str>, word: &str) -> bool {
    let mut units = report
        .applications
        .iter()
        .filter(|(name, _)| app.is_none_or(|app| app == *name))
        .flat_map(|(_, app)| app.units.values())
        .peekable();
    units.peek().is_some()
        && units.all(|unit| unit.workload_status.current == word && unit.juju_status.current == "idle")
}
