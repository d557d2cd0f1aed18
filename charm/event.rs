//! Every hook and action the charm answers.
//!
//! The names here, the links in `hooks/` and the entries of `actions.yaml` agree name for name; the
//! contract test in `contract.rs` holds them together.

use crate::facts::Unit;

/// A hook of Juju's that the charm ships a link for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the hook of that name")]
pub enum Hook {
    Install,
    Start,
    ConfigChanged,
    UpgradeCharm,
    UpdateStatus,
    Stop,
    Remove,
    LeaderElected,
    LeaderSettingsChanged,
    PeerCreated,
    PeerJoined,
    PeerChanged,
    PeerDeparted,
    SecretChanged,
    SecretRemove,
    StorageAttached,
    StorageDetaching,
}

/// Juju's name for each hook.
pub const HOOKS: [(&str, Hook); 17] = [
    ("install", Hook::Install),
    ("start", Hook::Start),
    ("config-changed", Hook::ConfigChanged),
    ("upgrade-charm", Hook::UpgradeCharm),
    ("update-status", Hook::UpdateStatus),
    ("stop", Hook::Stop),
    ("remove", Hook::Remove),
    ("leader-elected", Hook::LeaderElected),
    ("leader-settings-changed", Hook::LeaderSettingsChanged),
    ("peer-relation-created", Hook::PeerCreated),
    ("peer-relation-joined", Hook::PeerJoined),
    ("peer-relation-changed", Hook::PeerChanged),
    ("peer-relation-departed", Hook::PeerDeparted),
    ("secret-changed", Hook::SecretChanged),
    ("secret-remove", Hook::SecretRemove),
    ("data-storage-attached", Hook::StorageAttached),
    ("data-storage-detaching", Hook::StorageDetaching),
];

/// An action an operator can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Asks every member how it is.
    Health,
    /// Signs a client certificate and leaves it as an archive on the unit.
    GenerateClientCertificates,
    /// The older name of the same.
    PackageClientCredentials,
    /// Replaces an authority.
    RotateCa,
    /// Gives a lost cluster up and begins a new, empty one.
    NewCluster,
}

/// Juju's name for each action.
pub const VERBS: [(&str, Verb); 5] = [
    ("health", Verb::Health),
    ("generate-client-certificates", Verb::GenerateClientCertificates),
    ("package-client-credentials", Verb::PackageClientCredentials),
    ("rotate-ca", Verb::RotateCa),
    ("new-cluster", Verb::NewCluster),
];

/// What happened, as the planner sees it: all but leaving is one case, because a hook's name says
/// little about what has to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Compare the world with what it should be.
    Reconcile,
    /// This unit has been told that it is going; it still runs.
    Leaving,
    /// The storage with the data is about to be taken away.
    Detaching,
    /// Last call before this unit's processes end.
    Stop,
    /// Clean the machine.
    Remove,
}

/// Why the program was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// By a hook.
    Hook(Hook, Event),
    /// By an operator's action.
    Action(Verb),
}

/// The program was started in a way Juju never does.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this program answers Juju's hooks and actions, not {0:?}: it is started through a link in \
     hooks/ or actions/"
)]
pub struct UnknownInvocation(pub String);

impl Invocation {
    /// Reads the reason from `JUJU_DISPATCH_PATH` (or, without it, the program's own path) and,
    /// for a departure, whose it is.
    ///
    /// # Errors
    /// [`UnknownInvocation`] for any other name.
    pub fn read(path: &str, unit: &Unit, departing: Option<&Unit>) -> Result<Self, UnknownInvocation> {
        let mut parts = path.rsplit('/');
        let name = parts.next().unwrap_or_default();
        let unknown = || UnknownInvocation(path.to_owned());
        match parts.next() {
            Some("actions") => VERBS
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, verb)| Invocation::Action(*verb))
                .ok_or_else(unknown),
            Some("hooks") => {
                let (_, hook) = HOOKS.iter().find(|(known, _)| *known == name).ok_or_else(unknown)?;
                let event = match hook {
                    Hook::Stop => Event::Stop,
                    Hook::Remove => Event::Remove,
                    Hook::StorageDetaching => Event::Detaching,
                    Hook::PeerDeparted if departing == Some(unit) => Event::Leaving,
                    _ => Event::Reconcile,
                };
                Ok(Invocation::Hook(*hook, event))
            }
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(number: u32) -> Unit {
        Unit::new("etcd", number)
    }

    #[test]
    fn a_departure_is_our_own_only_when_the_departing_unit_is_us() {
        let read =
            |departing: Option<&Unit>| Invocation::read("hooks/peer-relation-departed", &unit(0), departing).unwrap();
        let hook = Hook::PeerDeparted;
        assert_eq!(read(Some(&unit(0))), Invocation::Hook(hook, Event::Leaving));
        assert_eq!(read(Some(&unit(1))), Invocation::Hook(hook, Event::Reconcile));
        assert_eq!(read(None), Invocation::Hook(hook, Event::Reconcile));
    }

    #[test]
    fn every_hook_and_action_is_recognised_by_its_path() {
        for (name, hook) in HOOKS {
            let read = Invocation::read(&format!("/charm/hooks/{name}"), &unit(0), None).unwrap();
            assert!(matches!(read, Invocation::Hook(found, _) if found == hook), "{name}");
        }
        for (name, verb) in VERBS {
            let read = Invocation::read(&format!("actions/{name}"), &unit(0), None);
            assert_eq!(read, Ok(Invocation::Action(verb)));
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for path in ["", "charm", "hooks/", "hooks/nothing", "actions/install", "./charm"] {
            assert_eq!(Invocation::read(path, &unit(0), None), Err(UnknownInvocation(path.to_owned())));
        }
    }
}
