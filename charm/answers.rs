//! What hook tools answer, read into types. Used by `juju.rs` alone.
//!
//! Juju's answers are text from outside like any other (see `text/`), and ids in them become arguments of the next
//! tool. An answer that is not what Juju documents is an error and never "nothing": to go on without a storage, a
//! relation or a unit that exists would be to put data elsewhere, or to take a member for a stray.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::bags::Bag;
use crate::facts::{Life, Storage, Unit};
use crate::juju::{Addresses, JujuError, SecretInfo};
use crate::text::{Folder, RelationId, SecretId, StorageId};

/// The id of the first relation that is listed; `None` when there is none yet.
///
/// # Errors
/// [`JujuError::Answer`] for an id that is none.
pub fn relation(listed: &Value) -> Result<Option<RelationId>, JujuError> {
    let tool = "relation-ids";
    let read = |id: &String| RelationId::parse(id).ok_or_else(|| not(tool, "a relation's id", id));
    strings(tool, listed)?.first().map(read).transpose()
}

/// The units that a relation lists.
///
/// # Errors
/// [`JujuError::Answer`] for a name that is none.
pub fn units(listed: &Value) -> Result<BTreeSet<Unit>, JujuError> {
    let tool = "relation-list";
    let read = |name: &String| Unit::parse(name).ok_or_else(|| not(tool, "a unit", name));
    strings(tool, listed)?.iter().map(read).collect()
}

/// Every unit of the application and whether it is wanted.
///
/// # Errors
/// [`JujuError::Answer`] without a list of units, or for a name that is none: whoever is not listed is gone.
pub fn goal(answer: &Value, application: &str) -> Result<BTreeMap<Unit, Life>, JujuError> {
    let Value::Object(units) = &answer["units"] else { return Err(unreadable("goal-state", answer)) };
    let mut goal = BTreeMap::new();
    for (name, state) in units {
        let unit = Unit::parse(name).ok_or_else(|| not("goal-state", "a unit", name))?;
        let dying = state["status"].as_str() == Some("dying");
        goal.insert(unit, if dying { Life::Dying } else { Life::Alive });
    }
    goal.retain(|unit, _| unit.application == application);
    Ok(goal)
}

/// The addresses of a binding; names among them are left out.
#[must_use]
pub fn addresses(answer: &Value) -> Addresses {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Addresses::default();
    for interface in list(&answer["bind-addresses"]) {
        let addresses = list(&interface["addresses"]);
        found.bind.extend(addresses.iter().filter_map(|address| parse(&address["value"])));
    }
    found.ingress = list(&answer["ingress-addresses"]).iter().filter_map(parse).collect();
    found
}

/// Where a secret is and how often it was changed; `None` when none is told of. Juju names it by its bare id or
/// by its URI.
///
/// # Errors
/// [`JujuError::Answer`] for another shape, and for an id that is none.
pub fn secret_info(answer: &Value) -> Result<Option<SecretInfo>, JujuError> {
    let tool = "secret-info-get";
    let Value::Object(map) = answer else { return Err(unreadable(tool, answer)) };
    let Some((id, about)) = map.iter().next() else { return Ok(None) };
    let cause = "no revision".to_owned();
    let revision = about["revision"].as_u64().ok_or(JujuError::Answer { tool, cause })?;
    let id = SecretId::read(id).ok_or_else(|| not(tool, "a secret's id", id))?;
    Ok(Some(SecretInfo { id, revision }))
}

/// The first storage that is listed and, by `locate`, where it is. Juju lists a storage before it is provisioned;
/// its location is then an error that says so, or empty.
///
/// # Errors
/// That of `locate`; [`JujuError::Answer`] for an id or a location that is none.
pub fn storage(
    listed: &Value,
    locate: impl FnOnce(&StorageId) -> Result<Value, JujuError>,
) -> Result<Option<Storage>, JujuError> {
    let listed = strings("storage-list", listed)?;
    let Some(id) = listed.first() else { return Ok(None) };
    let id = StorageId::parse(id).ok_or_else(|| not("storage-list", "a storage's id", id))?;
    let location = match locate(&id) {
        Err(error) if error.is_not_found() || error.is_not_provisioned() => return Ok(None),
        answer => answer?,
    };
    let Some(location) = location.as_str().filter(|location| !location.is_empty()) else { return Ok(None) };
    let location = Folder::parse(location).ok_or_else(|| not("storage-get", "a location", location))?;
    Ok(Some(Storage { id, location }))
}

/// A databag, a secret's content: texts by name; nothing at all is an empty one. One that cannot be read is not: an
/// empty databag of the application says that no cluster was begun.
///
/// # Errors
/// [`JujuError::Answer`] for another shape, and for a value that is no text.
pub fn bag(tool: &'static str, answer: &Value) -> Result<Bag, JujuError> {
    let other = || unreadable(tool, answer);
    match answer {
        Value::Null => Ok(Bag::new()),
        Value::Object(map) => {
            map.iter().map(|(key, value)| Ok((key.clone(), value.as_str().ok_or_else(other)?.to_owned()))).collect()
        }
        _ => Err(other()),
    }
}

/// Anything by name, such as options and parameters.
///
/// # Errors
/// [`JujuError::Answer`] for another shape.
pub fn map(tool: &'static str, answer: Value) -> Result<BTreeMap<String, Value>, JujuError> {
    match answer {
        Value::Object(map) => Ok(map.into_iter().collect()),
        Value::Null => Ok(BTreeMap::new()),
        other => Err(unreadable(tool, &other)),
    }
}

