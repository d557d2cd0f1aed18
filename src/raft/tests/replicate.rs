//! Commands, reads and leadership.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::cluster::{
    Node, PATIENCE, all_know_the_list, bootstrap, calm, cluster, eventually, follower, leader, listener, put, rules,
    soon, tell_list,
};
use crate::raft::{MemberError, ProposeError, ReadError};

#[tokio::test]
async fn any_member_takes_a_command_and_shows_it_when_it_answers() {
    let nodes = cluster(3).await;
    for node in &nodes {
        let key = format!("by-{}", node.id);
        node.put(&key, "1").await.expect("a leader is there");
        assert_eq!(node.version(&key), 1, "a member reads its own writes");
    }
    for node in &nodes {
        let all = || (1..=3).all(|id| node.version(&format!("by-{id}")) == 1);
        eventually("all commands everywhere", all).await;
    }
}

#[tokio::test]
async fn commands_go_on_after_the_leader_is_gone_and_it_catches_up_when_it_is_back() {
    let mut nodes = cluster(3).await;
    let gone = nodes.remove(leader(&nodes).await).stop().await;
    for node in &nodes {
        node.put("after", "1").await.expect("two of three elect and commit");
    }
    let back = gone.restart().await;
    eventually("the returned member catches up", || back.version("after") == 2).await;
    back.put("after", "3").await.expect("it takes commands again");
}

#[tokio::test]
async fn many_commands_at_once_through_a_follower_each_apply_once() {
    let nodes = cluster(3).await;
    let at = follower(&nodes).await;
    let puts = (0..500).map(|n| nodes[at].put(if n % 2 == 0 { "even" } else { "odd" }, "1"));
    for outcome in futures::future::join_all(puts.collect::<Vec<_>>()).await {
        outcome.expect("a healthy cluster");
    }
    assert_eq!((nodes[at].version("even"), nodes[at].version("odd")), (250, 250));
}

#[tokio::test]
async fn leadership_moves_where_it_is_sent_in_the_very_next_term() {
    let nodes = calm().await;
    let from = leader(&nodes).await;
    let to = (from + 1) % 3;
    let before = nodes[from].consensus.status().term;
    let refused = nodes[to].consensus.move_leader(nodes[from].id, soon()).await;
    assert_eq!(refused, Err(MemberError::NotLeader));
    assert_eq!(nodes[from].consensus.move_leader(99, soon()).await, Err(MemberError::BadTransferee));
    nodes[from].consensus.move_leader(nodes[to].id, soon()).await.expect("a transfer");
    assert_eq!(leader(&nodes).await, to);
    assert_eq!(nodes[to].consensus.status().term, before + 1);
    nodes[from].put("moved", "1").await.expect("commands go to the new leader");
}

#[tokio::test]
async fn a_leader_just_elected_knows_whom_it_may_send_its_leadership_to() {
    let nodes = calm().await;
    let moved = async {
        loop {
            for (node, next) in nodes.iter().zip(nodes.iter().cycle().skip(1)) {
                match node.consensus.move_leader(next.id, soon()).await {
                    Err(MemberError::NotLeader) => tokio::task::yield_now().await,
                    moved => return moved,
                }
            }
        }
    };
    assert_eq!(timeout(PATIENCE, moved).await, Ok(Ok(())));
}

#[tokio::test]
async fn a_leader_that_stops_in_order_leaves_its_place_to_another_first() {
    let mut nodes = calm().await;
    let at = leader(&nodes).await;
    all_know_the_list(&nodes).await;
    let active = |node: &Node| node.consensus.peers().all().iter().all(|peer| peer.active_since().is_some());
    eventually("the leader reaches the others", || active(&nodes[at])).await;
    let before = nodes[at].consensus.status().term;
    nodes[at].consensus.step_down(soon()).await;
    let stopped = nodes.remove(at).stop().await;
    let now = leader(&nodes).await;
    assert_ne!(nodes[now].id, stopped.id);
    assert_eq!(nodes[now].consensus.status().term, before + 1);
}

#[tokio::test]
async fn a_read_barrier_on_any_member_lets_it_see_every_earlier_command() {
    let nodes = cluster(3).await;
    for n in 0..60 {
        let key = format!("k{n}");
        nodes[n % 3].put(&key, "1").await.expect("a healthy cluster");
        let reader = &nodes[(n + 1) % 3];
        reader.consensus.read_barrier(soon()).await.expect("a confirmed read");
        assert_eq!(reader.version(&key), 1, "read {n} was stale");
    }
}

