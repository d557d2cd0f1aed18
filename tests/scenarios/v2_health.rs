//! The charm's health check and status ask what `etcdctl cluster-health` asks: here both look at the same cluster.

use std::time::Duration;

use etcd_charm::client::health::{Checkup, check, summary};
use etcd_charm::client::{Client, Member};
use nix::sys::signal::Signal;

use crate::harness::cluster::Cluster;
use crate::harness::ctl::Ctl;
use crate::harness::member::Product;
use crate::harness::wait::{turn, until};

const LIMIT: Duration = Duration::from_secs(60);

/// What `etcdctl cluster-health` prints, without Go's words for a connection that failed, sorted but for the last line.
fn cluster_health(cluster: &Cluster, through: usize) -> Vec<String> {
    let said = Ctl::v2(cluster.endpoint(through)).run(&["cluster-health"]);
    assert!(matches!(said.code, Some(0 | 5)), "{said:?}");
    masked(said.out.lines().map(str::to_owned).collect())
}

async fn our_check(members: &[Member]) -> Vec<String> {
    let checkups = futures::future::join_all(members.iter().map(|member| check(member, None))).await;
    let lines = checkups.iter().flat_map(Checkup::lines);
    masked(lines.chain([summary(&checkups).to_owned()]).collect())
}

/// Reasons are ours alone: etcdctl names none for an unhealthy member, and Go's for an unreachable one.
fn masked(mut lines: Vec<String>) -> Vec<String> {
    for line in &mut lines {
        let keep = match (line.find("got unhealthy result from http"), line.find(" on http")) {
            (Some(at), _) => Some(at + "got unhealthy result from ".len()),
            (None, Some(at)) if line.starts_with("failed to check") => Some(at + " on ".len()),
            _ => None,
        };
        if let Some(url) = keep {
            // The URL has no blank; its port is followed by a colon where a reason follows.
            let end = line[url..].find(' ').map_or(line.len(), |end| url + end);
            line.truncate(end);
            let trimmed = line.trim_end_matches(':').len();
            line.truncate(trimmed);
        }
    }
    let last = lines.pop().expect("a summary");
    lines.sort();
    lines.push(last);
    lines
}

#[tokio::test]
async fn the_check_of_the_charm_says_what_cluster_health_says() {
    let _turn = turn().await;
    let mut cluster = Cluster::start_in_memory(Product::Ours, 3, &[]).await;
    let client = Client::connect(&[cluster.endpoint(0)], None).await.expect("a client");
    let members = until("three members with client URLs", LIMIT, || async {
        let members = client.member_list(true).await.map_err(|error| error.to_string())?;
        let all = members.len() == 3 && members.iter().all(|member| !member.client_urls.is_empty());
        if all { Ok(members) } else { Err(format!("{members:?}")) }
    })
    .await;
    let healthy = cluster_health(&cluster, 0);
    assert_eq!(our_check(&members).await, healthy);
    assert_eq!(healthy.last().map(String::as_str), Some("cluster is healthy"));
    assert_eq!(healthy.len(), 4);

    cluster.members[2].crash();
    until("one member unreachable", LIMIT, || async {
        let (theirs, ours) = (cluster_health(&cluster, 0), our_check(&members).await);
        let degraded = theirs.last().is_some_and(|line| line == "cluster is degraded");
        let seen = theirs.iter().any(|line| line.contains("are all unreachable"));
        if degraded && seen && theirs == ours { Ok(()) } else { Err(format!("{theirs:#?}\n{ours:#?}")) }
    })
    .await;

    // Without a quorum a member still answers who it is, which is why that is not the question.
    cluster.members[1].crash();
    until("no member healthy", LIMIT, || async {
        let (theirs, ours) = (cluster_health(&cluster, 0), our_check(&members).await);
        let gone = theirs.last().is_some_and(|line| line == "cluster is unavailable");
        let ill = theirs.iter().any(|line| line.contains("is unhealthy: got unhealthy result from"));
        if gone && ill && theirs == ours { Ok(()) } else { Err(format!("{theirs:#?}\n{ours:#?}")) }
    })
    .await;
    assert!(client.status().await.is_ok(), "it answers a status and is unhealthy all the same");

    // A paused member accepts connections and never answers.
    cluster.members[1].start();
    cluster.members[2].start();
    for n in 0..3 {
        cluster.ready(n).await;
    }
    cluster.members[2].signal(Signal::SIGSTOP);
    let id = our_check(&members).await;
    assert!(id.iter().any(|line| line.contains("are all unreachable")), "{id:?}");
    assert_eq!(id.last().map(String::as_str), Some("cluster is degraded"));
    cluster.members[2].signal(Signal::SIGCONT);
}
