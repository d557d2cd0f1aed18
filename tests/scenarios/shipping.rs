//! A snapshot to a member that is far behind, over a thin link that is cut, with restarts of the member that gets it.
//!
//! The link is so thin at first that the whole cannot arrive before it was broken off twice. Each break waits until more
//! lies on the member's disk than the last attempt began with; the next one must begin with all of that. Should another
//! member begin to lead, or send a newer snapshot, then its files are others, and that break is made once more.
//!
//! `SHIP_MIB` sets how large it is.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_charm::proto::etcdserverpb as pb;
use futures::future::join_all;
use pb::kv_client::KvClient;

use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::net::{Cut, Network};
use crate::harness::wait::{can, setting, turn, until};

const MEMBERS: usize = 3;
/// So many changes that no log reaches back before the first of them.
const SMALL_PUTS: u64 = 112_000;
const SNAPSHOT_COUNT: u64 = 1000;
/// The links while the snapshot is broken off, and afterwards.
const THIN: &str = "8mbit";
const RATE: &str = "20mbit";
/// A leader whose heartbeats wait behind a snapshot on a busy machine is not to lose its office for that.
const PATIENT: [&str; 4] = ["--heartbeat-interval", "500", "--election-timeout", "5000"];
/// What comes before each break.
const SOME: u64 = 2 << 20;
/// How long each step, and the whole, may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How often a break is made again because the sender was another one.
const TRIES: usize = 5;

/// What a member said when it began to send.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attempt {
    time: String,
    sender: usize,
    /// Last index of the snapshot.
    index: u64,
    bytes: u64,
    /// Bytes that were there already.
    held: u64,
}

impl Attempt {
    fn read(line: &str, sender: usize) -> Option<Self> {
        let field = |name: &str| {
            let rest = line.split_once(&format!("\"{name}\":"))?.1;
            Some(rest.split([',', '}']).next()?.trim_matches('"').to_owned())
        };
        let number = |name| field(name)?.parse().ok();
        Some(Self {
            time: field("ts")?,
            sender,
            index: number("snapshot-index")?,
            bytes: number("bytes")?,
            held: number("held")?,
        })
    }

    fn is_of_the_same(&self, other: &Self) -> bool {
        (self.sender, self.index) == (other.sender, other.index)
    }
}

/// How sending is broken off.
#[derive(Debug, Clone, Copy)]
enum Break {
    /// The member is killed.
    Crash,
    /// The link is cut, and the member is killed before it is whole again.
    Cut,
}

struct Shipping {
    cluster: Cluster,
    network: Network,
    /// The member that is far behind.
    away: usize,
    /// Its id as logs show it.
    id: String,
}

impl Shipping {
    fn others(&self) -> impl Iterator<Item = usize> {
        let away = self.away;
        (0..MEMBERS).filter(move |&n| n != away)
    }

    fn file(&self, n: usize, path: &str) -> PathBuf {
        self.cluster.members[n].data_dir().join("member").join(path)
    }

