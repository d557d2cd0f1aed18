//! The compares of a transaction.

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

/// A compare over a range holds when it holds for every key in it. With no key in it, numbers count as 0 and a value
/// compare is always false: the wire format cannot express a missing value.
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
            // A `Break` after the only record changes nothing.
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

/// An operand of another type than the target counts as missing: 0, or no bytes. An unknown target compares as equal;
/// an unknown relation holds. Both as in etcd.
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

/// The value of the field that a numeric target names, and the number to compare it with.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::world::{World, text};

    const RELATIONS: [CompareResult; 4] =
        [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];

    /// a: created 2, modified 3, version 2, value "v", lease 7. b: created and modified 4, version 1, value "n".
    fn world() -> World {
        let mut world = World::default();
        world.grant(7);
        world.put("a", "l");
        world.put_leased("a", 7);
        world.put("b", "n");
        world
    }

    fn compare(result: CompareResult, target: CompareTarget, union: Option<TargetUnion>) -> Compare {
        Compare {
            result: result.into(),
            target: target.into(),
            key: text("a"),
            range_end: Bytes::new(),
            target_union: union,
        }
    }

    fn verdicts(key: &'static str, end: &'static str, target: CompareTarget, union: Option<TargetUnion>) -> [bool; 4] {
        let world = world();
        RELATIONS.map(|relation| {
            let compare = Compare { key: text(key), range_end: text(end), ..compare(relation, target, union.clone()) };
            all_hold(&world.view, &[compare]).unwrap()
        })
    }

    const EQUAL: [bool; 4] = [true, false, false, false];
    const ABOVE: [bool; 4] = [false, true, false, true];
    const BELOW: [bool; 4] = [false, false, true, true];

    #[test]
    fn each_target_reads_its_own_field() {
        use TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
        let table = [
            (CompareTarget::Version, Version(2), Version(3), Version(1)),
            (CompareTarget::Create, CreateRevision(2), CreateRevision(3), CreateRevision(1)),
            (CompareTarget::Mod, ModRevision(3), ModRevision(4), ModRevision(2)),
            (CompareTarget::Lease, Lease(7), Lease(8), Lease(-7)),
            (CompareTarget::Value, Value(text("v")), Value(text("w")), Value(text("u"))),
        ];
        for (target, same, more, less) in table {
            assert_eq!(verdicts("a", "", target, Some(same)), EQUAL, "{target:?}");
            assert_eq!(verdicts("a", "", target, Some(more)), BELOW, "{target:?}");
            assert_eq!(verdicts("a", "", target, Some(less)), ABOVE, "{target:?}");
        }
    }

    #[test]
    fn numbers_of_a_missing_key_are_zero() {
        for target in [CompareTarget::Version, CompareTarget::Create, CompareTarget::Mod, CompareTarget::Lease] {
            assert_eq!(verdicts("x", "", target, None), EQUAL, "{target:?}");
            assert_eq!(verdicts("x", "y", target, None), EQUAL, "{target:?}");
            assert_eq!(verdicts("b", "a", target, None), EQUAL, "{target:?}, an empty range");
        }
    }

    #[test]
    fn a_value_compare_of_a_missing_key_is_false() {
        let empty = Some(TargetUnion::Value(Bytes::new()));
        assert_eq!(verdicts("x", "", CompareTarget::Value, empty.clone()), [false; 4]);
        assert_eq!(verdicts("x", "y", CompareTarget::Value, empty), [false; 4]);
        assert_eq!(verdicts("x", "", CompareTarget::Value, None), [false; 4]);
    }

    #[test]
    fn a_missing_or_mistyped_operand_counts_as_zero_or_empty() {
        assert_eq!(verdicts("a", "", CompareTarget::Version, None), ABOVE);
        assert_eq!(verdicts("a", "", CompareTarget::Version, Some(TargetUnion::ModRevision(2))), ABOVE);
        assert_eq!(verdicts("a", "", CompareTarget::Value, None), ABOVE);
        assert_eq!(verdicts("a", "", CompareTarget::Value, Some(TargetUnion::Lease(1))), ABOVE);
    }

    #[test]
    fn a_range_holds_when_every_key_in_it_does() {
        let created_after = |revision| Some(TargetUnion::CreateRevision(revision));
        assert_eq!(verdicts("a", "\0", CompareTarget::Create, created_after(1)), ABOVE);
        assert_eq!(verdicts("a", "\0", CompareTarget::Create, created_after(2)), [false; 4]);
        assert_eq!(verdicts("b", "c", CompareTarget::Create, created_after(2)), ABOVE);
    }

    #[test]
    fn numbers_compare_as_signed() {
        assert_eq!(verdicts("a", "", CompareTarget::Mod, Some(TargetUnion::ModRevision(i64::MIN))), ABOVE);
        assert_eq!(verdicts("a", "", CompareTarget::Mod, Some(TargetUnion::ModRevision(i64::MAX))), BELOW);
    }

    #[test]
    fn unknown_relations_hold_and_unknown_targets_are_equal() {
        let world = world();
        let holds = |compare: Compare| all_hold(&world.view, &[compare]).unwrap();
        let base = compare(CompareResult::Equal, CompareTarget::Version, Some(TargetUnion::Version(9)));
        assert!(holds(Compare { result: 9, ..base.clone() }));
        assert!(holds(Compare { target: 9, ..base.clone() }));
        assert!(!holds(Compare { target: 9, result: CompareResult::NotEqual.into(), ..base.clone() }));
        assert!(!holds(Compare { result: 9, target: 3, key: text("x"), ..base }), "a missing value beats it");
    }

    #[test]
    fn all_compares_must_hold_and_an_empty_list_holds() {
        let world = world();
        let yes = compare(CompareResult::Equal, CompareTarget::Version, Some(TargetUnion::Version(2)));
        let no = compare(CompareResult::Less, CompareTarget::Version, Some(TargetUnion::Version(2)));
        assert!(all_hold(&world.view, &[]).unwrap());
        assert!(all_hold(&world.view, &[yes.clone(), yes.clone()]).unwrap());
        assert!(!all_hold(&world.view, &[yes, no]).unwrap());
    }
}
