//! One deployed application and the cluster it forms, seen from outside through the lab and etcdctl.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Lab, TaskReport, all_units_are};
use crate::demo;
use crate::requests::Request;
use crate::status::report::Report;
use crate::world::{LogLine, Options};

/// How long any stage may take to settle.
pub const STAGE_LIMIT: Duration = Duration::from_secs(300);

/// How long a connection to a member may take.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// How long actions may take.
const ACTION_LIMIT: Duration = Duration::from_secs(60);

/// One row of `etcdctl member list`.
#[derive(Debug, Clone)]
pub struct MemberRow {
    /// Id in hex.
    pub id: String,
    /// `started` or `unstarted`.
    pub state: String,
    /// Name; units `etcd/0` are called `etcd0`.
    pub name: String,
    /// True while it does not vote.
    pub learner: bool,
}

/// See the module text.
pub struct Cluster<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Application name.
    pub app: String,
    /// Where the client's PEM files are; set by `fetch_credentials`.
    pub credentials: PathBuf,
}

impl<'a> Cluster<'a> {
    /// Starts the lab and deploys `units` units.
    pub fn deploy(lab: &'a Lab, charm: &Path, units: u32, options: &Options) -> Result<Self, String> {
        Self::deploy_with(lab, charm, units, options, &[])
    }

    /// The same, each unit with these storages.
    pub fn deploy_with(
        lab: &'a Lab,
        charm: &Path,
        units: u32,
        options: &Options,
        storage: &[String],
    ) -> Result<Self, String> {
        lab.start(options, lab.plain, &|line| println!("{line}"))?;
        let answer = lab.deploy(charm, None, units, &[], storage)?;
        let app = answer["application"].as_str().ok_or("the lab gave no application name")?.to_owned();
        Ok(Self { lab, app, credentials: PathBuf::new() })
    }

    /// Waits until there are exactly `units` units, all of them healthy, one of them leader, and the application
    /// says the same.
    pub fn wait_healthy(&self, units: usize) -> Result<Report, String> {
        let what = format!("{units} healthy units");
        let done = |report: &Report| {
            let Some(app) = report.applications.get(&self.app) else { return false };
            let says = |text: &str| app.units.values().filter(|unit| unit.workload_status.message == text).count();
            app.units.len() == units
                && all_units_are(report, Some(&self.app), "active")
                && says("(leader) cluster is healthy") == 1
                && says("cluster is healthy") == units - 1
                && app.application_status.message == format!("cluster is healthy: {units} of {units} members")
        };
        self.lab.wait_settled(&what, STAGE_LIMIT, &mut |_| {}, &done)
    }

    /// Runs an action that must succeed and gives its results.
    pub fn act(&self, unit: &str, action: &str, params: &[(&str, Value)]) -> Result<Value, String> {
        let task = self.start_action(unit, action, params)?;
        match task.status() {
            "completed" => Ok(task.results().clone()),
            _ => Err(format!("{action} on {unit}: {}", task.raw["message"])),
        }
    }

    /// Runs an action that must be refused and gives the reason.
    pub fn act_in_vain(&self, unit: &str, action: &str, params: &[(&str, Value)]) -> Result<String, String> {
        let task = self.start_action(unit, action, params)?;
        match task.status() {
            "failed" => Ok(task.raw["message"].as_str().unwrap_or_default().to_owned()),
            status => Err(format!("{action} on {unit} should be refused, but {status}: {}", task.results())),
        }
    }

    fn start_action(&self, unit: &str, action: &str, params: &[(&str, Value)]) -> Result<TaskReport, String> {
        let params = params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        self.lab.run_action(unit, action, params, ACTION_LIMIT)
    }

    /// The process id of a unit's daemon, in its machine.
    pub fn daemon_pid(&self, unit: &str) -> Result<String, String> {
        let program = self.lab.path_inside(unit, "/opt/etcd/bin/etcd")?;
        let output = self.lab.inside(unit, true, &["pgrep", "-f", &format!("^{program} ")], None)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut pids = text.split_whitespace();
        match (pids.next(), pids.next()) {
            (Some(pid), None) => Ok(pid.to_owned()),
            _ => Err(format!("{unit} runs not exactly one daemon: {text:?}")),
        }
    }

