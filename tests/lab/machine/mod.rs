//! Machines: systemd-nspawn containers where that works, plain processes where it does not.
//!
//! The rest of the lab sees one type, `Machine`: boot it, run commands in it, pause, cut off, kill, remove.

pub mod base;
pub mod network;
mod nspawn;
mod process;

use std::path::PathBuf;
use std::process::Command;

use crate::home::Home;

/// Hook tools and charms live below this directory in every machine.
pub const JUJU_DIR: &str = "/var/lib/juju";

/// How machines are made on this computer.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Containers with real systemd.
    Nspawn { base: PathBuf, network: network::Network },
    /// Plain processes on loopback addresses.
    Process,
}

/// Who runs a command inside a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// As hooks do.
    Root,
    /// As `juju ssh` and `juju scp` do.
    Ubuntu,
}

/// What a machine is called and reachable as.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Number.
    pub id: u32,
    /// IPv4 address.
    pub address: String,
    /// Prefix length.
    pub prefix: u8,
    /// Interface inside.
    pub interface: String,
    /// Hardware address.
    pub mac: String,
    /// Host name inside.
    pub hostname: String,
}

/// One running machine.
#[derive(Debug)]
pub enum Machine {
    /// A container.
    Nspawn(nspawn::Container),
    /// A directory and a loopback address.
    Process(process::Prefix),
}

impl Provider {
    /// Chooses and prepares the way machines are made; `say` gets progress for people.
    /// `force_process` skips containers.
    pub fn prepare(home: &Home, force_process: bool, say: &dyn Fn(&str)) -> Result<Self, String> {
        let reason =
            if force_process { Some("asked for with --machines process".to_owned()) } else { nspawn::missing() };
        if let Some(reason) = reason {
            say(&format!("MACHINES ARE PLAIN PROCESSES, not containers: {reason}."));
            say("No systemd, no hardening, no own network: hooks run as this user under a directory prefix.");
            return Ok(Self::Process);
        }
        let base = base::ensure(say)?;
        let network = network::Network::create(home)?;
        Ok(Self::Nspawn { base, network })
    }

    /// True when containers can be used here, so that the image is needed.
    pub fn wants_base() -> bool {
        nspawn::missing().is_none()
    }

    /// Builds and boots machine `id`; returns once it can run commands.
    pub fn boot(&self, home: &Home, id: u32) -> Result<Machine, String> {
        match self {
            Self::Nspawn { base, network } => nspawn::Container::boot(home, base, network, id).map(Machine::Nspawn),
            Self::Process => process::Prefix::make(home, id).map(Machine::Process),
        }
    }
}

impl Machine {
    /// Name and address.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Nspawn(container) => &container.identity,
            Self::Process(prefix) => &prefix.identity,
        }
    }

    /// Where a path below `JUJU_DIR` in the machine is on this computer.
    pub fn juju_path(&self, below: &str) -> PathBuf {
        match self {
            Self::Nspawn(container) => container.juju.join(below),
            Self::Process(prefix) => prefix.root.join(JUJU_DIR.trim_start_matches('/')).join(below),
        }
    }

    /// The same path as processes in the machine name it.
    pub fn seen_inside(&self, below: &str) -> String {
        match self {
            Self::Nspawn(_) => format!("{JUJU_DIR}/{below}"),
            Self::Process(_) => self.juju_path(below).display().to_string(),
        }
    }

    /// Where the unit agent listens on this computer, and the same as hooks name it.
    pub fn agent_socket(&self, unit_tag: &str) -> (PathBuf, String) {
        match self {
            Self::Nspawn(_) => {
                let below = format!("agents/{unit_tag}/agent.socket");
                (self.juju_path(&below), self.seen_inside(&below))
            }
            // Kept short: a socket's path holds 107 bytes.
            Self::Process(prefix) => {
                let path = prefix.root.with_file_name("agent.socket");
                (path.clone(), path.display().to_string())
            }
        }
    }

    /// The command line that runs `argv` inside, in `dir`, with exactly the environment `env`.
    pub fn enter(&self, user: User, dir: &str, env: &[(String, String)], argv: &[String]) -> Vec<String> {
        match self {
            Self::Nspawn(container) => container.enter(user, dir, env, argv),
            Self::Process(prefix) => prefix.enter(dir, env, argv),
        }
    }

    /// `enter` as a command ready to spawn, with an empty environment of its own.
    pub fn command(&self, user: User, dir: &str, env: &[(String, String)], argv: &[String]) -> Command {
        let line = self.enter(user, dir, env, argv);
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).env_clear().env("PATH", network::HOST_PATH);
        command
    }

    /// Makes a folder, such as a storage's, inside.
    pub fn make_folder(&self, path: &str) -> Result<(), String> {
        let made = match self {
            Self::Process(prefix) => std::fs::create_dir_all(prefix.root.join(path.trim_start_matches('/'))),
            Self::Nspawn(_) => {
                let argv = ["mkdir", "-p", path].map(str::to_owned);
                let env = [("PATH".to_owned(), network::HOST_PATH.to_owned())];
                self.command(User::Root, "/", &env, &argv).status().map(drop)
            }
        };
        made.map_err(|error| format!("cannot make {path} in machine {}: {error}", self.identity().id))
    }

    /// Ends every process in it at once, as a power cut does.
    pub fn kill(&mut self) {
        match self {
            Self::Nspawn(container) => container.kill(),
            Self::Process(prefix) => prefix.kill(),
        }
    }

    /// Stops (`true`) or continues every process in it.
    pub fn pause(&self, stop: bool) -> Result<(), String> {
        match self {
            Self::Nspawn(container) => container.pause(stop),
            Self::Process(prefix) => prefix.pause(stop),
        }
    }

    /// Cuts it off from all other machines and this computer, or plugs it in again.
    pub fn partition(&self, cut: bool) -> Result<(), String> {
        match self {
            Self::Nspawn(container) => container.partition(cut),
            Self::Process(_) => {
                Err("machines that are plain processes share one network; partition needs containers".to_owned())
            }
        }
    }

    /// Kills it and deletes everything it had.
    pub fn remove(mut self) -> Result<(), String> {
        self.kill();
        match self {
            Self::Nspawn(container) => container.remove(),
            Self::Process(prefix) => prefix.remove(),
        }
    }
}

/// The network address of `address/prefix`; empty when `address` is not IPv4.
pub fn network_of(address: &str, prefix: u8) -> String {
    let Ok(address) = address.parse::<std::net::Ipv4Addr>() else { return String::new() };
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    std::net::Ipv4Addr::from(u32::from(address) & mask).to_string()
}
