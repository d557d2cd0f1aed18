//! Requests, signatures and installed certificates.
//!
//! A unit's key is made where it is used and stays; only its request travels. The leader signs a
//! request when there is no certificate for that key and those names, when the one there is was
//! signed by another authority than the present signer, or at two thirds of its life. Comparing request and answer on every
//! hook replaces any memory of what was asked when.

use super::Action;
use crate::facts::{Authorities, Certificate, Facts, Life, Side, Unit};
use crate::trust::Anchors;

/// Plans this unit's requests.
pub fn request(facts: &Facts, actions: &mut Vec<Action>) {
    let Some(network) = &facts.network else { return };
    for side in Side::BOTH {
        let current = facts.host.pairs.get(&side).and_then(|pair| pair.request.as_ref());
        if current.is_none_or(|request| request.says.names != network.names) {
            actions.push(Action::MakeRequest {
                side,
                common_name: facts.unit.member_name(),
                names: network.names.clone(),
            });
        }
    }
}

/// A certificate of this unit and the authorities beside it, published and not yet on its disk.
pub struct Due<'a> {
    /// The certificate.
    pub certificate: &'a Certificate,
    /// The authorities to trust.
    pub anchors: &'a Anchors,
}

/// What is to be installed for a side now, if anything. A unit does not go back to an authority that signs no more:
/// what it signed for itself as a leader it may have reported, although Juju kept the certificate no more than its
/// leadership, and the old authority is dropped on such reports.
#[must_use]
pub fn due(facts: &Facts, side: Side) -> Option<Due<'_>> {
    let peer = facts.peer.as_ref()?;
    let anchors = peer.app.trust.as_ref()?.of(side);
    let pair = facts.host.pairs.get(&side)?;
    let certificate = peer.app.certificates.get(&(facts.unit.clone(), side))?;
    let ours = pair.request.as_ref().is_some_and(|request| request.says.public_key == certificate.says.public_key);
    let installed =
        pair.certificate.as_ref() == Some(&certificate.pem) && pair.trust.as_ref() == Some(&anchors.bundle());
    let signer = Some(&anchors.issuing.id);
    let back = pair.report.issuer.as_ref() == signer && certificate.issuer.as_ref() != signer;
    (ours && certificate.issuer.is_some() && !installed && !back).then_some(Due { certificate, anchors })
}

/// Plans the installation of this unit's signed certificates.
pub fn install(facts: &Facts, actions: &mut Vec<Action>) {
    for side in Side::BOTH {
        if let Some(due) = due(facts, side) {
            let (certificate, trust) = (due.certificate.pem.clone(), due.anchors.bundle());
            actions.push(Action::InstallCertificate { side, certificate, trust });
        }
    }
}

/// Plans what the leader signs.
pub fn sign(facts: &Facts, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    let (Authorities::Held(held), Some(published)) = (&facts.authorities, &peer.app.trust) else {
        return;
    };
    if held != published {
        return;
    }
    let all = peer.units.iter().chain([(&facts.unit, &peer.own)]);
    for (unit, bag) in all {
        let dead = facts.goal.as_ref().is_some_and(|goal| goal.get(unit) != Some(&Life::Alive));
        if dead {
            continue;
        }
        for side in Side::BOTH {
            let Some(request) = bag.requests.get(&side) else { continue };
            // A unit speaks for its own member only: another subject could be the name of a user.
            let own = request.says.subject == unit.member_name() && request.says.names == bag.names;
            if own && !bag.names.is_empty() && is_due(facts, unit, side) {
                actions.push(Action::Issue {
                    unit: unit.clone(),
                    side,
                    request: request.pem.clone(),
                    names: bag.names.clone(),
                });
            }
        }
    }
}

/// True when the unit's published request has no proper answer yet.
fn is_due(facts: &Facts, unit: &Unit, side: Side) -> bool {
    let Some(peer) = &facts.peer else { return false };
    let bag = if *unit == facts.unit { Some(&peer.own) } else { peer.units.get(unit) };
    let Some(request) = bag.and_then(|bag| bag.requests.get(&side)) else { return false };
    match peer.app.certificates.get(&(unit.clone(), side)) {
        None => true,
        Some(signed) => {
            let signer = peer.app.trust.as_ref().map(|trust| &trust.of(side).issuing.id);
            signed.says != request.says || signed.issuer.as_ref() != signer || signed.validity.renewal_due(facts.now)
        }
    }
}

/// True when both certificates of a unit are published and answer its current requests.
#[must_use]
pub fn complete(facts: &Facts, unit: &Unit) -> bool {
    let signed =
        |side: Side| facts.peer.as_ref().is_some_and(|peer| peer.app.certificates.contains_key(&(unit.clone(), side)));
    Side::BOTH.iter().all(|side| signed(*side) && !is_due(facts, unit, *side))
}
