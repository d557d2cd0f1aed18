//! A unit that takes another's place: who leads meanwhile, whose member is whose, and that no second cluster
//! is ever begun.

use super::*;
use crate::plan::bootstrap::{begin_anew, is_gone};
use crate::plan::{Plan, Remains};
use crate::text::InitialCluster;

/// The leader etcd/1, the only member, is being removed; etcd/2 has published its requests.
fn replaced() -> Facts {
    let mut facts = healthy(&[1, 2]);
    facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    cluster(&mut facts).members.truncate(1);
    peer(&mut facts).app.certificates.retain(|(owner, _), _| *owner == unit(1));
    peer(&mut facts).units.insert(unit(2), bag(2, false));
    facts
}

fn learner(number: u32) -> Member {
    Member { name: MemberName::read(""), learner: true, reachable: false, healthy: false, ..member(number) }
}

/// etcd/2, which leads now that etcd/1 is gone with the only member.
fn bereft() -> Facts {
    let mut facts = healthy(&[1, 2]);
    facts.unit = unit(2);
    let peer = peer(&mut facts);
    let gone = std::mem::replace(&mut peer.own, bag(2, false));
    peer.units = BTreeMap::from([(unit(1), gone)]);
    facts.goal = Some(BTreeMap::from([(unit(2), Life::Alive)]));
    facts.store = Store::Unreachable;
    facts.ports.clear();
    facts.presented.clear();
    facts.host = Host { config: None, data: false, service: Service::Stopped, ..facts.host };
    facts
}

fn begins(step: &Plan) -> bool {
    let begins = |action: &Action| match action {
        Action::WriteConfig(config) => config.initial_cluster_state == "new",
        Action::PublishApp(AppChange::Bootstrap(_)) => true,
        _ => false,
    };
    step.actions.iter().any(begins)
}

#[test]
fn a_leaving_leader_with_the_only_copy_signs_for_its_successor_adds_it_and_then_ends_stop() {
    let mut facts = replaced();
    for event in [Event::Leaving, Event::Stop, Event::Reconcile] {
        let step = plan(&facts, &event);
        let issued = step.actions.iter().filter(|a| matches!(a, Action::Issue { unit: u, .. } if *u == unit(2)));
        assert_eq!(issued.count(), 2, "{event:?}: {step:?}");
    }
    assert_eq!(plan(&facts, &Event::Stop).status, Status::AwaitingSuccessor);
    assert!(plan(&facts, &Event::Stop).hold, "nothing that the successor needs is published yet");
    for side in Side::BOTH {
        peer(&mut facts).app.certificates.insert((unit(2), side), certificate(2, side));
    }
    let added = Action::AddLearner { unit: unit(2), peer_url: peer_url(2) };
    assert_eq!(plan(&facts, &Event::Stop).actions, [added]);
    cluster(&mut facts).members.push(learner(2));
    let step = plan(&facts, &Event::Stop);
    assert!(matches!(&step.actions[..], [Action::PublishApp(AppChange::Join(u, _))] if *u == unit(2)) && step.hold);
    let line = "etcd1=https://10.0.0.1:2380,etcd2=https://10.0.0.2:2380";
    peer(&mut facts).app.joins.insert(unit(2), line.into());
    let step = plan(&facts, &Event::Stop);
    assert_eq!((step.actions, step.hold, step.status), (vec![], false, Status::HandingOver));
}

#[test]
fn a_leaving_leader_publishes_a_step_that_reached_the_secret_only_because_nothing_is_signed_before() {
    let mut facts = replaced();
    facts.authorities = Authorities::Held(introduced());
    let published = Action::PublishApp(AppChange::Trust(introduced()));
    assert_eq!(plan(&facts, &Event::Stop).actions, [published]);
    peer(&mut facts).app.trust = Some(introduced());
    let step = plan(&facts, &Event::Stop);
    assert!(step.actions.iter().any(|action| matches!(action, Action::Issue { .. })), "{step:?}");
}

