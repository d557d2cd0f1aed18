//! A member whose keyspace is not the others': found, named by the CORRUPT alarm, and not let in again.

use std::path::Path;
use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::Ctl;
use crate::harness::member::{Member, Product};
use crate::harness::snapshot::{restore, save};
use crate::harness::wait::until;

/// A snapshot of a keyspace of one key with this value, at the same revision whatever the value.
async fn keyspace(value: &str, file: &Path) {
    let cluster = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
    let ctl = Ctl::v3(cluster.endpoint(0));
    for (key, value) in [("a", "1"), ("damaged", value), ("z", "2"), ("a", "3")] {
        ctl.run(&["put", key, value]).ok();
    }
    save(&cluster, 0, file);
}

fn identity(member: &Member) -> serde_json::Value {
    let text = std::fs::read(member.data_dir().join("member/identity.json")).expect("an identity");
    serde_json::from_slice(&text).expect("JSON")
}

/// Three members, the last of which has another value under one key, as bit rot under a lucky checksum would leave it: it
/// was restored from another file and then told that it belongs to the same cluster.
async fn with_one_damaged(flags: &[&str]) -> Cluster {
    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = (folder.path().join("right.db"), folder.path().join("wrong.db"));
    keyspace("as it should be", &right).await;
    keyspace("as it is not be", &wrong).await;
    let cluster = Cluster::prepare(Product::Ours, 3, flags);
    for (n, file) in [&right, &right, &wrong].into_iter().enumerate() {
        restore(&cluster.members[n], file, &[]).ok();
    }
    let (sound, damaged) = (identity(&cluster.members[0]), &cluster.members[2]);
    let mut told = identity(damaged);
    assert_ne!(told["cluster_id"], sound["cluster_id"], "another file makes another cluster");
    told["cluster_id"] = sound["cluster_id"].clone();
    std::fs::write(damaged.data_dir().join("member/identity.json"), told.to_string()).expect("written");
    cluster.run().await
}

async fn id(cluster: &Cluster, n: usize) -> u64 {
    cluster.status(n).await.expect("a status").header.expect("a header").member_id
}

async fn alarms(cluster: &Cluster) -> String {
    Ctl::v3(cluster.endpoint(0)).run(&["alarm", "list"]).ok()
}

async fn assert_named(cluster: &Cluster) {
    let damaged = id(cluster, 2).await;
    let raised = until("the CORRUPT alarm", START_LIMIT, || async {
        let alarms = alarms(cluster).await;
        if alarms.trim().is_empty() { Err("no alarm".to_owned()) } else { Ok(alarms) }
    })
    .await;
    assert_eq!(raised.trim(), format!("memberID:{damaged} alarm:CORRUPT"), "only the damaged member is named");
    for n in 0..3 {
        let mut kv = KvClient::new(cluster.channel(n).await.expect("it accepts"));
        let put = pb::PutRequest { key: "k".into(), ..Default::default() };
        let refused = kv.put(put).await.expect_err("nobody may write now");
        assert_eq!((refused.code(), refused.message()), (tonic::Code::DataLoss, "etcdserver: corrupt cluster"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_periodic_check_names_the_member_that_differs_and_writes_stop() {
    let cluster = with_one_damaged(&["--experimental-corrupt-check-time", "300ms"]).await;
    assert_named(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_after_a_compaction_names_the_member_that_differs() {
    let flags = ["--experimental-compact-hash-check-enabled=true", "--experimental-compact-hash-check-time", "300ms"];
    let cluster = with_one_damaged(&flags).await;
    let revision = cluster.read_at(0).await.expect("a read");
    assert_eq!(alarms(&cluster).await.trim(), "", "nothing is compared before a compaction");
    Ctl::v3(cluster.endpoint(0)).run(&["compaction", &revision.to_string()]).ok();
    assert_named(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_members_are_compared_and_no_alarm_is_raised() {
    let cluster = Cluster::start_in_memory(Product::Ours, 3, &["--corrupt-check-time", "200ms"]).await;
    let ctl = Ctl::v3(cluster.endpoint(0));
    for n in 0..20 {
        ctl.run(&["put", "k", &n.to_string()]).ok();
    }
    until("a check of all members", START_LIMIT, || async {
        let done = |member: &Member| member.log().contains(r#""number-of-peers-checked":2"#);
        if cluster.members.iter().any(done) { Ok(()) } else { Err("none yet".to_owned()) }
    })
    .await;
    assert_eq!(alarms(&cluster).await.trim(), "");
}

/// The log is written beside everything else, so a line may come a little later than what it tells.
async fn assert_says(member: &Member, words: &str) {
    until(words, START_LIMIT, || async {
        if member.log().contains(words) { Ok(()) } else { Err(format!("{} does not say so", member.name)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_member_does_not_start_and_sound_ones_do() {
    let mut cluster = with_one_damaged(&[]).await;
    let flag = "--experimental-initial-corrupt-check=true".to_owned();
    for n in [0, 2] {
        let flags = [cluster.members[n].flags(), std::slice::from_ref(&flag)].concat();
        cluster.members[n].set_flags(flags);
        cluster.members[n].stop();
        cluster.members[n].start();
        if n == 0 {
            cluster.ready(0).await;
            assert_says(&cluster.members[0], "initial corruption checking passed; no corruption").await;
        } else {
            let ended = cluster.members[2].ends_within(Duration::from_secs(60)).await;
            assert_eq!(ended.code(), Some(1));
            assert_says(&cluster.members[2], "found data inconsistency with peers").await;
            assert!(!cluster.members[2].log().contains("ready to serve client requests"));
        }
    }
}
