//! A charm as Juju's controller understands it: metadata, options, actions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

/// One option of `config.yaml`.
#[derive(Debug, Clone, Deserialize)]
pub struct ConfigOption {
    /// `string`, `int`, `float`, `boolean` or `secret`.
    #[serde(rename = "type", default = "string_type")]
    pub kind: String,
    /// Null when there is none.
    #[serde(default)]
    pub default: Value,
    /// Text for people.
    #[serde(default)]
    pub description: String,
}

fn string_type() -> String {
    "string".to_owned()
}

impl ConfigOption {
    /// Turns what the operator typed into a value of the option's type.
    pub fn parse(&self, name: &str, text: &str) -> Result<Value, String> {
        let wrong = || format!("option {name:?} expected {}, got {text:?}", self.kind);
        match self.kind.as_str() {
            "int" => text.parse::<i64>().map(Value::from).map_err(|_| wrong()),
            "float" => text.parse::<f64>().map(Value::from).map_err(|_| wrong()),
            "boolean" => text.to_lowercase().parse::<bool>().map(Value::from).map_err(|_| wrong()),
            _ => Ok(Value::from(text)),
        }
    }
}

/// One action of `actions.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Action {
    /// JSON-Schema properties by name.
    #[serde(default)]
    pub params: BTreeMap<String, Value>,
    /// Names that must be given.
    #[serde(default)]
    pub required: Vec<String>,
    /// Whether unknown names are let through (Juju 3.6: yes unless said otherwise).
    #[serde(default = "yes", rename = "additionalProperties")]
    pub additional_properties: bool,
}

fn yes() -> bool {
    true
}

impl Action {
    /// Checks parameters against the schema and fills in defaults.
    pub fn check(&self, mut given: BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>, String> {
        for (name, value) in &given {
            match self.params.get(name) {
                Some(schema) => check_value(name, value, schema)?,
                None if self.additional_properties => {}
                None => {
                    return Err(format!("validation failed: (root) : additional property {name:?} is not allowed"));
                }
            }
        }
        if let Some(missing) = self.required.iter().find(|name| !given.contains_key(*name)) {
            return Err(format!("validation failed: (root) : {missing:?} property is missing and required"));
        }
        for (name, schema) in &self.params {
            if let Some(default) = schema.get("default") {
                given.entry(name.clone()).or_insert_with(|| default.clone());
            }
        }
        Ok(given)
    }
}

/// The part of JSON Schema that charms use: type, enum, minimum, maximum and text lengths.
fn check_value(name: &str, value: &Value, schema: &Value) -> Result<(), String> {
    let fail = |what: String| Err(format!("validation failed: (root).{name} : {what}, given {value}"));
    if let Some(kind) = schema.get("type").and_then(Value::as_str) {
        let fits = match kind {
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        };
        if !fits {
            return fail(format!("must be of type {kind}"));
        }
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        return fail(format!("must be one of {}", Value::from(allowed.clone())));
    }
    let number = value.as_f64();
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    if let (Some(number), Some(least)) = (number, bound("minimum"))
        && number < least
    {
        return fail(format!("must be greater than or equal to {least}"));
    }
    if let (Some(number), Some(most)) = (number, bound("maximum"))
        && number > most
    {
        return fail(format!("must be less than or equal to {most}"));
    }
    if let (Some(text), Some(most)) = (value.as_str(), bound("maxLength"))
        && text.chars().count() as f64 > most
    {
        return fail(format!("must be at most {most} characters long"));
    }
    Ok(())
}

/// One storage of `metadata.yaml`.
#[derive(Debug, Clone, Deserialize)]
pub struct StorageSpec {
    /// `filesystem` or `block`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Mount point, if the charm fixes one.
    #[serde(default)]
    pub location: Option<String>,
    /// `range: 0-1` and the like.
    #[serde(default)]
    pub multiple: Option<StorageRange>,
}

/// How many instances a unit may have.
#[derive(Debug, Clone, Deserialize)]
pub struct StorageRange {
    /// `m`, `m-n`, `m+`, `m-`.
    pub range: Value,
}

impl StorageSpec {
    /// How many instances a new unit gets: the least the charm accepts.
    pub fn least(&self) -> usize {
        let Some(text) = self.range() else { return 1 };
        text.split(['-', '+']).next().and_then(|least| least.parse().ok()).unwrap_or(1)
    }

    /// How many instances a unit may have.
    pub fn most(&self) -> usize {
        let Some(text) = self.range() else { return 1 };
        match text.split_once('-') {
            Some((_, most)) => most.parse().unwrap_or(usize::MAX),
            None => text.parse().unwrap_or(usize::MAX),
        }
    }