#[test]
fn remove_is_held_until_the_successor_votes_and_only_then_the_member_leaves_and_its_data_goes() {
    let mut facts = replaced();
    let step = plan(&facts, &Event::Remove);
    assert_eq!((step.hold, step.status), (true, Status::HoldsLastCopy(unit(1))), "stop was skipped");
    // What this hook itself has written reaches nobody while it is held.
    cluster(&mut facts).members.push(learner(2));
    peer(&mut facts).app.joins.insert(unit(2), "etcd2=https://10.0.0.2:2380".into());
    facts.done.app_written = true;
    assert_eq!(plan(&facts, &Event::Remove).status, Status::HoldsLastCopy(unit(1)));
    facts.done.app_written = false;
    cluster(&mut facts).members[1] = Member { learner: true, ..member(2) };
    let step = plan(&facts, &Event::Remove);
    assert_eq!((step.hold, step.status), (true, Status::HandingOver));
    cluster(&mut facts).members[1].learner = false;
    let step = plan(&facts, &Event::Remove);
    let remove = Action::RemoveMember { id: 1, name: "etcd1".into() };
    assert_eq!((step.actions, step.hold), (vec![Action::MoveLeader { to: 2 }, remove], true));
    cluster(&mut facts).members.remove(0);
    let step = plan(&facts, &Event::Remove);
    assert_eq!((step.actions.last(), step.hold), (Some(&Action::CleanHost { data: Remains::Deleted }), false));
}

#[test]
fn a_unit_that_has_left_ends_although_nobody_answers_and_one_that_has_not_is_held() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    facts.store = Store::Unreachable;
    facts.host.data = true;
    facts.host.service = Service::Stopped;
    assert!(plan(&facts, &Event::Remove).hold);
    peer(&mut facts).own.member = None;
    assert!(plan(&facts, &Event::Remove).hold, "the hook that started the member may have published nothing");
    let unheard = facts.store.clone();
    facts.store = healthy(&[2, 3]).store;
    let step = plan(&facts, &Event::Stop);
    let Some(Action::PublishUnit(bag)) = step.actions.iter().find(|a| matches!(a, Action::PublishUnit(_))) else {
        panic!("it does not say that it has left: {step:?}");
    };
    assert!(bag.left);
    peer(&mut facts).own = (**bag).clone();
    facts.store = unheard;
    let step = plan(&facts, &Event::Remove);
    assert_eq!((step.actions, step.hold), (vec![Action::CleanHost { data: Remains::SetAside }], false));
}

#[test]
fn no_unit_begins_a_second_cluster_whatever_became_of_the_first() {
    let rows: [(&str, fn(&mut Facts)); 5] = [
        ("the unit that began it is gone", |_| {}),
        ("its databag is gone too", |f| peer(f).units.clear()),
        ("it was added and never started", |f| {
            peer(f).app.joins.insert(unit(2), "etcd1=https://10.0.0.1:2380,etcd2=https://10.0.0.2:2380".into());
        }),
        ("others wait too", |f| {
            f.goal.as_mut().unwrap().insert(unit(3), Life::Alive);
            peer(f).units.insert(unit(3), bag(3, false));
        }),
        ("Juju does not say who exists", |f| f.goal = None),
    ];
    for (what, change) in rows {
        let mut facts = bereft();
        change(&mut facts);
        let step = plan(&facts, &Event::Reconcile);
        assert!(!begins(&step), "{what}: {step:?}");
        if facts.goal.is_some() {
            assert_eq!(step.status, Status::ClusterGone("etcd".into()), "{what}");
            assert_eq!(step.status.word(), Word::Blocked, "{what}");
        }
    }
}

#[test]
fn no_unit_is_chosen_and_none_begins_while_a_cluster_answers_or_a_databag_names_a_member() {
    // etcd/2 was chosen and can begin, but for what each row shows it.
    let mut chosen = bereft();
    peer(&mut chosen).units.clear();
    peer(&mut chosen).app.bootstrap = Some(unit(2));
    for side in Side::BOTH {
        chosen.host.pairs.get_mut(&side).unwrap().request = Some(request(2, side));
    }
    chosen.network = Some(Network { names: names(2), ..chosen.network.unwrap() });
    assert!(begins(&plan(&chosen, &Event::Reconcile)));
    let rows: [(&str, fn(&mut Facts)); 3] = [
        ("the cluster answers", |f| f.store = healthy(&[1, 3]).store),
        ("another unit has a member", |f| {
            f.goal.as_mut().unwrap().insert(unit(3), Life::Alive);
            peer(f).units.insert(unit(3), bag(3, true));
        }),
        ("another unit was told how to join", |f| {
            peer(f).app.joins.insert(unit(3), line(&[(1, 1), (3, 3)]));
        }),
    ];
    for (what, change) in rows {
        let mut facts = chosen.clone();
        change(&mut facts);
        assert!(!begins(&plan(&facts, &Event::Reconcile)), "{what}: it begins");
        peer(&mut facts).app.bootstrap = None;
        assert!(!begins(&plan(&facts, &Event::Reconcile)), "{what}: one is chosen");
    }
    peer(&mut chosen).app.bootstrap = None;
    assert!(begins(&plan(&chosen, &Event::Reconcile)), "nobody was chosen yet");
}

