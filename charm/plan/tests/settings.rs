//! Options of the application, and when the daemon takes new ones.

use super::*;

#[test]
fn a_bad_option_blocks_by_name_and_the_old_value_keeps_running() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.options.insert("port".into(), json!(70_000));
    let step = reconcile(&facts);
    assert_eq!(step.actions, []);
    assert_eq!(step.status.word(), Word::Blocked);
    let wanted = "(leader) option port is 70000: set a port from 1024 to 65535 other than 2380";
    assert_eq!(step.status.sentence(true), wanted);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let rows = [
        ("port", json!(0)),
        ("port", json!(2380)),
        ("port", json!("2379")),
        ("heartbeat-interval", json!(0)),
        ("election-timeout", json!(499)),
        ("election-timeout", json!(50_001)),
        ("snapshot-count", json!(-1)),
        ("quota-backend-bytes", json!(-1)),
        ("auto-compaction-mode", json!("weekly")),
        ("auto-compaction-retention", json!("-1h")),
        ("auto-compaction-retention", json!("1h; reboot")),
        ("log-level", json!("loud\nlouder")),
    ];
    for (name, value) in rows {
        let bad = config::check(&BTreeMap::from([(name.to_owned(), value.clone())])).unwrap_err();
        assert_eq!(bad.name, name, "{value}");
        assert!(!bad.value.contains('\n'));
    }
}

#[test]
fn a_new_port_waits_for_its_turn_and_is_then_taken_with_leadership_moved_first() {
    let mut facts = healthy(&[1, 2, 3]);
    facts.options.insert("port".into(), json!(2381));
    let step = reconcile(&facts);
    assert_eq!(step.status, Status::AwaitingTurn);
    let Some(Action::PublishUnit(bag)) = step.actions.first() else { panic!("{step:?}") };
    let wanted = bag.restart.clone().unwrap();
    peer(&mut facts).own = (**bag).clone();
    let turn = AppChange::Turn(Some((unit(1), wanted.clone())));
    assert_eq!(reconcile(&facts).actions, [Action::PublishApp(turn)]);
    peer(&mut facts).app.turn = Some((unit(1), wanted.clone()));
    let actions = reconcile(&facts).actions;
    assert!(matches!(&actions[0], Action::MoveLeader { to: 2 | 3 }), "{actions:?}");
    assert!(matches!(&actions[1], Action::WriteConfig(config) if config.port() == 2381));
    assert_eq!(actions[2], Action::RestartService { generation: wanted });
}

#[test]
fn settings_on_disk_that_the_daemon_does_not_run_with_are_put_right_in_turn() {
    // A hook ended between writing a new port and the restart, and then the operator took the port back.
    let mut facts = healthy(&[1, 2, 3]);
    let Service::Running(Some(running)) = facts.host.service.clone() else { panic!("{:?}", facts.host.service) };
    let url = ClientUrl::at(facts.network.as_ref().unwrap().ingress, 2381);
    facts.host.config.as_mut().unwrap().advertise_client_urls = url;
    facts.host.config.as_mut().unwrap().options.port = 2381;
    let step = reconcile(&facts);
    assert_eq!(step.status, Status::AwaitingTurn);
    assert!(
        step.actions
            .iter()
            .any(|action| { matches!(action, Action::PublishUnit(bag) if bag.restart.as_ref() == Some(&running)) })
    );
    peer(&mut facts).app.turn = Some((unit(1), running.clone()));
    let actions = reconcile(&facts).actions;
    assert!(actions.iter().any(|action| matches!(action, Action::WriteConfig(config) if config.port() == 2379)));
    assert!(actions.contains(&Action::RestartService { generation: running }));
}

#[test]
fn a_unit_that_is_alone_has_the_turn_and_takes_a_new_setting_in_the_hook_that_brings_it() {
    for leader in [true, false] {
        let mut facts = healthy(&[1]);
        facts.leader = leader;
        if !leader {
            // Another unit that has no member yet leads.
            facts.authorities = Authorities::Unasked;
        }
        facts.options.insert("port".into(), json!(2381));
        let step = reconcile(&facts);
        let restarts = |action: &Action| matches!(action, Action::RestartService { .. });
        assert!(step.actions.iter().any(restarts), "leader: {leader}: {step:?}");
        assert!(step.actions.iter().all(|action| !matches!(action, Action::MoveLeader { .. })));
        assert_eq!(step.status, Status::Healthy);
    }
    // One that has another beside it has not, be that one still on its way.
    let mut facts = healthy(&[1, 2]);
    facts.options.insert("port".into(), json!(2381));
    cluster(&mut facts).members[1].learner = true;
    assert_eq!(reconcile(&facts).status, Status::AwaitingTurn);
}

#[test]
fn nobody_gets_a_turn_to_restart_while_a_member_is_down_or_another_has_it() {
    let mut facts = healthy(&[1, 2, 3]);
    peer(&mut facts).units.get_mut(&unit(2)).unwrap().restart = Some("g".into());
    let given = Action::PublishApp(AppChange::Turn(Some((unit(2), "g".into()))));
    assert!(reconcile(&facts).actions.contains(&given));
    cluster(&mut facts).members[2].reachable = false;
    assert!(!reconcile(&facts).actions.contains(&given));
    cluster(&mut facts).members[2].reachable = true;
    cluster(&mut facts).members[2].healthy = false;
    assert!(!reconcile(&facts).actions.contains(&given));
    cluster(&mut facts).members[2].healthy = true;
    peer(&mut facts).units.get_mut(&unit(3)).unwrap().restart = Some("h".into());
    peer(&mut facts).app.turn = Some((unit(3), "h".into()));
    assert!(!reconcile(&facts).actions.contains(&given));
}

#[test]
fn first_start_settings_are_kept_once_there_is_data() {
    let mut facts = healthy(&[1, 2, 3]);
    peer(&mut facts).app.joins.insert(unit(1), "etcd9=https://10.0.0.9:2380".into());
    assert_eq!(reconcile(&facts).actions, []);
}
