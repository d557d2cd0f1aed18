//! Secrets: owners, revisions, who has read which, and who may.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;

/// Who owns a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The application; only its leader may change it, all its units may read it.
    App(String),
    /// One unit; nobody else without a grant.
    Unit(String),
}

/// What one reader follows.
#[derive(Debug, Clone, Default)]
pub struct Consumer {
    /// The revision it is answered with.
    pub tracked: u64,
    /// The latest revision it was sent `secret-changed` for.
    pub told: u64,
    /// Its own label for the secret.
    pub label: Option<String>,
}

/// Someone allowed to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Application or unit name (a unit's has a `/`).
    pub to: String,
    /// The relation it was given through; it ends with it.
    pub relation: Option<u32>,
}

/// One secret.
#[derive(Debug, Clone)]
pub struct Secret {
    /// 20 characters.
    pub id: String,
    /// Owner.
    pub owner: Owner,
    /// Owner's label, unique per owner.
    pub label: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Rotation policy as given; the lab keeps it and fires nothing.
    pub rotate: Option<String>,
    /// Expiry as given; the lab keeps it and fires nothing.
    pub expire: Option<String>,
    /// Contents by revision, from 1.
    pub revisions: BTreeMap<u64, Settings>,
    /// Which units were sent `secret-remove` for which revision. Each agent remembers what it was told, so it
    /// is told once, whatever the charm made of it, and a new leader is told again.
    pub remove_told: BTreeSet<(String, u64)>,
    /// Readers by unit name.
    pub consumers: BTreeMap<String, Consumer>,
    /// Grants.
    pub grants: Vec<Grant>,
}

impl Secret {
    /// The newest revision number.
    pub fn latest(&self) -> u64 {
        self.revisions.keys().next_back().copied().unwrap_or(0)
    }

    /// True when `unit` of `app` manages it, leadership aside.
    pub fn is_owned_by(&self, unit: &str, app: &str) -> bool {
        match &self.owner {
            Owner::App(owner) => owner == app,
            Owner::Unit(owner) => owner == unit,
        }
    }

    /// True when `unit` of `app` may read it.
    pub fn may_read(&self, unit: &str, app: &str) -> bool {
        self.is_owned_by(unit, app) || self.grants.iter().any(|grant| grant.to == unit || grant.to == app)
    }

    /// Revisions older than the latest that no reader follows any more and that `unit` was not told of yet.
    pub fn unused_revisions(&self, unit: &str) -> Vec<u64> {
        let told = |revision: u64| self.remove_told.contains(&(unit.to_owned(), revision));
        let used: BTreeSet<u64> = self.consumers.values().map(|consumer| consumer.tracked).collect();
        let latest = self.latest();
        self.revisions
            .keys()
            .copied()
            .filter(|revision| *revision < latest && !used.contains(revision) && !told(*revision))
            .collect()
    }
}

/// Strips `secret:` or `secret://<model>/` from an id.
pub fn bare_id(text: &str) -> &str {
    let text = text.strip_prefix("secret:").unwrap_or(text);
    match text.strip_prefix("//") {
        Some(rest) => rest.rsplit_once('/').map_or(rest, |(_, id)| id),
        None => text,
    }
}
