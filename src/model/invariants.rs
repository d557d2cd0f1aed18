//! Invariants of every command's effects, each a named predicate. Tests and debug builds check every apply.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::effects::{Change, Effects, LeaseChange};
use super::record::Record;
use super::view::{View, ViewError};

/// The names of the invariants that `effects` violate on `view`.
///
/// # Errors
/// The view could not be read.
pub fn broken(view: &impl View, effects: &Effects) -> Result<Vec<&'static str>, ViewError> {
    let verdicts = [
        ("a refusal changes nothing", a_refusal_changes_nothing(view, effects)),
        ("the revision moves by one exactly when a key changes", the_revision_moves_with_changes(view, effects)),
        ("a compaction raises its mark within history", a_compaction_raises_its_mark_within_history(view, effects)),
        ("alarms are ordered and unique", alarms_are_ordered_and_unique(effects)),
        ("changes chain from version to version", changes_chain(view, effects)?),
        ("records count from their predecessors", records_count_from_their_predecessors(effects)?),
        ("attachment follows the records", attachment_follows_the_records(effects)?),
        ("keys hang on living leases only", keys_hang_on_living_leases(view, effects)?),
        ("no key outlives its lease", no_key_outlives_its_lease(view, effects)?),
    ];
    Ok(verdicts.into_iter().filter(|(_, holds)| !holds).map(|(name, _)| name).collect())
}

fn a_refusal_changes_nothing(view: &impl View, effects: &Effects) -> bool {
    match effects.outcome {
        Ok(_) => true,
        Err(refusal) => *effects == Effects::nothing(view.revision(), Err(refusal)),
    }
}

fn the_revision_moves_with_changes(view: &impl View, effects: &Effects) -> bool {
    effects.revision == view.revision() + i64::from(!effects.changes.is_empty())
}

fn a_compaction_raises_its_mark_within_history(view: &impl View, effects: &Effects) -> bool {
    effects.compacted.is_none_or(|mark| view.compacted() < mark && mark <= view.revision())
}

fn alarms_are_ordered_and_unique(effects: &Effects) -> bool {
    effects.alarms.as_ref().is_none_or(|alarms| alarms.is_sorted_by(|a, b| a < b))
}

