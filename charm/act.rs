//! Runs a plan's actions in order, one log line each, and stops at the first that fails.
//!
//! What an action does to the machine and the cluster is done at once; what it wants of Juju is collected and
//! handed over when the hook has looked and acted for the last time (see `pending.rs`). No action can ask
//! Juju anything: all it may know was seen before.
//!
//! A refusal by the cluster is put off: the next hook finds the same facts and plans the same step.
//! It keeps no later action from being done, because none depends on it: a member that cannot be
//! added now must not keep certificates from being signed. A failure of Juju's tools or of the machine fails the hook, and Juju runs it again.

use std::time::{Duration, Instant};

use etcd_charm::client::ClientError;
use etcd_charm::pki::{self, Usage, Validity};

use crate::bags::AppChange;
use crate::event::{Event, UnknownInvocation};
use crate::facts::{Facts, Side};
use crate::host::{Host, HostError};
use crate::juju::{Console, Juju, JujuError};
use crate::observe::{Sight, observe};
use crate::pending::{Kept, Pending, SecretChange, commit};
use crate::plan::application::overall;
use crate::plan::rotation::{Step, moment};
use crate::plan::{Action, Plan, Remains, plan};
use crate::secret::SecretContent;
use crate::text::Word;

/// Most times one hook looks, plans and acts.
const MAX_ROUNDS: u32 = 8;

/// How long one run of a hook waits for what keeps it from ending. Juju shows a hook the databags of other
/// units as they were when it first looked, so what they publish is seen by the next run only.
const HOLD: Duration = Duration::from_secs(10);
/// Pause between two looks meanwhile.
const HOLD_PAUSE: Duration = Duration::from_secs(2);

