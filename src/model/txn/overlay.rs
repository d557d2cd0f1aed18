//! A view with a transaction's own writes on top: what its later operations see.
//!
//! Only keys changed by this transaction are held here. After the first write, the current revision is the one being
//! written; reads at older revisions go to the base.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use crate::model::auth::Auth;
use crate::model::effects::Change;
use crate::model::record::Record;
use crate::model::view::{Alarm, KeyRange, Lease, View, ViewError, Visit};

/// The state in the middle of a transaction.
pub struct Overlay<'v, V> {
    base: &'v V,
    changed: BTreeMap<Bytes, Entry>,
    changes: Vec<Change>,
}

/// A key this transaction has changed.
struct Entry {
    now: Option<Record>,
    lease: i64,
    in_base: bool,
}

impl<'v, V: View> Overlay<'v, V> {
    /// Nothing written yet.
    pub fn new(base: &'v V) -> Self {
        Self { base, changed: BTreeMap::new(), changes: Vec::new() }
    }

    /// The revision that this transaction's writes get.
    pub fn write_revision(&self) -> i64 {
        self.base.revision() + 1
    }

    /// Adds the next write.
    pub fn absorb(&mut self, change: Change) {
        let in_base = change.before.is_some();
        let entry = self.changed.entry(change.key.clone()).or_insert(Entry { now: None, lease: 0, in_base });
        entry.now = change.after.clone();
        entry.lease = change.lease_after;
        self.changes.push(change);
    }

    /// The current revision: see [`View::revision`].
    pub fn revision(&self) -> i64 {
        self.base.revision() + i64::from(!self.changes.is_empty())
    }

    /// All writes, in order.
    pub fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    fn changed_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &Entry)> {
        let (start, end) = match range {
            KeyRange::One(key) => (Bound::Included(key), Bound::Included(key)),
            KeyRange::Span { start, end: None } => (Bound::Included(start), Bound::Unbounded),
            KeyRange::Span { start, end: Some(end) } => (Bound::Included(start), Bound::Excluded(end)),
        };
        // BTreeMap panics on a range that ends before it starts.
        let some = (!range.is_empty()).then(|| self.changed.range::<Bytes, _>((start, end)));
        some.into_iter().flatten()
    }
}

