//! Replacing an authority: what is planned in each phase, and what holds a phase.

use super::super::rotation::{self, Step, Wait};
use super::*;

/// The leader etcd/1 of three units in a phase; everybody reports `reports`.
fn facts_in(trust: &Trust, reports: &Trust, issuer: u32) -> Facts {
    let mut facts = healthy(&[1, 2, 3]);
    let all = |side| (side, report(reports, side, issuer));
    peer(&mut facts).app.trust = Some(trust.clone());
    facts.authorities = Authorities::Held(trust.clone());
    facts.presented = Side::BOTH.map(all).into();
    peer(&mut facts).own.reports = Side::BOTH.map(all).into();
    for bag in peer(&mut facts).units.values_mut() {
        bag.reports = Side::BOTH.map(all).into();
    }
    for pair in facts.host.pairs.values_mut() {
        pair.trust = None;
    }
    for side in Side::BOTH {
        let pair = facts.host.pairs.get_mut(&side).unwrap();
        pair.trust = Some(trust.of(side).bundle());
        pair.report = report(reports, side, issuer);
        for number in [1, 2, 3] {
            let id = &trust.of(side).issuing.id;
            let certificate = peer(&mut facts).app.certificates.get_mut(&(unit(number), side)).unwrap();
            certificate.issuer = Some(id.clone());
            certificate.validity.until = 100_000 * DAY;
        }
    }
    facts
}

fn steps(facts: &Facts) -> Vec<(Side, Step)> {
    let plan = reconcile(facts);
    let rotate = plan.actions.iter().position(|action| matches!(action, Action::Rotate(_)));
    assert!(rotate.is_none_or(|at| at + 1 == plan.actions.len()), "a step comes last: {plan:?}");
    assert!(rotate.is_none() || !plan.goes_on(), "a step ends the hook");
    match plan.actions.into_iter().next_back() {
        Some(Action::Rotate(steps)) => steps,
        _ => Vec::new(),
    }
}

#[test]
fn nothing_is_replaced_before_two_thirds_of_an_authoritys_life() {
    let mut facts = facts_in(&trust(), &trust(), 1);
    facts.now = 3_650 * DAY / 3 * 2 - 1;
    assert_eq!(steps(&facts), []);
    facts.now += 1;
    let introduce = Step::Introduce { grace_days: rotation::AGED_GRACE_DAYS };
    assert_eq!(steps(&facts), [(Side::Server, introduce), (Side::Peer, introduce)]);
    facts.leader = false;
    facts.authorities = Authorities::Unasked;
    assert_eq!(steps(&facts), [], "only the leader begins");
}

#[test]
fn the_new_authority_signs_only_when_every_member_says_it_trusts_it() {
    let facts = facts_in(&introduced(), &introduced(), 1);
    assert_eq!(steps(&facts), [(Side::Peer, Step::Replace)], "clients have their grace first");
    let rows: [(&str, fn(&mut Facts)); 7] = [
        ("one unit is late", |f| {
            peer(f).units.get_mut(&unit(3)).unwrap().reports.insert(Side::Peer, report(&trust(), Side::Peer, 1));
        }),
        ("one unit has said nothing", |f| {
            peer(f).units.get_mut(&unit(3)).unwrap().reports.clear();
        }),
        ("one unit has not joined here", |f| {
            peer(f).units.remove(&unit(3));
        }),
        ("a member belongs to no unit", |f| {
            let stranger = Member { id: 9, name: "stranger".into(), learner: true, ..member(9) };
            cluster(f).members.push(stranger);
            f.goal = None;
        }),
        ("our own daemon has not taken it up", |f| {
            f.presented.insert(Side::Peer, report(&trust(), Side::Peer, 1));
        }),
        ("our own daemon does not answer and never said so", |f| {
            f.presented.clear();
            peer(f).own.reports.clear();
        }),
        ("the member list is unknown", |f| f.store = Store::Unreachable),
    ];
    for (what, change) in rows {
        let mut facts = facts.clone();
        change(&mut facts);
        facts.done.started = true;
        assert_eq!(steps(&facts), [], "{what}");
        assert!(rotation::waits_for(&facts, Side::Peer).is_some(), "{what}");
    }
}

#[test]
fn no_step_rests_on_what_the_same_hook_has_published() {
    let mut facts = facts_in(&replacing(), &introduced(), 2);
    facts.done.app_written = true;
    assert_eq!(steps(&facts), []);
}

