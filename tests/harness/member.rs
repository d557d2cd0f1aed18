//! One server process: started, killed, paused, started again on the same data.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::PAUSE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// The control: Debian's `etcd-server`, or the program that `ETCD_CONTROL` names, for comparing with other versions.
    Etcd,
    /// The newest etcd, which `control::newest` builds; only where that gave something.
    Newest,
    /// This project's daemon, or the program that `ETCD_UNDER_TEST` names: with Debian's there, a test tests itself.
    Ours,
}

impl Product {
    pub fn program(self) -> PathBuf {
        match self {
            Self::Etcd => {
                let path = std::env::var_os("ETCD_CONTROL").map_or_else(|| "/usr/bin/etcd".into(), PathBuf::from);
                assert!(path.is_file(), "no {}: install etcd-server, the control of these tests", path.display());
                path
            }
            Self::Newest => super::control::newest().expect("Go, which builds the newest etcd").etcd.clone(),
            Self::Ours => {
                std::env::var_os("ETCD_UNDER_TEST").map_or_else(|| env!("CARGO_BIN_EXE_etcd").into(), PathBuf::from)
            }
        }
    }
}

/// A member of a cluster, running or not. Dropping it kills the process.
pub struct Member {
    pub product: Product,
    pub name: String,
    /// The address of both ports.
    pub host: String,
    pub client_port: u16,
    pub peer_port: u16,
    folder: PathBuf,
    data: PathBuf,
    flags: Vec<String>,
    child: Option<Child>,
    /// Commands the program is started through, such as a network namespace.
    wrapper: Vec<String>,
    starts: usize,
}

impl Member {
    /// `folder` keeps its data and logs; `flags` come after the ones every start has.
    pub fn new(product: Product, name: &str, folder: &Path, ports: (u16, u16), flags: Vec<String>) -> Self {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).expect("a folder for the member");
        let (client_port, peer_port) = ports;
        Self {
            product,
            name: name.to_owned(),
            host: "127.0.0.1".to_owned(),
            client_port,
            peer_port,
            data: folder.join("data"),
            folder,
            flags,
            child: None,
            wrapper: Vec::new(),
            starts: 0,
        }
    }

    /// Starts from now on through other commands, on another address.
    pub fn at(mut self, host: &str, wrapper: Vec<String>) -> Self {
        self.host = host.to_owned();
        self.wrapper = wrapper;
        self
    }

    pub fn set_flags(&mut self, flags: Vec<String>) {
        self.flags = flags;
    }

    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    pub fn set_data_dir(&mut self, data: &Path) {
        self.data = data.to_owned();
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} already runs", self.name);
        self.starts += 1;
        let log = File::create(self.log_path(self.starts)).expect("a log file");
        let mut words = self.wrapper.clone();
        words.push(self.product.program().to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["--name", &self.name, "--data-dir"]).arg(&self.data).args(&self.flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the member starts"));
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the member runs").id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the member can be signalled");
    }

    /// `kill -9`, as a crash.
    pub fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, then the exit.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.take().expect("the member runs").wait().expect("the member can be waited for")
    }

    /// Waits for the process to end by itself, or kills it and fails.
    pub async fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        while self.is_running() {
            assert!(start.elapsed() < limit, "{} still runs after {limit:?}", self.name);
            tokio::time::sleep(PAUSE).await;
        }
        self.wait()
    }

    pub fn client_url(&self) -> String {
        format!("http://{}:{}", self.host, self.client_port)
    }

    /// A number from what Linux says of the process, in its own unit (memory: KiB), such as `VmRSS:` or `Threads:`.
    pub fn process_figure(&self, field: &str) -> u64 {
        process_figure(self.pid(), field).unwrap_or_else(|| panic!("no {field} of {}", self.name))
    }

    /// What the newest run wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path(self.starts)).unwrap_or_default()
    }

    fn log_path(&self, start: usize) -> PathBuf {
        self.folder.join(format!("{start}.log"))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("--- last words of {} ---", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.crash();
    }
}

/// See [`Member::process_figure`]; nothing of a process that has ended.
pub fn process_figure(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Ports nobody listens on at the moment, and that no other test is given: a member may take its own much later.
pub fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("no test dies while it asks for ports");
    let mut ports = Vec::new();
    // Held until all are found, so that each is another one.
    let mut held = Vec::new();
    while ports.len() < count {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("a bound socket").port();
        held.push(socket);
        if given.insert(port) {
            ports.push(port);
        }
    }
    ports
}
