//! Who joins, who leaves, and in which order.

use super::*;
use crate::plan::Remains;

#[test]
fn units_are_added_one_at_a_time_lowest_first_and_only_when_certified() {
    let mut facts = healthy(&[1, 2, 3]);
    cluster(&mut facts).members.truncate(1);
    for number in [2, 3] {
        peer(&mut facts).units.insert(unit(number), bag(number, false));
    }
    let adds = |facts: &Facts| -> Vec<Unit> {
        let actions = reconcile(facts).actions;
        let added = actions.iter().filter_map(|action| match action {
            Action::AddLearner { unit, .. } => Some(unit.clone()),
            _ => None,
        });
        added.collect()
    };
    assert_eq!(adds(&facts), [unit(2)]);
    peer(&mut facts).app.certificates.remove(&(unit(2), Side::Peer));
    assert_eq!(adds(&facts), [unit(3)]);
    let learner = Member { name: "".into(), learner: true, reachable: false, healthy: false, ..member(3) };
    cluster(&mut facts).members.push(learner);
    assert_eq!(adds(&facts), []);
}

#[test]
fn a_dead_member_does_not_keep_a_newcomer_out_while_a_quorum_would_remain() {
    let mut facts = healthy(&[1, 2, 3, 4]);
    cluster(&mut facts).members.truncate(3);
    peer(&mut facts).units.insert(unit(4), bag(4, false));
    let added = Action::AddLearner { unit: unit(4), peer_url: peer_url(4) };
    cluster(&mut facts).members[2].reachable = false;
    assert!(reconcile(&facts).actions.contains(&added));
    cluster(&mut facts).members[1].reachable = false;
    assert!(!reconcile(&facts).actions.contains(&added));
}

#[test]
fn a_joining_unit_is_told_the_whole_list_with_its_own_name() {
    let mut facts = healthy(&[1, 2]);
    peer(&mut facts).units.insert(unit(2), bag(2, false));
    cluster(&mut facts).members[1] =
        Member { name: "".into(), learner: true, reachable: false, healthy: false, ..member(2) };
    let line = "etcd1=https://10.0.0.1:2380,etcd2=https://10.0.0.2:2380".into();
    assert_eq!(reconcile(&facts).actions, [Action::PublishApp(AppChange::Join(unit(2), line))]);
}

#[test]
fn members_are_pruned_only_when_unwanted_and_dead_and_the_rest_can_go_on() {
    let rows: [(&str, fn(&mut Facts), bool); 6] = [
        ("wanted and dead", |f| cluster(f).members[2].reachable = false, false),
        (
            "leaving and alive",
            |f| {
                f.goal.as_mut().unwrap().insert(unit(3), Life::Dying);
            },
            false,
        ),
        (
            "leaving and dead",
            |f| {
                f.goal.as_mut().unwrap().insert(unit(3), Life::Dying);
                cluster(f).members[2].reachable = false;
            },
            true,
        ),
        (
            "gone",
            |f| {
                f.goal.as_mut().unwrap().remove(&unit(3));
            },
            true,
        ),
        (
            "gone, but another is dead too",
            |f| {
                f.goal.as_mut().unwrap().remove(&unit(3));
                cluster(f).members[1].reachable = false;
            },
            false,
        ),
        (
            "Juju does not say who exists",
            |f| {
                f.goal = None;
                peer(f).units.remove(&unit(3));
                cluster(f).members[2].reachable = false;
            },
            false,
        ),
    ];
    for (what, change, wanted) in rows {
        let mut facts = healthy(&[1, 2, 3]);
        change(&mut facts);
        let removal = Action::RemoveMember { id: 3, name: "etcd3".into() };
        assert_eq!(reconcile(&facts).actions.contains(&removal), wanted, "{what}");
    }
}

#[test]
fn a_follower_never_changes_the_member_list_nor_the_application_data() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.leader = false;
    facts.authorities = Authorities::Unasked;
    facts.goal.as_mut().unwrap().remove(&unit(3));
    peer(&mut facts).units.insert(unit(4), bag(4, false));
    facts.goal.as_mut().unwrap().insert(unit(4), Life::Alive);
    let actions = reconcile(&facts).actions;
    let leads = |action: &Action| {
        action.writes_app() || matches!(action, Action::AddLearner { .. } | Action::RemoveMember { .. })
    };
    assert!(!actions.iter().any(leads), "{actions:?}");
}

