//! A bounded set of connections, and which of them goes when there is one too many.
//!
//! What holds true: the limits are never exceeded but by connections that have been told to go, of which there are at most
//! [`Limits::leaving`]. Who goes:
//!
//! * for a newcomer, when there are too many: the longest idle connection, of the source with most connections among those
//!   that have an idle one. One that has been used since it was last considered gets a second chance, as in the CLOCK
//!   algorithm, which is why a request costs two atomic operations and no lock;
//! * for a newcomer, when all are answering: the oldest of the source with most connections, if that has more than the
//!   newcomer's source, the newcomer included. So a source can neither keep others out nor push out one that holds less;
//! * when there are too many bytes: the oldest that holds any, of the source with most bytes, whatever it does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long a newcomer waits while too many are on their way out.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a caller comes from: what one party is given at least of the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// One IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: whoever has one address of them has all.
    V6(u64),
    /// This machine, by a unix socket.
    Local,
}

impl Source {
    /// The source of a caller; `None` is a unix socket.
    pub fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V4(address)) => Self::V4(address),
            Some(IpAddr::V6(address)) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// How much a pool holds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most connections.
    pub connections: usize,
    /// Most bytes that all of them hold.
    pub bytes: usize,
    /// Bytes that each holds from the beginning.
    pub each: usize,
    /// Connections that were told to go and are not gone yet; while there are as many, newcomers wait or are refused.
    pub leaving: usize,
}

/// See the head of the file. Clones are one pool.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    state: Mutex<State>,
    /// One that was told to go is gone.
    gone: Notify,
}

/// A number of a source, the age of the first of its connections that would go, and the source: the last one pays.
type Rank = (usize, Reverse<u64>, Source);

#[derive(Debug, Default)]
struct State {
    next: u64,
    bytes: usize,
    leaving: usize,
    holders: HashMap<u64, Holder>,
    sources: HashMap<Source, Share>,
    /// The sources with idle connections, by the number of all their connections.
    idle: BTreeSet<Rank>,
    /// The sources with connections that are known to be answering, by the same.
    answering: BTreeSet<Rank>,
    /// The sources with connections that hold bytes, by those bytes.
    laden: BTreeSet<Rank>,
}

#[derive(Debug)]
struct Holder {
    source: Source,
    bytes: usize,
    queue: Queue,
    shared: Arc<Shared>,
}

/// Where a connection stands among those of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// Nowhere: it is just entering, and others go for it.
    New,
    /// Among the idle, with this key.
    Idle(u64),
    /// Among those that answer.
    Answering,
}

