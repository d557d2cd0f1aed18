use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

const MAX_LEAVING: usize = 64;

fn source(n: u32) -> Source {
    Source::V4(Ipv4Addr::from(n))
}

fn pool(connections: usize, bytes: usize) -> Pool {
    Pool::new(Limits { connections, bytes, each: 10, leaving: MAX_LEAVING })
}

fn gone(places: &[Option<Place>]) -> Vec<usize> {
    let gone = |place: &Option<Place>| place.as_ref().is_none_or(|place| place.evicted().is_cancelled());
    places.iter().enumerate().filter(|(_, place)| gone(place)).map(|(n, _)| n).collect()
}

#[test]
fn of_one_source_the_oldest_goes_and_never_the_newcomer() {
    let pool = pool(3, usize::MAX);
    let places: Vec<_> = (0..5).map(|_| pool.enter(source(1))).collect();
    assert_eq!(gone(&places), [0, 1]);
    assert_eq!((pool.len(), pool.leaving()), (3, 2));
    drop(places);
    assert_eq!((pool.len(), pool.leaving(), pool.bytes()), (0, 0, 0));
}

#[test]
fn a_source_that_holds_most_pays_for_the_newcomers_of_others() {
    let pool = pool(10, usize::MAX);
    let mut places: Vec<_> = (0..10).map(|_| pool.enter(source(1))).collect();
    places.extend((2..7).map(|n| pool.enter(source(n))));
    assert_eq!(gone(&places), [0, 1, 2, 3, 4]);
}

#[test]
fn of_many_sources_with_one_each_the_oldest_goes_whatever_its_address() {
    let pool = pool(3, usize::MAX);
    let places: Vec<_> = [9, 1, 5, 7, 2].into_iter().map(|n| pool.enter(source(n))).collect();
    assert_eq!(gone(&places), [0, 1]);
}

#[test]
fn whoever_holds_many_bytes_goes_before_those_who_hold_few() {
    let pool = pool(100, 100);
    let places: Vec<_> = (0..6).map(|n| pool.enter(source(n))).collect();
    let place = |n: usize| places[n].as_ref().expect("room");
    place(4).hold(30);
    assert_eq!((gone(&places), pool.bytes()), (Vec::<usize>::new(), 90));
    place(2).hold(15);
    assert_eq!((gone(&places), pool.bytes()), (vec![4], 65));
    place(2).hold(0);
    assert_eq!(pool.bytes(), 50);
}

#[test]
fn who_answers_stays_and_who_was_used_gets_a_second_chance() {
    let pool = pool(3, usize::MAX);
    let mut places: Vec<Arc<Place>> = (0..3).map(|_| Arc::new(pool.enter(source(1)).expect("room"))).collect();
    let answer = places[0].answering();
    places[1].used();
    places.push(Arc::new(pool.enter(source(1)).expect("room")));
    let gone = |places: &[Arc<Place>]| {
        let gone = |n: &usize| places[*n].evicted().is_cancelled();
        (0..places.len()).filter(gone).collect::<Vec<_>>()
    };
    assert_eq!(gone(&places), [2], "0 answers, 1 was used");
    places.push(Arc::new(pool.enter(source(1)).expect("room")));
    assert_eq!(gone(&places), [1, 2], "1 has had its second chance");
    drop(answer);
    places.push(Arc::new(pool.enter(source(1)).expect("room")));
    assert_eq!(gone(&places), [1, 2, 3]);
    places.push(Arc::new(pool.enter(source(1)).expect("room")));
    assert_eq!(gone(&places), [1, 2, 3, 4], "0 was filed again, at the end, when its answer ended");
}

/// Connections that answer, of these sources.
fn answering(pool: &Pool, sources: &[u32]) -> (Vec<Arc<Place>>, Vec<Answering>) {
    let enter = |n: &u32| {
        let place = Arc::new(pool.enter(source(*n)).expect("room"));
        let answer = place.answering();
        (place, answer)
    };
    sources.iter().map(enter).unzip()
}

#[test]
fn while_all_sources_have_as_many_that_answer_the_newcomer_is_refused() {
    let pool = pool(2, usize::MAX);
    let (_places, answers) = answering(&pool, &[1, 2]);
    assert!(pool.enter(source(3)).is_none());
    assert_eq!((pool.len(), pool.leaving()), (2, 0));
    drop(answers);
    assert!(pool.enter(source(3)).is_some());
}

