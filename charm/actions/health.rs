//! `health`: every member is asked as `etcdctl cluster-health` asks, and the answer reads like it.
//!
//! The check is `GET /health` of each member of the list on its client URLs ([`etcd_charm::client::health`]). The status
//! comes from the same check of the same members, so the two cannot disagree for longer than a hook is old.

use etcd_charm::client::health::{Checkup, summary};

use super::Answer;
use crate::act::CharmError;
use crate::cluster::census;
use crate::host::Host;
use crate::juju::Juju;
use crate::observe::observe;
use crate::pending::Pending;

/// Asks every member and reports; the action fails when one of them is not well.
///
/// # Errors
/// [`CharmError`] when the cluster cannot be asked.
pub fn run(juju: &Juju, host: &Host) -> Result<Answer, CharmError> {
    let sight = observe(juju, host, &Pending::default(), false)?;
    let checkups = sight.asker.check_all(&sight.asker.members()?);
    let report = Report::of(&checkups);
    let mut answer = Answer { failure: report.failure, ..Answer::default() };
    answer.result("members", checkups.len());
    answer.result("result", report.verdict);
    answer.result("message", report.message);
    Ok(answer)
}

/// What an operator reads.
#[derive(Debug, PartialEq, Eq)]
struct Report {
    verdict: &'static str,
    message: String,
    failure: Option<String>,
}

impl Report {
    fn of(checkups: &[Checkup]) -> Self {
        let verdict = summary(checkups);
        let lines: Vec<String> = checkups.iter().flat_map(Checkup::lines).chain([verdict.to_owned()]).collect();
        Report { verdict, message: lines.join("\n"), failure: census(checkups).complaint() }
    }
}

#[cfg(test)]
mod tests {
    use etcd_charm::client::health::Verdict;

    use super::*;

    fn checkup(id: u64, verdict: Verdict) -> Checkup {
        Checkup { id, failed: Vec::new(), verdict }
    }

    #[test]
    fn a_healthy_cluster_reads_as_cluster_health_prints_it() {
        let url = "https://10.0.0.1:2379".to_owned();
        let report = Report::of(&[checkup(0x1f, Verdict::Healthy(url))]);
        let message = "member 1f is healthy: got healthy result from https://10.0.0.1:2379\ncluster is healthy";
        assert_eq!(report, Report { verdict: "cluster is healthy", message: message.to_owned(), failure: None });
    }

    #[test]
    fn one_member_that_is_not_well_fails_the_action_and_is_named() {
        let well = checkup(1, Verdict::Healthy("https://10.0.0.1:2379".to_owned()));
        let report = Report::of(&[well, checkup(2, Verdict::Unpublished)]);
        assert_eq!(report.failure.as_deref(), Some("cluster is degraded: 1 of 2 members not healthy"));
        assert!(report.message.contains("member 2 is unreachable: no available published client urls\n"));
        assert_eq!(Report::of(&[checkup(2, Verdict::Unpublished)]).verdict, "cluster is unavailable");
    }
}
