//! Runs a plan's actions in order, one log line each, and stops at the first that fails.
//!
//! A refusal by the cluster is put off: the next hook finds the same facts and plans the same step.
//! It keeps no later action from being done, because none depends on it: a member that cannot be
//! added now must not keep certificates from being signed. A failure of Juju's tools or of the machine fails the hook, and Juju runs it again.

use etcd_charm::client::ClientError;
use etcd_charm::pki::{self, Usage, Validity};

use crate::bags::{AppChange, Bag};
use crate::event::{Event, UnknownInvocation};
use crate::facts::{Done, Facts, Side};
use crate::host::{Host, HostError};
use crate::juju::{Juju, JujuError};
use crate::observe::{Sight, observe};
use crate::plan::application::overall;
use crate::plan::rotation::{Step, moment};
use crate::plan::{Action, Plan, plan};
use crate::secret::SecretContent;
use crate::text::Word;

/// Most times one hook looks, plans and acts.
const MAX_ROUNDS: u32 = 8;

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
    /// A leaving unit must not go yet.
    #[error("{0}")]
    MustStay(String),
    /// An action's parameter.
    #[error("{0}")]
    Parameter(String),
}

/// Looks, plans and acts until nothing more can be done in this hook, then shows the status.
///
/// # Errors
/// [`CharmError`] when the hook must fail.
pub fn run(juju: &Juju, host: &Host, event: &Event) -> Result<(), CharmError> {
    if juju.follows_secret() {
        // A unit that has read the secret once keeps the revision it read, and with it keys of replaced
        // authorities, in being until it has moved on.
        juju.secret()?;
    }
    let mut done = Done::default();
    let mut last = None;
    for _ in 0..MAX_ROUNDS {
        let sight = observe(juju, host, done)?;
        let step = plan(&sight.facts, event);
        show(juju, &sight.facts, &step)?;
        let again = step.goes_on();
        let refusal = each(&step.actions, |action| perform(juju, host, &sight, action, &mut done))?;
        last = Some((step, sight.facts.leader));
        match refusal {
            None if again => {}
            None => break,
            Some(error) => {
                juju.log("WARNING", &format!("put off until the next hook: {error}"));
                break;
            }
        }
    }
    match last {
        Some((step, leader)) if step.insist => Err(CharmError::MustStay(step.status.sentence(leader))),
        _ => Ok(()),
    }
}

