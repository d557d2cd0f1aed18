//! The read side of the store, for everybody: [`Store`].

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::RwLock;

use super::auth::AuthMark;
use super::database::Database;
use super::error::StoreError;
use super::events::{Event, EventSink, Work};
use super::housekeeper::Housekeeper;
use super::keys::HistoryRow;
use super::options::StoreOptions;
use super::records::log_id;
use super::size::{self, Size};
use super::snapshot::Snapshots;
use super::space::{Part, Space};
use super::view::{Era, StoreView};
use super::watermark::Watermark;
use super::{events, keys, leases};
use crate::model::auth::Auth;
use crate::model::view::Lease;
use crate::raft::types::{LogId, StoredMembership};

/// What the parts of the store share.
pub(super) struct Shared {
    /// The database in use; replaced by a snapshot install, and renewed by the compactor (see [`Era`]).
    pub era: ArcSwap<Era>,
    /// Weak, because sinks hold the store: whoever owns a sink decides how long it lives. Read-locked for as long as a
    /// batch is told, so that nobody joins in the middle of one.
    pub sinks: RwLock<Vec<Weak<dyn EventSink>>>,
    /// Index of the next entry to apply: one above the last applied, so that "nothing" is 0.
    pub applied_next: Watermark,
    /// Revisions below this are physically gone.
    pub dropped_below: Watermark,
    /// Whether authentication is on, and since which change.
    pub auth_mark: AuthMark,
    pub snapshots: Snapshots,
    pub state_dir: PathBuf,
    pub options: StoreOptions,
}

impl Shared {
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.era.load().database)
    }
}

/// The replicated state, readable from any thread. Clones share it; the state closes with the last clone and the
/// [`Machine`](super::machine::Machine).
#[derive(Clone)]
pub struct Store {
    // Before `shared`: its thread must have ended when the database closes.
    pub(super) housekeeper: Arc<Housekeeper>,
    pub(super) shared: Arc<Shared>,
}

