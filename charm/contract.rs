//! Tests only: the three YAML files, the links in `hooks/` and the Rust enums agree, name for name.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_yaml::Value;

use crate::event::{HOOKS, VERBS};
use crate::plan::config::{self, Options};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn yaml(name: &str) -> Value {
    serde_yaml::from_str(&fs::read_to_string(path(name)).unwrap()).unwrap()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_mapping().unwrap().keys().map(|key| key.as_str().unwrap().to_owned()).collect()
}

#[test]
fn hooks_holds_one_relative_link_for_every_hook_we_answer_and_no_other() {
    let mut links = BTreeSet::new();
    for entry in fs::read_dir(path("hooks")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(fs::read_link(entry.path()).unwrap(), PathBuf::from("../charm"));
        links.insert(entry.file_name().into_string().unwrap());
    }
    let answered: BTreeSet<String> = HOOKS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(links, answered);
}

#[test]
fn relation_hooks_are_those_of_the_endpoints_in_the_metadata() {
    let metadata = yaml("metadata.yaml");
    assert_eq!(keys(&metadata["peers"]), BTreeSet::from([crate::juju::PEER.to_owned()]));
    let relations: BTreeSet<&str> =
        HOOKS.iter().filter_map(|(name, _)| Some(name.split_once("-relation-")?.0)).collect();
    assert_eq!(relations, BTreeSet::from([crate::juju::PEER]));
}

#[test]
fn storage_hooks_are_those_of_the_one_optional_file_system_in_the_metadata() {
    let metadata = yaml("metadata.yaml");
    assert_eq!(keys(&metadata["storage"]), BTreeSet::from([crate::juju::STORAGE.to_owned()]));
    let storage = &metadata["storage"][crate::juju::STORAGE];
    assert_eq!(storage["type"].as_str(), Some("filesystem"));
    assert_eq!(storage["multiple"]["range"].as_str(), Some("0-1"));
    let named: BTreeSet<&str> = HOOKS.iter().filter_map(|(name, _)| Some(name.split_once("-storage-")?.0)).collect();
    assert_eq!(named, BTreeSet::from([crate::juju::STORAGE]));
}

#[test]
fn the_limits_of_rotate_ca_are_those_the_action_keeps_itself() {
    let params = &yaml("actions.yaml")["rotate-ca"]["params"];
    assert_eq!(params["grace-days"]["default"].as_i64(), Some(crate::plan::rotation::GRACE_DAYS));
    assert_eq!(params["grace-days"]["maximum"].as_i64(), Some(crate::plan::rotation::MAX_GRACE_DAYS));
}

#[test]
fn the_limits_of_a_client_certificate_are_those_the_action_keeps_itself() {
    use crate::actions::credentials::{DEFAULT_DAYS, DEFAULT_NAME, MAX_DAYS, MIN_DAYS};
    let params = &yaml("actions.yaml")["generate-client-certificates"]["params"];
    let limits = ["minimum", "maximum", "default"].map(|key| params["days"][key].as_i64());
    assert_eq!(limits, [MIN_DAYS, MAX_DAYS, DEFAULT_DAYS].map(Some));
    assert_eq!(params["cn"]["default"].as_str(), Some(DEFAULT_NAME));
}

#[test]
fn every_number_an_action_takes_has_its_limits_in_the_schema() {
    let actions = yaml("actions.yaml");
    for verb in keys(&actions) {
        let params = &actions[verb.as_str()]["params"];
        for name in params.as_mapping().map(|_| keys(params)).unwrap_or_default() {
            let schema = &params[name.as_str()];
            let bounded = schema["minimum"].is_number() && schema["maximum"].is_number();
            assert!(schema["type"].as_str() != Some("integer") || bounded, "{verb} {name}");
        }
    }
}

#[test]
fn actions_yaml_names_every_verb_and_no_other() {
    let verbs: BTreeSet<String> = VERBS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(keys(&yaml("actions.yaml")), verbs);
    assert!(path("actions").read_dir().is_err(), "actions/ is staged by pack, not kept");
}

#[test]
fn the_older_name_takes_the_same_parameters() {
    let actions = yaml("actions.yaml");
    assert_eq!(actions["generate-client-certificates"]["params"], actions["package-client-credentials"]["params"]);
}

#[test]
fn config_yaml_names_every_option_with_our_own_default() {
    let file = yaml("config.yaml");
    let options = &file["options"];
    let mut given = std::collections::BTreeMap::new();
    for name in keys(options) {
        let default = serde_json::to_value(&options[name.as_str()]["default"]).unwrap();
        given.insert(name, default);
    }
    assert_eq!(config::check(&given).unwrap(), Options::default());
    // Each option is one that `check` reads: a wrong type is noticed.
    for name in given.keys() {
        let mut bad = given.clone();
        bad.insert(name.clone(), serde_json::json!(["nonsense"]));
        assert_eq!(config::check(&bad).unwrap_err().name, name);
    }
    assert_eq!(given.len(), 8);
}
