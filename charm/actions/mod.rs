//! What an operator can ask for. An action that cannot do what it was asked fails with a message;
//! it never succeeds with an apology, and it changes nothing then.

pub mod credentials;
mod health;
mod new_cluster;
pub mod rotate;

use crate::act::CharmError;
use crate::event::Verb;
use crate::host::Host;
use crate::juju::{Console, Juju};
use crate::pending::{Kept, Pending, commit};
use crate::text::RelationId;

/// What an action comes to: results for the operator and what Juju is to keep.
#[derive(Debug, Default)]
pub struct Answer {
    results: Vec<(&'static str, String)>,
    /// The operator is told this as the reason why the action failed, beside the results.
    failure: Option<String>,
    pending: Pending,
    relation: Option<RelationId>,
}

impl Answer {
    fn result(&mut self, key: &'static str, value: impl ToString) {
        self.results.push((key, value.to_string()));
    }
}

/// Runs one action. Its failure is told through Juju; the program itself ends well, because Juju
/// would replace the message by an exit status. Only when Juju refuses a change half way must the program
/// fail, so that Juju keeps nothing of it.
///
/// # Errors
/// [`CharmError`] when Juju refuses a change, or cannot even be told.
pub fn run(verb: Verb, juju: Juju, host: &Host) -> Result<(), CharmError> {
    let answer = match verb {
        Verb::Health => health::run(&juju, host),
        Verb::GenerateClientCertificates | Verb::PackageClientCredentials => credentials::run(&juju, host),
        Verb::RotateCa => rotate::run(&juju, host),
        Verb::NewCluster => new_cluster::run(&juju, host),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Ok(Console.fail_action(&error.to_string())?),
    };
    let application = juju.unit().application.clone();
    if commit(juju, host, answer.relation.as_ref(), answer.pending.all_or_nothing())? != Kept::All {
        let message = format!("leadership has just moved: run it again on {application}/leader");
        return Ok(Console.fail_action(&message)?);
    }
    for (key, value) in &answer.results {
        Console.result(key, value)?;
    }
    match answer.failure {
        Some(failure) => Ok(Console.fail_action(&failure)?),
        None => Ok(()),
    }
}
