//! The application's own status, which the leader sets: how the cluster is, in one sentence with a count.
//!
//! Without it Juju shows one of the units' sentences, another each time. A member is well by the check of the
//! action `health`, but that counts every member; here one whose unit is leaving or gone does not count, nor
//! does one that is on its way. While the quorum is silent the count is that of the action.

use std::collections::BTreeMap;

use super::status::{self, Status, Word};
use crate::facts::{Census, Cluster, Facts, Life, Member, Store, Unit};

/// The application's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overall {
    /// Juju's word for it.
    pub word: Word,
    /// The sentence.
    pub sentence: String,
}

/// What the leader tells; `None` on any other unit. `own` is the leader's own status.
#[must_use]
pub fn overall(facts: &Facts, own: &Status) -> Option<Overall> {
    if !facts.leader {
        return None;
    }
    let census = match &facts.store {
        Store::Reachable(cluster) => Some(count(facts, cluster)),
        Store::Unreachable => facts.census,
    };
    let complaint = census.filter(|census| census.members > 0).and_then(Census::complaint);
    let told = complaint.map(|sentence| Overall { word: Word::Blocked, sentence });
    told.or_else(|| own_trouble(facts, own)).or_else(|| Some(well(facts, census?)))
}

/// The members that are to be well: they vote, and their units are wanted.
fn count(facts: &Facts, cluster: &Cluster) -> Census {
    let counted: Vec<&Member> = cluster.members.iter().filter(|member| counts(facts, member)).collect();
    Census { members: counted.len(), ill: counted.iter().filter(|member| !is_well(facts, cluster, member)).count() }
}

fn counts(facts: &Facts, member: &Member) -> bool {
    let unwanted = |goal: &BTreeMap<Unit, Life>| {
        !goal.iter().any(|(unit, life)| *life == Life::Alive && member.name == unit.member_name())
    };
    // Our own is starting until it was seen to serve once.
    let starting = facts.own_member().is_some_and(|own| own.id == member.id) && !is_registered(facts);
    !member.learner && !starting && !facts.goal.as_ref().is_some_and(unwanted)
}

/// This unit's own member is judged by its own daemon too.
fn is_well(facts: &Facts, cluster: &Cluster, member: &Member) -> bool {
    let own = facts.own_member().is_some_and(|own| own.id == member.id);
    member.healthy && (!own || cluster.own_healthy)
}

fn is_registered(facts: &Facts) -> bool {
    facts.peer.as_ref().is_some_and(|peer| peer.own.member.is_some())
}

/// What the leader's own unit waits for or complains of. One that leaves while others stay says nothing for
/// them, unless it cannot go.
fn own_trouble(facts: &Facts, own: &Status) -> Option<Overall> {
    let stay = facts.planned().iter().any(|unit| *unit != facts.unit);
    let word = own.word();
    if word == Word::Active || facts.dying() && stay && word != Word::Blocked {
        return None;
    }
    let sentence = own.sentence(false);
    let sentence = match own {
        Status::BadOption(_) | Status::AuthoritiesGone | Status::AuthoritiesUnusable(_) => sentence,
        _ if word == Word::Blocked => format!("{}: {sentence}", facts.unit),
        _ => sentence,
    };
    Some(Overall { word, sentence })
}

fn well(facts: &Facts, census: Census) -> Overall {
    let planned = facts.planned().len();
    if census.members < planned {
        let sentence = format!("cluster is healthy; {} of {planned} units have joined", census.members);
        return Overall { word: Word::Waiting, sentence };
    }
    let rotation = status::rotating(facts).map(|wait| format!("; {}", wait.sentence())).unwrap_or_default();
    let sentence = format!("cluster is healthy: {0} of {0} members{rotation}", census.members);
    Overall { word: Word::Active, sentence }
}
