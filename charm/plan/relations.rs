//! What this unit publishes: its own databag, its ports, its version; and what the leader forgets.

use super::{Action, config, rotation};
use crate::bags::{AppChange, UnitBag};
use crate::facts::{Authorities, Facts, PEER_PORT, Side, Store};
use crate::text::ClientUrl;

/// Plans this unit's databag.
pub fn publish(facts: &Facts, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    let mut bag = UnitBag { member: peer.own.member, votes: peer.own.votes, ..UnitBag::default() };
    match &facts.network {
        Some(network) => {
            // What the daemon listens on, which is the new option only after its turn to restart.
            let port = match &facts.host.config {
                Some(config) => config.port(),
                None => config::in_force(facts).unwrap_or_default().port,
            };
            bag.peer_url = facts.peer_url();
            bag.client_url = Some(ClientUrl::at(network.ingress, port));
            bag.names = network.names.clone();
        }
        // Juju has forgotten our address for a moment; what was published stays.
        None => {
            bag.peer_url = peer.own.peer_url.clone();
            bag.client_url = peer.own.client_url.clone();
            bag.names = peer.own.names.clone();
        }
    }
    for (side, pair) in &facts.host.pairs {
        if let Some(request) = &pair.request {
            bag.requests.insert(*side, request.clone());
        }
    }
    // A member that has no name yet has never started, so it may still start for the first time.
    if let Some(member) = facts.own_member().filter(|member| !member.name.is_empty()) {
        bag.member = Some(member.id);
        bag.votes = !member.learner;
        if facts.peer_url().is_some_and(|url| url != member.peer_url)
            && let Some(peer_url) = facts.peer_url()
        {
            actions.push(Action::UpdatePeerUrl { id: member.id, peer_url });
        }
    }
    bag.restart = config::wanted_restart(facts);
    for side in Side::BOTH {
        let report = rotation::own_report(facts, side);
        if report != crate::trust::Report::default() {
            bag.reports.insert(side, report);
        }
    }
    if bag != peer.own {
        actions.push(Action::PublishUnit(Box::new(bag)));
    }
}

/// Plans open ports and the shown version, once there is a member to reach.
pub fn ports(facts: &Facts, actions: &mut Vec<Action>) {
    let Store::Reachable(cluster) = &facts.store else { return };
    if facts.own_member().is_none() {
        return;
    }
    let port = facts.host.config.as_ref().map_or(2379, config::DaemonConfig::port);
    let wanted = [port, PEER_PORT].map(|port| format!("{port}/tcp"));
    for (number, name) in [port, PEER_PORT].into_iter().zip(&wanted) {
        if !facts.ports.contains(name) {
            actions.push(Action::OpenPort(number));
        }
    }
    for open in &facts.ports {
        if let Some(Ok(number)) = open.strip_suffix("/tcp").map(str::parse)
            && !wanted.contains(open)
        {
            actions.push(Action::ClosePort(number));
        }
    }
    if let Some(version) = &cluster.version {
        actions.push(Action::SetVersion(version.clone()));
    }
}

/// Plans the end of the oldest revision of the secret that is not the latest: it may hold keys of authorities
/// that were replaced, and every reader takes the latest. What is there decides, not a hook that tells of it
/// once. One revision per hook, because Juju keeps one pending removal per secret. While the latest is not what
/// is published, older ones stay: an operator may need them.
pub fn prune(facts: &Facts, actions: &mut Vec<Action>) {
    let (Some(peer), Some(latest)) = (&facts.peer, facts.secret_revision) else { return };
    let (Authorities::Held(held), Some(published)) = (&facts.authorities, &peer.app.trust) else { return };
    // Juju takes the removal of revision 0 for that of the whole secret.
    let oldest = peer.app.kept_from.unwrap_or(1).max(1);
    let removable = oldest < latest && !takes_along(oldest, latest);
    if held == published && removable && !facts.done.secret_changed {
        actions.push(Action::PruneSecret(oldest));
    }
}

/// True when the removal of `revision` would remove the latest one too: some releases of Juju 3 delete whatever
/// begins with `<secret>/<revision>`, so that with 1 they delete 10 to 19.
fn takes_along(revision: u64, latest: u64) -> bool {
    latest.to_string().starts_with(&revision.to_string())
}

/// Plans the end of what the leader published for units that no longer exist.
pub fn forget(facts: &Facts, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    let Store::Reachable(cluster) = &facts.store else { return };
    let mut named: Vec<_> = peer.app.joins.keys().chain(peer.app.certificates.keys().map(|(unit, _)| unit)).collect();
    named.sort();
    named.dedup();
    for unit in named {
        let listed = cluster.members.iter().any(|member| member.name == unit.member_name() || member.name.is_empty());
        if facts.gone(unit) && !listed {
            actions.push(Action::PublishApp(AppChange::Forget(unit.clone())));
        }
    }
}
