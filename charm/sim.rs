//! Tests only: a model of Juju, machines and the store in memory, run over thousands of seeds.
//!
//! Every unit runs its hooks one at a time but all units interleave action by action. The model
//! keeps to Juju's rules: hook order per unit, databag writes and secrets published only when a hook
//! ends well, remote unit bags as stale as the last hook for that unit, application data fresh,
//! leadership that moves and is checked at the flush, hooks that crash anywhere and are run again.
//! The store adds, promotes and removes members as ours does. Checked in every world: what
//! [`Facts::impossible`] says, one change of the member list per plan, a quorum after each removal,
//! the last voter kept, one cluster; and in the end: all active, the member list equal to the units.
//!
//! Authorities are replaced meanwhile, by operators and by age. A daemon takes up new files some time
//! after they were written. After every action, what any running member shows must be trusted by every
//! other and by every client that was told to expect it, and what a client shows by every member; the
//! published authorities change by one step of a replacement at a time; and in the end only the newest
//! is trusted. A failure prints its seed; `ETCD_CHARM_SEEDS=1 ETCD_CHARM_FIRST_SEED=n`
//! runs it alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use etcd_charm::pki::{DAY, Described, LEAF_DAYS, Validity, normal_names};
use serde_json::json;

use crate::bags::{AppBag, AppChange, UnitBag};
use crate::event::Event;
use crate::facts::{
    Authorities, Certificate, Cluster, Done, Facts, Host, Life, Member, Network, Pair, Peer, Program, Request, Service,
    Side, Store, Unit,
};
use crate::plan::config::DaemonConfig;
use crate::plan::rotation::{self, Step};
use crate::plan::status::Status;
use crate::plan::{Action, plan};
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
    Departed(Unit),
    LeavingPeer(Unit),
    Stop,
    Remove,
    UpdateStatus,
}

/// A hook under way.
#[derive(Debug)]
struct Run {
    kind: Kind,
    queue: VecDeque<Action>,
    rounds: u32,
    again: bool,
    insist: bool,
    done: Done,
    bag: Option<UnitBag>,
    app: Vec<AppChange>,
    secret: Option<Trust>,
    rotated: Option<Trust>,
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
    app_seen: u64,
    failed: Option<Kind>,
    failures: u32,
    run: Option<Run>,
    program: bool,
    settings: Option<DaemonConfig>,
    data: Option<(usize, u64)>,
    pairs: BTreeMap<Side, Pair>,
    /// What the running daemon has taken up; the disk may be newer.
    loaded: BTreeMap<Side, Report>,
    service: Option<String>,
    ports: BTreeSet<String>,
    status: Status,
}

