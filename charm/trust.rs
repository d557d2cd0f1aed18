//! The authorities of each side, public halves only, and how far their replacement has got.
//!
//! A side has one authority that signs its members' certificates. While it is replaced there is a
//! second one that is trusted as well: first the successor, which does not sign members yet, then
//! the predecessor, which does not sign any more. Which of the two is there is the phase; nothing
//! else remembers it.

use std::collections::BTreeSet;

use etcd_charm::pki::{self, Validity};

use crate::facts::Side;
use crate::text::{Word, plain_certificate};

/// The public half of one authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Certificate, PEM.
    pub pem: String,
    /// Fingerprint of its public key.
    pub id: String,
    /// Its common name; TLS servers list the authorities they accept by it.
    pub name: String,
    /// Its life.
    pub validity: Validity,
}

impl Anchor {
    /// Reads a certificate, and prints it anew: what else may stand around it in the text is trusted by
    /// nobody. `None` when it is none.
    #[must_use]
    pub fn read(pem: &str) -> Option<Self> {
        let pem = plain_certificate(pem)?;
        let says = pki::describe_certificate(&pem).ok()?;
        let validity = pki::certificate_validity(&pem).ok()?;
        Some(Anchor { pem, id: says.public_key, name: says.subject, validity })
    }
}

/// The successor of a side's authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// It.
    pub anchor: Anchor,
    /// Days the predecessor's clients have, from when the successor is trusted everywhere.
    pub grace_days: i64,
}

/// The authorities of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors {
    /// Signs the members' certificates.
    pub issuing: Anchor,
    /// Trusted already, signs members later.
    pub next: Option<Successor>,
    /// Trusted still, signs no more.
    pub old: Option<Anchor>,
}

/// How far the replacement of an authority has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None is under way.
    Steady,
    /// The successor is to be trusted everywhere.
    Introduced,
    /// Members' certificates are signed by the new one; the old one is trusted until the last has changed.
    Replacing,
}

impl Anchors {
    /// One authority and no other.
    #[cfg(test)]
    pub fn only(issuing: Anchor) -> Self {
        Anchors { issuing, next: None, old: None }
    }

    /// See [`Phase`].
    #[must_use]
    pub fn phase(&self) -> Phase {
        match (&self.next, &self.old) {
            (_, Some(_)) => Phase::Replacing,
            (Some(_), None) => Phase::Introduced,
            (None, None) => Phase::Steady,
        }
    }

    /// All that are to be trusted, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<&Anchor> {
        let next = self.next.iter().map(|next| &next.anchor);
        let mut all: Vec<&Anchor> = [&self.issuing].into_iter().chain(next).chain(&self.old).collect();
        all.sort_by_key(|anchor| (anchor.validity.from, &anchor.id));
        all
    }

    /// The ids of all that are to be trusted.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<String> {
        self.all().into_iter().map(|anchor| anchor.id.clone()).collect()
    }

    /// The PEM bundle of all that are to be trusted. The order does not depend on the phase, so that
    /// a change of phase alone rewrites no file.
    #[must_use]
    pub fn bundle(&self) -> String {
        let line = |anchor: &Anchor| format!("{}\n", anchor.pem.trim_end());
        self.all().into_iter().map(line).collect()
    }

    /// True when `self` is what `earlier` becomes by one step, or the same: what a secret holds may be
    /// one step ahead of what was published, never anything else.
    #[must_use]
    pub fn follows(&self, earlier: &Anchors) -> bool {
        let successor = earlier.next.as_ref().map(|next| &next.anchor);
        match self.phase() {
            _ if self == earlier => true,
            Phase::Introduced => earlier.phase() == Phase::Steady && self.issuing == earlier.issuing,
            Phase::Replacing => Some(&self.issuing) == successor && self.old.as_ref() == Some(&earlier.issuing),
            Phase::Steady => earlier.phase() == Phase::Replacing && self.issuing == earlier.issuing,
        }
    }
}

/// The public half of everything the application's secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// For clients.
    pub server: Anchors,
    /// For members among each other.
    pub peer: Anchors,
    /// The cluster's token, which outlives every authority.
    pub token: Word,
}

impl Trust {
    /// The authorities of one side.
    #[must_use]
    pub fn of(&self, side: Side) -> &Anchors {
        match side {
            Side::Server => &self.server,
            Side::Peer => &self.peer,
        }
    }

    /// See [`Anchors::follows`].
    #[must_use]
    pub fn follows(&self, earlier: &Trust) -> bool {
        self.token == earlier.token && Side::BOTH.iter().all(|side| self.of(*side).follows(earlier.of(*side)))
    }
}

/// What a unit's member really does on one port, as seen in a handshake with it; while it is stopped,
/// what lies on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Ids of the authorities it trusts.
    pub trusts: BTreeSet<String>,
    /// Id of the authority that signed the certificate it shows.
    pub issuer: Option<String>,
}

impl Report {
    /// What holds of both.
    #[must_use]
    pub fn meet(&self, other: &Report) -> Report {
        Report {
            trusts: self.trusts.intersection(&other.trusts).cloned().collect(),
            issuer: self.issuer.clone().filter(|issuer| other.issuer.as_ref() == Some(issuer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(name: &str, from: i64) -> Anchor {
        let validity = Validity { from, until: from + 1_000 };
        Anchor { pem: format!("{name} pem"), id: name.to_owned(), name: name.to_owned(), validity }
    }

    #[test]
    fn the_bundle_is_the_same_before_and_after_the_change_of_the_signer() {
        let (a, b) = (anchor("a", 1), anchor("b", 2));
        let successor = Successor { anchor: b.clone(), grace_days: 1 };
        let steady = Anchors::only(a.clone());
        let introduced = Anchors { next: Some(successor), ..steady.clone() };
        let replacing = Anchors { issuing: b.clone(), next: None, old: Some(a) };
        let done = Anchors::only(b);
        assert_eq!(introduced.bundle(), replacing.bundle());
        assert_eq!(introduced.bundle(), "a pem\nb pem\n");
        let steps = [&steady, &introduced, &replacing, &done];
        for (at, earlier) in steps.iter().enumerate() {
            for (to, later) in steps.iter().enumerate() {
                assert_eq!(later.follows(earlier), to == at || to == at + 1, "{at} {to}");
            }
        }
    }

    #[test]
    fn only_what_holds_of_both_reports_is_said() {
        let report = |trusts: &[&str], issuer: &str| Report {
            trusts: trusts.iter().map(|id| (*id).to_owned()).collect(),
            issuer: Some(issuer.to_owned()),
        };
        let (before, after) = (report(&["a", "b"], "a"), report(&["b"], "b"));
        assert_eq!(before.meet(&before), before);
        assert_eq!(before.meet(&after), Report { issuer: None, ..report(&["b"], "") });
    }

    #[test]
    fn a_certificate_is_read_and_anything_else_is_not() {
        let authority = pki::make_authority("clients", 1_800_000_000).unwrap();
        let anchor = Anchor::read(&authority.certificate).unwrap();
        assert_eq!(anchor.name, "clients");
        assert_eq!(anchor.validity, pki::certificate_validity(&authority.certificate).unwrap());
        assert_eq!(Anchor::read("x"), None);
    }
}
