//! A bounded set of connections, and which of them goes when there is one too many.
//!
//! What holds true: the limits are never exceeded by more than [`MAX_LEAVING`] connections that have been told to go.
//! Whoever must go comes from the source that holds most, so one source cannot push out another that holds less; within
//! that source the oldest goes, so a newcomer is not refused because others came first. A connection that is answering a
//! request stays; one that has been used since it was looked at last gets a second chance, as in the CLOCK algorithm,
//! which is why a request costs two atomic operations and no lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Connections that were told to go and are not gone yet; with more of them, newcomers are refused.
pub const MAX_LEAVING: usize = 64;

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
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    bytes: usize,
    leaving: usize,
    holders: HashMap<u64, Holder>,
    sources: HashMap<Source, Share>,
    /// The sources with somebody who can go: bytes of those, then the age of the oldest of them.
    ranks: BTreeSet<(usize, Reverse<u64>, Source)>,
}

#[derive(Debug)]
struct Holder {
    source: Source,
    bytes: usize,
    /// Its key in the queue of its source; `None` while it is known to be answering.
    order: Option<u64>,
    shared: Arc<Shared>,
}

/// What one source has in its queue.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    /// Ids, the first to go first.
    queue: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct Shared {
    evicted: CancellationToken,
    /// Answers under way.
    answering: AtomicUsize,
    /// Used since it was looked at last.
    used: AtomicBool,
    /// Taken out of its source's queue because it was answering.
    parked: AtomicBool,
}

impl Pool {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Self { inner: Arc::new(Inner { limits, state: Mutex::default() }) }
    }

    /// A place for a connection from `source`; another one is told to go if need be. `None`: all others are answering, or
    /// too many are still on their way out.
    pub fn enter(&self, source: Source) -> Option<Place> {
        let Inner { limits, state } = &*self.inner;
        let mut state = state.lock();
        if state.leaving >= MAX_LEAVING {
            return None;
        }
        let (id, shared) = (state.number(), Arc::<Shared>::default());
        state.bytes += limits.each;
        let holder = Holder { source, bytes: limits.each, order: None, shared: shared.clone() };
        state.holders.insert(id, holder);
        // Not in a queue yet: others go for the newcomer, if anybody does.
        let has_room = state.make_room(limits);
        if !has_room {
            state.remove(id);
            return None;
        }
        state.file(id);
        Some(Place { pool: self.clone(), id, shared })
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

    /// Connections that were told to go and are not gone yet.
    pub fn leaving(&self) -> usize {
        self.inner.state.lock().leaving
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

    /// Changes what a source has in its queue, and its rank with it.
    fn change(&mut self, source: Source, change: impl FnOnce(&mut Share)) {
        let share = self.sources.entry(source).or_default();
        if let Some(rank) = share.rank(source) {
            self.ranks.remove(&rank);
        }
        change(share);
        match share.rank(source) {
            Some(rank) => drop(self.ranks.insert(rank)),
            None => drop(self.sources.remove(&source)),
        }
    }

    /// Puts a holder at the end of its source's queue.
    fn file(&mut self, id: u64) {
        let order = self.number();
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.order = Some(order);
        let (source, bytes) = (holder.source, holder.bytes);
        self.change(source, |share| {
            share.bytes += bytes;
            share.queue.insert(order, id);
        });
    }

    /// Takes a holder out of its source's queue.
    fn unfile(&mut self, id: u64) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        let Some(order) = holder.order.take() else { return };
        let (source, bytes) = (holder.source, holder.bytes);
        self.change(source, |share| {
            share.bytes -= bytes;
            share.queue.remove(&order);
        });
    }

    fn remove(&mut self, id: u64) -> bool {
        self.unfile(id);
        let removed = self.holders.remove(&id);
        self.bytes -= removed.as_ref().map_or(0, |holder| holder.bytes);
        removed.is_some()
    }

    /// Tells connections to go until what is left is within the limits. False: nobody is left who can go.
    fn make_room(&mut self, limits: &Limits) -> bool {
        while self.holders.len() > limits.connections || self.bytes > limits.bytes {
            let Some((_, _, source)) = self.ranks.last() else { return false };
            let first = self.sources.get(source).and_then(|share| share.queue.values().next().copied());
            let Some(id) = first else { return false };
            let Some(shared) = self.holders.get(&id).map(|holder| holder.shared.clone()) else { return false };
            if shared.answering.load(SeqCst) > 0 {
                shared.parked.store(true, SeqCst);
                self.unfile(id);
                // It may have answered in between, and nobody was there to file it again.
                if shared.answering.load(SeqCst) == 0 && shared.parked.swap(false, SeqCst) {
                    self.file(id);
                }
            } else if shared.used.swap(false, SeqCst) {
                self.unfile(id);
                self.file(id);
            } else {
                self.remove(id);
                self.leaving += 1;
                shared.evicted.cancel();
            }
        }
        true
    }
}

impl Share {
    fn rank(&self, source: Source) -> Option<(usize, Reverse<u64>, Source)> {
        self.queue.keys().next().map(|oldest| (self.bytes, Reverse(*oldest), source))
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
        let Inner { limits, state } = &*self.pool.inner;
        let mut state = state.lock();
        let Some(holder) = state.holders.get_mut(&self.id) else { return };
        let (source, filed, before) = (holder.source, holder.order.is_some(), holder.bytes);
        let now = limits.each + more;
        holder.bytes = now;
        state.bytes = state.bytes - before + now;
        if filed {
            state.change(source, |share| share.bytes = share.bytes - before + now);
        }
        state.make_room(limits);
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
