//! Tests only: a model of Juju, machines and the store in memory, run over thousands of seeds.
//!
//! Every unit runs its hooks one at a time but all units interleave action by action. The model
//! keeps to Juju's rules: hook order per unit, databag writes and secrets published only when a hook
//! ends well, remote unit bags as stale as the last hook for that unit, application data fresh,
//! leadership that moves and is checked at the flush, hooks that crash anywhere and are run again, at once
//! and without an error when a signal ended them. The secret keeps its revisions until they are removed; a
//! reader follows the one it read last; `secret-changed` and `secret-remove` are told once to each unit, and a
//! `secret-changed` that was due when an agent started anew never comes. A leader
//! that is being removed stays leader until it is dead. Worlds are of Juju 3.6, where the others learn of a
//! removal at once, or of 4.0, where they learn of it after the death, or never while their agents run.
//! A new machine may have the address of one that is gone. Operators remove units with `--force`, skip
//! failed hooks with `resolved --no-retry`, and do what a blocked status asks for.
//! The store adds, promotes and removes members as ours does. Checked in every world: what
//! [`Facts::impossible`] says, one change of the member list per plan, a quorum after each removal,
//! the last voter kept, one cluster, unless an operator gave it up, and that only when nobody had its data;
//! and in the end: all active, the member list equal to the units.
//!
//! Authorities are replaced meanwhile, by operators and by age. A daemon takes up new files some time
//! after they were written. After every action, what any running member shows must be trusted by every
//! other and by every client that was told to expect it, and what a client shows by every member; the
//! published authorities change by one step of a replacement at a time; and in the end only the newest
//! is trusted. A failure prints its seed; `ETCD_CHARM_SEEDS=1 ETCD_CHARM_FIRST_SEED=n`
//! runs it alone.

mod acting;
mod authorities;
mod juju;
mod looking;
mod scenarios;
mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use etcd_charm::pki::{DAY, Described, LEAF_DAYS, Validity, normal_names};
use serde_json::json;

use crate::bags::{AppBag, AppChange, UnitBag};
use crate::event::Event;
use crate::facts::{
    Authorities, Certificate, Cluster, Done, Facts, Host, Life, Member, Network, Pair, Peer, Program, Request, Service,
    Side, Store, Unit,
};
use crate::plan::bootstrap;
use crate::plan::config::DaemonConfig;
use crate::plan::rotation::{self, Step};
use crate::plan::status::Status;
use crate::plan::{Action, plan};
use crate::text::{MemberName, PeerUrl, Word};
use crate::trust::{Anchor, Anchors, Phase, Report, Successor, Trust};

/// Hooks of one unit, as the model queues them.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Install,
    Created,
    Elected,
    Config,
    Start,
    Joined(Unit),
    Changed(Unit),
    AppChanged,
    SecretChanged,
    SecretRemove(u64),
    Upgrade,
    Departed(Unit),
    LeavingPeer(Unit),
    Stop,
    Remove,
    UpdateStatus,
    /// `juju-exec` on the machine: the same as a hook, also while another is queued.
    Exec,
}

/// A hook under way.
#[derive(Debug)]
struct Run {
    kind: Kind,
    queue: VecDeque<Action>,
    rounds: u32,
    again: bool,
    hold: bool,
    done: Done,
    bag: Option<UnitBag>,
    app: Vec<AppChange>,
    change: Option<SecretChange>,
    /// The bags of units that have not joined here, as they were when the hook began.
    unmet: BTreeMap<Unit, UnitBag>,
    /// `goal-state` fails in this hook, which only leaving ones meet here.
    blind: bool,
}

/// What a hook wants of the secret.
#[derive(Clone, Debug)]
enum SecretChange {
    Make(Trust),
    Revise(Trust),
    Prune(u64),
}

impl Run {
    /// Juju keeps only the later of a new revision and a removal, so a hook must not do both.
    fn change(&mut self, change: SecretChange) {
        assert!(self.change.is_none(), "two changes of the secret in one hook: {:?} {change:?}", self.change);
        self.change = Some(change);
        self.done.secret_changed = true;
    }