/// Why a hook or an action ended without doing all it should.
#[derive(Debug, thiserror::Error)]
pub enum CharmError {
    /// A hook tool.
    #[error(transparent)]
    Juju(#[from] JujuError),
    /// This machine.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The cluster said no, or nothing.
    #[error("the cluster refused: {0}")]
    Cluster(#[from] ClientError),
    /// A key or certificate.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    /// The secret with the authorities.
    #[error("secret 'pki' with the authorities cannot be used: {0}")]
    Secret(String),
    /// The program was started under an unknown name.
    #[error(transparent)]
    Invocation(#[from] UnknownInvocation),
    /// No asynchronous runtime.
    #[error("cannot prepare to reach the cluster: {0}")]
    Runtime(std::io::Error),
    /// The hook must not end yet: it is to be run again as if it had been interrupted.
    #[error("{0}")]
    Held(String),
    /// An action's parameter.
    #[error("{0}")]
    Parameter(String),
}

/// Looks, plans and acts until nothing more can be done in this hook, then hands Juju what it is to keep.
/// What holds the hook is waited for, for a while.
///
/// # Errors
/// [`CharmError::Held`] when it still does, any other when the hook must fail; Juju then keeps nothing of it.
pub fn run(juju: Juju, host: &Host, event: &Event) -> Result<(), CharmError> {
    let (mut pending, mut started) = (Pending::default(), false);
    let deadline = Instant::now() + HOLD;
    let sight = loop {
        let (step, sight) = rounds(&juju, host, event, &mut pending, &mut started)?;
        if !step.hold {
            break sight;
        }
        if Instant::now() > deadline {
            return Err(CharmError::Held(step.status.sentence(sight.facts.leader)));
        }
        std::thread::sleep(HOLD_PAUSE);
    };
    if commit(juju, host, sight.relation.as_ref(), pending)? == Kept::Own {
        Console.log("INFO", "leadership has moved: what this unit did as leader is left to the next one");
    }
    Ok(())
}

/// Looks, plans and acts until nothing more can be done now. Gives the last plan and what it was made from.
fn rounds(
    juju: &Juju,
    host: &Host,
    event: &Event,
    pending: &mut Pending,
    started: &mut bool,
) -> Result<(Plan, Sight), CharmError> {
    let mut round = 0;
    loop {
        round += 1;
        let sight = observe(juju, host, pending, *started)?;
        if round == 1 && *event == Event::Reconcile && !sight.facts.leader {
            follow_secret(juju);
        }
        let step = plan(&sight.facts, event);
        show(&sight.facts, &step)?;
        let again = step.goes_on();
        let mut hands = Hands { host, sight: &sight, pending: &mut *pending, started: &mut *started };
        let refusal = each(&step.actions, |action| hands.perform(action))?;
        if let Some(error) = &refusal {
            Console.log("WARNING", &format!("put off until the next hook: {error}"));
        }
        if refusal.is_some() || !again || round == MAX_ROUNDS {
            return Ok((step, sight));
        }
    }
}

/// Moves on to the newest revision of the secret. A unit that has read it once follows it, and keeps the
/// revision it read from being unused until it reads again. Juju tells it of a newer one in `secret-changed`,
/// but not of what came while its agent was down; so every hook does it. The content is not wanted here.
fn follow_secret(juju: &Juju) {
    if let Err(error) = juju.secret() {
        Console.log("WARNING", &format!("the secret is followed in the next hook: {error}"));
    }
}

/// Shows the unit's status and, by the leader, the application's. A status is no state that a later question of the
/// same hook reads, so it may be set while the hook still asks.
fn show(facts: &Facts, step: &Plan) -> Result<(), JujuError> {
    Console.status(step.status.word(), &step.status.sentence(facts.leader))?;
    if let Some(overall) = overall(facts, &step.status)
        && let Err(error) = Console.application_status(overall.word, &overall.sentence)
    {
        // Leadership may have moved since it was asked for: the next leader tells.
        Console.log("INFO", &format!("the application's status is left to the next leader: {error}"));
    }
    Ok(())
}

/// Performs each action in turn. Gives the cluster's last refusal, if there was one.
fn each(
    actions: &[Action],
    mut perform: impl FnMut(&Action) -> Result<(), CharmError>,
) -> Result<Option<ClientError>, CharmError> {
    let mut refusal = None;
    for action in actions {
        match perform(action) {
            Ok(()) => {}
            Err(CharmError::Cluster(error)) => refusal = Some(error),
            Err(error) => return Err(error),
        }
    }
    Ok(refusal)
}

/// What an action is done with.
struct Hands<'a> {
    host: &'a Host,
    sight: &'a Sight,
    pending: &'a mut Pending,
    started: &'a mut bool,
}

impl Hands<'_> {
    fn perform(&mut self, action: &Action) -> Result<(), CharmError> {
        if let Some(line) = describe(action) {
            Console.log("INFO", &line);
        }
        let (host, sight) = (self.host, self.sight);
        match action {
            Action::InstallProgram => host.install()?,
            Action::MakeRequest { side, common_name, names } => host.make_request(*side, common_name, names)?,
            Action::InstallCertificate { side, certificate, trust } => {
                host.install_certificate(*side, certificate, trust)?;
            }
            Action::WriteConfig(config) => host.write_config(config)?,
            Action::StartService { generation } => self.start(generation, false)?,
            Action::RestartService { generation } => self.start(generation, true)?,
            Action::StopService => host.stop()?,
            Action::SetDataAside => host.set_aside(sight.facts.now)?,
            Action::CleanHost { data } => host.clean(data, sight.facts.now)?,
            Action::AddLearner { peer_url, .. } => sight.asker.add_learner(peer_url)?,
            Action::RemoveMember { id, .. } => sight.asker.remove(*id)?,
            Action::UpdatePeerUrl { id, peer_url } => sight.asker.update(*id, peer_url)?,
            Action::MoveLeader { to } => {
                if let Err(error) = sight.asker.move_leader(*to) {
                    Console.log("INFO", &format!("raft leadership stays for now: {error}"));
                }
            }
            Action::CreateAuthorities => {
                let secret = SecretContent::make(&sight.facts.unit.application, sight.facts.now)?;
                let trust = secret.trust().map_err(CharmError::Secret)?;
                self.pending.change_secret(SecretChange::Make(secret))?;
                self.pending.publish_app(&AppChange::Trust(trust));
            }
            Action::Issue { unit, side, request, names } => {
                let certificate = sign(sight, *side, request, names)?;
                self.pending.publish_app(&AppChange::Certificate(unit.clone(), *side, certificate));
            }
            Action::PublishUnit(bag) => self.pending.publish_unit(bag.write()),
            Action::PublishApp(change) => self.pending.publish_app(change),
            Action::OpenPort(port) => self.pending.set_port(*port, true),
            Action::ClosePort(port) => self.pending.set_port(*port, false),
            Action::SetVersion(version) => self.pending.set_version(version),
            Action::Rotate(steps) => rotate(sight, steps, self.pending)?,
            Action::PruneSecret(revision) => {
                let id = sight.secret()?.id.clone();
                self.pending.change_secret(SecretChange::Prune { id, revision: *revision })?;
                self.pending.publish_app(&AppChange::KeptFrom(revision + 1));
            }
        }
        Ok(())
    }

    fn start(&mut self, generation: &Word, restart: bool) -> Result<(), CharmError> {
        *self.started = true;
        self.host.start(generation, restart)?;
        let facts = self.host.look(self.sight.facts.storage.as_ref())?;
        let own = facts.config.and_then(|config| config.listen_client_urls.first());
        if let Some(own) = own
            && !self.sight.asker.wait_until_serving(&own)
        {
            Console.log("WARNING", "etcd was started but its member does not serve yet");
        }
        Ok(())
    }
}

/// Takes steps of replacing authorities: the secret's next revision and its public half. Juju keeps both
/// only when the hook ends well, the secret first; what a crash between the two leaves behind, the next
/// leader publishes.
///
/// # Errors
/// [`CharmError`]; nothing was changed then.
pub fn rotate(sight: &Sight, steps: &[(Side, Step)], pending: &mut Pending) -> Result<(), CharmError> {
    let id = sight.secret()?.id.clone();
    let mut content = sight.signer()?.clone();
    for (side, step) in steps {
        content.take(*side, *step, &sight.facts.unit.application, sight.facts.now)?;
    }
    let trust = content.trust().map_err(CharmError::Secret)?;
    pending.change_secret(SecretChange::Revise { id, content })?;
    pending.publish_app(&AppChange::Trust(trust));
    Ok(())
}

fn sign(sight: &Sight, side: Side, request: &str, names: &[String]) -> Result<String, CharmError> {
    let life = Validity::days(sight.facts.now, pki::LEAF_DAYS);
    Ok(pki::sign_request(&sight.signer()?.of(side).issuing, request, names, Usage::ServerAndClient, life)?)
}

/// One line for the log; `None` for what is repeated on every hook.
#[must_use]
pub fn describe(action: &Action) -> Option<String> {
    Some(match action {
        Action::InstallProgram => "installing the program, its user and its service".to_owned(),
        Action::MakeRequest { side, names, .. } => format!("making a {} request for {}", side.word(), names.join(", ")),
        Action::InstallCertificate { side, .. } => format!("installing the {} certificate", side.word()),
        Action::WriteConfig(config) => format!("writing the settings of {}", config.name),
        Action::StartService { generation } => format!("starting etcd, generation {generation}"),
        Action::RestartService { generation } => format!("restarting etcd, generation {generation}"),
        Action::StopService => "stopping etcd".to_owned(),
        Action::SetDataAside => "setting the data aside".to_owned(),
        Action::CleanHost { data: Remains::Deleted } => "cleaning the machine; the cluster has the data".to_owned(),
        Action::CleanHost { data: Remains::SetAside } => "cleaning the machine; data is set aside".to_owned(),
        Action::CleanHost { data: Remains::Foreign(folder) } => {
            format!("cleaning the machine; {folder} holds the data of another member and stays")
        }
        Action::AddLearner { unit, peer_url } => format!("adding {unit} as a learner at {peer_url}"),
        Action::RemoveMember { id, name } => format!("removing member {id:x} {name}"),
        Action::MoveLeader { to } => format!("moving raft leadership to {to:x}"),
        Action::UpdatePeerUrl { id, peer_url } => format!("moving member {id:x} to {peer_url}"),
        Action::CreateAuthorities => "making the certificate authorities".to_owned(),
        Action::Issue { unit, side, .. } => format!("signing the {} certificate of {unit}", side.word()),
        Action::PublishApp(AppChange::Join(unit, line)) => format!("publishing initial-cluster for {unit}: {line}"),
        Action::PublishApp(AppChange::Turn(Some((unit, _)))) => format!("{unit} may restart"),
        Action::PublishApp(AppChange::Unchoose) => "this unit goes and never started: another may be chosen".to_owned(),
        Action::PublishApp(AppChange::Bootstrap(unit)) => format!("{unit} shall start the cluster"),
        Action::Rotate(steps) => {
            let shown: Vec<String> = steps.iter().map(|(side, step)| step.describe(*side)).collect();
            shown.join("; ")
        }
        Action::PruneSecret(revision) => format!("removing revision {revision} of the secret"),
        Action::PublishApp(AppChange::Deadline(_, Some(until))) => {
            format!("every member trusts the new client authority; the old one is served until {}", moment(*until))
        }
        Action::OpenPort(port) => format!("opening port {port}"),
        Action::ClosePort(port) => format!("closing port {port}"),
        Action::PublishUnit(_) | Action::PublishApp(_) | Action::SetVersion(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_by_the_cluster_keeps_no_later_action_from_being_done() {
        let actions = [
            Action::AddLearner { unit: crate::facts::Unit::new("etcd", 1), peer_url: "https://10.0.0.1:2380".into() },
            Action::OpenPort(2379),
        ];
        let mut performed = 0;
        let refusal = each(&actions, |action| {
            performed += 1;
            match action {
                Action::AddLearner { .. } => {
                    Err(CharmError::Cluster(ClientError::Unreachable("unhealthy cluster".to_owned())))
                }
                _ => Ok(()),
            }
        });
        assert_eq!(performed, 2);
        assert!(refusal.unwrap().is_some());
        let fails = each(&actions, |_| Err(CharmError::Parameter("stop".to_owned())));
        assert!(fails.is_err(), "anything else ends the hook at once");
    }
}
