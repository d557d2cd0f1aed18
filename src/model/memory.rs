//! A complete in-memory store, the simplest possible view. Tests compare the rules and the real store with it.
//!
//! It keeps every version forever and trusts the effects it absorbs, as the real store does; it panics on a read below
//! the compaction revision, which callers must have refused.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::auth::{Auth, AuthEffect};
use super::effects::{Effects, LeaseChange};
use super::record::Record;
use super::view::{Alarm, KeyRange, Lease, View, ViewError, Visit};

/// The reference [`View`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MemoryView {
    revision: i64,
    compacted: i64,
    /// Per key, oldest first: (revision, the version live from then on).
    versions: BTreeMap<Bytes, Vec<(i64, Option<Record>)>>,
    /// Per key: the lease it is attached to. Kept from `lease_after`, not from the records, so that tests can compare.
    attached: BTreeMap<Bytes, i64>,
    leases: BTreeMap<i64, Lease>,
    alarms: Vec<Alarm>,
    cluster_version: String,
    auth: Arc<Auth>,
    v2: BTreeMap<Bytes, Bytes>,
}

impl Default for MemoryView {
    fn default() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            versions: BTreeMap::new(),
            attached: BTreeMap::new(),
            leases: BTreeMap::new(),
            alarms: Vec::new(),
            cluster_version: String::new(),
            auth: Arc::default(),
            v2: BTreeMap::new(),
        }
    }
}

impl MemoryView {
    /// Applies the effects of one command, which were computed on this state.
    pub(crate) fn absorb(&mut self, effects: &Effects) {
        for change in &effects.changes {
            let versions = self.versions.entry(change.key.clone()).or_default();
            versions.push((effects.revision, change.after.clone()));
            match change.lease_after {
                0 => self.attached.remove(&change.key),
                lease => self.attached.insert(change.key.clone(), lease),
            };
        }
        self.revision = effects.revision;
        self.compacted = effects.compacted.unwrap_or(self.compacted);
        for change in &effects.leases {
            match change {
                LeaseChange::Granted(lease) | LeaseChange::Recorded(lease) => self.leases.insert(lease.id, *lease),
                LeaseChange::Remove(id) => self.leases.remove(id),
            };
        }
        if let Some(alarms) = &effects.alarms {
            self.alarms.clone_from(alarms);
        }
        if let Some(version) = &effects.cluster_version {
            self.cluster_version.clone_from(version);
        }
        if let Some(AuthEffect::Changed(change)) = effects.auth.as_deref() {
            self.auth = Arc::new(self.auth.after(change));
        }
        for (key, value) in &effects.v2 {
            match value {
                Some(value) => self.v2.insert(key.clone(), value.clone()),
                None => self.v2.remove(key),
            };
        }
    }

    fn live_at(versions: &[(i64, Option<Record>)], revision: i64) -> Option<Record> {
        let newest = versions.iter().rev().find(|(written, _)| *written <= revision);
        newest.and_then(|(_, record)| record.clone())
    }
}

impl View for MemoryView {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compacted(&self) -> i64 {
        self.compacted
    }

    fn get(&self, key: &[u8]) -> Result<Option<Record>, ViewError> {
        self.get_at(key, self.revision)
    }

    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, ViewError> {
        assert!((self.compacted..=self.revision).contains(&revision), "a read at {revision} must have been refused");
        Ok(self.versions.get(key).and_then(|versions| Self::live_at(versions, revision)))
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.scan_at(range, self.revision, visit)
    }

    fn scan_at(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        assert!((self.compacted..=self.revision).contains(&revision), "a read at {revision} must have been refused");
        let inside = self.versions.iter().filter(|(key, _)| range.contains(key));
        let _ = inside.filter_map(|(_, versions)| Self::live_at(versions, revision)).try_for_each(visit);
        Ok(())
    }

    fn count(&self, range: &KeyRange) -> Result<i64, ViewError> {
        let mut count = 0;
        self.scan(range, &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    fn lease(&self, id: i64) -> Result<Option<Lease>, ViewError> {
        Ok(self.leases.get(&id).copied())
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        Ok(self.attached.iter().filter(|(_, lease)| **lease == id).map(|(key, _)| key.clone()).collect())
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.alarms.clone()
    }

    fn cluster_version(&self) -> String {
        self.cluster_version.clone()
    }

    fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.auth)
    }

    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.v2.get(key).cloned())
    }

    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        let from = self.v2.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        let inside = from.take_while(|(key, _)| key.starts_with(prefix));
        for (key, value) in inside {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::effects::Response;
    use crate::model::tests::world::{World, delete, text};
    use crate::proto::etcdserverpb::CompactionRequest;

    #[test]
    fn every_revision_stays_readable_until_it_is_compacted() {
        let mut world = World::default();
        world.put("a", "1");
        world.put("a", "2");
        world.done(&Command::DeleteRange(delete("a", "")));
        let value = |view: &MemoryView, revision| {
            view.get_at(b"a", revision).unwrap().map(|record| record.decode().unwrap().value)
        };
        let seen = [1, 2, 3, 4].map(|revision| value(&world.view, revision));
        assert_eq!(seen, [None, Some(text("1")), Some(text("2")), None]);
        world.done(&Command::Compact(CompactionRequest { revision: 3, physical: false }));
        assert_eq!(value(&world.view, 3), Some(text("2")));
        let compacted = world.view.clone();
        assert!(std::panic::catch_unwind(move || value(&compacted, 2)).is_err(), "a compacted read must be noticed");
    }

    #[test]
    fn v2_values_are_found_by_prefix_in_key_order() {
        let mut view = MemoryView::default();
        let mut effects = Effects::nothing(1, Ok(Response::None));
        effects.v2 = ["b", "ab", "a"].map(|key| (text(key), Some(text("v")))).to_vec();
        view.absorb(&effects);
        effects.v2 = vec![(text("b"), None)];
        view.absorb(&effects);
        let mut keys = Vec::new();
        view.v2_scan(b"a", &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(keys, [b"a".to_vec(), b"ab".to_vec()]);
        assert_eq!((view.v2_get(b"b").unwrap(), view.v2_get(b"a").unwrap()), (None, Some(text("v"))));
    }
}
