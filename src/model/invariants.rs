//! What the effects of any command obey, each as a named predicate. Tests and debug builds check every apply.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::effects::{Change, Effects, LeaseChange};
use super::record::Record;
use super::view::{View, ViewError};

/// The names of the predicates that `effects` break on `view`; empty when all is well.
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

/// `before` is what was live right before the change, earlier changes of the same command included, and nothing that is
/// absent is deleted.
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
