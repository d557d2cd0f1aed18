//! The peer relation's databags as types: the one place that knows their keys.
//!
//! A unit writes its own bag; the leader writes the application's. Everything in them is public:
//! URLs, requests, certificates. Whatever cannot be read counts as not yet written, because a bag
//! may be half filled, stale, or written by another release of the charm.

use std::collections::BTreeMap;

use etcd_charm::pki;

use crate::facts::{Certificate, Request, Side, Trust, Unit};

/// A databag as Juju holds it.
pub type Bag = BTreeMap<String, String>;

/// Longest value that is looked at; nothing we write comes near.
const MAX_VALUE: usize = 64 * 1024;

/// What a unit publishes about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitBag {
    /// Its member's peer URL.
    pub peer_url: Option<String>,
    /// Its member's client URL.
    pub client_url: Option<String>,
    /// The names its certificates must carry, in normal form.
    pub names: Vec<String>,
    /// Its signing requests.
    pub requests: BTreeMap<Side, Request>,
    /// The id of its member, once it has started.
    pub member: Option<u64>,
    /// True once that member votes.
    pub votes: bool,
    /// The generation it wants to restart into, when it waits for its turn.
    pub restart: Option<String>,
}

/// What the leader publishes for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppBag {
    /// The authorities' certificates and the cluster's token.
    pub trust: Option<Trust>,
    /// The unit that starts the cluster.
    pub bootstrap: Option<Unit>,
    /// Certificates by unit and side.
    pub certificates: BTreeMap<(Unit, Side), Certificate>,
    /// For each unit that was added to a running cluster: its static `initial-cluster`.
    pub joins: BTreeMap<Unit, String>,
    /// The unit whose turn it is to restart, and the generation it may restart into.
    pub turn: Option<(Unit, String)>,
}

impl UnitBag {
    /// Writes the bag; an absent value is an empty string, which deletes the key.
    #[must_use]
    pub fn write(&self) -> Bag {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let request = |side| self.requests.get(&side).map(|r| r.pem.clone()).unwrap_or_default();
        Bag::from([
            ("peer-url".to_owned(), text(&self.peer_url)),
            ("client-url".to_owned(), text(&self.client_url)),
            ("names".to_owned(), self.names.join(",")),
            ("server-request".to_owned(), request(Side::Server)),
            ("peer-request".to_owned(), request(Side::Peer)),
            ("member".to_owned(), self.member.map(|id| format!("{id:x}")).unwrap_or_default()),
            ("votes".to_owned(), if self.votes { "yes".to_owned() } else { String::new() }),
            ("restart".to_owned(), text(&self.restart)),
        ])
    }

    /// Reads the bag of one unit.
    #[must_use]
    pub fn read(bag: &Bag) -> Self {
        let url = |key: &str| value(bag, key).filter(|text| url::Url::parse(text).is_ok());
        let mut requests = BTreeMap::new();
        for side in Side::BOTH {
            if let Some(pem) = value(bag, &format!("{}-request", side.word()))
                && let Ok(says) = pki::describe_request(&pem)
            {
                requests.insert(side, Request { pem, says });
            }
        }
        UnitBag {
            peer_url: url("peer-url"),
            client_url: url("client-url"),
            names: value(bag, "names").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default(),
            requests,
            member: value(bag, "member").and_then(|id| u64::from_str_radix(&id, 16).ok()),
            votes: value(bag, "votes").as_deref() == Some("yes"),
            restart: value(bag, "restart"),
        }
    }
}

impl AppBag {
    /// Reads the application's bag; `application` is our own name.
    #[must_use]
    pub fn read(bag: &Bag, application: &str) -> Self {
        let trust = match (value(bag, "client-ca"), value(bag, "peer-ca"), value(bag, "token")) {
            (Some(server), Some(peer), Some(token)) => Some(Trust { server, peer, token }),
            _ => None,
        };
        let mut read = AppBag {
            bootstrap: value(bag, "bootstrap").and_then(|text| Unit::parse(&text)),
            turn: value(bag, "turn").and_then(|text| {
                let (unit, generation) = text.split_once(' ')?;
                Some((Unit::parse(unit)?, generation.to_owned()))
            }),
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
                read.joins.insert(unit, text);
            } else if let (Some(side), Some(trust)) = (side, &trust)
                && let Some(certificate) = read_certificate(text, trust.of(side))
            {
                read.certificates.insert((unit, side), certificate);
            }
        }
        read.trust = trust;
        read
    }
}

