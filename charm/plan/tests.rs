//! Tables of facts and what must be planned for them: one row, one sentence about behaviour.

mod application;
mod authorities;
mod membership;
mod replacing;
mod settings;
mod storage;

use std::collections::{BTreeMap, BTreeSet};

use etcd_charm::pki::{DAY, Described, Validity};
use serde_json::json;

use super::config::{self, DaemonConfig, Standing, generation};
use super::status::{Status, Word};
use super::{Action, plan};
use crate::bags::{AppBag, AppChange, UnitBag};
use crate::event::Event;
use crate::facts::{
    Authorities, Certificate, Cluster, Done, Facts, Host, Life, Member, Network, Pair, Peer, Program, Request, Service,
    Side, Storage, Store, Unit,
};
use crate::text::{ClientUrl, MemberName, PeerUrl};
use crate::trust::{Anchor, Anchors, Report, Successor, Trust};

fn unit(number: u32) -> Unit {
    Unit::new("etcd", number)
}

/// An authority that lives for 3650 days.
fn anchor(name: &str) -> Anchor {
    let validity = Validity { from: 0, until: 3_650 * DAY };
    Anchor { pem: format!("{name} pem"), id: name.into(), name: name.into(), validity }
}

fn trust() -> Trust {
    let only = |name| Anchors::only(anchor(name));
    Trust { server: only("client 1"), peer: only("peer 1"), token: "token".into() }
}

/// The same while both are replaced: introduced, then replacing.
fn introduced() -> Trust {
    let with_next =
        |anchors: Anchors, name| Anchors { next: Some(Successor { anchor: anchor(name), grace_days: 7 }), ..anchors };
    let Trust { server, peer, token } = trust();
    Trust { server: with_next(server, "client 2"), peer: with_next(peer, "peer 2"), token }
}

fn replacing() -> Trust {
    let swap = |from, to| Anchors { issuing: anchor(to), next: None, old: Some(anchor(from)) };
    Trust { server: swap("client 1", "client 2"), peer: swap("peer 1", "peer 2"), token: "token".into() }
}

fn report(trust: &Trust, side: Side, issuer: u32) -> Report {
    Report { trusts: trust.of(side).ids(), issuer: Some(format!("{} {issuer}", side.authority_word())) }
}

fn names(number: u32) -> Vec<String> {
    vec![format!("10.0.0.{number}"), format!("etcd{number}")]
}

fn peer_url(number: u32) -> PeerUrl {
    PeerUrl::at(format!("10.0.0.{number}").parse().unwrap(), 2380)
}

fn request(number: u32, side: Side) -> Request {
    let public_key = format!("{number} {}", side.word());
    let says = Described { subject: format!("etcd{number}"), names: names(number), public_key };
    Request { pem: format!("request {number} {}", side.word()), says }
}

fn certificate(number: u32, side: Side) -> Certificate {
    Certificate {
        pem: format!("certificate {number} {}", side.word()),
        says: request(number, side).says,
        validity: Validity { from: 0, until: 3_000 },
        issuer: Some(format!("{} 1", side.authority_word())),
    }
}

fn bag(number: u32, member: bool) -> UnitBag {
    UnitBag {
        peer_url: Some(peer_url(number)),
        client_url: Some(ClientUrl::at(format!("10.0.0.{number}").parse().unwrap(), 2379)),
        names: names(number),
        requests: Side::BOTH.map(|side| (side, request(number, side))).into(),
        member: member.then_some(u64::from(number)),
        votes: member,
        left: false,
        restart: None,
        reports: if member { Side::BOTH.map(|side| (side, report(&trust(), side, 1))).into() } else { BTreeMap::new() },
    }
}

fn member(number: u32) -> Member {
    Member {
        id: u64::from(number),
        name: MemberName::read(&format!("etcd{number}")),
        peer_url: peer_url(number),
        learner: false,
        reachable: true,
        healthy: true,
    }
}

