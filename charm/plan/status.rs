//! Every sentence an operator can see in the status, and when each is shown.
//!
//! The healthy and the failing sentence are the product's documented ones, word for word. A sentence
//! that needs a person says what to do.

use super::bootstrap;
use super::config::{self, BadOption, Standing};
use super::rotation::{self, Wait};
use crate::facts::{Authorities, Facts, Life, Program, Service, Side, Store, Unit};
use crate::text::{Folder, PeerUrl, StorageId};

/// What a unit tells its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The program is being installed.
    Installing,
    /// Juju has not yet created the peer relation.
    AwaitingPeerRelation,
    /// Juju does not know our address yet.
    AwaitingAddress,
    /// No leader has made the authorities yet.
    AwaitingAuthorities,
    /// The leader has not signed our requests yet.
    AwaitingCertificates,
    /// The choice of the first unit is being published.
    AwaitingChoice,
    /// Another unit starts the cluster, or the leader has yet to add us.
    AwaitingJoin(Unit),
    /// The daemon is starting or copying data.
    Starting,
    /// A new setting waits until the other members have restarted.
    AwaitingTurn,
    /// All is well.
    Healthy,
    /// All is well while an authority is replaced.
    Rotating(Wait),
    /// Another unit has the same address, so only one of them can be a member.
    AddressTaken(Unit, PeerUrl),
    /// The storage came after the data: unit, storage, folder with the data.
    StorageUnused(Unit, StorageId, Folder),
    /// The storage that holds the data is to be detached.
    StorageInUse(StorageId, Unit),
    /// The storage that holds the data is not there.
    StorageMissing(Folder),
    /// A registered member fails its check.
    Unhealthy,
    /// An option cannot be used.
    BadOption(BadOption),
    /// The data on disk is not ours.
    ForeignData(Folder),
    /// Our data has vanished.
    DataLost(Unit),
    /// The cluster was begun, and no unit that exists has its data: the application.
    ClusterGone(String),
    /// The units of the members that this one was to join exist no more: the application.
    MembersGone(String),
    /// The authorities' secret is gone.
    AuthoritiesGone,
    /// The authorities' secret cannot be used.
    AuthoritiesUnusable(String),
    /// The unit is going.
    Leaving,
    /// The unit goes as soon as another one is there to take over the data.
    AwaitingSuccessor,
    /// The unit goes as soon as another member, which is on its way, has the data.
    HandingOver,
    /// The unit may not go yet: no other member has the data, and none can be told to take it over.
    HoldsLastCopy(Unit),
    /// The unit may not go yet: the rest would have no quorum.
    NeededForQuorum,
    /// The same of the leader, and units that would give the rest a quorum wait for what it has to publish.
    LetsUnitsIn(Unit),
    /// The unit, or its storage, goes once Juju says which units exist.
    AwaitingGoal,
    /// Nothing runs any more.
    Stopped,
}

/// Juju's four workload words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Busy; ends by itself.
    Maintenance,
    /// An operator must act.
    Blocked,
    /// For somebody else.
    Waiting,
    /// All is well.
    Active,
}

impl Word {
    /// Juju's spelling.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Word::Maintenance => "maintenance",
            Word::Blocked => "blocked",
            Word::Waiting => "waiting",
            Word::Active => "active",
        }
    }
}

impl Status {
    /// Juju's word for it.
    #[must_use]
    pub fn word(&self) -> Word {
        match self {
            Status::Installing | Status::Starting | Status::Leaving | Status::Stopped => Word::Maintenance,
            Status::AwaitingPeerRelation
            | Status::AwaitingAddress
            | Status::AwaitingAuthorities
            | Status::AwaitingCertificates
            | Status::AwaitingChoice
            | Status::AwaitingJoin(_)
            | Status::AwaitingSuccessor
            | Status::HandingOver
            | Status::AwaitingGoal
            | Status::AwaitingTurn => Word::Waiting,
            Status::Healthy | Status::Rotating(_) => Word::Active,
            Status::Unhealthy
            | Status::BadOption(_)
            | Status::ForeignData(_)
            | Status::DataLost(_)
            | Status::AuthoritiesGone
            | Status::AuthoritiesUnusable(_)
            | Status::HoldsLastCopy(_)
            | Status::ClusterGone(_)
            | Status::MembersGone(_)
            | Status::AddressTaken(..)
            | Status::StorageUnused(..)
            | Status::StorageInUse(..)
            | Status::StorageMissing(_)
            | Status::LetsUnitsIn(_)
            | Status::NeededForQuorum => Word::Blocked,
        }
    }