    async fn put_all(&self, prefix: &str, count: u64, bytes: usize) {
        let through = self.others().next().expect("three members");
        let channel = self.cluster.lasting_channel(through);
        let next = AtomicU64::new(0);
        join_all((0..64).map(|_| async {
            let kv = KvClient::new(channel.clone());
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    return;
                }
                let (key, value) = (format!("{prefix}{at}"), (0..bytes).map(|_| rand::random()).collect::<Vec<u8>>());
                let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
                // One that is made twice does no harm.
                until("a put", LIMIT, || async {
                    kv.clone().put(put.clone()).await.map_err(|status| status.to_string())
                })
                .await;
            }
        }))
        .await;
    }

    /// Whether the newest snapshot of member `n` covers so much that no other is due, and its log is gone behind it.
    async fn has_let_go(&self, n: usize) -> Result<(), String> {
        let applied = self.cluster.status(n).await?.raft_applied_index;
        let names = |path| {
            let entries = fs::read_dir(self.file(n, path)).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok())
        };
        let covered = names("snap").filter_map(|name| name.split_once('-')?.0.parse::<u64>().ok()).max().unwrap_or(0);
        let has_all = names("wal").any(|name| name.trim_start_matches('0').starts_with("1."));
        if covered + SNAPSHOT_COUNT > applied && !has_all {
            return Ok(());
        }
        Err(format!("member {n} applied {applied}, its snapshot covers {covered}, whole log: {has_all}"))
    }

    /// All attempts to send to the member that is behind, by whomever, in order.
    fn attempts(&self) -> Vec<Attempt> {
        let receiver = format!("\"remote-peer-id\":\"{}\"", self.id);
        // The last line may be there in part.
        let is_one =
            |line: &&str| line.contains("sending database snapshot") && line.contains(&receiver) && line.ends_with('}');
        let of = |n: usize| {
            let log = self.cluster.members[n].log();
            log.lines().filter(is_one).filter_map(|line| Attempt::read(line, n)).collect::<Vec<_>>()
        };
        let mut all: Vec<Attempt> = self.others().flat_map(of).collect();
        all.sort();
        all
    }

    /// Bytes of the unfinished snapshot on the member's disk.
    fn arrived(&self) -> u64 {
        let entries = fs::read_dir(self.file(self.away, "snap/receiving-partial")).into_iter().flatten().flatten();
        let files = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with("PARTIAL"));
        files.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
    }

    /// Waits until much more lies there than the last attempt began with: that attempt, and how much.
    async fn more_arrives(&self) -> (Attempt, u64) {
        until("some of it arrives", LIMIT, || async {
            // In this order: what is counted came by this attempt or before it.
            let arrived = self.arrived();
            match self.attempts().pop() {
                Some(last) if arrived > last.held + SOME => Ok((last, arrived)),
                last => Err(format!("{arrived} bytes lie there, the last attempt was {last:?}")),
            }
        })
        .await
    }

    async fn break_off(&mut self, how: Break) {
        if matches!(how, Break::Cut) {
            self.network.cut(self.away, Cut::Both);
            let before = AtomicU64::new(u64::MAX);
            until("nothing more arrives", LIMIT, || async {
                let now = self.arrived();
                if before.swap(now, Ordering::Relaxed) == now { Ok(()) } else { Err(format!("{now} bytes now")) }
            })
            .await;
        }
        self.cluster.members[self.away].crash();
        self.network.heal();
        self.cluster.members[self.away].start();
    }

    /// Breaks the sending off once some has come, and sees it go on from there.
    async fn goes_on_after(&mut self, how: Break) {
        for _ in 0..TRIES {
            let (before, arrived) = self.more_arrives().await;
            self.break_off(how).await;
            let next = until("it goes on", LIMIT, || async {
                let all = self.attempts();
                let mut later = all.iter().rev().take_while(|attempt| **attempt != before);
                let found = later.find(|next| next.held >= arrived || !next.is_of_the_same(&before));
                found.cloned().ok_or_else(|| format!("{arrived} bytes lay there at the {how:?}; attempts: {all:#?}"))
            })
            .await;
            if next.is_of_the_same(&before) {
                return;
            }
            eprintln!("{next:?} is of another snapshot than {before:?}: once more");
        }
        panic!("the leader or its snapshot was another one each of {TRIES} times: {:#?}", self.attempts());
    }
}

/// A cluster whose logs do not reach back to where one member is, which does not run.
async fn with_one_far_behind(network: Network, mebibytes: u64) -> Shipping {
    let count = SNAPSHOT_COUNT.to_string();
    let flags = [&["--snapshot-count", &count], &PATIENT[..]].concat();
    let mut cluster = Cluster::start_across(Product::Ours, &network, &flags).await;
    let away = (cluster.leader().await + 1) % MEMBERS;
    let status = until("a status", LIMIT, || cluster.status(away)).await;
    let id = format!("{:x}", status.header.expect("a header").member_id);
    cluster.members[away].crash();
    let shipping = Shipping { cluster, network, away, id };
    shipping.put_all("large", mebibytes, 1 << 20).await;
    shipping.put_all("small", SMALL_PUTS, 10).await;
    for n in shipping.others() {
        until("its log is gone behind a snapshot", LIMIT, || shipping.has_let_go(n)).await;
    }
    shipping
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_over_a_thin_link_arrives_through_cuts_and_restarts() {
    let _turn = turn().await;
    let Some(network) = Network::new(MEMBERS) else {
        can("root, network namespaces and nftables", false);
        return;
    };
    let mebibytes = setting("SHIP_MIB", 30);
    let mut shipping = with_one_far_behind(network, mebibytes).await;
    let others: Vec<usize> = shipping.others().collect();
    let links = |network: &Network, rate| others.iter().for_each(|&n| network.thin(n, rate));
    links(&shipping.network, Some(THIN));
    let begun = Instant::now();
    let away = shipping.away;
    shipping.cluster.members[away].start();
    shipping.goes_on_after(Break::Crash).await;
    shipping.goes_on_after(Break::Cut).await;
    links(&shipping.network, Some(RATE));
    until("the member has it all", LIMIT, || shipping.cluster.read_at(away)).await;
    let attempts = shipping.attempts();
    let first = attempts.first().expect("it was sent");
    assert!(first.bytes > mebibytes << 20 && first.held == 0, "{first:?}");
    println!("{} bytes over {THIN}, then {RATE} in {:?}: {attempts:#?}", first.bytes, begun.elapsed());
    links(&shipping.network, None);
    shipping.cluster.assert_equal_hashes().await;
}