#[derive(Clone, Debug)]
struct Voter {
    id: u64,
    unit: Option<Unit>,
    name: String,
    url: String,
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
    leader: Option<Unit>,
    clusters: Vec<Vec<Voter>>,
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
            leader: None,
            clusters: Vec::new(),
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
        self.note(|| format!("add {name}"));
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
            address: self.next as u8,
            bag: UnitBag::default(),
            version: 0,
            joined: BTreeMap::new(),
            changed_next: None,
            departs: BTreeSet::new(),
            app_seen: 0,
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
        self.announce(going);
    }

    fn announce(&mut self, going: &Unit) {
        if self.leader.as_ref() == Some(going) {
            self.leader = None;
        }
        for (name, node) in &mut self.nodes {
            if name != going && node.joined.contains_key(going) {
                node.departs.insert(going.clone());
            }
        }
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
        self.announce(victim);
        self.nodes.remove(victim);
    }

    fn elect(&mut self) {
        // Juju promises leadership for 30 seconds; a hook that has taken a step of a replacement ends sooner.
        let promised = |node: &Node| node.run.as_ref().is_some_and(|run| run.rotated.is_some());
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

    // ---- the store ----

    fn is_up(&self, member: &Voter, cluster: usize) -> bool {
        member
            .unit
            .as_ref()
            .and_then(|unit| self.nodes.get(unit))
            .is_some_and(|node| node.powered && node.service.is_some() && node.data == Some((cluster, member.id)))
    }

    fn has_quorum(&self, cluster: usize) -> bool {
        let voters: Vec<&Voter> = self.clusters[cluster].iter().filter(|m| !m.learner).collect();
        let up = voters.iter().filter(|m| self.is_up(m, cluster)).count();
        up > voters.len() / 2
    }

    /// The cluster a unit can reach: its own running member's, or one it has heard of.
    fn reach(&self, name: &Unit) -> Option<usize> {
        let node = &self.nodes[name];
        node.pairs[&Side::Server].certificate.as_ref()?;
        let listed = |cluster: usize, id: u64| self.clusters[cluster].iter().any(|m| m.id == id);
        let own = node.data.filter(|(c, id)| node.service.is_some() && listed(*c, *id));
        let others = self.nodes.iter().filter(|(other, n)| *other != name && n.bag.client_url.is_some());
        let others = others.filter_map(|(_, other)| {
            other.data.filter(|(c, id)| other.powered && other.service.is_some() && listed(*c, *id))
        });
        own.into_iter().chain(others).map(|(c, _)| c).find(|c| self.has_quorum(*c))
    }

    fn promote(&mut self) {
        for cluster in 0..self.clusters.len() {
            for at in 0..self.clusters[cluster].len() {
                let member = self.clusters[cluster][at].clone();
                if member.learner && self.has_quorum(cluster) && self.is_up(&member, cluster) {
                    self.note(|| format!("promote {}", member.name));
                    self.clusters[cluster][at].learner = false;
                }
            }
        }
    }

    fn start_daemon(&mut self, name: &Unit) -> bool {
        let node = &self.nodes[name];
        let settings = node.settings.clone().expect("settings are written before a start");
        if let Some((cluster, id)) = node.data {
            return self.clusters[cluster].iter().any(|m| m.id == id);
        }
        self.serial += 1;
        let (id, own) = (self.serial, settings.initial_advertise_peer_urls.clone());
        if settings.initial_cluster_state == "new" {
            for (at, cluster) in self.clusters.iter().enumerate() {
                for member in cluster {
                    let holder = member.unit.as_ref().and_then(|u| self.nodes.get(u));
                    let holds = holder.is_some_and(|n| n.data == Some((at, member.id)));
                    assert!(!holds, "{name} starts a second cluster beside the data of {:?}", member.unit);
                }
            }
            let member = Voter { id, unit: Some(name.clone()), name: settings.name, url: own, learner: false };
            self.clusters.push(vec![member]);
            self.nodes.get_mut(name).unwrap().data = Some((self.clusters.len() - 1, id));
            return true;
        }
        for cluster in 0..self.clusters.len() {
            let mut lines: Vec<String> = self.clusters[cluster]
                .iter()
                .map(|m| {
                    let shown = if m.url == own { &settings.name } else { &m.name };
                    format!("{shown}={}", m.url)
                })
                .collect();
            lines.sort();
            let at = self.clusters[cluster].iter().position(|m| m.url == own && m.name.is_empty());
            if let Some(at) = at
                && lines.join(",") == settings.initial_cluster
                && self.has_quorum(cluster)
            {
                let member = &mut self.clusters[cluster][at];
                member.name = settings.name;
                member.unit = Some(name.clone());
                let id = member.id;
                self.nodes.get_mut(name).unwrap().data = Some((cluster, id));
                return true;
            }
        }
        false
    }

    fn remove_member(&mut self, by: &Unit, id: u64) -> Result<(), ()> {
        let Some(cluster) = self.reach(by) else { return Err(()) };
        let Some(at) = self.clusters[cluster].iter().position(|m| m.id == id) else { return Ok(()) };
        let leaving = self.clusters[cluster][at].clone();
        let rest: Vec<&Voter> = self.clusters[cluster].iter().filter(|m| !m.learner && m.id != id).collect();
        let up = rest.iter().filter(|m| self.is_up(m, cluster)).count();
        if !leaving.learner && up <= rest.len() / 2 {
            return Err(());
        }
        assert!(!rest.is_empty(), "the last voter is removed while {:?} are wanted", self.alive());
        if let Some(holder) = leaving.unit.as_ref().and_then(|u| self.nodes.get(u)) {
            let alive = holder.life == Life::Alive && holder.powered;
            assert!(!alive, "{by} removes the member of {:?}, which is wanted and runs", leaving.unit);
        }
        self.clusters[cluster].remove(at);
        if let Some(node) = leaving.unit.and_then(|u| self.nodes.get_mut(&u)) {
            node.service = None;
        }
        Ok(())
    }

    // ---- looking ----

    fn observe(&self, name: &Unit) -> Facts {
        let node = &self.nodes[name];
        let run = node.run.as_ref().expect("a hook is under way");
        let leader = self.leader.as_ref() == Some(name);
        let mut app = self.app.clone();
        for change in &run.app {
            self.apply_change(&mut app, change);
        }
        if let Some(trust) = &app.trust {
            for ((_, side), certificate) in &mut app.certificates {
                certificate.issuer = certificate.issuer.take().filter(|id| trust.of(*side).ids().contains(id));
            }
        }
        let leaving = matches!(&run.kind, Kind::Departed(_) | Kind::LeavingPeer(_));
        let departed = match &run.kind {
            Kind::Departed(other) | Kind::LeavingPeer(other) if leaving => Some(other),
            _ => None,
        };
        let units = node.joined.iter().filter(|(other, _)| Some(*other) != departed);
        let address: std::net::IpAddr = format!("10.0.0.{}", node.address).parse().unwrap();
        let names = normal_names(&[address.to_string(), name.member_name()]);
        Facts {
            unit: name.clone(),
            now: self.now,
            leader,
            options: BTreeMap::from([("port".to_owned(), json!(self.port))]),
            network: Some(Network { bind: vec![address], ingress: address, names }),
            peer: node.created.then(|| Peer {
                own: run.bag.clone().unwrap_or_else(|| node.bag.clone()),
                app,
                units: units.map(|(other, (_, bag))| (other.clone(), bag.clone())).collect(),
            }),
            goal: Some(self.nodes.iter().map(|(other, n)| (other.clone(), n.life)).collect()),
            authorities: match (leader, &self.secret) {
                (false, _) => Authorities::Unasked,
                (true, None) => Authorities::Absent,
                (true, Some(trust)) => Authorities::Held(trust.clone()),
            },
            ports: node.ports.clone(),
            host: Host {
                root: "/".to_owned(),
                program: if node.program { Program::Current } else { Program::Outdated },
                stamp: "1".to_owned(),
                config: node.settings.clone(),
                data_dir: "/var/lib/etcd".to_owned(),
                data: node.data.is_some(),
                pairs: node.pairs.clone(),
                service: match &node.service {
                    Some(generation) => Service::Running(Some(generation.clone())),
                    None => Service::Stopped,
                },
            },
            storage: None,
            presented: node.service.iter().flat_map(|_| node.loaded.clone()).collect(),
            unused_revision: None,
            store: self.look(name),
            done: run.done,
        }
    }

    fn look(&self, name: &Unit) -> Store {
        let Some(cluster) = self.reach(name) else { return Store::Unreachable };
        let members: Vec<Member> = self.clusters[cluster]
            .iter()
            .map(|m| Member {
                id: m.id,
                name: m.name.clone(),
                peer_url: m.url.clone(),
                learner: m.learner,
                reachable: self.is_up(m, cluster),
                healthy: self.is_up(m, cluster),
            })
            .collect();
        let leader = members.iter().find(|m| !m.learner && m.reachable).map_or(0, |m| m.id);
        let own = self.clusters[cluster].iter().find(|m| m.unit.as_ref() == Some(name));
        let own_healthy = own.is_some_and(|m| !m.learner && self.is_up(m, cluster));
        Store::Reachable(Cluster { members, leader, own_healthy, version: Some("3.6.0".to_owned()) })
    }

    fn apply_change(&self, app: &mut AppBag, change: &AppChange) {
        match change {
            AppChange::Bootstrap(unit) => app.bootstrap = Some(unit.clone()),
            AppChange::Trust(trust) => {
                app.trust = Some(trust.clone());
                app.deadlines.retain(|side, _| trust.of(*side).next.is_some());
            }
            AppChange::Deadline(side, until) => {
                app.deadlines.extend(until.map(|until| (*side, until)));
            }
            AppChange::Certificate(unit, side, pem) => {
                app.certificates.insert((unit.clone(), *side), self.certificates[pem].clone());
            }
            AppChange::Join(unit, line) => {
                app.joins.insert(unit.clone(), line.clone());
            }
            AppChange::Turn(turn) => app.turn = turn.clone(),
            AppChange::Forget(unit) => {
                app.joins.remove(unit);
                app.certificates.retain(|(owner, _), _| owner != unit);
            }
        }
    }

    // ---- acting ----

    /// `Err` is a refusal by the cluster.
    fn act(&mut self, name: &Unit, action: Action) -> Result<(), ()> {
        self.note(|| format!("{name}: {}", short(&action)));
        self.serial += 1;
        let serial = self.serial;
        match &action {
            Action::AddLearner { peer_url, .. } => return self.add_learner(name, peer_url, serial),
            Action::RemoveMember { id, .. } => return self.remove_member(name, *id),
            Action::UpdatePeerUrl { id, peer_url } => {
                let Some(cluster) = self.reach(name) else { return Err(()) };
                if let Some(member) = self.clusters[cluster].iter_mut().find(|m| m.id == *id) {
                    member.url = peer_url.clone();
                }
                return Ok(());
            }
            Action::StartService { generation } | Action::RestartService { generation } => {
                let up = self.start_daemon(name);
                self.reload(name);
                let node = self.nodes.get_mut(name).unwrap();
                node.service = up.then(|| generation.clone());
                node.run.as_mut().unwrap().done.started = true;
                self.check_handshakes();
                if self.below(10) < 7 {
                    self.promote();
                }
                return Ok(());
            }
            Action::Issue { unit, side, request, names } => {
                let says = Described {
                    subject: unit.member_name(),
                    names: names.clone(),
                    public_key: format!("{unit} {}", side.word()),
                };
                let pem = format!("certificate {serial} for {request}");
                let validity = Validity { from: self.now, until: self.now + LEAF_DAYS * DAY };
                let issuer = self.secret.as_ref().or(self.app.trust.as_ref());
                let made = self.nodes[name].run.as_ref().and_then(|run| run.secret.as_ref());
                let issuer = made.or(issuer).map(|trust| trust.of(*side).issuing.id.clone());
                self.certificates.insert(pem.clone(), Certificate { pem: pem.clone(), says, validity, issuer });
                let run = self.nodes.get_mut(name).unwrap().run.as_mut().unwrap();
                run.done.app_written = true;
                run.app.push(AppChange::Certificate(unit.clone(), *side, pem));
                return Ok(());
            }
            Action::Rotate(steps) => {
                self.rotate(name, steps);
                return Ok(());
            }
            _ => {}
        }
        let installs = matches!(action, Action::InstallCertificate { .. });
        self.act_locally(name, action, serial);
        if installs {
            self.check_handshakes();
        }
        Ok(())
    }

    fn add_learner(&mut self, by: &Unit, peer_url: &str, id: u64) -> Result<(), ()> {
        let Some(cluster) = self.reach(by) else { return Err(()) };
        if self.clusters[cluster].iter().any(|m| m.url == peer_url) {
            return Ok(());
        }
        if self.clusters[cluster].iter().any(|m| m.learner) {
            return Err(());
        }
        let learner = Voter { id, unit: None, name: String::new(), url: peer_url.to_owned(), learner: true };
        self.clusters[cluster].push(learner);
        Ok(())
    }

    // ---- authorities ----

    fn anchor(&mut self, side: Side) -> Anchor {
        self.serial += 1;
        let name = format!("{} {}", side.authority_word(), self.serial);
        let validity = Validity { from: self.now, until: self.now + 3_000 * DAY };
        Anchor { pem: format!("{name} pem"), id: name.clone(), name, validity }
    }

    fn after(&mut self, trust: &Trust, steps: &[(Side, Step)]) -> Trust {
        let mut trust = trust.clone();
        for (side, step) in steps {
            let fresh = self.anchor(*side);
            let anchors = match side {
                Side::Server => &mut trust.server,
                Side::Peer => &mut trust.peer,
            };
            match step {
                Step::Introduce { grace_days } => {
                    anchors.next = Some(Successor { anchor: fresh, grace_days: *grace_days });
                }
                Step::Replace => {
                    let next = anchors.next.take().expect("a successor to replace by").anchor;
                    anchors.old = Some(std::mem::replace(&mut anchors.issuing, next));
                }
                Step::Drop => anchors.old = None,
            }
        }
        trust
    }

    fn rotate(&mut self, name: &Unit, steps: &[(Side, Step)]) {
        if self.leader.as_ref() != Some(name) {
            return;
        }
        let held = self.secret.clone().expect("a step is planned for authorities that exist");
        let next = self.after(&held, steps);
        let run = self.nodes.get_mut(name).unwrap().run.as_mut().unwrap();
        run.done.app_written = true;
        run.app.push(AppChange::Trust(next.clone()));
        run.rotated = Some(next);
    }

    /// The secret is stored: from here on, clients of an authority that signs no more have had their time.
    fn store_secret(&mut self, next: Trust) {
        let earlier = self.secret.replace(next.clone());
        let Some(earlier) = earlier else { return };
        assert!(next.follows(&earlier), "the secret skips a phase: {earlier:?} {next:?}");
        if next.server.issuing != earlier.server.issuing {
            let until = self.app.deadlines.get(&Side::Server);
            assert!(until.is_some_and(|until| *until <= self.now), "clients had no time to change");
            let signer = &next.server.issuing.id;
            self.clients.retain(|client| client.issuer == *signer && client.trusts.contains(signer));
        }
    }

    /// The daemon reads its files again, as it does at some handshake after they have changed.
    fn reload(&mut self, name: &Unit) {
        let node = self.nodes.get_mut(name).unwrap();
        let read = node.pairs.iter().map(|(side, pair)| (*side, pair.report.clone())).collect();
        if node.loaded != read {
            node.loaded = read;
            self.check_handshakes();
        }
    }

    fn fetch_credentials(&mut self) {
        let Some(trust) = self.secret.as_ref().map(|trust| &trust.server) else { return };
        let signer = match &trust.next {
            Some(next) if self.app.deadlines.contains_key(&Side::Server) => &next.anchor,
            _ => &trust.issuing,
        };
        self.clients.push(Credentials { issuer: signer.id.clone(), trusts: trust.ids() });
    }

    /// An operator's action on the leader, between two of its hooks.
    fn operate(&mut self) {
        let Some(leader) = self.leader.clone() else { return };
        let node = &self.nodes[&leader];
        if node.run.is_some() || !node.created || !node.powered {
            return;
        }
        self.begin(&leader, Kind::UpdateStatus);
        let facts = self.observe(&leader);
        self.nodes.get_mut(&leader).unwrap().run = None;
        let sides = [vec![Side::Server], vec![Side::Peer], Side::BOTH.to_vec()][self.below(3) as usize].clone();
        let grace = self.below(40) as i64;
        let mut app = self.app.clone();
        if self.below(2) == 0 {
            let Ok(steps) = rotation::begin(&facts, &sides, grace) else { return };
            self.note(|| format!("{leader} begins {steps:?}"));
            let next = self.after(&self.secret.clone().unwrap(), &steps);
            self.store_secret(next.clone());
            // Cut off between secret and databag.
            if self.below(6) == 0 {
                return;
            }
            self.apply_change(&mut app, &AppChange::Trust(next));
        } else {
            let Ok(change) = rotation::finish(&facts) else { return };
            self.note(|| format!("{leader} ends the clients' grace"));
            self.apply_change(&mut app, &change);
        }
        self.app = app;
        self.app_version += 1;
    }

    /// Nobody who is to be understood is refused: not by what runs, nor by what would after a restart.
    fn check_handshakes(&self) {
        for (cluster, members) in self.clusters.iter().enumerate() {
            let up: Vec<&Node> = members
                .iter()
                .filter(|member| self.is_up(member, cluster))
                .filter_map(|member| member.unit.as_ref().and_then(|unit| self.nodes.get(unit)))
                .collect();
            fn both(node: &Node, side: Side) -> [&Report; 2] {
                [&node.loaded[&side], &node.pairs[&side].report]
            }
            for side in Side::BOTH {
                for (shows, judges) in up.iter().flat_map(|one| up.iter().map(move |other| (one, other))) {
                    for shown in both(shows, side) {
                        let issuer =
                            shown.issuer.as_ref().expect("a running member has a known authority's certificate");
                        for judge in both(judges, side) {
                            let names = (&shows.address, &judges.address);
                            assert!(judge.trusts.contains(issuer), "{side:?} {names:?}: {issuer} {:?}", judge.trusts);
                        }
                    }
                }
            }
            for (client, node) in self.clients.iter().flat_map(|client| up.iter().map(move |node| (client, node))) {
                for report in both(node, Side::Server) {
                    assert!(report.trusts.contains(&client.issuer), "{client:?} is refused by {report:?}");
                    let issuer = report.issuer.as_ref().expect("checked above");
                    assert!(client.trusts.contains(issuer), "{client:?} refuses {report:?}");
                }
            }
        }
    }

    fn act_locally(&mut self, name: &Unit, action: Action, serial: u64) {
        let made = [self.anchor(Side::Server), self.anchor(Side::Peer)];
        let node = self.nodes.get_mut(name).unwrap();
        let run = node.run.as_mut().unwrap();
        run.done.app_written |= action.writes_app();
        match action {
            Action::InstallProgram => node.program = true,
            Action::MakeRequest { side, common_name, names } => {
                let says = Described { subject: common_name, names, public_key: format!("{name} {}", side.word()) };
                let pem = format!("request {serial}");
                node.pairs.get_mut(&side).unwrap().request = Some(Request { pem, says });
            }
            Action::InstallCertificate { side, certificate, trust } => {
                let pair = node.pairs.get_mut(&side).unwrap();
                let trusts = trust.lines().filter_map(|line| line.strip_suffix(" pem")).map(str::to_owned).collect();
                let issuer = self.certificates[&certificate].issuer.clone();
                pair.certificate = Some(certificate);
                pair.trust = Some(trust);
                pair.report = Report { trusts, issuer };
            }
            Action::WriteConfig(config) => node.settings = Some(*config),
            Action::StopService => node.service = None,
            Action::CleanHost { .. } => node.data = None,
            Action::CreateAuthorities => {
                let [server, peer] = made.map(Anchors::only);
                let trust = Trust { server, peer, token: format!("token {serial}") };
                run.app.push(AppChange::Trust(trust.clone()));
                run.secret = Some(trust);
            }
            Action::PublishUnit(bag) => run.bag = Some(*bag),
            Action::PublishApp(change) => run.app.push(change),
            Action::OpenPort(port) => drop(node.ports.insert(format!("{port}/tcp"))),
            Action::ClosePort(port) => drop(node.ports.remove(&format!("{port}/tcp"))),
            Action::MoveLeader { .. } | Action::SetVersion(_) => {}
            other => panic!("not a local action: {other:?}"),
        }
    }

    // ---- Juju's agent ----

    fn next_hook(&mut self, name: &Unit) -> Option<Kind> {
        let (app_version, calm) = (self.app_version, self.calm);
        let present: Vec<(Unit, u64, bool)> = self
            .nodes
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(other, n)| (other.clone(), n.version, n.created && n.life == Life::Alive))
            .collect();
        let node = self.nodes.get_mut(name).unwrap();
        if let Some(kind) = node.failed.clone() {
            // In the calm at the end a failed hook is run again once per sweep: Juju backs off.
            let due = !calm || std::mem::take(&mut node.tick);
            return due.then_some(kind);
        }
        if !node.installed {
            return Some(Kind::Install);
        }
        if !node.created {
            return Some(Kind::Created);
        }
        if node.elected {
            return Some(Kind::Elected);
        }
        if node.config {
            return Some(Kind::Config);
        }
        if !node.started {
            return Some(Kind::Start);
        }
        if node.life == Life::Dying {
            return Some(match node.joined.keys().next() {
                Some(peer) => Kind::LeavingPeer(peer.clone()),
                None if !node.stopped => Kind::Stop,
                None => Kind::Remove,
            });
        }
        if let Some(next) = node.changed_next.clone() {
            return Some(Kind::Changed(next));
        }
        let mut ready: Vec<Kind> = node.departs.iter().cloned().map(Kind::Departed).collect();
        if node.app_seen != app_version {
            ready.push(Kind::AppChanged);
        }
        for (other, version, in_scope) in present {
            match node.joined.get(&other) {
                None if in_scope => ready.push(Kind::Joined(other)),
                Some((seen, _)) if *seen != version => ready.push(Kind::Changed(other)),
                _ => {}
            }
        }
        if ready.is_empty() && std::mem::take(&mut node.tick) {
            return Some(Kind::UpdateStatus);
        }
        self.pick(&ready)
    }

    fn begin(&mut self, name: &Unit, kind: Kind) {
        self.note(|| format!("{name} runs {kind:?}"));
        if let Kind::Joined(other) | Kind::Changed(other) = &kind
            && let Some(seen) = self.nodes.get(other).map(|n| (n.version, n.bag.clone()))
        {
            self.nodes.get_mut(name).unwrap().joined.insert(other.clone(), seen);
        }
        let node = self.nodes.get_mut(name).unwrap();
        node.failed = None;
        node.run = Some(Run {
            kind,
            queue: VecDeque::new(),
            rounds: 0,
            again: true,
            insist: false,
            done: Done::default(),
            bag: None,
            app: Vec::new(),
            secret: None,
            rotated: None,
        });
    }

    fn fail(&mut self, name: &Unit, why: &str) {
        self.note(|| format!("{name} fails: {why}"));
        let node = self.nodes.get_mut(name).unwrap();
        node.failed = node.run.take().map(|run| run.kind);
        node.failures += 1;
    }

    /// One small step of one unit's agent; false when it has nothing to do.
    fn step(&mut self, name: &Unit) -> bool {
        if !self.nodes[name].powered {
            return false;
        }
        if self.nodes[name].run.is_none() {
            let Some(kind) = self.next_hook(name) else { return false };
            self.begin(name, kind);
            return true;
        }
        if !self.calm && self.below(self.crash_in) == 0 {
            self.fail(name, "crash");
            return true;
        }
        let run = self.nodes.get_mut(name).unwrap().run.as_mut().unwrap();
        if let Some(action) = run.queue.pop_front() {
            if self.act(name, action).is_err() {
                self.nodes.get_mut(name).unwrap().run.as_mut().unwrap().again = false;
            }
        } else if run.again && run.rounds < 8 {
            self.decide(name);
        } else {
            self.finish(name);
        }
        true
    }

    fn decide(&mut self, name: &Unit) {
        if self.calm || self.below(4) != 0 {
            self.reload(name);
        }
        let facts = self.observe(name);
        assert_eq!(facts.impossible(), None);
        let run = self.nodes[name].run.as_ref().unwrap();
        let event = match &run.kind {
            Kind::LeavingPeer(_) => Event::Leaving,
            Kind::Stop => Event::Stop,
            Kind::Remove => Event::Remove,
            _ => Event::Reconcile,
        };
        let step = plan(&facts, &event);
        let changes = step
            .actions
            .iter()
            .filter(|action| matches!(action, Action::AddLearner { .. } | Action::RemoveMember { .. }));
        assert!(changes.count() <= 1, "two changes of the member list in one plan: {step:?}");
        let node = self.nodes.get_mut(name).unwrap();
        let again = step.goes_on();
        node.status = step.status;
        let run = node.run.as_mut().unwrap();
        run.rounds += 1;
        run.again = again;
        run.insist = step.insist;
        run.queue = step.actions.into();
    }

    fn finish(&mut self, name: &Unit) {
        let run = self.nodes[name].run.as_ref().unwrap();
        if run.insist {
            return self.fail(name, "it must stay");
        }
        let writes = !run.app.is_empty() || run.secret.is_some() || run.rotated.is_some();
        if writes && self.leader.as_ref() != Some(name) {
            return self.fail(name, "leadership was lost before the flush");
        }
        if run.secret.is_some() && self.secret.is_some() {
            return self.fail(name, "secret with label \"pki\" already exists");
        }
        if let Some(secret) = run.secret.clone().or(run.rotated.clone()) {
            self.store_secret(secret);
            // Secrets are committed on their own, before the databags.
            if !self.calm && self.below(6) == 0 {
                return self.fail(name, "crash between secret and databag");
            }
        }
        let run = self.nodes.get_mut(name).unwrap().run.take().unwrap();
        let mut app = self.app.clone();
        for change in &run.app {
            self.apply_change(&mut app, change);
        }
        if app != self.app {
            if let (Some(earlier), Some(next)) = (&self.app.trust, &app.trust) {
                assert!(next.follows(earlier), "the published authorities skip a phase: {earlier:?} {next:?}");
            }
            self.app = app;
            self.app_version += 1;
        }
        self.settle(name, run);
    }

    fn settle(&mut self, name: &Unit, run: Run) {
        let version = self.app_version;
        let node = self.nodes.get_mut(name).unwrap();
        if let Some(bag) = run.bag
            && bag != node.bag
        {
            node.bag = bag;
            node.version += 1;
        }
        match run.kind {
            Kind::Install => node.installed = true,
            Kind::Created => node.created = true,
            Kind::Elected => node.elected = false,
            Kind::Config => node.config = false,
            Kind::Start => node.started = true,
            Kind::Joined(other) => node.changed_next = Some(other),
            Kind::Changed(other) => {
                if node.changed_next.as_ref() == Some(&other) {
                    node.changed_next = None;
                }
            }
            // Several writes may coalesce; one that came during the hook raises it again.
            Kind::AppChanged => node.app_seen = if self.calm { version } else { version.min(node.app_seen + 2) },
            Kind::Departed(other) | Kind::LeavingPeer(other) => {
                node.joined.remove(&other);
                node.departs.remove(&other);
                if node.changed_next.as_ref() == Some(&other) {
                    node.changed_next = None;
                }
            }
            Kind::Stop => node.stopped = true,
            Kind::UpdateStatus => {}
            Kind::Remove => {
                self.note(|| format!("{name} is gone"));
                self.nodes.remove(name);
                for node in self.nodes.values_mut() {
                    if node.joined.contains_key(name) && node.life == Life::Alive {
                        node.departs.insert(name.clone());
                    }
                }
            }
        }
    }
}

