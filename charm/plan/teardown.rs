//! Leaving: a member removes itself while it still runs, then stops.
//!
//! Juju tells a leaving unit at the first departure and at `stop`, and before both when its storage is
//! detached; all do the same, the last two insist. When every unit is leaving there is nobody to leave anything to, so the member
//! just stops. A member that holds the only copy of the data, or whose removal the rest could not
//! survive, stays and fails `stop`, so that Juju asks again; an operator overrules with `--force`.

use super::config::{default_data_dir, generation};
use super::membership::{remains_a_quorum, successor};
use super::status::Status;
use super::{Action, Plan};
use crate::facts::{Facts, Host, Service, Storage, Store};

/// How much time is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// `stop` is still to come.
    MayWait,
    /// This is `stop`.
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
            Urgency::LastCall => stop(facts),
        };
    }
    match &facts.store {
        Store::Reachable(cluster) => match facts.own_member() {
            None => stop(facts),
            Some(own) if own.learner || remains_a_quorum(cluster, own) => {
                let mut actions: Vec<Action> =
                    successor(facts).map(|to| Action::MoveLeader { to }).into_iter().collect();
                actions.push(Action::RemoveMember { id: own.id, name: own.name.clone() });
                Plan { actions, status: Status::Leaving, insist: urgency == Urgency::LastCall }
            }
            Some(_) if cluster.members.iter().filter(|member| !member.learner).count() == 1 => {
                stay(facts, urgency, Status::HoldsLastCopy)
            }
            Some(_) => stay(facts, urgency, Status::NeededForQuorum),
        },
        // What is on disk may be what nobody else has, also when the daemon does not run.
        Store::Unreachable if facts.host.data => stay(facts, urgency, Status::NeededForQuorum),
        Store::Unreachable => stop(facts),
    }
}

/// Stays, and sees to it that the daemon runs, since it is needed; insists only at the last call.
fn stay(facts: &Facts, urgency: Urgency, status: Status) -> Plan {
    let mut actions = Vec::new();
    if let (Service::Stopped, Some(config), false) = (&facts.host.service, &facts.host.config, facts.done.started) {
        actions.push(Action::StartService { generation: generation(config, &facts.host.stamp) });
    }
    match urgency {
        Urgency::MayWait => Plan { actions, ..idle() },
        Urgency::LastCall => Plan { actions, status, insist: true },
    }
}

fn stop(facts: &Facts) -> Plan {
    let mut actions = Vec::new();
    if facts.host.service != Service::Stopped {
        actions.push(Action::StopService);
    }
    for open in &facts.ports {
        if let Some(Ok(number)) = open.strip_suffix("/tcp").map(str::parse) {
            actions.push(Action::ClosePort(number));
        }
    }
    Plan { actions, status: Status::Stopped, insist: false }
}

/// Nothing to do any more but to wait for the next call.
#[must_use]
pub fn idle() -> Plan {
    Plan { actions: Vec::new(), status: Status::Leaving, insist: false }
}

/// The storage goes although this unit stays. A member cannot go on without its data, so the hook
/// fails, and Juju keeps the storage, unless the data is elsewhere.
#[must_use]
pub fn detach(facts: &Facts) -> Plan {
    let root = &facts.host.root;
    let inside = |storage: &Storage| facts.host.data && facts.host.data_dir == storage.data_dir(root);
    match facts.storage.as_ref().filter(|storage| inside(storage)) {
        Some(storage) => {
            let status = Status::StorageInUse(storage.id.clone(), facts.unit.clone());
            Plan { actions: Vec::new(), status, insist: true }
        }
        None => {
            let elsewhere = if facts.host.data { facts.host.data_dir.clone() } else { default_data_dir(facts) };
            let host = Host { data_dir: elsewhere, ..facts.host.clone() };
            super::reconcile(&Facts { storage: None, host, ..facts.clone() })
        }
    }
}

/// Cleans the machine. The data is deleted only when the cluster says that it goes on without this
/// member; else, the application's last unit included, it is set aside.
#[must_use]
pub fn clean(facts: &Facts) -> Plan {
    let mut actions = Vec::new();
    if facts.host.service != Service::Stopped {
        actions.push(Action::StopService);
    }
    let goes_on = matches!(facts.store, Store::Reachable(_)) && facts.own_member().is_none();
    actions.push(Action::CleanHost { keep_data: !goes_on });
    Plan { actions, status: Status::Stopped, insist: false }
}
