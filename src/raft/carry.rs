//! Carries commands to the leader, as many in one frame as wait at the moment.
//!
//! Nothing waits for company: a command that is alone travels alone at once, and under load the ones that arrive while
//! the runtime is busy share the cost of a frame, an answer and a task on either side.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Inner;
use super::network::{Answer, CallError, Request};
use super::propose::Proposed;
use super::types::NodeId;

/// Commands that may wait here. The limit in bytes is taken before (`propose`).
pub(super) const MAX_QUEUED: usize = 1 << 16;
/// Commands in one frame.
const MAX_COMMANDS: usize = 512;
/// Bytes of commands in one frame, unless a single command is larger.
const MAX_BYTES: usize = 1 << 20;
/// How much longer than any caller the leader's answer is waited for: callers have deadlines of their own.
const GRACE: Duration = Duration::from_secs(1);

/// A command on its way to the leader.
pub(super) struct Carried {
    pub(super) leader: NodeId,
    pub(super) command: Bytes,
    pub(super) outcome: oneshot::Sender<Proposed>,
}

/// Sends what is queued until consensus stops.
pub(super) async fn carry(inner: Arc<Inner>, mut queue: mpsc::Receiver<Carried>) {
    let mut waiting: Vec<Carried> = Vec::new();
    loop {
        tokio::select! {
            taken = queue.recv_many(&mut waiting, MAX_COMMANDS) => if taken == 0 { return },
            () = inner.stopping.cancelled() => return,
        }
        // Whoever gave up while it waited need not be carried.
        waiting.retain(|carried| !carried.outcome.is_closed());
        while !waiting.is_empty() {
            let batch: Vec<Carried> = waiting.drain(..batch_len(&waiting)).collect();
            tokio::spawn(send(inner.clone(), batch));
        }
    }
}

/// How many of the first commands go to one leader in one frame: at least one.
fn batch_len(waiting: &[Carried]) -> usize {
    let mut bytes = 0;
    let fits = waiting.iter().take_while(|carried| {
        bytes += carried.command.len();
        carried.leader == waiting[0].leader && bytes <= MAX_BYTES
    });
    fits.count().max(1)
}

async fn send(inner: Arc<Inner>, batch: Vec<Carried>) {
    let Some(leader) = batch.first().map(|carried| carried.leader) else { return };
    let (commands, waiting): (Vec<Bytes>, Vec<_>) =
        batch.into_iter().map(|carried| (carried.command, carried.outcome)).unzip();
    let deadline = Instant::now() + inner.rules.request_timeout + GRACE;
    let answer = match inner.peers.get(leader) {
        Some(peer) => peer.forward.call(Request::Propose(commands), deadline).await,
        None => Err(CallError::NotSent("the leader is not known yet".to_owned())),
    };
    let outcomes = match answer {
        Ok(Answer::Proposed(outcomes)) => outcomes,
        Err(CallError::NotSent(_) | CallError::Refused(_)) => vec![Proposed::NotAccepted; waiting.len()],
        Ok(_) => Vec::new(),
        Err(CallError::Lost(reason)) => {
            tracing::debug!(reason, commands = waiting.len(), "carried commands have no known result");
            Vec::new()
        }
    };
    let known = outcomes.into_iter().chain(std::iter::repeat(Proposed::Unknown));
    for (waiting, outcome) in waiting.into_iter().zip(known) {
        let _ = waiting.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(leader: NodeId, bytes: usize) -> Carried {
        Carried { leader, command: Bytes::from(vec![0; bytes]), outcome: oneshot::channel().0 }
    }

    #[test]
    fn a_frame_holds_what_goes_to_one_leader_and_fits() {
        assert_eq!(batch_len(&[carried(1, 10), carried(1, 10), carried(2, 10)]), 2);
        assert_eq!(batch_len(&[carried(1, MAX_BYTES), carried(1, 1)]), 1);
        assert_eq!(batch_len(&[carried(1, MAX_BYTES + 1), carried(1, 1)]), 1, "a large one travels alone");
    }
}