#[test]
fn a_source_whose_connections_all_answer_keeps_no_other_source_out_and_pushes_none_out() {
    let pool = pool(10, usize::MAX);
    let (places, _answers) = answering(&pool, &[2, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    let gone = || places.iter().map(|place| place.evicted().is_cancelled()).collect::<Vec<_>>();
    assert!(pool.enter(source(1)).is_none(), "it has most already");
    let (more, _more_answers) = answering(&pool, &[3, 4, 3, 2, 3]);
    assert_eq!(gone(), [false, true, true, true, true, true, false, false, false, false]);
    assert!(more.iter().all(|place| !place.evicted().is_cancelled()));
    // 1 has four, 2 two, 3 three, 4 one.
    assert!(pool.enter(source(3)).is_none(), "it would have as many as the largest");
    assert!(pool.enter(source(4)).is_some());
    assert!(places[6].evicted().is_cancelled(), "of the largest the oldest goes");
}

#[test]
fn as_long_as_a_connection_is_idle_none_that_answers_goes() {
    let pool = pool(10, usize::MAX);
    let (places, _answers) = answering(&pool, &[1, 1, 1, 1, 1, 1, 1, 1, 1]);
    let idle = pool.enter(source(2)).expect("room");
    assert!(pool.enter(source(3)).is_some());
    assert!(idle.evicted().is_cancelled());
    assert!(places.iter().all(|place| !place.evicted().is_cancelled()));
}

#[test]
fn many_connections_go_before_one_that_holds_many_bytes_when_there_are_too_many_connections() {
    let pool = pool(10, 1000);
    let handshake = pool.enter(source(1)).expect("room");
    handshake.hold(500);
    let mut places: Vec<_> = (0..9).map(|_| pool.enter(source(2))).collect();
    places.extend((0..3).map(|n| pool.enter(source(n))));
    assert_eq!(gone(&places), [0, 1, 2]);
    assert!(!handshake.evicted().is_cancelled());
}

#[test]
fn whoever_holds_many_bytes_goes_also_while_it_answers() {
    let pool = Pool::new(Limits { connections: 10, bytes: 100, each: 0, leaving: MAX_LEAVING });
    let (places, _answers) = answering(&pool, &[1, 2, 3, 3, 3, 3]);
    places[0].hold(60);
    places[1].hold(30);
    places[2].hold(20);
    let gone: Vec<_> = places.iter().map(|place| place.evicted().is_cancelled()).collect();
    assert_eq!((gone, pool.bytes()), (vec![true, false, false, false, false, false], 50));
}

#[tokio::test]
async fn newcomers_wait_for_those_who_are_on_their_way_out() {
    let pool = pool(1, usize::MAX);
    let mut places: Vec<_> = (0..=MAX_LEAVING).map(|_| pool.enter(source(1))).collect();
    let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(pool.enter_soon(source(2)))).collect();
    for newcomer in &mut waiting {
        assert!(futures::poll!(newcomer).is_pending());
    }
    // One leaves, and the newcomer pushes another out: the second newcomer waits for that one.
    drop(places.remove(0));
    let first = waiting.remove(0).await.expect("a place");
    assert!(futures::poll!(&mut waiting[0]).is_pending());
    drop(places);
    assert!(waiting.remove(0).await.is_some());
    assert!(first.evicted().is_cancelled());
}

#[tokio::test]
async fn newcomers_do_not_wait_for_ever() {
    let pool = pool(1, usize::MAX);
    let _places: Vec<_> = (0..=MAX_LEAVING).map(|_| pool.enter(source(1))).collect();
    assert!(pool.enter_soon(source(1)).await.is_none());
}

#[test]
fn newcomers_are_refused_while_many_are_on_their_way_out() {
    let pool = pool(1, usize::MAX);
    let places: Vec<_> = (0..=MAX_LEAVING).map(|_| pool.enter(source(1))).collect();
    assert!(places.iter().all(Option::is_some));
    assert!(pool.enter(source(1)).is_none());
    drop(places);
    assert!(pool.enter(source(1)).is_some());
}

#[test]
fn a_source_is_what_one_party_is_given_at_least() {
    let of = |text: &str| Source::of(Some(text.parse::<IpAddr>().expect("an address")));
    assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
    assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_eq!(Source::of(None), Source::Local);
    assert_eq!(of("::1"), Source::V6((Ipv6Addr::LOCALHOST.to_bits() >> 64) as u64));
}

#[derive(Debug, Clone)]
enum Step {
    Enter(u32),
    Leave(usize),
    Hold(usize, usize),
    Use(usize),
    Answer(usize),
    Done(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..40usize;
    prop_oneof![
        4 => (0..5u32).prop_map(Step::Enter),
        2 => who.clone().prop_map(Step::Leave),
        2 => (who.clone(), 0..60usize).prop_map(|(who, more)| Step::Hold(who, more)),
        1 => who.clone().prop_map(Step::Use),
        1 => who.clone().prop_map(Step::Answer),
        1 => who.prop_map(Step::Done),
    ]
}

/// Everything the pool believes, reckoned from its holders; and its limits.
fn check(pool: &Pool) {
    let state = pool.inner.state.lock();
    assert_eq!(state.bytes, state.holders.values().map(|holder| holder.bytes).sum::<usize>());
    for (source, share) in &state.sources {
        let of = |holder: &&Holder| holder.source == *source;
        assert_eq!(share.connections, state.holders.values().filter(of).count(), "{source:?}");
        assert_eq!(share.connections, share.idle.len() + share.answering.len(), "{source:?}");
        let bytes: usize = state.holders.values().filter(of).map(|holder| holder.bytes).sum();
        assert_eq!(share.bytes, bytes, "{source:?}");
        let laden = state.holders.values().filter(of).filter(|holder| holder.bytes > 0).count();
        assert_eq!(share.laden.len(), laden, "{source:?}");
        let [idle, answering, laden] = share.ranks(*source);
        assert!(idle.is_none_or(|rank| state.idle.contains(&rank)));
        assert!(answering.is_none_or(|rank| state.answering.contains(&rank)));
        assert!(laden.is_none_or(|rank| state.laden.contains(&rank)));
    }
    for ranks in [&state.idle, &state.answering, &state.laden] {
        assert!(ranks.len() <= state.sources.len());
    }
    assert!(state.holders.len() <= pool.inner.limits.connections && state.bytes <= pool.inner.limits.bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_happens_the_limits_hold_and_the_books_balance(steps in proptest::collection::vec(step(), 1..120)) {
        let pool = pool(8, 300);
        let mut inside: Vec<Arc<Place>> = Vec::new();
        let mut answers: Vec<Answering> = Vec::new();
        for step in steps {
            let pick = |n: usize, of: usize| (of > 0).then(|| n % of);
            match step {
                Step::Enter(from) => {
                    let of = |from| pool.inner.state.lock().sources.get(&source(from)).map_or(0, |share| share.connections);
                    let (own, most) = (of(from), (0..5).map(of).max().unwrap_or(0));
                    let entered = pool.enter(source(from)).map(Arc::new);
                    prop_assert!(entered.is_some() || own + 1 >= most, "refused with {own}, another has {most}");
                    inside.extend(entered);
                }
                Step::Leave(n) => {
                    if let Some(n) = pick(n, inside.len()) {
                        let left = inside.swap_remove(n);
                        answers.retain(|answer| !Arc::ptr_eq(&answer.place, &left));
                    }
                }
                Step::Hold(n, more) => pick(n, inside.len()).into_iter().for_each(|n| inside[n].hold(more)),
                Step::Use(n) => pick(n, inside.len()).into_iter().for_each(|n| inside[n].used()),
                Step::Answer(n) => answers.extend(pick(n, inside.len()).map(|n| inside[n].answering())),
                Step::Done(n) => pick(n, answers.len()).into_iter().for_each(|n| drop(answers.swap_remove(n))),
            }
            check(&pool);
            prop_assert_eq!(pool.len() + pool.leaving(), inside.len());
        }
        drop((inside, answers));
        prop_assert_eq!((pool.len(), pool.leaving(), pool.bytes()), (0, 0, 0));
        prop_assert!(pool.inner.state.lock().sources.is_empty());
    }
}
