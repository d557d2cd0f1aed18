//! The application's own status.

use super::*;
use crate::facts::Census;
use crate::plan::application::{Overall, overall};

/// What the leader tells in these facts, as `word sentence`.
fn told(facts: &Facts) -> String {
    let step = plan(facts, &Event::Reconcile);
    let Overall { word, sentence } = overall(facts, &step.status).unwrap();
    format!("{} {sentence}", word.text())
}

#[test]
fn only_the_leader_tells_and_what_it_tells_does_not_depend_on_who_it_is() {
    let mut facts = healthy(&[1, 2, 3]);
    assert_eq!(told(&facts), "active cluster is healthy: 3 of 3 members");
    facts.leader = false;
    facts.authorities = Authorities::Unasked;
    assert_eq!(overall(&facts, &Status::Healthy), None);
    for ill in 1..3 {
        let mut facts = healthy(&[1, 2, 3]);
        cluster(&mut facts).members[ill].healthy = false;
        assert_eq!(told(&facts), "blocked cluster is degraded: 1 of 3 members not healthy");
    }
}

#[test]
fn each_state_of_the_application_has_its_word_and_its_count() {
    let rows: [(&str, fn(&mut Facts), &str); 11] = [
        (
            "own member ill",
            |f| cluster(f).own_healthy = false,
            "blocked cluster is degraded: 1 of 3 members not healthy",
        ),
        (
            "all ill",
            |f| cluster(f).members.iter_mut().for_each(|member| member.healthy = false),
            "blocked cluster is unavailable: 3 of 3 members not healthy",
        ),
        (
            "no quorum",
            |f| {
                f.store = Store::Unreachable;
                f.census = Some(Census { members: 3, ill: 3 });
                f.done.started = true;
            },
            "blocked cluster is unavailable: 3 of 3 members not healthy",
        ),
        (
            "nobody answers, not even our own",
            |f| {
                f.store = Store::Unreachable;
                f.done.started = true;
            },
            "blocked etcd/1: cluster-health check failed... needs attention",
        ),
        (
            "a unit without a member",
            |f| {
                f.goal.as_mut().unwrap().insert(unit(4), Life::Alive);
            },
            "waiting cluster is healthy; 3 of 4 units have joined",
        ),
        (
            "a learner",
            |f| {
                cluster(f).members[2].learner = true;
                cluster(f).members[2].healthy = false;
            },
            "waiting cluster is healthy; 2 of 3 units have joined",
        ),
        (
            "an ill member whose unit leaves",
            |f| {
                f.goal.as_mut().unwrap().insert(unit(3), Life::Dying);
                cluster(f).members[2].healthy = false;
            },
            "active cluster is healthy: 2 of 2 members",
        ),
        (
            "an ill member whose unit is gone",
            |f| {
                f.goal.as_mut().unwrap().remove(&unit(3));
                cluster(f).members[2].healthy = false;
            },
            "active cluster is healthy: 2 of 2 members",
        ),
        (
            "a bad option",
            |f| {
                f.options.insert("port".into(), json!(70_000));
            },
            "blocked option port is 70000: set a port from 1024 to 65535 other than 2380",
        ),
        (
            "a storage that is not used",
            |f| f.storage = Some(Storage { id: "data/0".into(), location: "/srv".into() }),
            "blocked etcd/1: data/0 is not used, the data is in /var/lib/etcd: add a unit with storage, then remove \
             etcd/1",
        ),
        (
            "an authority that is replaced",
            |f| {
                f.authorities = Authorities::Held(introduced());
                peer(f).app.trust = Some(introduced());
            },
            "active cluster is healthy: 3 of 3 members; the new client authority waits for etcd/1, etcd/2 and 1 more",
        ),
    ];
    for (what, change, wanted) in rows {
        let mut facts = healthy(&[1, 2, 3]);
        change(&mut facts);
        assert_eq!(told(&facts), wanted, "{what}");
    }
}

#[test]
fn a_leader_that_leaves_speaks_for_those_who_stay_and_says_when_it_cannot_go() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    assert_eq!(told(&facts), "active cluster is healthy: 2 of 2 members");
    let refused = overall(&facts, &Status::HoldsLastCopy(unit(1))).unwrap();
    assert_eq!(refused.word, Word::Blocked);
    assert!(refused.sentence.starts_with("etcd/1: etcd/1 has the only copy of the data: "), "{}", refused.sentence);
    facts.goal.as_mut().unwrap().values_mut().for_each(|life| *life = Life::Dying);
    let stopped = overall(&facts, &Status::Stopped).unwrap();
    assert_eq!((stopped.word, stopped.sentence.as_str()), (Word::Maintenance, "etcd has stopped"));
}
