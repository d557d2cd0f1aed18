//! `new-cluster`: gives a cluster up whose data no unit has any more, and has this unit begin an empty one.
//!
//! Nothing else ever begins a second cluster for an application, whatever was forced or skipped. The action changes
//! nothing but databags, which Juju keeps only when the action has ended well: the next hook, which finds the choice
//! kept, sets aside what this unit has of the old cluster.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Answer;
use crate::act::CharmError;
use crate::host::Host;
use crate::juju::{Console, Juju};
use crate::observe::observe;
use crate::pending::Pending;
use crate::plan::bootstrap::begin_anew;

/// Gives up and chooses.
///
/// # Errors
/// [`CharmError`]; a refusal by the planner has changed nothing.
pub fn run(juju: &Juju, host: &Host) -> Result<Answer, CharmError> {
    let confirm = confirmation(&juju.parameters()?).map_err(CharmError::Parameter)?;
    let sight = observe(juju, host, &Pending::default(), false)?;
    let anew = begin_anew(&sight.facts, &confirm).map_err(CharmError::Parameter)?;
    let mut answer = Answer::default();
    let unit = &sight.facts.unit;
    Console.log("INFO", &format!("giving the application's cluster up; {unit} shall begin a new one"));
    answer.pending.publish_unit(anew.own.write());
    anew.changes.iter().for_each(|change| answer.pending.publish_app(change));
    if sight.facts.host.data {
        let folder = &sight.facts.host.data_dir;
        let place = format!("{folder}.kept-<time>, or {folder}/member.kept-<time> on a mount point");
        answer.result("data", format!("the next hook sets the data in {folder} aside: {place}"));
    }
    answer.result("message", format!("{unit} begins a new, empty cluster in its next hook"));
    answer.relation = sight.relation;
    Ok(answer)
}

fn confirmation(parameters: &BTreeMap<String, Value>) -> Result<String, String> {
    let given = parameters.get("confirm").and_then(Value::as_str);
    Ok(given.ok_or("confirm is missing: give the application's name")?.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_confirmation_is_a_text_and_nothing_else() {
        let given = |value: Value| confirmation(&BTreeMap::from([("confirm".to_owned(), value)]));
        assert_eq!(given(json!("etcd")), Ok("etcd".to_owned()));
        for bad in [json!(true), json!(1), json!(null), json!(["etcd"])] {
            assert!(given(bad).unwrap_err().starts_with("confirm"));
        }
        assert!(confirmation(&BTreeMap::new()).is_err());
    }
}
