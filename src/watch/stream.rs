//! One client's watch stream: its watchers, their cursors, and the next message for it.
//!
//! A stream belongs to one task. Nothing here queues events: [`WatchStream::next`] computes the next message when the
//! task is ready to send it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::Interval;

use super::hub::{Hub, StreamId};
use super::index::Index;
use super::ring::Shared;
use super::step::{Cut, Step, allowance, read_history};
use crate::model::view::KeyRange;
use crate::store::HistoryError;
use crate::work::{FREE_ANSWER_BYTES, Grant, Source, WATCH_LEAST_BYTES, WATCH_STEP_BYTES, driven};

/// Revisions of history looked at per step of a catching-up watcher, so that others on the stream get their turn.
const CATCH_UP_REVISIONS: i64 = 10_000;
/// Deliveries (event × watcher) cut at one look; the rest stays where it is until these are sent.
const LOOK_DELIVERIES: usize = 64 * 1024;
/// How long a stream rests that may not even wait for its turn to read history.
const CROWDED: Duration = Duration::from_millis(100);

/// What a client asks of a new watcher.
#[derive(Debug, Clone)]
pub struct WatchCreate {
    /// Keys to watch, not empty.
    pub range: KeyRange,
    /// The client's choice of id; 0 = the stream picks.
    pub watch_id: i64,
    /// First revision wanted; 0 = from now on. Not negative.
    pub start_revision: i64,
    /// Whether empty messages tell of progress while nothing happens.
    pub progress_notify: bool,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
    /// Send the version before each event.
    pub prev_kv: bool,
    /// Large messages may be split; the edge does it.
    pub fragment: bool,
}

/// The answer to a successful create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// The watcher's id on its stream.
    pub watch_id: i64,
    /// Current revision, for the header.
    pub revision: i64,
}

/// Why a watcher was not created. The stream and its other watchers are untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CreateRefusal {
    /// The chosen id is in use.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
}

/// One message for the client, without cluster and member ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOutput {
    /// The watcher, or -1 for progress of the whole stream.
    pub watch_id: i64,
    /// For the header: the last revision covered, or of history the newest there was; 0 when overtaken by compaction.
    pub header_revision: i64,
    /// Whether the watcher is gone after this message.
    pub canceled: bool,
    /// Not 0 when the watcher ended because this revision was compacted away.
    pub compact_revision: i64,
    /// Encoded `mvccpb.Event` messages of whole revisions; empty = progress or the end.
    pub events: Vec<Bytes>,
    /// Whether the client accepts this message in pieces.
    pub fragment: bool,
}

impl WatchOutput {
    pub(super) fn events(watch_id: i64, header_revision: i64, events: Vec<Bytes>, fragment: bool) -> Self {
        Self { watch_id, header_revision, canceled: false, compact_revision: 0, events, fragment }
    }

    fn progress(watch_id: i64, header_revision: i64) -> Self {
        Self::events(watch_id, header_revision, Vec::new(), false)
    }

    fn compacted(watch_id: i64, compact_revision: i64) -> Self {
        Self { canceled: true, compact_revision, ..Self::progress(watch_id, 0) }
    }
}

#[derive(Debug)]
struct Watcher {
    wanted: WatchCreate,
    /// Everything below was delivered, did not match, or was not asked for.
    next: i64,
    /// Whether live events reach it; otherwise it reads history from `next` on.
    live: bool,
    /// Whether an event was sent since the last progress tick.
    active: bool,
    /// Its number among all that the stream ever had.
    born: u64,
}

impl Watcher {
    fn wants(&self, event: &Shared) -> bool {
        event.revision() >= self.next && !(if event.is_delete() { self.wanted.no_delete } else { self.wanted.no_put })
    }
}

/// A step of history on its way.
struct Reading {
    /// Whose turn it is.
    id: i64,
    /// Where it begins.
    from: i64,
    /// The compaction revision, and the current one, when it began.
    compacted: i64,
    current: i64,
    /// Watchers that the stream had had by then: it knows nothing of what later ones want.
    born: u64,
    step: ReadingStep,
}

type ReadingStep = Pin<Box<dyn Future<Output = Result<Step, HistoryError>> + Send>>;

