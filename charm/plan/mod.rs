//! What to do, decided from facts alone: `plan(facts, event) -> Plan`.
//!
//! Pure: no file below this folder looks at the world or changes it; that is `observe.rs` and
//! `act.rs`. A plan lists actions in the order in which a crash between any two is harmless: host
//! and cluster first, relation data last, since Juju publishes those only when the hook ends well.
//! Planning again after acting continues where the last plan ended (see [`Action::shows`]).

pub mod application;
pub mod bootstrap;
pub mod certificates;
pub mod config;
pub mod membership;
pub mod relations;
pub mod rotation;
pub mod status;
pub mod teardown;
#[cfg(test)]
pub mod tests;

use crate::bags::{AppChange, UnitBag};
use crate::event::Event;
use crate::facts::{Facts, Program, Side, Unit};
use crate::text::{Folder, MemberName, PeerUrl, Version, Word};
use config::DaemonConfig;
use status::Status;

/// What to do now and what to tell the operator meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In order; the first that fails ends the hook's work.
    pub actions: Vec<Action>,
    /// The unit's status.
    pub status: Status,
    /// The hook must not end yet: set when a leaving unit still holds data that nobody else has, or a
    /// storage with data is to be taken away.
    pub hold: bool,
}

impl Plan {
    /// True when looking and planning again in the same hook may find more to do. A step of a
    /// replacement ends the hook: what Juju promised about leadership must still hold at its end.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.actions.iter().any(Action::shows) && !self.actions.iter().any(|action| matches!(action, Action::Rotate(_)))
    }
}

/// What becomes of the data on a machine that is cleaned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remains {
    /// The cluster goes on without this member: it is deleted.
    Deleted,
    /// It may be the only copy: it is set aside.
    SetAside,
    /// It is not this unit's, or not of this cluster: it stays where it is.
    Foreign(Folder),
}

/// One step. Each may be repeated without harm.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// User, folders, program and service unit.
    InstallProgram,
    /// A request for these names, and the key first when there is none.
    MakeRequest {
        /// Which port it is for.
        side: Side,
        /// Subject common name.
        common_name: String,
        /// Names and addresses.
        names: Vec<String>,
    },
    /// A signed certificate and the authorities to trust beside it.
    InstallCertificate {
        /// Which port it is for.
        side: Side,
        /// PEM.
        certificate: String,
        /// PEM.
        trust: String,
    },
    /// The daemon's settings file.
    WriteConfig(Box<DaemonConfig>),
    /// Starts the daemon under this generation and waits, for a while, until its member serves.
    StartService {
        /// Fingerprint of program and settings.
        generation: Word,
    },
    /// The same for a running daemon.
    RestartService {
        /// Fingerprint of program and settings.
        generation: Word,
    },
    /// Stops the daemon and keeps it from starting at boot.
    StopService,
    /// Sets the data aside under a name of its own.
    SetDataAside,
    /// Removes program, settings and keys.
    CleanHost {
        /// What becomes of the data.
        data: Remains,
    },
    /// Adds a learner.
    AddLearner {
        /// For the log.
        unit: Unit,
        /// Its peer URL.
        peer_url: PeerUrl,
    },
    /// Removes a member.
    RemoveMember {
        /// Member id.
        id: u64,
        /// For the log.
        name: MemberName,
    },
    /// Moves raft leadership away from this unit's member; a refusal is no failure.
    MoveLeader {
        /// The member to lead next.
        to: u64,
    },
    /// Corrects this unit's peer URL in the member list.
    UpdatePeerUrl {
        /// Member id.
        id: u64,
        /// Its new peer URL.
        peer_url: PeerUrl,
    },
    /// Makes both authorities, keeps them in the application's secret and publishes their public
    /// half.
    CreateAuthorities,
    /// Takes these steps of replacing an authority, in the secret and in what is published.
    Rotate(Vec<(Side, rotation::Step)>),
    /// Removes this revision of the secret, and with it the keys in it, and publishes that it is gone.
    PruneSecret(u64),
    /// Signs a request and publishes the certificate.
    Issue {
        /// Whose it is.
        unit: Unit,
        /// Which port it is for.
        side: Side,
        /// The request, PEM.
        request: String,
        /// The names it must ask for.
        names: Vec<String>,
    },
    /// Writes this unit's databag.
    PublishUnit(Box<UnitBag>),
    /// Changes the application's databag.
    PublishApp(AppChange),
    /// Opens a TCP port.
    OpenPort(u16),
    /// Closes a TCP port.
    ClosePort(u16),
    /// Tells Juju the version of the workload.
    SetVersion(Version),
}

impl Action {
    /// True when the action changes what can be observed, so that looking and planning again in
    /// the same hook may find the next step.
    #[must_use]
    pub fn shows(&self) -> bool {
        !matches!(
            self,
            Action::OpenPort(_)
                | Action::ClosePort(_)
                | Action::SetVersion(_)
                | Action::MoveLeader { .. }
                | Action::PublishUnit(_)
                | Action::PruneSecret(_)
                | Action::CleanHost { .. }
        )
    }

    /// True when the action writes the application's databag.
    #[must_use]
    pub fn writes_app(&self) -> bool {
        matches!(
            self,
            Action::CreateAuthorities
                | Action::Rotate(_)
                | Action::PruneSecret(_)
                | Action::Issue { .. }
                | Action::PublishApp(_)
        )
    }
}

/// Decides. The same facts and event always give the same plan.
#[must_use]
pub fn plan(facts: &Facts, event: &Event) -> Plan {
    let facts = &facts.clone().of_the_living();
    if let Some(step) = bootstrap::part_with_old(facts) {
        return step;
    }
    match event {
        Event::Leaving => teardown::leave(facts, teardown::Urgency::MayWait),
        Event::Stop => teardown::leave(facts, teardown::Urgency::MayPublish),
        // Without an answer who exists it is not known whether this unit leaves.
        Event::Detaching if facts.dying() || facts.goal.is_none() => {
            teardown::leave(facts, teardown::Urgency::LastCall)
        }
        Event::Detaching => teardown::detach(facts),
        Event::Remove => teardown::clean(facts),
        // Juju runs none of these hooks any more, but an operator may, to have something published.
        Event::Reconcile if facts.dying() => teardown::leave(facts, teardown::Urgency::MayWait),
        Event::Reconcile => reconcile(facts),
    }
}

/// One path for every hook but the leaving ones: each room adds what is missing, in the order in
/// which one thing needs the other.
pub fn reconcile(facts: &Facts) -> Plan {
    let mut actions = Vec::new();
    if facts.host.program == Program::Outdated {
        actions.push(Action::InstallProgram);
    }
    certificates::request(facts, &mut actions);
    certificates::install(facts, &mut actions);
    let standing = config::serve(facts, &mut actions);
    if facts.leader {
        membership::lead(facts, &mut actions);
        bootstrap::lead(facts, &mut actions);
        certificates::sign(facts, &mut actions);
        relations::forget(facts, &mut actions);
    }
    relations::publish(facts, &mut actions);
    relations::ports(facts, &mut actions);
    if facts.leader {
        relations::prune(facts, &mut actions);
        rotation::lead(facts, &mut actions);
    }
    Plan { actions, status: status::of(facts, &standing), hold: false }
}
