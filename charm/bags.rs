//! The peer relation's databags as types: the one place that knows their keys.
//!
//! A unit writes its own bag; the leader writes the application's. Everything in them is public:
//! URLs, requests, certificates. Whatever cannot be read counts as not yet written, because a bag
//! may be half filled, stale, or written by another release of the charm.

use std::collections::BTreeMap;

use etcd_charm::pki;

use crate::facts::{Certificate, Member, Request, Side, Unit};
use crate::text::{ClientUrl, HostName, InitialCluster, PeerUrl, Word, plain_certificate};
use crate::trust::{Anchor, Anchors, Report, Successor, Trust};

/// A databag as Juju holds it.
pub type Bag = BTreeMap<String, String>;

/// Longest value that is looked at; nothing we write comes near.
const MAX_VALUE: usize = 64 * 1024;

/// What a unit publishes about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitBag {
    /// Its member's peer URL.
    pub peer_url: Option<PeerUrl>,
    /// Its member's client URL.
    pub client_url: Option<ClientUrl>,
    /// The names its certificates must carry, in normal form.
    pub names: Vec<String>,
    /// Its signing requests.
    pub requests: BTreeMap<Side, Request>,
    /// The id of its member, once it has started.
    pub member: Option<u64>,
    /// True once that member votes.
    pub votes: bool,
    /// True once the cluster has said that this unit, which is leaving, has no member any more.
    pub left: bool,
    /// The generation it wants to restart into, when it waits for its turn.
    pub restart: Option<Word>,
    /// Which authorities its member trusts and shows on each port.
    pub reports: BTreeMap<Side, Report>,
}

/// What the leader publishes for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppBag {
    /// The authorities' certificates and the cluster's token.
    pub trust: Option<Trust>,
    /// The unit that starts the cluster, or once did: while this names a unit, no other may start one.
    pub bootstrap: Option<Unit>,
    /// How many clusters of this application were given up for a new, empty one.
    pub given_up: u32,
    /// Certificates by unit and side.
    pub certificates: BTreeMap<(Unit, Side), Certificate>,
    /// For each unit that was added to a running cluster: its static `initial-cluster`.
    pub joins: BTreeMap<Unit, InitialCluster>,
    /// The unit whose turn it is to restart, and the generation it may restart into.
    pub turn: Option<(Unit, Word)>,
    /// Until when (seconds since 1970) clients of an authority that is being replaced are served.
    pub deadlines: BTreeMap<Side, i64>,
    /// Revisions of the secret below this one have been removed; `None` means that none was.
    pub kept_from: Option<u64>,
}

impl UnitBag {
    /// True when this unit could be the one that a member without a name was added for: the URL is its own
    /// and it has not started another member.
    #[must_use]
    pub fn may_become(&self, member: &Member) -> bool {
        self.peer_url.as_ref() == Some(&member.peer_url) && self.member.is_none_or(|id| id == member.id)
    }

    /// Writes the bag; an absent value is an empty string, which deletes the key.
    #[must_use]
    pub fn write(&self) -> Bag {
        fn text<T: ToString>(value: Option<&T>) -> String {
            value.map(T::to_string).unwrap_or_default()
        }
        let request = |side| self.requests.get(&side).map(|r| r.pem.clone()).unwrap_or_default();
        let report = |side| self.reports.get(&side).cloned().unwrap_or_default();
        let trusts = |side| report(side).trusts.into_iter().collect::<Vec<_>>().join(",");
        Bag::from([
            ("peer-url".to_owned(), text(self.peer_url.as_ref())),
            ("client-url".to_owned(), text(self.client_url.as_ref())),
            ("names".to_owned(), self.names.join(",")),
            ("server-request".to_owned(), request(Side::Server)),
            ("peer-request".to_owned(), request(Side::Peer)),
            ("member".to_owned(), self.member.map(|id| format!("{id:x}")).unwrap_or_default()),
            ("votes".to_owned(), if self.votes { "yes".to_owned() } else { String::new() }),
            ("left".to_owned(), if self.left { "yes".to_owned() } else { String::new() }),
            ("restart".to_owned(), text(self.restart.as_ref())),
            ("server-trusts".to_owned(), trusts(Side::Server)),
            ("server-issuer".to_owned(), report(Side::Server).issuer.unwrap_or_default()),
            ("peer-trusts".to_owned(), trusts(Side::Peer)),
            ("peer-issuer".to_owned(), report(Side::Peer).issuer.unwrap_or_default()),
        ])
    }