/// The step that leads nowhere: the member stops.
fn nothing(hub: &Hub, from: i64) -> Step {
    Step::to(from - 1, hub.memory().owed(0))
}

/// How many bytes of events a look has found.
#[derive(Default)]
struct Looked {
    bytes: usize,
    grant: Option<Grant>,
}

impl Looked {
    /// Whether there is no room for more. A little is always looked at.
    fn is_full(&mut self, hub: &Hub) -> bool {
        if self.bytes < WATCH_LEAST_BYTES {
            return false;
        }
        if self.grant.is_none() {
            self.grant = hub.memory().take(WATCH_STEP_BYTES);
        }
        self.grant.as_ref().is_none_or(|grant| self.bytes >= grant.bytes())
    }

    fn into_grant(self, hub: &Hub) -> Option<Grant> {
        let mut grant = match self.grant {
            None if self.bytes <= FREE_ANSWER_BYTES => return None,
            grant => grant.unwrap_or_else(|| hub.memory().owed(0)),
        };
        grant.resize(self.bytes);
        Some(grant)
    }
}

/// One client's stream. See the module's head.
pub struct WatchStream {
    hub: Arc<Hub>,
    id: StreamId,
    wake: Arc<Notify>,
    watchers: HashMap<i64, Watcher>,
    /// Shared with a step of history that is being read.
    index: Arc<Index<i64>>,
    /// Ids of watchers that read history, taken in turn.
    behind: VecDeque<i64>,
    /// The step of history that is being read. It goes on while the client creates and cancels watchers.
    reading: Option<Reading>,
    /// Messages already cut; at most one per watcher and step.
    ready: VecDeque<WatchOutput>,
    /// For the events in `ready`.
    held: Option<Grant>,
    /// Whose turn it is when others read history too.
    source: Source,
    /// Watchers so far.
    born: u64,
    next_id: i64,
    /// Ids of watchers that a compaction ended. As in etcd they stay taken, and are freed, with an answer, by a cancel.
    ended: HashSet<i64>,
    /// Live watchers were shown every revision up to here.
    seen: i64,
    progress_wanted: bool,
    /// Runs once a watcher asked for periodic progress.
    ticker: Option<Interval>,
}

impl WatchStream {
    pub(super) fn new(hub: Arc<Hub>, id: StreamId, wake: Arc<Notify>, source: Source) -> Self {
        Self {
            hub,
            id,
            wake,
            watchers: HashMap::new(),
            index: Arc::default(),
            behind: VecDeque::new(),
            reading: None,
            ready: VecDeque::new(),
            held: None,
            source,
            born: 0,
            next_id: 0,
            ended: HashSet::new(),
            seen: 0,
            progress_wanted: false,
            ticker: None,
        }
    }

    /// The watchers and what each watches, in no order.
    pub fn ranges(&self) -> impl Iterator<Item = (i64, &KeyRange)> {
        self.watchers.iter().map(|(id, watcher)| (*id, &watcher.wanted.range))
    }

    /// Adds a watcher. The caller sends the `created` message before it asks for the next one.
    ///
    /// # Errors
    /// [`CreateRefusal::DuplicateId`]; nothing changed.
    pub fn create(&mut self, wanted: WatchCreate) -> Result<Created, CreateRefusal> {
        let watch_id = self.pick_id(wanted.watch_id)?;
        let mut state = self.hub.state();
        let revision = state.current;
        state.register(&wanted.range, self.id);
        drop(state);
        Arc::make_mut(&mut self.index).insert(&wanted.range, watch_id);
        let live = wanted.start_revision == 0 || wanted.start_revision > revision;
        let next = if wanted.start_revision == 0 { revision + 1 } else { wanted.start_revision };
        if !live {
            self.behind.push_back(watch_id);
            self.hub.stats().slow_watchers.fetch_add(1, Ordering::Relaxed);
        }
        if wanted.progress_notify && self.ticker.is_none() {
            self.ticker = Some(self.hub.progress_ticker());
        }
        self.watchers.insert(watch_id, Watcher { wanted, next, live, active: true, born: self.born });
        self.born += 1;
        self.hub.stats().watchers.fetch_add(1, Ordering::Relaxed);
        Ok(Created { watch_id, revision })
    }

