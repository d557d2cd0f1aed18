//! Power cut: what was acknowledged is on the disk, what only the kernel knew is not.

use std::fs;
use std::time::Duration;

use super::writers::Load;
use crate::harness::cluster::Cluster;
use crate::harness::disk::{Disk, content};
use crate::harness::member::Product;
use crate::harness::wait::{can, setting, turn};

const DISK_MEBIBYTES: u64 = 512;
const ENOUGH: i64 = 200;
/// A member whose disk is gone ends by itself: it must not go on without being able to keep what it acknowledges.
const END_LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_keeps_every_acknowledged_write_through_power_cuts() {
    let _turn = turn().await;
    let Some(mut disk) = Disk::new(DISK_MEBIBYTES) else {
        can("root and loop devices", false);
        return;
    };
    let data = disk.path().join("data");
    let mut cluster = Cluster::start_with_data(Product::Ours, &data, &[]).await;
    for round in 0..setting("POWER_CUTS", 3) {
        let load = Load::start(&cluster, &format!("power{round}"));
        load.proceeds(ENOUGH).await;
        let unsynced = disk.path().join(format!("unsynced{round}"));
        fs::write(&unsynced, "lost").expect("the disk takes a file");
        disk.cut_power();
        let ended = cluster.members[0].ends_within(END_LIMIT).await;
        assert!(!ended.success(), "a member whose disk is gone ends with a failure, not with {ended}");
        let acknowledged = load.stop().await;
        disk.unmount();
        assert!(disk.mount(), "the disk can be mounted again");
        assert_eq!(content(&unsynced), b"", "the power cut must lose what was not synced, or the run proves nothing");
        cluster.members[0].start();
        cluster.ready(0).await;
        acknowledged.assert_all_in(&cluster, 0).await;
    }
    // Before the disk goes away.
    drop(cluster);
}
