//! Where one lab keeps its things, how they are named, and how leftovers are cleaned away.
//!
//! Everything a lab makes can be found again from its directory alone: processes by the pid files in it,
//! mounts by path, the bridge and the network namespaces by a prefix derived from the path. So a crash
//! needs no memory: the next start cleans first.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

/// How long a killed process may take to disappear.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// One lab's directory.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The lab called `name` of the current user, under `/var/tmp` so that it lives on a real file system.
    pub fn new(name: &str) -> Result<Self, String> {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if name.is_empty() || name.len() > 24 || !plain {
            return Err(format!("lab name {name:?} must be 1 to 24 letters, digits or dashes"));
        }
        Ok(Self { root: PathBuf::from(format!("/var/tmp/etcd-charm-lab-{}/{name}", Uid::current())) })
    }

    /// The lab in that directory.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The socket the command line talks to.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// The controller's own copy of this program, linked into machines as the hook tools.
    pub fn program(&self) -> PathBuf {
        self.root.join("lab")
    }

    /// The directory of one machine.
    pub fn machine(&self, id: u32) -> PathBuf {
        self.root.join("machines").join(id.to_string())
    }

    /// A few letters that start the name of every network thing of this lab (interface names hold 15).
    pub fn tag(&self) -> String {
        let mut hash: u32 = 0x811c_9dc5;
        for byte in self.root.to_string_lossy().bytes() {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
        format!("lab{:04x}", (hash >> 16) ^ (hash & 0xffff))
    }

    /// The lab's bridge.
    pub fn bridge(&self) -> String {
        format!("{}br", self.tag())
    }

    /// Creates the directory, private to the user.
    pub fn create(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root)
    }

    /// Ends what a crashed or finished lab left behind and deletes its directory.
    pub fn clean(&self) -> Result<(), String> {
        if !self.root.exists() {
            return Ok(());
        }
        self.end_process(&self.root.join("controller.pid"));
        let machines = fs::read_dir(self.root.join("machines")).into_iter().flatten().flatten();
        for machine in machines {
            self.end_process(&machine.path().join("pid"));
            kill_by_environment(&machine.path().join("root"));
        }
        self.unmount_all().map_err(|error| format!("cannot unmount below {}: {error}", self.root.display()))?;
        self.remove_network();
        self.remove_nspawn_leftovers();
        fs::remove_dir_all(&self.root).map_err(|error| format!("cannot remove {}: {error}", self.root.display()))
    }

    /// Kills the process a pid file names, if it is still the one that was started.
    fn end_process(&self, file: &Path) {
        let Ok(text) = fs::read_to_string(file) else { return };
        let mut words = text.split_whitespace();
        let (Some(Ok(pid)), started) = (words.next().map(str::parse::<i32>), words.next()) else { return };
        if started.is_none() || start_time(pid).as_deref() != started {
            return;
        }
        // A machine's first process dies with its supervisor only if it is killed itself.
        for child in children(pid) {
            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
        let deadline = Instant::now() + KILL_WAIT;
        std::thread::sleep(Duration::from_millis(50));
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        while start_time(pid).as_deref() == started && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn unmount_all(&self) -> io::Result<()> {
        let text = fs::read_to_string("/proc/self/mountinfo")?;
        let mut points: Vec<PathBuf> = text
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|point| point.starts_with(&self.root))
            .collect();
        points.reverse();
        for point in points {
            nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH)?;
        }
        Ok(())
    }

    fn remove_network(&self) {
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{}-", self.tag())) {
                quiet("ip", &["netns", "delete", &name]);
            }
        }
        if Path::new("/sys/class/net").join(self.bridge()).exists() {
            quiet("iptables", &["-D", "FORWARD", "-i", &self.bridge(), "-o", &self.bridge(), "-j", "ACCEPT"]);
            quiet("ip", &["link", "delete", &self.bridge()]);
        }
    }

    fn remove_nspawn_leftovers(&self) {
        for entry in fs::read_dir("/run/systemd/nspawn/propagate").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("{}-", self.tag())) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// Writes `pid` and its start time, so that a reused number is never taken for it.
pub fn write_pid(file: &Path, pid: u32) -> io::Result<()> {
    let started = start_time(pid as i32).unwrap_or_default();
    fs::write(file, format!("{pid} {started}\n"))
}

/// Field 22 of `/proc/<pid>/stat`; `None` once the process has ended, zombies included.
pub fn start_time(pid: i32) -> Option<String> {
    let fields = stat_fields(pid)?;
    if fields.first().is_some_and(|state| state == "Z") { None } else { fields.get(19).cloned() }
}

/// Direct children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    all_pids().filter(|child| stat_fields(*child).and_then(|f| f.get(1)?.parse().ok()) == Some(pid)).collect()
}

/// Every process number visible here.
pub fn all_pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The fields of `/proc/<pid>/stat` after the command name: state, parent, …
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// Processes of a plain-process machine: those whose environment names its root.
pub fn pids_by_environment(root: &Path) -> Vec<i32> {
    let wanted = format!("ETCD_CHARM_ROOT={}", root.display()).into_bytes();
    all_pids()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|text| text.split(|b| *b == 0).any(|line| line == wanted))
        })
        .collect()
}

/// Kills a plain-process machine.
pub fn kill_by_environment(root: &Path) {
    for pid in pids_by_environment(root) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Runs a command whose failure does not matter here.
pub fn quiet(program: &str, args: &[&str]) {
    let _ = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Runs a command that must work; the error holds the command line and what it said.
pub fn must(program: &str, args: &[&str]) -> Result<String, String> {
    let line = || format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `{}`: {error}", line()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("`{}` failed ({}): {}", line(), output.status, String::from_utf8_lossy(&output.stderr).trim()))
}