    /// The sentence; the leader's begins with `(leader) `.
    #[must_use]
    pub fn sentence(&self, leader: bool) -> String {
        let text = match self {
            Status::Installing => "installing etcd".to_owned(),
            Status::AwaitingPeerRelation => "waiting for the peer relation".to_owned(),
            Status::AwaitingAddress => "waiting for an address from Juju".to_owned(),
            Status::AwaitingAuthorities => "waiting for the leader to make the certificate authorities".to_owned(),
            Status::AwaitingCertificates => "waiting for the leader to sign the certificates".to_owned(),
            Status::AwaitingChoice => "waiting to start the cluster".to_owned(),
            Status::AwaitingJoin(unit) => {
                format!("waiting to join the cluster begun by {unit}")
            }
            Status::Starting => "starting etcd".to_owned(),
            Status::AwaitingTurn => "waiting for its turn to restart with new settings".to_owned(),
            Status::Healthy => "cluster is healthy".to_owned(),
            Status::Rotating(wait) => format!("cluster is healthy; {}", wait.sentence()),
            Status::AddressTaken(unit, url) => {
                format!("{unit} has the same address {url}: every unit needs a machine of its own")
            }
            Status::StorageUnused(unit, storage, folder) => {
                format!("{storage} is not used, the data is in {folder}: add a unit with storage, then remove {unit}")
            }
            Status::StorageInUse(storage, unit) => {
                format!("{storage} holds the data of {unit} and cannot be detached: remove the unit instead")
            }
            Status::StorageMissing(folder) => {
                format!("the storage with the data is not attached ({folder} is empty): attach it again")
            }
            Status::Unhealthy => "cluster-health check failed... needs attention".to_owned(),
            Status::BadOption(bad) => {
                format!("option {} is {}: set {}", bad.name, bad.value, bad.wanted)
            }
            Status::ForeignData(path) => {
                format!("{path} holds the data of another member: move it away")
            }
            Status::DataLost(unit) => {
                format!("the data of this member is gone: remove {unit} and add a unit")
            }
            Status::AuthoritiesGone => {
                "the authorities' secret is gone: no certificate can be signed; restore secret 'pki'".to_owned()
            }
            Status::AuthoritiesUnusable(why) => {
                format!("secret 'pki' with the authorities cannot be used: {why}")
            }
            Status::Leaving => "leaving the cluster".to_owned(),
            Status::AwaitingSuccessor => "leaves once another unit has the data: waiting for one to join".to_owned(),
            Status::HandingOver => "leaves once another unit has the data: it is being copied".to_owned(),
            Status::HoldsLastCopy(unit) => {
                format!(
                    "{unit} has the only copy of the data: juju ssh {unit} sudo juju-exec {unit} hooks/update-status"
                )
            }
            Status::ClusterGone(app) => {
                format!("no unit has the data any more; begin empty: juju run {app}/leader new-cluster confirm={app}")
            }
            Status::MembersGone(app) => {
                format!("the units to join are gone; begin empty: juju run {app}/leader new-cluster confirm={app}")
            }
            Status::NeededForQuorum => {
                "cannot leave: the rest would have no quorum; repair them, or remove with --force".to_owned()
            }
            Status::LetsUnitsIn(unit) => {
                format!(
                    "cannot leave before the new units join: juju ssh {unit} sudo juju-exec {unit} hooks/update-status"
                )
            }
            Status::AwaitingGoal => "waiting for Juju to say which units exist: goal-state fails".to_owned(),
            Status::Stopped => "etcd has stopped".to_owned(),
        };
        if leader { format!("(leader) {text}") } else { text }
    }
}

