//! The log's bound in bytes, and who is sent a snapshot because of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::cluster::{Node, eventually, leader, listener, rules, tell_list};
use crate::raft::Rules;

const LOG_BYTES: u64 = 8 << 20;

fn tight() -> Rules {
    // Silence of a slow wire must not be taken for a dead leader.
    Rules { election: Duration::from_secs(5), log_bytes: LOG_BYTES, snapshot_count: 1_000_000, ..rules() }
}

/// Bytes of a member's log segments, spares left out.
fn log_bytes(dir: &Path) -> u64 {
    let names = std::fs::read_dir(dir.join("wal")).expect("a log").flatten();
    let segments = names.filter(|entry| !entry.file_name().to_string_lossy().starts_with("spare"));
    segments.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum()
}

/// Passes bytes to `target`, those that go there slowly while `slow` is set.
async fn slow_wire(socket: TcpListener, target: String, slow: Arc<AtomicBool>) {
    while let Ok((client, _)) = socket.accept().await {
        let (target, slow) = (target.clone(), slow.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(&target).await else { return };
            let ((mut from, mut back), (mut answers, mut there)) = (client.into_split(), server.into_split());
            let answered = async { tokio::io::copy(&mut answers, &mut back).await.map(drop) };
            let passed = async {
                let mut piece = vec![0; 8 << 10];
                loop {
                    let read = from.read(&mut piece).await?;
                    if read == 0 {
                        return Ok(());
                    }
                    if slow.load(Ordering::Relaxed) {
                        sleep(Duration::from_millis(10)).await;
                    }
                    there.write_all(&piece[..read]).await?;
                }
            };
            let ended: Result<(), std::io::Error> =
                tokio::select! { ended = answered => ended, ended = passed => ended };
            drop(ended);
        });
    }
}

async fn overwrite(node: &Node, times: usize) {
    let value = "x".repeat(256 << 10);
    for n in 0..times {
        node.put("large", &value).await.unwrap_or_else(|error| panic!("put {n}: {error}"));
    }
}

#[tokio::test]
async fn a_log_of_large_entries_stays_within_its_bound_and_restarts_whole() {
    let (socket, url) = listener().await;
    let node = Node::fresh(1, socket, url, tight()).await;
    tell_list(std::slice::from_ref(&node), std::slice::from_ref(&node)).await;
    let mut most = 0;
    for _ in 0..40 {
        overwrite(&node, 5).await;
        most = most.max(log_bytes(node.dir.path()));
    }
    // Files go a moment after they were let go, and this process may be starved meanwhile.
    assert!(most <= LOG_BYTES * 3 / 2, "{most} bytes");
    eventually("the log is within its bound", || log_bytes(node.dir.path()) <= LOG_BYTES).await;
    assert!(node.consensus.inner.purged_index() > 100);
    let back = node.stop().await.restart().await;
    eventually("all is there", || back.version("large") == 200).await;
}

#[tokio::test]
async fn a_slow_follower_does_not_keep_the_log_of_its_leader() {
    let slow = Arc::new(AtomicBool::new(true));
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let (socket, url) = listener().await;
        if id < 3 {
            nodes.push(Node::fresh(id, socket, url, tight()).await);
            continue;
        }
        let target = socket.local_addr().expect("an address").to_string();
        let (front, url) = listener().await;
        tokio::spawn(slow_wire(front, target, slow.clone()));
        nodes.push(Node::fresh(id, socket, url, tight()).await);
    }
    tell_list(&nodes[..1], &nodes).await;
    assert_eq!(leader(&nodes).await, 0, "it alone was told the list");
    overwrite(&nodes[0], 200).await;
    let within = || log_bytes(nodes[0].dir.path()) <= LOG_BYTES;
    eventually("the leader lets go of what a slow follower would still need", within).await;
    assert!(nodes[2].version("large") < 150, "the follower is not slow, so the test proves nothing");
    slow.store(false, Ordering::Relaxed);
    eventually("the follower catches up, by a snapshot", || nodes[2].version("large") == 200).await;
}
