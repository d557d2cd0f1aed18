//! Which Juju the lab stands in for. The two living lines differ in what a charm can see; every such
//! difference is decided by one question to this type, so that it can be found by its name.

use serde::{Deserialize, Serialize};

/// A line of Juju releases. The newest is what a new lab is, because it is what a new controller is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generation {
    /// 3.6, the long-term line.
    Juju3,
    /// 4.0.
    #[default]
    Juju4,
}

impl Generation {
    /// Both, for tests that hold under either.
    pub const BOTH: [Self; 2] = [Self::Juju3, Self::Juju4];

    /// What `JUJU_VERSION` and the status table say.
    pub fn version(self) -> &'static str {
        match self {
            Self::Juju3 => "3.6.28",
            Self::Juju4 => "4.0.15",
        }
    }

    /// `leader-get`, `leader-set` and the hook `leader-settings-changed`.
    pub fn has_leader_settings(self) -> bool {
        self == Self::Juju3
    }

    /// `payload-register` and its like.
    pub fn has_payloads(self) -> bool {
        self == Self::Juju3
    }

    /// The variables `JUJU_CHARM_TRACE_CONFIG_*`.
    pub fn has_charm_tracing(self) -> bool {
        self == Self::Juju4
    }

    /// The others are told of a unit's departure when it is dead, not as soon as it is told to go.
    pub fn departs_at_death(self) -> bool {
        self == Self::Juju4
    }

    /// The variable `JUJU_SLA`.
    pub fn has_sla(self) -> bool {
        self == Self::Juju3
    }
}

impl std::str::FromStr for Generation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |generation: &&Self| generation.version().starts_with(&format!("{text}."));
        Self::BOTH.iter().find(named).copied().ok_or(format!("there is no Juju {text:?} here; give 3 or 4"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_named_by_its_first_number_and_anything_else_is_refused() {
        assert_eq!("3".parse(), Ok(Generation::Juju3));
        assert_eq!("4".parse(), Ok(Generation::Juju4));
        for bad in ["", "2", "40", "four", "4.1"] {
            assert!(bad.parse::<Generation>().unwrap_err().contains("give 3 or 4"), "{bad}");
        }
    }
}
