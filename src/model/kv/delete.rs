//! DeleteRange: every live key of a range, in key order, in one revision.

use std::ops::ControlFlow;

use crate::model::effects::{Change, Effects, Response};
use crate::model::record::Record;
use crate::model::view::{KeyRange, View, ViewError};
use crate::proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse};
use crate::proto::mvccpb::KeyValue;

use super::{Failure, header};

/// A delete outside a transaction. Deleting nothing succeeds and does not change the revision.
///
/// # Errors
/// Only those of the view.
pub fn apply(view: &impl View, request: &DeleteRangeRequest) -> Result<Effects, Failure> {
    let (changes, response) = write(view, request, view.revision() + 1)?;
    let revision = view.revision() + i64::from(!changes.is_empty());
    let mut effects = Effects::nothing(revision, Ok(Response::DeleteRange(response)));
    effects.changes = changes;
    Ok(effects)
}

/// The changes of a delete at `revision`, and its response, whose header carries `revision` only if the write has
/// changed something so far.
///
/// # Errors
/// Only those of the view.
pub fn write(
    view: &impl View,
    request: &DeleteRangeRequest,
    revision: i64,
) -> Result<(Vec<Change>, DeleteRangeResponse), Failure> {
    let mut doomed = Vec::new();
    match KeyRange::new(request.key.clone(), request.range_end.clone()) {
        KeyRange::One(key) => doomed.extend(view.get(&key)?),
        range if range.is_empty() => {}
        range => view.scan(&range, &mut |record| {
            doomed.push(record);
            ControlFlow::Continue(())
        })?,
    }
    let mut changes = Vec::with_capacity(doomed.len());
    let mut prev_kvs = Vec::new();
    for record in doomed {
        let (change, old) = change(record)?;
        changes.push(change);
        if request.prev_kv {
            prev_kvs.push(old);
        }
    }
    let revision = if changes.is_empty() { view.revision() } else { revision };
    let response = DeleteRangeResponse { header: header(revision), deleted: changes.len() as i64, prev_kvs };
    Ok((changes, response))
}

/// The change that deletes the key of `record`, and the decoded record.
///
/// # Errors
/// The record is damaged.
pub fn change(record: Record) -> Result<(Change, KeyValue), ViewError> {
    let old = record.decode()?;
    let change =
        Change { key: old.key.clone(), before: Some(record), after: None, lease_before: old.lease, lease_after: 0 };
    Ok((change, old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::tests::world::{World, delete};

    fn three_keys() -> World {
        let mut world = World::default();
        for key in ["a", "b", "c"] {
            world.put(key, "v");
        }
        world
    }

    fn answer(world: &mut World, request: DeleteRangeRequest) -> DeleteRangeResponse {
        match world.done(&Command::DeleteRange(request)) {
            Response::DeleteRange(response) => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_form_of_range_deletes_its_keys() {
        let table = [
            ("b", "", vec!["a", "c"]),
            ("a", "c", vec!["c"]),
            ("b", "\0", vec!["a"]),
            ("\0", "\0", vec![]),
            ("c", "a", vec!["a", "b", "c"]),
            ("b", "b", vec!["a", "b", "c"]),
        ];
        for (key, end, left) in table {
            let mut world = three_keys();
            let response = answer(&mut world, delete(key, end));
            assert_eq!(response.deleted, 3 - left.len() as i64, "{key:?}..{end:?}");
            let living: Vec<_> = ["a", "b", "c"].into_iter().filter(|key| world.kv(key).is_some()).collect();
            assert_eq!(living, left, "{key:?}..{end:?}");
        }
    }

    #[test]
    fn all_keys_of_one_delete_share_one_revision_in_key_order() {
        let mut world = three_keys();
        let effects = world.run(&Command::DeleteRange(delete("a", "\0")));
        assert_eq!(effects.revision, 5);
        assert_eq!(effects.changes.iter().map(|change| change.key.clone()).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn prev_kv_returns_the_old_records_in_key_order() {
        let mut world = three_keys();
        let old = [world.kv("a").unwrap(), world.kv("b").unwrap()];
        let response = answer(&mut world, DeleteRangeRequest { prev_kv: true, ..delete("a", "c") });
        assert_eq!((response.header, response.prev_kvs.as_slice()), (header(5), &old[..]));
        assert_eq!(answer(&mut world, delete("c", "")).prev_kvs, []);
    }

    #[test]
    fn deleting_nothing_succeeds_at_the_current_revision() {
        let mut world = three_keys();
        let response = answer(&mut world, delete("x", ""));
        assert_eq!((response.header, response.deleted), (header(4), 0));
        assert_eq!(world.view.revision(), 4);
    }
}
