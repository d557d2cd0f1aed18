//! Turns at work that blocks a thread, handed out to sources in rotation.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{Address, Gone, Source, WAITING_PER_SOURCE, WhileWaiting};

/// Why work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// It had no turn before its deadline.
    Late,
    /// Too much of the same source waits already.
    TooMany,
    /// The member stops.
    Stopped,
}

/// Takes turns at one kind of work. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Lane(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    at_once: usize,
    by_address: bool,
    queue: Mutex<Queue>,
}

/// Who shares a turn of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Group {
    Address(Address),
    Source(Source),
}

#[derive(Debug, Default)]
struct Queue {
    running: usize,
    closed: bool,
    next_id: u64,
    /// Who waits; no group without one.
    waiting: HashMap<Group, Waiting>,
    /// The groups of `waiting`, the next one first.
    rotation: VecDeque<Group>,
}

/// Those of one group.
#[derive(Debug, Default)]
struct Waiting {
    /// By source and in the order they came; no source without one.
    sources: HashMap<Source, BTreeMap<u64, oneshot::Sender<Turn>>>,
    /// The sources, the next one first.
    rotation: VecDeque<Source>,
}

/// The right to work. It passes on when it is dropped.
#[derive(Debug)]
pub struct Turn {
    lane: Option<Lane>,
}

impl Lane {
    /// At most `at_once` pieces of work run at the same time; zero counts as one.
    pub fn new(at_once: usize) -> Self {
        Self::with(at_once, false)
    }

    /// The same, with turns handed out in rotation to addresses, and among the connections of one address in rotation.
    pub fn by_address(at_once: usize) -> Self {
        Self::with(at_once, true)
    }

    fn with(at_once: usize, by_address: bool) -> Self {
        Self(Arc::new(Shared { at_once: at_once.max(1), by_address, queue: Mutex::default() }))
    }

    fn group(&self, source: Source) -> Group {
        source.address.filter(|_| self.0.by_address).map_or(Group::Source(source), Group::Address)
    }

    /// How many have a turn.
    pub fn running(&self) -> usize {
        self.0.queue.lock().running
    }

    /// How many wait for one.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.0.queue.lock().waiting.values().flat_map(|group| group.sources.values()).map(BTreeMap::len).sum()
    }

    /// Waits for a turn until `deadline`, or as long as it takes.
    ///
    /// # Errors
    /// [`Undone`].
    pub async fn turn(&self, source: Source, deadline: Option<Instant>) -> Result<Turn, Undone> {
        let (mut place, told) = {
            let mut queue = self.0.queue.lock();
            if queue.closed {
                return Err(Undone::Stopped);
            }
            if queue.running < self.0.at_once {
                queue.running += 1;
                return Ok(Turn { lane: Some(self.clone()) });
            }
            let (tell, told) = oneshot::channel();
            let Some(id) = queue.wait(self.group(source), source, tell) else { return Err(Undone::TooMany) };
            (Place { lane: self, source, id: Some(id) }, told)
        };
        let turn = match deadline {
            Some(deadline) => timeout_at(deadline, told).await.map_err(|_elapsed| Undone::Late)?,
            None => told.await,
        };
        place.id = None;
        turn.map_err(|_closed| Undone::Stopped)
    }

    /// What `work` answers, on a thread of the pool, once it is its turn. Work that nobody waits for any more is told so and
    /// keeps its turn until it ends.
    ///
    /// # Errors
    /// [`Undone`].
    pub async fn run<T: Send + 'static>(
        &self,
        source: Source,
        deadline: Option<Instant>,
        work: impl FnOnce(&Gone) -> T + Send + 'static,
    ) -> Result<T, Undone> {
        let turn = self.turn(source, deadline).await?;
        turn.run(work).await.map(|(outcome, _turn)| outcome)
    }

    /// Nothing has a turn any more.
    #[cfg(test)]
    pub fn close(&self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        queue.waiting.clear();
        queue.rotation.clear();
    }
}

impl Turn {
    /// Runs `work` on a thread of the pool; gives the turn back with what it answers.
    ///
    /// # Errors
    /// [`Undone::Stopped`].
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce(&Gone) -> T + Send + 'static,
    ) -> Result<(T, Turn), Undone> {
        let gone = Gone::default();
        let waiting = WhileWaiting(gone.clone());
        let done = tokio::task::spawn_blocking(move || (work(&gone), self)).await;
        drop(waiting);
        done.map_err(|_stopped| Undone::Stopped)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            lane.pass_on();
        }
    }
}

