//! What a hook may know, as plain data, and the check "could Juju show this?".
//!
//! [`Facts`] is everything a plan may depend on: no handle, no clock, no secret key. `observe.rs`
//! fills it from the world, the simulator fills it from memory, and [`Facts::impossible`] refuses a
//! world that Juju could never show, so that no test proves a planner right about nonsense.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use etcd_charm::client::health::verdict;
use etcd_charm::pki::{Described, Validity};

use crate::bags::{AppBag, UnitBag};
use crate::plan::config::DaemonConfig;
use crate::text::{Folder, MemberName, PeerUrl, StorageId, Version, Word};
use crate::trust::{Report, Trust};

/// The port members talk to each other on; fixed, because a member's peer URL is its identity.
pub const PEER_PORT: u16 = 2380;
/// Where the data lies on a machine without a storage of its own for it.
pub const DATA_DIR: &str = "/var/lib/etcd";

/// A unit of this application, such as `etcd/3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unit {
    /// The application, `etcd`.
    pub application: String,
    /// The number, 3.
    pub number: u32,
}

impl Unit {
    /// Names a unit.
    #[must_use]
    pub fn new(application: &str, number: u32) -> Self {
        Unit { application: application.to_owned(), number }
    }

    /// Reads `etcd/3`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (application, number) = text.split_once('/')?;
        let unit = Unit::new(application, number.parse().ok()?);
        // Juju's names of applications begin with a letter; a number has one spelling only.
        let named = application.starts_with(|c: char| c.is_ascii_lowercase())
            && application.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (named && unit.to_string() == text).then_some(unit)
    }

    /// The name of this unit's member: `etcd3`.
    #[must_use]
    pub fn member_name(&self) -> String {
        format!("{}{}", self.application, self.number)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.application, self.number)
    }
}

/// The two ports a member has, each with its own authority, key and certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The port of clients (2379).
    Server,
    /// The port of members (2380).
    Peer,
}

impl Side {
    /// Both sides.
    pub const BOTH: [Side; 2] = [Side::Server, Side::Peer];

    /// The word used in file names and databag keys.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Side::Server => "server",
            Side::Peer => "peer",
        }
    }

    /// The word for the side's authority.
    #[must_use]
    pub fn authority_word(self) -> &'static str {
        match self {
            Side::Server => "client",
            Side::Peer => "peer",
        }
    }
}

/// A signing request: its text and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// PEM.
    pub pem: String,
    /// What it asks for.
    pub says: Described,
}

/// A certificate: its text and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM.
    pub pem: String,
    /// Whom it names.
    pub says: Described,
    /// Its life.
    pub validity: Validity,
    /// Id of the published authority of its side that signed it; `None` when none of them did.
    pub issuer: Option<String>,
}

/// Everything one hook knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// This unit.
    pub unit: Unit,
    /// Seconds since 1970.
    pub now: i64,
    /// True when Juju guarantees leadership for the next 30 seconds.
    pub leader: bool,
    /// The operator's options as Juju gives them.
    pub options: BTreeMap<String, serde_json::Value>,
    /// This unit's addresses; `None` until Juju knows them.
    pub network: Option<Network>,
    /// The peer relation; `None` before it is created.
    pub peer: Option<Peer>,
    /// Every unit of the application that is not dead, this one included; `None` when Juju could
    /// not say. A unit without a machine is already here.
    pub goal: Option<BTreeMap<Unit, Life>>,
    /// The authorities' secret, as far as this unit looked.
    pub authorities: Authorities,
    /// Ports this unit has opened, in Juju's spelling (`2379/tcp`).
    pub ports: BTreeSet<String>,
    /// This unit's machine.
    pub host: Host,
    /// The storage `data`; `None` when none is attached.
    pub storage: Option<Storage>,
    /// What this unit's running member showed on each port; absent when it did not answer.
    pub presented: BTreeMap<Side, Report>,
    /// The latest revision of the application's secret; `None` on a follower, without a secret, and once
    /// this very hook has changed it.
    pub secret_revision: Option<u64>,
    /// The cluster.
    pub store: Store,
    /// While the quorum is silent: what the leader's own member lists, asked one by one as action `health`
    /// asks. `None` when that was not needed, or nobody answered at all.
    pub census: Option<Census>,
    /// What this very hook has already done.
    pub done: Done,
}