#[test]
fn a_leaving_unit_does_nothing_while_juju_does_not_say_which_units_exist() {
    // etcd/1 has parted from everybody: without goal-state it would take itself for the last one.
    let mut facts = healthy(&[1, 2, 3]);
    facts.goal = None;
    peer(&mut facts).units.clear();
    for (event, hold) in [(Event::Leaving, false), (Event::Stop, true), (Event::Remove, true)] {
        let step = plan(&facts, &event);
        assert_eq!((step.actions, step.hold), (vec![], hold), "{event:?}");
    }
}

#[test]
fn a_leader_needed_for_a_quorum_ends_stop_only_when_each_unit_that_stays_was_let_in() {
    // etcd/3 is dead, etcd/1 leads and leaves, etcd/4 is to repair the cluster.
    let mut facts = healthy(&[1, 2, 3, 4]);
    facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    cluster(&mut facts).members.truncate(3);
    cluster(&mut facts).members[2].reachable = false;
    peer(&mut facts).units.insert(unit(4), bag(4, false));
    let added = Action::AddLearner { unit: unit(4), peer_url: peer_url(4) };
    let step = plan(&facts, &Event::Stop);
    assert_eq!((step.actions, step.hold, step.status), (vec![added], true, Status::NeededForQuorum));
    let step = plan(&facts, &Event::Remove);
    assert_eq!((step.hold, step.status), (true, Status::LetsUnitsIn(unit(1))), "stop was skipped");
    cluster(&mut facts).members.push(learner(4));
    let step = plan(&facts, &Event::Stop);
    assert!(matches!(&step.actions[..], [Action::PublishApp(AppChange::Join(u, _))] if *u == unit(4)) && step.hold);
    peer(&mut facts).app.joins.insert(unit(4), line(&[(1, 1), (2, 2), (3, 3), (4, 4)]));
    facts.done.app_written = true;
    let step = plan(&facts, &Event::Stop);
    assert_eq!((step.actions, step.hold, step.status), (vec![], false, Status::NeededForQuorum));
    assert_eq!(plan(&facts, &Event::Remove).status, Status::LetsUnitsIn(unit(1)), "nobody hears of it yet");
    facts.done.app_written = false;
    assert_eq!(plan(&facts, &Event::Remove).status, Status::NeededForQuorum);
    // Of two newcomers the second cannot be added before the first has started, which needs what stop publishes.
    facts.goal.as_mut().unwrap().insert(unit(5), Life::Alive);
    peer(&mut facts).units.insert(unit(5), bag(5, false));
    assert!(plan(&facts, &Event::Stop).hold, "the first was told in an earlier hook and starts meanwhile");
    facts.done.app_written = true;
    assert!(!plan(&facts, &Event::Stop).hold);
}

#[test]
fn data_that_somebody_may_have_is_not_called_gone() {
    let rows: [(&str, fn(&mut Facts)); 5] = [
        ("the unit that began it is going", |f| {
            f.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
        }),
        ("another unit has a member", |f| {
            f.goal.as_mut().unwrap().insert(unit(3), Life::Dying);
            peer(f).units.insert(unit(3), bag(3, true));
        }),
        ("another unit was told how to join", |f| {
            f.goal.as_mut().unwrap().insert(unit(3), Life::Alive);
            peer(f).units.insert(unit(3), bag(3, false));
            peer(f).app.joins.insert(unit(3), "etcd3=https://10.0.0.3:2380".into());
        }),
        ("there is data here", |f| f.host.data = true),
        ("the cluster answers", |f| f.store = healthy(&[1, 2]).store),
    ];
    assert!(is_gone(&bereft().of_the_living()));
    for (what, change) in rows {
        let mut facts = bereft();
        change(&mut facts);
        assert!(!is_gone(&facts.of_the_living()), "{what}");
    }
}