impl Lane {
    /// Hands a turn to whoever is next.
    fn pass_on(&self) {
        let mut queue = self.0.queue.lock();
        while let Some(tell) = queue.next() {
            match tell.send(Turn { lane: Some(self.clone()) }) {
                Ok(()) => return,
                // Gave up this moment. Its turn must not be passed on from here by being dropped.
                Err(mut turn) => turn.lane = None,
            }
        }
        queue.running -= 1;
    }
}

impl Queue {
    fn wait(&mut self, group: Group, source: Source, tell: oneshot::Sender<Turn>) -> Option<u64> {
        let waiting = self.waiting.entry(group).or_default();
        let (first_of_group, of_source) = (waiting.sources.is_empty(), waiting.sources.entry(source).or_default());
        if of_source.len() >= WAITING_PER_SOURCE {
            return None;
        }
        if of_source.is_empty() {
            waiting.rotation.push_back(source);
        }
        if first_of_group {
            self.rotation.push_back(group);
        }
        let id = self.next_id;
        self.next_id += 1;
        of_source.insert(id, tell);
        Some(id)
    }

    /// Takes one of the group whose turn it is, which then goes to the back.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let group = self.rotation.pop_front()?;
        let waiting = self.waiting.get_mut(&group)?;
        let tell = waiting.next();
        if waiting.sources.is_empty() {
            self.waiting.remove(&group);
        } else {
            self.rotation.push_back(group);
        }
        tell
    }

    fn forget(&mut self, group: Group, source: Source, id: u64) {
        let Some(waiting) = self.waiting.get_mut(&group) else { return };
        waiting.forget(source, id);
        if waiting.sources.is_empty() {
            self.waiting.remove(&group);
            self.rotation.retain(|other| *other != group);
        }
    }
}

impl Waiting {
    /// Takes the oldest of the source whose turn it is, which then goes to the back.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let source = self.rotation.pop_front()?;
        let waiting = self.sources.get_mut(&source)?;
        let (_, tell) = waiting.pop_first()?;
        if waiting.is_empty() {
            self.sources.remove(&source);
        } else {
            self.rotation.push_back(source);
        }
        Some(tell)
    }

    fn forget(&mut self, source: Source, id: u64) {
        let Some(waiting) = self.sources.get_mut(&source) else { return };
        waiting.remove(&id);
        if waiting.is_empty() {
            self.sources.remove(&source);
            self.rotation.retain(|other| *other != source);
        }
    }
}

