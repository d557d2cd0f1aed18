//! Bytes that a connection which has been let in holds of request heads that are not whole, told to its seat.
//!
//! A head may have 64 KiB, and thousands of connections may each stop one byte short of its end. What a connection holds
//! counts from [`FREE`] on, so that ordinary requests cost no lock. Bodies are not counted: whoever reads them bounds them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::admission::Place;

/// Bytes that are not worth telling.
const FREE: usize = 8 << 10;

/// See the head of the file. Clones are one account.
#[derive(Clone)]
pub struct Account {
    inner: Arc<Inner>,
}

struct Inner {
    seat: Arc<Place>,
    /// Requests being worked on or answered: what is read meanwhile is their bodies.
    requests: AtomicUsize,
    /// HTTP/1: bytes read since the last request was whole.
    head: AtomicUsize,
    /// HTTP/2: bytes of a header block that is being collected.
    block: AtomicUsize,
}

impl Account {
    pub fn new(seat: Arc<Place>) -> Self {
        let (requests, head, block) = Default::default();
        Self { inner: Arc::new(Inner { seat, requests, head, block }) }
    }

    /// Bytes of HTTP/1 arrived.
    pub fn read(&self, bytes: usize) {
        if self.inner.requests.load(Relaxed) == 0 {
            let before = self.inner.head.fetch_add(bytes, Relaxed);
            self.tell(before, before + bytes);
        }
    }

    /// So many bytes of HTTP/2 are collected now.
    pub fn collected(&self, bytes: usize) {
        let before = self.inner.block.swap(bytes, Relaxed);
        self.tell(before, bytes);
    }

    /// A whole request, which is worked on and answered until the guard is dropped.
    pub fn request(&self) -> Request {
        self.inner.seat.used();
        self.inner.requests.fetch_add(1, Relaxed);
        let head = self.inner.head.swap(0, Relaxed);
        self.tell(head, 0);
        Request { account: self.clone() }
    }

    fn tell(&self, before: usize, now: usize) {
        if before != now && before.max(now) > FREE {
            self.inner.seat.hold(self.inner.head.load(Relaxed) + self.inner.block.load(Relaxed));
        }
    }
}

/// See [`Account::request`].
pub struct Request {
    account: Account,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.account.inner.requests.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Limits, Pool, Source};

    #[test]
    fn heads_and_blocks_count_while_they_are_not_whole_and_bodies_never() {
        let pool = Pool::new(Limits { connections: 1, bytes: usize::MAX, each: 1, leaving: 1 });
        let account = Account::new(Arc::new(pool.enter(Source::Local).expect("room")));
        account.read(FREE);
        assert_eq!(pool.bytes(), 1, "too little to tell");
        account.read(100);
        assert_eq!(pool.bytes(), 1 + FREE + 100);
        let request = account.request();
        assert_eq!(pool.bytes(), 1);
        account.read(1 << 20);
        assert_eq!(pool.bytes(), 1, "a body");
        drop(request);
        account.collected(3 * FREE);
        assert_eq!(pool.bytes(), 1 + 3 * FREE);
        account.collected(0);
        assert_eq!(pool.bytes(), 1);
    }
}
