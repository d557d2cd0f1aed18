//! What each apply batch tells the rest of the daemon: watchers, timers, v2 waiters.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use super::error::fatal;
use super::keys::{self, Damaged, HistoryRow};
use crate::model::effects::{Change, LeaseChange};

/// Hears of every batch, in order.
pub trait EventSink: Send + Sync {
    /// A batch is readable. Called on the apply thread before anyone is answered; must not block.
    fn publish(&self, batch: Arc<Batch>);
    /// A snapshot replaced the state: whatever was remembered of it is void; `revision` and `compacted` hold now.
    fn reset(&self, revision: i64, compacted: i64);
}

/// Everything that one apply batch changed.
#[derive(Debug, Default)]
pub struct Batch {
    /// Current revision after the batch.
    pub last: i64,
    /// Key changes with their revisions, in revision order, then in order within a revision.
    pub changes: Vec<(i64, Change)>,
    /// `changes` as events, made when somebody asks first.
    pub events: Encoded,
    /// The compaction revision, if the batch moved it.
    pub compacted: Option<i64>,
    /// Lease table changes, in order.
    pub leases: Vec<LeaseChange>,
    /// v2 events, oldest first, as `model::v2` encodes them.
    pub v2_events: Vec<Arc<Bytes>>,
    /// Index of the last entry in the batch.
    pub applied_index: u64,
}

impl Batch {
    /// The key changes, encoded. Nobody pays for that while nobody watches.
    pub fn events(&self) -> &[Event] {
        self.events.0.get_or_init(|| {
            of_changes(&self.changes)
                .unwrap_or_else(|error| fatal("a command produced a record that does not decode", &error))
        })
    }
}

/// Events that are encoded at most once.
#[derive(Debug, Default)]
pub struct Encoded(OnceLock<Vec<Event>>);

/// One key change.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Main revision.
    pub revision: i64,
    /// The key; shares memory with `event`.
    pub key: Bytes,
    /// What happened to it.
    pub kind: EventKind,
    /// Encoded `mvccpb.Event` without `prev_kv`. Events of a batch share memory.
    pub event: Bytes,
    /// Encoded `mvccpb.KeyValue` of the version before; `None` when there was none.
    pub prev: Option<Bytes>,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Written.
    Put {
        /// It did not exist before.
        create: bool,
    },
    /// Deleted.
    Delete,
}

/// Encodes the events of a batch into one piece of memory.
fn of_changes(changes: &[(i64, Change)]) -> Result<Vec<Event>, Damaged> {
    let total =
        changes.iter().map(|(_, change)| change.after.as_ref().map_or(change.key.len(), |r| r.bytes().len())).sum();
    let mut memory = BytesMut::with_capacity(usize::saturating_add(total, changes.len() * EVENT_OVERHEAD));
    changes
        .iter()
        .map(|(revision, change)| {
            let before = change.before.as_ref().map(|record| record.bytes().clone());
            encode(
                *revision,
                &change.key,
                change.after.as_ref().map(|record| record.bytes().as_ref()),
                before,
                &mut memory,
            )
        })
        .collect()
}

/// The event of a history row; `before` is the version before it.
pub(super) fn of_row(revision: i64, row: &HistoryRow<'_>, before: Option<Bytes>) -> Result<Event, Damaged> {
    let mut memory = BytesMut::with_capacity(row.after.unwrap_or(row.key).len() + EVENT_OVERHEAD);
    encode(revision, row.key, row.after, before, &mut memory)
}

/// Tags, lengths and the revision of a tombstone, at most.
const EVENT_OVERHEAD: usize = 32;

fn encode(
    revision: i64,
    key: &[u8],
    after: Option<&[u8]>,
    prev: Option<Bytes>,
    memory: &mut BytesMut,
) -> Result<Event, Damaged> {
    let kind = match after {
        Some(record) => {
            keys::put_event(record, false, memory);
            EventKind::Put { create: prev.is_none() }
        }
        None => {
            keys::put_event(&keys::tombstone(key, revision), true, memory);
            EventKind::Delete
        }
    };
    let event = memory.split().freeze();
    // The key stands first in the record, and the record last in the event.
    let record = match after {
        Some(record) => event.len() - record.len(),
        None => event.len() - keys::tombstone_len(key, revision),
    };
    let key = event.slice_ref(keys::key_of(&event[record..])?);
    Ok(Event { revision, key, kind, event, prev })
}
