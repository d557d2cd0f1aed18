//! What the Raft log takes on disk has a bound that follows from the disk, however large the entries are.
//!
//! `LOG_TEST_PUTS` and `LOG_TEST_DISK_MIB` set how much is written and on how large a disk (20,000 on 1024 is what
//! production was sized by).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use etcd_charm::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;

use crate::harness::cluster::Cluster;
use crate::harness::disk::Disk;
use crate::harness::member::Product;
use crate::harness::wait::{can, setting, turn};

/// The value that is written over and over: 512 KiB, as large as a client's request usually gets.
const VALUE: usize = 512 << 10;
/// Puts between two compactions: an operator keeps 32 MiB of history.
const COMPACT_EVERY: u64 = 64;

/// Bytes of a folder's files on disk, several names of one file counted once.
fn taken(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut seen, mut bytes, mut folders) = (std::collections::HashSet::new(), 0, vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        // What goes away meanwhile takes nothing.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                folders.push(entry.path());
            } else if seen.insert(found.ino()) {
                bytes += found.blocks() * 512;
            }
        }
    }
    bytes
}

async fn compact(kv: &mut KvClient<tonic::transport::Channel>, revision: i64) {
    let request = pb::CompactionRequest { revision, physical: false };
    kv.compact(request).await.expect("a compaction");
}

#[tokio::test]
async fn a_large_value_that_is_overwritten_for_ever_fills_no_disk_and_is_soon_served_again() {
    let _turn = turn().await;
    let (mebibytes, puts) = (setting("LOG_TEST_DISK_MIB", 512), setting("LOG_TEST_PUTS", 1500));
    let Some(disk) = Disk::new(mebibytes) else {
        can("root and loop devices", false);
        return;
    };
    let mut cluster = Cluster::start_with_data(Product::Ours, &disk.path().join("data"), &[]).await;
    let member = disk.path().join("data/member");
    let (mut most_log, mut most_state) = (0, 0);
    let mut kv = KvClient::new(cluster.lasting_channel(0)).max_decoding_message_size(usize::MAX);
    for n in 0..puts {
        let value: Vec<u8> =
            (0..VALUE as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ n) >> 32) as u8).collect();
        let request = pb::PutRequest { key: "large".into(), value: value.into(), ..Default::default() };
        let answer = kv.put(request).await.unwrap_or_else(|status| {
            let taken = (taken(&member.join("wal")) >> 20, taken(&member) >> 20);
            panic!("put {n}: {status}; MiB of log and in all: {taken:?}\n{}", cluster.members[0].log())
        });
        if n % COMPACT_EVERY == COMPACT_EVERY - 1 {
            let revision = answer.into_inner().header.map_or(0, |header| header.revision);
            compact(&mut kv, revision).await;
            let log = taken(&member.join("wal"));
            let state = taken(&member).saturating_sub(log + taken_by(&member.join("reserve")));
            (most_log, most_state) = (most_log.max(log), most_state.max(state));
        }
    }
    println!("{puts} puts on {mebibytes} MiB: log {} MiB, state {} MiB at most", most_log >> 20, most_state >> 20);
    assert!(most_log <= (mebibytes << 20) / 4, "the log took {most_log} bytes of {mebibytes} MiB");
    assert!(most_log + most_state < (mebibytes << 20) / 2, "log {most_log}, state {most_state}");
    cluster.members[0].crash();
    let begun = Instant::now();
    cluster.members[0].start();
    while cluster.read_at(0).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("served again after {:?}", begun.elapsed());
    let range = pb::RangeRequest { key: "large".into(), ..Default::default() };
    let mut kv = KvClient::new(cluster.lasting_channel(0)).max_decoding_message_size(usize::MAX);
    let found = kv.range(range).await.expect("a read").into_inner();
    let revision = found.header.map_or(0, |header| header.revision);
    assert_eq!((found.count, revision), (1, puts as i64 + 1), "every put was kept");
}

fn taken_by(file: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(file).map_or(0, |found| found.blocks() * 512)
}
