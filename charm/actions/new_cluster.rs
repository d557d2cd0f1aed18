//! `new-cluster`: gives a cluster up whose data no unit has any more, and has this unit begin an empty one.
//!
//! Nothing else ever begins a second cluster for an application, whatever was forced or skipped.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Answer;
use crate::act::{CharmError, perform_all};
use crate::host::Host;
use crate::juju::Juju;
use crate::observe::observe;
use crate::pending::Pending;
use crate::plan::Action;
use crate::plan::bootstrap::begin_anew;

/// Gives up and chooses.
///
/// # Errors
/// [`CharmError`]; a refusal by the planner has changed nothing.
pub fn run(juju: &Juju, host: &Host) -> Result<Answer, CharmError> {
    let confirm = confirmation(&juju.parameters()?).map_err(CharmError::Parameter)?;
    let sight = observe(juju, host, &Pending::default(), false)?;
    let steps = begin_anew(&sight.facts, &confirm).map_err(CharmError::Parameter)?;
    let mut answer = Answer::default();
    perform_all(host, &sight, &steps, &mut answer.pending)?;
    if steps.contains(&Action::SetDataAside) {
        answer.result("data", format!("set aside as {}.kept-{}", sight.facts.host.data_dir, sight.facts.now));
    }
    answer.result("message", format!("{} begins a new, empty cluster", sight.facts.unit));
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
