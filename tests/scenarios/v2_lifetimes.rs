//! Times to live while members are killed: nothing expires early, nothing lives on beyond the bound, and no in-order name
//! comes back.
//!
//! The bound is that of docs/decisions/044: half a second between two looks of the leader, a commit, and after the death
//! of a leader the time until the next one is elected. What the run saw is printed; the assertion has room for a loaded
//! machine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::member::Product;
use crate::harness::raw::{Raw, Whole};
use crate::harness::wait::{setting, turn, until};

/// Between two writes of a writer, and two looks at a key.
const WRITE_EVERY: Duration = Duration::from_millis(60);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// An answer that takes longer is not waited for.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// How much longer than its time to live a key may be found.
const BOUND: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    /// Milliseconds of the longest life beyond its time.
    latest: AtomicU64,
    expired: AtomicU64,
    wrong: Mutex<Vec<String>>,
    /// In-order names in the order in which they were answered, with when they were asked for and answered.
    names: Mutex<Vec<(String, Instant, Instant)>>,
}

async fn ask(address: &str, method: &str, target: &str, body: Option<&str>) -> Option<Whole> {
    let asking = async { Raw::open(address).await.ok()?.ask(method, target, body).await.ok() };
    tokio::time::timeout(ASK_LIMIT, asking).await.ok()?
}

/// Writes keys with times to live through one member until told to stop, and has each looked after.
async fn write(n: usize, addresses: Arc<Vec<String>>, seen: Arc<Seen>) {
    let mut lives = Vec::new();
    for round in 0_u64.. {
        if seen.stop.load(Ordering::Relaxed) {
            break;
        }
        let ttl = 2 + round % 4;
        let sent = Instant::now();
        let form = format!("value=v&ttl={ttl}");
        let (method, target) = if round % 3 == 0 {
            ("POST", "/v2/keys/queue".to_owned())
        } else {
            ("PUT", format!("/v2/keys/lives/{n}/{round}"))
        };
        let answer = ask(&addresses[n], method, &target, Some(&form)).await.filter(|whole| whole.head.status == 201);
        if let Some(whole) = answer {
            let answered = Instant::now();
            let event: serde_json::Value = serde_json::from_str(&whole.body).expect("an event");
            let key = event["node"]["key"].as_str().expect("a key").to_owned();
            if method == "POST" {
                seen.names.lock().push((key.clone(), sent, answered));
            }
            let life = Life { key, ttl: Duration::from_secs(ttl), sent, answered };
            lives.push(tokio::spawn(life.follow(n, addresses.clone(), seen.clone())));
        }
        tokio::time::sleep(WRITE_EVERY).await;
    }
    for life in lives {
        life.await.expect("a look-out ends");
    }
}

struct Life {
    key: String,
    ttl: Duration,
    sent: Instant,
    answered: Instant,
}

impl Life {
    /// Looks at a key through any member until it is gone.
    async fn follow(self, n: usize, addresses: Arc<Vec<String>>, seen: Arc<Seen>) {
        let target = format!("/v2/keys{}?quorum=true", self.key);
        for look in n.. {
            let began = Instant::now();
            let whole = ask(&addresses[look % addresses.len()], "GET", &target, None).await;
            let ended = Instant::now();
            match whole.as_ref().map(|whole| whole.head.status) {
                Some(404) if ended < self.sent + self.ttl => {
                    let early = self.sent + self.ttl - ended;
                    seen.wrong.lock().push(format!("{} went {early:?} before its time", self.key));
                    return;
                }
                Some(404) => {
                    seen.expired.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Some(200) => {
                    let late = began.saturating_duration_since(self.answered + self.ttl);
                    seen.latest.fetch_max(late.as_millis() as u64, Ordering::Relaxed);
                    if late > BOUND {
                        seen.wrong.lock().push(format!("{} is there {late:?} after its time", self.key));
                        return;
                    }
                }
                // No quorum or no such member at the moment: no evidence.
                _ => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[tokio::test]
async fn kills_neither_shorten_nor_prolong_lives_and_no_in_order_name_comes_back() {
    let _turn = turn().await;
    let kills = setting("V2_KILLS", 5);
    let mut cluster = Cluster::start_in_memory(Product::Ours, 3, &[]).await;
    let addresses: Vec<String> =
        cluster.members.iter().map(|member| format!("{}:{}", member.host, member.client_port)).collect();
    let (addresses, seen) = (Arc::new(addresses), Arc::new(Seen::default()));
    let writers: Vec<_> = (0..3).map(|n| tokio::spawn(write(n, addresses.clone(), seen.clone()))).collect();
    for kill in 0..kills {
        let expired = seen.expired.load(Ordering::Relaxed);
        until("keys expire", START_LIMIT, || async {
            let now = seen.expired.load(Ordering::Relaxed);
            if now >= expired + 20 { Ok(()) } else { Err(format!("{} since the last kill", now - expired)) }
        })
        .await;
        // The leader every other time, else whoever is next.
        let leader = cluster.leader().await;
        let victim = if kill % 2 == 0 { leader } else { (leader + 1) % 3 };
        cluster.members[victim].crash();
        let others: Vec<usize> = (0..3).filter(|&n| n != victim).collect();
        cluster.leader_among(&others).await;
        cluster.members[victim].start();
        cluster.ready(victim).await;
    }
    seen.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    let wrong = seen.wrong.lock();
    assert!(wrong.is_empty(), "{} of the lives went wrong:\n{}", wrong.len(), wrong.join("\n"));
    let names = seen.names.lock();
    let distinct: BTreeSet<&String> = names.iter().map(|(name, ..)| name).collect();
    assert_eq!(distinct.len(), names.len(), "an in-order name was given twice");
    for (name, sent, _) in names.iter() {
        let later = names.iter().filter(|(_, _, answered)| answered < sent);
        let greatest = later.map(|(name, ..)| name).max();
        assert!(greatest.is_none_or(|greatest| greatest < name), "{name} was given after {greatest:?}");
    }
    println!(
        "{} keys expired in time over {kills} kills, the latest {} ms after its time; {} in-order names, none twice",
        seen.expired.load(Ordering::Relaxed),
        seen.latest.load(Ordering::Relaxed),
        names.len()
    );
}