/// Whether a unit is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Wanted.
    Alive,
    /// Being removed.
    Dying,
}

/// A file system Juju has attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// `data/0`.
    pub id: StorageId,
    /// Where it is mounted, without the root of this machine.
    pub location: Folder,
}

impl Storage {
    /// The data's folder in it, below the root of this machine. Not the mount itself, which has a
    /// `lost+found` and another owner.
    #[must_use]
    pub fn data_dir(&self, root: &Folder) -> Folder {
        root.below(&self.location).join("etcd")
    }
}

/// This unit's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Addresses of this machine to listen on; never empty.
    pub bind: Vec<IpAddr>,
    /// The address others reach it by.
    pub ingress: IpAddr,
    /// Every name and address a certificate must carry, in normal form.
    pub names: Vec<String>,
}

/// The peer relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What this unit has published (pending writes of this hook included).
    pub own: UnitBag,
    /// What the leader has published (pending writes of this hook included).
    pub app: AppBag,
    /// The other units, joined here or not, and what they published. The bag of one that has joined may be
    /// stale. [`Facts::of_the_living`] takes out those that no longer exist.
    pub units: BTreeMap<Unit, UnitBag>,
}

/// The secret with both authorities. Only its public parts reach the planner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// This unit did not ask: only the leader signs.
    Unasked,
    /// There is no such secret.
    Absent,
    /// It can be read.
    Held(Trust),
    /// It exists but cannot be used; the reason holds no key.
    Unusable(String),
}

/// This unit's machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Prefix of every path; `/` outside of tests.
    pub root: Folder,
    /// The daemon's program.
    pub program: Program,
    /// Fingerprint of the installed program; enters the generation.
    pub stamp: String,
    /// The daemon's settings on disk.
    pub config: Option<DaemonConfig>,
    /// Where a member's data lies or is to lie: where the settings say when it is there, else in the
    /// attached storage, else below `/var/lib`. Carries the root of this machine.
    pub data_dir: Folder,
    /// True when a member's data is there.
    pub data: bool,
    /// Key, request and certificate of each side.
    pub pairs: BTreeMap<Side, Pair>,
    /// The daemon.
    pub service: Service,
}

/// The installed program against the one in the charm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Not installed, or an older one.
    Outdated,
    /// The charm's own.
    Current,
}

/// What lies in the TLS directory for one side. The key itself stays there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// The request made from the key; `None` also when the two do not belong together.
    pub request: Option<Request>,
    /// The certificate in use, PEM.
    pub certificate: Option<String>,
    /// The trusted authorities in use, PEM.
    pub trust: Option<String>,
    /// The same, as ids.
    pub report: Report,
}

/// The daemon's state on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Not running.
    Stopped,
    /// Running; the generation it was started with, if the charm started it.
    Running(Option<Word>),
}

/// The cluster as this unit can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// Nobody answered, or there is no certificate to ask with.
    Unreachable,
    /// The quorum answered.
    Reachable(Cluster),
}

/// The member list, agreed by the quorum, and what each member said when asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// All members.
    pub members: Vec<Member>,
    /// The raft leader's id; 0 when none is known.
    pub leader: u64,
    /// `GET /health` of this unit's own daemon says that all is well.
    pub own_healthy: bool,
    /// The version the members report.
    pub version: Option<Version>,
}

/// How many members there are, and how many fail the check of action `health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// All that count.
    pub members: usize,
    /// Those that are not well.
    pub ill: usize,
}

impl Census {
    /// What is wrong, in one sentence; `None` when nothing is. A list without members is no health either.
    #[must_use]
    pub fn complaint(self) -> Option<String> {
        let Census { members, ill } = self;
        let verdict = verdict(members.saturating_sub(ill), members);
        (ill > 0 || members == 0).then(|| format!("{verdict}: {ill} of {members} members not healthy"))
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Member id.
    pub id: u64,
    /// Name; empty until it has started for the first time.
    pub name: MemberName,
    /// Peer URL.
    pub peer_url: PeerUrl,
    /// True while it has no vote.
    pub learner: bool,
    /// It answered when asked who it is.
    pub reachable: bool,
    /// It passed the check of `etcdctl cluster-health`: `GET /health` on its published client URLs.
    pub healthy: bool,
}

/// What this very hook has already done; a hook may look and act several times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Application data was written; it counts as published only when the hook has ended well.
    pub app_written: bool,
    /// The application's secret was changed, or revisions of it removed; once per hook is all Juju keeps.
    pub secret_changed: bool,
    /// The daemon was started or restarted; once per hook is enough.
    pub started: bool,
}

