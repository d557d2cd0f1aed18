//! Members whose disk is full.

use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::{Instant, timeout};

use super::cluster::{Node, PATIENCE, eventually, listener, put, rules, tell_list};
use crate::store::Space;

#[tokio::test]
async fn a_member_whose_log_waits_for_space_stops_in_order() {
    let left = Arc::new(AtomicU64::new(u64::MAX));
    let space = Space::scripted({
        let left = left.clone();
        move || left.load(Ordering::Acquire)
    });
    let (socket, url) = listener().await;
    let node = Node::fresh_in(space.clone(), 1, socket, url, rules()).await;
    tell_list(slice::from_ref(&node), slice::from_ref(&node)).await;
    node.put("before", "x").await.expect("is written");
    left.store(0, Ordering::Release);
    let consensus = node.consensus.clone();
    let filling = tokio::spawn(async move {
        let large = "x".repeat(256 << 10);
        while consensus.propose(put("large", &large), Instant::now() + PATIENCE).await.is_ok() {}
    });
    eventually("the log waits for space", || space.is_awaited()).await;
    let stopped = timeout(PATIENCE, node.stop()).await.expect("stops");
    timeout(PATIENCE, filling).await.expect("is answered").expect("ends");
    let back = stopped.restart().await;
    eventually("what was acknowledged is there", || back.version("before") == 1).await;
}