#[test]
fn a_cluster_is_given_up_only_by_name_on_the_leader_and_when_nobody_else_has_its_data() {
    let rows: [(&str, &str, fn(&mut Facts)); 6] = [
        ("yes", "confirm", |_| {}),
        ("etcd", "leader", |f| f.leader = false),
        ("etcd", "no cluster has begun", |f| peer(f).app.bootstrap = None),
        ("etcd", "does not say which units", |f| f.goal = None),
        ("etcd", "the cluster answers", |f| f.store = healthy(&[1, 2]).store),
        ("etcd", "etcd/3 has a member", |f| {
            f.goal.as_mut().unwrap().insert(unit(3), Life::Alive);
            peer(f).units.insert(unit(3), bag(3, true));
        }),
    ];
    for (confirm, wanted, change) in rows {
        let mut facts = bereft();
        change(&mut facts);
        let refusal = begin_anew(&facts.of_the_living(), confirm).unwrap_err();
        assert!(refusal.contains(wanted), "{refusal}");
    }
}

#[test]
fn a_cluster_that_was_given_up_is_followed_by_one_with_another_token_and_its_old_members_are_strangers() {
    let mut facts = bereft();
    peer(&mut facts).app.joins.insert(unit(2), "etcd9=https://10.0.0.9:2380".into());
    let before = peer(&mut facts).app.token();
    let anew = begin_anew(&facts.clone().of_the_living(), "etcd").unwrap();
    assert_eq!(anew.changes, [AppChange::JoinEnds(unit(2)), AppChange::GivenUp(1), AppChange::Bootstrap(unit(2))]);
    let app = &mut peer(&mut facts).app;
    app.joins.clear();
    app.given_up = 1;
    app.bootstrap = Some(unit(2));
    assert_ne!(app.token(), before);
    for side in Side::BOTH {
        facts.host.pairs.get_mut(&side).unwrap().request = Some(request(2, side));
    }
    facts.network = Some(Network { names: names(2), ..facts.network.unwrap() });
    let step = plan(&facts, &Event::Reconcile);
    assert!(begins(&step), "{step:?}");
    let mut old = healthy(&[1, 2]);
    peer(&mut old).app.given_up = 1;
    assert_eq!(reconcile(&old).status, Status::ForeignData("/var/lib/etcd".into()));
}

/// etcd/1, whose member cannot reach a quorum, after its databags were written as `new-cluster` wants.
fn given_up() -> Facts {
    let mut facts = healthy(&[1]);
    facts.store = Store::Unreachable;
    let anew = begin_anew(&facts, "etcd").unwrap();
    peer(&mut facts).own = anew.own;
    peer(&mut facts).app.given_up = 1;
    facts
}

#[test]
fn the_data_of_a_cluster_that_was_given_up_is_set_aside_once_the_choice_is_kept_and_a_new_one_is_begun() {
    let mut facts = given_up();
    for event in [Event::Reconcile, Event::Leaving, Event::Stop, Event::Detaching, Event::Remove] {
        let step = plan(&facts, &event);
        assert_eq!(step.actions, [Action::StopService, Action::SetDataAside], "{event:?}");
        assert!(step.goes_on() && !step.hold, "{event:?}");
    }
    // The hook was killed after the first step, then after the second.
    facts.host.service = Service::Stopped;
    assert_eq!(reconcile(&facts).actions, [Action::SetDataAside]);
    facts.host.data = false;
    facts.presented.clear();
    let step = reconcile(&facts);
    assert!(begins(&step), "{step:?}");
    // The action was run twice before the hook.
    let mut twice = given_up();
    peer(&mut twice).app.given_up = 2;
    assert_eq!(reconcile(&twice).actions, [Action::StopService, Action::SetDataAside]);
}

#[test]
fn a_member_whose_first_companions_are_gone_is_stranded_only_while_no_other_unit_has_a_member() {
    // etcd/1 was told to join etcd/0, which is gone, and etcd/3 joined later.
    let mut facts = healthy(&[1, 3]);
    let config = facts.host.config.as_mut().unwrap();
    config.initial_cluster_state = "existing".into();
    config.initial_cluster = "etcd0=https://10.0.0.9:2380,etcd1=https://10.0.0.1:2380".into();
    facts.store = Store::Unreachable;
    facts.done.started = true;
    assert_eq!(reconcile(&facts).status, Status::Unhealthy, "etcd/3 may come back");
    assert!(begin_anew(&facts, "etcd").unwrap_err().contains("etcd/3 has a member with data"));
    peer(&mut facts).units.get_mut(&unit(3)).unwrap().member = None;
    assert_eq!(reconcile(&facts).status, Status::MembersGone("etcd".into()));
    assert!(begin_anew(&facts, "etcd").is_ok());
}

