//! Where the data lies, when a storage comes and goes, and other worlds a careful operator can make.

use super::*;
use crate::plan::Remains;

fn storage() -> Storage {
    Storage { id: "data/0".into(), location: "/srv/data/0".into() }
}

/// A healthy member whose data lies in the storage.
fn stored(units: &[u32]) -> Facts {
    let mut facts = healthy(units);
    let folder = storage().data_dir(&"/".into());
    facts.storage = Some(storage());
    facts.host.data_dir.clone_from(&folder);
    let config = facts.host.config.as_mut().unwrap();
    config.data_dir = folder;
    facts.host.service = Service::Running(Some(generation(facts.host.config.as_ref().unwrap(), "1")));
    facts
}

#[test]
fn the_data_goes_into_a_storage_that_is_there_before_the_first_start() {
    let mut facts = healthy(&[1]);
    facts.storage = Some(storage());
    facts.host = Host {
        config: None,
        data: false,
        data_dir: storage().data_dir(&"/".into()),
        service: Service::Stopped,
        ..facts.host
    };
    facts.store = Store::Unreachable;
    facts.presented.clear();
    peer(&mut facts).own = bag(1, false);
    let config = written(&facts);
    assert_eq!(config.data_dir, "/srv/data/0/etcd");
    assert_eq!(reconcile(&stored(&[1])).actions, []);
}

#[test]
fn a_storage_that_comes_later_moves_nothing_and_says_what_to_do() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.storage = Some(storage());
    let step = reconcile(&facts);
    assert_eq!(step.actions, []);
    assert_eq!(step.status.word(), Word::Blocked);
    let wanted = "data/0 is not used, the data is in /var/lib/etcd: add a unit with storage, then remove etcd/1";
    assert_eq!(step.status.sentence(false), wanted);
}

#[test]
fn a_storage_with_somebody_elses_data_is_not_started_on() {
    let mut facts = healthy(&[1]);
    facts.storage = Some(storage());
    facts.host =
        Host { config: None, data_dir: storage().data_dir(&"/".into()), service: Service::Stopped, ..facts.host };
    facts.store = Store::Unreachable;
    facts.presented.clear();
    peer(&mut facts).own = bag(1, false);
    let step = reconcile(&facts);
    assert_eq!(step.status, Status::ForeignData("/srv/data/0/etcd".into()));
    assert!(!step.actions.iter().any(|a| matches!(a, Action::StartService { .. } | Action::WriteConfig(_))));
}

#[test]
fn a_missing_storage_is_not_mistaken_for_lost_data() {
    let mut facts = stored(&[1, 2, 3]);
    facts.storage = None;
    facts.host = Host { data: false, data_dir: "/var/lib/etcd".into(), service: Service::Stopped, ..facts.host };
    let step = reconcile(&facts);
    assert_eq!(step.status, Status::StorageMissing("/srv/data/0/etcd".into()));
    assert!(!step.actions.iter().any(|a| matches!(a, Action::StartService { .. })));
}

#[test]
fn a_member_started_in_a_storage_that_is_gone_is_not_begun_anew_although_its_hook_crashed() {
    let mut facts = stored(&[1]);
    facts.storage = None;
    facts.store = Store::Unreachable;
    facts.host = Host { data: false, data_dir: "/var/lib/etcd".into(), service: Service::Stopped, ..facts.host };
    peer(&mut facts).own = bag(1, false);
    let step = reconcile(&facts);
    assert_eq!(step.status, Status::StorageMissing("/srv/data/0/etcd".into()));
    assert!(
        !step.actions.iter().any(|a| matches!(a, Action::StartService { .. } | Action::WriteConfig(_))),
        "{step:?}"
    );
}

#[test]
fn a_storage_with_the_data_is_given_up_only_by_a_unit_that_leaves() {
    let facts = stored(&[1, 2, 3]);
    let step = plan(&facts, &Event::Detaching);
    assert_eq!((step.actions.len(), step.hold), (0, true));
    assert_eq!(step.status, Status::StorageInUse("data/0".into(), unit(1)));

    let mut leaving = facts.clone();
    leaving.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    let step = plan(&leaving, &Event::Detaching);
    assert!(matches!(&step.actions[..], [Action::MoveLeader { .. }, Action::RemoveMember { id: 1, .. }]), "{step:?}");
    assert!(step.hold, "the hook must not end before the member has left");
    cluster(&mut leaving).members.remove(0);
    let step = plan(&leaving, &Event::Detaching);
    assert_eq!(step.actions[0], Action::StopService);
    assert!(!step.hold);

    let mut unused = healthy(&[1, 2, 3]);
    unused.storage = Some(storage());
    let step = plan(&unused, &Event::Detaching);
    assert_eq!((step.actions.len(), step.hold, step.status), (0, false, Status::Healthy));
}

