//! A machine as a directory and a loopback address, for computers without root or containers.
//!
//! Hooks see the prefix in `ETCD_CHARM_ROOT` and `ETCD_CHARM_SERVICE=process`; what they start must keep
//! that environment, since it is how the lab finds the machine's processes again.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Identity;
use crate::home::{Home, kill_by_environment, pids_by_environment};

/// One prefix.
#[derive(Debug)]
pub struct Prefix {
    /// Name and address.
    pub identity: Identity,
    /// What stands for `/`.
    pub root: PathBuf,
}

impl Prefix {
    /// Makes the directory.
    pub fn make(home: &Home, id: u32) -> Result<Self, String> {
        let root = home.machine(id).join("root");
        for part in ["etc", "home/ubuntu", "var/lib/juju/tools", "var/log", "run"] {
            fs::create_dir_all(root.join(part))
                .map_err(|error| format!("cannot make machine {id} in {}: {error}", root.display()))?;
        }
        // Labs that run side by side share the loopback network: each takes its own part of it.
        let mark = u32::from_str_radix(home.tag().trim_start_matches("lab"), 16).unwrap_or(0);
        let identity = Identity {
            id,
            address: format!("127.{}.{}.{}", 20 + mark / 250 % 200, mark % 250, 10 + id % 240),
            prefix: 8,
            interface: "lo".to_owned(),
            mac: "00:00:00:00:00:00".to_owned(),
            hostname: format!("juju-{}-{id}", home.tag()),
        };
        Ok(Self { identity, root })
    }

    /// See [`super::Machine::enter`].
    pub fn enter(&self, dir: &str, env: &[(String, String)], argv: &[String]) -> Vec<String> {
        let dir = if dir.starts_with(&self.root.display().to_string()) {
            dir.to_owned()
        } else {
            self.root.display().to_string() + dir
        };
        let mut line = vec!["env".to_owned(), "-i".to_owned(), format!("--chdir={dir}")];
        line.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
        line.push(format!("ETCD_CHARM_ROOT={}", self.root.display()));
        line.push("ETCD_CHARM_SERVICE=process".to_owned());
        line.extend(argv.iter().cloned());
        line
    }

    /// Kills every process that carries this prefix in its environment.
    pub fn kill(&self) {
        for _ in 0..2 {
            kill_by_environment(&self.root);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops or continues them.
    pub fn pause(&self, stop: bool) -> Result<(), String> {
        let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
        for pid in pids_by_environment(&self.root) {
            kill(Pid::from_raw(pid), signal).map_err(|error| format!("cannot signal process {pid}: {error}"))?;
        }
        Ok(())
    }

    /// Deletes the directory.
    pub fn remove(self) -> Result<(), String> {
        let dir = self.root.parent().unwrap_or(&self.root);
        fs::remove_dir_all(dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))
    }
}
