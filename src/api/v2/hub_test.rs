//! Who is woken, and for what: counted, not timed.

use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;
use crate::model::memory::MemoryView;
use crate::model::v2::WINDOW;
use crate::model::v2::types::Node;

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    fn wakes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn event(action: &str, key: &str, dir: bool, index: u64) -> Event {
    Event {
        action: action.to_owned(),
        node: Some(Node { key: key.to_owned().into(), dir, modified: index, ..Default::default() }),
        ..Default::default()
    }
}

fn wish(path: &str, recursive: bool, stream: bool, since: u64) -> Wish {
    Wish { path: path.to_owned().into(), recursive, stream, since }
}

fn wait(hub: &Arc<Hub>, wish: &Wish) -> Waiter {
    hub.wait(wish, MemoryView::default).expect("an empty window can be read")
}

fn poll(waiter: &mut Waiter, counter: &Arc<Counter>) -> Poll<Option<u64>> {
    let waker = Waker::from(counter.clone());
    waiter.poll_next(&mut Context::from_waker(&waker))
}

#[test]
fn of_ten_thousand_waiters_one_event_wakes_one() {
    let hub = Arc::new(Hub::default());
    let mut waiters: Vec<(Waiter, Arc<Counter>)> = (0..10_000)
        .map(|n| (wait(&hub, &wish(&format!("/app{n}"), true, false, 1)), Arc::new(Counter::default())))
        .collect();
    for (waiter, counter) in &mut waiters {
        assert_eq!(poll(waiter, counter), Poll::Pending);
    }
    hub.tell(&event("set", "/app7/x", false, 4));
    hub.tell(&event("set", "/other", false, 5));
    hub.tell(&event("set", "/app7/y", false, 6));
    let woken: Vec<usize> = (0..waiters.len()).filter(|&n| waiters[n].1.wakes() > 0).collect();
    assert_eq!(woken, [7], "and nobody else");
    assert_eq!(hub.stats().woken.load(Ordering::Relaxed), 1, "the second event found nobody: one answer is enough");
    let (waiter, counter) = &mut waiters[7];
    assert_eq!(counter.wakes(), 1);
    assert_eq!(poll(waiter, counter), Poll::Ready(Some(4)));
    assert_eq!(hub.stats().waiting.load(Ordering::Relaxed), 10_000);
    waiters.clear();
    assert_eq!(hub.stats().waiting.load(Ordering::Relaxed), 0);
    assert!(hub.inner.lock().waiters.is_empty());
}

#[test]
fn a_burst_wakes_a_stream_once_until_it_has_read() {
    let hub = Arc::new(Hub::default());
    let mut stream = wait(&hub, &wish("/a", false, true, 1));
    let counter = Arc::new(Counter::default());
    assert_eq!(poll(&mut stream, &counter), Poll::Pending);
    (4..50).for_each(|index| hub.tell(&event("set", "/a", false, index)));
    assert_eq!(counter.wakes(), 1);
    for index in 4..50 {
        assert_eq!(poll(&mut stream, &counter), Poll::Ready(Some(index)));
    }
    assert_eq!(poll(&mut stream, &counter), Poll::Pending);
}

#[test]
fn a_stream_behind_the_window_ends_and_holds_no_event() {
    let hub = Arc::new(Hub::default());
    let mut slow = wait(&hub, &wish("/a", false, true, 1));
    let mut quick = wait(&hub, &wish("/a", false, true, 1));
    let counter = Arc::new(Counter::default());
    for index in 1..=WINDOW + 1 {
        hub.tell(&event("set", "/a", false, index));
        assert_eq!(poll(&mut quick, &counter), Poll::Ready(Some(index)), "a slow stream holds up nobody");
    }
    assert_eq!(hub.stats().dropped.load(Ordering::Relaxed), 1);
    for index in 1..=WINDOW {
        assert_eq!(poll(&mut slow, &counter), Poll::Ready(Some(index)));
    }
    assert_eq!(poll(&mut slow, &counter), Poll::Ready(None), "an end, not a gap");
    assert!(hub.inner.lock().lines.len() <= LINES);
}

#[test]
fn the_past_comes_first_then_the_present_and_nothing_twice() {
    let hub = Arc::new(Hub::default());
    drop(wait(&hub, &wish("/a", false, false, 1)));
    for (index, key) in [(4, "/a"), (5, "/b"), (6, "/a/x"), (7, "/_h/a")] {
        hub.tell(&event("set", key, false, index));
    }
    let counter = Arc::new(Counter::default());
    let mut stream = wait(&hub, &wish("/a", true, true, 4));
    hub.tell(&event("set", "/a/y", false, 8));
    for index in [4, 6, 8] {
        assert_eq!(poll(&mut stream, &counter), Poll::Ready(Some(index)));
    }
    assert_eq!(poll(&mut stream, &counter), Poll::Pending);
    let mut one = wait(&hub, &wish("/", true, false, 7));
    assert_eq!(poll(&mut one, &counter), Poll::Ready(Some(8)), "what is hidden is hidden in the past too");
    assert_eq!(poll(&mut one, &counter), Poll::Ready(None));
    let mut later = wait(&hub, &wish("/a", true, false, 11));
    assert_eq!(poll(&mut later, &counter), Poll::Pending);
    (9..12).for_each(|index| hub.tell(&event("set", "/a", false, index)));
    assert_eq!(
        (counter.wakes(), poll(&mut later, &counter)),
        (2, Poll::Ready(Some(11))),
        "stream and later, once each"
    );
}