#[test]
fn a_cluster_is_not_given_up_by_a_unit_with_data_that_it_could_not_set_aside() {
    let mut facts = healthy(&[1]);
    facts.store = Store::Unreachable;
    let rows: [(&str, fn(&mut Facts)); 4] = [
        ("it is of another application", |f| f.host.config.as_mut().unwrap().initial_cluster_token = "other".into()),
        ("it is another unit's", |f| f.host.config.as_mut().unwrap().name = "etcd7".into()),
        ("it is elsewhere", |f| f.host.config.as_mut().unwrap().data_dir = "/srv/data/0/etcd".into()),
        ("no settings tell whose it is", |f| f.host.config = None),
    ];
    for (what, change) in rows {
        let mut facts = facts.clone();
        change(&mut facts);
        let refusal = begin_anew(&facts, "etcd").unwrap_err();
        assert_eq!(refusal, "/var/lib/etcd holds the data of another member: move it away first", "{what}");
        facts.host.data = false;
        assert!(begin_anew(&facts, "etcd").is_ok(), "{what}, and was moved away");
    }
    peer(&mut facts).app.given_up = 3;
    assert!(begin_anew(&facts, "etcd").is_ok(), "the data of an earlier cluster is set aside as well");
}

#[test]
fn data_is_not_set_aside_unless_this_unit_was_chosen_in_place_of_the_cluster_that_it_is_of() {
    let mut lost = healthy(&[1]);
    lost.store = Store::Unreachable;
    assert_eq!(reconcile(&lost).actions, [], "what the action published was not kept");
    let rows: [(&str, fn(&mut Facts)); 7] = [
        ("another unit was chosen", |f| peer(f).app.bootstrap = Some(unit(2))),
        ("it is of the present cluster", |f| {
            f.host.config.as_mut().unwrap().initial_cluster_token = "token-1".into();
        }),
        ("it is of another application", |f| f.host.config.as_mut().unwrap().initial_cluster_token = "other".into()),
        ("it is another unit's", |f| f.host.config.as_mut().unwrap().name = "etcd7".into()),
        ("it is elsewhere", |f| f.host.config.as_mut().unwrap().data_dir = "/srv/data/0/etcd".into()),
        ("no settings tell whose it is", |f| f.host.config = None),
        ("this unit has begun the new cluster, and its machine was put back", |f| peer(f).own.member = Some(2)),
    ];
    for (what, change) in rows {
        let mut facts = given_up();
        change(&mut facts);
        let step = reconcile(&facts);
        assert!(!step.actions.contains(&Action::SetDataAside) && !begins(&step), "{what}: {step:?}");
    }
}

#[test]
fn a_chosen_unit_gives_the_choice_back_as_it_leaves_only_when_it_cannot_have_started() {
    let unchosen = |facts: &Facts| {
        let given_back = Action::PublishApp(AppChange::Unchoose);
        [Event::Stop, Event::Remove].map(|event| plan(facts, &event).actions.contains(&given_back))
    };
    let mut facts = bereft();
    facts.goal = Some(BTreeMap::from([(unit(2), Life::Dying), (unit(3), Life::Alive)]));
    peer(&mut facts).app.bootstrap = Some(unit(2));
    assert_eq!(unchosen(&facts), [true; 2]);
    let rows: [(&str, fn(&mut Facts)); 7] = [
        ("another was chosen", |f| peer(f).app.bootstrap = Some(unit(3))),
        ("its member has left, and remove, which has cleaned the machine, runs again", |f| peer(f).own.left = true),
        ("another unit has a member", |f| {
            peer(f).units.insert(unit(3), bag(3, true));
        }),
        ("another unit was told how to join", |f| {
            peer(f).app.joins.insert(unit(3), "etcd2=https://10.0.0.2:2380,etcd3=https://10.0.0.3:2380".into());
        }),
        ("settings were written, so the member may have started in a storage that is gone", |f| {
            f.host.config = healthy(&[1]).host.config;
        }),
        ("it has a member", |f| peer(f).own.member = Some(2)),
        ("it may not write", |f| f.leader = false),
    ];
    for (what, change) in rows {
        let mut facts = facts.clone();
        change(&mut facts);
        assert_eq!(unchosen(&facts), [false; 2], "{what}");
    }
}

