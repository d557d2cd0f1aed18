//! action-get, action-set, action-fail, action-log.

use serde_json::{Map, Value, json};

use super::flags::Flags;
use super::{Refusal, Session, failed, usage};

/// Names `action-set` keeps for the agent itself.
const RESERVED: [&str; 4] = ["stdout", "stdout-encoding", "stderr", "stderr-encoding"];

pub(super) fn answer(session: &mut Session<'_>, name: &str, flags: &Flags) -> Result<String, Refusal> {
    let Some(action) = &mut session.context.action else { return Err(failed("not running an action")) };
    match name {
        "action-get" => {
            let all = json!(action.params);
            let value = match flags.arg(0) {
                None => all,
                Some(path) => {
                    path.split('.').try_fold(&all, |value, part| value.get(part)).cloned().unwrap_or(Value::Null)
                }
            };
            flags.print(&value, "smart")
        }
        "action-fail" => {
            let message = flags.rest.join(" ");
            let default = "action failed without reason given, check action for errors";
            action.failure = Some(if message.is_empty() { default.to_owned() } else { message });
            Ok(String::new())
        }
        "action-log" => {
            let (task, line) = (action.task, flags.rest.join(" "));
            if let Some(task) = session.world.tasks.get_mut(&task) {
                task.log.push(line);
            }
            Ok(String::new())
        }
        _ => {
            for pair in &flags.rest {
                let (path, value) = pair
                    .split_once('=')
                    .ok_or_else(|| usage(format!("argument {pair:?} must be of the form key...=value")))?;
                let parts: Vec<&str> = path.split('.').collect();
                check_path(&parts)?;
                insert(&mut action.results, &parts, value);
            }
            // Results survive a later failure of the action, so they leave the context at once.
            if let Some(task) = session.world.tasks.get_mut(&action.task) {
                task.results = action.results.clone();
            }
            Ok(String::new())
        }
    }
}

fn check_path(parts: &[&str]) -> Result<(), Refusal> {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    for part in parts {
        let good = part.chars().all(|c| letter(c) || c == '-') && part.starts_with(letter) && part.ends_with(letter);
        if !good {
            return Err(failed(format!(
                "key {part:?} must start and end with lowercase alphanumeric, and contain only lowercase alphanumeric and hyphens"
            )));
        }
    }
    match parts {
        [only] if RESERVED.contains(only) => Err(failed(format!("cannot set reserved action key {only:?}"))),
        _ => Ok(()),
    }
}

fn insert(target: &mut Value, parts: &[&str], value: &str) {
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return };
    match parts {
        [last] => {
            map.insert((*last).to_owned(), json!(value));
        }
        [first, rest @ ..] => insert(map.entry((*first).to_owned()).or_insert(Value::Null), rest, value),
        [] => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, running};
    use crate::context::ActionContext;
    use serde_json::json;

    #[test]
    fn dotted_keys_nest_and_bad_keys_are_refused() {
        let mut world = running(1, true);
        assert_eq!(call(&mut world, &["action-set", "a=1"]).stderr, "ERROR not running an action\n");
        world.contexts.get_mut("toy/0").unwrap().action = Some(ActionContext {
            task: 0,
            name: "go".into(),
            params: Default::default(),
            results: json!({}),
            failure: None,
        });
        assert_eq!(call(&mut world, &["action-set", "a.b=1", "a.c=2", "d=3=4"]).code, 0);
        let results = &world.contexts["toy/0"].action.as_ref().unwrap().results;
        assert_eq!(*results, json!({"a": {"b": "1", "c": "2"}, "d": "3=4"}));
        for bad in ["A=1", "a_b=1", "stdout=x"] {
            assert_eq!(call(&mut world, &["action-set", bad]).code, 1, "{bad}");
        }
    }
}