/// The texts of a list; nothing at all is an empty one.
///
/// # Errors
/// [`JujuError::Answer`] for another shape, and for a list with anything else in it.
pub fn strings(tool: &'static str, answer: &Value) -> Result<Vec<String>, JujuError> {
    let other = || unreadable(tool, answer);
    match answer {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(|entry| entry.as_str().map(str::to_owned).ok_or_else(other)).collect(),
        _ => Err(other()),
    }
}

/// An answer of another shape than documented.
#[must_use]
pub fn unreadable(tool: &'static str, answer: &Value) -> JujuError {
    let kind = match answer {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list of another kind",
        Value::Object(_) => "a map of another shape",
    };
    JujuError::Answer { tool, cause: kind.to_owned() }
}

fn not(tool: &'static str, what: &str, text: &str) -> JujuError {
    JujuError::Answer { tool, cause: format!("{text:?} is not {what}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_storage_that_juju_cannot_show_is_an_error_and_only_one_that_is_not_there_yet_is_none() {
        let answer = |got: Result<Value, &str>| {
            storage(&json!(["data/0"]), |_| {
                got.map_err(|message| JujuError::Failed { tool: "storage-get", message: message.to_owned() })
            })
        };
        let found = Storage { id: "data/0".into(), location: "/srv/0".into() };
        assert_eq!(answer(Ok(json!("/srv/0"))).unwrap(), Some(found));
        assert_eq!(storage(&json!([]), |_| panic!("nothing to ask for")).unwrap(), None);
        for waiting in [
            Ok(json!("")),
            Err("ERROR filesystem attachment \"0\" on \"machine 0\" not provisioned"),
            Err("ERROR invalid value \"data/0\" for option -s: storage not found"),
        ] {
            assert_eq!(answer(waiting.clone()).unwrap(), None, "{waiting:?}");
        }
        for broken in [Err("ERROR connection is shut down"), Err("ERROR permission denied"), Ok(json!("srv"))] {
            assert!(answer(broken.clone()).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn an_id_that_is_none_is_an_error_and_reaches_no_command_line() {
        assert_eq!(relation(&json!(["peer:3"])).unwrap(), Some("peer:3".into()));
        assert_eq!(relation(&json!([])).unwrap(), None, "the relation is not there yet");
        let bare = "9m4e2mr0ui3e8a215n4g";
        for id in [bare.to_owned(), format!("secret:{bare}")] {
            let info = secret_info(&json!({id: {"revision": 2}})).unwrap().unwrap();
            assert_eq!((info.id, info.revision), (format!("secret:{bare}").as_str().into(), 2));
        }
        for bad in ["", "--application", "peer", "peer:-r", "peer:1 2", "pki"] {
            assert!(relation(&json!([bad])).is_err(), "{bad:?}");
            assert!(secret_info(&json!({bad: {"revision": 2}})).is_err(), "{bad:?}");
            let refusal = storage(&json!([bad]), |_| panic!("it is asked for")).unwrap_err().to_string();
            assert!(refusal.contains(&format!("{bad:?} is not a storage's id")), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_list_of_texts_is_an_error_and_not_an_empty_list() {
        assert_eq!(strings("storage-list", &json!(null)).unwrap(), Vec::<String>::new());
        for bad in [json!({"data/0": {}}), json!("data/0"), json!(true), json!([0]), json!(["data/0", null])] {
            assert!(relation(&bad).is_err() && units(&bad).is_err(), "{bad}");
            assert!(storage(&bad, |_| panic!("it is asked for")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_databag_that_cannot_be_read_is_an_error_because_an_empty_one_says_that_no_cluster_was_begun() {
        let full = Bag::from([("bootstrap".to_owned(), "etcd/0".to_owned())]);
        assert_eq!(bag("relation-get", &json!({"bootstrap": "etcd/0"})).unwrap(), full);
        for empty in [json!(null), json!({})] {
            assert_eq!(bag("relation-get", &empty).unwrap(), Bag::new());
        }
        for bad in
            [json!([]), json!("bootstrap"), json!(0), json!({"bootstrap": null}), json!({"bootstrap": ["etcd/0"]})]
        {
            let refusal = bag("relation-get", &bad).unwrap_err().to_string();
            assert!(refusal.starts_with("hook tool relation-get answered something unreadable"), "{refusal}");
        }
    }

    #[test]
    fn a_unit_that_cannot_be_read_is_an_error_because_one_that_is_not_listed_counts_as_gone() {
        let state = |name: &str| json!({"units": {"etcd/0": {"status": "dying"}, name: {"status": "active"}}});
        let read = goal(&state("etcd/1"), "etcd").unwrap();
        assert_eq!(read, BTreeMap::from([(Unit::new("etcd", 0), Life::Dying), (Unit::new("etcd", 1), Life::Alive)]));
        assert_eq!(goal(&state("other/1"), "etcd").unwrap().len(), 1);
        for bad in ["", "etcd/01", "etcd", "--application", "etcd/1\n"] {
            assert!(goal(&state(bad), "etcd").is_err(), "{bad:?}");
            assert!(units(&json!(["etcd/0", bad])).is_err(), "{bad:?}");
        }
        assert!(goal(&json!({"units": null}), "etcd").is_err());
    }
}