    /// Reads the bag of one unit.
    #[must_use]
    pub fn read(bag: &Bag) -> Self {
        let mut requests = BTreeMap::new();
        let mut reports = BTreeMap::new();
        for side in Side::BOTH {
            let report = Report {
                trusts: list(bag, &format!("{}-trusts", side.word()), fingerprint).into_iter().collect(),
                issuer: value(bag, &format!("{}-issuer", side.word())).and_then(|text| fingerprint(&text)),
            };
            if report != Report::default() {
                reports.insert(side, report);
            }
            if let Some(pem) = value(bag, &format!("{}-request", side.word()))
                && let Ok(says) = pki::describe_request(&pem)
            {
                requests.insert(side, Request { pem, says });
            }
        }
        UnitBag {
            peer_url: value(bag, "peer-url").and_then(|text| PeerUrl::parse(&text)),
            client_url: value(bag, "client-url").and_then(|text| ClientUrl::parse(&text)),
            names: list(bag, "names", |text| HostName::parse(text).map(String::from)),
            requests,
            member: value(bag, "member").and_then(|id| u64::from_str_radix(&id, 16).ok()),
            votes: value(bag, "votes").as_deref() == Some("yes"),
            left: value(bag, "left").as_deref() == Some("yes"),
            restart: value(bag, "restart").and_then(|text| Word::parse(&text)),
            reports,
        }
    }
}

impl AppBag {
    /// The token of the present cluster: a cluster that was given up had another one, so that its members,
    /// should they come back, are taken for strangers whatever their addresses.
    #[must_use]
    pub fn token(&self) -> Option<Word> {
        let token = &self.trust.as_ref()?.token;
        if self.given_up == 0 { Some(token.clone()) } else { Word::parse(&format!("{token}-{}", self.given_up)) }
    }

    /// True when a cluster of this application had this token and was given up.
    #[must_use]
    pub fn gave_up(&self, token: &Word) -> bool {
        let Some(first) = self.trust.as_ref().map(|trust| &trust.token) else { return false };
        let number = match token.strip_prefix(&**first) {
            Some("") => Some(0),
            Some(rest) => rest.strip_prefix('-').and_then(|number| number.parse().ok()).filter(|number| *number > 0),
            None => None,
        };
        number.is_some_and(|number: u32| number < self.given_up)
    }

    /// Reads the application's bag; `application` is our own name.
    #[must_use]
    pub fn read(bag: &Bag, application: &str) -> Self {
        let trust = match (anchors(bag, Side::Server), anchors(bag, Side::Peer), value(bag, "token")) {
            (Some(server), Some(peer), Some(token)) => Word::parse(&token).map(|token| Trust { server, peer, token }),
            _ => None,
        };
        let deadline = |side: Side| Some((side, value(bag, &ca_key(side, "-drop-at"))?.parse().ok()?));
        let mut read = AppBag {
            bootstrap: value(bag, "bootstrap").and_then(|text| Unit::parse(&text)),
            given_up: value(bag, "clusters-given-up").and_then(|text| text.parse().ok()).unwrap_or(0),
            turn: value(bag, "turn").and_then(|text| {
                let (unit, generation) = text.split_once(' ')?;
                Some((Unit::parse(unit)?, Word::parse(generation)?))
            }),
            deadlines: Side::BOTH.into_iter().filter_map(deadline).collect(),
            kept_from: value(bag, "secret-kept-from").and_then(|text| text.parse().ok()),
            ..AppBag::default()
        };
        for key in bag.keys() {
            let Some((number, what)) = key.strip_prefix("unit-").and_then(|k| k.split_once('-')) else {
                continue;
            };
            let (Ok(number), Some(text)) = (number.parse(), value(bag, key)) else { continue };
            let unit = Unit::new(application, number);
            let side = Side::BOTH.into_iter().find(|side| what == format!("{}-certificate", side.word()));
            if what == "initial-cluster" {
                read.joins.extend(InitialCluster::parse(&text).map(|list| (unit, list)));
            } else if let (Some(side), Some(trust)) = (side, &trust)
                && let Some(certificate) = read_certificate(&text, &trust.of(side).bundle())
            {
                read.certificates.insert((unit, side), certificate);
            }
        }
        read.trust = trust;
        read
    }
}

