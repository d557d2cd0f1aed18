//! Machines as network namespaces on one bridge, and cuts between them by packet filter rules.
//!
//! Cuts concern traffic between the machines only: clients on the host reach every one of them all the time, so that a
//! member cut off from the others is still asked, and must not answer from the past.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Which packets a machine loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Both,
    /// Those that come in.
    In,
    /// Those that go out.
    Out,
}

pub struct Network {
    /// Names start with this; the process id in it keeps runs apart.
    prefix: String,
    /// Third part of the addresses.
    subnet: u32,
    size: usize,
}

impl Network {
    /// `size` machines that reach each other. `None` where the machine does not allow it.
    pub fn new(size: usize) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (process, made) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        remove_abandoned();
        let network = Self { prefix: format!("et{process}x{made}"), subnet: (process + made * 7) % 250, size };
        network.build().then_some(network)
    }

    fn build(&self) -> bool {
        let bridge = self.bridge();
        let mut done = ip(&format!("link add {bridge} type bridge"))
            && ip(&format!("addr add 10.213.{}.254/24 dev {bridge}", self.subnet))
            && ip(&format!("link set {bridge} up"));
        for n in 0..self.size {
            let (space, outer, address) = (self.space(n), format!("{}v{n}", self.prefix), self.address(n));
            done = done
                && ip(&format!("netns add {space}"))
                && ip(&format!("link add {outer} type veth peer name eth0 netns {space}"))
                && ip(&format!("link set {outer} master {bridge} up"))
                && ip(&format!("-n {space} addr add {address}/24 dev eth0"))
                && ip(&format!("-n {space} link set eth0 up"))
                && ip(&format!("-n {space} link set lo up"));
        }
        done && (0..self.size).all(|n| self.rules(n, "add table inet cut\n"))
    }

    pub fn size(&self) -> usize {
        self.size
    }

    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    fn space(&self, n: usize) -> String {
        format!("{}n{n}", self.prefix)
    }

    pub fn address(&self, n: usize) -> String {
        format!("10.213.{}.{}", self.subnet, n + 1)
    }

    /// What a command is started through to run on machine `n`.
    pub fn wrapper(&self, n: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(n)].map(str::to_owned).to_vec()
    }

    /// The file by which a thread enters machine `n`.
    pub fn namespace(&self, n: usize) -> PathBuf {
        PathBuf::from("/var/run/netns").join(self.space(n))
    }

    /// Gives machine `n` every address of 10.214.0.0/16 to call the others from, and all ports to do so.
    pub fn lend_addresses(&self, n: usize) -> bool {
        let space = self.space(n);
        let others = (0..self.size).filter(|&other| other != n);
        ip(&format!("-n {space} route add local 10.214.0.0/16 dev lo"))
            && ip(&format!("netns exec {space} sysctl -qw net.ipv4.ip_local_port_range=1024\t65535"))
            && others
                .into_iter()
                .all(|other| ip(&format!("-n {} route add 10.214.0.0/16 via {}", self.space(other), self.address(n))))
    }

    /// Machine `n` loses packets from or to all others until [`Self::heal`].
    pub fn cut(&self, n: usize, cut: Cut) {
        let others: Vec<String> = (0..self.size).filter(|&other| other != n).map(|other| self.address(other)).collect();
        let others = others.join(", ");
        let mut script = String::from("flush table inet cut\n");
        if cut != Cut::Out {
            script += "add chain inet cut in { type filter hook input priority 0; }\n";
            script += &format!("add rule inet cut in ip saddr {{ {others} }} drop\n");
        }
        if cut != Cut::In {
            script += "add chain inet cut out { type filter hook output priority 0; }\n";
            script += &format!("add rule inet cut out ip daddr {{ {others} }} drop\n");
        }
        assert!(self.rules(n, &script), "machine {n} cannot be cut off: the run would prove nothing");
        assert!(self.is_cut(n), "machine {n} is cut off by rule and still reaches the others");
    }

    /// Whether machine `n` gets no answer from another.
    fn is_cut(&self, n: usize) -> bool {
        let other = self.address((n + 1) % self.size);
        let mut connect = Command::new("ip");
        connect.args([
            "netns",
            "exec",
            &self.space(n),
            "timeout",
            "-s",
            "KILL",
            "0.3",
            "bash",
            "-c",
            &format!("</dev/tcp/{other}/2380"),
        ]);
        !connect.output().is_ok_and(|output| output.status.success())
    }

    /// All machines reach each other again.
    pub fn heal(&self) {
        for n in 0..self.size {
            assert!(self.rules(n, "flush ruleset\nadd table inet cut\n"), "machine {n} cannot be connected again");
        }
    }

    /// Machine `n` sends no faster than `rate` (`20mbit`), or as fast as it can.
    pub fn thin(&self, n: usize, rate: Option<&str>) {
        let space = self.space(n);
        let done = match rate {
            Some(rate) => {
                let shape = format!("tc qdisc replace dev eth0 root tbf rate {rate} burst 32kb latency 200ms");
                ip(&format!("netns exec {space} {shape}"))
            }
            None => ip(&format!("netns exec {space} tc qdisc del dev eth0 root")),
        };
        assert!(done, "the link of machine {n} cannot be shaped: the run would prove nothing");
    }

    fn rules(&self, n: usize, script: &str) -> bool {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(n), "nft", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut child) = command.spawn() else { return false };
        let written = child.stdin.take().is_some_and(|mut pipe| pipe.write_all(script.as_bytes()).is_ok());
        let output = child.wait_with_output().expect("nft can be waited for");
        if !output.status.success() {
            eprintln!("nft: {}", String::from_utf8_lossy(&output.stderr));
        }
        written && output.status.success()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.prefix);
    }
}

fn ip(words: &str) -> bool {
    let Ok(output) = Command::new("ip").args(words.split(' ')).output() else { return false };
    if !output.status.success() {
        eprintln!("ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// Removes all links and namespaces whose names start with `prefix`.
fn remove(prefix: &str) {
    for space in spaces().iter().filter(|space| space.starts_with(&format!("{prefix}n"))) {
        // The outer end of its link goes with it.
        ip(&format!("netns delete {space}"));
    }
    let _ = Command::new("ip").args(["link", "delete", &format!("{prefix}b")]).output();
}

fn spaces() -> Vec<String> {
    let listed = Command::new("ip").args(["netns", "list"]).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&listed).lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

/// Removes what runs that were killed have left: names with a process id that is no more.
fn remove_abandoned() {
    for space in spaces() {
        let Some((process, rest)) = space.strip_prefix("et").and_then(|rest| rest.split_once('x')) else { continue };
        let Some((made, _)) = rest.split_once('n') else { continue };
        let ours = process.parse::<u32>().is_ok() && made.parse::<u32>().is_ok();
        if ours && !std::path::Path::new(&format!("/proc/{process}")).exists() {
            remove(&format!("et{process}x{made}"));
        }
    }
}
