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
//! successor's member is added and laid down, `remove` until that member has the data and votes. One that stays
//! because the rest would have no quorum lets in every unit that may repair it before it ends `stop`.

use super::config::{self, default_data_dir, generation};
use super::membership::{remains_a_quorum, successor, unit_of};
use super::status::Status;
use super::{Action, Plan, Remains, bootstrap, certificates, membership, relations};
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
    // Whoever has parted from all others would take itself for the last one. `goal-state` fails for a moment
    // only, so every hook but the first is held until it answers.
    if facts.goal.is_none() {
        let hold = urgency != Urgency::MayWait;
        return Plan { actions: Vec::new(), status: Status::AwaitingGoal, hold };
    }
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
    let entry = cluster.map(|cluster| Entry::of(facts, cluster, urgency)).unwrap_or_default();
    let only_voter =
        cluster.is_some_and(|cluster| cluster.members.iter().filter(|member| !member.learner).count() == 1);
    let last_as_leader = facts.leader && urgency == Urgency::LastCall;
    let status = match (only_voter, entry.someone) {
        (false, _) if last_as_leader && entry.waiting => Status::LetsUnitsIn(facts.unit.clone()),
        (false, _) => Status::NeededForQuorum,
        (true, true) => Status::HandingOver,
        (true, false) if last_as_leader => Status::HoldsLastCopy(facts.unit.clone()),
        (true, false) => Status::AwaitingSuccessor,
    };
    let published = if only_voter { entry.someone } else { entry.someone && (!entry.waiting || entry.pending) };
    match urgency {
        Urgency::MayWait => Plan { actions, ..idle() },
        // Whoever does not lead has nothing to publish, and holds the hook that it is in.
        Urgency::MayPublish => Plan { actions, status, hold: !(facts.leader && published) },
        Urgency::LastCall => Plan { actions, status, hold: true },
    }
}

/// How far the other units that stay have come. One is let in when it has a member, or has been told how to
/// begin as one.
#[derive(Default)]
struct Entry {
    /// One is let in.
    someone: bool,
    /// One is not.
    waiting: bool,
    /// One was told in this very hook. Until it has started no further one can be added, so the hook must end.
    pending: bool,
}

impl Entry {
    /// Juju publishes what a hook writes when the hook ends, so a join written in a held last hook does not count.
    fn of(facts: &Facts, cluster: &Cluster, urgency: Urgency) -> Self {
        let Some(peer) = &facts.peer else { return Entry::default() };
        let unheard = urgency == Urgency::LastCall && facts.done.app_written;
        let mut entry = Entry::default();
        for unit in facts.planned().into_iter().filter(|unit| *unit != facts.unit) {
            let told = peer.app.joins.contains_key(&unit) && !unheard;
            let members = || cluster.members.iter().filter(|member| unit_of(facts, member).as_ref() == Some(&unit));
            let started = members().any(|member| !member.name.is_empty());
            let begins = told && members().next().is_some();
            entry.someone |= started || begins;
            entry.waiting |= !started && !begins;
            entry.pending |= !started && begins && facts.done.app_written;
        }
        entry
    }
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
/// says that it goes on without this member; else, the application's last unit included, it is set aside. What
/// this member does not own is left alone.
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
    let own = config::owns_data(facts);
    let data = if own && has_left(facts) {
        Remains::Deleted
    } else if own || !facts.host.data {
        Remains::SetAside
    } else {
        Remains::Foreign(facts.host.data_dir.clone())
    };
    actions.push(Action::CleanHost { data });
    Plan { actions, status: Status::Stopped, hold: false }
}
