//! What Juju refuses in a charm archive, and what it accepts but then does not run.
//!
//! One function per part of the archive; each pushes a sentence per breach. Follows the checks of
//! Juju 3.6 for charms of format 2 (with a manifest).

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::Value;

/// One entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file.
    File {
        /// Unix permissions.
        mode: u32,
        /// Content.
        bytes: Vec<u8>,
    },
    /// A symbolic link.
    Link {
        /// As written.
        target: String,
    },
}

type Entries = BTreeMap<String, Entry>;

const HOOKS: [&str; 14] = [
    "install",
    "start",
    "config-changed",
    "upgrade-charm",
    "update-status",
    "stop",
    "remove",
    "leader-elected",
    "leader-settings-changed",
    "post-series-upgrade",
    "pre-series-upgrade",
    "secret-changed",
    "secret-remove",
    "secret-rotate",
];
const RELATION_HOOKS: [&str; 5] = ["created", "joined", "changed", "departed", "broken"];
const STORAGE_HOOKS: [&str; 2] = ["attached", "detaching"];
const SCHEMA_TYPES: [&str; 7] = ["string", "integer", "number", "boolean", "array", "object", "null"];

/// Every reason why Juju would not take or not run this charm; empty when there is none.
#[must_use]
pub fn check(entries: &Entries) -> Vec<String> {
    let mut refusals = Vec::new();
    let metadata = yaml(entries, "metadata.yaml", true, &mut refusals);
    let endpoints = check_metadata(&metadata, &mut refusals);
    check_manifest(&yaml(entries, "manifest.yaml", true, &mut refusals), &mut refusals);
    check_config(&yaml(entries, "config.yaml", false, &mut refusals), &mut refusals);
    check_actions(&yaml(entries, "actions.yaml", false, &mut refusals), entries, &mut refusals);
    check_names_and_links(entries, &mut refusals);
    check_programs(entries, &hooks_of(&metadata, &endpoints), &mut refusals);
    refusals
}

/// The actions named by `actions.yaml`.
#[must_use]
pub fn action_names(entries: &Entries) -> Vec<String> {
    let actions = yaml(entries, "actions.yaml", false, &mut Vec::new());
    keys(&actions)
}

fn yaml(entries: &Entries, name: &str, needed: bool, refusals: &mut Vec<String>) -> Value {
    match entries.get(name) {
        Some(Entry::File { bytes, .. }) => serde_yaml::from_slice(bytes).unwrap_or_else(|error| {
            refusals.push(format!("{name} is not YAML: {error}"));
            Value::Null
        }),
        Some(Entry::Link { .. }) => {
            refusals.push(format!("{name} is a link; it must be a file"));
            Value::Null
        }
        None => {
            if needed {
                refusals.push(format!("{name} is missing"));
            }
            Value::Null
        }
    }
}

fn keys(value: &Value) -> Vec<String> {
    value.as_mapping().into_iter().flatten().filter_map(|(key, _)| Some(key.as_str()?.to_owned())).collect()
}

/// `[a-z][a-z0-9]*(-[a-z0-9]*[a-z][a-z0-9]*)*`
fn is_charm_name(name: &str) -> bool {
    let mut parts = name.split('-');
    let word = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let first = parts.next().unwrap_or_default();
    first.starts_with(|c: char| c.is_ascii_lowercase())
        && word(first)
        && parts.all(|part| word(part) && part.bytes().any(|b| b.is_ascii_lowercase()))
}

/// `[a-z][a-z0-9]*([_-][a-z0-9]+)*`
fn is_endpoint_name(name: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.split(['_', '-']).all(word)
}

/// `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
fn is_action_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_reserved(name: &str) -> bool {
    name == "juju" || name.starts_with("juju-")
}

