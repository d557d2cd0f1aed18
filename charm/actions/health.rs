//! `health`: every member is asked, and the answer reads like `etcdctl cluster-health`.

use crate::act::CharmError;
use crate::facts::Done;
use crate::host::Host;
use crate::juju::Juju;
use crate::observe::observe;

/// Asks every member and reports; fails when one of them is not well.
///
/// # Errors
/// [`CharmError`] when the cluster cannot be asked or is not healthy.
pub fn run(juju: &Juju, host: &Host) -> Result<(), CharmError> {
    let sight = observe(juju, host, Done::default())?;
    let members = sight.asker.members()?;
    let urls: Vec<String> =
        members.iter().map(|member| member.client_urls.first().cloned().unwrap_or_default()).collect();
    let checks = sight.asker.check_all(&urls);
    let mut lines = Vec::new();
    let mut ill = 0;
    for ((member, url), check) in members.iter().zip(&urls).zip(&checks) {
        lines.push(match check {
            Ok(()) => format!("member {:x} is healthy: got healthy result from {url}", member.id),
            Err(_) if member.name.is_empty() => format!("member {:x} has not started yet", member.id),
            Err(why) => format!("member {:x} is unhealthy: {url}: {why}", member.id),
        });
        ill += usize::from(check.is_err());
    }
    let verdict = match ill {
        0 => "cluster is healthy",
        _ if ill < members.len() => "cluster is degraded",
        _ => "cluster is unavailable",
    };
    lines.push(verdict.to_owned());
    juju.result("members", &members.len().to_string())?;
    juju.result("result", verdict)?;
    juju.result("message", &lines.join("\n"))?;
    if ill > 0 {
        return Err(CharmError::Parameter(format!("{verdict}: {ill} of {} members not healthy", members.len())));
    }
    Ok(())
}
