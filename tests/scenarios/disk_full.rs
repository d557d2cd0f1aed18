//! Disks that fill up: reads go on, writes are refused in etcd's words, and everything comes back by itself.

use std::fs;
use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use etcd_charm::proto::mvccpb::KeyValue;
use pb::kv_client::KvClient;
use prost::Message;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::Ctl;
use crate::harness::disk::Disk;
use crate::harness::member::Product;
use crate::harness::wait::{can, turn, until};

const DISK_MEBIBYTES: u64 = 64;
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

fn disk() -> Option<Disk> {
    let disk = Disk::new(DISK_MEBIBYTES);
    if disk.is_none() {
        can("root and loop devices", false);
    }
    disk
}

async fn put(cluster: &Cluster, n: usize, key: &str, value: Vec<u8>) -> Result<i64, String> {
    let mut kv = KvClient::new(cluster.channel(n).await?);
    let request = pb::PutRequest { key: key.as_bytes().to_vec().into(), value: value.into(), ..Default::default() };
    let call = tokio::time::timeout(Duration::from_secs(10), kv.put(request));
    let answer = call.await.map_err(|_| "no answer".to_owned())?.map_err(|status| status.message().to_owned())?;
    Ok(answer.into_inner().header.map_or(0, |header| header.revision))
}

/// The value of a key, read linearizably or not.
async fn get(cluster: &Cluster, n: usize, key: &str, serializable: bool) -> Result<Vec<u8>, String> {
    let mut kv = KvClient::new(cluster.channel(n).await?);
    let request = pb::RangeRequest { key: key.as_bytes().to_vec().into(), serializable, ..Default::default() };
    let call = tokio::time::timeout(Duration::from_secs(10), kv.range(request));
    let answer = call.await.map_err(|_| "no answer".to_owned())?.map_err(|status| status.message().to_owned())?;
    let kv = answer.into_inner().kvs.into_iter().next().ok_or("no such key")?;
    Ok(KeyValue::decode(kv).map_err(|error| error.to_string())?.value.to_vec())
}