#[test]
fn a_leaving_member_hands_over_and_removes_itself_while_it_runs() {
    let mut facts = healthy(&[1, 2]);
    facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    for event in [Event::Leaving, Event::Stop] {
        let step = plan(&facts, &event);
        let remove = Action::RemoveMember { id: 1, name: "etcd1".into() };
        assert_eq!(step.actions, [Action::MoveLeader { to: 2 }, remove]);
        assert_eq!(step.hold, event == Event::Stop);
    }
    cluster(&mut facts).members.remove(0);
    let step = plan(&facts, &Event::Stop);
    assert_eq!(step.actions[0], Action::StopService);
    assert!(!step.hold);
}

#[test]
fn a_leaving_member_stays_while_it_holds_the_last_copy_or_is_needed_for_a_quorum() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    cluster(&mut facts).members[2].reachable = false;
    let step = plan(&facts, &Event::Remove);
    assert_eq!((step.actions.len(), step.hold, &step.status), (0, true, &Status::NeededForQuorum));
    facts.leader = false;
    let step = plan(&facts, &Event::Stop);
    assert_eq!((step.actions.len(), step.hold, step.status), (0, true, Status::NeededForQuorum));
    facts.leader = false;
    cluster(&mut facts).members.truncate(1);
    let step = plan(&facts, &Event::Stop);
    assert_eq!((step.actions.len(), step.hold, step.status), (0, true, Status::AwaitingSuccessor));
    assert!(!plan(&facts, &Event::Leaving).hold, "other hooks are still to come");
}

#[test]
fn a_leaving_member_whose_daemon_died_is_started_again_when_its_data_is_needed() {
    let mut facts = healthy(&[1, 2]);
    facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    facts.store = Store::Unreachable;
    facts.host.service = Service::Stopped;
    let step = plan(&facts, &Event::Stop);
    assert!(matches!(&step.actions[..], [Action::StartService { .. }]) && step.hold, "{step:?}");
}

#[test]
fn the_last_unit_and_a_whole_application_just_stop() {
    for units in [&[1][..], &[1, 2, 3]] {
        let mut facts = healthy(units);
        facts.goal.as_mut().unwrap().values_mut().for_each(|life| *life = Life::Dying);
        assert_eq!(plan(&facts, &Event::Leaving).actions, []);
        let step = plan(&facts, &Event::Stop);
        assert!(!step.hold);
        assert_eq!(step.actions[0], Action::StopService);
        let clean = plan(&facts, &Event::Remove);
        assert_eq!(clean.actions.last(), Some(&Action::CleanHost { data: Remains::SetAside }), "the last copy is kept");
    }
}

#[test]
fn a_changed_address_is_certified_again_and_corrected_in_the_member_list() {
    let mut facts = healthy(&[1, 2, 3]);
    let address: std::net::IpAddr = "10.0.0.99".parse().unwrap();
    let names = vec!["10.0.0.99".to_owned(), "etcd1".to_owned()];
    facts.network = Some(Network { bind: vec![address], ingress: address, names });
    let actions = reconcile(&facts).actions;
    assert_eq!(actions.iter().filter(|a| matches!(a, Action::MakeRequest { .. })).count(), 2);
    let corrected = Action::UpdatePeerUrl { id: 1, peer_url: "https://10.0.0.99:2380".into() };
    assert!(actions.contains(&corrected));
}

#[test]
fn what_was_published_for_a_dead_unit_is_forgotten_when_its_member_is_gone() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.goal.as_mut().unwrap().remove(&unit(3));
    let forget = Action::PublishApp(AppChange::Forget(unit(3)));
    assert!(!reconcile(&facts).actions.contains(&forget));
    cluster(&mut facts).members.truncate(2);
    assert!(reconcile(&facts).actions.contains(&forget));
}
