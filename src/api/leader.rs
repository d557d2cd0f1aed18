//! The leader as this port sees it: when to end streams whose client asked for a connected member (after three election
//! timeouts without a leader), and how often it changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::raft::LeaderState;

/// How many election timeouts in a row a member may lack a leader before such streams end.
const PATIENCE: u32 = 3;

/// Tells streams that the leader is lost for good measure, not for a moment. Its monitor task ends with it.
pub struct LeaderLoss {
    lost: watch::Receiver<bool>,
    changes: Arc<AtomicU64>,
    tasks: [AbortHandle; 2],
}

impl LeaderLoss {
    /// Starts watching `leader`. Must be called inside a runtime.
    pub fn monitor(leader: watch::Receiver<LeaderState>, election_timeout: Duration) -> Self {
        let (sender, lost) = watch::channel(false);
        let changes = Arc::new(AtomicU64::new(0));
        // An error of either says that the member is gone, and its streams with it.
        let counting = tokio::spawn(count_changes(leader.clone(), Arc::clone(&changes)));
        let following = tokio::spawn(async move { follow(leader, &sender, election_timeout * PATIENCE).await });
        Self { lost, changes, tasks: [counting.abort_handle(), following.abort_handle()] }
    }

    /// How often a leader other than the last one appeared.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Resolves once the leader has been missing for too long; at once when it is already.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        if lost.wait_for(|lost| *lost).await.is_err() {
            // The monitor ended with the member: other causes end the stream.
            std::future::pending::<()>().await;
        }
    }
}

async fn count_changes(
    mut leader: watch::Receiver<LeaderState>,
    changes: Arc<AtomicU64>,
) -> Result<(), watch::error::RecvError> {
    let mut last = None;
    loop {
        let now = leader.borrow_and_update().leader;
        if now.is_some() && now != last {
            changes.fetch_add(1, Relaxed);
            last = now;
        }
        leader.changed().await?;
    }
}

async fn follow(
    mut leader: watch::Receiver<LeaderState>,
    lost: &watch::Sender<bool>,
    patience: Duration,
) -> Result<(), watch::error::RecvError> {
    loop {
        leader.wait_for(|now| now.leader.is_none()).await?;
        let back = tokio::time::timeout(patience, leader.wait_for(|now| now.leader.is_some())).await.is_ok();
        if !back {
            lost.send_replace(true);
            leader.wait_for(|now| now.leader.is_some()).await?;
            lost.send_replace(false);
        }
    }
}

impl Drop for LeaderLoss {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION: Duration = Duration::from_millis(150);

    fn with(leader: Option<u64>) -> LeaderState {
        LeaderState { leader, term: 1 }
    }

    async fn ends_within(loss: &LeaderLoss, wait: Duration) -> bool {
        tokio::time::timeout(wait, loss.lost()).await.is_ok()
    }

    #[tokio::test]
    async fn streams_end_only_after_three_election_timeouts_without_a_leader() {
        let (sender, receiver) = watch::channel(with(Some(1)));
        let loss = LeaderLoss::monitor(receiver, ELECTION);
        sender.send_replace(with(None));
        assert!(!ends_within(&loss, ELECTION * 2).await, "ended too early");
        assert!(ends_within(&loss, ELECTION * 20).await, "never ended");
    }

    #[tokio::test]
    async fn a_leader_that_comes_back_in_time_resets_the_count() {
        let (sender, receiver) = watch::channel(with(None));
        let loss = LeaderLoss::monitor(receiver, ELECTION);
        assert!(!ends_within(&loss, ELECTION).await);
        sender.send_replace(with(Some(2)));
        tokio::task::yield_now().await;
        sender.send_replace(with(None));
        assert!(!ends_within(&loss, ELECTION * 2).await, "old absence was counted");
        sender.send_replace(with(Some(2)));
        assert!(!ends_within(&loss, ELECTION * 4).await);
    }

    #[tokio::test]
    async fn new_streams_are_accepted_once_a_leader_is_back() {
        let (sender, receiver) = watch::channel(with(None));
        let loss = LeaderLoss::monitor(receiver, ELECTION);
        assert!(ends_within(&loss, ELECTION * 20).await);
        sender.send_replace(with(Some(2)));
        let mut lost = loss.lost.clone();
        lost.wait_for(|lost| !lost).await.expect("the monitor runs");
        assert!(!ends_within(&loss, ELECTION).await);
    }
}
