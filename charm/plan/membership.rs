//! Who is in the cluster: the leader adds, lays down and prunes; one change at a time.
//!
//! Truth is the member list agreed by the quorum, never a flag. Invariants: a member is added only
//! when every other one votes and a quorum would outlive the newcomer; one plan changes the member list at most once; a member is
//! pruned only when its unit is unwanted and it does not answer (or its unit no longer exists), and
//! only if those that remain form a quorum; the last voter is never removed.

use std::collections::BTreeSet;

use super::{Action, certificates};
use crate::bags::AppChange;
use crate::facts::{Cluster, Facts, Life, Member, Store, Unit};
use crate::text::{InitialCluster, MemberName, PeerUrl};

/// Plans everything the leader owes the member list.
pub fn lead(facts: &Facts, actions: &mut Vec<Action>) {
    let Store::Reachable(cluster) = &facts.store else { return };
    if let Some(member) = to_prune(facts, cluster) {
        actions.push(Action::RemoveMember { id: member.id, name: member.name.clone() });
        return;
    }
    lay_down(facts, cluster, actions);
    if let Some((unit, peer_url)) = to_admit(facts, cluster) {
        actions.push(Action::AddLearner { unit, peer_url });
        return;
    }
    hand_on_turn(facts, cluster, actions);
}

/// The unit a member belongs to, among all units that exist: by its name once it has started. Before that
/// the URL is all there is, and an address may have had other owners: it counts only for a unit that has
/// started no other member, for one that is wanted before one that is going, and for the one it was laid
/// down for before one that has merely published it.
#[must_use]
pub fn unit_of(facts: &Facts, member: &Member) -> Option<Unit> {
    let peer = facts.peer.as_ref()?;
    let mut known: BTreeSet<Unit> = peer.units.keys().chain(peer.app.joins.keys()).cloned().collect();
    known.extend(facts.goal.iter().flat_map(|goal| goal.keys().cloned()));
    known.insert(facts.unit.clone());
    known.retain(|unit| !facts.gone(unit));
    if !member.name.is_empty() {
        return known.into_iter().find(|unit| member.name == unit.member_name());
    }
    let planned = facts.planned();
    let claims = known.into_iter().filter_map(|unit| {
        let bag = if unit == facts.unit { Some(&peer.own) } else { peer.units.get(&unit) };
        let pair = format!("{}={}", unit.member_name(), member.peer_url);
        let laid_down = peer.app.joins.get(&unit).is_some_and(|line| line.split(',').any(|part| part == pair));
        let published = bag.is_some_and(|bag| bag.may_become(member));
        let other = bag.is_some_and(|bag| bag.member.is_some_and(|id| id != member.id));
        (published || laid_down && !other).then_some((!planned.contains(&unit), !laid_down, unit))
    });
    claims.min().map(|(_, _, unit)| unit)
}

/// The member to remove now, if any.
fn to_prune<'a>(facts: &Facts, cluster: &'a Cluster) -> Option<&'a Member> {
    // Without Juju's list nobody is known to be gone.
    let goal = facts.goal.as_ref()?;
    cluster.members.iter().find(|member| {
        let life = unit_of(facts, member).and_then(|unit| goal.get(&unit).copied());
        let unwanted = match life {
            Some(Life::Alive) => false,
            // It removes itself while it can.
            Some(Life::Dying) => !member.reachable,
            None => true,
        };
        unwanted && remains_a_quorum(cluster, member)
    })
}

/// True when the voters that answer, without `leaving`, are a majority of the voters without it.
#[must_use]
pub fn remains_a_quorum(cluster: &Cluster, leaving: &Member) -> bool {
    let rest = || cluster.members.iter().filter(|m| !m.learner && m.id != leaving.id);
    let (voters, answering) = (rest().count(), rest().filter(|m| m.reachable).count());
    voters > 0 && answering > voters / 2
}

/// Publishes the static `initial-cluster` of each member that has not started yet.
fn lay_down(facts: &Facts, cluster: &Cluster, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    // A voter without a name may have started and voted: nobody else may begin in its place.
    for member in cluster.members.iter().filter(|member| member.name.is_empty() && member.learner) {
        let Some(unit) = unit_of(facts, member) else { continue };
        let Some(line) = initial_cluster(cluster, member, &unit) else { continue };
        if peer.app.joins.get(&unit) != Some(&line) {
            actions.push(Action::PublishApp(AppChange::Join(unit, line)));
        }
    }
}

/// Every member; `None` while another one has no name yet, or one that cannot be listed.
fn initial_cluster(cluster: &Cluster, joining: &Member, unit: &Unit) -> Option<InitialCluster> {
    let listed = cluster.members.iter().map(|member| {
        let own = member.id == joining.id;
        let name = if own { MemberName::read(&unit.member_name()) } else { member.name.clone() };
        (name, member.peer_url.clone())
    });
    InitialCluster::of(listed.collect())
}

/// The unit to add now, if any: the lowest-numbered one that is wanted, published and certified.
fn to_admit(facts: &Facts, cluster: &Cluster) -> Option<(Unit, PeerUrl)> {
    let peer = facts.peer.as_ref()?;
    if !has_room(cluster) {
        return None;
    }
    let planned = facts.planned();
    peer.units
        .iter()
        .chain([(&facts.unit, &peer.own)])
        .filter_map(|(unit, bag)| {
            let url = bag.peer_url.as_ref()?;
            let listed =
                cluster.members.iter().any(|member| member.name == unit.member_name() || member.peer_url == *url);
            let fresh = bag.member.is_none() && !listed;
            (planned.contains(unit) && fresh && certificates::complete(facts, unit))
                .then(|| (unit.clone(), url.clone()))
        })
        .min()
}

/// True when no earlier joiner is still on its way and the members that answer, with one more,
/// would be a majority of one more voter. A dead member alone does not keep others out.
fn has_room(cluster: &Cluster) -> bool {
    let answering = cluster.members.iter().filter(|member| member.reachable).count();
    cluster.members.iter().all(|member| !member.learner && !member.name.is_empty())
        && answering + 1 > cluster.members.len().div_ceil(2)
}

/// Gives the turn to restart to one unit at a time, and only while all members serve.
fn hand_on_turn(facts: &Facts, cluster: &Cluster, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    let planned = facts.planned();
    let wants = |unit: &Unit| {
        let bag = if *unit == facts.unit { Some(&peer.own) } else { peer.units.get(unit) };
        bag.and_then(|bag| bag.restart.clone())
    };
    if let Some((unit, generation)) = &peer.app.turn
        && planned.contains(unit)
        && wants(unit).as_ref() == Some(generation)
    {
        return;
    }
    let settled = cluster.members.iter().all(|member| !member.learner && member.reachable && member.healthy);
    let next = planned.iter().find_map(|unit| Some((unit.clone(), wants(unit)?)));
    let next = if settled { next } else { None };
    if next != peer.app.turn {
        actions.push(Action::PublishApp(AppChange::Turn(next)));
    }
}

/// The member to move raft leadership to before this unit's member restarts or leaves: one that
/// votes and answers. `None` when this unit's member does not lead.
#[must_use]
pub fn successor(facts: &Facts) -> Option<u64> {
    let Store::Reachable(cluster) = &facts.store else { return None };
    let own = facts.own_member()?;
    if cluster.leader != own.id {
        return None;
    }
    let wanted: BTreeSet<String> = facts.planned().iter().map(Unit::member_name).collect();
    cluster
        .members
        .iter()
        .filter(|member| member.id != own.id && !member.learner && member.reachable)
        .max_by_key(|member| wanted.contains(&*member.name))
        .map(|member| member.id)
}