/// A place in the queue; dropping it leaves the queue.
struct Place<'l> {
    lane: &'l Lane,
    source: Source,
    id: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.lane.0.queue.lock().forget(self.lane.group(self.source), self.source, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc;
    use std::time::Duration;

    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    fn far() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(60))
    }

    #[tokio::test]
    async fn who_has_no_turn_before_his_deadline_is_told_so_and_nothing_is_done_for_him() {
        let lane = Lane::new(0);
        let (finish, finished) = mpsc::channel::<()>();
        let long = lane.run(Source::numbered(1), far(), move |_| finished.recv().is_ok());
        let late = async {
            let outcome = lane.run(Source::numbered(2), Some(Instant::now()), |_| panic!("it had no turn")).await;
            assert_eq!(lane.waiting(), 0, "it left the queue");
            finish.send(()).expect("the work waits");
            outcome
        };
        let (long, late) = tokio::join!(long, late);
        assert_eq!((long, late), (Ok(true), Err::<(), _>(Undone::Late)));
        assert_eq!(lane.run(Source::numbered(1), far(), |_| 7).await, Ok(7), "the turn is free again");
        lane.close();
        assert_eq!(lane.run(Source::numbered(1), far(), |_| 7).await, Err(Undone::Stopped));
    }

    #[tokio::test]
    async fn a_source_with_a_thousand_requests_delays_another_by_one_turn() {
        let lane = Lane::new(1);
        let first = lane.turn(Source::numbered(1), None).await.expect("free");
        let order = Mutex::new(Vec::new());
        let one = |source: usize| {
            let (lane, order) = (&lane, &order);
            async move {
                let turn = lane.turn(Source::numbered(source), None).await.expect("nobody stops");
                order.lock().push(source);
                drop(turn);
            }
        };
        let greedy = join_all((0..1000).map(|_| one(1)));
        let others = join_all([one(2), one(3)]);
        let run = async {
            // Everybody is in the queue, the greedy one first.
            tokio::task::yield_now().await;
            assert_eq!(lane.waiting(), 1002);
            drop(first);
        };
        tokio::join!(greedy, others, run);
        let order = order.into_inner();
        assert_eq!(order.len(), 1002);
        let place = |source| order.iter().position(|other| *other == source).expect("it had its turn");
        assert!(place(2) <= 2 && place(3) <= 3, "{:?}", &order[..5]);
        assert_eq!((lane.running(), lane.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn a_hundred_connections_of_an_address_delay_another_address_by_one_turn_where_addresses_count() {
        let lane = Lane::by_address(1);
        let from = |connection: usize, address: u32| Source::connection(connection, Address::V4(address.into()));
        let first = lane.turn(from(0, 1), None).await.expect("free");
        let order = Mutex::new(Vec::new());
        let one = |source: Source| {
            let (lane, order) = (&lane, &order);
            async move {
                let turn = lane.turn(source, None).await.expect("nobody stops");
                order.lock().push(source);
                drop(turn);
            }
        };
        let greedy = join_all((0..300).map(|n| one(from(n % 100, 1))));
        let others = join_all([one(from(100, 2)), one(Source::MEMBER), one(from(101, 2))]);
        let run = async {
            tokio::task::yield_now().await;
            assert_eq!(lane.waiting(), 303);
            drop(first);
        };
        tokio::join!(greedy, others, run);
        let order = order.into_inner();
        let place = |source| order.iter().position(|other| *other == source).expect("it had its turn");
        assert_eq!([place(from(100, 2)), place(Source::MEMBER), place(from(101, 2))], [1, 2, 4]);
        assert_eq!(order[5..105].iter().collect::<HashSet<_>>().len(), 100, "its connections take turns, too");
        assert_eq!((lane.running(), lane.waiting()), (0, 0));
        assert!(lane.0.queue.lock().rotation.is_empty());
    }

    #[tokio::test]
    async fn beyond_its_bound_a_source_is_refused_and_another_is_not() {
        let lane = Lane::new(1);
        let _turn = lane.turn(Source::numbered(1), None).await.expect("free");
        let waiting: Vec<_> = (0..WAITING_PER_SOURCE)
            .map(|_| {
                let lane = lane.clone();
                let mut waiting = Box::pin(async move { lane.turn(Source::numbered(1), None).await });
                assert!((&mut waiting).now_or_never().is_none());
                waiting
            })
            .collect();
        assert_eq!(lane.turn(Source::numbered(1), None).await.err(), Some(Undone::TooMany));
        assert_eq!(lane.turn(Source::numbered(2), Some(Instant::now())).await.err(), Some(Undone::Late));
        drop(waiting);
        assert_eq!((lane.running(), lane.waiting()), (1, 0), "whoever gave up left nothing behind");
    }

    #[tokio::test]
    async fn a_turn_that_reaches_somebody_who_just_gave_up_passes_on() {
        let lane = Lane::new(1);
        for round in 0..100 {
            let turn = lane.turn(Source::numbered(0), None).await.expect("free");
            let mut gives_up = Box::pin(lane.turn(Source::numbered(1), None));
            assert!((&mut gives_up).now_or_never().is_none());
            let mut stays = Box::pin(lane.turn(Source::numbered(2), None));
            assert!((&mut stays).now_or_never().is_none());
            // It has been told, and is dropped before it looks.
            drop(turn);
            drop(gives_up);
            let stays = stays.now_or_never().unwrap_or_else(|| panic!("round {round}: the turn was lost"));
            drop(stays.expect("open"));
            assert_eq!(lane.running(), 0);
        }
    }

    #[tokio::test]
    async fn work_that_runs_hears_that_its_caller_is_gone() {
        let lane = Lane::new(1);
        let (begun, has_begun) = oneshot::channel();
        let (ended, has_ended) = oneshot::channel();
        let run = lane.run(Source::numbered(1), None, move |gone| {
            begun.send(()).expect("the test waits");
            while !gone.is_gone() {
                std::thread::sleep(Duration::from_millis(1));
            }
            ended.send(()).expect("the test waits");
        });
        {
            let run = std::pin::pin!(run);
            tokio::select! {
                _ = run => panic!("it waits for ever"),
                begun = has_begun => begun.expect("it began"),
            }
        }
        tokio::time::timeout(Duration::from_secs(60), has_ended).await.expect("it hears").expect("it ends");
    }
}
