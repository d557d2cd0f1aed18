//! The lab's bridge and the network namespaces its machines live in.

use std::path::Path;

use crate::home::{Home, must, quiet};

/// A PATH on which `ip`, `nsenter` and the rest are found.
pub const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Machines get the addresses from here up; `.1` is this computer.
const FIRST_HOST: u32 = 10;
const HOSTS: u32 = 240;

/// A bridge with a private /24.
#[derive(Debug, Clone)]
pub struct Network {
    bridge: String,
    tag: String,
    /// `10.231.7`.
    subnet: String,
}

impl Network {
    /// Creates the bridge on the first free 10.231.x.0/24.
    pub fn create(home: &Home) -> Result<Self, String> {
        let bridge = home.bridge();
        let used = must("ip", &["-4", "-o", "addr", "show"])? + &must("ip", &["-4", "route", "show"])?;
        let start = home.tag().bytes().fold(0u32, |sum, byte| sum * 31 + u32::from(byte)) % 256;
        let subnet = (0..256)
            .map(|step| format!("10.231.{}", (start + step) % 256))
            .find(|subnet| !used.contains(&format!("{subnet}.")))
            .ok_or("no free network in 10.231.0.0/16 for the lab's bridge")?;
        must("ip", &["link", "add", &bridge, "type", "bridge", "forward_delay", "0"])?;
        must("ip", &["addr", "add", &format!("{subnet}.1/24"), "dev", &bridge])?;
        must("ip", &["link", "set", &bridge, "up"])?;
        // With br_netfilter loaded (Docker does), frames between machines pass the FORWARD chain.
        if Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists() {
            quiet("iptables", &["-I", "FORWARD", "-i", &bridge, "-o", &bridge, "-j", "ACCEPT"]);
        }
        Ok(Self { bridge, tag: home.tag(), subnet })
    }

    /// The address of machine `id`; numbers wrap after 240, when the early machines are long gone.
    pub fn address(&self, id: u32) -> String {
        format!("{}.{}", self.subnet, FIRST_HOST + id % HOSTS)
    }

    /// The namespace of machine `id`.
    pub fn namespace(&self, id: u32) -> String {
        format!("{}-{id}", self.tag)
    }

    /// This computer's end of machine `id`'s cable.
    pub fn port(&self, id: u32) -> String {
        format!("{}v{id}", self.tag)
    }

    /// Makes the namespace of machine `id` with its address on `eth0`.
    pub fn plug(&self, id: u32, mac: &str) -> Result<(), String> {
        let (namespace, port) = (self.namespace(id), self.port(id));
        must("ip", &["netns", "add", &namespace])?;
        let peer = ["type", "veth", "peer", "name", "eth0", "address", mac, "netns", &namespace];
        must("ip", &[&["link", "add", port.as_str()], &peer[..]].concat())?;
        must("ip", &["link", "set", &port, "master", &self.bridge, "up"])?;
        let inside = |args: &[&str]| must("ip", &[&["-n", namespace.as_str()], args].concat());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["addr", "add", &format!("{}/24", self.address(id)), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["route", "add", "default", "via", &format!("{}.1", self.subnet)])?;
        Ok(())
    }

    /// Drops every frame of machine `id` (`cut`) or lets them pass again; the link stays up meanwhile.
    pub fn partition(&self, id: u32, cut: bool) -> Result<(), String> {
        let state = if cut { "0" } else { "3" };
        must("bridge", &["link", "set", "dev", &self.port(id), "state", state]).map(|_| ())
    }

    /// Removes the namespace, and with it the cable.
    pub fn unplug(&self, id: u32) {
        quiet("ip", &["link", "delete", &self.port(id)]);
        quiet("ip", &["netns", "delete", &self.namespace(id)]);
    }
}
