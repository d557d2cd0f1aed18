//! The authorities and the choice of the unit that starts the cluster: the leader's first steps.
//!
//! Invariants: authorities are made once in the application's life; the cluster is started by one
//! unit, chosen in an earlier hook than the one that starts it; another is chosen only when the
//! first no longer exists and nobody was ever added to its cluster.

use super::Action;
use crate::bags::AppChange;
use crate::facts::{Authorities, Facts};

/// Plans the authorities and the choice.
pub fn lead(facts: &Facts, actions: &mut Vec<Action>) {
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
    if choice_is_open(facts) {
        actions.push(Action::PublishApp(AppChange::Bootstrap(facts.unit.clone())));
    }
}

/// True when no unit is chosen, or the chosen one is gone and with it the only copy of the data:
/// nobody who still exists, not even somebody who is leaving, was ever added to its cluster.
fn choice_is_open(facts: &Facts) -> bool {
    let Some(peer) = &facts.peer else { return false };
    let Some(chosen) = &peer.app.bootstrap else { return true };
    let added = peer.app.joins.keys().any(|unit| !facts.gone(unit));
    chosen != &facts.unit && facts.gone(chosen) && !added && peer.own.member.is_none()
}
