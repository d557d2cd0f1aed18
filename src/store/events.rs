//! What each apply batch tells the rest of the daemon: watchers, timers, v2 waiters.
//!
//! # Known before it is readable, told after
//!
//! Any thread may read while a batch is applied. Whatever it reads must be known to the sinks, or a lease that it reads
//! would be called unknown and a watch that it begins would miss what it did not read; and nobody may be told of what he
//! cannot read yet. So a sink hears of a batch twice: before its rows are written ([`EventSink::publish`]), and at the
//! moment at which it becomes readable ([`EventSink::show`]), around which it may hold its own lock. All sinks hold
//! theirs at that moment, whence there is one point at which a batch is there for everybody. A state that is replaced goes
//! the same way ([`EventSink::reset`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::error::fatal;
use super::keys::{self, Damaged, HistoryRow};
use crate::model::auth::Secret;
use crate::model::effects::{Change, LeaseChange};
use crate::model::v2;

/// Hears of every batch, in order. Nothing here may block, nor call the store's `subscribe`.
pub trait EventSink: Send + Sync {
    /// The sink hears of every batch from now on; the state is at `revision`.
    fn subscribed(&self, _revision: i64, _compacted: i64) {}
    /// A batch is committed and about to be written. From now on some of its rows may be readable: those that carry no
    /// revision, such as leases, users and v2 nodes.
    fn publish(&self, _batch: &Arc<Batch>) {}
    /// The batch becomes readable when `moment` is passed on, which must be done once. Nobody was answered yet.
    fn show(&self, _batch: &Arc<Batch>, moment: Moment<'_>) {
        moment.pass();
    }
    /// Another state takes the place of this one when `moment` is passed on, which must be done once: whatever was
    /// remembered is void, and `revision` and `compacted` hold.
    fn reset(&self, _revision: i64, _compacted: i64, moment: Moment<'_>) {
        moment.pass();
    }
    /// Some work on the disk or the state is done. Called on the thread that did it.
    fn worked(&self, _work: Work, _took: Duration) {}
}

/// The moment at which something becomes readable. It comes when every sink has passed it on.
#[must_use = "nothing becomes readable before it is passed on"]
pub struct Moment<'a> {
    waiting: &'a [Arc<dyn EventSink>],
    tell: &'a dyn Fn(&dyn EventSink, Moment<'_>),
    come: &'a mut dyn FnMut(),
}

impl Moment<'_> {
    /// Goes through all of `sinks` by `tell`, the first one outermost, and calls `come` inside.
    pub(super) fn through(
        sinks: &[Arc<dyn EventSink>],
        tell: &dyn Fn(&dyn EventSink, Moment<'_>),
        come: impl FnOnce(),
    ) {
        let mut come = Some(come);
        let mut once = || {
            if let Some(come) = come.take() {
                come();
            }
        };
        Moment { waiting: sinks, tell, come: &mut once }.pass();
        // A sink that forgot to must not keep the state from going on.
        once();
    }

    /// A moment that only one sink is told of.
    #[cfg(test)]
    pub fn alone(tell: impl FnOnce(Moment<'_>)) {
        tell(Moment { waiting: &[], tell: &|_, moment| moment.pass(), come: &mut || {} });
    }

    /// When this returns, it is readable.
    pub fn pass(self) {
        match self.waiting.split_first() {
            Some((next, waiting)) => (self.tell)(next.as_ref(), Moment { waiting, tell: self.tell, come: self.come }),
            None => (self.come)(),
        }
    }
}

/// Work whose duration is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// One batch of committed entries was applied: decided, written and shown.
    Apply,
    /// The writing of that batch alone.
    Commit,
    /// A checkpoint was taken.
    Snapshot,
    /// The state was defragmented.
    Defragment,
}

/// Everything that one apply batch changed.
#[derive(Debug, Default)]
pub struct Batch {
    /// Current revision after the batch.
    pub last: i64,
    /// Key changes with their revisions, in revision order, then in order within a revision.
    pub changes: Vec<(i64, Change)>,
    /// What [`Batch::events`] made of them.
    pub encoded: OnceLock<Vec<Event>>,
    /// The compaction revision, if the batch moved it.
    pub compacted: Option<i64>,
    /// Lease table changes, in order.
    pub leases: Vec<LeaseChange>,
    /// What became of users and tokens, in order.
    pub auth: Vec<AuthEvent>,
    /// v2 events, oldest first.
    pub v2_events: Vec<v2::types::Event>,
    /// Term of the last entry in the batch.
    pub applied_term: u64,
}