fn read_certificate(text: &str, bundle: &str) -> Option<Certificate> {
    let pem = plain_certificate(text)?;
    let says = pki::describe_certificate(&pem).ok()?;
    let validity = pki::certificate_validity(&pem).ok()?;
    let issuer = pki::issuer_in(&pem, bundle).ok().flatten();
    Some(Certificate { pem, says, validity, issuer })
}

/// `client-ca`, `peer-ca-next`, …
fn ca_key(side: Side, what: &str) -> String {
    format!("{}-ca{what}", side.authority_word())
}

/// The published authorities of a side. A successor or predecessor that cannot be read makes the whole
/// side unreadable: to go on with half of it would be to trust less than was agreed.
fn anchors(bag: &Bag, side: Side) -> Option<Anchors> {
    let anchor = |what: &str| value(bag, &ca_key(side, what)).map(|pem| Anchor::read(&pem).ok_or(()));
    let next = anchor("-next").transpose().ok()?;
    let grace = value(bag, &ca_key(side, "-grace")).and_then(|text| text.parse().ok());
    let grace_days = grace.unwrap_or(crate::plan::rotation::AGED_GRACE_DAYS);
    Some(Anchors {
        issuing: anchor("")?.ok()?,
        next: next.map(|anchor| Successor { anchor, grace_days }),
        old: anchor("-old").transpose().ok()?,
    })
}

/// A list, when every part of it can be read.
fn list(bag: &Bag, key: &str, read: fn(&str) -> Option<String>) -> Vec<String> {
    value(bag, key).and_then(|text| text.split(',').map(read).collect()).unwrap_or_default()
}

fn fingerprint(text: &str) -> Option<String> {
    Word::parse(text).map(String::from)
}

fn value(bag: &Bag, key: &str) -> Option<String> {
    bag.get(key).filter(|text| !text.is_empty() && text.len() <= MAX_VALUE).cloned()
}

/// One change of the application's bag, planned by the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppChange {
    /// Which unit starts the cluster.
    Bootstrap(Unit),
    /// The chosen unit goes and has never started: somebody else may be chosen.
    Unchoose,
    /// A cluster was given up: how many now.
    GivenUp(u32),
    /// The authorities. The end of a grace that is over goes with them.
    Trust(Trust),
    /// Until when the clients of an authority that is being replaced are served.
    Deadline(Side, Option<i64>),
    /// A signed certificate.
    Certificate(Unit, Side, String),
    /// A joining unit's `initial-cluster`.
    Join(Unit, InitialCluster),
    /// A joining unit's `initial-cluster` no longer holds.
    JoinEnds(Unit),
    /// Whose turn it is to restart; `None` when nobody's.
    Turn(Option<(Unit, Word)>),
    /// Everything about a unit that no longer exists.
    Forget(Unit),
    /// The oldest revision of the secret that was not removed. Juju tells nobody which revisions there are.
    KeptFrom(u64),
}