#[test]
fn no_step_is_taken_in_a_plan_that_replaces_a_certificate() {
    // A leader that signed for itself, installed it and crashed shows what was never published.
    let mut facts = facts_in(&replacing(), &introduced(), 2);
    let published = peer(&mut facts).app.certificates.get_mut(&(unit(1), Side::Peer)).unwrap();
    published.issuer = Some("peer 1".into());
    published.pem = "published earlier".into();
    let step = reconcile(&facts);
    assert!(step.actions.iter().any(|action| matches!(action, Action::Issue { .. })), "{step:?}");
    assert_eq!(steps(&facts), []);
}

#[test]
fn nothing_is_said_that_will_not_hold_after_the_next_installation() {
    let facts = facts_in(&replacing(), &introduced(), 2);
    assert_eq!(rotation::own_report(&facts, Side::Peer), report(&introduced(), Side::Peer, 2));
    let rows: [(&str, fn(&mut Facts)); 2] = [
        ("the disk is behind the daemon", |f| {
            f.host.pairs.get_mut(&Side::Peer).unwrap().report.issuer = Some("peer 1".into());
        }),
        ("the daemon is behind the disk", |f| {
            f.presented.get_mut(&Side::Peer).unwrap().issuer = Some("peer 1".into());
        }),
    ];
    for (what, change) in rows {
        let mut facts = facts.clone();
        change(&mut facts);
        assert_eq!(rotation::own_report(&facts, Side::Peer).issuer, None, "{what}");
    }
}

#[test]
fn a_unit_does_not_go_back_to_a_certificate_of_an_authority_that_signs_no_more() {
    // It led, signed for itself, installed and reported that; then leadership moved, and Juju kept the report alone.
    let mut facts = facts_in(&replacing(), &introduced(), 2);
    facts.leader = false;
    facts.authorities = Authorities::Unasked;
    let published = peer(&mut facts).app.certificates.get_mut(&(unit(1), Side::Peer)).unwrap();
    published.pem = "published earlier".into();
    published.issuer = Some("peer 1".into());
    let installs = |facts: &Facts| {
        let install = |action: &Action| matches!(action, Action::InstallCertificate { side: Side::Peer, .. });
        reconcile(facts).actions.iter().any(install)
    };
    assert!(!installs(&facts));
    assert_eq!(rotation::own_report(&facts, Side::Peer), report(&introduced(), Side::Peer, 2));
    peer(&mut facts).app.certificates.get_mut(&(unit(1), Side::Peer)).unwrap().issuer = Some("peer 2".into());
    assert!(installs(&facts), "what the next leader has signed is taken");
}

#[test]
fn a_stopped_daemon_counts_by_what_it_will_read_from_its_disk() {
    let mut facts = facts_in(&introduced(), &introduced(), 1);
    facts.host.service = Service::Stopped;
    facts.presented.clear();
    facts.done.started = true;
    assert_eq!(steps(&facts), [(Side::Peer, Step::Replace)]);
    facts.host.pairs.get_mut(&Side::Peer).unwrap().report = report(&trust(), Side::Peer, 1);
    assert_eq!(steps(&facts), []);
}

#[test]
fn a_unit_that_is_not_yet_a_member_holds_nothing_up() {
    let mut facts = facts_in(&introduced(), &introduced(), 1);
    facts.goal.as_mut().unwrap().insert(unit(4), Life::Alive);
    peer(&mut facts).units.insert(unit(4), UnitBag::default());
    assert_eq!(steps(&facts), [(Side::Peer, Step::Replace)]);
}

#[test]
fn clients_have_their_grace_from_when_all_members_trust_the_new_authority() {
    let mut facts = facts_in(&introduced(), &introduced(), 1);
    let until = facts.now + 7 * DAY;
    let deadline = Action::PublishApp(AppChange::Deadline(Side::Server, Some(until)));
    assert!(reconcile(&facts).actions.contains(&deadline));
    peer(&mut facts).app.deadlines.insert(Side::Server, until);
    assert_eq!(rotation::waits_for(&facts, Side::Server), Some(Wait::Clients(until)));
    facts.now = until - 1;
    assert!(!steps(&facts).contains(&(Side::Server, Step::Replace)));
    facts.now = until;
    assert!(steps(&facts).contains(&(Side::Server, Step::Replace)));
    peer(&mut facts).units.get_mut(&unit(2)).unwrap().reports.clear();
    assert!(!steps(&facts).contains(&(Side::Server, Step::Replace)), "the date alone is not enough");
}