/// The status of a unit that is staying.
#[must_use]
pub fn of(facts: &Facts, standing: &Standing) -> Status {
    if facts.host.program == Program::Outdated {
        return Status::Installing;
    }
    if let Err(bad) = config::check(&facts.options) {
        return Status::BadOption(bad);
    }
    if facts.leader {
        match &facts.authorities {
            Authorities::Unusable(why) => return Status::AuthoritiesUnusable(why.clone()),
            Authorities::Held(held)
                if facts
                    .peer
                    .as_ref()
                    .and_then(|peer| peer.app.trust.as_ref())
                    .is_some_and(|published| !held.follows(published)) =>
            {
                let why = "it does not hold the authorities that are published".to_owned();
                return Status::AuthoritiesUnusable(why);
            }
            Authorities::Absent if trusts(facts) && !facts.done.app_written => {
                return Status::AuthoritiesGone;
            }
            _ => {}
        }
    }
    match standing {
        Standing::ForeignData => Status::ForeignData(facts.host.data_dir.clone()),
        _ if bootstrap::is_gone(facts) => Status::ClusterGone(facts.unit.application.clone()),
        Standing::DataLost => Status::DataLost(facts.unit.clone()),
        Standing::StorageMissing => {
            let noted = facts.host.config.as_ref().map(|old| old.data_dir.clone());
            Status::StorageMissing(noted.unwrap_or_else(|| facts.host.data_dir.clone()))
        }
        Standing::Outside { bootstrap } => {
            certified_or(facts, twin(facts).unwrap_or(Status::AwaitingJoin(bootstrap.clone())))
        }
        Standing::Unchosen => certified_or(facts, Status::AwaitingChoice),
        Standing::Preparing => preparing(facts),
        Standing::AwaitingTurn if is_healthy(facts) => Status::AwaitingTurn,
        Standing::Running | Standing::AwaitingTurn => running(facts),
    }
}

fn trusts(facts: &Facts) -> bool {
    facts.peer.as_ref().is_some_and(|peer| peer.app.trust.is_some())
}

fn certified_or(facts: &Facts, otherwise: Status) -> Status {
    let certified = facts.host.pairs.values().filter(|pair| pair.certificate.is_some()).count() == 2;
    if certified { otherwise } else { preparing(facts) }
}

fn preparing(facts: &Facts) -> Status {
    if facts.peer.is_none() {
        Status::AwaitingPeerRelation
    } else if facts.network.is_none() {
        Status::AwaitingAddress
    } else if !trusts(facts) {
        Status::AwaitingAuthorities
    } else {
        Status::AwaitingCertificates
    }
}

/// The unit that keeps this one out by publishing the same address.
fn twin(facts: &Facts) -> Option<Status> {
    let own = facts.peer_url()?;
    let units = &facts.peer.as_ref()?.units;
    let (unit, _) = units.iter().find(|(_, bag)| bag.peer_url.as_ref() == Some(&own))?;
    Some(Status::AddressTaken(unit.clone(), own))
}

/// The healthy sentence, with what an operator should know beside it.
fn healthy(facts: &Facts) -> Status {
    if let Some(storage) = config::unused_storage(facts) {
        return Status::StorageUnused(facts.unit.clone(), storage.id.clone(), facts.host.data_dir.clone());
    }
    match rotating(facts).filter(|_| facts.leader) {
        Some(wait) => Status::Rotating(wait),
        None => Status::Healthy,
    }
}

/// What the replacement of an authority waits for, if one is under way.
#[must_use]
pub fn rotating(facts: &Facts) -> Option<Wait> {
    Side::BOTH.into_iter().find_map(|side| rotation::waits_for(facts, side))
}

fn running(facts: &Facts) -> Status {
    let registered = facts.peer.as_ref().is_some_and(|peer| peer.own.member.is_some())
        || facts.own_member().is_some_and(|member| !member.name.is_empty());
    if is_healthy(facts) {
        healthy(facts)
    } else if bootstrap::is_stranded(facts) {
        Status::MembersGone(facts.unit.application.clone())
    } else if !registered || catching_up(facts) {
        Status::Starting
    } else {
        Status::Unhealthy
    }
}

/// A learner that runs is on its way, not ill.
fn catching_up(facts: &Facts) -> bool {
    facts.host.service != Service::Stopped && facts.own_member().is_some_and(|member| member.learner)
}

/// This unit's member votes and is healthy, and so is every voter of a wanted unit, by the check that
/// `etcdctl cluster-health` makes. A member of a unit that is leaving does not count: it may be gone
/// at any moment. Nor does a learner, which is on its way.
fn is_healthy(facts: &Facts) -> bool {
    let Store::Reachable(cluster) = &facts.store else { return false };
    let leaving: Vec<String> = facts
        .goal
        .iter()
        .flatten()
        .filter(|(_, life)| **life == Life::Dying)
        .map(|(unit, _)| unit.member_name())
        .collect();
    let gone = |name: &str| facts.goal.as_ref().is_some_and(|goal| goal.keys().all(|unit| unit.member_name() != name));
    cluster.own_healthy
        && facts.own_member().is_some_and(|member| !member.learner)
        && cluster
            .members
            .iter()
            .filter(|member| !member.learner)
            .all(|member| member.healthy || leaving.iter().any(|name| member.name == *name) || gone(&member.name))
}
