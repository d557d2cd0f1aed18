//! The store of the model: members, quorums, the first start of a daemon.

use super::*;

impl World {
    pub(super) fn is_up(&self, member: &Voter, cluster: usize) -> bool {
        member
            .unit
            .as_ref()
            .and_then(|unit| self.nodes.get(unit))
            .is_some_and(|node| node.powered && node.service.is_some() && node.data == Some((cluster, member.id)))
    }

    pub(super) fn has_quorum(&self, cluster: usize) -> bool {
        let voters: Vec<&Voter> = self.clusters[cluster].iter().filter(|m| !m.learner).collect();
        let up = voters.iter().filter(|m| self.is_up(m, cluster)).count();
        up > voters.len() / 2
    }

    /// The cluster a unit can reach: its own running member's, or one it has heard of.
    pub(super) fn reach(&self, name: &Unit) -> Option<usize> {
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

    pub(super) fn promote(&mut self) {
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

    pub(super) fn start_daemon(&mut self, name: &Unit) -> bool {
        let node = &self.nodes[name];
        let settings = node.settings.clone().expect("settings are written before a start");
        if let Some((cluster, id)) = node.data {
            return self.clusters[cluster].iter().any(|m| m.id == id);
        }
        self.serial += 1;
        let (id, own) = (self.serial, settings.initial_advertise_peer_urls.clone());
        if settings.initial_cluster_state == "new" {
            let first = self.begun.insert(settings.initial_cluster_token.to_string());
            assert!(first, "{name} starts a second cluster: {:?}", self.clusters);
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
                && settings.initial_cluster == lines.join(",")
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

    pub(super) fn remove_member(&mut self, by: &Unit, id: u64) -> Result<(), ()> {
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
}