/// What one source has.
#[derive(Debug, Default)]
struct Share {
    connections: usize,
    bytes: usize,
    /// Ids of the idle ones, the first to go first.
    idle: BTreeMap<u64, u64>,
    /// Ids of those that are known to be answering.
    answering: BTreeSet<u64>,
    /// Ids of those that hold bytes.
    laden: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    evicted: CancellationToken,
    /// Answers under way.
    answering: AtomicUsize,
    /// Used since it was looked at last.
    used: AtomicBool,
    /// Taken out of the idle ones because it was answering.
    parked: AtomicBool,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Self { inner: Arc::new(Inner { limits, state: Mutex::default(), gone: Notify::new() }) }
    }

    /// A place for a connection from `source`; another one is told to go if need be. `None`: all others are answering and
    /// no source has more of them, or too many are still on their way out.
    pub fn enter(&self, source: Source) -> Option<Place> {
        let Inner { limits, state, .. } = &*self.inner;
        let mut state = state.lock();
        if state.leaving >= limits.leaving {
            return None;
        }
        let (id, shared) = (state.number(), Arc::<Shared>::default());
        let holder = Holder { source, bytes: limits.each, queue: Queue::New, shared: shared.clone() };
        state.bytes += holder.bytes;
        state.change(source, |share| {
            share.connections += 1;
            share.bytes += limits.each;
        });
        state.holders.insert(id, holder);
        // In no queue yet: others go for the newcomer, if any do.
        if !state.make_room(limits, source) {
            state.remove(id);
            return None;
        }
        state.shed(limits);
        state.file(id);
        Some(Place { pool: self.clone(), id, shared })
    }

    /// The same, but with too many on their way out it waits for some of them to be gone, up to a second.
    pub async fn enter_soon(&self, source: Source) -> Option<Place> {
        let deadline = Instant::now() + PATIENCE;
        while self.leaving() >= self.inner.limits.leaving {
            if timeout_at(deadline, self.inner.gone.notified()).await.is_err() {
                break;
            }
        }
        let place = self.enter(source);
        // It may have needed nobody to go: then the next one that waits can enter, too.
        if self.leaving() < self.inner.limits.leaving {
            self.inner.gone.notify_one();
        }
        place
    }

    /// Whether so many are on their way out that they should hurry, and newcomers wait.
    pub fn is_crowded(&self) -> bool {
        self.leaving() * 2 >= self.inner.limits.leaving
    }

    fn leaving(&self) -> usize {
        self.inner.state.lock().leaving
    }

    #[cfg(test)]
    /// What it was made with.
    pub fn limits(&self) -> Limits {
        self.inner.limits
    }

    #[cfg(test)]
    /// Connections inside, without those that were told to go.
    pub fn len(&self) -> usize {
        self.inner.state.lock().holders.len()
    }

    #[cfg(test)]
    /// Bytes that the connections inside hold.
    pub fn bytes(&self) -> usize {
        self.inner.state.lock().bytes
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Changes what a source has, and its ranks with it.
    fn change(&mut self, source: Source, change: impl FnOnce(&mut Share)) {
        let share = self.sources.entry(source).or_default();
        let before = share.ranks(source);
        change(share);
        let after = share.ranks(source);
        if share.connections == 0 {
            self.sources.remove(&source);
        }
        let ranked = [&mut self.idle, &mut self.answering, &mut self.laden];
        for (ranked, (before, after)) in ranked.into_iter().zip(before.into_iter().zip(after)) {
            if before != after {
                if let Some(rank) = before {
                    ranked.remove(&rank);
                }
                ranked.extend(after);
            }
        }
    }

    /// Puts a holder into a queue of its source and takes it out of the one it was in.
    fn put(&mut self, id: u64, queue: Queue) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        let (source, before) = (holder.source, std::mem::replace(&mut holder.queue, queue));
        let is_laden = holder.bytes > 0 && queue != Queue::New;
        self.change(source, |share| {
            match before {
                Queue::New => false,
                Queue::Idle(order) => share.idle.remove(&order).is_some(),
                Queue::Answering => share.answering.remove(&id),
            };
            match queue {
                Queue::New => false,
                Queue::Idle(order) => share.idle.insert(order, id).is_some(),
                Queue::Answering => share.answering.insert(id),
            };
            share.bear(id, is_laden);
        });
    }

    /// Puts a holder at the end of the idle ones of its source.
    fn file(&mut self, id: u64) {
        let order = self.number();
        self.put(id, Queue::Idle(order));
    }

    fn remove(&mut self, id: u64) -> bool {
        self.put(id, Queue::New);
        let Some(holder) = self.holders.remove(&id) else { return false };
        self.bytes -= holder.bytes;
        self.change(holder.source, |share| {
            share.connections -= 1;
            share.bytes -= holder.bytes;
        });
        true
    }

    fn evict(&mut self, id: u64) {
        let Some(shared) = self.holders.get(&id).map(|holder| holder.shared.clone()) else { return };
        self.remove(id);
        self.leaving += 1;
        shared.evicted.cancel();
    }

    /// Tells connections to go until there are not too many. False: no connection may go for one of this source.
    fn make_room(&mut self, limits: &Limits, newcomer: Source) -> bool {
        while self.holders.len() > limits.connections {
            let Some(id) = self.longest_idle() else {
                let Some(id) = self.oldest_answering(newcomer) else { return false };
                self.evict(id);
                continue;
            };
            let Some(shared) = self.holders.get(&id).map(|holder| holder.shared.clone()) else { return false };
            if shared.answering.load(SeqCst) > 0 {
                shared.parked.store(true, SeqCst);
                self.put(id, Queue::Answering);
                // It may have answered in between, and not seen that it has to be filed again.
                if shared.answering.load(SeqCst) == 0 && shared.parked.swap(false, SeqCst) {
                    self.file(id);
                }
            } else if shared.used.swap(false, SeqCst) {
                self.file(id);
            } else {
                self.evict(id);
            }
        }
        true
    }

    fn longest_idle(&self) -> Option<u64> {
        let (_, _, source) = self.idle.last()?;
        self.sources.get(source)?.idle.values().next().copied()
    }

    /// Of the source with most connections, if it has more than `newcomer`.
    fn oldest_answering(&self, newcomer: Source) -> Option<u64> {
        let (connections, _, source) = self.answering.last()?;
        let own = self.sources.get(&newcomer).map_or(0, |share| share.connections);
        let oldest = self.sources.get(source)?.answering.first().copied();
        oldest.filter(|_| *connections > own)
    }

    /// Tells connections to go until they hold no more than they may.
    fn shed(&mut self, limits: &Limits) {
        while self.bytes > limits.bytes {
            let first = self.laden.last().and_then(|(_, _, source)| self.sources.get(source)?.laden.first().copied());
            let Some(id) = first else { return };
            self.evict(id);
        }
    }
}

