//! A machine as a systemd-nspawn container: an overlay over the base, its own network namespace, real
//! systemd as process 1. Commands enter with nsenter, which also works where no machined runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use super::network::{HOST_PATH, Network};
use super::{Identity, User};
use crate::home::{Home, all_pids, children, must, quiet, write_pid};

/// How long a container may take until systemd says it is up.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Programs the container provider calls.
const PROGRAMS: [&str; 7] = ["systemd-nspawn", "debootstrap", "nsenter", "unshare", "ip", "bridge", "chroot"];

/// Why containers cannot be used here, if they cannot.
pub fn missing() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("containers need root (run as root or with sudo)".to_owned());
    }
    let found = |program: &&str| HOST_PATH.split(':').any(|dir| Path::new(dir).join(program).exists());
    let absent: Vec<&str> = PROGRAMS.into_iter().filter(|program| !found(program)).collect();
    if absent.is_empty() {
        // Root inside an ordinary container may still make no namespaces.
        let allowed = must("unshare", &["--mount", "--net", "--pid", "--fork", "true"]);
        return allowed.err().map(|error| format!("this root may not make containers: {error}"));
    }
    Some(format!("{} not installed (apt-get install systemd-container debootstrap iproute2)", absent.join(", ")))
}

/// One container.
#[derive(Debug)]
pub struct Container {
    /// Name and address.
    pub identity: Identity,
    /// What the machine sees as `/var/lib/juju`.
    pub juju: PathBuf,
    dir: PathBuf,
    network: Network,
    supervisor: Child,
    init: Pid,
}