/// Checks `metadata.yaml` and returns its endpoints.
fn check_metadata(metadata: &Value, refusals: &mut Vec<String>) -> BTreeSet<String> {
    let mut say = |text: String| refusals.push(format!("metadata.yaml: {text}"));
    match metadata["name"].as_str() {
        Some(name) if is_charm_name(name) => {}
        other => say(format!("name {other:?} is not a charm name")),
    }
    for key in ["summary", "description"] {
        if metadata[key].as_str().is_none_or(str::is_empty) {
            say(format!("{key} is missing or no text"));
        }
    }
    for key in ["series", "min-juju-version", "deployment"] {
        if !metadata[key].is_null() {
            say(format!("{key} does not belong into a charm with a manifest"));
        }
    }
    let mut endpoints = BTreeSet::new();
    let mut local = 0;
    for group in ["provides", "requires", "peers"] {
        for name in keys(&metadata[group]) {
            let endpoint = &metadata[group][name.as_str()];
            let interface = endpoint.as_str().or(endpoint["interface"].as_str());
            if !is_endpoint_name(&name) || is_reserved(&name) {
                say(format!("{name} is not a name for an endpoint"));
            }
            if interface.is_none_or(str::is_empty) {
                say(format!("endpoint {name} has no interface"));
            }
            match endpoint["scope"].as_str() {
                None if endpoint["scope"].is_null() => {}
                Some("global") => {}
                Some("container") => local += i32::from(group == "requires"),
                _ => say(format!("endpoint {name}: scope is neither global nor container")),
            }
            if !endpoints.insert(name.clone()) {
                say(format!("endpoint {name} is named twice"));
            }
        }
    }
    if metadata["subordinate"].as_bool() == Some(true) && local == 0 {
        say("a subordinate needs a required endpoint of scope container".to_owned());
    }
    for name in keys(&metadata["storage"]) {
        let kind = metadata["storage"][name.as_str()]["type"].as_str();
        if !matches!(kind, Some("filesystem" | "block")) {
            say(format!("storage {name}: type is neither filesystem nor block"));
        }
    }
    for name in keys(&metadata["resources"]) {
        let file = metadata["resources"][name.as_str()]["filename"].as_str();
        if file.is_none_or(|file| file.is_empty() || file.contains('/')) {
            say(format!("resource {name} needs a filename without a slash"));
        }
    }
    endpoints
}

fn check_manifest(manifest: &Value, refusals: &mut Vec<String>) {
    let bases = manifest["bases"].as_sequence().cloned().unwrap_or_default();
    if bases.is_empty() {
        refusals.push("manifest.yaml: bases is empty".to_owned());
    }
    for base in &bases {
        let architectures = base["architectures"].as_sequence().map_or(0, Vec::len);
        if base["name"].as_str().is_none() || base["channel"].as_str().is_none() || architectures == 0 {
            refusals.push("manifest.yaml: a base needs name, channel (a string) and architectures".to_owned());
        }
    }
}

fn check_config(config: &Value, refusals: &mut Vec<String>) {
    if config.is_null() {
        return;
    }
    let options = &config["options"];
    if keys(options).is_empty() {
        refusals.push("config.yaml: invalid config: empty configuration".to_owned());
    }
    for name in keys(options) {
        let option = &options[name.as_str()];
        let default = &option["default"];
        let fits = match option["type"].as_str().unwrap_or("string") {
            "string" | "secret" => default.is_string(),
            "int" => default.as_i64().is_some(),
            "float" => default.is_number(),
            "boolean" => default.is_bool(),
            other => {
                refusals.push(format!("config.yaml: option {name} has the unknown type {other}"));
                true
            }
        };
        if !default.is_null() && !fits {
            refusals.push(format!("config.yaml: the default of option {name} is not of its type"));
        }
    }
}

fn check_actions(actions: &Value, entries: &Entries, refusals: &mut Vec<String>) {
    for name in keys(actions) {
        let mut say = |text: String| refusals.push(format!("actions.yaml: {name}: {text}"));
        let action = &actions[name.as_str()];
        if !is_action_name(&name) || is_reserved(&name) {
            say("not a name for an action".to_owned());
        }
        // Its default differs between Juju 3.6 and 4.0.
        if action["additionalProperties"].as_bool().is_none() {
            say("additionalProperties is not written out".to_owned());
        }
        for parameter in keys(&action["params"]) {
            let schema = &action["params"][parameter.as_str()];
            if schema["type"].as_str().is_none_or(|kind| !SCHEMA_TYPES.contains(&kind)) {
                say(format!("parameter {parameter} has no known type"));
            }
        }
        if contains_key(action, "$ref") || contains_key(action, "$schema") {
            say("$ref and $schema are refused".to_owned());
        }
        if !is_runnable(entries, &format!("actions/{name}")) {
            say(format!("there is no executable actions/{name}"));
        }
    }
}

