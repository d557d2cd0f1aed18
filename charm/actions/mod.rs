//! What an operator can ask for. An action that cannot do what it was asked fails with a message;
//! it never succeeds with an apology, and it changes nothing then.

pub mod credentials;
mod health;
pub mod rotate;

use crate::act::CharmError;
use crate::event::Verb;
use crate::host::Host;
use crate::juju::Juju;

/// Runs one action. Its failure is told through Juju; the program itself ends well, because Juju
/// would replace the message by an exit status.
///
/// # Errors
/// [`CharmError`] when Juju cannot even be told.
pub fn run(verb: Verb, juju: &Juju, host: &Host) -> Result<(), CharmError> {
    let result = match verb {
        Verb::Health => health::run(juju, host),
        Verb::GenerateClientCertificates | Verb::PackageClientCredentials => credentials::run(juju, host),
        Verb::RotateCa => rotate::run(juju, host),
    };
    match result {
        Ok(()) => Ok(()),
        Err(error) => Ok(juju.fail_action(&error.to_string())?),
    }
}