fn show(juju: &Juju, facts: &Facts, step: &Plan) -> Result<(), JujuError> {
    juju.status(step.status.word(), &step.status.sentence(facts.leader))?;
    if let Some(overall) = overall(facts, &step.status)
        && let Err(error) = juju.application_status(overall.word, &overall.sentence)
    {
        // Leadership may have moved since it was asked for: the next leader tells.
        juju.log("INFO", &format!("the application's status is left to the next leader: {error}"));
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

fn perform(juju: &Juju, host: &Host, sight: &Sight, action: &Action, done: &mut Done) -> Result<(), CharmError> {
    let relation = sight.relation.as_deref().unwrap_or_default();
    if let Some(line) = describe(action) {
        juju.log("INFO", &line);
    }
    done.app_written |= action.writes_app();
    match action {
        Action::InstallProgram => host.install()?,
        Action::MakeRequest { side, common_name, names } => host.make_request(*side, common_name, names)?,
        Action::InstallCertificate { side, certificate, trust } => {
            host.install_certificate(*side, certificate, trust)?;
        }
        Action::WriteConfig(config) => host.write_config(config)?,
        Action::StartService { generation } => start(juju, host, sight, generation, false, done)?,
        Action::RestartService { generation } => start(juju, host, sight, generation, true, done)?,
        Action::StopService => host.stop()?,
        Action::CleanHost { keep_data } => host.clean(*keep_data, sight.facts.now)?,
        Action::AddLearner { peer_url, .. } => sight.asker.add_learner(peer_url)?,
        Action::RemoveMember { id, .. } => sight.asker.remove(*id)?,
        Action::UpdatePeerUrl { id, peer_url } => sight.asker.update(*id, peer_url)?,
        Action::MoveLeader { to } => {
            if let Err(error) = sight.asker.move_leader(*to) {
                juju.log("INFO", &format!("raft leadership stays for now: {error}"));
            }
        }
        Action::CreateAuthorities => create_authorities(juju, host, sight, relation)?,
        Action::Issue { unit, side, request, names } => {
            let certificate = sign(juju, *side, request, names, sight.facts.now)?;
            let change = AppChange::Certificate(unit.clone(), *side, certificate);
            juju.set(relation, true, &change.write())?;
        }
        Action::PublishUnit(bag) => juju.set(relation, false, &bag.write())?,
        Action::PublishApp(change) => juju.set(relation, true, &change.write())?,
        Action::OpenPort(port) => juju.open_port(*port)?,
        Action::ClosePort(port) => juju.close_port(*port)?,
        Action::SetVersion(version) => juju.version(version)?,
        Action::Rotate(steps) => {
            if !rotate(juju, host, sight, steps)? {
                juju.log("INFO", "leadership has moved: the next leader takes this step");
            }
        }
        Action::PruneSecret(revision) => {
            done.pruned = true;
            juju.remove_secret_revision(*revision)?;
        }
    }
    Ok(())
}

fn start(
    juju: &Juju,
    host: &Host,
    sight: &Sight,
    generation: &Word,
    restart: bool,
    done: &mut Done,
) -> Result<(), CharmError> {
    done.started = true;
    host.start(generation, restart)?;
    let facts = host.look(sight.facts.storage.as_ref())?;
    let own = facts.config.and_then(|config| config.listen_client_urls.first());
    if let Some(own) = own
        && !sight.asker.wait_until_serving(&own)
    {
        juju.log("WARNING", "etcd was started but its member does not serve yet");
    }
    Ok(())
}

/// Makes both authorities. The keys go from memory to a private file to Juju's secret store.
fn create_authorities(juju: &Juju, host: &Host, sight: &Sight, relation: &str) -> Result<(), CharmError> {
    let secret = SecretContent::make(&sight.facts.unit.application, sight.facts.now)?;
    let trust = secret.trust().map_err(CharmError::Secret)?;
    let text = serde_json::to_string(&secret.write()).map_err(HostError::Settings)?;
    host.with_private_file(&text, |path| juju.add_secret(path).map_err(CharmError::from))?;
    Ok(juju.set(relation, true, &AppChange::Trust(trust).write())?)
}

/// Takes steps of replacing authorities: reads the secret, stores the next revision, publishes its
/// public half. Juju keeps both only when the hook ends well, the secret first; what a crash between
/// the two leaves behind, the next leader publishes. False when leadership has moved meanwhile.
///
/// # Errors
/// [`CharmError`]; nothing was changed then.
pub fn rotate(juju: &Juju, host: &Host, sight: &Sight, steps: &[(Side, Step)]) -> Result<bool, CharmError> {
    // Asked again, because what came before in this hook may have taken long: from here Juju promises
    // leadership for 30 seconds, and the hook is about to end.
    if !juju.is_leader()? {
        return Ok(false);
    }
    let mut secret = secret(juju)?;
    for (side, step) in steps {
        secret.take(*side, *step, &sight.facts.unit.application, sight.facts.now)?;
    }
    let trust = secret.trust().map_err(CharmError::Secret)?;
    let text = serde_json::to_string(&secret.write()).map_err(HostError::Settings)?;
    host.with_private_file(&text, |path| juju.change_secret(path).map_err(CharmError::from))?;
    let relation = sight.relation.as_deref().unwrap_or_default();
    juju.set(relation, true, &AppChange::Trust(trust).write())?;
    Ok(true)
}

fn sign(juju: &Juju, side: Side, request: &str, names: &[String], now: i64) -> Result<String, CharmError> {
    let secret = secret(juju)?;
    let life = Validity::days(now, pki::LEAF_DAYS);
    Ok(pki::sign_request(&secret.of(side).issuing, request, names, Usage::ServerAndClient, life)?)
}

/// Reads the authorities, with their keys.
///
/// # Errors
/// [`CharmError::Secret`] when there are none or they do not fit together.
pub fn secret(juju: &Juju) -> Result<SecretContent, CharmError> {
    let content: Option<Bag> = juju.secret()?;
    let content =
        content.ok_or(CharmError::Secret("it does not exist yet; wait until the unit is active".to_owned()))?;
    SecretContent::read(&content).map_err(CharmError::Secret)
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
        Action::CleanHost { keep_data: true } => "cleaning the machine; the data is set aside".to_owned(),
        Action::CleanHost { keep_data: false } => "cleaning the machine".to_owned(),
        Action::AddLearner { unit, peer_url } => format!("adding {unit} as a learner at {peer_url}"),
        Action::RemoveMember { id, name } => format!("removing member {id:x} {name}"),
        Action::MoveLeader { to } => format!("moving raft leadership to {to:x}"),
        Action::UpdatePeerUrl { id, peer_url } => format!("moving member {id:x} to {peer_url}"),
        Action::CreateAuthorities => "making the certificate authorities".to_owned(),
        Action::Issue { unit, side, .. } => format!("signing the {} certificate of {unit}", side.word()),
        Action::PublishApp(AppChange::Join(unit, line)) => format!("laying down {line} for {unit}"),
        Action::PublishApp(AppChange::Turn(Some((unit, _)))) => format!("{unit} may restart"),
        Action::PublishApp(AppChange::Bootstrap(unit)) => format!("{unit} shall start the cluster"),
        Action::Rotate(steps) => {
            let shown: Vec<String> = steps.iter().map(|(side, step)| step.describe(*side)).collect();
            shown.join("; ")
        }
        Action::PruneSecret(revision) => format!("removing revision {revision} of the secret, which nobody reads"),
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