fn short(action: &Action) -> String {
    let text = format!("{action:?}");
    text.chars().take(160).collect()
}

// ---- scenarios ----

impl World {
    /// Something an operator, Juju or fate does.
    fn happen(&mut self) {
        let alive = self.alive();
        match self.below(18) {
            0..=2 if alive.len() < 6 => self.add_unit(),
            3 | 4 => {
                let able: Vec<Unit> = alive.into_iter().filter(|unit| self.nodes[unit].powered).collect();
                if let Some(going) = self.pick(&able).filter(|_| able.len() > 1) {
                    self.begin_removal(&going);
                }
            }
            5 => self.kill_one(),
            6 => {
                let dead: Vec<Unit> = self.nodes.iter().filter(|(_, n)| !n.powered).map(|(u, _)| u.clone()).collect();
                if let Some(victim) = self.pick(&dead) {
                    self.force_remove(&victim);
                }
            }
            7 | 8 => self.elect(),
            9 => {
                self.port = [2379, 2381, 70_000][self.below(3) as usize];
                self.nodes.values_mut().for_each(|node| node.config = true);
            }
            10 => {
                let running: Vec<Unit> =
                    self.nodes.iter().filter(|(_, n)| n.service.is_some()).map(|(u, _)| u.clone()).collect();
                if let Some(name) = self.pick(&running) {
                    self.note(|| format!("the daemon of {name} dies"));
                    self.nodes.get_mut(&name).unwrap().service = None;
                }
            }
            11 | 12 => self.operate(),
            13 => self.fetch_credentials(),
            14 => self.now += self.below(20) as i64 * DAY,
            15 if !self.aged && self.below(4) == 0 => {
                self.note(|| "years pass".to_owned());
                self.aged = true;
                self.now += 2_100 * DAY;
            }
            16 => {
                let names: Vec<Unit> = self.nodes.keys().cloned().collect();
                self.pick(&names).iter().for_each(|name| self.nodes.get_mut(name).unwrap().tick = true);
            }
            _ => self.promote(),
        }
    }

