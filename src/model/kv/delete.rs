//! DeleteRange: every live key of a range, in key order, in one revision.

use std::ops::ControlFlow;

use crate::model::effects::{Change, Effects, Response};
use crate::model::record::Record;
use crate::model::view::{KeyRange, View, ViewError};
use crate::proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse};
use crate::proto::mvccpb::KeyValue;

use super::{Failure, header};

/// A delete on its own. Deleting nothing succeeds and leaves the revision alone.
///
/// # Errors
/// None but the view's.
pub fn apply(view: &impl View, request: &DeleteRangeRequest) -> Result<Effects, Failure> {
    let (changes, response) = write(view, request, view.revision() + 1)?;
    let revision = view.revision() + i64::from(!changes.is_empty());
    let mut effects = Effects::nothing(revision, Ok(Response::DeleteRange(response)));
    effects.changes = changes;
    Ok(effects)
}

/// The changes a delete makes in a write at `revision`, and its answer, whose header carries `revision` only if the
/// write has changed something by now.
///
/// # Errors
/// None but the view's.
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

/// The change that ends the life of `record`'s key, and what the record says.
///
/// # Errors
/// The record is damaged.
pub fn change(record: Record) -> Result<(Change, KeyValue), ViewError> {
    let old = record.decode()?;
    let change =
        Change { key: old.key.clone(), before: Some(record), after: None, lease_before: old.lease, lease_after: 0 };
    Ok((change, old))
}
