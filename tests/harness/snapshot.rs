//! Snapshot files: saved by `etcdctl`, restored by either product's own command, looked into by every tool there is.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use etcd_charm::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;

use super::cluster::Cluster;
use super::ctl::{Ctl, Said};
use super::member::{Member, Product};

/// Saves member `n` of a cluster into a file.
pub fn save(cluster: &Cluster, n: usize, file: &Path) {
    Ctl::v3(cluster.endpoint(n)).run(&["snapshot", "save", &file.display().to_string()]).ok();
}

/// Restores a file into the data directory of a member that was not started, with its own `--initial-*` flags.
pub fn restore(member: &Member, file: &Path, extra: &[&str]) -> Said {
    let (program, first): (PathBuf, &[&str]) = match member.product {
        Product::Etcd => ("/usr/bin/etcdctl".into(), &["snapshot", "restore"]),
        Product::Newest => {
            let newest = super::control::newest().expect("Go, which builds the newest etcd");
            (newest.etcdutl.clone(), &["snapshot", "restore"])
        }
        Product::Ours => (member.product.program(), &["restore"]),
    };
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3").args(first).arg(file).args(["--name", &member.name, "--data-dir"]);
    command.arg(member.data_dir()).args(extra);
    for pair in member.flags().chunks(2) {
        if let [name, value] = pair
            && ["--initial-cluster", "--initial-advertise-peer-urls"].contains(&name.as_str())
        {
            command.args([name, value]);
        }
    }
    run(&mut command)
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    let output = command.output().expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Hash (hexadecimal) and revision that a tool prints of a file.
pub fn status_of(tool: &Path, file: &Path) -> (String, String) {
    let said = run(Command::new(tool).env("ETCDCTL_API", "3").args(["snapshot", "status"]).arg(file)).ok();
    let mut parts = said.trim().split(", ").map(str::to_owned);
    (parts.next().expect("a hash"), parts.next().expect("a revision"))
}

/// Every program at hand that prints a snapshot's status: Debian's, and those in the folders that `SNAPSHOT_TOOLS` names
/// (`etcdutl` and `etcdctl` of newer releases, separated by colons).
pub fn status_tools() -> Vec<PathBuf> {
    let folders = std::env::var("SNAPSHOT_TOOLS").unwrap_or_default();
    if folders.is_empty() {
        eprintln!("SNAPSHOT_TOOLS names no folder with a newer etcdutl: only Debian's etcdctl looks at the files");
    }
    let newer = folders.split(':').filter(|folder| !folder.is_empty()).flat_map(|folder| {
        let tools = ["etcdutl", "etcdctl"].map(|name| Path::new(folder).join(name));
        let found: Vec<PathBuf> = tools.into_iter().filter(|tool| tool.is_file()).collect();
        assert!(!found.is_empty(), "SNAPSHOT_TOOLS: {folder} has neither etcdutl nor etcdctl");
        found
    });
    // From 3.6 on etcdctl has no status any more.
    let has_status = |tool: &PathBuf| {
        let said = run(Command::new(tool).env("ETCDCTL_API", "3").args(["snapshot", "status", "--help"]));
        said.out.contains("snapshot status")
    };
    [PathBuf::from("/usr/bin/etcdctl")].into_iter().chain(newer).filter(has_status).collect()
}

/// All keys at each revision of a range, and every lease with its keys: what a restore must bring back.
pub async fn contents(cluster: &Cluster, n: usize, revisions: std::ops::RangeInclusive<i64>) -> Contents {
    let channel = cluster.channel(n).await.expect("the member accepts");
    let mut kv = KvClient::new(channel.clone());
    let mut at = Vec::new();
    for revision in revisions {
        let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() };
        at.push((revision, kv.range(all).await.expect("a readable revision").into_inner().kvs));
    }
    let mut lease = LeaseClient::new(channel);
    let ids = lease.lease_leases(pb::LeaseLeasesRequest {}).await.expect("leases").into_inner().leases;
    let mut leases = Vec::new();
    for id in ids.into_iter().map(|lease| lease.id) {
        let asked = pb::LeaseTimeToLiveRequest { id, keys: true };
        let told = lease.lease_time_to_live(asked).await.expect("a lease").into_inner();
        let mut keys: Vec<Bytes> = told.keys;
        keys.sort();
        leases.push((id, told.granted_ttl, keys));
    }
    leases.sort();
    Contents { at, leases }
}

/// See [`contents`].
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// Encoded versions by revision.
    pub at: Vec<(i64, Vec<Bytes>)>,
    /// Id, granted seconds and keys.
    pub leases: Vec<(i64, i64, Vec<Bytes>)>,
}
