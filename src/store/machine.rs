//! The state machine under Raft: committed entries in, one atomic batch out.
//!
//! For each piece of the stream: wait until the local log holds it durably, ask the rules what every entry does, write all
//! effects together with the applied log id as one batch, move the marks, tell the sinks, answer the proposers. A failure
//! in there ends the process, because going on would diverge.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use super::database::{Database, Facts};
use super::error::{StoreError, fatal};
use super::events::{Batch, Encoded};
use super::keys::meta;
use super::overlay::{Overlay, Sealed};
use super::reader::Store;
use super::snapshot::SnapshotFiles;
use super::tail::Noted;
use super::watermark::Watermark;
use super::{records, size};
use crate::model::command;
use crate::model::effects::{Applied, Position, Response};
use crate::model::view::View;
use crate::raft::types::{Entry, LogId, Membership, Proposal, Reply, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries in one write batch, at most: also how long apply holds its thread before others run.
const MAX_BATCH_ENTRIES: usize = 512;
/// Proposal bytes in one write batch, at most (one larger entry still fits).
const MAX_BATCH_BYTES: usize = 4 << 20;
/// What an entry adds to the write batch beyond three times its own bytes; only sizes the first allocation.
const ROW_BYTES: usize = 256;

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

    /// Applies one piece of the log.
    fn apply_piece(&self, piece: Piece) {
        let database = self.store.shared.database();
        let mut overlay = Overlay::over(&database, piece.bytes * 3 + piece.entries.len() * ROW_BYTES);
        let mut answers = Vec::with_capacity(piece.entries.len());
        let mut facts = None;
        for (entry, responder) in piece.entries {
            let reply = apply_entry(&database, &mut overlay, &mut facts, entry);
            answers.extend(responder.map(|responder| (responder, reply)));
        }
        let last = (*piece.last.leader_id, piece.last.index);
        let mut sealed = overlay.seal(last);
        if commit(&database, &mut sealed, facts) {
            self.store.spiller.wake();
        }
        let batch = Batch {
            last: sealed.progress.revision,
            changes: sealed.changes,
            events: Encoded::default(),
            compacted: sealed.compacted,
            leases: sealed.leases,
            v2_events: sealed.v2_events,
            applied_index: piece.last.index,
        };
        self.publish(batch, answers);
    }

    /// Tells the sinks, then whoever waits for the applied index, then the proposers.
    fn publish(&self, batch: Batch, answers: Vec<Answer>) {
        let (applied_next, compacted) = (batch.applied_index + 1, batch.compacted.is_some());
        let batch = Arc::new(batch);
        for sink in self.store.shared.sinks.read().iter().filter_map(Weak::upgrade) {
            sink.publish(Arc::clone(&batch));
        }
        self.store.shared.applied_next.advance(applied_next);
        for (responder, reply) in answers {
            responder.send(reply);
        }
        if compacted {
            self.store.housekeeper.wake();
        }
    }
}

/// What one entry does, taken into the overlay, and its answer.
fn apply_entry(database: &Database, overlay: &mut Overlay<'_>, facts: &mut Option<Facts>, entry: Entry) -> Reply {
    let position = Position { term: *entry.log_id.leader_id, index: entry.log_id.index };
    let outcome = match entry.payload {
        EntryPayload::Blank => Ok(Response::None),
        EntryPayload::Normal(Proposal(bytes)) => {
            let (_, command) =
                command::decode(bytes).unwrap_or_else(|error| fatal("a committed entry is unusable", &error));
            let effects = crate::model::apply::apply(overlay, &command, position)
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
        facts.removed.extend(gone);
        overlay.put_meta(meta::REMOVED, &records::encode_ids(&facts.removed));
    }
    facts.membership = StoredMembership::new(Some(id), membership);
    overlay.put_meta(meta::MEMBERSHIP, &records::encode_membership(&facts.membership));
}

/// Writes the batch, notes its changes and moves the marks, in the order that readers rely on (see `database.rs`).
/// Returns whether there is something to spill.
fn commit(database: &Database, sealed: &mut Sealed, facts: Option<Facts>) -> bool {
    let marks = &database.marks;
    let progress = sealed.progress;
    marks.live.store(progress.live, Ordering::Release);
    marks.superseded.store(progress.superseded, Ordering::Release);
    let in_use = size::pages(database.in_use());
    if marks.allocated.fetch_max(in_use, Ordering::AcqRel) < in_use {
        let family = database.family(super::keys::META);
        sealed.batch.put_cf(family, meta::ALLOCATED, in_use.to_be_bytes());
    }
    let batch = std::mem::take(&mut sealed.batch);
    database.write(batch).unwrap_or_else(|error| fatal("the state could not be written", &error));
    let full = database.tail.note(noted(sealed));
    if facts.is_some() || sealed.alarms.is_some() || sealed.cluster_version.is_some() {
        let mut facts = facts.unwrap_or_else(|| Facts::clone(&database.facts.load()));
        facts.alarms = sealed.alarms.take().unwrap_or(facts.alarms);
        facts.cluster_version = sealed.cluster_version.take().unwrap_or(facts.cluster_version);
        database.facts.store(Arc::new(facts));
    }
    // Readers load these two in the opposite order, so a view's revision is never below its compaction revision.
    marks.revision.store(progress.revision, Ordering::SeqCst);
    if let Some(compacted) = sealed.compacted {
        marks.compacted.store(compacted, Ordering::SeqCst);
    }
    // Last: a linearizable read that finds its index applied takes its view at once.
    *database.applied.lock() = progress.applied;
    full
}

fn noted(sealed: &Sealed) -> impl Iterator<Item = Noted<'_>> {
    let mut last = (0, 0);
    sealed.changes.iter().zip(&sealed.rows).map(move |((main, change), row)| {
        last = if last.0 == *main { (*main, last.1 + 1) } else { (*main, 0) };
        Noted { key: &change.key, revision: last, after: change.after.as_ref(), history: *row }
    })
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
            self.watermark.wait(piece.last.index).await;
            self.apply_piece(piece);
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
        blocking(move || store.install(&meta, &snapshot)).await?;
        self.store.announce_reset();
        Ok(())
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
        let snapshot = blocking(move || store.shared.snapshots.build(&store.shared.database())).await?;
        Ok(Snapshot { meta: snapshot.meta().clone(), snapshot })
    }
}

/// Runs disk work beside the serving thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, io::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(stopped) => Err(io::Error::other(stopped)),
    }
}
