//! The log as openraft sees it: its storage traits on top of the queue and the state in memory.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use futures::stream;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use super::meter::LogMeter;
use super::wal::{Operation, Wal};
use super::{LogError, read};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

/// A handle on the log. Clones share it; dropping the last one writes what is queued and closes the files.
///
/// Only one task may write through it at a time (openraft's core does); any number may read.
#[derive(Clone)]
pub struct LogStore {
    wal: Arc<Wal>,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (purged, last) = self.wal.state().bounds();
        f.debug_struct("LogStore").field("purged", &purged).field("last", &last).finish_non_exhaustive()
    }
}

impl LogStore {
    pub(super) fn new(wal: Wal) -> Self {
        Self { wal: Arc::new(wal) }
    }

    #[cfg(test)]
    pub(super) fn wal(&self) -> Arc<Wal> {
        self.wal.clone()
    }

    /// What tells how much this log keeps.
    pub fn meter(&self) -> LogMeter {
        self.wal.meter()
    }

    /// The last purged entry and the last entry (the last purged one when there is none), as far as they are submitted.
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        self.wal.state().bounds()
    }

    /// Entries of `range` that are present: all of them, or up to `budget` bytes but at least one.
    async fn entries(&self, range: Range<u64>, budget: Option<usize>) -> io::Result<Vec<Entry>> {
        let reading = self.wal.state().read(range, budget)?;
        if reading.disk.is_empty() {
            return Ok(reading.memory);
        }
        let disk = reading.disk;
        let read = tokio::task::spawn_blocking(move || read::read(&disk, budget)).await.map_err(io::Error::other)?;
        let read::Found { mut entries, stopped } = read?;
        if let Some((seq, place)) = stopped {
            self.wal.state().note(seq, place);
        }
        entries.extend(reading.memory);
        Ok(entries)
    }

    /// Submits an operation and returns when it is on disk.
    async fn durably(
        &self,
        change: impl FnOnce(&mut super::state::State) -> Result<Option<Operation>, LogError> + Send,
    ) -> io::Result<()> {
        let (done, told) = oneshot::channel();
        self.wal.submit(Some(Box::new(move |result| drop(done.send(result)))), change)?;
        told.await.map_err(|_| io::Error::from(LogError::Failed))?
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.entries(indices(&range), None).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.wal.state().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        if start < self.wal.state().present().start {
            // Never a list that starts late: the caller takes its first entry for `start`.
            return Ok(Vec::new());
        }
        self.entries(start..end, Some(self.wal.options().read_bytes)).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (asked, present) = (indices(&range), self.wal.state().present());
        let rest = asked.start.max(present.start)..asked.end.min(present.end);
        let walk = Walk { store: self.clone(), rest, read: Vec::new().into_iter() };
        stream::unfold(walk, |mut walk| async move {
            let next = walk.next().await?;
            Some((next, walk))
        })
    }
}

/// Entries in order, read in portions, so that a long range is never in memory at once.
struct Walk {
    store: LogStore,
    rest: Range<u64>,
    read: std::vec::IntoIter<Entry>,
}

impl Walk {
    async fn next(&mut self) -> Option<io::Result<Entry>> {
        if let Some(entry) = self.read.next() {
            return Some(Ok(entry));
        }
        if self.rest.is_empty() {
            return None;
        }
        let wanted = self.rest.start;
        let budget = self.store.wal.options().read_bytes;
        let portion = match self.store.entries(self.rest.clone(), Some(budget)).await {
            Ok(portion) if portion.first().is_some_and(|first| first.log_id.index == wanted) => portion,
            Ok(_) => return Some(Err(self.stop(LogError::Hole { index: wanted }.into()))),
            Err(error) => return Some(Err(self.stop(error))),
        };
        self.rest.start += portion.len() as u64;
        self.read = portion.into_iter();
        self.read.next().map(Ok)
    }

    fn stop(&mut self, error: io::Error) -> io::Error {
        self.rest = 0..0;
        error
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (last_purged_log_id, last_log_id) = self.bounds();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.durably(move |state| {
            state.vote = Some(vote);
            Ok(Some(Operation::Vote(vote)))
        })
        .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.wal.hint(committed);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.wal.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.wal.room().await;
        let done = Box::new(move |result| callback.io_completed(result));
        self.wal.submit(Some(done), move |state| {
            let before = state.bounds().1;
            let pushed: Result<Vec<Entry>, LogError> = entries.into_iter().map(|entry| state.push(entry)).collect();
            match pushed {
                Ok(entries) if entries.is_empty() => Ok(None),
                Ok(entries) => Ok(Some(Operation::Append(entries))),
                Err(error) => {
                    state.truncate(before);
                    Err(error)
                }
            }
        })?;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        // Waits for the disk, so that no later entry can meet its predecessor of the same index in the queue.
        self.durably(move |state| {
            let end = state.present().end;
            state.truncate(last_log_id);
            let next = state.present().end;
            Ok((next < end).then_some(Operation::Truncate(last_log_id, next)))
        })
        .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.wal.submit(None, move |state| Ok(state.purge(log_id).then_some(Operation::Purge(log_id))))?;
        Ok(())
    }
}

fn indices(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}