fn read_certificate(pem: String, authority: &str) -> Option<Certificate> {
    let says = pki::describe_certificate(&pem).ok()?;
    let validity = pki::certificate_validity(&pem).ok()?;
    let trusted = pki::check_issued_by(&pem, authority).is_ok();
    Some(Certificate { pem, says, validity, trusted })
}

fn value(bag: &Bag, key: &str) -> Option<String> {
    bag.get(key).filter(|text| !text.is_empty() && text.len() <= MAX_VALUE).cloned()
}

/// One change of the application's bag, planned by the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppChange {
    /// Which unit starts the cluster.
    Bootstrap(Unit),
    /// The authorities.
    Trust(Trust),
    /// A signed certificate.
    Certificate(Unit, Side, String),
    /// A joining unit's `initial-cluster`.
    Join(Unit, String),
    /// Whose turn it is to restart; `None` when nobody's.
    Turn(Option<(Unit, String)>),
    /// Everything about a unit that no longer exists.
    Forget(Unit),
}

impl AppChange {
    /// The keys to write; an empty value deletes the key.
    #[must_use]
    pub fn write(&self) -> Bag {
        let unit_key = |unit: &Unit, what: &str| format!("unit-{}-{what}", unit.number);
        let certificate = |unit: &Unit, side: Side| unit_key(unit, &format!("{}-certificate", side.word()));
        match self {
            AppChange::Bootstrap(unit) => Bag::from([("bootstrap".to_owned(), unit.to_string())]),
            AppChange::Trust(trust) => Bag::from([
                ("client-ca".to_owned(), trust.server.clone()),
                ("peer-ca".to_owned(), trust.peer.clone()),
                ("token".to_owned(), trust.token.clone()),
            ]),
            AppChange::Certificate(unit, side, pem) => Bag::from([(certificate(unit, *side), pem.clone())]),
            AppChange::Join(unit, initial) => Bag::from([(unit_key(unit, "initial-cluster"), initial.clone())]),
            AppChange::Turn(turn) => {
                let text = turn.as_ref().map(|(unit, generation)| format!("{unit} {generation}"));
                Bag::from([("turn".to_owned(), text.unwrap_or_default())])
            }
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
            peer_url: Some("https://10.0.0.5:2380".to_owned()),
            client_url: Some("https://10.0.0.5:2379".to_owned()),
            names,
            requests: BTreeMap::from([(Side::Server, Request { pem, says })]),
            member: Some(0xdead_beef),
            votes: true,
            restart: Some("abc".to_owned()),
        };
        assert_eq!(UnitBag::read(&bag.write()), bag);
        assert_eq!(UnitBag::read(&UnitBag::default().write()), UnitBag::default());
    }

    #[test]
    fn an_application_bag_reads_back_as_written_and_forgets_a_unit() {
        let unit = Unit::new("etcd", 12);
        let authority = pki::make_authority("clients", 1_800_000_000).unwrap();
        let trust =
            Trust { server: authority.certificate.clone(), peer: authority.certificate.clone(), token: "t".to_owned() };
        let mut changes = vec![
            AppChange::Trust(trust.clone()),
            AppChange::Bootstrap(unit.clone()),
            AppChange::Join(unit.clone(), "etcd0=https://10.0.0.5:2380".to_owned()),
            AppChange::Certificate(unit.clone(), Side::Peer, authority.certificate.clone()),
            AppChange::Turn(Some((unit.clone(), "g1".to_owned()))),
        ];
        let read = AppBag::read(&merged(&changes), "etcd");
        assert_eq!(read.trust, Some(trust));
        assert_eq!(read.bootstrap, Some(unit.clone()));
        assert_eq!(read.turn, Some((unit.clone(), "g1".to_owned())));
        assert!(read.joins.contains_key(&unit));
        assert!(read.certificates[&(unit.clone(), Side::Peer)].trusted);
        changes.extend([AppChange::Forget(unit), AppChange::Turn(None)]);
        let read = AppBag::read(&merged(&changes), "etcd");
        assert!(read.joins.is_empty() && read.certificates.is_empty() && read.turn.is_none());
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
