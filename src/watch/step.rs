//! Pieces of history for watchers that are behind, and the messages that are cut of events.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::index::Index;
use super::ring::Shared;
use super::stream::WatchOutput;
use crate::store::{HistoryError, Store};
use crate::work::{Budget, Gone, Grant, WATCH_LEAST_BYTES, WATCH_STEP_BYTES};

/// Revisions one message may span; etcd's own cap.
const MESSAGE_REVISIONS: usize = 1000;
/// A message ends at the first whole revision beyond this size, bytes.
const MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of history that one step of a watcher that catches up may read.
const CATCH_UP_BYTES: usize = 8 << 20;
/// Events that one such step may find; it ends at the first whole revision beyond.
const CATCH_UP_EVENTS: usize = 10_000;

/// Events of whole revisions for watchers that catch up, and where they go on.
pub(super) struct Step {
    pub(super) events: Vec<Arc<Shared>>,
    bytes: usize,
    pub(super) next: i64,
    /// For what is found; no more than it is looked for.
    grant: Grant,
}

impl Step {
    /// Nothing found yet; complete at `to` unless it is cut short.
    pub(super) fn to(to: i64, grant: Grant) -> Self {
        Self { events: Vec::new(), bytes: 0, next: to + 1, grant }
    }

    pub(super) fn is_full_before(&self, revision: i64) -> bool {
        let full = self.events.len() >= CATCH_UP_EVENTS || self.bytes >= self.grant.bytes();
        full && self.events.last().is_some_and(|last| last.revision() != revision)
    }

    pub(super) fn push(&mut self, event: Arc<Shared>) {
        self.bytes += event.weight();
        self.events.push(event);
    }

    /// The grant, for what was found.
    pub(super) fn into_grant(mut self) -> Grant {
        self.grant.resize(self.bytes);
        self.grant
    }
}

/// What a stream may look up now: a large step, or, when other streams have what there is, a small one at its own cost.
pub(super) fn allowance(budget: &Budget) -> Grant {
    budget.take(WATCH_STEP_BYTES).unwrap_or_else(|| budget.owed(WATCH_LEAST_BYTES))
}

/// Reads the events of `from..=to` that any watcher of `index` matches, as far as `grant` goes; less when nobody waits.
pub(super) fn read_history(
    store: &Store,
    index: &Index<i64>,
    (from, to): (i64, i64),
    grant: Grant,
    gone: &Gone,
) -> Result<Step, HistoryError> {
    let mut step = Step::to(to, grant);
    // It ends early when this stops it, and also when it has read enough of other keys.
    let last = store.history(from, to, CATCH_UP_BYTES, &|key| index.holds(key), &mut |event| {
        if gone.is_gone() || step.is_full_before(event.revision) {
            return ControlFlow::Break(());
        }
        if index.holds(&event.key) {
            step.push(Arc::new(Shared::new(event)));
        }
        ControlFlow::Continue(())
    })?;
    Ok(Step { next: last + 1, ..step })
}

/// A message being cut for a watcher.
#[derive(Default)]
pub(super) struct Cut {
    events: Vec<Bytes>,
    bytes: usize,
    revisions: usize,
    last: i64,
}

impl Cut {
    pub(super) fn is_full_before(&self, revision: i64) -> bool {
        revision != self.last && (self.revisions >= MESSAGE_REVISIONS || self.bytes >= MESSAGE_BYTES)
    }

    pub(super) fn add(&mut self, revision: i64, event: Bytes) {
        if revision != self.last {
            self.revisions += 1;
            self.last = revision;
        }
        self.bytes += event.len();
        self.events.push(event);
    }

    /// `header`: its revision; without one that of the last event.
    pub(super) fn finish(self, watch_id: i64, fragment: bool, header: Option<i64>) -> WatchOutput {
        WatchOutput::events(watch_id, header.unwrap_or(self.last), self.events, fragment)
    }
}
