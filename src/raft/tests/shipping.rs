//! Snapshots over wires that break, crawl and stall.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use super::cluster::{Node, bootstrap, eventually, leader, listener, rules};
use crate::raft::network::{Patience, WireError, ship};

/// A stretch of wire in front of a member.
struct Wire {
    /// Bytes to the member after which a connection breaks.
    lives_for: AtomicUsize,
    /// Bytes that pass at a time, with a pause of 10 ms; 0 = none pass.
    at_a_time: AtomicUsize,
    /// Bytes that have passed to the member on connections that carried more than an exchange of words.
    passed: AtomicUsize,
    /// Connections that broke.
    broke: AtomicUsize,
}

const WORDS: usize = 128 << 10;

impl Wire {
    fn whole() -> Arc<Self> {
        let most = || AtomicUsize::new(usize::MAX);
        let none = || AtomicUsize::new(0);
        Arc::new(Self { lives_for: most(), at_a_time: most(), passed: none(), broke: none() })
    }

    async fn run(self: Arc<Self>, socket: TcpListener, target: String) {
        while let Ok((client, _)) = socket.accept().await {
            let Ok(server) = TcpStream::connect(&target).await else { continue };
            let wire = self.clone();
            tokio::spawn(async move { wire.pass(client, server).await });
        }
    }

