//! A snapshot to a member that is far behind, over a thin link that is cut, with restarts of the member that gets it.
//!
//! `SHIP_MIB` sets how large it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_charm::proto::etcdserverpb as pb;
use futures::future::join_all;
use pb::kv_client::KvClient;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::member::Product;
use crate::harness::net::{Cut, Network};
use crate::harness::wait::{can, setting, turn, until};

const MEMBERS: usize = 3;
/// So many changes that no log reaches back before the first of them.
const SMALL_PUTS: u64 = 112_000;
const RATE: &str = "20mbit";
/// How long the whole may take.
const LIMIT: Duration = Duration::from_secs(300);

async fn put_all(cluster: &Cluster, n: usize, prefix: &str, count: u64, bytes: usize) {
    let channel = cluster.channel(n).await.expect("the member accepts");
    let next = AtomicU64::new(0);
    join_all((0..64).map(|_| async {
        let mut kv = KvClient::new(channel.clone());
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return;
            }
            let value: Vec<u8> = (0..bytes).map(|_| rand::random()).collect();
            let put = pb::PutRequest { key: format!("{prefix}{at}").into(), value: value.into(), ..Default::default() };
            kv.put(put).await.expect("a put");
        }
    }))
    .await;
}

async fn leader(cluster: &Cluster) -> usize {
    until("a leader", START_LIMIT, || async {
        let mut leader = None;
        for n in 0..cluster.members.len() {
            if let Ok(status) = cluster.status(n).await
                && status.header.is_some_and(|header| header.member_id == status.leader)
            {
                leader = Some(n);
            }
        }
        leader.ok_or_else(|| "nobody leads".to_owned())
    })
    .await
}

/// What the leader said each time it began to send: bytes of the whole, and of what was there.
fn attempts(log: &str) -> Vec<(u64, u64)> {
    let number = |line: &str, name: &str| -> Option<u64> {
        let rest = &line[line.find(name)? + name.len()..];
        let digits: String =
            rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let begun = log.lines().filter(|line| line.contains("sending database snapshot") && line.contains("held"));
    begun.filter_map(|line| Some((number(line, "\"bytes\"")?, number(line, "\"held\"")?))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_over_a_thin_link_arrives_through_cuts_and_restarts() {
    let _turn = turn().await;
    let Some(network) = Network::new(MEMBERS) else {
        can("root, network namespaces and nftables", false);
        return;
    };
    let mebibytes = setting("SHIP_MIB", 30);
    let mut cluster = Cluster::start_across(Product::Ours, &network, &["--snapshot-count", "1000"]).await;
    let lead = leader(&cluster).await;
    let away = (lead + 1) % MEMBERS;
    cluster.members[away].crash();
    put_all(&cluster, lead, "large", mebibytes, 1 << 20).await;
    put_all(&cluster, lead, "small", SMALL_PUTS, 10).await;
    let lead = leader(&cluster).await;
    // A snapshot beyond all of it is taken at most every ten seconds.
    tokio::time::sleep(Duration::from_secs(12)).await;
    put_all(&cluster, lead, "last", 2_000, 10).await;
    network.thin(lead, Some(RATE));

    cluster.members[away].start();
    let begun = Instant::now();
    let sending = || async {
        let attempts = attempts(&cluster.members[lead].log());
        attempts.last().copied().ok_or_else(|| "nothing is sent".to_owned())
    };
    let (bytes, held) = until("a snapshot is sent", LIMIT, sending).await;
    assert!(bytes > mebibytes << 20 && held == 0, "{bytes} bytes, {held} held");
    // Some of it comes; then the member is killed, and once more the link is cut.
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.members[away].crash();
    cluster.members[away].start();
    let (held, made) = until("it goes on after the restart", LIMIT, || goes_on(&cluster, lead, 1 << 20, 1)).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    network.cut(away, Cut::Both);
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.members[away].crash();
    network.heal();
    cluster.members[away].start();
    until("it goes on after the cut", LIMIT, || goes_on(&cluster, lead, held, made)).await;
    until("the member has it all", LIMIT, || cluster.read_at(away)).await;
    println!("{bytes} bytes over {RATE} in {:?}: {:?}", begun.elapsed(), attempts(&cluster.members[lead].log()));
    network.thin(lead, None);
    cluster.assert_equal_hashes().await;
}

/// The newest attempt of the sender, once it began with more than `least` bytes already there and others came before it.
async fn goes_on(cluster: &Cluster, lead: usize, least: u64, attempts_before: usize) -> Result<(u64, usize), String> {
    let attempts = attempts(&cluster.members[lead].log());
    match attempts.last() {
        Some((_, held)) if *held > least && attempts.len() > attempts_before => Ok((*held, attempts.len())),
        other => Err(format!("{other:?} after {} attempts", attempts.len())),
    }
}