    fn range(&self) -> Option<String> {
        let range = &self.multiple.as_ref()?.range;
        Some(range.as_str().map_or_else(|| range.to_string(), str::to_owned))
    }
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    summary: Option<String>,
    #[serde(default)]
    provides: BTreeMap<String, Value>,
    #[serde(default)]
    requires: BTreeMap<String, Value>,
    #[serde(default)]
    peers: BTreeMap<String, Value>,
    #[serde(default, rename = "extra-bindings")]
    extra_bindings: BTreeMap<String, Value>,
    #[serde(default)]
    storage: BTreeMap<String, StorageSpec>,
}

/// A parsed charm and the archive it came from.
#[derive(Debug, Clone, Default)]
pub struct Charm {
    /// Name in `metadata.yaml`.
    pub name: String,
    /// Endpoint → interface.
    pub provides: BTreeMap<String, String>,
    /// Endpoint → interface.
    pub requires: BTreeMap<String, String>,
    /// Endpoint → interface.
    pub peers: BTreeMap<String, String>,
    /// Further names `network-get` knows.
    pub extra_bindings: Vec<String>,
    /// Storage by name.
    pub storage: BTreeMap<String, StorageSpec>,
    /// `config.yaml`.
    pub options: BTreeMap<String, ConfigOption>,
    /// `actions.yaml`.
    pub actions: BTreeMap<String, Action>,
    /// The controller's own copy of the archive.
    pub archive: PathBuf,
}

impl Charm {
    /// Parses the three files; absent ones are `None`. Errors name the file and what is wrong in it.
    pub fn parse(metadata: &str, config: Option<&str>, actions: Option<&str>) -> Result<Self, String> {
        let metadata: Metadata = serde_yaml::from_str(metadata).map_err(|error| format!("metadata.yaml: {error}"))?;
        if metadata.summary.is_none() {
            return Err("metadata.yaml: summary: expected string, got nothing".to_owned());
        }
        check_name(&metadata.name)?;
        let mut charm = Self {
            name: metadata.name,
            provides: endpoints(metadata.provides)?,
            requires: endpoints(metadata.requires)?,
            peers: endpoints(metadata.peers)?,
            extra_bindings: metadata.extra_bindings.into_keys().collect(),
            storage: metadata.storage,
            ..Self::default()
        };
        if let Some(text) = config {
            #[derive(Deserialize)]
            struct File {
                options: Option<BTreeMap<String, ConfigOption>>,
            }
            let file: File = serde_yaml::from_str(text).map_err(|error| format!("config.yaml: {error}"))?;
            charm.options = file.options.ok_or("invalid config: empty configuration")?;
        }
        if let Some(text) = actions {
            let file: BTreeMap<String, Option<Action>> =
                serde_yaml::from_str(text).map_err(|error| format!("actions.yaml: {error}"))?;
            charm.actions = file.into_iter().map(|(name, action)| (name, action.unwrap_or_default())).collect();
        }
        Ok(charm)
    }

    /// True when `network-get` knows the name.
    pub fn has_binding(&self, name: &str) -> bool {
        name == "juju-info"
            || [&self.provides, &self.requires, &self.peers].iter().any(|group| group.contains_key(name))
            || self.extra_bindings.iter().any(|binding| binding == name)
    }
}

/// Juju's rule for charm names: every part after a dash needs a letter.
fn check_name(name: &str) -> Result<(), String> {
    let first = name.chars().next().is_some_and(|letter| letter.is_ascii_lowercase());
    let parts = name.split('-').all(|part| {
        part.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
            && part.chars().any(|letter| letter.is_ascii_lowercase())
    });
    if first && parts { Ok(()) } else { Err(format!("metadata.yaml: invalid charm name {name:?}")) }
}

fn endpoints(group: BTreeMap<String, Value>) -> Result<BTreeMap<String, String>, String> {
    group
        .into_iter()
        .map(|(name, value)| {
            if name == "juju" || name.starts_with("juju-") {
                return Err(format!("metadata.yaml: endpoint name {name:?} is reserved"));
            }
            let interface = value.as_str().or_else(|| value.get("interface").and_then(Value::as_str));
            let interface = interface.ok_or(format!("metadata.yaml: endpoint {name:?} has no interface"))?;
            Ok((name, interface.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = "name: etcd\nsummary: s\ndescription: d\npeers: {peer: {interface: etcd}}\n";

    #[test]
    fn a_charm_name_part_without_a_letter_is_refused() {
        assert!(Charm::parse("name: db-2\nsummary: s\n", None, None).is_err());
        assert_eq!(Charm::parse(METADATA, None, None).unwrap().peers["peer"], "etcd");
    }

    #[test]
    fn action_parameters_are_typed_bounded_and_defaulted() {
        let actions = "go: {params: {days: {type: integer, minimum: 1, default: 30}}, additionalProperties: false}";
        let charm = Charm::parse(METADATA, None, Some(actions)).unwrap();
        let action = &charm.actions["go"];
        assert_eq!(action.check(BTreeMap::new()).unwrap()["days"], 30);
        for bad in [("days", Value::from("x")), ("days", Value::from(0)), ("other", Value::from(1))] {
            assert!(action.check(BTreeMap::from([(bad.0.to_owned(), bad.1)])).is_err());
        }
    }

    #[test]
    fn options_take_only_values_of_their_type() {
        let config = "options: {port: {type: int, default: 2379}}";
        let charm = Charm::parse(METADATA, Some(config), None).unwrap();
        assert_eq!(charm.options["port"].parse("port", "70000").unwrap(), 70000);
        assert!(charm.options["port"].parse("port", "many").is_err());
    }
}