#[test]
fn a_deleted_directory_wakes_watchers_of_what_it_held_once() {
    let hub = Arc::new(Hub::default());
    let counter = Arc::new(Counter::default());
    let mut held = wait(&hub, &wish("/d/x", false, true, 1));
    let mut itself = wait(&hub, &wish("/d", true, true, 1));
    let mut never = wait(&hub, &wish("/d/never", false, true, 1));
    hub.tell(&Event { removed: vec!["/d/x".into()], ..event("delete", "/d", true, 9) });
    for waiter in [&mut held, &mut itself] {
        assert_eq!(poll(waiter, &counter), Poll::Ready(Some(9)));
        assert_eq!(poll(waiter, &counter), Poll::Pending, "not twice, as etcd tells the directory's own stream");
    }
    assert_eq!(poll(&mut never, &counter), Poll::Pending);
}

#[test]
fn a_snapshot_and_a_stop_end_every_response() {
    let hub = Arc::new(Hub::default());
    let counter = Arc::new(Counter::default());
    let mut waiter = wait(&hub, &wish("/a", false, true, 1));
    Moment::alone(|moment| hub.reset(1, -1, moment));
    assert_eq!(poll(&mut waiter, &counter), Poll::Ready(None));
    hub.close();
    assert_eq!(poll(&mut wait(&hub, &wish("/a", false, true, 1)), &counter), Poll::Ready(None));
}

#[test]
fn an_event_is_written_once_for_all_who_wait_for_it() {
    let hub = Arc::new(Hub::default());
    let _waiters = [wait(&hub, &wish("/a", false, true, 1)), wait(&hub, &wish("/a", false, true, 1))];
    hub.tell(&event("set", "/a", false, 4));
    let line = hub.line(4, || panic!("it was written when it happened"));
    assert!(line.is_some_and(|line| line.starts_with(b"{\"action\":\"set\"")));
    assert_eq!(hub.line(5, || None), None);
}

/// Another thread reads an index and waits from it: it is given the event of that index, and from the next one on it is
/// not given it again.
#[tokio::test]
async fn a_thread_that_read_an_index_waits_from_there_without_a_gap() {
    use crate::model::command::{Command, encode};
    use crate::model::v2::types::{Command as Change, Verb};
    use crate::raft::types::{Entry, Proposal};
    use openraft::storage::RaftStateMachine;
    use prost::Message;
    use std::sync::atomic::AtomicBool;

    let dir = tempfile::tempdir_in("/dev/shm").expect("a temporary directory");
    let watermark = crate::store::Watermark::already_durable();
    let (store, mut machine) =
        crate::store::open(dir.path(), crate::store::StoreOptions::default(), watermark).expect("a fresh state");
    let hub = Arc::new(Hub::default());
    store.subscribe(hub.clone());
    let mut set = |index: u64| {
        let change = Change { verb: Verb::Set as i32, path: "/a".into(), ..Change::default() };
        let bytes = encode(Command::V2(change.encode_to_vec().into()));
        let leader = openraft::vote::leader_id_std::CommittedLeaderId::new(1);
        let entry = Entry {
            log_id: openraft::LogId::new(leader, index),
            payload: openraft::EntryPayload::Normal(Proposal(bytes)),
        };
        futures::executor::block_on(machine.apply(futures::stream::iter([Ok((entry, None))]))).expect("applies");
    };
    set(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let counter = Arc::new(Counter::default());
            let mut rounds = 0;
            while !stop.load(Ordering::SeqCst) {
                let index = v2::index(&store.view()).expect("readable");
                let wish = |since, stream| Wish { path: "/".into(), recursive: true, stream, since };
                let begin = |wish| hub.wait(&wish, || store.view()).expect("readable");
                let mut waiters = [(begin(wish(index, true)), index), (begin(wish(index + 1, true)), index + 1)];
                if rounds % 8 == 0 {
                    // The window is read anew, as after a snapshot.
                    hub.inner.lock().past = None;
                }
                if v2::index(&store.view()).expect("readable") > index + WINDOW / 2 {
                    // This thread slept for so long that the window may have passed by what it read.
                    continue;
                }
                for (waiter, next) in &mut waiters {
                    while *next < index + 3 && !stop.load(Ordering::SeqCst) {
                        let Poll::Ready(got) = poll(waiter, &counter) else {
                            std::thread::yield_now();
                            continue;
                        };
                        // Behind by more than the window: let go.
                        let Some(got) = got else { break };
                        assert_eq!(got, *next, "waiting since what was read at {index}");
                        assert!(v2::index(&store.view()).expect("readable") >= *next, "told of what cannot be read");
                        *next += 1;
                    }
                }
                rounds += 1;
            }
            rounds
        });
        for index in 1..20_000 {
            set(index);
            if index % 100 == 0 {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::SeqCst);
        assert!(waiting.join().expect("no gap, nothing twice, nothing early") > 1);
    });
}