impl Share {
    /// Among the idle, those that answer, and those that hold bytes.
    fn ranks(&self, source: Source) -> [Option<Rank>; 3] {
        let (connections, bytes) = (self.connections, self.bytes);
        let rank = |number, first: Option<&u64>| first.map(|first| (number, Reverse(*first), source));
        [
            rank(connections, self.idle.keys().next()),
            rank(connections, self.answering.first()),
            rank(bytes, self.laden.first()),
        ]
    }

    /// Whether this one of its connections holds bytes.
    fn bear(&mut self, id: u64, is_laden: bool) {
        if is_laden {
            self.laden.insert(id);
        } else {
            self.laden.remove(&id);
        }
    }
}

/// One connection's place; dropping it leaves the pool.
#[derive(Debug)]
pub struct Place {
    pool: Pool,
    id: u64,
    shared: Arc<Shared>,
}

impl Place {
    /// Cancelled when this connection must go.
    pub fn evicted(&self) -> CancellationToken {
        self.shared.evicted.clone()
    }

    /// From now on this connection holds `more` bytes beyond those of the beginning.
    pub fn hold(&self, more: usize) {
        let Inner { limits, state, .. } = &*self.pool.inner;
        let mut state = state.lock();
        let Some(holder) = state.holders.get_mut(&self.id) else { return };
        let (source, before, now) = (holder.source, holder.bytes, limits.each + more);
        holder.bytes = now;
        state.bytes = state.bytes - before + now;
        state.change(source, |share| {
            share.bytes = share.bytes - before + now;
            share.bear(self.id, now > 0);
        });
        state.shed(limits);
    }

    /// Whether so many are on their way out that this one, if it is one of them, should not take its time.
    pub fn is_crowded(&self) -> bool {
        self.pool.is_crowded()
    }

    /// A request arrived.
    pub fn used(&self) {
        self.shared.used.store(true, SeqCst);
    }

    /// An answer is under way until the guard is dropped.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.shared.answering.fetch_add(1, SeqCst);
        Answering { place: self.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.pool.inner.state.lock();
        if !state.remove(self.id) {
            state.leaving -= 1;
            drop(state);
            self.pool.inner.gone.notify_one();
        }
    }
}

/// See [`Place::answering`].
#[derive(Debug)]
pub struct Answering {
    place: Arc<Place>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        let shared = &self.place.shared;
        if shared.answering.fetch_sub(1, SeqCst) == 1 && shared.parked.swap(false, SeqCst) {
            self.place.pool.inner.state.lock().file(self.place.id);
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
