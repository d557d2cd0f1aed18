//! etcd's feature gates, set together in `--feature-gates`.

use std::collections::BTreeMap;
use std::fmt;

use super::values::parse_bool;

const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

/// The known gates, with etcd 3.6's defaults, and the stage gate (if any) that sets those not set individually.
const GATES: [(&str, bool, Option<&str>); 11] = [
    (ALL_ALPHA, false, None),
    (ALL_BETA, false, None),
    ("CompactHashCheck", false, Some(ALL_ALPHA)),
    ("FastLeaseKeepAlive", true, Some(ALL_BETA)),
    ("InitialCorruptCheck", false, Some(ALL_ALPHA)),
    ("LeaseCheckpoint", false, Some(ALL_ALPHA)),
    ("LeaseCheckpointPersist", false, Some(ALL_ALPHA)),
    ("PriorityRequest", false, Some(ALL_ALPHA)),
    ("SetMemberLocalAddr", false, Some(ALL_ALPHA)),
    ("StopGRPCServiceOnDefrag", false, Some(ALL_ALPHA)),
    ("TxnModeWriteWithSharedBuffer", true, Some(ALL_BETA)),
];

/// The gates that were set explicitly; the others have their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeatureGates(BTreeMap<&'static str, bool>);

impl FeatureGates {
    /// Parses `Gate=true,Other=false`; the last value of a repeated gate wins.
    pub fn parse(text: &str) -> Result<FeatureGates, String> {
        let mut gates = FeatureGates::default();
        for item in super::flags::split_list(text) {
            let (name, value) =
                item.split_once('=').ok_or_else(|| format!("missing bool value for {item} (write {item}=true)"))?;
            let on =
                parse_bool(value.trim()).map_err(|reason| format!("invalid value of {name}={value}, err: {reason}"))?;
            gates.set(name.trim(), on)?;
        }
        Ok(gates)
    }

    /// Sets one gate by name.
    pub fn set(&mut self, name: &str, on: bool) -> Result<(), String> {
        let (known, ..) = GATES.iter().find(|(known, ..)| *known == name).ok_or_else(|| {
            let names: Vec<&str> = GATES.iter().map(|(known, ..)| *known).collect();
            format!("unrecognized feature gate: {name} (known: {})", names.join(", "))
        })?;
        self.0.insert(known, on);
        Ok(())
    }

    /// Every gate and whether it is on, by name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, bool)> {
        GATES.iter().map(|(name, ..)| (*name, self.enabled(name)))
    }

    /// Whether this gate was set explicitly, to either value.
    pub fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether the gate is on: its own setting, else its stage's, else its default. Unknown gates are off.
    pub fn enabled(&self, name: &str) -> bool {
        let Some((_, default, stage)) = GATES.iter().find(|(known, ..)| *known == name) else { return false };
        let set = |name: &str| self.0.get(name).copied();
        set(name).or_else(|| stage.and_then(set)).unwrap_or(*default)
    }
}

impl fmt::Display for FeatureGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(name, on)| format!("{name}={on}")).collect();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_parsed_by_name_and_the_rest_keep_their_defaults() {
        let gates = FeatureGates::parse("InitialCorruptCheck=true, FastLeaseKeepAlive=false").expect("gates");
        assert!(gates.enabled("InitialCorruptCheck"));
        assert!(!gates.enabled("FastLeaseKeepAlive"));
        assert!(gates.enabled("TxnModeWriteWithSharedBuffer"));
        assert_eq!(gates.to_string(), "FastLeaseKeepAlive=false,InitialCorruptCheck=true");
    }

    #[test]
    fn a_stage_gate_sets_every_gate_of_it_not_set_individually() {
        let gates = FeatureGates::parse("AllAlpha=true,InitialCorruptCheck=false,AllBeta=false").expect("gates");
        assert!(gates.enabled("LeaseCheckpoint") && gates.enabled("CompactHashCheck"));
        assert!(!gates.enabled("InitialCorruptCheck") && !gates.enabled("FastLeaseKeepAlive"));
        assert!(!FeatureGates::default().enabled("LeaseCheckpoint"));
    }

    #[test]
    fn unknown_gates_and_missing_values_are_refused() {
        for (text, said) in [
            ("Nonsense=true", "unrecognized feature gate: Nonsense"),
            ("LeaseCheckpoint", "missing bool value for LeaseCheckpoint"),
            ("LeaseCheckpoint=maybe", "invalid value of LeaseCheckpoint=maybe"),
        ] {
            let error = FeatureGates::parse(text).expect_err(text);
            assert!(error.starts_with(said), "{error}");
        }
    }
}