#[test]
fn no_storage_is_let_go_while_juju_does_not_say_whether_the_unit_leaves() {
    // With the data in the storage, with the data elsewhere, and of a chosen unit that has not begun yet.
    let mut elsewhere = healthy(&[1, 2, 3]);
    elsewhere.storage = Some(storage());
    let mut unbegun = stored(&[1]);
    unbegun.host = Host { config: None, data: false, service: Service::Stopped, ..unbegun.host };
    unbegun.store = Store::Unreachable;
    unbegun.presented.clear();
    peer(&mut unbegun).own = bag(1, false);
    for mut facts in [stored(&[1, 2, 3]), elsewhere, unbegun] {
        facts.goal = None;
        let step = plan(&facts, &Event::Detaching);
        assert_eq!((step.actions, step.hold), (vec![], true));
        assert_eq!((step.status.word(), step.status), (Word::Waiting, Status::AwaitingGoal));
    }
}

#[test]
fn remove_deletes_only_what_this_member_of_this_cluster_owns() {
    let rows: [(&str, fn(&mut Facts), Remains); 5] = [
        ("its own", |_| {}, Remains::Deleted),
        ("its own, and nobody tells the token any more", |f| f.peer = None, Remains::Deleted),
        ("no settings", |f| f.host.config = None, Remains::Foreign("/var/lib/etcd".into())),
        (
            "of another cluster",
            |f| f.host.config.as_mut().unwrap().initial_cluster_token = "another".into(),
            Remains::Foreign("/var/lib/etcd".into()),
        ),
        (
            "of another unit",
            |f| f.host.config.as_mut().unwrap().name = "etcd7".into(),
            Remains::Foreign("/var/lib/etcd".into()),
        ),
    ];
    for (what, change, wanted) in rows {
        let mut facts = healthy(&[1, 2, 3]);
        facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
        cluster(&mut facts).members.remove(0);
        change(&mut facts);
        let step = plan(&facts, &Event::Remove);
        assert_eq!(step.actions.last(), Some(&Action::CleanHost { data: wanted }), "{what}");
    }
    // Without the relation the member is still found by its name.
    let mut facts = healthy(&[1, 2, 3]);
    facts.goal.as_mut().unwrap().insert(unit(1), Life::Dying);
    facts.peer = None;
    let step = plan(&facts, &Event::Remove);
    assert!(step.hold && matches!(step.actions.last(), Some(Action::RemoveMember { id: 1, .. })), "{step:?}");
}

#[test]
fn two_units_with_one_address_never_share_a_member_and_the_second_says_why() {
    let mut facts = healthy(&[1, 2]);
    facts.leader = false;
    facts.authorities = Authorities::Unasked;
    facts.host = Host { config: None, data: false, service: Service::Stopped, ..facts.host };
    peer(&mut facts).own = bag(1, false);
    peer(&mut facts).app.bootstrap = Some(unit(2));
    peer(&mut facts).units.get_mut(&unit(2)).unwrap().peer_url = Some(peer_url(1));
    cluster(&mut facts).members = vec![Member { peer_url: peer_url(1), ..member(2) }];
    let step = reconcile(&facts);
    assert_eq!(step.status.word(), Word::Blocked);
    assert!(step.status.sentence(false).contains("etcd/2 has the same address"), "{step:?}");
    assert!(!step.actions.iter().any(|a| matches!(a, Action::StartService { .. })));
}

#[test]
fn any_hook_starts_a_stopped_daemon_again() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.host.service = Service::Stopped;
    cluster(&mut facts).own_healthy = false;
    cluster(&mut facts).members[0].reachable = false;
    let step = reconcile(&facts);
    assert!(step.actions.iter().any(|action| matches!(action, Action::StartService { .. })), "{step:?}");
}

#[test]
fn a_newer_program_is_installed_at_once_and_started_in_turn() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.host.program = Program::Outdated;
    let step = reconcile(&facts);
    assert_eq!(step.actions.first(), Some(&Action::InstallProgram));
    assert!(!step.actions.iter().any(|action| matches!(action, Action::RestartService { .. })), "{step:?}");
    facts.host.program = Program::Current;
    facts.host.stamp = "2".into();
    let step = reconcile(&facts);
    assert_eq!(step.status, Status::AwaitingTurn);
    assert!(!step.actions.iter().any(|action| matches!(action, Action::RestartService { .. })), "{step:?}");
}