    /// Cuts the power of one unit, when what remains can bear it: any software loses its data when
    /// a majority of machines is destroyed.
    fn kill_one(&mut self) {
        let Some(cluster) = self.clusters.len().checked_sub(1) else { return };
        let settled = self.nodes.values().all(|n| n.life == Life::Alive && n.powered);
        let members = &self.clusters[cluster];
        let all_vote = members.iter().all(|m| !m.learner && self.is_up(m, cluster));
        if settled && all_vote && members.len() >= 3 {
            let units: Vec<Unit> = self.nodes.keys().cloned().collect();
            if let Some(victim) = self.pick(&units) {
                self.kill(&victim);
            }
        }
    }

    /// Lets everything come to rest; hooks in random order, crashes no more.
    fn rest(&mut self) {
        for _ in 0..20_000 {
            if self.leader.is_none() {
                self.elect();
            }
            let mut names: Vec<Unit> = self.nodes.keys().cloned().collect();
            while let Some(name) = self.pick(&names) {
                if self.step(&name) {
                    break;
                }
                names.retain(|other| *other != name);
            }
            if names.is_empty() {
                return;
            }
            if self.below(20) == 0 {
                self.promote();
            }
        }
        panic!("the hooks never come to rest");
    }

    fn unsettled(&self) -> Option<String> {
        for (name, node) in &self.nodes {
            if node.life != Life::Alive || node.failed.is_some() || node.status != Status::Healthy {
                return Some(format!("{name} is {:?}: {:?}", node.life, node.status));
            }
            let wanted = BTreeSet::from([format!("{}/tcp", self.port), "2380/tcp".to_owned()]);
            if node.ports != wanted {
                return Some(format!("{name} has opened {:?}", node.ports));
            }
        }
        if let Some(why) = self.unfinished_rotation() {
            return Some(why);
        }
        let units: BTreeSet<String> = self.nodes.keys().map(Unit::member_name).collect();
        let cluster = self.clusters.last().map(Vec::as_slice).unwrap_or_default();
        let members: BTreeSet<String> = cluster.iter().filter(|m| !m.learner).map(|m| m.name.clone()).collect();
        if units != members || members.len() != cluster.len() {
            return Some(format!("units {units:?}, members {cluster:?}"));
        }
        None
    }