fn contains_key(value: &Value, wanted: &str) -> bool {
    match value {
        Value::Mapping(map) => {
            map.iter().any(|(key, inner)| key.as_str() == Some(wanted) || contains_key(inner, wanted))
        }
        Value::Sequence(list) => list.iter().any(|inner| contains_key(inner, wanted)),
        _ => false,
    }
}

fn check_names_and_links(entries: &Entries, refusals: &mut Vec<String>) {
    for (name, entry) in entries {
        if name.starts_with('/') || name.split('/').any(|part| part == ".." || part.is_empty()) {
            refusals.push(format!("{name:?} is not a path inside the charm"));
        }
        let Entry::Link { target } = entry else { continue };
        if target.starts_with('/') {
            refusals.push(format!("symlink {name:?} is absolute"));
            continue;
        }
        match resolve(name, target) {
            None => refusals.push(format!("symlink {name:?} leads out of scope")),
            Some(path) if !entries.contains_key(&path) => {
                refusals.push(format!("symlink {name:?} leads to {path:?}, which is not in the charm"));
            }
            Some(_) => {}
        }
    }
}

/// Where a link leads, as a path of the archive; `None` when outside.
fn resolve(name: &str, target: &str) -> Option<String> {
    let mut path: Vec<&str> = name.split('/').collect();
    path.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop()?;
            }
            part => path.push(part),
        }
    }
    Some(path.join("/"))
}

/// A file with the owner's execute bit, or a link to one.
fn is_runnable(entries: &Entries, name: &str) -> bool {
    let mode = |entry: &Entry| matches!(entry, Entry::File { mode, .. } if mode & 0o100 != 0);
    match entries.get(name) {
        Some(Entry::Link { target }) => resolve(name, target).and_then(|path| entries.get(&path)).is_some_and(mode),
        Some(entry) => mode(entry),
        None => false,
    }
}

/// Every hook Juju may run for a charm with this metadata.
fn hooks_of(metadata: &Value, endpoints: &BTreeSet<String>) -> BTreeSet<String> {
    let kinds = |name: &String, group: &str, kinds: &[&str]| -> Vec<String> {
        kinds.iter().map(|kind| format!("{name}-{group}-{kind}")).collect()
    };
    let relations = endpoints.iter().flat_map(|name| kinds(name, "relation", &RELATION_HOOKS));
    let storage = keys(&metadata["storage"]);
    let storage = storage.iter().flat_map(|name| kinds(name, "storage", &STORAGE_HOOKS));
    HOOKS.iter().map(|hook| (*hook).to_owned()).chain(relations).chain(storage).collect()
}

