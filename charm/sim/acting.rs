//! What the actions of a plan do to the world.

use super::juju::short;
use super::*;

impl World {
    /// `Err` is a refusal by the cluster.
    pub(super) fn act(&mut self, name: &Unit, action: Action) -> Result<(), ()> {
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
                let made = self.nodes[name].run.as_ref().and_then(Run::content);
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

    pub(super) fn add_learner(&mut self, by: &Unit, peer_url: &PeerUrl, id: u64) -> Result<(), ()> {
        let Some(cluster) = self.reach(by) else { return Err(()) };
        if self.clusters[cluster].iter().any(|m| m.url == *peer_url) {
            return Ok(());
        }
        if self.clusters[cluster].iter().any(|m| m.learner) {
            return Err(());
        }
        let learner = Voter { id, unit: None, name: "".into(), url: peer_url.clone(), learner: true };
        self.clusters[cluster].push(learner);
        Ok(())
    }

    pub(super) fn act_locally(&mut self, name: &Unit, action: Action, serial: u64) {
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
            Action::SetDataAside => node.data = None,
            Action::CleanHost { .. } => {
                (node.data, node.settings, node.service, node.program) = (None, None, None, false);
                node.pairs = Side::BOTH.map(|side| (side, Pair::default())).into();
            }
            Action::CreateAuthorities => {
                let [server, peer] = made.map(Anchors::only);
                let trust = Trust { server, peer, token: format!("token-{serial}").as_str().into() };
                run.app.push(AppChange::Trust(trust.clone()));
                run.change(SecretChange::Make(trust));
            }
            Action::PruneSecret(revision) => {
                run.app.push(AppChange::KeptFrom(revision + 1));
                run.change(SecretChange::Prune(revision));
            }
            Action::PublishUnit(bag) => run.bag = Some(*bag),
            Action::PublishApp(change) => run.app.push(change),
            Action::OpenPort(port) => drop(node.ports.insert(format!("{port}/tcp"))),
            Action::ClosePort(port) => drop(node.ports.remove(&format!("{port}/tcp"))),
            Action::MoveLeader { .. } | Action::SetVersion(_) => {}
            other => panic!("not a local action: {other:?}"),
        }
    }
}