/// `before` is the version live right before the change, earlier changes of the same command included, and no absent
/// key is deleted.
fn changes_chain(view: &impl View, effects: &Effects) -> Result<bool, ViewError> {
    let mut seen: BTreeMap<&Bytes, &Option<Record>> = BTreeMap::new();
    for change in &effects.changes {
        let chained = match seen.insert(&change.key, &change.after) {
            Some(live) => *live == change.before,
            None => view.get(&change.key)? == change.before,
        };
        if !chained || (change.before.is_none() && change.after.is_none()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn records_count_from_their_predecessors(effects: &Effects) -> Result<bool, ViewError> {
    for change in &effects.changes {
        let Some(after) = &change.after else { continue };
        let after = after.decode()?;
        let before = change.before.as_ref().map(Record::decode).transpose()?;
        let (create, version) = before.map_or((effects.revision, 0), |kv| (kv.create_revision, kv.version));
        let named = after.key == change.key && after.mod_revision == effects.revision;
        if !named || after.create_revision != create || after.version != version + 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn attachment_follows_the_records(effects: &Effects) -> Result<bool, ViewError> {
    let lease = |record: &Option<Record>| match record {
        Some(record) => record.decode().map(|kv| kv.lease),
        None => Ok(0),
    };
    for change in &effects.changes {
        if lease(&change.before)? != change.lease_before || lease(&change.after)? != change.lease_after {
            return Ok(false);
        }
    }
    Ok(true)
}

fn keys_hang_on_living_leases(view: &impl View, effects: &Effects) -> Result<bool, ViewError> {
    for change in effects.changes.iter().filter(|change| change.lease_after != 0) {
        let ended = effects.leases.contains(&LeaseChange::Remove(change.lease_after));
        if ended || view.lease(change.lease_after)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn no_key_outlives_its_lease(view: &impl View, effects: &Effects) -> Result<bool, ViewError> {
    let is_deletion = |change: &&Change| change.after.is_none();
    let deleted: BTreeSet<&Bytes> = effects.changes.iter().filter(is_deletion).map(|change| &change.key).collect();
    for change in &effects.leases {
        if let LeaseChange::Remove(id) = change
            && !view.lease_keys(*id)?.iter().all(|key| deleted.contains(key))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::{Command, LeaseRevoke};
    use crate::model::effects::{Refusal, Response};
    use crate::model::tests::world::{World, delete, put, text};
    use crate::proto::etcdserverpb::PutRequest;
    use crate::proto::mvccpb::KeyValue;

    /// Lease 1 with key a; key b without a lease. Current revision 3.
    fn world() -> World {
        let mut world = World::default();
        world.grant(1);
        world.put_leased("a", 1);
        world.put("b", "");
        world
    }

    fn effects_of(command: &Command) -> Effects {
        // Run on a copy, so that the effects can be checked against the state before them.
        world().run(command)
    }

    fn after(spoil: impl FnOnce(&mut KeyValue)) -> Effects {
        let mut effects = effects_of(&Command::Put(PutRequest { lease: 1, ..put("a", "2") }));
        let mut kv = effects.changes[0].after.as_ref().unwrap().decode().unwrap();
        spoil(&mut kv);
        effects.changes[0].after = Some(Record::new(&kv));
        effects
    }

    fn spoilt(command: &Command, spoil: impl FnOnce(&mut Effects)) -> Vec<&'static str> {
        let mut effects = effects_of(command);
        let world = world();
        assert_eq!(broken(&world.view, &effects).unwrap(), Vec::<&str>::new());
        spoil(&mut effects);
        broken(&world.view, &effects).unwrap()
    }

    #[test]
    fn a_refusal_that_changes_state_is_caught() {
        let unknown = Command::LeaseRevoke(LeaseRevoke { ids: vec![404], ..LeaseRevoke::default() });
        let found = spoilt(&unknown, |effects| effects.leases.push(LeaseChange::Remove(404)));
        assert_eq!(found, ["a refusal changes nothing"]);
        let found = spoilt(&Command::Put(put("b", "")), |effects| effects.outcome = Err(Refusal::NoSpace));
        assert_eq!(found, ["a refusal changes nothing"]);
    }

    #[test]
    fn a_revision_that_skips_or_does_not_increase_is_caught() {
        let found = spoilt(&Command::DeleteRange(delete("x", "")), |effects| effects.revision += 1);
        assert_eq!(found, ["the revision moves by one exactly when a key changes"]);
        let found = spoilt(&Command::DeleteRange(delete("b", "")), |effects| effects.revision -= 1);
        assert_eq!(found, ["the revision moves by one exactly when a key changes"]);
    }

    #[test]
    fn a_compaction_revision_outside_history_is_caught() {
        let view = world().view;
        let marked = |mark| {
            let mut effects = Effects::nothing(3, Ok(Response::Compact));
            effects.compacted = Some(mark);
            broken(&view, &effects).unwrap().len()
        };
        assert_eq!([marked(-1), marked(0), marked(3), marked(4)], [1, 0, 0, 1]);
    }

    #[test]
    fn unordered_alarms_are_caught() {
        let with = |alarms: &[(u64, i32)]| {
            let mut effects = Effects::nothing(3, Ok(Response::None));
            effects.alarms = Some(alarms.to_vec());
            broken(&world().view, &effects).unwrap().len()
        };
        assert_eq!([with(&[(1, 1), (1, 2)]), with(&[(1, 2), (1, 1)]), with(&[(1, 1), (1, 1)])], [0, 1, 1]);
    }

    #[test]
    fn a_change_of_an_absent_key_is_caught() {
        let found = spoilt(&Command::DeleteRange(delete("b", "")), |effects| effects.changes[0].key = text("x"));
        assert_eq!(found, ["changes chain from version to version"]);
        let found = spoilt(&Command::DeleteRange(delete("b", "")), |effects| {
            let again = effects.changes[0].clone();
            effects.changes.push(again);
        });
        assert_eq!(found, ["changes chain from version to version"]);
    }

    #[test]
    fn a_record_with_wrong_counters_is_caught() {
        let spoils: [fn(&mut KeyValue); 4] =
            [|kv| kv.version += 1, |kv| kv.create_revision += 1, |kv| kv.mod_revision -= 1, |kv| kv.key = text("b")];
        for spoil in spoils {
            let found = broken(&world().view, &after(spoil)).unwrap();
            assert_eq!(found, ["records count from their predecessors"]);
        }
    }

    #[test]
    fn an_attachment_that_differs_from_the_record_is_caught() {
        let found = broken(&world().view, &after(|kv| kv.lease = 0)).unwrap();
        assert_eq!(found, ["attachment follows the records"]);
    }

    #[test]
    fn a_key_on_an_unknown_lease_is_caught() {
        let mut effects = after(|kv| kv.lease = 404);
        effects.changes[0].lease_after = 404;
        assert_eq!(broken(&world().view, &effects).unwrap(), ["keys hang on living leases only"]);
    }

    #[test]
    fn a_key_that_outlives_its_lease_is_caught() {
        let revoke = Command::LeaseRevoke(LeaseRevoke { ids: vec![1], ..LeaseRevoke::default() });
        let found = spoilt(&revoke, |effects| {
            effects.changes.clear();
            effects.revision = 3;
        });
        assert_eq!(found, ["no key outlives its lease"]);
    }
}
