//! Whose handshake is computed next.
//!
//! A whole ClientHello costs its sender nothing and this side a signature, up to milliseconds for a large RSA key. One is
//! computed at a time. Sources take turns, so one that sends thousands delays another by one; of one source the newest
//! goes first, because under a flood the oldest have given up or never meant it.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::pool::Source;

/// The queue. Clones are one queue.
#[derive(Clone, Default)]
pub struct Handshakes {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Somebody has the turn.
    taken: bool,
    /// Who waits, by source, the newest last.
    waiting: BTreeMap<Source, Vec<oneshot::Sender<Turn>>>,
    /// Whose turn it was last.
    last: Option<Source>,
}

/// The turn; dropping it passes it on.
pub struct Turn {
    queue: Handshakes,
}

impl Handshakes {
    /// Waits for the turn of a caller from `source`.
    pub async fn turn(&self, source: Source) -> Option<Turn> {
        let receiver = {
            let mut state = self.state.lock();
            if !state.taken {
                state.taken = true;
                state.last = Some(source);
                return Some(Turn { queue: self.clone() });
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.entry(source).or_default().push(sender);
            receiver
        };
        // The sender lives in the queue until it is used, and the queue lives in `self`.
        receiver.await.ok()
    }

    /// Takes the next one out of the queue; the turn is free if there is none.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = self.state.lock();
        loop {
            let after = state.last.map_or(Unbounded, Excluded);
            let first = state.waiting.range((after, Unbounded)).next().or_else(|| state.waiting.iter().next());
            let Some(source) = first.map(|(source, _)| *source) else {
                state.taken = false;
                return None;
            };
            let next = state.waiting.get_mut(&source).and_then(Vec::pop);
            if state.waiting.get(&source).is_some_and(Vec::is_empty) {
                state.waiting.remove(&source);
            }
            // Those who gave up do not count as their source's turn.
            if let Some(next) = next.filter(|next| !next.is_closed()) {
                state.last = Some(source);
                return Some(next);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Whoever was handed the turn and is gone drops it, which passes it on again.
        if let Some(next) = self.queue.next() {
            drop(next.send(Turn { queue: self.queue.clone() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(n: u32) -> Source {
        Source::V4(Ipv4Addr::from(n))
    }

    #[tokio::test]
    async fn sources_take_turns_and_of_one_source_the_newest_goes_first() {
        let queue = Handshakes::default();
        let first = queue.turn(source(1)).await.expect("free");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (n, from) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 3), (5, 2)] {
            let (queue, order) = (queue.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _turn = queue.turn(source(from)).await.expect("a turn");
                order.lock().push(n);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in tasks {
            task.await.expect("done");
        }
        assert_eq!(*order.lock(), [5, 4, 2, 3, 1, 0]);
        assert!(!queue.state.lock().taken);
    }

    #[tokio::test]
    async fn who_gives_up_is_passed_over_also_when_the_turn_was_on_its_way() {
        let queue = Handshakes::default();
        let first = queue.turn(source(1)).await.expect("free");
        let mut given_up = Box::pin(queue.turn(source(2)));
        let mut on_its_way = Box::pin(queue.turn(source(3)));
        let mut waiting = Box::pin(queue.turn(source(4)));
        for turn in [&mut given_up, &mut on_its_way, &mut waiting] {
            assert!(futures::poll!(turn).is_pending());
        }
        drop(given_up);
        drop(first);
        drop(on_its_way);
        assert!(waiting.await.is_some());
        assert!(!queue.state.lock().taken);
    }

    #[tokio::test]
    async fn dropping_ten_thousand_waiting_turns_does_not_nest() {
        let queue = Handshakes::default();
        let first = queue.turn(source(1)).await.expect("free");
        let mut waiting: Vec<_> = (0..10_000).map(|n| Box::pin(queue.turn(source(n)))).collect();
        for turn in &mut waiting {
            assert!(futures::poll!(turn).is_pending());
        }
        drop(first);
        drop(waiting);
        assert!(!queue.state.lock().taken);
    }
}