fn check_programs(entries: &Entries, known: &BTreeSet<String>, refusals: &mut Vec<String>) {
    if entries.contains_key("dispatch") {
        refusals.push("a file dispatch would shadow every link in hooks/".to_owned());
    }
    for name in entries.keys() {
        if let Some(hook) = name.strip_prefix("hooks/") {
            if !known.contains(hook) {
                refusals.push(format!("{name}: Juju knows no such hook and would never run it"));
            }
            if !is_runnable(entries, name) {
                refusals.push(format!("{name} is not executable"));
            }
        }
    }
    if !entries.keys().any(|name| name.starts_with("hooks/")) {
        refusals.push("there is no hook at all".to_owned());
    }
    for program in ["charm", "bin/etcd"] {
        if !is_runnable(entries, program) {
            refusals.push(format!("{program} is not executable"));
        }
    }
    if let Some(Entry::File { bytes, .. }) = entries.get("revision")
        && String::from_utf8_lossy(bytes).trim().parse::<u32>().is_err()
    {
        refusals.push("revision is not a whole number".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> Entry {
        Entry::File { mode, bytes: text.as_bytes().to_vec() }
    }

    fn good() -> Entries {
        let metadata = "name: etcd\nsummary: s\ndescription: d\npeers:\n  peer:\n    interface: etcd\n";
        let manifest = "bases: [{name: ubuntu, channel: '24.04', architectures: [amd64]}]";
        Entries::from([
            ("metadata.yaml".to_owned(), file(metadata, 0o644)),
            ("manifest.yaml".to_owned(), file(manifest, 0o644)),
            ("config.yaml".to_owned(), file("options: {port: {type: int, default: 1}}", 0o644)),
            ("actions.yaml".to_owned(), file("health: {additionalProperties: false}", 0o644)),
            ("revision".to_owned(), file("3\n", 0o644)),
            ("charm".to_owned(), file("", 0o755)),
            ("bin/etcd".to_owned(), file("", 0o755)),
            ("hooks/install".to_owned(), Entry::Link { target: "../charm".to_owned() }),
            ("actions/health".to_owned(), Entry::Link { target: "../charm".to_owned() }),
        ])
    }

    #[test]
    fn a_good_charm_is_accepted() {
        assert_eq!(check(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_breach_is_refused_by_name() {
        let link = |target: &str| Entry::Link { target: target.to_owned() };
        let table: Vec<(&str, Option<Entry>, &str)> = vec![
            ("metadata.yaml", None, "metadata.yaml is missing"),
            ("metadata.yaml", Some(file("name: db-2\nsummary: s\ndescription: d", 0o644)), "not a charm name"),
            ("metadata.yaml", Some(file("name: a\nsummary: s", 0o644)), "description is missing"),
            ("metadata.yaml", Some(file("name: a\nsummary: s\ndescription: d\nseries: [jammy]", 0o644)), "series"),
            ("metadata.yaml", Some(file("name: [", 0o644)), "not YAML"),
            (
                "metadata.yaml",
                Some(file("name: a\nsummary: s\ndescription: d\npeers: {p: x}\nprovides: {p: x}", 0o644)),
                "named twice",
            ),
            ("metadata.yaml", Some(file("name: a\nsummary: s\ndescription: d\npeers: {juju-x: x}", 0o644)), "juju-x"),
            ("manifest.yaml", None, "manifest.yaml is missing"),
            ("manifest.yaml", Some(file("bases: []", 0o644)), "bases is empty"),
            ("manifest.yaml", Some(file("bases: [{name: ubuntu, channel: 24.04}]", 0o644)), "a base needs"),
            ("config.yaml", Some(file("{}", 0o644)), "empty configuration"),
            ("config.yaml", Some(file("options: {port: {type: int, default: x}}", 0o644)), "default of option port"),
            ("config.yaml", Some(file("options: {port: {type: number}}", 0o644)), "unknown type number"),
            ("actions.yaml", Some(file("health: {}", 0o644)), "additionalProperties"),
            ("actions.yaml", Some(file("Health: {additionalProperties: false}", 0o644)), "not a name for an action"),
            ("actions/health", None, "no executable actions/health"),
            ("actions/health", Some(file("", 0o644)), "no executable actions/health"),
            ("revision", Some(file("x", 0o644)), "revision"),
            ("dispatch", Some(file("", 0o755)), "shadow"),
            ("charm", Some(file("", 0o644)), "charm is not executable"),
            ("bin/etcd", None, "bin/etcd is not executable"),
            ("hooks/install", Some(link("/charm")), "is absolute"),
            ("hooks/install", Some(link("../../charm")), "leads out of scope"),
            ("hooks/install", Some(link("../nothing")), "not in the charm"),
            ("hooks/instal", Some(link("../charm")), "knows no such hook"),
            ("hooks/db-relation-joined", Some(link("../charm")), "knows no such hook"),
            ("hooks/data-storage-attached", Some(link("../charm")), "knows no such hook"),
            ("hooks/install", Some(file("", 0o644)), "hooks/install is not executable"),
            ("../x", Some(file("", 0o644)), "not a path inside"),
        ];
        for (name, entry, wanted) in table {
            let mut entries = good();
            match entry {
                Some(entry) => entries.insert(name.to_owned(), entry),
                None => entries.remove(name),
            };
            let refusals = check(&entries);
            assert!(refusals.iter().any(|refusal| refusal.contains(wanted)), "{name}: {wanted}: {refusals:?}");
        }
    }
}