async fn refuses_writes(cluster: &Cluster, n: usize) {
    until("writes are refused in etcd's words", START_LIMIT, || async {
        match put(cluster, n, "refused", vec![0; 1000]).await {
            Err(words) if words == NO_SPACE => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn reads_go_on(cluster: &Cluster, n: usize) {
    for serializable in [true, false] {
        assert_eq!(get(cluster, n, "kept", serializable).await, Ok(b"1".to_vec()), "serializable: {serializable}");
    }
}

async fn takes_writes(cluster: &Cluster, n: usize) {
    until("writes are taken again without anybody's help", START_LIMIT, || async {
        put(cluster, n, "after", vec![1; 1000]).await.map(|_| ())
    })
    .await;
}

fn alarms(cluster: &Cluster, n: usize) -> String {
    Ctl::v3(cluster.endpoint(n)).run(&["alarm", "list"]).out
}

#[tokio::test]
async fn a_disk_that_others_fill_stops_writes_but_not_reads_and_frees_them_by_itself() {
    let _turn = turn().await;
    let Some(disk) = disk() else { return };
    let mut cluster = Cluster::start_with_data(Product::Ours, &disk.path().join("data"), &[]).await;
    put(&cluster, 0, "kept", b"1".to_vec()).await.expect("there is space");
    for key in ["doomed0", "doomed1"] {
        put(&cluster, 0, key, vec![1; 1000]).await.expect("there is space");
    }
    for round in 0..2 {
        let ballast = disk.fill();
        refuses_writes(&cluster, 0).await;
        until("the alarm tells operators", START_LIMIT, || async {
            let alarms = alarms(&cluster, 0);
            if alarms.contains("NOSPACE") { Ok(()) } else { Err(format!("{alarms:?} {}", cluster.members[0].log())) }
        })
        .await;
        reads_go_on(&cluster, 0).await;
        let v2 = Ctl::v2(cluster.endpoint(0)).run(&["set", "/v2", "x"]);
        assert_ne!(v2.code, Some(0), "{v2:?}");
        let deleted = Ctl::v3(cluster.endpoint(0)).run(&["del", &format!("doomed{round}")]).ok();
        assert_eq!(deleted.trim(), "1", "small deletions go on");
        let revision = cluster.read_at(0).await.expect("a read").to_string();
        Ctl::v3(cluster.endpoint(0)).run(&["compact", &revision]).ok();
        reads_go_on(&cluster, 0).await;
        assert!(cluster.members[0].is_running(), "{}", cluster.members[0].log());
        if round == 1 {
            cluster.members[0].crash();
            cluster.members[0].start();
            cluster.ready(0).await;
            reads_go_on(&cluster, 0).await;
            refuses_writes(&cluster, 0).await;
        }
        fs::remove_file(ballast).expect("space is freed");
        takes_writes(&cluster, 0).await;
        until("the alarm is lowered", START_LIMIT, || async {
            let alarms = alarms(&cluster, 0);
            if alarms.is_empty() { Ok(()) } else { Err(alarms) }
        })
        .await;
    }
    reads_go_on(&cluster, 0).await;
    drop(cluster);
}

#[tokio::test]
async fn a_store_that_fills_its_own_disk_stops_before_it_is_full_and_lives_on_what_is_deleted() {
    let _turn = turn().await;
    let Some(disk) = disk() else { return };
    let mut cluster = Cluster::start_with_data(Product::Ours, &disk.path().join("data"), &[]).await;
    put(&cluster, 0, "kept", b"1".to_vec()).await.expect("there is space");
    let mut acknowledged = 0u64;
    let refusal = loop {
        // Values that no compression makes smaller.
        let value: Vec<u8> =
            (0..256u64 << 10).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ acknowledged) >> 32) as u8).collect();
        match put(&cluster, 0, &format!("fill{acknowledged:04}"), value).await {
            Ok(_) => acknowledged += 1,
            Err(words) => break words,
        }
        assert!(acknowledged < 4 * DISK_MEBIBYTES, "more was acknowledged than the disk holds");
    };
    assert_eq!(refusal, NO_SPACE, "{}", cluster.members[0].log());
    println!("{acknowledged} puts of 256 KiB on a disk of {DISK_MEBIBYTES} MiB");
    assert!(cluster.members[0].is_running());
    reads_go_on(&cluster, 0).await;
    cluster.members[0].crash();
    cluster.members[0].start();
    cluster.ready(0).await;
    reads_go_on(&cluster, 0).await;
    let ctl = Ctl::v3(cluster.endpoint(0));
    let kept = ctl.run(&["get", "fill", "--prefix", "--keys-only"]).ok().split_whitespace().count() as u64;
    assert_eq!(kept, acknowledged, "every acknowledged put, and no other");
    for n in 0..acknowledged {
        until("a deletion passes, after a compaction if need be", START_LIMIT, || async {
            let said = ctl.run(&["del", &format!("fill{n:04}")]);
            if said.code == Some(0) {
                return if said.out.trim() == "1" { Ok(()) } else { Err(format!("{said:?}")) };
            }
            assert!(said.err.contains(NO_SPACE), "{said:?} {}", cluster.members[0].log());
            let revision = cluster.read_at(0).await.expect("reads go on").to_string();
            ctl.run(&["compact", &revision]);
            Err(said.err)
        })
        .await;
    }
    let revision = cluster.read_at(0).await.expect("a read").to_string();
    ctl.run(&["compact", &revision, "--physical"]).ok();
    takes_writes(&cluster, 0).await;
    until("the alarm is lowered", START_LIMIT, || async {
        let alarms = alarms(&cluster, 0);
        if alarms.is_empty() { Ok(()) } else { Err(format!("{alarms} {}", cluster.members[0].log())) }
    })
    .await;
    assert!(cluster.members[0].is_running(), "{}", cluster.members[0].log());
    reads_go_on(&cluster, 0).await;
    drop(cluster);
}

#[tokio::test]
async fn one_full_disk_of_three_stops_nobody() {
    let _turn = turn().await;
    let Some(disk) = disk() else { return };
    let mut cluster = Cluster::prepare(Product::Ours, 3, &[]);
    cluster.members[0].set_data_dir(&disk.path().join("data"));
    let mut cluster = cluster.run().await;
    put(&cluster, 1, "kept", b"1".to_vec()).await.expect("there is space");
    let id = until("an id", START_LIMIT, || cluster.status(0)).await.header.map_or(0, |header| header.member_id);
    let leader = cluster.leader().await;
    if leader != 0 {
        until("member 0 leads", START_LIMIT, || async {
            let said = Ctl::v3(cluster.endpoint(leader)).run(&["move-leader", &format!("{id:x}")]);
            if said.code == Some(0) { Ok(()) } else { Err(said.err) }
        })
        .await;
    }
    let ballast = disk.fill();
    until("somebody else leads", START_LIMIT, || async {
        let status = cluster.status(1).await?;
        if status.leader != 0 && status.leader != id { Ok(()) } else { Err(cluster.members[0].log()) }
    })
    .await;
    for n in [1, 2] {
        for round in 0..20 {
            until("writes go on", START_LIMIT, || async {
                put(&cluster, n, &format!("on{n}-{round}"), vec![round; 10_000]).await.map(|_| ())
            })
            .await;
        }
        reads_go_on(&cluster, n).await;
    }
    assert_eq!(get(&cluster, 0, "kept", true).await, Ok(b"1".to_vec()), "the full one serves what it has");
    assert!(!alarms(&cluster, 1).contains("NOSPACE"), "a minority is no reason to stop");
    assert!(cluster.members[0].is_running(), "{}", cluster.members[0].log());
    fs::remove_file(ballast).expect("space is freed");
    cluster.assert_equal_hashes().await;
    drop(cluster);
}

#[tokio::test]
async fn two_full_disks_of_three_are_an_alarm() {
    let _turn = turn().await;
    let (Some(first), Some(second)) = (disk(), disk()) else { return };
    let mut cluster = Cluster::prepare(Product::Ours, 3, &[]);
    cluster.members[0].set_data_dir(&first.path().join("data"));
    cluster.members[1].set_data_dir(&second.path().join("data"));
    let cluster = cluster.run().await;
    put(&cluster, 2, "kept", b"1".to_vec()).await.expect("there is space");
    let ballast = [first.fill(), second.fill()];
    refuses_writes(&cluster, 2).await;
    for n in 0..3 {
        reads_go_on(&cluster, n).await;
    }
    for file in ballast {
        fs::remove_file(file).expect("space is freed");
    }
    takes_writes(&cluster, 2).await;
    cluster.assert_equal_hashes().await;
    drop(cluster);
}