    /// Ends a watcher; false when the stream has none of that id. No event of it follows.
    pub fn cancel(&mut self, watch_id: i64) -> bool {
        let known = self.remove(watch_id).is_some() || self.ended.remove(&watch_id);
        self.ready.retain(|message| message.watch_id != watch_id);
        known
    }

    /// Asks for one progress message of the whole stream. It is sent only if every watcher is caught up by the time all
    /// events before it are out; otherwise the wish is forgotten, as etcd does.
    pub fn request_progress(&mut self) {
        self.progress_wanted = !self.watchers.is_empty();
        self.wake.notify_one();
    }

    /// One tick of the progress timer: tells each caught-up watcher that asked and saw no event since the last tick.
    fn progress_tick(&mut self) {
        self.gather();
        let seen = self.seen;
        for (&id, watcher) in &mut self.watchers {
            if watcher.wanted.progress_notify && watcher.live && !watcher.active && watcher.next <= seen + 1 {
                self.ready.push_back(WatchOutput::progress(id, seen));
            }
            watcher.active = false;
        }
    }

    /// The next message for the client. Cancel-safe: a dropped call loses nothing.
    pub async fn next(&mut self) -> WatchOutput {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return message;
            }
            self.held = None;
            self.gather();
            if self.ready.is_empty() && !self.behind.is_empty() {
                self.catch_up().await;
                // History without a match cuts no message; other tasks of this thread must not wait for the end of it.
                tokio::task::yield_now().await;
            }
            self.answer_progress();
            if self.ready.is_empty() && self.behind.is_empty() {
                self.idle().await;
            }
        }
    }

    /// Waits for something to look at: an event, a wish, or the progress timer.
    async fn idle(&mut self) {
        let Some(ticker) = &mut self.ticker else { return self.wake.notified().await };
        tokio::select! {
            () = self.wake.notified() => {
                // A busy stream owes its quiet watchers their progress as well.
                if ticker.tick().now_or_never().is_some() {
                    self.progress_tick();
                }
            }
            _ = ticker.tick() => self.progress_tick(),
        }
    }

    fn pick_id(&mut self, chosen: i64) -> Result<i64, CreateRefusal> {
        let taken = |id: &i64| self.watchers.contains_key(id) || self.ended.contains(id);
        if chosen != 0 {
            return if taken(&chosen) { Err(CreateRefusal::DuplicateId) } else { Ok(chosen) };
        }
        let mut next_id = self.next_id;
        while taken(&next_id) {
            next_id += 1;
        }
        self.next_id = next_id;
        let id = self.next_id;
        self.next_id += 1;
        Ok(id)
    }

    fn remove(&mut self, watch_id: i64) -> Option<Watcher> {
        let watcher = self.watchers.remove(&watch_id)?;
        Arc::make_mut(&mut self.index).remove(&watcher.wanted.range, watch_id);
        self.hub.state().unregister(&watcher.wanted.range, self.id);
        if !watcher.live {
            self.behind.retain(|&id| id != watch_id);
            if self.behind.is_empty() {
                self.reading = None;
            }
            self.hub.stats().slow_watchers.fetch_sub(1, Ordering::Relaxed);
        }
        self.hub.stats().watchers.fetch_sub(1, Ordering::Relaxed);
        Some(watcher)
    }

    /// Shows live watchers everything published since the last look.
    fn gather(&mut self) {
        let mut state = self.hub.state();
        let look = state.look(self.id);
        self.seen = look.current;
        let Some(from) = look.dirty_from else { return };
        if from < state.ring.first() {
            drop(state);
            self.fall_behind(from);
            return;
        }
        let (mut cuts, mut deliveries): (BTreeMap<i64, Cut>, usize) = (BTreeMap::new(), 0);
        let (mut last, mut rest) = (from, None);
        let mut look = Looked::default();
        for event in state.ring.since(from) {
            let full = deliveries >= LOOK_DELIVERIES || look.is_full(&self.hub);
            if full && event.revision() != last {
                rest = Some(event.revision());
                break;
            }
            last = event.revision();
            let before = deliveries;
            let (watchers, cuts, ready) = (&self.watchers, &mut cuts, &mut self.ready);
            self.index.matches(event.key(), |id| {
                if let Some(watcher) = watchers.get(&id).filter(|watcher| watcher.live && watcher.wants(event)) {
                    let cut = cuts.entry(id).or_default();
                    if cut.is_full_before(event.revision()) {
                        let full = std::mem::take(cut);
                        ready.push_back(full.finish(id, watcher.wanted.fragment, None));
                    }
                    cut.add(event.revision(), event.encoded(watcher.wanted.prev_kv));
                    deliveries += 1;
                }
            });
            if deliveries > before {
                look.bytes += event.weight();
            }
        }
        self.held = look.into_grant(&self.hub).or(self.held.take());
        if let Some(rest) = rest {
            state.put_back(self.id, rest);
            self.seen = rest - 1;
        }
        drop(state);
        self.hub.stats().events.fetch_add(deliveries, Ordering::Relaxed);
        for (id, cut) in cuts {
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.active = true;
                watcher.next = self.seen + 1;
                self.ready.push_back(cut.finish(id, watcher.wanted.fragment, None));
            }
        }
    }

    /// The ring no longer reaches back to what live watchers have not seen: they read history from there.
    fn fall_behind(&mut self, from: i64) {
        for (&id, watcher) in self.watchers.iter_mut().filter(|(_, watcher)| watcher.live && watcher.next <= self.seen)
        {
            watcher.live = false;
            watcher.next = watcher.next.max(from);
            self.behind.push_back(id);
            self.hub.stats().slow_watchers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes the watcher whose turn it is one step forward, and every other one that is behind within that step: watchers
    /// that fell behind together read history once.
    async fn catch_up(&mut self) {
        if self.reading.is_none() {
            self.reading = self.begin_step();
        }
        // It stays where it is when this call is dropped, so it is read once and not once for each request of the client.
        let Some(reading) = &mut self.reading else { return };
        let outcome = reading.step.as_mut().await;
        let Some(reading) = self.reading.take() else { return };
        match outcome {
            Ok(step) => self.deliver(&reading, step),
            Err(HistoryError::Compacted(compacted)) => self.overtaken(reading.id, compacted, reading.born),
            Err(HistoryError::Store(error)) => {
                // The engine is failing; its own guard ends the process. Sending a gap would be worse than silence.
                tracing::error!(%error, watch_id = reading.id, "cannot read history for a watcher");
                self.wake.notified().await;
            }
        }
    }

    /// The next step, for the watcher whose turn it is; `None` when it needs none.
    fn begin_step(&mut self) -> Option<Reading> {
        let id = self.behind.front().copied()?;
        let from = self.watchers.get(&id)?.next;
        let (current, compacted) = {
            let state = self.hub.state();
            (state.current, state.compacted)
        };
        if from < compacted {
            self.overtaken(id, compacted, self.born);
            return None;
        }
        if from > current {
            self.caught_up(id, from);
            return None;
        }
        let to = current.min(from + CATCH_UP_REVISIONS - 1);
        Some(Reading { id, from, compacted, current, born: self.born, step: self.read(from, to) })
    }

    /// Reads the events of `from..=to` that any watcher matches, from the ring when it reaches back so far.
    fn read(&self, from: i64, to: i64) -> ReadingStep {
        {
            let state = self.hub.state();
            if from >= state.ring.first() {
                let mut step = Step::to(to, allowance(self.hub.memory()));
                for event in state.ring.since(from).take_while(|event| event.revision() <= to) {
                    if step.is_full_before(event.revision()) {
                        step.next = event.revision();
                        break;
                    }
                    if self.index.holds(event.key()) {
                        step.push(event.clone());
                    }
                }
                return Box::pin(std::future::ready(Ok(step)));
            }
        }
        let (hub, index, source) = (Arc::clone(&self.hub), Arc::clone(&self.index), self.source);
        // A task: this stream is asked for its next message only when its reader takes one, and a turn must not wait for that.
        let step = driven(async move {
            let store = hub.store().clone();
            let Ok(turn) = hub.readers().turn(source, None).await else {
                // As many streams of this connection wait already as may. Asking again at once would keep this thread busy.
                tokio::time::sleep(CROWDED).await;
                return Ok(nothing(&hub, from));
            };
            let grant = allowance(hub.memory());
            let read = turn.run(move |gone| read_history(&store, &index, (from, to), grant, gone)).await;
            read.map_or_else(|_stopped| Ok(nothing(&hub, from)), |(step, _turn)| step)
        });
        let hub = Arc::clone(&self.hub);
        Box::pin(async move { step.await.unwrap_or_else(|| Ok(nothing(&hub, from))) })
    }

    /// Cuts the messages of a step of history, for all who are behind within it and were there when it began. The header says how
    /// far the store was when it was read, as etcd's does. An event at the compaction revision goes without its previous
    /// value, which is compacted, as in etcd.
    fn deliver(&mut self, reading: &Reading, step: Step) {
        let &Reading { from, compacted, current, born, .. } = reading;
        let (mut cuts, mut deliveries): (BTreeMap<i64, Cut>, usize) = (BTreeMap::new(), 0);
        let (mut last, mut next) = (from, step.next);
        for event in &step.events {
            if deliveries >= LOOK_DELIVERIES && event.revision() != last {
                next = event.revision();
                break;
            }
            last = event.revision();
            let (watchers, cuts, ready) = (&self.watchers, &mut cuts, &mut self.ready);
            self.index.matches(event.key(), |id| {
                let met = |watcher: &&Watcher| !watcher.live && watcher.born < born && watcher.next >= from;
                let behind = |watcher: &&Watcher| met(watcher) && watcher.wants(event);
                if let Some(watcher) = watchers.get(&id).filter(behind) {
                    let cut = cuts.entry(id).or_default();
                    if cut.is_full_before(event.revision()) {
                        let full = std::mem::take(cut);
                        ready.push_back(full.finish(id, watcher.wanted.fragment, Some(current)));
                    }
                    let with_prev = watcher.wanted.prev_kv && event.revision() > compacted;
                    cut.add(event.revision(), event.encoded(with_prev));
                    deliveries += 1;
                }
            });
        }
        self.hub.stats().events.fetch_add(deliveries, Ordering::Relaxed);
        for (id, cut) in cuts {
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.active = true;
                self.ready.push_back(cut.finish(id, watcher.wanted.fragment, Some(current)));
            }
        }
        for id in &self.behind {
            let met = |watcher: &&mut Watcher| watcher.born < born && (from..next).contains(&watcher.next);
            if let Some(watcher) = self.watchers.get_mut(id).filter(met) {
                watcher.next = next;
            }
        }
        self.held = Some(step.into_grant());
        if self.behind.front() == Some(&reading.id) {
            self.behind.rotate_left(1);
        }
    }

    /// The watcher reached the present: from here live events serve it.
    fn caught_up(&mut self, id: i64, next: i64) {
        // Everything below `next` is delivered. What is published from now on marks this stream, and what was published
        // between is either below `next` or already marked, so no revision falls between.
        let Some(watcher) = self.watchers.get_mut(&id) else { return };
        watcher.live = true;
        watcher.next = next;
        debug_assert_eq!(self.behind.front(), Some(&id), "it is whose turn it is");
        self.behind.pop_front();
        self.hub.stats().slow_watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// A compaction came by the watcher, if it is still the one that was there before the stream had `born`.
    fn overtaken(&mut self, id: i64, compacted: i64, born: u64) {
        if self.watchers.get(&id).is_none_or(|watcher| watcher.born >= born) {
            return;
        }
        self.remove(id);
        self.ended.insert(id);
        self.ready.push_back(WatchOutput::compacted(id, compacted));
    }

    fn answer_progress(&mut self) {
        if !self.progress_wanted || !self.ready.is_empty() {
            return;
        }
        self.progress_wanted = false;
        let caught_up = |watcher: &Watcher| watcher.live && watcher.next <= self.seen + 1;
        if !self.watchers.is_empty() && self.watchers.values().all(caught_up) {
            self.ready.push_back(WatchOutput::progress(-1, self.seen));
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let slow = self.watchers.values().filter(|watcher| !watcher.live).count();
        self.hub.stats().slow_watchers.fetch_sub(slow, Ordering::Relaxed);
        self.hub.stats().watchers.fetch_sub(self.watchers.len(), Ordering::Relaxed);
        self.hub.close_stream(self.id, self.watchers.values().map(|watcher| watcher.wanted.range.clone()));
    }
}
