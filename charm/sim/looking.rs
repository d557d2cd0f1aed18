//! What a unit observes, as the facts that its plan is made of.

use super::*;

impl World {
    pub(super) fn observe(&self, name: &Unit) -> Facts {
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
                units: units.map(|(other, (_, bag))| (other.clone(), bag.clone())).chain(run.unmet.clone()).collect(),
            }),
            goal: (!run.blind).then(|| self.nodes.iter().map(|(other, n)| (other.clone(), n.life)).collect()),
            authorities: match (leader, run.content().or(self.secret.as_ref())) {
                (false, _) => Authorities::Unasked,
                (true, None) => Authorities::Absent,
                (true, Some(trust)) => Authorities::Held(trust.clone()),
            },
            ports: node.ports.clone(),
            host: Host {
                root: "/".into(),
                program: if node.program { Program::Current } else { Program::Outdated },
                stamp: "1".to_owned(),
                config: node.settings.clone(),
                data_dir: "/var/lib/etcd".into(),
                data: node.data.is_some(),
                pairs: node.pairs.clone(),
                service: match &node.service {
                    Some(generation) => Service::Running(Some(generation.clone())),
                    None => Service::Stopped,
                },
            },
            storage: None,
            presented: node.service.iter().flat_map(|_| node.loaded.clone()).collect(),
            secret_revision: self.secret.as_ref().filter(|_| leader && run.change.is_none()).map(|_| self.latest()),
            store: self.look(name),
            census: None,
            done: run.done,
        }
    }

    pub(super) fn look(&self, name: &Unit) -> Store {
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
        Store::Reachable(Cluster { members, leader, own_healthy, version: Some("3.6.0".into()) })
    }

    pub(super) fn apply_change(&self, app: &mut AppBag, change: &AppChange) {
        match change {
            AppChange::Bootstrap(unit) => app.bootstrap = Some(unit.clone()),
            AppChange::Unchoose => app.bootstrap = None,
            AppChange::GivenUp(count) => app.given_up = *count,
            AppChange::JoinEnds(unit) => {
                app.joins.remove(unit);
            }
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
            AppChange::KeptFrom(revision) => app.kept_from = Some(*revision),
            AppChange::Forget(unit) => {
                app.joins.remove(unit);
                app.certificates.retain(|(owner, _), _| owner != unit);
            }
        }
    }
}