/// Why a piece of history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The revisions asked for start below this compaction revision.
    #[error("required revision has been compacted (compaction revision {0})")]
    Compacted(i64),
    /// The state could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// The state of this moment, frozen.
    pub fn view(&self) -> StoreView {
        StoreView::new(self.shared.era.load_full())
    }

    /// Current revision; 1 on a new store.
    pub fn revision(&self) -> i64 {
        self.shared.era.load().database.marks.revision.load(Ordering::SeqCst)
    }

    /// Revision of the last compaction; -1 when there was none.
    pub fn compacted(&self) -> i64 {
        self.shared.era.load().database.marks.compacted.load(Ordering::SeqCst)
    }

    /// The last applied entry.
    pub fn applied(&self) -> Option<LogId> {
        self.shared.era.load().database.applied.lock().map(log_id)
    }

    /// The last applied membership and the entry that set it.
    pub fn membership(&self) -> StoredMembership {
        self.shared.era.load().database.facts.load().membership.clone()
    }

    /// Users, roles and permissions as they are now.
    pub fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.shared.era.load().database.facts.load().auth)
    }

    /// Whether authentication is on, and whether the auth store changed since one looked: one relaxed load.
    pub fn auth_mark(&self) -> &AuthMark {
        &self.shared.auth_mark
    }

    /// Whether authentication of the v2 API is on.
    pub fn v2_auth_is_on(&self) -> bool {
        self.shared.era.load().database.marks.v2_auth.load(Ordering::SeqCst)
    }

    /// Every id that was a member once and is no more. Such an id never comes back.
    pub fn removed(&self) -> BTreeSet<u64> {
        self.shared.era.load().database.facts.load().removed.clone()
    }

    /// Returns when the entry at `index` is applied and published; at once when it is already.
    pub async fn wait_applied(&self, index: u64) {
        self.shared.applied_next.wait(index.saturating_add(1)).await;
    }

    /// Every granted lease. Reads them all: for a new leader's timers, not for requests.
    pub fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        leases::all(&self.shared.database())
    }

    /// What the database is said to weigh; see `size.rs` for what that means.
    pub fn size(&self) -> Size {
        let era = self.shared.era.load();
        let in_use = era.database.in_use();
        let allocated = era.database.marks.allocated.load(Ordering::Acquire);
        Size { allocated: allocated.max(size::pages(in_use)), in_use }
    }

    /// What the file systems under this member have left.
    pub fn space(&self) -> &Space {
        &self.shared.options.space
    }

    /// Whether what is in memory could be flushed now.
    pub fn has_room_to_flush(&self) -> bool {
        self.shared.options.space.has_room(Part::State, self.shared.database().unflushed())
    }

    /// Adds a listener; it hears of every batch from now on. No batch is half told while this waits.
    pub fn subscribe(&self, sink: Arc<dyn EventSink>) {
        let mut sinks = self.shared.sinks.write();
        sink.subscribed(self.revision(), self.compacted());
        sinks.push(Arc::downgrade(&sink));
    }

    /// Calls `visit` with each change of the revisions `from..=to`, oldest first, until it breaks or `max_bytes` of
    /// events were visited; a revision is never cut in two by the limit. Returns the last revision whose changes were all
    /// visited (`from - 1` if none was). What was before a change is read, and told, only where `wanted` says so of the key.
    ///
    /// # Errors
    /// [`HistoryError::Compacted`] if `from` is below the compaction revision. At it all changes are there, but not what was
    /// before them.
    pub fn history(
        &self,
        from: i64,
        to: i64,
        max_bytes: usize,
        wanted: &dyn Fn(&[u8]) -> bool,
        visit: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<i64, HistoryError> {
        use crate::model::view::View;
        let view = self.view();
        if from < view.compacted() {
            return Err(HistoryError::Compacted(view.compacted()));
        }
        let to = to.min(view.revision());
        let end = keys::revision_key(to.saturating_add(1), 0);
        let mut rows = view.database().rows(keys::HISTORY, &keys::revision_key(from, 0), Some(&end));
        let (mut bytes, mut at, mut befores) = (0, from - 1, events::Befores::default());
        while let Some((key, row)) = rows.item() {
            let (revision, _) = keys::parse_revision(key).map_err(StoreError::from)?;
            if revision != at && bytes >= max_bytes && bytes > 0 {
                return Ok(revision - 1);
            }
            let row = HistoryRow::decode(row).map_err(StoreError::from)?;
            // What was before the compaction revision is compacted.
            let told = revision > view.compacted() && wanted(row.key);
            let before = if told { view.database().image_before(&row)? } else { None };
            let mut event = events::of_row(revision, &row, before).map_err(StoreError::from)?;
            bytes += event.event.len() + event.prev.as_ref().map_or(0, bytes::Bytes::len);
            at = revision;
            befores.settle(&mut event);
            if visit(event).is_break() {
                return Ok(revision - 1);
            }
            rows.next();
        }
        rows.status().map_err(StoreError::engine("read history"))?;
        Ok(to.max(from - 1))
    }

    /// Returns when old versions below compaction revision `revision` are really gone from this member. The compaction
    /// must have been applied, or be about to be.
    pub async fn compacted_physically(&self, revision: i64) {
        self.shared.dropped_below.wait(u64::try_from(revision).unwrap_or(0)).await;
    }

    /// Gives back what compaction freed: waits until it is dropped, merges what is left of it, and lets the allocated
    /// size fall to what is in use. Serves on meanwhile.
    pub async fn defragment(&self) -> Result<(), StoreError> {
        self.compacted_physically(self.compacted()).await;
        let (database, begun) = (self.shared.database(), Instant::now());
        let space = self.shared.options.space.clone();
        let work = tokio::task::spawn_blocking(move || database.defragment(&space));
        let done = work.await.unwrap_or_else(|stopped| std::panic::resume_unwind(stopped.into_panic()));
        self.worked(Work::Defragment, begun.elapsed());
        done
    }

    /// Tells the sinks how long something took.
    pub(super) fn worked(&self, work: Work, took: Duration) {
        for sink in self.shared.sinks.read().iter().filter_map(Weak::upgrade) {
            sink.worked(work, took);
        }
    }
}