    /// How many members take a connection.
    pub fn answering(&self, report: &Report) -> usize {
        let open = |unit: &&crate::status::report::UnitReport| {
            let address = format!("{}:2379", unit.public_address);
            address.parse().is_ok_and(|address| std::net::TcpStream::connect_timeout(&address, CONNECT_LIMIT).is_ok())
        };
        report.applications.get(&self.app).into_iter().flat_map(|app| app.units.values()).filter(open).count()
    }

    /// What a file in a unit's machine holds, read as root.
    pub fn file(&self, unit: &str, path: &str) -> Result<String, String> {
        let path = self.lab.path_inside(unit, path)?;
        let output = self.lab.inside(unit, true, &["cat", &path], None)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("cannot read {unit}:{path}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Waits until the Juju leader's status message is as wanted, and everybody is active.
    pub fn wait_leader_says(&self, what: &str, says: &dyn Fn(&str) -> bool) -> Result<Report, String> {
        let done = |report: &Report| {
            let Some(app) = report.applications.get(&self.app) else { return false };
            app.units.values().any(|unit| unit.leader && says(&unit.workload_status.message))
        };
        self.lab.wait_until(&format!("the leader saying {what}"), STAGE_LIMIT, &mut |_| {}, &done)
    }

    /// Issues credentials on `unit` and keeps them in a directory of their own.
    pub fn fetch_credentials(&mut self, unit: &str) -> Result<PathBuf, String> {
        let task = self.lab.run_action(unit, "generate-client-certificates", Default::default(), ACTION_LIMIT)?;
        if task.status() != "completed" {
            return Err(format!("generate-client-certificates on {unit}: {}", task.raw["message"]));
        }
        let fetched = demo::fetch_credentials(self.lab, unit)?;
        let free = (1..).map(|number| self.lab.home.root().join(format!("credentials-{number}")));
        let kept = free.into_iter().find(|dir| !dir.exists()).ok_or("no directory name is free")?;
        std::fs::rename(&fetched, &kept).map_err(|error| format!("cannot keep {}: {error}", kept.display()))?;
        self.credentials = kept.clone();
        Ok(kept)
    }

    /// Client URLs of all units whose agent is not lost.
    pub fn endpoints(&self, report: &Report) -> Vec<String> {
        let app = report.applications.get(&self.app);
        let units = app.into_iter().flat_map(|app| app.units.values());
        units
            .filter(|unit| unit.juju_status.current != "lost")
            .map(|unit| format!("https://{}:2379", unit.public_address))
            .collect()
    }

    /// Runs etcdctl (API 3) against `endpoints` with the credentials fetched last.
    pub fn etcdctl(&self, endpoints: &[String], args: &[&str]) -> Result<String, String> {
        let file = |name: &str| self.credentials.join(name);
        let output = Command::new("etcdctl")
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", endpoints.join(","))
            .env("ETCDCTL_CACERT", file("ca.pem"))
            .env("ETCDCTL_CERT", file("clientcert.pem"))
            .env("ETCDCTL_KEY", file("clientkey.pem"))
            .output()
            .map_err(|error| format!("cannot run etcdctl: {error}; apt-get install etcd-client"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("etcdctl {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// The member list.
    pub fn members(&self, endpoints: &[String]) -> Result<Vec<MemberRow>, String> {
        let text = self.etcdctl(endpoints, &["member", "list"])?;
        let row = |line: &str| {
            let cells: Vec<&str> = line.split(", ").collect();
            let [id, state, name, _, _, learner] = cells.as_slice() else {
                return Err(format!("cannot read member list line {line:?}"));
            };
            Ok(MemberRow {
                id: (*id).to_owned(),
                state: (*state).to_owned(),
                name: (*name).to_owned(),
                learner: *learner == "true",
            })
        };
        text.lines().map(row).collect()
    }

    /// The member list must be the units: started, voting, no more and no fewer.
    pub fn check_members(&self, report: &Report) -> Result<(), String> {
        let members = self.members(&self.endpoints(report))?;
        let listed: BTreeSet<String> = members.iter().map(|member| member.name.clone()).collect();
        let units: BTreeSet<String> =
            demo::unit_names(report, &self.app).iter().map(|unit| unit.replace('/', "")).collect();
        let voting = members.iter().all(|member| member.state == "started" && !member.learner);
        if listed == units && voting {
            return Ok(());
        }
        Err(format!("the member list {members:?} is not that of units {units:?}"))
    }

    /// Every acknowledged key must be there.
    pub fn check_keys(&self, report: &Report, prefix: &str, acked: &[String]) -> Result<(), String> {
        let text = self.etcdctl(&self.endpoints(report), &["get", "--prefix", "--keys-only", prefix])?;
        let there: BTreeSet<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let lost: Vec<&String> = acked.iter().filter(|key| !there.contains(key.as_str())).collect();
        match lost.first() {
            None => Ok(()),
            Some(first) => {
                Err(format!("{} of {} acknowledged keys are lost, the first {first}", lost.len(), acked.len()))
            }
        }
    }

    /// The unit that leads in Juju's sense, if any that answers does.
    pub fn juju_leader(&self, report: &Report) -> Option<String> {
        let units = &report.applications.get(&self.app)?.units;
        let leads = |unit: &&crate::status::report::UnitReport| unit.leader && unit.juju_status.current != "lost";
        units.iter().find(|(_, unit)| leads(unit)).map(|(name, _)| name.clone())
    }

    /// The unit whose member leads in Raft's sense.
    pub fn raft_leader(&self, report: &Report) -> Result<String, String> {
        let app = &report.applications[&self.app];
        for (name, unit) in app.units.iter().filter(|(_, unit)| unit.juju_status.current != "lost") {
            let endpoint = [format!("https://{}:2379", unit.public_address)];
            // Columns: endpoint, id, version, size, is leader, …
            let line = self.etcdctl(&endpoint, &["endpoint", "status"])?;
            if line.split(", ").nth(4) == Some("true") {
                return Ok(name.clone());
            }
        }
        Err("no member says it leads".to_owned())
    }

    /// Moves raft leadership to the member of `unit`.
    pub fn move_raft_leader(&self, report: &Report, unit: &str) -> Result<(), String> {
        let deadline = Instant::now() + ACTION_LIMIT;
        loop {
            let leader = self.raft_leader(report)?;
            if leader == unit {
                return Ok(());
            }
            let address = &report.applications[&self.app].units[&leader].public_address;
            let endpoint = [format!("https://{address}:2379")];
            let members = self.members(&endpoint)?;
            let target = members.iter().find(|member| member.name == unit.replace('/', ""));
            let target = target.ok_or(format!("unit {unit} is no member"))?;
            let moved = self.etcdctl(&endpoint, &["move-leader", &target.id]);
            if Instant::now() > deadline {
                return Err(format!("raft leadership does not move to {unit}: {moved:?}"));
            }
        }
    }

    /// `hook "…" failed` lines in the log so far.
    pub fn failed_hooks(&self) -> Result<Vec<String>, String> {
        self.log_lines(&|line| line.level == "ERROR" && line.message.starts_with("hook "))
    }

    /// Hooks and actions that asked Juju for something after they had changed something, so far.
    pub fn reads_after_writes(&self) -> Result<Vec<String>, String> {
        self.log_lines(&|line| line.module == crate::tools::READ_BACK)
    }

    fn log_lines(&self, wanted: &dyn Fn(&LogLine) -> bool) -> Result<Vec<String>, String> {
        let answer = self.lab.ask(&Request::Log { from: 0 })?;
        let lines: Vec<LogLine> = serde_json::from_value(answer["lines"].clone()).map_err(|error| error.to_string())?;
        let wanted = lines.iter().filter(|line| wanted(line));
        Ok(wanted.map(|line| format!("{}: {}", line.entity, line.message)).collect())
    }
}