/// The leader etcd/1 of a healthy cluster with these units.
pub fn healthy(units: &[u32]) -> Facts {
    let mut certificates = BTreeMap::new();
    for number in units {
        for side in Side::BOTH {
            certificates.insert((unit(*number), side), certificate(*number, side));
        }
    }
    let address: std::net::IpAddr = "10.0.0.1".parse().unwrap();
    let pair = |side: Side| Pair {
        request: Some(request(1, side)),
        certificate: Some(certificate(1, side).pem),
        trust: Some(trust().of(side).bundle()),
        report: report(&trust(), side, 1),
    };
    let mut facts = Facts {
        unit: unit(1),
        now: 100,
        leader: true,
        options: BTreeMap::new(),
        network: Some(Network { bind: vec![address], ingress: address, names: names(1) }),
        peer: Some(Peer {
            own: bag(1, true),
            app: AppBag { trust: Some(trust()), bootstrap: Some(unit(1)), certificates, ..AppBag::default() },
            units: units.iter().filter(|n| **n != 1).map(|n| (unit(*n), bag(*n, true))).collect(),
        }),
        goal: Some(units.iter().map(|n| (unit(*n), Life::Alive)).collect()),
        authorities: Authorities::Held(trust()),
        ports: BTreeSet::from(["2379/tcp".to_owned(), "2380/tcp".to_owned()]),
        host: Host {
            root: "/".into(),
            program: Program::Current,
            stamp: "1".into(),
            config: None,
            data_dir: "/var/lib/etcd".into(),
            data: false,
            pairs: Side::BOTH.map(|side| (side, pair(side))).into(),
            service: Service::Stopped,
        },
        storage: None,
        presented: Side::BOTH.map(|side| (side, report(&trust(), side, 1))).into(),
        secret_revision: Some(1),
        store: Store::Unreachable,
        census: None,
        done: Done::default(),
    };
    // The settings and the generation are those the planner itself would have written.
    let mut beginning = facts.clone();
    peer(&mut beginning).own.member = None;
    peer(&mut beginning).units.clear();
    let config = written(&beginning);
    facts.host.service = Service::Running(Some(generation(&config, "1")));
    facts.host.config = Some(config);
    facts.host.data = true;
    facts.store = Store::Reachable(Cluster {
        members: units.iter().map(|n| member(*n)).collect(),
        leader: 1,
        own_healthy: true,
        version: None,
    });
    facts
}

fn written(facts: &Facts) -> DaemonConfig {
    let mut actions = Vec::new();
    assert_eq!(config::serve(facts, &mut actions), Standing::Running);
    let config = actions.into_iter().find_map(|action| match action {
        Action::WriteConfig(config) => Some(*config),
        _ => None,
    });
    config.expect("settings are planned")
}

fn reconcile(facts: &Facts) -> super::Plan {
    assert_eq!(facts.impossible(), None);
    plan(facts, &Event::Reconcile)
}

fn cluster(facts: &mut Facts) -> &mut Cluster {
    let Store::Reachable(cluster) = &mut facts.store else { panic!("a reachable cluster") };
    cluster
}

fn peer(facts: &mut Facts) -> &mut Peer {
    facts.peer.as_mut().unwrap()
}

#[test]
fn a_healthy_leader_and_follower_do_nothing_and_say_the_documented_sentence() {
    let mut facts = healthy(&[1, 2, 3]);
    let leaders = reconcile(&facts);
    assert_eq!(leaders.actions, []);
    assert_eq!(leaders.status.sentence(true), "(leader) cluster is healthy");
    facts.leader = false;
    facts.authorities = Authorities::Unasked;
    let followers = reconcile(&facts);
    assert_eq!(followers.actions, []);
    assert_eq!(followers.status.sentence(false), "cluster is healthy");
    assert_eq!(followers.status.word(), Word::Active);
}

#[test]
fn a_failing_member_is_blocked_with_the_documented_sentence() {
    for ill in 0..3 {
        let mut facts = healthy(&[1, 2, 3]);
        match ill {
            0 => cluster(&mut facts).own_healthy = false,
            // It answers, as a member without a quorum does, and fails the check of cluster-health.
            1 => cluster(&mut facts).members[2].healthy = false,
            _ => facts.store = Store::Unreachable,
        }
        facts.done.started = true;
        let step = reconcile(&facts);
        assert_eq!(step.status.word(), Word::Blocked);
        assert_eq!(step.status.sentence(true), "(leader) cluster-health check failed... needs attention");
    }
}

#[test]
fn the_first_leader_makes_authorities_and_chooses_itself_but_starts_nothing_yet() {
    let mut facts = healthy(&[1]);
    facts.host.data = false;
    facts.host.service = Service::Stopped;
    facts.host.config = None;
    facts.store = Store::Unreachable;
    facts.authorities = Authorities::Absent;
    peer(&mut facts).own = bag(1, false);
    peer(&mut facts).own.reports = Side::BOTH.map(|side| (side, report(&trust(), side, 1))).into();
    peer(&mut facts).app = AppBag::default();
    let step = reconcile(&facts);
    assert_eq!(step.actions, [Action::CreateAuthorities, Action::PublishApp(AppChange::Bootstrap(unit(1)))]);

    peer(&mut facts).app = AppBag { trust: Some(trust()), bootstrap: Some(unit(1)), ..AppBag::default() };
    facts.authorities = Authorities::Held(trust());
    facts.done.app_written = true;
    let starts =
        |facts: &Facts| reconcile(facts).actions.iter().any(|action| matches!(action, Action::StartService { .. }));
    assert!(!starts(&facts), "what this hook wrote is not published yet");
    facts.done.app_written = false;
    assert!(starts(&facts));
}

#[test]
fn authorities_are_never_made_again() {
    let mut facts = healthy(&[1, 2]);
    facts.authorities = Authorities::Absent;
    let step = reconcile(&facts);
    assert!(!step.actions.contains(&Action::CreateAuthorities));
    assert_eq!(step.status, Status::AuthoritiesGone);

    facts.authorities = Authorities::Held(trust());
    peer(&mut facts).app.trust = None;
    let step = reconcile(&facts);
    assert!(!step.actions.contains(&Action::CreateAuthorities));
    assert!(step.actions.contains(&Action::PublishApp(AppChange::Trust(trust()))), "a kept secret is published");
}