impl Container {
    /// Builds the file system and the network, boots, waits for systemd.
    pub fn boot(home: &Home, base: &Path, network: &Network, id: u32) -> Result<Self, String> {
        let dir = home.machine(id);
        let juju = dir.join("juju");
        let io = |error: std::io::Error| format!("cannot make machine {id} in {}: {error}", dir.display());
        for part in ["upper", "work", "root", "juju/tools"] {
            fs::create_dir_all(dir.join(part)).map_err(io)?;
        }
        mount_root(base, &dir)?;
        let identity = Identity {
            id,
            address: network.address(id),
            prefix: 24,
            interface: "eth0".to_owned(),
            mac: format!("00:16:3e:{:02x}:{:02x}:{:02x}", home.tag().as_bytes()[3], id >> 8 & 0xff, id & 0xff),
            hostname: format!("juju-{}-{id}", home.tag()),
        };
        network.plug(id, &identity.mac)?;
        let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {}\n::1 localhost\n", identity.hostname);
        fs::write(dir.join("root/etc/hosts"), hosts).map_err(io)?;
        fs::write(dir.join("root/etc/hostname"), format!("{}\n", identity.hostname)).map_err(io)?;
        let supervisor = spawn(home, &dir, &identity, network)?;
        write_pid(&dir.join("pid"), supervisor.id()).map_err(io)?;
        let mut container = Self { identity, juju, dir, network: network.clone(), supervisor, init: Pid::from_raw(0) };
        container.wait_until_up()?;
        Ok(container)
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + BOOT_LIMIT;
        let ours = fs::read_link("/proc/self/ns/pid").ok();
        loop {
            if let Ok(Some(status)) = self.supervisor.try_wait() {
                let console = fs::read_to_string(self.dir.join("console.log")).unwrap_or_default();
                return Err(format!("machine {} did not boot ({status}): {}", self.identity.id, console.trim()));
            }
            let init = children(self.supervisor.id() as i32).into_iter().find(|child| {
                let space = fs::read_link(format!("/proc/{child}/ns/pid")).ok();
                space.is_some() && space != ours
            });
            if let Some(init) = init {
                self.init = Pid::from_raw(init);
                if self.is_up() {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                return Err(format!("machine {} was not up after {} s", self.identity.id, BOOT_LIMIT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    fn is_up(&self) -> bool {
        let question = ["systemctl".to_owned(), "is-system-running".to_owned()];
        let line = self.enter(User::Root, "/", &[("PATH".to_owned(), HOST_PATH.to_owned())], &question);
        let output = Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).stderr(Stdio::null()).output();
        output.is_ok_and(|output| matches!(output.stdout.as_slice(), b"running\n" | b"degraded\n"))
    }

    /// See [`super::Machine::enter`].
    pub fn enter(&self, user: User, dir: &str, env: &[(String, String)], argv: &[String]) -> Vec<String> {
        let mut line: Vec<String> =
            ["nsenter", "-t", &self.init.to_string(), "-m", "-u", "-i", "-n", "-p", "--"].map(str::to_owned).to_vec();
        if user == User::Ubuntu {
            line.extend(["runuser", "-u", "ubuntu", "--"].map(str::to_owned));
        }
        line.extend(["env".to_owned(), "-i".to_owned(), format!("--chdir={dir}")]);
        line.extend(env.iter().map(|(name, value)| format!("{name}={value}")));
        line.extend(argv.iter().cloned());
        line
    }

    /// Power cut.
    pub fn kill(&mut self) {
        if self.init.as_raw() > 0 {
            let _ = kill(self.init, Signal::SIGKILL);
        } else {
            let _ = self.supervisor.kill();
        }
        let _ = self.supervisor.wait();
        self.init = Pid::from_raw(0);
    }

    /// SIGSTOP or SIGCONT for every process of the container's process namespace.
    pub fn pause(&self, stop: bool) -> Result<(), String> {
        let space = fs::read_link(format!("/proc/{}/ns/pid", self.init))
            .map_err(|error| format!("machine {} is not running: {error}", self.identity.id))?;
        let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
        // Twice, because a process may fork between being listed and being stopped.
        for _ in 0..2 {
            for pid in all_pids() {
                if fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|other| other == space) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
        }
        Ok(())
    }

    /// See [`super::Machine::partition`].
    pub fn partition(&self, cut: bool) -> Result<(), String> {
        self.network.partition(self.identity.id, cut)
    }

    /// Deletes file system and network; the container is dead already.
    pub fn remove(self) -> Result<(), String> {
        self.network.unplug(self.identity.id);
        let root = self.dir.join("root");
        if let Err(error) = umount2(&root, MntFlags::MNT_DETACH)
            && error != nix::errno::Errno::EINVAL
        {
            return Err(format!("cannot unmount {}: {error}", root.display()));
        }
        quiet("rmdir", &[&format!("/run/systemd/nspawn/propagate/{}", self.network.namespace(self.identity.id))]);
        fs::remove_dir_all(&self.dir).map_err(|error| format!("cannot remove {}: {error}", self.dir.display()))
    }
}

/// An overlay over the base; a full copy where the file system below cannot carry one.
fn mount_root(base: &Path, dir: &Path) -> Result<(), String> {
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        base.display(),
        dir.join("upper").display(),
        dir.join("work").display()
    );
    let root = dir.join("root");
    let mounted = mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    if mounted.is_ok() {
        return Ok(());
    }
    let (from, to) = (format!("{}/.", base.display()), root.display().to_string());
    must("cp", &["-a", "--reflink=auto", &from, &to]).map(|_| ())
}

fn spawn(home: &Home, dir: &Path, identity: &Identity, network: &Network) -> Result<Child, String> {
    let io = |error: std::io::Error| format!("cannot start machine {}: {error}", identity.id);
    let console = File::create(dir.join("console.log")).map_err(io)?;
    let errors = console.try_clone().map_err(io)?;
    let namespace = network.namespace(identity.id);
    let mut command = Command::new("systemd-nspawn");
    command.args(["--quiet", "--boot", "--register=no", "--link-journal=no", "--console=pipe"]);
    // Without systemd on this computer there is nobody to make a scope for the container.
    if !Path::new("/run/systemd/system").exists() {
        command.arg("--keep-unit");
    }
    command
        .arg(format!("--directory={}", dir.join("root").display()))
        .arg(format!("--machine={namespace}"))
        .arg(format!("--hostname={}", identity.hostname))
        .arg(format!("--network-namespace-path=/run/netns/{namespace}"))
        .arg(format!("--bind={}:{}", dir.join("juju").display(), super::JUJU_DIR))
        .arg(format!("--bind-ro={}:{}/tools/lab", home.program().display(), super::JUJU_DIR))
        .env_clear()
        .env("PATH", HOST_PATH)
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(errors);
    command.spawn().map_err(io)
}
