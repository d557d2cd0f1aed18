//! `--force-new-cluster`: one member out of a broken cluster goes on alone with all its data.

use std::time::Duration;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::Ctl;
use crate::harness::member::Product;
use crate::harness::wait::until;

const END_LIMIT: Duration = Duration::from_secs(30);

fn with_flag(cluster: &mut Cluster, n: usize, on: bool) {
    let mut flags = cluster.members[n].flags().to_vec();
    flags.retain(|flag| flag != "--force-new-cluster");
    if on {
        flags.push("--force-new-cluster".to_owned());
    }
    cluster.members[n].set_flags(flags);
}

#[tokio::test]
async fn a_member_of_a_broken_cluster_goes_on_alone_with_its_data_and_the_others_stay_out() {
    let mut cluster = Cluster::start_in_memory(Product::Ours, 3, &[]).await;
    let all = Ctl::v3(cluster.endpoints());
    for n in 0..50 {
        all.run(&["put", &format!("k{n:02}"), &n.to_string()]).ok();
    }
    let lease = all.run(&["lease", "grant", "3600"]).ok().split_whitespace().nth(1).expect("an id").to_owned();
    all.run(&["put", "leased", "1", "--lease", &lease]).ok();
    Ctl::v2(cluster.endpoint(0)).run(&["set", "/old", "v2"]).ok();
    let before = until("a status", START_LIMIT, || cluster.status(0)).await.header.expect("a header");
    until("member 0 has everything", START_LIMIT, || async {
        let revision = cluster.read_at(0).await?;
        if revision > 51 { Ok(()) } else { Err(revision.to_string()) }
    })
    .await;
    let revision = cluster.read_at(0).await.expect("a read");

    with_flag(&mut cluster, 0, true);
    cluster.members[0].stop();
    cluster.members[0].start();
    let ended = cluster.members[0].ends_within(END_LIMIT).await;
    let said = cluster.members[0].log();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("still answers"), "refused while the others live: {said}");

    cluster.members[1].crash();
    cluster.members[2].crash();
    cluster.members[0].start();
    cluster.ready(0).await;
    let ctl = Ctl::v3(cluster.endpoint(0));
    assert_eq!(cluster.read_at(0).await, Ok(revision), "not a revision more or less");
    let after = until("a status", START_LIMIT, || cluster.status(0)).await.header.expect("a header");
    assert_eq!((after.cluster_id, after.member_id), (before.cluster_id, before.member_id), "ids stay");
    assert!(after.raft_term > before.raft_term);
    assert_eq!(ctl.run(&["get", "k", "--prefix", "--keys-only"]).ok().split_whitespace().count(), 50);
    assert_eq!(ctl.run(&["get", "leased", "--print-value-only"]).ok().trim(), "1");
    assert!(ctl.run(&["lease", "list"]).ok().contains(&lease));
    assert_eq!(Ctl::v2(cluster.endpoint(0)).run(&["get", "/old"]).ok().trim(), "v2");
    assert_eq!(ctl.run(&["member", "list"]).ok().lines().count(), 1);
    ctl.run(&["put", "alone", "1"]).ok();

    // A restart with the flag changes nothing more, and one without it is the normal case.
    for flag in [true, false] {
        with_flag(&mut cluster, 0, flag);
        cluster.members[0].stop();
        cluster.members[0].start();
        cluster.ready(0).await;
        assert_eq!(cluster.read_at(0).await, Ok(revision + 1));
        assert_eq!(ctl.run(&["member", "list"]).ok().lines().count(), 1);
    }

    // An old member comes back with its old data: it is turned away and told so.
    cluster.members[1].start();
    let ended = cluster.members[1].ends_within(END_LIMIT).await;
    let said = cluster.members[1].log();
    assert!(said.contains("removed from the cluster"), "{ended}: {said}");
    assert_eq!(ctl.run(&["member", "list"]).ok().lines().count(), 1);
    assert_eq!(cluster.read_at(0).await, Ok(revision + 1), "nothing changed");

    // The cluster grows again as any other.
    let id = cluster.add_learner(&ctl).await;
    until("the new member is promoted", START_LIMIT, || async {
        let said = ctl.run(&["member", "promote", &id]);
        if said.code == Some(0) { Ok(()) } else { Err(said.err) }
    })
    .await;
    cluster.ready(3).await;
    assert_eq!(cluster.hash(0, revision + 1).await, cluster.hash(3, revision + 1).await);
}

#[tokio::test]
async fn the_flag_on_an_empty_directory_starts_a_cluster_as_ever() {
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &["--force-new-cluster"]).await;
    Ctl::v3(cluster.endpoint(0)).run(&["put", "a", "1"]).ok();
}
