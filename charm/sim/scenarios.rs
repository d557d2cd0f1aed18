//! What happens to a world: operators, fate, and how it comes to rest.

use super::*;

impl World {
    /// Something an operator, Juju or fate does.
    pub(super) fn happen(&mut self) {
        let alive = self.alive();
        match self.below(24) {
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
            17 => {
                let names: Vec<Unit> = self.nodes.keys().cloned().collect();
                let Some(name) = self.pick(&names) else { return };
                self.restart_agent(&name);
            }
            18 => {
                let names: Vec<Unit> = self.nodes.keys().cloned().collect();
                let name = self.pick(&names).filter(|name| self.nodes[name].started);
                name.iter().for_each(|name| self.nodes.get_mut(name).unwrap().upgrade = true);
            }
            16 => {
                let names: Vec<Unit> = self.nodes.keys().cloned().collect();
                self.pick(&names).iter().for_each(|name| self.nodes.get_mut(name).unwrap().tick = true);
            }
            19 => {
                let stays = |(_, node): &(&Unit, &Node)| node.life == Life::Alive && node.powered;
                let others = |name: &Unit| self.nodes.iter().filter(stays).any(|(other, _)| other != name);
                let able = |name: &&Unit| self.can_lose(name) && others(name);
                let names: Vec<Unit> = self.nodes.keys().filter(able).cloned().collect();
                let names = if self.below(3) == 0 { names } else { Vec::new() };
                if let Some(victim) = self.pick(&names) {
                    self.force_remove(&victim);
                }
            }
            20 | 21 => {
                let failed = |(name, node): &(&Unit, &Node)| node.error && node.run.is_none() && self.can_lose(name);
                let names: Vec<Unit> = self.nodes.iter().filter(failed).map(|(name, _)| name.clone()).collect();
                self.pick(&names).iter().for_each(|name| self.skip(name));
            }
            22 => {
                let leader = self.leader.clone().filter(|leader| self.nodes[leader].run.is_none());
                leader.filter(|_| self.begins_anew()).iter().for_each(|leader| self.begin_anew(leader));
            }
            _ => self.promote(),
        }
    }

    /// True when a status asks for `new-cluster`.
    fn begins_anew(&self) -> bool {
        self.nodes.iter().any(|(name, node)| match node.status {
            Status::ClusterGone(_) => true,
            Status::MembersGone(_) => self.leader.as_ref() == Some(name),
            _ => false,
        })
    }

    /// Does what the units' statuses ask an operator to do.
    pub(super) fn obey(&mut self) {
        let anew = self.begins_anew();
        let names: Vec<Unit> = self.nodes.keys().cloned().collect();
        for name in names {
            let Some(node) = self.nodes.get(&name).filter(|node| node.run.is_none()) else { continue };
            match node.status {
                Status::HoldsLastCopy(_) | Status::LetsUnitsIn(_) => self.nodes.get_mut(&name).unwrap().exec = true,
                Status::MembersGone(_) if self.leader.as_ref() == Some(&name) => {}
                Status::MembersGone(_) | Status::ForeignData(_) => self.force_remove(&name),
                Status::NeededForQuorum if self.is_hopeless(&name) => self.force_remove(&name),
                _ => {}
            }
        }
        if let Some(leader) = self.leader.clone().filter(|leader| anew && self.nodes[leader].run.is_none()) {
            self.begin_anew(&leader);
        }
    }

    /// True when no unit that exists has a voter of this unit's cluster.
    fn is_hopeless(&self, name: &Unit) -> bool {
        let Some((cluster, _)) = self.nodes[name].data else { return false };
        let voters = self.clusters[cluster].iter().filter(|member| !member.learner);
        let holders = voters.filter_map(|voter| Some((voter.id, self.nodes.get(voter.unit.as_ref()?)?)));
        holders.into_iter().all(|(id, node)| node.data != Some((cluster, id)))
    }

    /// `new-cluster` on the leader. What it publishes is kept as one, or lost when the action or its flush fails.
    fn begin_anew(&mut self, name: &Unit) {
        self.begin(name, Kind::Exec);
        let facts = self.observe(name).of_the_living();
        self.nodes.get_mut(name).unwrap().run = None;
        let Ok(anew) = bootstrap::begin_anew(&facts, "etcd") else { return };
        for (cluster, members) in self.clusters.iter().enumerate() {
            let voter = members.iter().find(|member| !member.learner && self.is_up(member, cluster));
            assert_eq!(voter.map(|voter| &voter.unit), None, "a cluster is given up that {name} could not see");
        }
        if self.below(2) == 0 {
            return self.note(|| format!("{name} gives the cluster up, and the flush fails"));
        }
        self.note(|| format!("{name} gives the cluster up"));
        let mut app = self.app.clone();
        anew.changes.iter().for_each(|change| self.apply_change(&mut app, change));
        let node = self.nodes.get_mut(name).unwrap();
        node.bag = anew.own;
        node.version += 1;
        self.app = app;
        self.app_version += 1;
    }

    /// Cuts the power of one unit, when what remains can bear it: any software loses its data when
    /// a majority of machines is destroyed.
    pub(super) fn kill_one(&mut self) {
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
    pub(super) fn rest(&mut self) {
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

    pub(super) fn unsettled(&self) -> Option<String> {
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
        let members: BTreeSet<String> = cluster.iter().filter(|m| !m.learner).map(|m| m.name.to_string()).collect();
        if units != members || members.len() != cluster.len() {
            return Some(format!("units {units:?}, members {cluster:?}"));
        }
        None
    }

    pub(super) fn unfinished_rotation(&self) -> Option<String> {
        let (secret, published) = (self.secret.as_ref()?, self.app.trust.as_ref()?);
        if secret != published {
            return Some("the secret is not published".to_owned());
        }
        if self.revisions != BTreeSet::from([self.latest()]) {
            return Some(format!("revisions of the secret are left: {:?}", self.revisions));
        }
        let pins = self.nodes.iter().find(|(_, node)| ![0, self.latest()].contains(&node.tracked));
        if let Some((name, node)) = pins {
            return Some(format!("{name} still follows revision {}", node.tracked));
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
    pub(super) fn live(&mut self) {
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
            self.obey();
            let Some(why) = self.unsettled() else { break };
            self.now += 20 * DAY;
            assert!(sweep < 50, "not converged: {why}");
            self.nodes.values_mut().for_each(|node| node.tick = true);
        }
        if self.below(3) == 0 {
            self.remove_application();
        }
    }

    pub(super) fn remove_application(&mut self) {
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
