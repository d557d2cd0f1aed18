//! Range: what a read answers, at the current revision or an older one, alone or inside a transaction.
//!
//! Records pass through as stored bytes unless an option must look inside: filters and sort targets other than the key
//! decode, `keys_only` encodes again without the value. `count` is always the number of keys in the range, whatever
//! limit and filters leave of them.

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

/// The stricter test that a transaction makes of its ranges before it writes: a negative revision is taken literally.
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

/// How many records to keep at most while scanning in key order: one above the limit, to learn whether there are more.
///
/// An explicit order other than by ascending key needs every record first. A sort target *without* an order does not
/// count as one: etcd cuts such a range in key order and sorts what is left.
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
    // There is nothing to break off after the only record.
    let _ = one.map(each);
    Ok(())
}

/// The first `most` records and the number of all. At the current revision the scan ends with the last record kept and
/// the view counts the rest; an older revision has no cheaper count than the scan itself.
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

/// As [`collect`], with what is in each record; what the filters refuse is dropped while scanning.
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

/// Bounds are inclusive; 0 switches one off.
fn passes(kv: &KeyValue, request: &RangeRequest) -> bool {
    let not_above = |most: i64, revision: i64| most == 0 || revision <= most;
    not_above(request.max_mod_revision, kv.mod_revision)
        && (request.min_mod_revision == 0 || kv.mod_revision >= request.min_mod_revision)
        && not_above(request.max_create_revision, kv.create_revision)
        && (request.min_create_revision == 0 || kv.create_revision >= request.min_create_revision)
}

/// Sorts by the target; equal ones stay in key order. A target without an order means ascending. By key there is
/// nothing to do: records come in key order.
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
