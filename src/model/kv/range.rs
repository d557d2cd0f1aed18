//! Range: reads at the current revision or an older one, alone or inside a transaction.
//!
//! Records are returned as stored bytes unless an option needs them decoded: filters and sort targets other than the
//! key decode, `keys_only` encodes again without the value. `count` is always the number of keys in the range, before
//! limit and filters.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::model::effects::Refusal;
use crate::model::record::Record;
use crate::model::view::{KeyRange, View, ViewError, Visit};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse};
use crate::proto::mvccpb::KeyValue;

use super::{Failure, header};

/// Answers `request` from `view`. The header carries the view's current revision and nothing else.
///
/// # Errors
/// [`Refusal::FutureRevision`], [`Refusal::Compacted`] (the compaction revision itself is still readable).
pub fn range(view: &impl View, request: &RangeRequest) -> Result<RangeResponse, Failure> {
    let at = revision_to_read(view, request.revision)?;
    let keys = KeyRange::new(request.key.clone(), request.range_end.clone());
    let mut response = RangeResponse { header: header(view.revision()), ..RangeResponse::default() };
    if keys.is_empty() {
        return Ok(response);
    }
    if request.count_only {
        response.count = count(view, &keys, at)?;
        return Ok(response);
    }
    let (mut records, total) = if needs_decoding(request) {
        let (found, total) = collect_decoded(view, &keys, at, request)?;
        (sorted(found, request), total)
    } else {
        collect(view, &keys, at, fetch_limit(request))?
    };
    if request.sort_target() == SortTarget::Key && request.sort_order() == SortOrder::Descend {
        records.reverse();
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if limit > 0 && records.len() > limit {
        records.truncate(limit);
        response.more = true;
    }
    response.count = total;
    response.kvs = records.into_iter().map(|record| payload(record, request)).collect::<Result<_, _>>()?;
    Ok(response)
}

/// Which revision a range reads: `None` = the current one.
fn revision_to_read(view: &impl View, asked: i64) -> Result<Option<i64>, Refusal> {
    if asked > view.revision() {
        Err(Refusal::FutureRevision)
    } else if asked <= 0 || asked == view.revision() {
        Ok(None)
    } else if asked < view.compacted() {
        Err(Refusal::Compacted)
    } else {
        Ok(Some(asked))
    }
}

/// The stricter check of a transaction's ranges before it writes: a negative revision is taken literally.
///
/// # Errors
/// [`Refusal::FutureRevision`], [`Refusal::Compacted`].
pub fn validate(view: &impl View, request: &RangeRequest) -> Result<(), Refusal> {
    if request.revision == 0 {
        Ok(())
    } else if request.revision > view.revision() {
        Err(Refusal::FutureRevision)
    } else if request.revision < view.compacted() {
        Err(Refusal::Compacted)
    } else {
        Ok(())
    }
}

fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn needs_decoding(request: &RangeRequest) -> bool {
    has_filters(request) || request.sort_target() != SortTarget::Key
}

/// Maximum number of records to keep while scanning in key order: limit + 1, to learn whether there are more.
///
/// An explicit order other than by ascending key needs every record first. A sort target *without* an order does not:
/// etcd truncates such a range in key order and then sorts it.
fn fetch_limit(request: &RangeRequest) -> usize {
    let key_order = match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    match usize::try_from(request.limit) {
        Ok(limit) if limit > 0 && key_order && !has_filters(request) => limit.saturating_add(1),
        _ => usize::MAX,
    }
}

fn count(view: &impl View, keys: &KeyRange, at: Option<i64>) -> Result<i64, ViewError> {
    if at.is_none() {
        return view.count(keys);
    }
    let mut total = 0;
    visit(view, keys, at, &mut |_| {
        total += 1;
        ControlFlow::Continue(())
    })?;
    Ok(total)
}

/// Calls `each` for the live records of `keys` at `at`, in key order.
fn visit(view: &impl View, keys: &KeyRange, at: Option<i64>, each: &mut Visit<'_>) -> Result<(), ViewError> {
    let one = match (keys, at) {
        (KeyRange::One(key), None) => view.get(key)?,
        (KeyRange::One(key), Some(revision)) => view.get_at(key, revision)?,
        (KeyRange::Span { .. }, None) => return view.scan(keys, each),
        (KeyRange::Span { .. }, Some(revision)) => return view.scan_at(keys, revision, each),
    };
    // A `Break` after the only record changes nothing.
    let _ = one.map(each);
    Ok(())
}

/// The first `most` records and the total count. At the current revision the scan ends with the last record kept and
/// the view counts the rest; at an older revision no count is cheaper than the scan itself.
fn collect(view: &impl View, keys: &KeyRange, at: Option<i64>, most: usize) -> Result<(Vec<Record>, i64), ViewError> {
    let mut records = Vec::new();
    let mut total = 0;
    visit(view, keys, at, &mut |record| {
        total += 1;
        if records.len() < most {
            records.push(record);
        }
        if at.is_none() && records.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if at.is_none() && records.len() == most {
        total = view.count(keys)?;
    }
    Ok((records, total))
}

/// As [`collect`], with each record decoded; records that fail the filters are dropped while scanning.
fn collect_decoded(
    view: &impl View,
    keys: &KeyRange,
    at: Option<i64>,
    request: &RangeRequest,
) -> Result<(Vec<(KeyValue, Record)>, i64), ViewError> {
    let most = fetch_limit(request);
    let mut found = Vec::new();
    if most < usize::MAX {
        let (records, total) = collect(view, keys, at, most)?;
        for record in records {
            found.push((record.decode()?, record));
        }
        return Ok((found, total));
    }
    let mut total = 0;
    let mut damage = None;
    visit(view, keys, at, &mut |record| {
        total += 1;
        match record.decode() {
            Ok(kv) => {
                if passes(&kv, request) {
                    found.push((kv, record));
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                damage = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    damage.map_or(Ok((found, total)), Err)
}

/// Bounds are inclusive; 0 means no bound.
fn passes(kv: &KeyValue, request: &RangeRequest) -> bool {
    let not_above = |most: i64, revision: i64| most == 0 || revision <= most;
    not_above(request.max_mod_revision, kv.mod_revision)
        && (request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision)
        && not_above(request.max_create_revision, kv.create_revision)
        && (request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision)
}

/// Sorts by the target, stably, so that ties stay in key order. A target without an order means ascending. Records
/// arrive in key order, so ascending by key needs no sort.
fn sorted(mut found: Vec<(KeyValue, Record)>, request: &RangeRequest) -> Vec<Record> {
    let compare = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match request.sort_target() {
            SortTarget::Key => Ordering::Equal,
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    match request.sort_order() {
        SortOrder::None | SortOrder::Ascend => found.sort_by(|(a, _), (b, _)| compare(a, b)),
        SortOrder::Descend => found.sort_by(|(a, _), (b, _)| compare(b, a)),
    }
    found.into_iter().map(|(_, record)| record).collect()
}

fn payload(record: Record, request: &RangeRequest) -> Result<Bytes, ViewError> {
    if !request.keys_only {
        return Ok(record.into_bytes());
    }
    let mut kv = record.decode()?;
    kv.value = Bytes::new();
    Ok(Record::new(&kv).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::tests::world::{World, range as request, text};
    use crate::proto::etcdserverpb::CompactionRequest;

    /// Revisions 2 to 6: a=3, b=1, c=2, d=2, then a again with 0 (version 2).
    fn world() -> World {
        let mut world = World::default();
        for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("d", "2"), ("a", "0")] {
            world.put(key, value);
        }
        world
    }

    fn all() -> RangeRequest {
        request("a", "\0")
    }

    fn decoded(response: &RangeResponse) -> Vec<KeyValue> {
        response.kvs.iter().map(|kv| Record::from_stored(kv.clone()).decode().unwrap()).collect()
    }

    fn keys(world: &World, request: &RangeRequest) -> (String, bool, i64) {
        let response = range(&world.view, request).unwrap();
        let keys = decoded(&response).iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect();
        (keys, response.more, response.count)
    }

    fn shown(keys: &str, more: bool, count: i64) -> (String, bool, i64) {
        (keys.to_owned(), more, count)
    }

    fn sort(order: SortOrder, target: SortTarget, limit: i64) -> RangeRequest {
        RangeRequest { sort_order: order.into(), sort_target: target.into(), limit, ..all() }
    }

    fn refusal(world: &World, request: &RangeRequest) -> Refusal {
        match range(&world.view, request) {
            Err(Failure::Refusal(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_form_of_range_finds_its_keys() {
        let world = world();
        let table =
            [("b", "", "b"), ("b", "d", "bc"), ("c", "\0", "cd"), ("\0", "\0", "abcd"), ("d", "a", ""), ("x", "", "")];
        for (key, end, found) in table {
            assert_eq!(keys(&world, &request(key, end)), shown(found, false, found.len() as i64), "{key:?}..{end:?}");
        }
    }

    #[test]
    fn a_limit_truncates_and_sets_more_and_the_count_ignores_it() {
        let world = world();
        let limited = |limit| keys(&world, &RangeRequest { limit, ..all() });
        assert_eq!(limited(2), shown("ab", true, 4));
        assert_eq!(limited(4), shown("abcd", false, 4));
        assert_eq!(limited(3), shown("abc", true, 4));
        assert_eq!(limited(i64::MAX), shown("abcd", false, 4));
        assert_eq!(limited(0), shown("abcd", false, 4));
        assert_eq!(limited(-1), shown("abcd", false, 4));
    }

    #[test]
    fn only_key_order_without_filters_lets_a_limit_end_the_scan() {
        let world = world();
        let span = KeyRange::new(text("a"), text("\0"));
        let kept = |request: &RangeRequest| collect(&world.view, &span, None, fetch_limit(request)).unwrap();
        assert_eq!(kept(&RangeRequest { limit: 1, ..all() }).0.len(), 2);
        assert_eq!(kept(&sort(SortOrder::Ascend, SortTarget::Key, 1)).0.len(), 2);
        assert_eq!(kept(&sort(SortOrder::Descend, SortTarget::Key, 1)).0.len(), 4);
        assert_eq!(kept(&RangeRequest { limit: 1, min_mod_revision: 1, ..all() }).0.len(), 4);
    }

    #[test]
    fn a_read_at_an_older_revision_returns_the_state_at_that_revision() {
        let mut world = world();
        world.delete("b");
        let old = RangeRequest { revision: 3, ..all() };
        assert_eq!(keys(&world, &old), shown("ab", false, 2));
        let response =
            range(&world.view, &RangeRequest { key: text("a"), revision: 5, ..RangeRequest::default() }).unwrap();
        assert_eq!(decoded(&response)[0].value, "3");
        assert_eq!(response.header, header(7), "the header has the current revision, not the one asked for");
        assert_eq!(keys(&world, &RangeRequest { limit: 1, ..old.clone() }), shown("a", true, 2));
        assert_eq!(keys(&world, &RangeRequest { count_only: true, limit: 1, ..old }), shown("", false, 2));
    }

    #[test]
    fn the_compaction_revision_itself_is_readable() {
        let mut world = world();
        world.done(&Command::Compact(CompactionRequest { revision: 4, physical: false }));
        assert_eq!(keys(&world, &RangeRequest { revision: 4, ..all() }), shown("abc", false, 3));
        assert_eq!(refusal(&world, &RangeRequest { revision: 3, ..all() }), Refusal::Compacted);
        assert_eq!(refusal(&world, &RangeRequest { revision: 7, ..all() }), Refusal::FutureRevision);
        assert_eq!(keys(&world, &RangeRequest { revision: -9, ..all() }).2, 4, "negative means latest");
        assert_eq!(refusal(&world, &RangeRequest { revision: 3, ..request("d", "a") }), Refusal::Compacted);
    }

    #[test]
    fn count_only_returns_the_count_and_no_records() {
        let counted = RangeRequest { count_only: true, limit: 1, min_mod_revision: 5, ..all() };
        assert_eq!(keys(&world(), &counted), shown("", false, 4));
    }

    #[test]
    fn every_target_sorts_both_ways_with_ties_in_key_order() {
        let world = world();
        let table = [
            (SortTarget::Key, "abcd", "dcba"),
            (SortTarget::Version, "bcda", "abcd"),
            (SortTarget::Create, "abcd", "dcba"),
            (SortTarget::Mod, "bcda", "adcb"),
            (SortTarget::Value, "abcd", "cdba"),
        ];
        for (target, up, down) in table {
            assert_eq!(keys(&world, &sort(SortOrder::Ascend, target, 0)), shown(up, false, 4), "{target:?}");
            assert_eq!(keys(&world, &sort(SortOrder::Descend, target, 0)), shown(down, false, 4), "{target:?}");
            assert_eq!(keys(&world, &sort(SortOrder::None, target, 0)), shown(up, false, 4), "{target:?}");
            assert_eq!(keys(&world, &sort(SortOrder::Descend, target, 1)), shown(&down[..1], true, 4), "{target:?}");
        }
    }

    #[test]
    fn a_target_without_an_order_sorts_after_the_limit() {
        let mut world = world();
        world.put("e", "");
        // Limit + 1 records are fetched in key order (a, b), sorted by revision (b, a), then truncated.
        assert_eq!(keys(&world, &sort(SortOrder::None, SortTarget::Mod, 1)), shown("b", true, 5));
        assert_eq!(keys(&world, &sort(SortOrder::None, SortTarget::Value, 1)), shown("a", true, 5));
        assert_eq!(keys(&world, &sort(SortOrder::None, SortTarget::Value, 3)), shown("abc", true, 5));
        assert_eq!(keys(&world, &sort(SortOrder::Ascend, SortTarget::Value, 1)), shown("e", true, 5));
        let filtered = RangeRequest { min_mod_revision: 4, ..sort(SortOrder::None, SortTarget::Mod, 2) };
        assert_eq!(keys(&world, &filtered), shown("cd", true, 5), "with a filter everything is sorted first");
    }

    #[test]
    fn filters_have_inclusive_bounds_and_do_not_change_the_count() {
        let world = world();
        let table: [(RangeRequest, &str); 6] = [
            (RangeRequest { min_mod_revision: 4, ..all() }, "acd"),
            (RangeRequest { max_mod_revision: 4, ..all() }, "bc"),
            (RangeRequest { min_create_revision: 4, ..all() }, "cd"),
            (RangeRequest { max_create_revision: 3, ..all() }, "ab"),
            (RangeRequest { min_mod_revision: 5, max_mod_revision: 4, ..all() }, ""),
            (RangeRequest { max_mod_revision: -1, ..all() }, ""),
        ];
        for (request, found) in table {
            assert_eq!(keys(&world, &request), shown(found, false, 4), "{request:?}");
        }
        let cut = RangeRequest { min_mod_revision: 4, limit: 2, ..all() };
        assert_eq!(keys(&world, &cut), shown("ac", true, 4));
        let exact = RangeRequest { min_mod_revision: 4, limit: 3, ..all() };
        assert_eq!(keys(&world, &exact), shown("acd", false, 4));
    }

    #[test]
    fn keys_only_drops_the_value_and_nothing_else() {
        let mut world = world();
        world.grant(9);
        world.put_leased("a", 9);
        let full = world.kv("a").unwrap();
        let by_value = sort(SortOrder::Descend, SortTarget::Value, 0);
        for request in [all(), by_value] {
            let response = range(&world.view, &RangeRequest { keys_only: true, ..request }).unwrap();
            let kvs = decoded(&response);
            assert!(kvs.iter().all(|kv| kv.value.is_empty()));
            let a = kvs.iter().find(|kv| kv.key == "a").unwrap();
            assert_eq!((a.lease, a.version, a.create_revision), (9, full.version, full.create_revision));
        }
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let mut world = world();
        let mut effects = world.run(&Command::Put(crate::model::tests::world::put("z", "1")));
        effects.changes[0].after = Some(Record::from_stored(Bytes::from_static(&[0x0a, 0xff])));
        world.view.absorb(&effects);
        let sorted = sort(SortOrder::Ascend, SortTarget::Version, 0);
        assert!(matches!(range(&world.view, &sorted), Err(Failure::View(_))));
        let stripped = RangeRequest { keys_only: true, ..all() };
        assert!(matches!(range(&world.view, &stripped), Err(Failure::View(_))));
    }
}
