//! Linearizable reads: one confirmed index per round serves every reader that waited when the round began.
//!
//! A reader that arrives during a round waits for the next one, because the index confirmed for this one may be older
//! than a write that the reader knows of. No timers: rounds follow each other as fast as they complete.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::error::ReadError;
use super::network::{Answer, Request};
use super::propose::Late;
use super::types::NodeId;
use super::{Consensus, Inner};

/// Readers that may wait at once.
const MAX_WAITING: usize = 1 << 17;
/// Between two tries to confirm an index while nobody can.
const RETRY_EVERY: Duration = Duration::from_millis(20);

type Reader = oneshot::Sender<Result<(), ReadError>>;

/// Readers that wait for the next round.
#[derive(Default)]
pub(super) struct ReadQueue {
    waiting: Mutex<Vec<Reader>>,
    arrived: Notify,
}

impl ReadQueue {
    fn join(&self) -> Result<oneshot::Receiver<Result<(), ReadError>>, ReadError> {
        let (reader, released) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            return Err(ReadError::TooManyRequests);
        }
        waiting.push(reader);
        drop(waiting);
        self.arrived.notify_one();
        Ok(released)
    }

    fn take_into(&self, round: &mut Vec<Reader>) {
        round.append(&mut self.waiting.lock());
    }
}

impl Consensus {
    /// Returns once this member has applied everything that was committed when the call was made.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), ReadError> {
        self.inner.read_barrier(deadline).await
    }
}

impl Inner {
    pub(super) async fn read_barrier(&self, deadline: Instant) -> Result<(), ReadError> {
        if self.stopping.is_cancelled() {
            return Err(ReadError::Stopped);
        }
        let started = Instant::now();
        let released = self.reads.join()?;
        match timeout_at(deadline, released).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(self.why_late(started).into()),
        }
    }

    /// Up to which index a reader must have applied; `None` when nobody could confirm it just now.
    async fn confirmed_index(&self) -> Result<Option<u64>, ReadError> {
        match self.current_leader() {
            Some(leader) if leader == self.id => self.confirm_here().await,
            Some(leader) => Ok(self.confirm_there(leader).await),
            None => Ok(None),
        }
    }

    /// Has a quorum confirm that this member leads. `None` = it does not, or no quorum answers.
    pub(super) async fn confirm_here(&self) -> Result<Option<u64>, ReadError> {
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(Some(read.index())),
            Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
            )) => Ok(None),
            Err(RaftError::Fatal(_)) if self.stopping.is_cancelled() => Err(ReadError::Stopped),
            Err(RaftError::Fatal(fatal)) => Err(ReadError::Fatal(fatal.to_string())),
        }
    }

    async fn confirm_there(&self, leader: NodeId) -> Option<u64> {
        let peer = self.peers.get(leader)?;
        match peer.pulse.call(Request::ReadIndex, Instant::now() + 2 * self.rules.election).await {
            Ok(Answer::ReadIndex(index)) => index,
            _ => None,
        }
    }
}

/// Runs rounds until consensus stops.
pub(super) async fn rounds(inner: Arc<Inner>) {
    let mut round: Vec<Reader> = Vec::new();
    loop {
        tokio::select! {
            () = inner.reads.arrived.notified() => {}
            () = inner.stopping.cancelled() => break,
        }
        inner.reads.take_into(&mut round);
        while !round.is_empty() {
            let confirmed = tokio::select! {
                confirmed = inner.confirmed_index() => confirmed,
                () = inner.stopping.cancelled() => Err(ReadError::Stopped),
            };
            match confirmed {
                Ok(Some(index)) => release(&inner, std::mem::take(&mut round), index),
                Ok(None) => {
                    inner.pause(RETRY_EVERY).await;
                    round.retain(|reader| !reader.is_closed());
                    // The next try begins now: whoever arrived until now may share it.
                    inner.reads.take_into(&mut round);
                }
                Err(error) => fail(&mut round, &error),
            }
        }
    }
    inner.reads.take_into(&mut round);
    fail(&mut round, &ReadError::Stopped);
}

fn fail(round: &mut Vec<Reader>, error: &ReadError) {
    for reader in round.drain(..) {
        let _ = reader.send(Err(error.clone()));
    }
}

/// Lets the readers of a round go as soon as this member has applied `index`; the next round need not wait for that.
fn release(inner: &Arc<Inner>, round: Vec<Reader>, index: u64) {
    let let_go = |round: Vec<Reader>| {
        for reader in round {
            let _ = reader.send(Ok(()));
        }
    };
    if inner.store.applied().is_some_and(|applied| applied.index >= index) {
        return let_go(round);
    }
    let inner = inner.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = inner.store.wait_applied(index) => let_go(round),
            () = inner.stopping.cancelled() => drop(round),
        }
    });
}

impl From<Late> for ReadError {
    fn from(late: Late) -> Self {
        match late {
            Late::NoLeader | Late::Plain => Self::Timeout,
            Late::LeaderFail => Self::TimeoutLeaderFail,
            Late::ConnectionLost => Self::TimeoutConnectionLost,
        }
    }
}
