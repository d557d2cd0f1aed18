//! Starting and stopping the daemon: by systemd, or as a plain detached process.
//!
//! Used by `host.rs` alone. The process manager is for machines without systemd (the lab's plain
//! mode); it knows its process by id and start time, so that a reused id is never taken for it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::HostError;
use crate::text::Line;

/// How long a stopping daemon may take before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a stopping daemon is looked at.
const STOP_POLL: Duration = Duration::from_millis(50);
/// The systemd unit.
const NAME: &str = "etcd.service";

/// Who runs the daemon.
#[derive(Debug)]
pub enum Manager {
    /// systemd.
    Systemd,
    /// The charm itself.
    Process {
        /// The daemon.
        program: PathBuf,
        /// Its settings.
        config: PathBuf,
        /// Where its id and start time are noted.
        note: PathBuf,
        /// Where its output goes.
        log: PathBuf,
    },
}

impl Manager {
    /// A process under `root`.
    #[must_use]
    pub fn process(root: &Path) -> Self {
        Manager::Process {
            program: root.join("opt/etcd/bin/etcd"),
            config: root.join("etc/etcd/etcd.json"),
            note: root.join("run/etcd-charm/pid"),
            log: root.join("var/log/etcd.log"),
        }
    }
}

/// True while the daemon runs, or is being started.
///
/// # Errors
/// [`HostError`] when systemd cannot be asked.
pub fn is_running(manager: &Manager) -> Result<bool, HostError> {
    match manager {
        Manager::Systemd => {
            let state = output("systemctl", &["show", NAME, "--property=ActiveState", "--value"])?;
            Ok(["active", "activating", "reloading"].contains(&state.trim()))
        }
        Manager::Process { note, .. } => Ok(noted(note).is_some()),
    }
}

/// Starts or restarts the daemon. With systemd this waits until the daemon says it is ready; that
/// it does not become ready is no error here, the next look tells.
///
/// # Errors
/// [`HostError`] when the service manager or the process cannot be started.
pub fn start(manager: &Manager, restart: bool) -> Result<(), HostError> {
    match manager {
        Manager::Systemd => {
            run("systemctl", &["enable", "--quiet", NAME])?;
            // A unit that hit its start limit stays down until somebody says that it was repaired.
            let _ = run("systemctl", &["reset-failed", NAME]);
            if let Err(error) = run("systemctl", &[if restart { "restart" } else { "start" }, NAME]) {
                eprintln!("{}; see `journalctl -u etcd`", Line::of(&error.to_string()).text());
            }
            Ok(())
        }
        Manager::Process { program, config, note, log } => {
            if restart {
                stop(manager)?;
            } else if noted(note).is_some() {
                return Ok(());
            }
            spawn(program, config, note, log)
        }
    }
}

/// Stops the daemon and keeps it from starting at boot.
///
/// # Errors
/// [`HostError`] when systemd refuses.
pub fn stop(manager: &Manager) -> Result<(), HostError> {
    match manager {
        Manager::Systemd => run("systemctl", &["disable", "--quiet", "--now", NAME]),
        Manager::Process { note, .. } => {
            let Some(pid) = noted(note) else { return Ok(()) };
            let _ = kill(pid, Signal::SIGTERM);
            let deadline = Instant::now() + STOP_TIMEOUT;
            while noted(note).is_some() {
                if Instant::now() > deadline {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                std::thread::sleep(STOP_POLL);
            }
            let _ = fs::remove_file(note);
            Ok(())
        }
    }
}

fn spawn(program: &Path, config: &Path, note: &Path, log: &Path) -> Result<(), HostError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |cause| HostError::File { what: "cannot start with", path, cause }
    };
    for folder in [log, note].iter().filter_map(|path| path.parent()) {
        fs::create_dir_all(folder).map_err(fail(folder))?;
    }
    let out = fs::OpenOptions::new().create(true).append(true).open(log).map_err(fail(log))?;
    let err = out.try_clone().map_err(fail(log))?;
    let child = Command::new(program)
        .arg("--config-file")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(fail(program))?;
    let text = format!("{} {}", child.id(), started_at(child.id()).unwrap_or_default());
    fs::write(note, text).map_err(fail(note))
}

/// The noted process, if it is still that very process and not a zombie.
fn noted(note: &Path) -> Option<Pid> {
    let text = fs::read_to_string(note).ok()?;
    let (pid, started) = text.split_once(' ')?;
    let pid: u32 = pid.parse().ok()?;
    (started_at(pid)? == started).then_some(Pid::from_raw(i32::try_from(pid).ok()?))
}

/// The start time of a living process, in the kernel's ticks.
fn started_at(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    // Field 22 of proc(5); the state, just taken, is field 3.
    fields.nth(18).map(str::to_owned)
}

/// Ends this program as if it had been terminated. Juju runs such a hook again, without the error state that
/// an exit code would bring, which would hide the unit's status and invite an operator to skip the hook. A
/// Juju that knew no difference would try the failed hook again.
pub fn end_as_interrupted() -> ExitCode {
    let _ = nix::sys::signal::raise(Signal::SIGTERM);
    ExitCode::FAILURE
}

/// Runs a system program to its end.
///
/// # Errors
/// [`HostError::Program`] with its stderr.
pub fn run(program: &str, args: &[&str]) -> Result<(), HostError> {
    output(program, args).map(drop)
}

fn output(program: &str, args: &[&str]) -> Result<String, HostError> {
    let named = || [&[program], &args[..args.len().min(3)]].concat().join(" ");
    let output = Command::new(program)
        .args(args)
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| HostError::Program { program: named(), message: cause.to_string() })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(HostError::Program { program: named(), message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(root: &Path) -> Manager {
        let script = root.join("opt/etcd/bin/etcd");
        fs::create_dir_all(script.parent().unwrap()).unwrap();
        fs::write(&script, "#!/bin/sh\nexec sleep 600\n").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Manager::process(root)
    }

    #[test]
    fn a_process_is_started_once_restarted_and_stopped() {
        let root = tempfile::tempdir().unwrap();
        let manager = manager(root.path());
        let Manager::Process { note, .. } = &manager else { panic!("a process manager") };
        assert!(!is_running(&manager).unwrap());
        start(&manager, false).unwrap();
        let first = noted(note).unwrap();
        start(&manager, false).unwrap();
        assert_eq!(noted(note), Some(first));
        start(&manager, true).unwrap();
        assert_ne!(noted(note), Some(first));
        stop(&manager).unwrap();
        assert!(!is_running(&manager).unwrap());
        stop(&manager).unwrap();
    }

    #[test]
    fn a_reused_process_id_is_not_taken_for_the_daemon() {
        let root = tempfile::tempdir().unwrap();
        let note = root.path().join("pid");
        fs::write(&note, format!("{} 1", std::process::id())).unwrap();
        assert_eq!(noted(&note), None);
    }
}