impl Batch {
    /// The key changes as watchers are told of them. Encoded when somebody asks first: mostly nobody watches.
    pub fn events(&self) -> &[Event] {
        self.encoded.get_or_init(|| {
            of_changes(&self.changes)
                .unwrap_or_else(|error| fatal("a command produced a record that does not decode", &error))
        })
    }
}

/// What a batch did that members must know who keep tokens and open streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthEvent {
    /// Users, roles, permissions or the switch changed.
    Changed {
        /// Whether authentication is on now.
        enabled: bool,
        /// A user whose tokens are void.
        logged_out: Option<String>,
    },
    /// A user logged in.
    Login {
        /// Who.
        user: String,
        /// With which token from now on.
        token: Secret,
    },
}

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
    let events = changes.iter().map(|(revision, change)| {
        let before = change.before.as_ref().map(|record| record.bytes().clone());
        let after = change.after.as_ref().map(|record| record.bytes().as_ref());
        encode(*revision, &change.key, after, before, &mut memory)
    });
    let mut events = events.collect::<Result<Vec<_>, _>>()?;
    let mut befores = Befores::default();
    for same in events.chunk_by_mut(|one, next| one.revision == next.revision).filter(|same| same.len() > 1) {
        same.iter_mut().for_each(|event| befores.settle(event));
    }
    Ok(events)
}

/// What keys were before a revision. A transaction may change a key more than once, and a watcher is shown the version
/// before the transaction each time, as etcd shows it: it reads the revision before.
#[derive(Default)]
pub(super) struct Befores {
    revision: i64,
    prev: HashMap<Bytes, Option<Bytes>>,
}

impl Befores {
    /// Sets `prev` of the next event. Events come in order.
    pub fn settle(&mut self, event: &mut Event) {
        if event.revision != self.revision {
            self.revision = event.revision;
            self.prev.clear();
        }
        match self.prev.entry(event.key.clone()) {
            // A put that creates has none, also where the transaction deleted the key just before.
            Entry::Occupied(_) if event.kind == (EventKind::Put { create: true }) => {}
            Entry::Occupied(first) => event.prev.clone_from(first.get()),
            Entry::Vacant(place) => drop(place.insert(event.prev.clone())),
        }
    }
}

/// The event of a stored history row. `before`: the version before it, as far as that may still be told.
pub(super) fn of_row(revision: i64, row: &HistoryRow<'_>, before: Option<Bytes>) -> Result<Event, Damaged> {
    let mut memory = BytesMut::with_capacity(row.after.unwrap_or(row.key).len() + EVENT_OVERHEAD);
    let mut event = encode(revision, row.key, row.after, before, &mut memory)?;
    if let EventKind::Put { create } = &mut event.kind {
        *create = row.before.is_none();
    }
    Ok(event)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: i64, key: &'static str, prev: Option<&'static str>) -> Event {
        let prev = prev.map(|text| Bytes::from_static(text.as_bytes()));
        Event { revision, key: Bytes::from_static(key.as_bytes()), kind: EventKind::Delete, event: Bytes::new(), prev }
    }

    #[test]
    fn a_watcher_is_shown_what_a_key_was_before_the_transaction() {
        let mut befores = Befores::default();
        let mut settled = |revision, key, prev| {
            let mut event = event(revision, key, prev);
            befores.settle(&mut event);
            event.prev
        };
        assert_eq!(settled(5, "a", Some("old")), Some(Bytes::from("old")));
        assert_eq!(settled(5, "new", None), None);
        assert_eq!(settled(5, "a", Some("made by the same transaction")), Some(Bytes::from("old")));
        assert_eq!(settled(5, "new", Some("made by the same transaction")), None);
        assert_eq!(settled(6, "a", Some("made by 5")), Some(Bytes::from("made by 5")));
        let mut created = Event { kind: EventKind::Put { create: true }, ..event(6, "a", None) };
        befores.settle(&mut created);
        assert_eq!(created.prev, None, "deleted and created by one transaction");
    }
}
