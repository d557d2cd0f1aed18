//! The authorities and the choice of the unit that starts the cluster: the leader's first steps.
//!
//! Invariants: authorities are made once in the application's life; the cluster is started by one
//! unit, chosen in an earlier hook than the one that starts it. From then on no other unit starts one,
//! whatever was forced or skipped: another is chosen only when the first says itself, as it leaves, that
//! it never started, or when an operator gives the cluster up with `new-cluster`. And whatever the choice
//! says, nothing is chosen or begun while there is a sign of a cluster ([`is_seen`]).

use super::Action;
use crate::bags::{AppChange, UnitBag};
use crate::facts::{Authorities, Facts, Service, Store};

/// Plans the authorities and the choice.
pub fn lead(facts: &Facts, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    authorities(facts, actions);
    if peer.app.bootstrap.is_none() && !is_seen(facts) {
        actions.push(Action::PublishApp(AppChange::Bootstrap(facts.unit.clone())));
    }
}

/// Plans the authorities: makes them, or publishes what reached the secret only. Until then nothing is signed.
pub fn authorities(facts: &Facts, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    match (&facts.authorities, &peer.app.trust) {
        // Something was written in this hook and may not be readable yet: wait for the next one.
        (Authorities::Absent, None) if !facts.done.app_written => {
            actions.push(Action::CreateAuthorities);
        }
        // The secret was kept but the hook that made it did not publish: its successor does.
        (Authorities::Held(trust), None) => {
            actions.push(Action::PublishApp(AppChange::Trust(trust.clone())));
        }
        // Likewise one step of a replacement that reached the secret only.
        (Authorities::Held(trust), Some(published)) if trust != published && trust.follows(published) => {
            actions.push(Action::PublishApp(AppChange::Trust(trust.clone())));
        }
        _ => {}
    }
}

/// True when something tells of a cluster that has begun and was not given up: it answers, a unit has a member,
/// or one was told how to join.
#[must_use]
pub fn is_seen(facts: &Facts) -> bool {
    let Some(peer) = &facts.peer else { return false };
    let has_member = peer.units.values().chain([&peer.own]).any(|bag| bag.member.is_some());
    has_member || !peer.app.joins.is_empty() || facts.store != Store::Unreachable
}

/// Gives the choice back when this unit goes and cannot have started: it is the chosen one, and no
/// settings, without which no member starts, were ever written here. Nor are there settings where `remove` has
/// cleaned the machine and runs again; but then the member has left, and there is a cluster.
pub fn unchoose(facts: &Facts, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    let never_started = facts.host.config.is_none() && !facts.host.data && !peer.own.left && !is_seen(facts);
    if facts.leader && peer.app.bootstrap.as_ref() == Some(&facts.unit) && never_started {
        actions.push(Action::PublishApp(AppChange::Unchoose));
    }
}

/// True when the cluster was begun and no existing unit can have its data: the unit that began it is gone, no
/// other unit has published a member, and no other unit was told how to join.
#[must_use]
pub fn is_gone(facts: &Facts) -> bool {
    let Some(peer) = &facts.peer else { return false };
    let begun_by_the_gone = peer.app.bootstrap.as_ref().is_some_and(|chosen| facts.gone(chosen));
    let told = |unit| peer.app.joins.contains_key(unit);
    let another = peer.units.iter().any(|(unit, bag)| bag.member.is_some() || told(unit));
    let own = facts.host.data || peer.own.member.is_some();
    begun_by_the_gone && !another && !own && facts.store == Store::Unreachable
}

/// True when this unit's member cannot take part, because no unit of the members it was told to join
/// exists any more.
#[must_use]
pub fn is_stranded(facts: &Facts) -> bool {
    let Some(config) = facts.host.config.as_ref().filter(|config| config.initial_cluster_state != "new") else {
        return false;
    };
    let Some(goal) = &facts.goal else { return false };
    let own = facts.unit.member_name();
    let exists = |name: &str| goal.keys().any(|unit| unit.member_name() == name);
    let mut names = config.initial_cluster.split(',').filter_map(|pair| pair.split('=').next());
    facts.store == Store::Unreachable && names.all(|name| name == own || !exists(name))
}

/// What `new-cluster` does: gives the application's cluster up and chooses this unit to begin a new, empty
/// one in a later hook. What this unit has on its disk is set aside.
///
/// # Errors
/// Why not, with the way out; nothing is to be changed then.
pub fn begin_anew(facts: &Facts, confirm: &str) -> Result<Vec<Action>, String> {
    let application = &facts.unit.application;
    if confirm != application {
        return Err(format!("confirm is not the application's name: give confirm={application} to begin without data"));
    }
    if !facts.leader {
        return Err(format!("only the leader can do this: juju run {application}/leader new-cluster"));
    }
    let Some(peer) = facts.peer.as_ref().filter(|peer| peer.app.bootstrap.is_some()) else {
        return Err("no cluster has begun yet, so none can be given up: wait until the unit is active".to_owned());
    };
    if facts.goal.is_none() {
        return Err("Juju does not say which units exist: try again".to_owned());
    }
    if facts.store != Store::Unreachable {
        return Err("the cluster answers: it is not given up".to_owned());
    }
    if let Some((unit, _)) = peer.units.iter().find(|(_, bag)| bag.member.is_some()) {
        return Err(format!("{unit} has a member with data: repair that unit, or remove it first"));
    }
    let mut actions = Vec::new();
    if facts.host.service != Service::Stopped {
        actions.push(Action::StopService);
    }
    if facts.host.data {
        actions.push(Action::SetDataAside);
    }
    let bag = UnitBag { member: None, votes: false, restart: None, ..peer.own.clone() };
    actions.push(Action::PublishUnit(Box::new(bag)));
    let ended = peer.app.joins.keys().map(|unit| AppChange::JoinEnds(unit.clone()));
    let begun = [AppChange::GivenUp(peer.app.given_up + 1), AppChange::Bootstrap(facts.unit.clone())];
    actions.extend(ended.chain(begun).map(Action::PublishApp));
    Ok(actions)
}
