//! Authorities replaced by operators and age, and whether everybody still trusts everybody.

use super::*;

impl World {
    pub(super) fn anchor(&mut self, side: Side) -> Anchor {
        self.serial += 1;
        let name = format!("{} {}", side.authority_word(), self.serial);
        let validity = Validity { from: self.now, until: self.now + 3_000 * DAY };
        Anchor { pem: format!("{name} pem"), id: name.clone(), name, validity }
    }

    pub(super) fn after(&mut self, trust: &Trust, steps: &[(Side, Step)]) -> Trust {
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

    pub(super) fn rotate(&mut self, name: &Unit, steps: &[(Side, Step)]) {
        if self.leader.as_ref() != Some(name) {
            // Made from a secret that another leader may have changed since, it is left out at the end.
            self.nodes.get_mut(name).unwrap().run.as_mut().unwrap().done.app_written = true;
            return;
        }
        let held = self.secret.clone().expect("a step is planned for authorities that exist");
        let next = self.after(&held, steps);
        let run = self.nodes.get_mut(name).unwrap().run.as_mut().unwrap();
        run.done.app_written = true;
        run.app.push(AppChange::Trust(next.clone()));
        run.change(SecretChange::Revise(next));
    }

    /// The latest revision of the secret; 0 without one.
    pub(super) fn latest(&self) -> u64 {
        self.revisions.last().copied().unwrap_or(0)
    }

    /// A unit reads the secret with `--refresh`.
    pub(super) fn read_secret(&mut self, name: &Unit) {
        let latest = self.latest();
        if latest > 0 {
            let node = self.nodes.get_mut(name).unwrap();
            (node.tracked, node.told) = (latest, latest);
        }
    }

    /// Juju 4 removes the revision, Juju 3 whatever begins with its digits.
    pub(super) fn prune_secret(&mut self, removed: u64) {
        let (latest, digits) = (self.latest(), removed.to_string());
        let exact = self.juju4;
        self.revisions.retain(
            |revision| {
                if exact { *revision != removed } else { !revision.to_string().starts_with(&digits) }
            },
        );
        assert_eq!(self.latest(), latest, "the revision in use is removed with {removed}");
    }

    /// The secret hook that is due for a unit: each revision is told once to each unit that follows the secret
    /// or leads, and nothing that came before its agent started anew.
    pub(super) fn secret_hook(&self, name: &Unit) -> Option<Kind> {
        let node = &self.nodes[name];
        let latest = self.latest();
        if node.tracked > 0 && latest > node.tracked.max(node.told) {
            return Some(Kind::SecretChanged);
        }
        let pinned = |revision: &u64| self.nodes.values().any(|node| node.tracked == *revision);
        let due = |revision: &&u64| **revision < latest && !pinned(revision) && !node.remove_told.contains(revision);
        let unused = self.revisions.iter().filter(|_| self.leader.as_ref() == Some(name)).find(due);
        unused.map(|revision| Kind::SecretRemove(*revision))
    }

    /// The secret is stored: from here on, clients of an authority that signs no more have had their time.
    pub(super) fn store_secret(&mut self, next: Trust) {
        self.revisions.insert(self.latest() + 1);
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
    pub(super) fn reload(&mut self, name: &Unit) {
        let node = self.nodes.get_mut(name).unwrap();
        let read = node.pairs.iter().map(|(side, pair)| (*side, pair.report.clone())).collect();
        if node.loaded != read {
            node.loaded = read;
            self.check_handshakes();
        }
    }

    pub(super) fn fetch_credentials(&mut self) {
        let Some(trust) = self.secret.as_ref().map(|trust| &trust.server) else { return };
        let signer = match &trust.next {
            Some(next) if self.app.deadlines.contains_key(&Side::Server) => &next.anchor,
            _ => &trust.issuing,
        };
        self.clients.push(Credentials { issuer: signer.id.clone(), trusts: trust.ids() });
    }

    /// An operator's action on the leader, between two of its hooks.
    pub(super) fn operate(&mut self) {
        let Some(leader) = self.leader.clone() else { return };
        let node = &self.nodes[&leader];
        if node.run.is_some() || !node.created || !node.powered {
            return;
        }
        self.begin(&leader, Kind::UpdateStatus);
        self.read_secret(&leader);
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
    pub(super) fn check_handshakes(&self) {
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
}