    fn unfinished_rotation(&self) -> Option<String> {
        let (secret, published) = (self.secret.as_ref()?, self.app.trust.as_ref()?);
        if secret != published {
            return Some("the secret is not published".to_owned());
        }
        for side in Side::BOTH {
            let anchors = secret.of(side);
            if anchors.phase() != Phase::Steady {
                return Some(format!("{side:?} is {:?}", anchors.phase()));
            }
            let wanted = Report { trusts: anchors.ids(), issuer: Some(anchors.issuing.id.clone()) };
            let other = self.nodes.iter().find(|(_, node)| node.loaded.get(&side) != Some(&wanted));
            if let Some((name, node)) = other {
                return Some(format!("{name} has {:?} loaded, not {wanted:?}", node.loaded.get(&side)));
            }
        }
        None
    }

    /// Runs one world from its seed to its end.
    fn live(&mut self) {
        for _ in 0..=self.below(5) {
            self.add_unit();
        }
        for _ in 0..self.below(900) {
            if self.below(40) == 0 {
                self.happen();
            }
            if self.leader.is_none() && self.below(8) == 0 {
                self.elect();
            }
            let names: Vec<Unit> = self.nodes.keys().cloned().collect();
            if let Some(name) = self.pick(&names) {
                self.step(&name);
            }
        }
        self.calm = true;
        self.port = 2381;
        self.nodes.values_mut().for_each(|node| node.config = true);
        let dead: Vec<Unit> = self.nodes.iter().filter(|(_, n)| !n.powered).map(|(u, _)| u.clone()).collect();
        for victim in dead {
            self.force_remove(&victim);
        }
        for sweep in 0.. {
            self.nodes.values_mut().for_each(|node| node.tick |= node.failed.is_some());
            self.rest();
            self.promote();
            let Some(why) = self.unsettled() else { break };
            self.now += 20 * DAY;
            assert!(sweep < 50, "not converged: {why}");
            self.nodes.values_mut().for_each(|node| node.tick = true);
        }
        if self.below(3) == 0 {
            self.remove_application();
        }
    }

    fn remove_application(&mut self) {
        let units: Vec<Unit> = self.nodes.keys().cloned().collect();
        for node in self.nodes.values_mut() {
            node.failures = 0;
            node.life = Life::Dying;
        }
        self.leader = None;
        for _ in 0..5_000 {
            let names: Vec<Unit> = self.nodes.keys().cloned().collect();
            let Some(name) = self.pick(&names) else { return };
            self.step(&name);
            assert!(self.nodes.values().all(|n| n.failures == 0), "a hook failed while the application was removed");
        }
        panic!("the application of {units:?} is never gone");
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