#[test]
fn the_old_authority_is_dropped_only_when_every_member_shows_a_certificate_of_the_new_one() {
    let mut facts = facts_in(&replacing(), &introduced(), 2);
    assert_eq!(steps(&facts), [(Side::Server, Step::Drop), (Side::Peer, Step::Drop)]);
    peer(&mut facts).units.get_mut(&unit(2)).unwrap().reports.insert(Side::Peer, report(&introduced(), Side::Peer, 1));
    assert_eq!(steps(&facts), [(Side::Server, Step::Drop)]);
    let waits: std::collections::BTreeSet<String> = ["etcd/2".to_owned()].into();
    assert_eq!(rotation::waits_for(&facts, Side::Peer), Some(Wait::Members(Side::Peer, waits)));
}

#[test]
fn members_are_signed_again_by_the_new_authority_and_keep_trusting_both_meanwhile() {
    let mut facts = facts_in(&replacing(), &introduced(), 1);
    for certificate in peer(&mut facts).app.certificates.values_mut() {
        certificate.issuer = certificate.issuer.as_ref().map(|issuer| issuer.replace('2', "1"));
    }
    let issued =
        |facts: &Facts| reconcile(facts).actions.iter().filter(|action| matches!(action, Action::Issue { .. })).count();
    assert_eq!(issued(&facts), 6);
    for phase in [trust(), introduced()] {
        let mut facts = facts_in(&phase, &phase, 1);
        assert_eq!(issued(&facts), 0, "nothing is signed again before");
        peer(&mut facts).app.trust = Some(introduced());
        facts.leader = false;
        facts.authorities = Authorities::Unasked;
        facts.host.pairs.get_mut(&Side::Peer).unwrap().trust = Some(trust().peer.bundle());
        let install = reconcile(&facts).actions.into_iter().find_map(|action| match action {
            Action::InstallCertificate { side: Side::Peer, trust, .. } => Some(trust),
            _ => None,
        });
        assert_eq!(install, Some(introduced().peer.bundle()));
    }
}

#[test]
fn a_step_that_reached_the_secret_only_is_published_by_whoever_leads_next() {
    for (published, held) in [(trust(), introduced()), (introduced(), replacing())] {
        let mut facts = facts_in(&published, &published, 1);
        facts.authorities = Authorities::Held(held.clone());
        let plan = reconcile(&facts);
        assert!(plan.actions.contains(&Action::PublishApp(AppChange::Trust(held))));
        let early = |action: &Action| matches!(action, Action::Rotate(_) | Action::Issue { .. });
        assert!(!plan.actions.iter().any(early), "nothing is signed before it is published");
    }
    let mut facts = facts_in(&trust(), &trust(), 1);
    facts.authorities = Authorities::Held(Trust { server: Anchors::only(anchor("another")), ..trust() });
    let plan = reconcile(&facts);
    assert_eq!(plan.actions, [], "authorities nobody was told of are not published");
    assert!(matches!(plan.status, Status::AuthoritiesUnusable(_)));
}

#[test]
fn the_leaders_status_says_what_a_replacement_waits_for_and_stays_active() {
    let mut facts = facts_in(&introduced(), &introduced(), 1);
    peer(&mut facts).app.deadlines.insert(Side::Server, 1_800_000_000);
    let status = reconcile(&facts).status;
    assert_eq!(status.word(), Word::Active);
    let wanted = "(leader) cluster is healthy; clients need new credentials before 2027-01-15 (see action rotate-ca)";
    assert_eq!(status.sentence(true), wanted);
    assert!(wanted.len() <= 120, "juju status cuts at 120 characters");
    for number in [2, 3] {
        peer(&mut facts).units.get_mut(&unit(number)).unwrap().reports.clear();
    }
    let wanted = "(leader) cluster is healthy; the new client authority waits for etcd/2, etcd/3";
    assert_eq!(reconcile(&facts).status.sentence(true), wanted);
    facts.leader = false;
    facts.authorities = Authorities::Unasked;
    assert_eq!(reconcile(&facts).status, Status::Healthy);
}

