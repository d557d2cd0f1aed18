//! Members come, are promoted, move the lead and go, by `etcdctl`.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::writers::Load;
use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::ctl::Ctl;
use crate::harness::member::Product;
use crate::harness::wait::{turn, until};

/// A removed or stopped member is gone by then.
const END_LIMIT: Duration = Duration::from_secs(20);
/// A leader that is told to stop hands over; nobody waits for an election timeout.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_joins_is_promoted_restarts_and_leaves() {
    let _turn = turn().await;
    let mut cluster = Cluster::start_in_memory(Product::Ours, 3, &[]).await;
    let ctl = Ctl::v3(cluster.endpoints());
    let load = Load::start(&cluster, "join");
    load.proceeds(50).await;

    let id = cluster.add_learner(&ctl).await;
    let listed = until("the learner is started", START_LIMIT, || async { listed(&ctl, &id, "started") }).await;
    assert!(listed.ends_with(", true"), "a learner: {listed}");
    let refused = Ctl::v3(cluster.endpoint(3)).run(&["get", "a"]);
    assert!(refused.err.contains("rpc not supported for learner"), "{refused:?}");
    until("the learner has caught up", START_LIMIT, || async {
        let said = ctl.run(&["member", "promote", &id]);
        if said.code == Some(0) { Ok(()) } else { Err(said.err) }
    })
    .await;
    cluster.ready(3).await;
    // The list of whoever is asked, who may apply the promotion a moment later.
    until("it is listed as a voter", START_LIMIT, || async {
        let line = listed_with(&ctl, &id).unwrap_or_default();
        if line.ends_with(", false") { Ok(()) } else { Err(line) }
    })
    .await;

    cluster.members[3].stop();
    cluster.members[3].start();
    cluster.ready(3).await;
    let acknowledged = load.stop().await;
    cluster.assert_equal_hashes().await;
    acknowledged.assert_all_in(&cluster, 3).await;

    // All others must have been reached for five seconds on end, which a busy machine may delay.
    until("it may go", START_LIMIT, || async {
        let said = ctl.run(&["member", "remove", &id]);
        let gone = said.code == Some(0) || said.err.contains("member not found");
        if gone { Ok(()) } else { Err(said.err) }
    })
    .await;
    let ended = cluster.members[3].ends_within(END_LIMIT).await;
    println!("the removed member ended: {ended}");
    let left = cluster.members.pop();
    drop(left);
    assert!(listed_with(&ctl, &id).is_none(), "not listed any more");
    let health = Ctl::v3(cluster.endpoints()).run(&["endpoint", "health"]).ok();
    assert!(!health.contains("unhealthy"), "{health}");
    cluster.assert_equal_hashes().await;
}

/// What every guide to etcd says: add the member, then start it. In between there is one voter of two, and no quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_becomes_two_by_a_voter_that_starts_after_it_was_added() {
    let _turn = turn().await;
    for restarted in [false, true] {
        let mut cluster = Cluster::start_in_memory(Product::Ours, 1, &[]).await;
        let ctl = Ctl::v3(cluster.endpoint(0));
        ctl.run(&["put", "a", "1"]).ok();
        let begun = Instant::now();
        let id = cluster.add_unstarted(&ctl, &[]).await;
        assert!(begun.elapsed() < Duration::from_secs(4), "the answer does not wait for the newcomer");
        assert!(listed_with(&ctl, &id).is_some_and(|line| line.contains("unstarted") && line.ends_with(", false")));
        let refused = ctl.run(&["member", "add", "m2", "--peer-urls", "http://127.0.0.1:1"]);
        assert!(refused.err.contains("not enough started members"), "{refused:?}");
        if restarted {
            cluster.members[0].crash();
            cluster.members[0].start();
        }
        cluster.members[1].start();
        cluster.ready(0).await;
        cluster.ready(1).await;
        let both = Ctl::v3(cluster.endpoints());
        assert!(listed_with(&both, &id).is_some_and(|line| line.contains(", started, m1, ")));
        assert_eq!(Ctl::v3(cluster.endpoint(1)).run(&["get", "a", "--print-value-only"]).ok().trim(), "1");
        cluster.assert_equal_hashes().await;
    }
}

fn listed_with(ctl: &Ctl, id: &str) -> Option<String> {
    ctl.run(&["member", "list"]).ok().lines().find(|line| line.starts_with(id)).map(str::to_owned)
}