#[test]
fn certificates_are_signed_again_for_new_names_another_authority_or_at_two_thirds_of_life() {
    let rows: [(&str, fn(&mut Facts), bool); 6] = [
        ("nothing changed", |_| {}, false),
        ("just before two thirds of 3000 seconds", |f| f.now = 1_999, false),
        ("at two thirds", |f| f.now = 2_000, true),
        (
            "new names",
            |f| {
                let bag = peer(f).units.get_mut(&unit(2)).unwrap();
                bag.names.push("etcd2.example".into());
                for request in bag.requests.values_mut() {
                    request.says.names.push("etcd2.example".into());
                }
            },
            true,
        ),
        (
            "a request for names that were not published",
            |f| {
                let bag = peer(f).units.get_mut(&unit(2)).unwrap();
                bag.requests.get_mut(&Side::Server).unwrap().says.names.push("10.0.0.9".into());
            },
            false,
        ),
        (
            "another authority",
            |f| {
                peer(f).app.certificates.get_mut(&(unit(2), Side::Peer)).unwrap().issuer = None;
            },
            true,
        ),
    ];
    for (what, change, wanted) in rows {
        let mut facts = healthy(&[1, 2]);
        change(&mut facts);
        let signed = reconcile(&facts)
            .actions
            .iter()
            .any(|action| matches!(action, Action::Issue { unit: whose, .. } if *whose == unit(2)));
        assert_eq!(signed, wanted, "{what}");
    }
}

#[test]
fn a_certificate_for_another_key_or_by_another_authority_is_not_installed() {
    let rows: [(&str, fn(&mut Certificate), bool); 3] = [
        ("a new certificate", |c| c.pem = "newer".into(), true),
        (
            "for another key",
            |c| {
                c.pem = "newer".into();
                c.says.public_key = "x".into();
            },
            false,
        ),
        (
            "by another authority",
            |c| {
                c.pem = "newer".into();
                c.issuer = None;
            },
            false,
        ),
    ];
    for (what, change, wanted) in rows {
        let mut facts = healthy(&[1]);
        change(peer(&mut facts).app.certificates.get_mut(&(unit(1), Side::Server)).unwrap());
        facts.leader = false;
        facts.authorities = Authorities::Unasked;
        let installs = reconcile(&facts).actions.iter().any(|a| matches!(a, Action::InstallCertificate { .. }));
        assert_eq!(installs, wanted, "{what}");
    }
}

#[test]
fn foreign_or_lost_data_blocks_and_nothing_is_started() {
    let mut facts = healthy(&[1]);
    facts.host.service = Service::Stopped;
    facts.host.config.as_mut().unwrap().initial_cluster_token = "another".into();
    let step = reconcile(&facts);
    assert!(matches!(step.status, Status::ForeignData(_)), "{step:?}");
    assert!(!step.actions.iter().any(|a| matches!(a, Action::StartService { .. } | Action::WriteConfig(_))));
    facts.host.data = false;
    let step = reconcile(&facts);
    assert_eq!(step.status, Status::DataLost(unit(1)));
    assert!(!step.actions.iter().any(|a| matches!(a, Action::StartService { .. })));
}

#[test]
fn before_the_relation_the_address_or_the_program_the_status_says_what_is_missing() {
    let rows: [(fn(&mut Facts), Status); 4] = [
        (|f| f.host.program = Program::Outdated, Status::Installing),
        (
            |f| {
                f.peer = None;
                f.store = Store::Unreachable;
            },
            Status::AwaitingPeerRelation,
        ),
        (
            |f| {
                f.network = None;
                peer(f).app.trust = None;
                f.leader = false;
            },
            Status::AwaitingAddress,
        ),
        (
            |f| {
                peer(f).app.trust = None;
                f.leader = false;
            },
            Status::AwaitingAuthorities,
        ),
    ];
    for (change, wanted) in rows {
        let mut facts = healthy(&[1]);
        facts.host.config = None;
        change(&mut facts);
        if !facts.leader {
            facts.authorities = Authorities::Unasked;
        }
        assert_eq!(reconcile(&facts).status, wanted);
    }
}

#[test]
fn facts_that_juju_could_not_show_are_refused() {
    let rows: [fn(&mut Facts); 5] = [
        |f| drop(peer(f).units.insert(unit(1), bag(1, true))),
        |f| drop(peer(f).units.insert(Unit::new("other", 1), bag(1, true))),
        |f| {
            f.goal.as_mut().unwrap().remove(&unit(1));
        },
        |f| f.leader = false,
        |f| cluster(f).members[1].id = 1,
    ];
    for change in rows {
        let mut facts = healthy(&[1, 2]);
        assert_eq!(facts.impossible(), None);
        change(&mut facts);
        assert!(facts.impossible().is_some(), "{facts:?}");
    }
}