#[test]
fn an_operator_begins_and_ends_only_on_the_leader_and_only_when_it_is_time() {
    let mut facts = facts_in(&trust(), &trust(), 1);
    let introduce = Step::Introduce { grace_days: 3 };
    assert_eq!(rotation::begin(&facts, &[Side::Peer], 3), Ok(vec![(Side::Peer, introduce)]));
    assert!(rotation::finish(&facts).unwrap_err().contains("no client authority waits"));
    let mut follower = facts.clone();
    follower.leader = false;
    follower.authorities = Authorities::Unasked;
    for refusal in [rotation::begin(&follower, &Side::BOTH, 3).unwrap_err(), rotation::finish(&follower).unwrap_err()] {
        assert!(refusal.contains("juju run etcd/leader"), "{refusal}");
    }
    facts = facts_in(&introduced(), &introduced(), 1);
    assert!(rotation::begin(&facts, &Side::BOTH, 3).unwrap_err().contains("being replaced already"));
    assert!(rotation::finish(&facts).unwrap_err().starts_with("not yet"), "no client could fetch credentials yet");
    let tomorrow = facts.now + DAY;
    peer(&mut facts).app.deadlines.insert(Side::Server, tomorrow);
    assert!(rotation::signs_clients_with_successor(&facts));
    assert_eq!(rotation::finish(&facts), Ok(AppChange::Deadline(Side::Server, Some(facts.now))));
    peer(&mut facts).units.get_mut(&unit(2)).unwrap().reports.clear();
    assert!(rotation::finish(&facts).unwrap_err().contains("etcd/2"));
}

#[test]
fn revisions_of_the_secret_but_the_latest_are_removed_one_per_hook_because_juju_keeps_one_removal() {
    let planned = |latest: u64, kept_from: Option<u64>| {
        let mut facts = healthy(&[1]);
        facts.secret_revision = Some(latest);
        peer(&mut facts).app.kept_from = kept_from;
        reconcile(&facts).actions
    };
    assert_eq!(planned(1, None), []);
    assert_eq!(planned(4, None), [Action::PruneSecret(1)]);
    assert_eq!(planned(4, Some(3)), [Action::PruneSecret(3)]);
    assert_eq!(planned(4, Some(4)), []);
    assert_eq!(planned(4, Some(u64::MAX)), [], "whatever the databag says");
    assert_eq!(planned(4, Some(0)), [Action::PruneSecret(1)], "0 would be the whole secret");
}

#[test]
fn a_revision_is_not_removed_while_the_latest_begins_with_its_digits_because_some_jujus_remove_both() {
    let planned = |latest: u64, kept_from: u64| {
        let mut facts = healthy(&[1]);
        facts.secret_revision = Some(latest);
        peer(&mut facts).app.kept_from = Some(kept_from);
        reconcile(&facts).actions
    };
    for (latest, kept_from) in [(10, 1), (19, 1), (100, 1), (123, 12), (20, 2)] {
        assert_eq!(planned(latest, kept_from), [], "{kept_from} of {latest}");
    }
    for (latest, kept_from) in [(9, 1), (20, 1), (10, 9), (21, 20), (112, 12)] {
        assert_eq!(planned(latest, kept_from), [Action::PruneSecret(kept_from)], "{kept_from} of {latest}");
    }
}

#[test]
fn older_revisions_stay_while_the_latest_is_not_published_and_after_another_change_in_the_same_hook() {
    let rows: [(&str, fn(&mut Facts)); 4] = [
        ("the latest cannot be read", |f| f.authorities = Authorities::Unusable("why".into())),
        ("the latest is a step ahead of what is published", |f| f.authorities = Authorities::Held(introduced())),
        ("this hook has changed it already", |f| f.done.secret_changed = true),
        ("somebody else leads", |f| {
            f.leader = false;
            f.authorities = Authorities::Unasked;
            f.secret_revision = None;
        }),
    ];
    for (what, change) in rows {
        let mut facts = healthy(&[1]);
        facts.secret_revision = Some(4);
        change(&mut facts);
        let pruned = |action: &Action| matches!(action, Action::PruneSecret(_));
        assert!(!reconcile(&facts).actions.iter().any(pruned), "{what}");
    }
}

#[test]
fn a_step_waits_for_the_hook_after_one_that_removes_revisions() {
    let mut facts = facts_in(&replacing(), &introduced(), 2);
    facts.secret_revision = Some(3);
    let actions = reconcile(&facts).actions;
    assert!(actions.contains(&Action::PruneSecret(1)), "{actions:?}");
    assert_eq!(steps(&facts), [], "Juju would keep one of the two changes of the secret");
    peer(&mut facts).app.kept_from = Some(3);
    assert_ne!(steps(&facts), []);
}
