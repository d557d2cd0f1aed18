//! Replacing an authority in three phases, none of which breaks a connection: trust old and new
//! everywhere, have the members' certificates signed by the new one, drop the old.
//!
//! The phase is what the secret holds (see `trust.rs`); whether it is over is read from what every
//! member reports about itself, never remembered. A member that has not reported holds the phase: it
//! may be late, but it will meet others only on common ground. Clients cannot report, so between the
//! first and the second phase of their authority lies a time of grace, in which both their old and
//! their new credentials work; it ends when its date has come or an operator says so. Until then the
//! members go on showing certificates that the old authority signed, because old clients know no other.

use std::collections::BTreeSet;

use etcd_charm::pki::DAY;

use super::{Action, certificates, membership};
use crate::bags::AppChange;
use crate::facts::{Authorities, Facts, Service, Side, Store};
use crate::trust::{Phase, Report};

/// Grace for clients when an operator did not say, in days.
pub const GRACE_DAYS: i64 = 30;
/// Longest grace, in days.
pub const MAX_GRACE_DAYS: i64 = 3_650;
/// Grace for clients of an authority that is replaced because of its age, in days: the usual life of
/// their certificates, so whoever renews in time never notices.
pub const AGED_GRACE_DAYS: i64 = 365;

/// One step of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the successor and have it trusted.
    Introduce {
        /// See [`crate::trust::Successor`].
        grace_days: i64,
    },
    /// Let the successor sign.
    Replace,
    /// Trust the predecessor no more.
    Drop,
}

impl Step {
    /// One line for the log.
    #[must_use]
    pub fn describe(self, side: Side) -> String {
        let word = side.authority_word();
        match self {
            Step::Introduce { .. } => format!("making a new {word} authority, to be trusted beside the old one"),
            Step::Replace => format!("the new {word} authority signs members' certificates from now on"),
            Step::Drop => format!("the old {word} authority is trusted no more"),
        }
    }
}

/// What a side's replacement waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Members that do not yet trust the successor, or do not yet show a certificate it signed.
    Members(Side, BTreeSet<String>),
    /// The clients' time of grace, until this second.
    Clients(i64),
    /// The cluster does not answer, so nobody knows its members.
    Cluster(Side),
}

/// Plans the next step of each side. Comes last in a plan, and nothing may follow in the same hook:
/// the step rests on what Juju promises about leadership for the next seconds.
pub fn lead(facts: &Facts, actions: &mut Vec<Action>) {
    let Some(peer) = &facts.peer else { return };
    let (Authorities::Held(held), Some(published)) = (&facts.authorities, &peer.app.trust) else { return };
    // What this very hook has published may yet be lost: were the next step taken on it, the others would
    // see two at once. The write itself brings another hook.
    if held != published || facts.done.app_written || actions.iter().any(unsettles) {
        return;
    }
    let mut steps = Vec::new();
    for side in Side::BOTH {
        let anchors = published.of(side);
        let wait = waits_for(facts, side);
        match (anchors.phase(), wait) {
            (Phase::Steady, _) if anchors.issuing.validity.renewal_due(facts.now) => {
                steps.push((side, Step::Introduce { grace_days: AGED_GRACE_DAYS }));
            }
            (Phase::Introduced, None) if side == Side::Server && !peer.app.deadlines.contains_key(&side) => {
                let grace = anchors.next.as_ref().map_or(GRACE_DAYS, |next| next.grace_days);
                let until = facts.now + grace * DAY;
                actions.push(Action::PublishApp(AppChange::Deadline(side, Some(until))));
            }
            (Phase::Introduced, None) => steps.push((side, Step::Replace)),
            (Phase::Replacing, None) => steps.push((side, Step::Drop)),
            _ => {}
        }
    }
    if !steps.is_empty() {
        actions.push(Action::Rotate(steps));
    }
}

/// True for what changes this unit's certificates or what is published about anybody's, so that the
/// reports at hand are about to be old, and for what may take longer than leadership is promised.
fn unsettles(action: &Action) -> bool {
    action.writes_app()
        || matches!(
            action,
            Action::InstallCertificate { .. } | Action::StartService { .. } | Action::RestartService { .. }
        )
}

/// What the side's replacement waits for; `None` when its next step is due or none is under way.
#[must_use]
pub fn waits_for(facts: &Facts, side: Side) -> Option<Wait> {
    let peer = facts.peer.as_ref()?;
    let anchors = peer.app.trust.as_ref()?.of(side);
    let late = |good: &dyn Fn(&Report) -> bool| match late(facts, side, good) {
        None => Some(Wait::Cluster(side)),
        Some(names) if names.is_empty() => None,
        Some(names) => Some(Wait::Members(side, names)),
    };
    match anchors.phase() {
        Phase::Steady => None,
        Phase::Introduced => late(&|report| anchors.ids().is_subset(&report.trusts)).or_else(|| {
            let until = peer.app.deadlines.get(&side).copied()?;
            (facts.now < until).then_some(Wait::Clients(until))
        }),
        Phase::Replacing => late(&|report| report.issuer.as_ref() == Some(&anchors.issuing.id)),
    }
}