    /// What the secret will hold.
    fn content(&self) -> Option<&Trust> {
        match &self.change {
            Some(SecretChange::Make(trust) | SecretChange::Revise(trust)) => Some(trust),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Node {
    life: Life,
    /// False after its machine was killed: no hook, no process.
    powered: bool,
    installed: bool,
    created: bool,
    started: bool,
    stopped: bool,
    elected: bool,
    config: bool,
    tick: bool,
    address: u8,
    bag: UnitBag,
    version: u64,
    joined: BTreeMap<Unit, (u64, UnitBag)>,
    changed_next: Option<Unit>,
    departs: BTreeSet<Unit>,
    /// Units that are gone, of which the agent learns when it starts again.
    withheld: BTreeSet<Unit>,
    /// The hook has failed, it was not merely interrupted: an operator may skip it.
    error: bool,
    exec: bool,
    /// What is queued was held by the charm.
    held: bool,
    app_seen: u64,
    /// The revision of the secret it follows; 0 before it has read it.
    tracked: u64,
    /// The latest revision its agent knows of.
    told: u64,
    /// Revisions of which `secret-remove` has told it.
    remove_told: BTreeSet<u64>,
    upgrade: bool,
    /// Runs next, without an error.
    queued: Option<Kind>,
    failed: Option<Kind>,
    failures: u32,
    run: Option<Run>,
    program: bool,
    settings: Option<DaemonConfig>,
    data: Option<(usize, u64)>,
    pairs: BTreeMap<Side, Pair>,
    /// What the running daemon has taken up; the disk may be newer.
    loaded: BTreeMap<Side, Report>,
    service: Option<Word>,
    ports: BTreeSet<String>,
    status: Status,
}

#[derive(Clone, Debug)]
struct Voter {
    id: u64,
    unit: Option<Unit>,
    name: MemberName,
    url: PeerUrl,
    learner: bool,
}

/// A client's credentials: who signed them, and whom it trusts.
#[derive(Clone, Debug)]
struct Credentials {
    issuer: String,
    trusts: BTreeSet<String>,
}

struct World {
    random: u64,
    now: i64,
    aged: bool,
    clients: Vec<Credentials>,
    nodes: BTreeMap<Unit, Node>,
    next: u32,
    app: AppBag,
    app_version: u64,
    secret: Option<Trust>,
    /// Those of its revisions that were not removed.
    revisions: BTreeSet<u64>,
    leader: Option<Unit>,
    clusters: Vec<Vec<Voter>>,
    /// The tokens of the clusters that were begun.
    begun: BTreeSet<String>,
    juju4: bool,
    addresses: Vec<u8>,
    certificates: BTreeMap<String, Certificate>,
    serial: u64,
    port: i64,
    crash_in: u64,
    calm: bool,
    told: bool,
    trace: Vec<String>,
}

fn unit(number: u32) -> Unit {
    Unit::new("etcd", number)
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 1_000,
            aged: false,
            clients: Vec::new(),
            nodes: BTreeMap::new(),
            next: 0,
            app: AppBag::default(),
            app_version: 0,
            secret: None,
            revisions: BTreeSet::new(),
            leader: None,
            clusters: Vec::new(),
            begun: BTreeSet::new(),
            juju4: seed.is_multiple_of(2),
            addresses: Vec::new(),
            certificates: BTreeMap::new(),
            serial: 0,
            port: 2379,
            crash_in: 40,
            calm: false,
            told: false,
            trace: Vec::new(),
        }
    }

    /// xorshift64*: equal seeds give equal worlds.
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        if list.is_empty() { None } else { Some(list[self.below(list.len() as u64) as usize].clone()) }
    }