#[test]
fn a_unit_that_goal_state_no_longer_has_is_gone_whatever_its_databag_says() {
    // etcd/3 was on the machine that etcd/4 is on now; Juju goes on listing it.
    let mut facts = healthy(&[1, 2, 3, 4]);
    facts.goal.as_mut().unwrap().remove(&unit(3));
    cluster(&mut facts).members.truncate(2);
    let newcomer = UnitBag { peer_url: Some(peer_url(3)), ..bag(4, false) };
    peer(&mut facts).units.insert(unit(4), newcomer);
    peer(&mut facts).app.joins.insert(unit(3), line(&[(1, 1), (3, 3)]));
    let added = Action::AddLearner { unit: unit(4), peer_url: peer_url(3) };
    assert!(reconcile(&facts).actions.contains(&added));
    for id in [3, 7] {
        let mut facts = facts.clone();
        cluster(&mut facts).members.push(Member { id, ..learner(3) });
        let actions = reconcile(&facts).actions;
        assert!(!actions.iter().any(|a| matches!(a, Action::RemoveMember { .. })), "{actions:?}");
        assert!(actions.iter().any(|a| matches!(a, Action::PublishApp(AppChange::Join(u, _)) if *u == unit(4))));
    }
    // Nor does the newcomer take the one that is gone for a twin.
    facts.unit = unit(4);
    facts.leader = false;
    facts.authorities = Authorities::Unasked;
    facts.secret_revision = None;
    let address: std::net::IpAddr = "10.0.0.3".parse().unwrap();
    facts.network = Some(Network { bind: vec![address], ingress: address, names: names(1) });
    facts.host = Host { config: None, data: false, service: Service::Stopped, ..facts.host };
    let newcomer = peer(&mut facts).units.remove(&unit(4)).unwrap();
    peer(&mut facts).own = newcomer;
    assert_eq!(reconcile(&facts).status, Status::AwaitingJoin(unit(1)));
}

#[test]
fn an_address_alone_does_not_make_a_member_somebodys() {
    let mut facts = healthy(&[1, 2, 3]);
    cluster(&mut facts).members.truncate(2);
    // etcd/2 has started another member; that its URL is the same says nothing.
    let mut nameless = Member { id: 9, ..learner(2) };
    cluster(&mut facts).members.push(nameless.clone());
    let pruned = Action::RemoveMember { id: 9, name: MemberName::read("") };
    assert!(reconcile(&facts).actions.contains(&pruned));
    // Of two units with one address the wanted one is meant, then the one that it was laid down for.
    cluster(&mut facts).members.pop();
    nameless.peer_url = peer_url(3);
    cluster(&mut facts).members.push(nameless.clone());
    for number in [3, 4] {
        facts.goal.as_mut().unwrap().insert(unit(number), Life::Alive);
        peer(&mut facts).units.insert(unit(number), UnitBag { peer_url: Some(peer_url(3)), ..bag(number, false) });
    }
    let owner = |facts: &Facts| super::super::membership::unit_of(facts, &nameless);
    assert_eq!(owner(&facts), Some(unit(3)));
    peer(&mut facts).app.joins.insert(unit(4), line(&[(1, 1), (4, 3)]));
    assert_eq!(owner(&facts), Some(unit(4)));
    facts.goal.as_mut().unwrap().insert(unit(4), Life::Dying);
    assert_eq!(owner(&facts), Some(unit(3)));
    // A voter without a name may have voted already: nobody is told to begin in its place.
    cluster(&mut facts).members[2].learner = false;
    let actions = reconcile(&facts).actions;
    assert!(!actions.iter().any(|a| matches!(a, Action::PublishApp(AppChange::Join(..)))), "{actions:?}");
}

/// A static list of (unit, the unit whose address it has).
fn line(members: &[(u32, u32)]) -> InitialCluster {
    InitialCluster::of(members.iter().map(|(n, at)| (MemberName::read(&format!("etcd{n}")), peer_url(*at))).collect())
        .unwrap()
}