#[tokio::test]
async fn without_a_quorum_nothing_is_confirmed_and_nothing_is_committed() {
    let mut nodes = cluster(3).await;
    let alone = nodes.remove(leader(&nodes).await);
    let mut stopped = Vec::new();
    for node in nodes {
        stopped.push(node.stop().await);
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    let (read, proposed) =
        tokio::join!(alone.consensus.read_barrier(deadline), alone.consensus.propose(put("lost", "1"), deadline));
    let late = [ReadError::Timeout, ReadError::TimeoutLeaderFail, ReadError::TimeoutConnectionLost];
    assert!(late.contains(&read.expect_err("no quorum")));
    let late = [ProposeError::Timeout, ProposeError::TimeoutLeaderFail, ProposeError::TimeoutConnectionLost];
    assert!(late.contains(&proposed.expect_err("no quorum")));
    assert_eq!(alone.version("lost"), 0);
    eventually("a leader without a quorum is not shown as one", || alone.consensus.status().leader.is_none()).await;
}

#[tokio::test]
async fn a_lease_is_renewed_by_the_leader_for_any_member() {
    let nodes = cluster(3).await;
    for node in &nodes {
        assert_eq!(node.consensus.lease_renew(7).await, Ok(70));
        assert_eq!(node.consensus.lease_renew(8).await, Ok(0), "an unknown lease has no time left");
        assert_eq!(node.consensus.lease_remaining(8).await, Ok(None));
    }
}

/// Passes bytes to `target`; once `lose_answers` is set, the first answer ends the connection instead of passing.
async fn between(socket: TcpListener, target: String, lose_answers: Arc<AtomicBool>) {
    while let Ok((mut client, _)) = socket.accept().await {
        let (target, lose_answers) = (target.clone(), lose_answers.clone());
        tokio::spawn(async move {
            let Ok(mut server) = TcpStream::connect(&target).await else { return };
            let (mut there, mut back) = (vec![0; 64 << 10], vec![0; 64 << 10]);
            loop {
                let passed = tokio::select! {
                    read = client.read(&mut there) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(n) => server.write_all(&there[..n]).await,
                    },
                    read = server.read(&mut back) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(_) if lose_answers.load(Ordering::SeqCst) => return,
                        Ok(n) => client.write_all(&back[..n]).await,
                    },
                };
                if passed.is_err() {
                    return;
                }
            }
        });
    }
}

/// Three members without a list, each reached through a stretch of wire that loses answers while its mark is set.
async fn wired() -> (Vec<Node>, Vec<Arc<AtomicBool>>) {
    let (mut nodes, mut wires) = (Vec::new(), Vec::new());
    for id in 1..=3 {
        let (socket, _) = listener().await;
        let target = socket.local_addr().expect("an address").to_string();
        let (front, url) = listener().await;
        let lose = Arc::new(AtomicBool::new(false));
        tokio::spawn(between(front, target, lose.clone()));
        wires.push(lose);
        nodes.push(Node::fresh(id, socket, url, rules()).await);
    }
    (nodes, wires)
}

#[tokio::test]
async fn a_leader_that_loses_the_others_before_it_has_a_list_is_not_shown_as_one_for_long() {
    let (nodes, wires) = wired().await;
    tell_list(&nodes[..1], &nodes).await;
    let won = async {
        while nodes[0].consensus.inner.current_leader() != Some(nodes[0].id) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, won).await.expect("nobody else stands");
    wires.iter().for_each(|lose| lose.store(true, Ordering::SeqCst));
    assert_eq!(nodes[0].consensus.members(), [], "the list is not committed yet");
    let status = || nodes[0].consensus.status();
    eventually("it shows itself", || status().is_leader).await;
    eventually("it is without a quorum and says so", || status().leader.is_none()).await;
}

#[tokio::test]
async fn a_carried_command_whose_answer_is_lost_is_not_proposed_again() {
    let (nodes, wires) = wired().await;
    bootstrap(&nodes).await;
    let at = follower(&nodes).await;
    let leader_at = leader(&nodes).await;
    nodes[at].put("counted", "1").await.expect("a healthy cluster");
    wires[leader_at].store(true, Ordering::SeqCst);
    let outcome = nodes[at].put("counted", "2").await;
    wires[leader_at].store(false, Ordering::SeqCst);
    assert_eq!(outcome.expect_err("the answer was lost"), ProposeError::LeaderChanged);
    eventually("the command is applied", || nodes[leader_at].version("counted") == 2).await;
    nodes[at].put("other", "1").await.expect("the wire is whole again");
    nodes[at].consensus.read_barrier(soon()).await.expect("a confirmed read");
    assert_eq!(nodes[at].version("counted"), 2, "applied twice");
}
