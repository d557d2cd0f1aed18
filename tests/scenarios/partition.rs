//! Cuts between three members while clients read, write and swap ten registers; a checker judges what they saw.
//!
//! `PARTITION_OPS` sets how many operations, `PARTITION_SEED` which.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use super::register::{Register, operation};
use crate::harness::checker::{Fault, faults};
use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::history::{Operation, Outcome, Versions, versions};
use crate::harness::member::Product;
use crate::harness::net::{Cut, Network};
use crate::harness::wait::{can, setting, turn, until};

const MEMBERS: usize = 3;
const CLIENTS_PER_MEMBER: usize = 4;
/// Operations that end within each cut, and between cuts: many kinds of cut must meet a load.
const PER_PHASE: u64 = 150;
/// How long members other than the one cut off may take to answer writes again.
const MAJORITY_LIMIT: Duration = Duration::from_secs(30);

/// Whom a cut meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Leader,
    Follower,
}

const CUTS: [(Victim, Cut); 6] = [
    (Victim::Leader, Cut::Both),
    (Victim::Follower, Cut::Both),
    (Victim::Leader, Cut::In),
    (Victim::Leader, Cut::Out),
    (Victim::Follower, Cut::In),
    (Victim::Follower, Cut::Out),
];

/// What the clients of one run share.
struct Run {
    clock: Instant,
    stop: AtomicBool,
    /// Operations that got an answer.
    answered: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_between_members_cause_no_stale_read_and_lose_no_acknowledged_write() {
    let _turn = turn().await;
    let Some(network) = Network::new(MEMBERS) else {
        can("root, network namespaces and nftables", false);
        return;
    };
    let wanted = setting("PARTITION_OPS", 5_000);
    let mut cluster = Cluster::start_across(Product::Ours, &network, &["--snapshot-count", "1000"]).await;
    let run = Arc::new(Run { clock: Instant::now(), stop: AtomicBool::new(false), answered: AtomicU64::new(0) });
    let clients: Vec<_> = (0..MEMBERS * CLIENTS_PER_MEMBER).map(|n| start_client(n, &cluster, &run)).collect();
    let mut cuts = 0;
    while run.answered.load(Ordering::Relaxed) < wanted || cuts < CUTS.len() {
        let (victim, cut) = CUTS[cuts % CUTS.len()];
        cut_once(&mut cluster, &network, &run, victim, cut).await;
        cuts += 1;
    }
    run.stop.store(true, Ordering::Relaxed);
    let mut operations = Vec::new();
    for client in clients {
        operations.extend(client.await.expect("a client ends"));
    }
    cluster.assert_equal_hashes().await;
    let happened = versions(cluster.lasting_channel(0), "register").await.expect("the history of all keys");
    judge(&operations, &happened);
    println!("{} operations in {:?} over {cuts} cuts: no fault", operations.len(), run.clock.elapsed());
}

async fn cut_once(cluster: &mut Cluster, network: &Network, run: &Run, victim: Victim, cut: Cut) {
    let leader = cluster.leader().await;
    let cut_off = if victim == Victim::Leader { leader } else { (leader + 1) % MEMBERS };
    let others: Vec<usize> = (0..MEMBERS).filter(|&n| n != cut_off).collect();
    let begun = Instant::now();
    network.cut(cut_off, cut);
    let channel = cluster.lasting_channel(others[0]);
    until(&format!("writes after {victim:?} was cut off ({cut:?})"), MAJORITY_LIMIT, || {
        let mut register = Register::new(channel.clone());
        async move { register.probe().await }
    })
    .await;
    let resumed = begun.elapsed();
    if victim == Victim::Leader && cut == Cut::Both {
        let new = cluster.leader_among(&others).await;
        assert_ne!(new, cut_off, "the members that see each other elect one of them");
    }
    answered(run, PER_PHASE).await;
    network.heal();
    for n in 0..MEMBERS {
        cluster.ready(n).await;
    }
    answered(run, PER_PHASE).await;
    println!("{victim:?} member {cut_off} cut off ({cut:?}): others write again after {resumed:?}");
}

async fn answered(run: &Run, more: u64) {
    let goal = run.answered.load(Ordering::Relaxed) + more;
    until("operations are answered", START_LIMIT, || async {
        let now = run.answered.load(Ordering::Relaxed);
        if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
    })
    .await
}

fn start_client(n: usize, cluster: &Cluster, run: &Arc<Run>) -> JoinHandle<Vec<Operation>> {
    let (run, mut register) = (run.clone(), Register::new(cluster.lasting_channel(n % MEMBERS)));
    let mut random = SmallRng::seed_from_u64(setting("PARTITION_SEED", 1) * 1_000 + n as u64);
    tokio::spawn(async move {
        let (mut operations, mut known) = (Vec::new(), HashMap::new());
        while !run.stop.load(Ordering::Relaxed) {
            let kind = operation(&mut random, &format!("{n}-{}", operations.len()), &known);
            let begun = run.clock.elapsed();
            let outcome = register.ask(&kind, run.clock).await;
            match &outcome {
                Outcome::Unknown => {}
                Outcome::Written { revision, .. } => {
                    known.insert(kind.0.clone(), *revision);
                    run.answered.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::Saw { state, .. } => {
                    known.insert(kind.0.clone(), state.as_ref().map_or(0, |version| version.revision));
                    run.answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            operations.push(Operation { key: kind.0, kind: kind.1, begun, outcome });
            // So that the number of operations comes from many cuts, not from one fast phase.
            tokio::time::sleep(Duration::from_millis(random.random_range(0..3))).await;
        }
        operations
    })
}

/// No fault in the history; and the same history with one answer made stale, or one write lost, has one.
fn judge(operations: &[Operation], happened: &Versions) {
    let found = faults(operations, happened);
    assert!(found.is_empty(), "{} faults, the first: {:#?}", found.len(), &found[..found.len().min(5)]);
    let unknown = operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Unknown)).count();
    println!("{} operations, {unknown} without an answer", operations.len());
    assert!(unknown > 0, "cuts leave some operations without an answer; none means that nothing was cut");

    let mut stale = operations.to_vec();
    let newest =
        stale.iter_mut().filter(|operation| operation.value().is_none()).max_by_key(|operation| operation.begun);
    let newest = newest.expect("a read");
    let first = happened[&newest.key][0].clone();
    if let Outcome::Saw { revision, state, .. } = &mut newest.outcome {
        (*revision, *state) = (first.revision, Some(first));
    }
    assert!(
        faults(&stale, happened).iter().any(|fault| matches!(fault, Fault::Stale { .. })),
        "a stale read goes unnoticed"
    );

    let mut lossy = happened.clone();
    let written = operations.iter().rev().find(|operation| matches!(operation.outcome, Outcome::Written { .. }));
    let written = written.expect("a write that was acknowledged");
    let list = lossy.get_mut(&written.key).expect("the key has versions");
    list.retain(|version| Some(&version.value) != written.value());
    assert!(
        faults(operations, &lossy).iter().any(|fault| matches!(fault, Fault::Lost { .. })),
        "a lost write goes unnoticed"
    );
}