impl<V: View> View for Overlay<'_, V> {
    fn revision(&self) -> i64 {
        Overlay::revision(self)
    }

    fn compacted(&self) -> i64 {
        self.base.compacted()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Record>, ViewError> {
        match self.changed.get(key) {
            Some(entry) => Ok(entry.now.clone()),
            None => self.base.get(key),
        }
    }

    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, ViewError> {
        if revision > self.base.revision() { self.get(key) } else { self.base.get_at(key, revision) }
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        let mut ours = self.changed_in(range).peekable();
        if ours.peek().is_none() {
            return self.base.scan(range, visit);
        }
        let mut damage = None;
        let mut ended = false;
        self.base.scan(range, &mut |record| {
            let key = match record.decode() {
                Ok(kv) => kv.key,
                Err(error) => {
                    damage = Some(error);
                    return ControlFlow::Break(());
                }
            };
            let mut replaced = false;
            while let Some((changed, entry)) = ours.next_if(|(changed, _)| **changed <= key) {
                replaced = *changed == key;
                if let Some(now) = &entry.now
                    && visit(now.clone()).is_break()
                {
                    ended = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = if replaced { ControlFlow::Continue(()) } else { visit(record) };
            ended = flow.is_break();
            flow
        })?;
        if let Some(error) = damage {
            return Err(error);
        }
        if !ended {
            // The remaining writes are beyond the last key of the base.
            let _ = ours.filter_map(|(_, entry)| entry.now.clone()).try_for_each(visit);
        }
        Ok(())
    }

    fn scan_at(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        if revision > self.base.revision() {
            self.scan(range, visit)
        } else {
            self.base.scan_at(range, revision, visit)
        }
    }

    fn count(&self, range: &KeyRange) -> Result<i64, ViewError> {
        let ours = self.changed_in(range);
        let difference: i64 = ours.map(|(_, entry)| i64::from(entry.now.is_some()) - i64::from(entry.in_base)).sum();
        Ok(self.base.count(range)? + difference)
    }

    fn lease(&self, id: i64) -> Result<Option<Lease>, ViewError> {
        self.base.lease(id)
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        let mut keys: BTreeSet<Bytes> = self.base.lease_keys(id)?.into_iter().collect();
        for (key, entry) in &self.changed {
            if entry.lease == id {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        Ok(keys.into_iter().collect())
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.base.alarms()
    }

    fn cluster_version(&self) -> String {
        self.base.cluster_version()
    }

    fn auth(&self) -> Arc<Auth> {
        self.base.auth()
    }

    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.base.v2_get(key)
    }

    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        self.base.v2_scan(prefix, visit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::command::Command;
    use crate::model::kv::{delete, put};
    use crate::model::tests::world::{World, any_delete, any_put, text};

    fn shown(view: &impl View, range: &KeyRange, most: usize) -> Vec<Record> {
        let mut records = Vec::new();
        view.scan(range, &mut |record| {
            records.push(record);
            if records.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
        records
    }

    #[test]
    fn a_scan_stops_at_break_also_within_the_overlays_keys() {
        let mut world = World::default();
        world.put("b", "");
        let mut overlay = Overlay::new(&world.view);
        for key in ["a", "aa", "c"] {
            let (change, _) = put::write(&overlay, &crate::model::tests::world::put(key, ""), 3).unwrap();
            overlay.absorb(change);
        }
        let all = KeyRange::new(text("a"), text("\0"));
        for most in 1..=4 {
            assert_eq!(shown(&overlay, &all, most).len(), most);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// An overlay of writes shows the state after the same writes, except for revision numbers.
        #[test]
        fn an_overlay_shows_what_a_store_would_after_its_writes(
            before in prop::collection::vec(any_put(), 0..5),
            writes in prop::collection::vec(prop_oneof![
                any_put().prop_map(Command::Put),
                any_delete().prop_map(Command::DeleteRange),
            ], 0..6),
            (start, end) in (any_delete()).prop_map(|delete| (delete.key, delete.range_end)),
            most in 1..6usize,
        ) {
            let mut world = World::default();
            (1..4).for_each(|id| world.grant(id));
            before.into_iter().for_each(|request| drop(world.run(&Command::Put(request))));
            let mut overlay = Overlay::new(&world.view);
            let revision = overlay.write_revision();
            for write in &writes {
                match write {
                    Command::Put(request) => {
                        if let Ok((change, _)) = put::write(&overlay, request, revision) {
                            overlay.absorb(change);
                        }
                    }
                    Command::DeleteRange(request) => {
                        let (changes, _) = delete::write(&overlay, request, revision).unwrap();
                        changes.into_iter().for_each(|change| overlay.absorb(change));
                    }
                    other => panic!("{other:?}"),
                }
            }
            let mut after = world.view.clone();
            let mut effects = crate::model::effects::Effects::nothing(
                View::revision(&overlay),
                Ok(crate::model::effects::Response::None),
            );
            effects.changes = overlay.changes.clone();
            after.absorb(&effects);

            let range = KeyRange::new(start.clone(), end);
            prop_assert_eq!(View::revision(&overlay), after.revision());
            prop_assert_eq!(shown(&overlay, &range, most), shown(&after, &range, most));
            prop_assert_eq!(overlay.count(&range).unwrap(), after.count(&range).unwrap());
            prop_assert_eq!(overlay.get(&start).unwrap(), after.get(&start).unwrap());
            for id in 1..4 {
                prop_assert_eq!(overlay.lease_keys(id).unwrap(), after.lease_keys(id).unwrap());
            }
            let then = world.view.revision();
            prop_assert_eq!(overlay.get_at(&start, then).unwrap(), world.view.get(&start).unwrap());
        }
    }
}
