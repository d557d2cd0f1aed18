//! The guards of a transaction.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::model::view::{KeyRange, View, ViewError};
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::mvccpb::KeyValue;

/// Whether every compare holds; true for none at all.
///
/// # Errors
/// The view could not be read.
pub fn all_hold(view: &impl View, compares: &[Compare]) -> Result<bool, ViewError> {
    for compare in compares {
        if !holds(view, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A compare over a range holds when it holds for every key there. Where there is no key, numbers count as 0 and a
/// comparison of the value is false, whatever it asks: a missing value has no wire form.
fn holds(view: &impl View, compare: &Compare) -> Result<bool, ViewError> {
    let mut any = false;
    let mut all = true;
    let mut damage = None;
    let mut test = |record: crate::model::record::Record| {
        any = true;
        match record.decode() {
            Ok(kv) => all = matches(compare, &kv),
            Err(error) => damage = Some(error),
        }
        if all && damage.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    match KeyRange::new(compare.key.clone(), compare.range_end.clone()) {
        KeyRange::One(key) => {
            // There is nothing to break off after the only record.
            let _ = view.get(&key)?.map(&mut test);
        }
        range if range.is_empty() => {}
        range => view.scan(&range, &mut test)?,
    }
    match damage {
        Some(error) => Err(error),
        None if any => Ok(all),
        None if CompareTarget::try_from(compare.target) == Ok(CompareTarget::Value) => Ok(false),
        None => Ok(matches(compare, &KeyValue::default())),
    }
}

/// An operand of another kind than the target counts as none given: 0, or no bytes. A target that this program does not
/// know compares as equal; a relation that it does not know holds. Both as in etcd.
fn matches(compare: &Compare, kv: &KeyValue) -> bool {
    let operand = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => kv.value.cmp(&value(operand)),
        Ok(target) => {
            let (field, number) = numbers(target, operand, kv);
            field.cmp(&number)
        }
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

fn value(operand: Option<&TargetUnion>) -> Bytes {
    match operand {
        Some(TargetUnion::Value(value)) => value.clone(),
        _ => Bytes::new(),
    }
}

/// The field that a numeric target names, and the number to hold against it.
fn numbers(target: CompareTarget, operand: Option<&TargetUnion>, kv: &KeyValue) -> (i64, i64) {
    match (target, operand) {
        (CompareTarget::Version, Some(TargetUnion::Version(number))) => (kv.version, *number),
        (CompareTarget::Version, _) => (kv.version, 0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(number))) => (kv.create_revision, *number),
        (CompareTarget::Create, _) => (kv.create_revision, 0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(number))) => (kv.mod_revision, *number),
        (CompareTarget::Mod, _) => (kv.mod_revision, 0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(number))) => (kv.lease, *number),
        (CompareTarget::Lease, _) => (kv.lease, 0),
        (CompareTarget::Value, _) => (0, 0),
    }
}