fn listed(ctl: &Ctl, id: &str, word: &str) -> Result<String, String> {
    let line = listed_with(ctl, id).ok_or("not listed")?;
    if line.contains(word) { Ok(line) } else { Err(line) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_moves_by_command_and_by_sigterm_with_one_new_term() {
    let _turn = turn().await;
    let mut cluster = Cluster::start_in_memory(Product::Ours, 3, &[]).await;
    let load = Load::start(&cluster, "lead");
    load.proceeds(50).await;
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let before = cluster.status(leader).await.expect("the leader's status");
    let target_id =
        format!("{:x}", cluster.status(target).await.expect("a status").header.expect("a header").member_id);

    let refused = Ctl::v3(cluster.endpoint(target)).run(&["move-leader", &target_id]);
    assert_ne!(refused.code, Some(0), "only the leader moves the lead: {refused:?}");
    Ctl::v3(cluster.endpoint(leader)).run(&["move-leader", &target_id]).ok();
    assert_eq!(cluster.leader().await, target, "the lead is where it was sent");
    let moved = cluster.status(target).await.expect("the new leader's status");
    assert_eq!(moved.raft_term, before.raft_term + 1, "one election for one move");
    load.proceeds(50).await;

    let begun = Instant::now();
    cluster.members[target].signal(Signal::SIGTERM);
    let others: Vec<usize> = (0..3).filter(|&n| n != target).collect();
    let new = cluster.leader_among(&others).await;
    let elected = begun.elapsed();
    let ended = cluster.members[target].ends_within(END_LIMIT).await;
    println!("after SIGTERM: a new leader in {elected:?}, the old one gone in {:?} ({ended})", begun.elapsed());
    assert!(elected < HAND_OVER_LIMIT, "the lead is handed over, not lost: {elected:?}");
    assert_eq!(ended.signal(), Some(Signal::SIGTERM as i32), "it ends by the signal it got");
    let handed = cluster.status(new).await.expect("the new leader's status");
    assert_eq!(handed.raft_term, moved.raft_term + 1, "one election for one stop");
    cluster.members[target].start();
    cluster.ready(target).await;
    load.proceeds(50).await;
    let acknowledged = load.stop().await;
    cluster.assert_equal_hashes().await;
    acknowledged.assert_all_in(&cluster, target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_quota_blocks_writes_only_until_space_is_freed_and_the_alarm_disarmed() {
    const FULL: &str = "etcdserver: mvcc: database space exceeded";
    let _turn = turn().await;
    let mut cluster = Cluster::start_in_memory(Product::Ours, 1, &["--quota-backend-bytes", "16777216"]).await;
    let ctl = Ctl::v3(cluster.endpoint(0));
    let value = "x".repeat(1 << 20);
    let filled = (0..40).find_map(|n| {
        let said = ctl.run_with(&["put", &format!("fill{n}")], &value);
        (said.code != Some(0)).then_some((n, said))
    });
    let (puts, said) = filled.expect("16 MiB do not take 40 MiB");
    assert!(said.err.contains(FULL), "{said:?}");
    println!("full after {puts} puts of 1 MiB");
    until("the alarm is raised", START_LIMIT, || async {
        let alarms = ctl.run(&["alarm", "list"]).ok();
        if alarms.contains("alarm:NOSPACE") { Ok(()) } else { Err(alarms) }
    })
    .await;
    cluster.members[0].crash();
    cluster.members[0].start();
    cluster.ready(0).await;
    assert!(ctl.run(&["put", "a", "1"]).err.contains(FULL), "the alarm outlives a restart");
    assert_eq!(ctl.run(&["get", "fill0", "--keys-only"]).ok().trim(), "fill0", "reads go on");
    ctl.run(&["del", "fill", "--prefix"]).ok();
    let revision = cluster.read_at(0).await.expect("a revision").to_string();
    ctl.run(&["compaction", &revision]).ok();
    ctl.run(&["defrag"]).ok();
    assert!(ctl.run(&["put", "a", "1"]).err.contains(FULL), "until the alarm is disarmed");
    let disarmed = ctl.run(&["alarm", "disarm"]).ok();
    assert!(disarmed.contains("NOSPACE"), "{disarmed}");
    ctl.run(&["put", "a", "1"]).ok();
}
