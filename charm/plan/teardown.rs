//! Leaving: a member removes itself while it still runs, then stops.
//!
//! Juju tells a leaving unit at the first departure and at `stop`, before both when its storage is
//! detached, and last at `remove`; all do the same, the last three hold the hook until it is done. When every
//! unit is leaving there is nobody to leave anything to, so the member just stops. A member that holds the
//! only copy of the data, or whose removal the rest could not survive, stays, and an operator overrules with
//! `--force`.
//!
//! Juju's leader stays leader until it is dead, so a leaving leader that has to stay goes on leading: nobody
//! else could sign for the unit that is to replace it, or add its member. What it publishes counts only when
//! a hook ends well, and between `stop` and `remove` there is the last such end: `stop` holds until a
//! successor's member is added and laid down, `remove` until that member has the data and votes.

use super::config::{default_data_dir, generation};
use super::membership::{remains_a_quorum, successor, unit_of};
use super::status::Status;
use super::{Action, Plan, bootstrap, certificates, membership, relations};
use crate::bags::UnitBag;
use crate::facts::{Cluster, Facts, Host, Service, Storage, Store};

/// How much time is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// `stop` is still to come.
    MayWait,
    /// This is `stop`: what is published in it reaches the others before `remove`.
    MayPublish,
    /// After this hook the data is out of reach.
    LastCall,
}

/// Plans this unit's way out.
#[must_use]
pub fn leave(facts: &Facts, urgency: Urgency) -> Plan {
    let heirs = facts.planned().iter().any(|unit| *unit != facts.unit);
    if !heirs {
        return match urgency {
            // Others may still be leaving through us.
            Urgency::MayWait => idle(),
            _ => stop(facts),
        };
    }
    match &facts.store {
        Store::Reachable(cluster) => match facts.own_member() {
            None => stop(facts),
            Some(own) if own.learner || remains_a_quorum(cluster, own) => {
                let mut actions: Vec<Action> =
                    successor(facts).map(|to| Action::MoveLeader { to }).into_iter().collect();
                actions.push(Action::RemoveMember { id: own.id, name: own.name.clone() });
                Plan { actions, status: Status::Leaving, hold: urgency != Urgency::MayWait }
            }
            Some(_) => stay(facts, Some(cluster), urgency),
        },
        // What is on disk may be what nobody else has, also when the daemon does not run.
        Store::Unreachable if facts.host.data && !facts.peer.as_ref().is_some_and(|peer| peer.own.left) => {
            stay(facts, None, urgency)
        }
        Store::Unreachable => stop(facts),
    }
}

/// Stays, sees to it that the daemon runs, since it is needed, and goes on leading.
fn stay(facts: &Facts, cluster: Option<&Cluster>, urgency: Urgency) -> Plan {
    let mut actions = Vec::new();
    if let (Service::Stopped, Some(config), false) = (&facts.host.service, &facts.host.config, facts.done.started) {
        actions.push(Action::StartService { generation: generation(config, &facts.host.stamp) });
    }
    if facts.leader {
        membership::lead(facts, &mut actions);
        bootstrap::authorities(facts, &mut actions);
        certificates::sign(facts, &mut actions);
    }
    relations::publish(facts, &mut actions);
    let expected = cluster.is_some_and(|cluster| is_succeeded(facts, cluster, urgency));
    let only_voter =
        cluster.is_some_and(|cluster| cluster.members.iter().filter(|member| !member.learner).count() == 1);
    let status = match (only_voter, expected) {
        (false, _) => Status::NeededForQuorum,
        (true, true) => Status::HandingOver,
        (true, false) if facts.leader && urgency == Urgency::LastCall => Status::HoldsLastCopy(facts.unit.clone()),
        (true, false) => Status::AwaitingSuccessor,
    };
    match urgency {
        Urgency::MayWait => Plan { actions, ..idle() },
        // Whoever does not lead has nothing to publish, and holds the hook that it is in.
        Urgency::MayPublish => Plan { actions, status, hold: !(facts.leader && expected) },
        Urgency::LastCall => Plan { actions, status, hold: true },
    }
}

/// True when a unit that stays has a member, or has been told how to begin as one. What a last hook writes
/// is told to nobody while the hook is held.
fn is_succeeded(facts: &Facts, cluster: &Cluster, urgency: Urgency) -> bool {
    let Some(peer) = &facts.peer else { return false };
    let planned = facts.planned();
    let succeeds = |unit| planned.contains(&unit) && unit != facts.unit;
    let unheard = urgency == Urgency::LastCall && facts.done.app_written;
    let told = |unit| peer.app.joins.contains_key(&unit) && !unheard;
    cluster.members.iter().any(|member| {
        let unit = unit_of(facts, member);
        unit.is_some_and(|unit| succeeds(unit.clone()) && (!member.name.is_empty() || told(unit)))
    })
}

/// True when the cluster says so. That nothing was published about a member proves nothing: the hook that
/// started it may have ended too early.
fn has_left(facts: &Facts) -> bool {
    matches!(facts.store, Store::Reachable(_)) && facts.own_member().is_none()
}

fn stop(facts: &Facts) -> Plan {
    let mut actions = Vec::new();
    if facts.host.service != Service::Stopped {
        actions.push(Action::StopService);
    }
    if let Some(peer) = facts.peer.as_ref().filter(|peer| has_left(facts) && !peer.own.left) {
        let bag = UnitBag { member: None, votes: false, left: true, ..peer.own.clone() };
        actions.push(Action::PublishUnit(Box::new(bag)));
    }
    bootstrap::unchoose(facts, &mut actions);
    for open in &facts.ports {
        if let Some(Ok(number)) = open.strip_suffix("/tcp").map(str::parse) {
            actions.push(Action::ClosePort(number));
        }
    }
    Plan { actions, status: Status::Stopped, hold: false }
}

/// Nothing to do any more but to wait for the next call.
#[must_use]
pub fn idle() -> Plan {
    Plan { actions: Vec::new(), status: Status::Leaving, hold: false }
}

/// The storage goes although this unit stays. A member cannot go on without its data, so the hook is held,
/// and Juju keeps the storage, unless the data is elsewhere.
#[must_use]
pub fn detach(facts: &Facts) -> Plan {
    let root = &facts.host.root;
    let inside = |storage: &Storage| facts.host.data && facts.host.data_dir == storage.data_dir(root);
    match facts.storage.as_ref().filter(|storage| inside(storage)) {
        Some(storage) => {
            let status = Status::StorageInUse(storage.id.clone(), facts.unit.clone());
            Plan { actions: Vec::new(), status, hold: true }
        }
        None => {
            let elsewhere = if facts.host.data { facts.host.data_dir.clone() } else { default_data_dir(facts) };
            let host = Host { data_dir: elsewhere, ..facts.host.clone() };
            super::reconcile(&Facts { storage: None, host, ..facts.clone() })
        }
    }
}

/// Leaves, if that is still to be done, then cleans the machine. The data is deleted only when the cluster
/// says that it goes on without this member; else, the application's last unit included, it is set aside.
#[must_use]
pub fn clean(facts: &Facts) -> Plan {
    let leaving = leave(facts, Urgency::LastCall);
    if leaving.hold {
        return leaving;
    }
    let mut actions = Vec::new();
    if facts.host.service != Service::Stopped {
        actions.push(Action::StopService);
    }
    bootstrap::unchoose(facts, &mut actions);
    actions.push(Action::CleanHost { keep_data: !has_left(facts) });
    Plan { actions, status: Status::Stopped, hold: false }
}
