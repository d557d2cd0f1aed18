//! Juju's agent: which hook comes next, how it runs, fails and ends.

use super::*;

impl World {
    pub(super) fn next_hook(&mut self, name: &Unit) -> Option<Kind> {
        let (app_version, calm) = (self.app_version, self.calm);
        let present: Vec<(Unit, u64, bool)> = self
            .nodes
            .iter()
            .filter(|(other, _)| *other != name)
            .map(|(other, n)| (other.clone(), n.version, n.created && n.life == Life::Alive))
            .collect();
        let secret_hook = self.secret_hook(name);
        let node = self.nodes.get_mut(name).unwrap();
        if std::mem::take(&mut node.exec) {
            return Some(Kind::Exec);
        }
        if let Some(kind) = node.queued.clone() {
            // A held hook waits in itself; in the calm it is looked at once per sweep.
            let due = !calm || !node.held || std::mem::take(&mut node.tick);
            return due.then_some(kind);
        }
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
        if let Some(kind) = secret_hook.filter(|_| node.life == Life::Alive) {
            return Some(kind);
        }
        if std::mem::take(&mut node.upgrade) {
            return Some(Kind::Upgrade);
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

    pub(super) fn begin(&mut self, name: &Unit, kind: Kind) {
        self.note(|| format!("{name} runs {kind:?}"));
        let latest = self.latest();
        if let Kind::Joined(other) | Kind::Changed(other) = &kind
            && let Some(seen) = self.nodes.get(other).map(|n| (n.version, n.bag.clone()))
        {
            self.nodes.get_mut(name).unwrap().joined.insert(other.clone(), seen);
        }
        let met = &self.nodes[name].joined;
        let unmet = self.nodes.iter().filter(|(other, n)| *other != name && n.created && !met.contains_key(other));
        let unmet = unmet.map(|(other, n)| (other.clone(), n.bag.clone())).collect();
        let leaves = matches!(kind, Kind::LeavingPeer(_) | Kind::Stop | Kind::Remove);
        let blind = leaves && !self.calm && self.below(10) == 0;
        let node = self.nodes.get_mut(name).unwrap();
        if kind == Kind::SecretChanged {
            node.told = latest;
        }
        if kind != Kind::Exec {
            node.failed = None;
            node.queued = None;
            node.held = false;
        }
        node.run = Some(Run {
            kind,
            unmet: if blind { BTreeMap::new() } else { unmet },
            blind,
            queue: VecDeque::new(),
            rounds: 0,
            again: true,
            hold: false,
            done: Done::default(),
            bag: None,
            app: Vec::new(),
            change: None,
        });
    }

    pub(super) fn fail(&mut self, name: &Unit, why: &str) {
        self.note(|| format!("{name} fails: {why}"));
        let node = self.nodes.get_mut(name).unwrap();
        node.failed = node.run.take().map(|run| run.kind);
        node.error = true;
        node.failures += 1;
    }

    /// The hook is put back as one that was interrupted; nothing it wrote is kept.
    pub(super) fn requeue(&mut self, name: &Unit) {
        let status = self.nodes[name].status.clone();
        self.note(|| format!("{name} is held: {status:?}"));
        let node = self.nodes.get_mut(name).unwrap();
        node.queued = node.run.take().map(|run| run.kind);
        node.held = true;
    }

    /// `resolved --no-retry`: the failed hook counts as run.
    pub(super) fn skip(&mut self, name: &Unit) {
        let Some(kind) = self.nodes[name].failed.clone() else { return };
        self.note(|| format!("{kind:?} of {name} is skipped"));
        self.begin(name, kind);
        let run = self.nodes.get_mut(name).unwrap().run.take().unwrap();
        self.settle(name, run);
    }

    /// One small step of one unit's agent; false when it has nothing to do.
    pub(super) fn step(&mut self, name: &Unit) -> bool {
        if !self.nodes[name].powered {
            return false;
        }
        if self.nodes[name].run.is_none() {
            let Some(kind) = self.next_hook(name) else { return false };
            self.begin(name, kind);
            return true;
        }
        if !self.calm && self.below(self.crash_in) == 0 {
            if self.below(2) == 0 {
                self.fail(name, "crash");
            } else {
                self.note(|| format!("{name}: a signal ends the hook"));
                let node = self.nodes.get_mut(name).unwrap();
                node.queued = node.run.take().map(|run| run.kind);
            }
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

    pub(super) fn decide(&mut self, name: &Unit) {
        if self.calm || self.below(4) != 0 {
            self.reload(name);
        }
        let run = self.nodes[name].run.as_ref().unwrap();
        let leaves = matches!(run.kind, Kind::LeavingPeer(_) | Kind::Stop | Kind::Remove);
        if self.leader.as_ref() == Some(name) || run.rounds == 0 && !leaves {
            self.read_secret(name);
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
        run.hold = step.hold;
        run.queue = step.actions.into();
    }

    pub(super) fn finish(&mut self, name: &Unit) {
        let run = self.nodes[name].run.as_ref().unwrap();
        if run.hold {
            return self.requeue(name);
        }
        let writes = !run.app.is_empty() || run.change.is_some();
        if writes && self.leader.as_ref() != Some(name) {
            // Asked once more before the first change, the charm leaves out what only a leader may change; a
            // leader may still be deposed after that.
            if !self.calm && self.below(4) == 0 {
                return self.fail(name, "leadership was lost before the flush");
            }
            let run = self.nodes.get_mut(name).unwrap().run.as_mut().unwrap();
            run.app.clear();
            run.change = None;
        }
        let change = self.nodes[name].run.as_ref().unwrap().change.clone();
        if matches!(change, Some(SecretChange::Make(_))) && self.secret.is_some() {
            return self.fail(name, "secret with label \"pki\" already exists");
        }
        if let Some(change) = change {
            match change {
                SecretChange::Make(trust) | SecretChange::Revise(trust) => self.store_secret(trust),
                SecretChange::Prune(revision) => self.prune_secret(revision),
            }
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

    pub(super) fn settle(&mut self, name: &Unit, run: Run) {
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
            Kind::Config => {
                node.config = false;
                node.queued = (!node.started).then_some(Kind::Start);
            }
            Kind::Upgrade => node.queued = Some(Kind::Config),
            Kind::SecretRemove(revision) => drop(node.remove_told.insert(revision)),
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
                node.withheld.remove(&other);
                if node.changed_next.as_ref() == Some(&other) {
                    node.changed_next = None;
                }
            }
            Kind::Stop => node.stopped = true,
            Kind::UpdateStatus | Kind::SecretChanged | Kind::Exec => {}
            Kind::Remove => self.bury(name),
        }
    }
}

/// An action as the story tells it.
pub(super) fn short(action: &Action) -> String {
    let text = format!("{action:?}");
    text.chars().take(160).collect()
}