    /// Tells the story, when somebody listens: most worlds go well and nobody does.
    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.told {
            self.trace.push(line());
        }
    }

    fn add_unit(&mut self) {
        let name = unit(self.next);
        self.next += 1;
        let old = if self.below(2) == 0 { self.pick(&self.addresses.clone()) } else { None };
        self.addresses.retain(|address| Some(*address) != old);
        let address = old.unwrap_or(self.next as u8);
        self.note(|| format!("add {name} at {address}"));
        let node = Node {
            life: Life::Alive,
            powered: true,
            installed: false,
            created: false,
            started: false,
            stopped: false,
            elected: false,
            config: true,
            tick: false,
            address,
            bag: UnitBag::default(),
            version: 0,
            joined: BTreeMap::new(),
            changed_next: None,
            departs: BTreeSet::new(),
            withheld: BTreeSet::new(),
            error: false,
            exec: false,
            held: false,
            app_seen: 0,
            tracked: 0,
            told: 0,
            remove_told: BTreeSet::new(),
            upgrade: false,
            queued: None,
            failed: None,
            failures: 0,
            run: None,
            program: false,
            settings: None,
            data: None,
            pairs: Side::BOTH.map(|side| (side, Pair::default())).into(),
            loaded: BTreeMap::new(),
            service: None,
            ports: BTreeSet::new(),
            status: Status::Installing,
        };
        self.nodes.insert(name, node);
    }

    fn alive(&self) -> Vec<Unit> {
        self.nodes.iter().filter(|(_, n)| n.life == Life::Alive).map(|(u, _)| u.clone()).collect()
    }

    fn begin_removal(&mut self, going: &Unit) {
        self.note(|| format!("remove {going}"));
        self.nodes.get_mut(going).unwrap().life = Life::Dying;
        if !self.juju4 {
            self.announce(going);
        }
    }

    /// Tells the others' agents that a unit is going, or gone.
    fn announce(&mut self, going: &Unit) {
        let withheld = self.juju4 && self.below(2) == 0;
        for (name, node) in &mut self.nodes {
            if name != going && node.life == Life::Alive && node.joined.contains_key(going) {
                let told = if withheld { &mut node.withheld } else { &mut node.departs };
                told.insert(going.clone());
            }
        }
    }

    /// A unit is dead: with it go its lease, its machine and what lies on its disk.
    fn bury(&mut self, dead: &Unit) {
        self.note(|| format!("{dead} is gone"));
        if let Some(node) = self.nodes.remove(dead) {
            self.addresses.push(node.address);
        }
        if self.leader.as_ref() == Some(dead) {
            self.leader = None;
        }
        let known = |node: &Node| node.departs.contains(dead) || node.withheld.contains(dead);
        if !self.nodes.values().any(known) {
            self.announce(dead);
        }
    }

    fn restart_agent(&mut self, name: &Unit) {
        self.note(|| format!("the agent of {name} starts anew"));
        let latest = self.latest();
        let node = self.nodes.get_mut(name).unwrap();
        node.told = latest;
        node.departs.append(&mut node.withheld);
    }

    /// Cuts the power; `remove-unit --force` follows at once or later.
    fn kill(&mut self, victim: &Unit) {
        self.note(|| format!("kill {victim}"));
        let node = self.nodes.get_mut(victim).unwrap();
        node.powered = false;
        node.run = None;
        node.service = None;
        if self.leader.as_ref() == Some(victim) {
            self.leader = None;
        }
    }

    fn force_remove(&mut self, victim: &Unit) {
        self.note(|| format!("force-remove {victim}"));
        self.bury(victim);
    }

    /// True when the cluster survives the loss of this unit, or has nobody else: any software without a
    /// quorum is beyond what hooks can mend.
    fn can_lose(&self, victim: &Unit) -> bool {
        let Some(cluster) = self.clusters.len().checked_sub(1) else { return true };
        let voters: Vec<&Voter> = self.clusters[cluster].iter().filter(|m| !m.learner).collect();
        let rest: Vec<&&Voter> = voters.iter().filter(|m| m.unit.as_ref() != Some(victim)).collect();
        let up = rest.iter().filter(|m| self.is_up(m, cluster)).count();
        rest.is_empty() || up > voters.len() / 2
    }

    fn elect(&mut self) {
        // A unit that is being removed keeps its lease until it is dead.
        if self.leader.as_ref().and_then(|leader| self.nodes.get(leader)).is_some_and(|n| n.life == Life::Dying) {
            return;
        }
        // Juju promises leadership for 30 seconds; a hook that has taken a step of a replacement ends sooner.
        let promised =
            |node: &Node| node.run.as_ref().is_some_and(|run| matches!(run.change, Some(SecretChange::Revise(_))));
        if self.leader.as_ref().and_then(|leader| self.nodes.get(leader)).is_some_and(promised) {
            return;
        }
        let candidates: Vec<Unit> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.life == Life::Alive && n.powered && n.installed)
            .map(|(u, _)| u.clone())
            .collect();
        if let Some(new) = self.pick(&candidates)
            && self.leader.as_ref() != Some(&new)
        {
            self.note(|| format!("leader {new}"));
            self.nodes.get_mut(&new).unwrap().elected = true;
            self.leader = Some(new);
        }
    }
}

/// Runs a seed and returns its story.
fn tell(seed: u64) -> Vec<String> {
    let mut world = World::new(seed);
    world.told = true;
    world.live();
    world.trace
}

/// Runs a seed; on a breach runs it again and prints the end of its story.
fn run_seed(seed: u64) {
    let quiet = std::panic::catch_unwind(|| World::new(seed).live());
    if let Err(breach) = quiet {
        let mut world = World::new(seed);
        world.told = true;
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.live()));
        let shown = usize::try_from(from_environment("ETCD_CHARM_TRACE", 150)).unwrap();
        let tail = world.trace.len().saturating_sub(shown);
        eprintln!("--- seed {seed}\n{}", world.trace[tail..].join("\n"));
        eprintln!("members: {:#?}\napplication: {:?} {:?}", world.clusters, world.app.bootstrap, world.app.joins);
        eprintln!("--- seed {seed}: ETCD_CHARM_FIRST_SEED={seed} ETCD_CHARM_SEEDS=1");
        std::panic::resume_unwind(breach);
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_world_converges_without_losing_members_data_or_authorities() {
    let first = from_environment("ETCD_CHARM_FIRST_SEED", 1);
    let count = from_environment("ETCD_CHARM_SEEDS", 10_000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (first + thread..first + count).step_by(threads as usize).for_each(run_seed));
        }
    });
}

#[test]
fn equal_seeds_give_equal_worlds() {
    for seed in [3, 14, 159] {
        assert_eq!(tell(seed), tell(seed));
    }
    assert_ne!(tell(3), tell(14));
}
