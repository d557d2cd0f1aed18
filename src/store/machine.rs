//! The state machine under Raft: committed entries in, one atomic batch out.
//!
//! For each piece of the stream: wait until the local log holds it durably, ask the rules what every entry does, write all
//! effects together with the applied log id as one batch, move the marks, answer the proposers. The sinks are told before
//! the batch is written and while the marks move (see `events.rs`). A failure in there ends the process, because going on
//! would diverge.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use super::database::{Database, Facts};
use super::error::{StoreError, fatal};
use super::events::{Batch, EventSink, Moment, Work};
use super::keys::meta;
use super::overlay::{Overlay, Sealed};
use super::reader::{Shared, Store};
use super::snapshot::SnapshotFiles;
use super::space::{Part, Space};
use super::watermark::Watermark;
use super::{records, size};
use crate::model::auth::Identity;
use crate::model::command;
use crate::model::effects::{Applied, Position, Response};
use crate::model::v2;
use crate::model::view::View;
use crate::raft::types::{Entry, LogId, Membership, Proposal, Reply, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries in one write batch, at most: also how long apply holds its thread before others run.
const MAX_BATCH_ENTRIES: usize = 512;
/// Proposal bytes in one write batch, at most (one larger entry still fits).
const MAX_BATCH_BYTES: usize = 4 << 20;
/// What an entry adds to the write batch beyond three times its own bytes; only sizes the first allocation.
const ROW_BYTES: usize = 256;

/// Ids of members that left, at most: eight bytes each, written as one row. An id is derived from a member's name, URLs and
/// the time, so the one that is forgotten after so many others does not come back by chance.
pub const MAX_REMOVED: usize = 1 << 16;

/// What becomes of entries that apply was to take up when the member stopped.
const UNAPPLIED: &str = "committed entries were not applied, and will be at the next start";

type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFiles>;
type Answer = (ApplyResponder<TypeConfig>, Reply);

/// Applies committed entries to the store. There is one per [`Store`], and only it writes replicated state.
pub struct Machine {
    store: Store,
    /// How far the local log is durable.
    watermark: Watermark,
}

/// Takes one checkpoint beside apply.
pub struct Builder {
    store: Store,
}

impl Machine {
    pub(super) fn new(store: Store, watermark: Watermark) -> Self {
        Self { store, watermark }
    }

    /// Returns when `bytes` can be written. A batch that fills no write buffer passes without: alarms, votes and small
    /// deletions must go on.
    ///
    /// # Errors
    /// The member stops first.
    async fn wait_for_space(&self, space: &Space, bytes: u64) -> Result<(), io::Error> {
        let database = self.store.shared.database();
        let passes = database.takes_without_flush(bytes, &self.store.shared.options);
        let needed = || database.unflushed() + bytes;
        if passes || space.ready(Part::State, needed, "committed entries are applied").await {
            return Ok(());
        }
        Err(stopped(UNAPPLIED))
    }

    /// Finds out what one piece of the log does. Nothing is written.
    fn decide(&self, piece: Piece) -> Decided {
        let begun = Instant::now();
        let database = self.store.shared.database();
        let mut overlay = Overlay::over(&database, piece.bytes * 3 + piece.entries.len() * ROW_BYTES);
        let mut answers = Vec::with_capacity(piece.entries.len());
        let mut facts = None;
        for (entry, responder) in piece.entries {
            let reply = apply_entry(&database, &mut overlay, &mut facts, entry);
            answers.extend(responder.map(|responder| (responder, reply)));
        }
        let last = (*piece.last.leader_id, piece.last.index);
        let sealed = overlay.seal(last);
        Decided { sealed, facts, answers, last, took: begun.elapsed() }
    }

    /// Writes what was decided, shows it, and answers whoever waits.
    fn carry_out(&self, decided: Decided) {
        let begun = Instant::now();
        let Decided { mut sealed, facts, answers, last: (applied_term, applied_index), took } = decided;
        let batch = Arc::new(Batch {
            last: sealed.progress.revision,
            changes: std::mem::take(&mut sealed.changes),
            encoded: OnceLock::new(),
            compacted: sealed.compacted,
            leases: std::mem::take(&mut sealed.leases),
            auth: std::mem::take(&mut sealed.auth_events),
            v2_events: std::mem::take(&mut sealed.v2_events),
            applied_term,
        });
        let committed = self.commit(&batch, sealed, facts);
        self.store.shared.applied_next.advance(applied_index + 1);
        for (responder, reply) in answers {
            responder.send(reply);
        }
        if batch.compacted.is_some() {
            self.store.housekeeper.wake();
        }
        self.store.worked(Work::Commit, committed);
        self.store.worked(Work::Apply, took + begun.elapsed());
    }

    /// Tells the sinks, writes, and makes readable. Returns how long the writing took.
    fn commit(&self, batch: &Arc<Batch>, mut sealed: Sealed, facts: Option<Facts>) -> Duration {
        let (shared, database) = (&self.store.shared, self.store.shared.database());
        let subscribed = shared.sinks.read();
        let sinks: Vec<_> = subscribed.iter().filter_map(Weak::upgrade).collect();
        for sink in &sinks {
            sink.publish(batch);
        }
        let begun = Instant::now();
        write(shared, &database, &mut sealed);
        let took = begun.elapsed();
        let tell = |sink: &dyn EventSink, moment: Moment<'_>| sink.show(batch, moment);
        Moment::through(&sinks, &tell, || show(shared, &database, sealed, facts));
        took
    }
}

/// What a piece of the log does, not yet written. Only apply writes the state, so it stays true while it waits.
struct Decided {
    sealed: Sealed,
    facts: Option<Facts>,
    answers: Vec<Answer>,
    /// Term and index of the last entry.
    last: (u64, u64),
    took: Duration,
}

/// What one entry does, taken into the overlay, and its answer.
fn apply_entry(database: &Database, overlay: &mut Overlay<'_>, facts: &mut Option<Facts>, entry: Entry) -> Reply {
    let position = Position { term: *entry.log_id.leader_id, index: entry.log_id.index };
    let outcome = match entry.payload {
        EntryPayload::Blank => Ok(Response::None),
        EntryPayload::Normal(Proposal(bytes)) => {
            let (envelope, command) =
                command::decode(bytes).unwrap_or_else(|error| fatal("a committed entry is unusable", &error));
            let by = Identity { user: envelope.user, revision: envelope.auth_revision };
            let effects = crate::model::apply::apply(overlay, &by, &command, position)
                .unwrap_or_else(|error| fatal("the state could not be read while applying an entry", &error));
            overlay.absorb(effects)
        }
        EntryPayload::Membership(membership) => {
            let facts = facts.get_or_insert_with(|| Facts::clone(&database.facts.load()));
            set_membership(overlay, facts, entry.log_id, membership);
            Ok(Response::None)
        }
    };
    Reply(Box::new(Applied { revision: overlay.revision(), position, outcome }))
}

/// Records a membership, and which ids left with it: those never come back.
fn set_membership(overlay: &mut Overlay<'_>, facts: &mut Facts, id: LogId, membership: Membership) {
    let gone = facts.membership.nodes().map(|(id, _)| *id).filter(|id| membership.get_node(id).is_none());
    let gone: Vec<u64> = gone.collect();
    if !gone.is_empty() {
        remember(&mut facts.removed, gone, MAX_REMOVED);
        overlay.put_meta(meta::REMOVED, &records::encode_ids(&facts.removed));
    }
    facts.membership = StoredMembership::new(Some(id), membership);
    overlay.put_meta(meta::MEMBERSHIP, &records::encode_membership(&facts.membership));
}

/// Adds `gone` to the ids that left; beyond `most`, others go. Which ones is the same on every member.
fn remember(removed: &mut BTreeSet<u64>, gone: Vec<u64>, most: usize) {
    removed.extend(&gone);
    let surplus = removed.len().saturating_sub(most);
    let forgotten: Vec<u64> = removed.iter().filter(|id| !gone.contains(id)).take(surplus).copied().collect();
    for id in forgotten {
        removed.remove(&id);
    }
}

/// Writes the batch. Readers stay where they are (see `database.rs`).
fn write(shared: &Shared, database: &Database, sealed: &mut Sealed) {
    let marks = &database.marks;
    let progress = sealed.progress;
    marks.live.store(progress.live, Ordering::Release);
    marks.superseded.store(progress.superseded, Ordering::Release);
    let in_use = size::pages(database.in_use());
    if marks.allocated.fetch_max(in_use, Ordering::AcqRel) < in_use {
        let family = database.family(super::keys::META);
        sealed.batch.put_cf(family, meta::ALLOCATED, in_use.to_be_bytes());
    }
    let (compacted, size) = (sealed.compacted.is_some(), shared.options.history_layer);
    let begun = database.layers.lock().grow(sealed.history, progress.revision, compacted, size);
    if let Some(layer) = begun {
        let family = database.family(super::keys::META);
        sealed.batch.put_cf(family, super::keys::layer_key(layer.start), layer.encode());
    }
    marks.writing.store(progress.revision, Ordering::SeqCst);
    let batch = std::mem::take(&mut sealed.batch);
    database.write(batch).unwrap_or_else(|error| fatal("the state could not be written", &error));
}

/// Moves the marks, in the order that readers rely on.
fn show(shared: &Shared, database: &Database, sealed: Sealed, facts: Option<Facts>) {
    let (marks, progress) = (&database.marks, sealed.progress);
    let mut recent = database.recent.lock();
    for (key, version) in sealed.live {
        // A slice would keep the whole entry it came with in memory.
        recent.put(Bytes::copy_from_slice(&key), version);
    }
    drop(recent);
    if !sealed.v2.is_empty() {
        let (mut head, mut recent) = (marks.v2(), database.recent_v2.lock());
        for (key, value) in sealed.v2 {
            head.take_in(&key, value.as_ref())
                .unwrap_or_else(|error| fatal("a command produced a v2 row that does not decode", &error));
            if v2::is_read_back(&key) {
                recent.put(key, value);
            }
        }
        marks.set_v2(head);
    }
    let changed = sealed.alarms.is_some() || sealed.cluster_version.is_some() || sealed.auth.is_some();
    if facts.is_some() || changed {
        let mut facts = facts.unwrap_or_else(|| Facts::clone(&database.facts.load()));
        facts.alarms = sealed.alarms.unwrap_or(facts.alarms);
        facts.cluster_version = sealed.cluster_version.unwrap_or(facts.cluster_version);
        facts.auth = sealed.auth.unwrap_or(facts.auth);
        // Before the revision moves: whoever sees what came after a change of the auth store sees the change.
        shared.auth_mark.set(&facts.auth);
        database.facts.store(Arc::new(facts));
    }
    // Readers load these two in the opposite order, so a view's revision is never below its compaction revision.
    marks.revision.store(progress.revision, Ordering::SeqCst);
    if let Some(compacted) = sealed.compacted {
        marks.compacted.store(compacted, Ordering::SeqCst);
    }
    // Last: a linearizable read that finds its index applied takes its view at once.
    *database.applied.lock() = progress.applied;
}

/// Consecutive entries that go into one batch.
struct Piece {
    entries: Vec<EntryResponder<TypeConfig>>,
    last: LogId,
    bytes: usize,
}

impl Piece {
    /// Waits for one entry, then takes what else is ready, up to the limits. `None` at the end of the stream.
    async fn take<S>(entries: &mut S) -> Result<Option<Self>, io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin,
    {
        let Some(first) = entries.next().await.transpose()? else { return Ok(None) };
        let mut piece = Self { last: first.0.log_id, bytes: size_of_entry(&first.0), entries: vec![first] };
        while piece.entries.len() < MAX_BATCH_ENTRIES && piece.bytes < MAX_BATCH_BYTES {
            let std::task::Poll::Ready(Some(next)) = futures::poll!(entries.next()) else { break };
            let next = next?;
            piece.bytes += size_of_entry(&next.0);
            piece.last = next.0.log_id;
            piece.entries.push(next);
        }
        Ok(Some(piece))
    }
}

fn size_of_entry(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(Proposal(bytes)) => bytes.len(),
        _ => 0,
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.store.applied(), self.store.membership()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // Fused: taking what is ready may already have met the end.
        let mut entries = entries.fuse();
        while let Some(piece) = Piece::take(&mut entries).await? {
            let full = piece.entries.len() >= MAX_BATCH_ENTRIES || piece.bytes >= MAX_BATCH_BYTES;
            if !self.watermark.wait(piece.last.index).await {
                return Err(stopped(UNAPPLIED));
            }
            let decided = self.decide(piece);
            let (space, bytes) = (&self.store.shared.options.space, decided.sealed.batch.size_in_bytes() as u64);
            space.add_pending(bytes);
            if space.is_low() {
                self.wait_for_space(space, bytes).await?;
            }
            self.carry_out(decided);
            if full {
                // There is probably more: let requests that share this thread run in between.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(Builder { store: self.store.clone() })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFiles) -> Result<(), io::Error> {
        let (store, meta) = (self.store.clone(), meta.clone());
        blocking(move || store.install(&meta, &snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let current = self.store.shared.snapshots.current();
        Ok(current.map(|snapshot| Snapshot { meta: snapshot.meta().clone(), snapshot }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let store = self.store.clone();
        let (space, unflushed) = (store.space().clone(), || store.shared.database().unflushed());
        // A checkpoint flushes. It runs beside everything else, so it may as well wait; not on a thread of the pool, which
        // nothing could end.
        if !space.ready(Part::State, unflushed, "a snapshot flushes the state").await {
            return Err(stopped("no snapshot was made"));
        }
        let build = move || {
            let begun = Instant::now();
            let snapshot = store.shared.snapshots.build(&store.shared.database())?;
            store.worked(Work::Snapshot, begun.elapsed());
            Ok(snapshot)
        };
        let snapshot = blocking(build).await?;
        Ok(Snapshot { meta: snapshot.meta().clone(), snapshot })
    }
}

/// What a wait for space ends with when the member stops.
fn stopped(so: &str) -> io::Error {
    io::Error::other(format!("this member stops while it waits for disk space: {so}"))
}

/// Runs disk work beside the serving thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, io::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(ended) => Err(io::Error::other(ended)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_left_have_a_limit_and_those_that_left_just_now_stay() {
        let mut removed = BTreeSet::new();
        for id in (0..100).rev() {
            remember(&mut removed, vec![id, id + 1000], 10);
            assert!(removed.len() <= 10 && removed.contains(&id) && removed.contains(&(id + 1000)));
        }
    }
}