impl AppChange {
    /// The keys to write; an empty value deletes the key.
    #[must_use]
    pub fn write(&self) -> Bag {
        let unit_key = |unit: &Unit, what: &str| format!("unit-{}-{what}", unit.number);
        let certificate = |unit: &Unit, side: Side| unit_key(unit, &format!("{}-certificate", side.word()));
        match self {
            AppChange::Bootstrap(unit) => Bag::from([("bootstrap".to_owned(), unit.to_string())]),
            AppChange::Unchoose => Bag::from([("bootstrap".to_owned(), String::new())]),
            AppChange::GivenUp(count) => Bag::from([("clusters-given-up".to_owned(), count.to_string())]),
            AppChange::Trust(trust) => {
                let mut bag = Bag::from([("token".to_owned(), trust.token.to_string())]);
                for side in Side::BOTH {
                    let anchors = trust.of(side);
                    let next = anchors.next.as_ref();
                    let pem = |anchor: Option<&Anchor>| anchor.map(|anchor| anchor.pem.clone()).unwrap_or_default();
                    bag.insert(ca_key(side, ""), anchors.issuing.pem.clone());
                    bag.insert(ca_key(side, "-next"), pem(next.map(|next| &next.anchor)));
                    bag.insert(ca_key(side, "-old"), pem(anchors.old.as_ref()));
                    bag.insert(ca_key(side, "-grace"), next.map(|n| n.grace_days.to_string()).unwrap_or_default());
                    if next.is_none() {
                        bag.insert(ca_key(side, "-drop-at"), String::new());
                    }
                }
                bag
            }
            AppChange::Deadline(side, until) => {
                Bag::from([(ca_key(*side, "-drop-at"), until.map(|at| at.to_string()).unwrap_or_default())])
            }
            AppChange::Certificate(unit, side, pem) => Bag::from([(certificate(unit, *side), pem.clone())]),
            AppChange::JoinEnds(unit) => Bag::from([(unit_key(unit, "initial-cluster"), String::new())]),
            AppChange::Join(unit, initial) => Bag::from([(unit_key(unit, "initial-cluster"), initial.to_string())]),
            AppChange::Turn(turn) => {
                let text = turn.as_ref().map(|(unit, generation)| format!("{unit} {generation}"));
                Bag::from([("turn".to_owned(), text.unwrap_or_default())])
            }
            AppChange::KeptFrom(revision) => Bag::from([("secret-kept-from".to_owned(), revision.to_string())]),
            AppChange::Forget(unit) => Bag::from([
                (certificate(unit, Side::Server), String::new()),
                (certificate(unit, Side::Peer), String::new()),
                (unit_key(unit, "initial-cluster"), String::new()),
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(changes: &[AppChange]) -> Bag {
        let mut bag = Bag::new();
        for change in changes {
            for (key, value) in change.write() {
                if value.is_empty() {
                    bag.remove(&key)
                } else {
                    bag.insert(key, value)
                };
            }
        }
        bag
    }

    #[test]
    fn a_unit_bag_reads_back_as_written() {
        let names = vec!["10.0.0.5".to_owned(), "etcd0".to_owned()];
        let key = pki::make_key().unwrap();
        let pem = pki::make_request(&key, "etcd0", &names).unwrap();
        let says = pki::describe_request(&pem).unwrap();
        let bag = UnitBag {
            peer_url: Some("https://10.0.0.5:2380".into()),
            client_url: Some("https://10.0.0.5:2379".into()),
            names,
            requests: BTreeMap::from([(Side::Server, Request { pem, says })]),
            member: Some(0xdead_beef),
            votes: true,
            left: true,
            restart: Some("abc".into()),
            reports: BTreeMap::from([(
                Side::Peer,
                Report { trusts: ["a".to_owned(), "b".to_owned()].into(), issuer: Some("a".to_owned()) },
            )]),
        };
        assert_eq!(UnitBag::read(&bag.write()), bag);
        assert_eq!(UnitBag::read(&UnitBag::default().write()), UnitBag::default());
    }

    #[test]
    fn an_application_bag_reads_back_as_written_and_forgets_a_unit() {
        let unit = Unit::new("etcd", 12);
        let authority = pki::make_authority("clients", 1_800_000_000).unwrap();
        let anchor = Anchor::read(&authority.certificate).unwrap();
        let successor = Anchor::read(&pki::make_authority("clients 2", 1_800_000_001).unwrap().certificate).unwrap();
        let server =
            Anchors { next: Some(Successor { anchor: successor, grace_days: 7 }), ..Anchors::only(anchor.clone()) };
        let trust = Trust { server, peer: Anchors::only(anchor.clone()), token: "t".into() };
        let mut changes = vec![
            AppChange::Trust(trust.clone()),
            AppChange::Bootstrap(unit.clone()),
            AppChange::Join(unit.clone(), "etcd0=https://10.0.0.5:2380".into()),
            AppChange::Certificate(unit.clone(), Side::Peer, authority.certificate.clone()),
            AppChange::Turn(Some((unit.clone(), "g1".into()))),
            AppChange::Deadline(Side::Server, Some(5)),
            AppChange::KeptFrom(9),
        ];
        let read = AppBag::read(&merged(&changes), "etcd");
        assert_eq!(read.trust, Some(trust.clone()));
        assert_eq!(read.deadlines, BTreeMap::from([(Side::Server, 5)]));
        assert_eq!(read.kept_from, Some(9));
        assert_eq!(read.bootstrap, Some(unit.clone()));
        assert_eq!(read.turn, Some((unit.clone(), "g1".into())));
        assert!(read.joins.contains_key(&unit));
        assert_eq!(read.certificates[&(unit.clone(), Side::Peer)].issuer, Some(anchor.id));
        let replaced = Anchors { next: None, ..trust.server.clone() };
        let replaced = AppChange::Trust(Trust { server: replaced, ..trust });
        changes.extend([AppChange::Forget(unit), AppChange::Turn(None), replaced]);
        let read = AppBag::read(&merged(&changes), "etcd");
        assert!(read.deadlines.is_empty(), "the end of a grace goes with its successor");
        assert!(read.joins.is_empty() && read.certificates.is_empty() && read.turn.is_none());
    }

    #[test]
    fn a_cluster_that_was_given_up_is_known_by_its_token_and_no_other_is() {
        let anchor = Anchor::read(&pki::make_authority("clients", 1_800_000_000).unwrap().certificate).unwrap();
        let [server, peer] = [&anchor; 2].map(|anchor| Anchors::only(anchor.clone()));
        let trust = Some(Trust { server, peer, token: "t".into() });
        let app = AppBag { trust, given_up: 2, ..AppBag::default() };
        for old in ["t", "t-1"] {
            assert!(app.gave_up(&old.into()), "{old}");
        }
        for other in ["t-2", "t-3", "t-0", "t-x", "t1", "tt", "u", "t-1-1"] {
            assert!(!app.gave_up(&other.into()), "{other}");
        }
        assert!(!AppBag { given_up: 0, ..app.clone() }.gave_up(&"t".into()));
        assert!(!AppBag { trust: None, ..app }.gave_up(&"t".into()));
    }

    #[test]
    fn whatever_cannot_be_read_counts_as_not_yet_written() {
        let bag = Bag::from([
            ("peer-url".to_owned(), "not a url".to_owned()),
            ("server-request".to_owned(), "-----BEGIN CERTIFICATE REQUEST-----\nx".to_owned()),
            ("member".to_owned(), "zz".to_owned()),
            ("client-url".to_owned(), "h".repeat(MAX_VALUE + 1)),
            ("unit-x-initial-cluster".to_owned(), "a=b".to_owned()),
            ("unknown".to_owned(), "key".to_owned()),
        ]);
        assert_eq!(UnitBag::read(&bag), UnitBag::default());
        assert_eq!(AppBag::read(&bag, "etcd"), AppBag::default());
    }
}