/// The members whose report is not good, or that have none; `None` when the list is not known. Only
/// members count: a unit takes up what is published before it becomes one.
fn late(facts: &Facts, side: Side, good: &dyn Fn(&Report) -> bool) -> Option<BTreeSet<String>> {
    let Store::Reachable(cluster) = &facts.store else { return None };
    let peer = facts.peer.as_ref()?;
    let names = cluster.members.iter().filter_map(|member| {
        let unit = membership::unit_of(facts, member);
        let report = match &unit {
            Some(unit) if *unit == facts.unit => Some(own_report(facts, side)),
            Some(unit) => peer.units.get(unit).and_then(|bag| bag.reports.get(&side)).cloned(),
            None => None,
        };
        let shown = || unit.map_or_else(|| format!("member {:x}", member.id), |unit| unit.to_string());
        (!report.is_some_and(|report| good(&report))).then(shown)
    });
    Some(names.collect())
}

/// What this unit can say about its own member: no more than holds for what it shows now, for what
/// lies on its disk and for what is about to be put there. Of a daemon that runs but did not answer, what was said last stands.
#[must_use]
pub fn own_report(facts: &Facts, side: Side) -> Report {
    let on_disk = facts.host.pairs.get(&side).map(|pair| pair.report.clone()).unwrap_or_default();
    let said = || facts.peer.as_ref().and_then(|peer| peer.own.reports.get(&side)).cloned().unwrap_or_default();
    let shown = match (&facts.host.service, facts.presented.get(&side)) {
        (Service::Stopped, _) => on_disk.clone(),
        (Service::Running(_), Some(seen)) => seen.clone(),
        (Service::Running(_), None) => said(),
    };
    let known = shown.meet(&on_disk);
    certificates::due(facts, side).map_or(known.clone(), |due| {
        let trusts = due.anchors.ids();
        known.meet(&Report { trusts, issuer: due.certificate.issuer.clone() })
    })
}

/// The authority that signs client certificates now, on whatever unit: the successor as soon as every
/// member trusts it, which the leader says by publishing the end of the grace.
#[must_use]
pub fn signs_clients_with_successor(facts: &Facts) -> bool {
    facts.peer.as_ref().is_some_and(|peer| {
        let introduced = peer.app.trust.as_ref().is_some_and(|trust| trust.server.phase() == Phase::Introduced);
        introduced && peer.app.deadlines.contains_key(&Side::Server)
    })
}

/// Checks an operator's wish to begin, and gives the steps.
///
/// # Errors
/// Why it cannot begin now; nothing has changed.
pub fn begin(facts: &Facts, sides: &[Side], grace_days: i64) -> Result<Vec<(Side, Step)>, String> {
    let trust = settled(facts)?;
    for side in sides {
        let word = side.authority_word();
        if trust.of(*side).phase() != Phase::Steady {
            let what = waits_for(facts, *side).map_or("its next step is due".to_owned(), |wait| wait.sentence());
            return Err(format!("the {word} authority is being replaced already: {what}"));
        }
    }
    Ok(sides.iter().map(|side| (*side, Step::Introduce { grace_days })).collect())
}

/// Checks an operator's wish to end the clients' grace now, and gives the change.
///
/// # Errors
/// Why it cannot end now; nothing has changed.
pub fn finish(facts: &Facts) -> Result<AppChange, String> {
    let side = Side::Server;
    if settled(facts)?.server.phase() != Phase::Introduced {
        return Err("no client authority waits to be dropped: begin with rotate-ca authority=client".to_owned());
    }
    match waits_for(facts, side) {
        Some(wait @ (Wait::Members(..) | Wait::Cluster(_))) => Err(format!("not yet: {}", wait.sentence())),
        _ if facts.peer.as_ref().is_some_and(|peer| peer.app.deadlines.contains_key(&side)) => {
            Ok(AppChange::Deadline(side, Some(facts.now)))
        }
        _ => Err("not yet: no client could fetch new credentials so far; try again in a minute".to_owned()),
    }
}

fn settled(facts: &Facts) -> Result<&crate::trust::Trust, String> {
    if !facts.leader {
        return Err(format!(
            "only the leader replaces authorities: juju run {}/leader rotate-ca",
            facts.unit.application
        ));
    }
    let published = facts.peer.as_ref().and_then(|peer| peer.app.trust.as_ref());
    match (&facts.authorities, published) {
        (Authorities::Held(held), Some(published)) if held == published => Ok(published),
        (Authorities::Unusable(why), _) => Err(format!("secret 'pki' cannot be used: {why}")),
        _ => Err("the authorities are not published yet: wait until the unit is active".to_owned()),
    }
}

impl Wait {
    /// For a status line or an action's message; short, because `juju status` cuts at 120 characters.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Wait::Members(side, names) => {
                let shown: Vec<&str> = names.iter().take(2).map(String::as_str).collect();
                let more = names.len().saturating_sub(shown.len());
                let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
                format!("the new {} authority waits for {}{rest}", side.authority_word(), shown.join(", "))
            }
            Wait::Clients(until) => {
                format!("clients need new credentials before {} (see action rotate-ca)", day(*until))
            }
            Wait::Cluster(side) => format!("the new {} authority waits for the cluster", side.authority_word()),
        }
    }
}

/// A moment as `2026-11-25T13:16:12Z`.
#[must_use]
pub fn moment(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// A day as `2026-11-25`.
fn day(seconds: i64) -> String {
    moment(seconds).chars().take(10).collect()
}