impl Facts {
    /// The same without the databags of units that no longer exist. Juju may go on listing such a unit in
    /// the relation for as long as this unit's agent runs; only goal-state tells who there is.
    #[must_use]
    pub fn of_the_living(mut self) -> Self {
        if let (Some(peer), Some(goal)) = (&mut self.peer, &self.goal) {
            peer.units.retain(|unit, _| goal.contains_key(unit));
        }
        self
    }

    /// The units that shall exist, this one included while it is not dying. Without an answer from
    /// Juju: this unit and those it has met.
    #[must_use]
    pub fn planned(&self) -> BTreeSet<Unit> {
        match &self.goal {
            Some(goal) => goal.iter().filter(|(_, life)| **life == Life::Alive).map(|(unit, _)| unit.clone()).collect(),
            None => self.peer.iter().flat_map(|peer| peer.units.keys().cloned()).chain([self.unit.clone()]).collect(),
        }
    }

    /// True when Juju says that the unit no longer exists at all.
    #[must_use]
    pub fn gone(&self, unit: &Unit) -> bool {
        self.goal.as_ref().is_some_and(|goal| !goal.contains_key(unit))
    }

    /// True when this unit is being removed.
    #[must_use]
    pub fn dying(&self) -> bool {
        self.goal.as_ref().is_some_and(|goal| goal.get(&self.unit) == Some(&Life::Dying))
    }

    /// This unit's URL for members.
    #[must_use]
    pub fn peer_url(&self) -> Option<PeerUrl> {
        self.network.as_ref().map(|network| PeerUrl::at(network.ingress, PEER_PORT))
    }

    /// This unit's member in the list, found by name or, before its first start, by URL.
    #[must_use]
    pub fn own_member(&self) -> Option<&Member> {
        let Store::Reachable(cluster) = &self.store else { return None };
        let name = self.unit.member_name();
        let bag = self.peer.as_ref().map(|peer| &peer.own);
        let unstarted = |member: &&Member| member.name.is_empty() && bag.is_some_and(|bag| bag.may_become(member));
        cluster.members.iter().find(|member| member.name == name).or_else(|| cluster.members.iter().find(unstarted))
    }

    /// Says why Juju (or a working host) could never show these facts; `None` when it could.
    #[must_use]
    pub fn impossible(&self) -> Option<String> {
        let own = &self.unit;
        if let Some(peer) = &self.peer {
            if peer.units.contains_key(own) {
                return Some(format!("{own} is listed among its own peers"));
            }
            if peer.units.keys().any(|unit| unit.application != own.application) {
                return Some("a peer of another application".to_owned());
            }
        }
        if let Some(goal) = &self.goal
            && !goal.contains_key(own)
        {
            return Some(format!("{own} runs a hook although it is dead"));
        }
        if !self.leader && matches!(self.authorities, Authorities::Held(_)) {
            return Some("the planner of a follower was shown the authorities".to_owned());
        }
        if let Some(network) = &self.network
            && network.bind.is_empty()
        {
            return Some("a network without an address to listen on".to_owned());
        }
        if let Store::Reachable(cluster) = &self.store {
            let ids: BTreeSet<u64> = cluster.members.iter().map(|member| member.id).collect();
            if ids.len() != cluster.members.len() {
                return Some("two members with one id".to_owned());
            }
            if cluster.members.iter().all(|member| member.learner) {
                return Some("a cluster that answers without a voter".to_owned());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_name_is_read_and_printed_and_nothing_else_is() {
        let unit = Unit::parse("my-etcd/12").unwrap();
        assert_eq!((unit.to_string(), unit.member_name()), ("my-etcd/12".into(), "my-etcd12".into()));
        for bad in
            ["", "etcd", "etcd/", "/3", "etcd/x", "etcd/-1", "etcd/+1", "etcd/01", "etcd/3/4", "$(id)/3", "e\n/3"]
        {
            assert_eq!(Unit::parse(bad), None, "{bad}");
        }
    }
}