    async fn pass(&self, client: TcpStream, server: TcpStream) {
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let there = async {
            let (mut buffer, mut carried) = (vec![0; 64 << 10], 0usize);
            loop {
                let room = self.at_a_time.load(Ordering::SeqCst).min(buffer.len());
                if room == 0 {
                    sleep(Duration::from_millis(10)).await;
                    continue;
                }
                let Ok(read @ 1..) = from_client.read(&mut buffer[..room]).await else { return };
                carried += read;
                if carried > WORDS {
                    self.passed.fetch_add(read, Ordering::SeqCst);
                }
                if carried > self.lives_for.load(Ordering::SeqCst) {
                    self.broke.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if to_server.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
                if room < buffer.len() {
                    sleep(Duration::from_millis(10)).await;
                }
            }
        };
        let back = async { tokio::io::copy(&mut from_server, &mut to_client).await };
        tokio::select! {
            () = there => {}
            _ = back => {}
        }
    }
}

struct Wired {
    nodes: Vec<Node>,
    wires: Vec<Arc<Wire>>,
    /// Where each really listens.
    targets: Vec<String>,
}

async fn wired() -> Wired {
    let mut all = Wired { nodes: Vec::new(), wires: Vec::new(), targets: Vec::new() };
    for id in 1..=3 {
        let (socket, _) = listener().await;
        let target = socket.local_addr().expect("an address").to_string();
        let (front, url) = listener().await;
        let wire = Wire::whole();
        tokio::spawn(wire.clone().run(front, target.clone()));
        all.wires.push(wire);
        all.targets.push(target);
        all.nodes.push(Node::fresh(id, socket, url, rules()).await);
    }
    bootstrap(&all.nodes).await;
    all
}

/// Text that does not compress.
fn noise(bytes: usize) -> String {
    (0..bytes).map(|_| char::from(b'!' + rand::random::<u8>() % 90)).collect()
}

async fn fill(node: &Node, mebibytes: usize) {
    for n in 0..mebibytes * 4 {
        node.put(&format!("k{n}"), &noise(256 << 10)).await.expect("a quorum");
    }
}

/// Makes the leader forget what a member that is away does not have.
async fn forget(node: &Node) {
    let raft = &node.consensus.inner.raft;
    let last = node.consensus.status().applied;
    raft.trigger().snapshot().await.expect("consensus runs");
    eventually("a snapshot", || node.consensus.inner.snapshot_index() >= last).await;
    raft.trigger().purge_log(last).await.expect("consensus runs");
    eventually("the log is purged", || node.consensus.inner.purged_index() >= last).await;
}

#[tokio::test]
async fn a_snapshot_larger_than_any_connection_lives_still_arrives_and_nothing_of_it_twice() {
    const CONNECTION: usize = 3 << 20;
    let Wired { mut nodes, wires, targets } = wired().await;
    let at = (leader(&nodes).await + 1) % 3;
    let away = nodes.remove(at).stop().await;
    let lead = leader(&nodes).await;
    fill(&nodes[lead], 12).await;
    let lead = leader(&nodes).await;
    forget(&nodes[lead]).await;
    let snapshot = nodes[lead].consensus.inner.raft.get_snapshot().await.expect("consensus runs").expect("taken");
    let total = snapshot.snapshot.total_bytes() as usize;
    drop(snapshot);
    wires[at].lives_for.store(CONNECTION, Ordering::SeqCst);
    let back = away.restart_at(&targets[at]).await;
    eventually("the returned member has it all", || back.version("k47") == 1).await;
    let (passed, broke) = (wires[at].passed.load(Ordering::SeqCst), wires[at].broke.load(Ordering::SeqCst));
    assert!(broke >= 4, "12 MiB do not fit through {broke} connections of 3 MiB");
    // A break loses the piece under way.
    let most = total + (broke + 1) * (512 << 10);
    assert!(passed <= most, "{passed} bytes for {total} over {broke} broken connections");
    back.put("after", "1").await.expect("it goes on from the snapshot");
}

/// Ships the leader's snapshot to a follower outside openraft's own trying again.
async fn shipped(nodes: &[Node], patience: Patience, to: usize) -> Result<(), WireError> {
    let lead = leader(nodes).await;
    let inner = &nodes[lead].consensus.inner;
    let snapshot = inner.raft.get_snapshot().await.expect("consensus runs").expect("it was taken");
    let vote = inner.metrics.borrow_watched().vote;
    let peer = inner.peers.get(nodes[to].id).expect("listed");
    ship(&peer.address, vote, snapshot, patience).await.map(drop)
}

#[tokio::test]
async fn a_superseded_snapshot_on_a_slow_wire_ends_while_space_is_low_and_the_newest_arrives() {
    let Wired { nodes, wires, .. } = wired().await;
    let lead = leader(&nodes).await;
    let to = (lead + 1) % 3;
    fill(&nodes[lead], 4).await;
    forget(&nodes[lead]).await;
    let patience = Patience { silence: Duration::from_secs(60), install: Duration::from_secs(60) };
    // Two minutes or more for the whole: it does not get done before the next snapshot.
    wires[to].at_a_time.store(256, Ordering::SeqCst);
    let mut slow = Box::pin(shipped(&nodes, patience, to));
    let newer = async {
        nodes[lead].put("newer", "1").await.expect("the other follower is quick");
        eventually("the slow one needs no snapshot itself", || nodes[to].version("newer") == 1).await;
        forget(&nodes[lead]).await;
    };
    tokio::select! {
        outcome = &mut slow => panic!("the oldest goes on: {outcome:?}"),
        () = newer => {}
    }
    nodes[lead].consensus.inner.store.space().pretend_low(true);
    let ended = slow.await.expect_err("its space is wanted back");
    assert!(ended.to_string().contains("a newer snapshot"), "{ended}");
    nodes[lead].consensus.inner.store.space().pretend_low(false);
    wires[to].at_a_time.store(usize::MAX, Ordering::SeqCst);
    shipped(&nodes, patience, to).await.expect("the newest is shipped");
}

#[tokio::test]
async fn a_slow_wire_takes_its_time_and_a_silent_one_is_given_up() {
    let Wired { nodes, wires, .. } = wired().await;
    let lead = leader(&nodes).await;
    let to = (lead + 1) % 3;
    fill(&nodes[lead], 4).await;
    forget(&nodes[lead]).await;
    // Long enough for a process that is starved for seconds.
    let patience = Patience { silence: Duration::from_secs(10), install: Duration::from_secs(60) };
    // 4 KiB every 10 ms at most: more than ten seconds in all, never ten without a byte.
    wires[to].at_a_time.store(4 << 10, Ordering::SeqCst);
    let begun = Instant::now();
    shipped(&nodes, patience, to).await.expect("it takes as long as it needs");
    assert!(begun.elapsed() > patience.silence, "the wire was too fast to show anything: {:?}", begun.elapsed());

    let silence = Patience { silence: Duration::from_millis(300), ..patience };
    wires[to].at_a_time.store(0, Ordering::SeqCst);
    let failed = shipped(&nodes, silence, to).await.expect_err("nothing passes");
    assert!(matches!(failed, WireError::Io(_)), "{failed}");
    wires[to].at_a_time.store(usize::MAX, Ordering::SeqCst);
    let patience = Patience { silence: Duration::from_secs(60), ..patience };
    shipped(&nodes, patience, to).await.expect("the wire is whole again");
}
