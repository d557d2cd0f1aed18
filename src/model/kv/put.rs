//! Put: one key, one new version. The hot path: one read of the key, one encoding, no copy of the value but that one.

use crate::model::effects::{Change, Effects, Refusal, Response};
use crate::model::record::Record;
use crate::model::view::View;
use crate::proto::etcdserverpb::{PutRequest, PutResponse};
use crate::proto::mvccpb::KeyValue;

use super::{Failure, header};

/// A put on its own: always a new revision, also when the value stays the same.
///
/// # Errors
/// As [`write`].
pub fn apply(view: &impl View, request: &PutRequest) -> Result<Effects, Failure> {
    let revision = view.revision() + 1;
    let (change, response) = write(view, request, revision)?;
    let mut effects = Effects::nothing(revision, Ok(Response::Put(response)));
    effects.changes.push(change);
    Ok(effects)
}

/// The change a put makes in a write at `revision`, and its answer.
///
/// The lease of the request replaces the key's; 0 detaches it, unless `ignore_lease` keeps the old one.
///
/// # Errors
/// [`Refusal::LeaseNotFound`] first, then [`Refusal::KeyNotFound`] for `ignore_value` or `ignore_lease` on a missing key.
pub fn write(view: &impl View, request: &PutRequest, revision: i64) -> Result<(Change, PutResponse), Failure> {
    check_lease(view, request)?;
    let before = view.get(&request.key)?;
    let old = before.as_ref().map(Record::decode).transpose()?;
    if old.is_none() && needs_old(request) {
        return Err(Refusal::KeyNotFound.into());
    }
    let (create_revision, version, lease_before) =
        old.as_ref().map_or((revision, 0, 0), |old| (old.create_revision, old.version, old.lease));
    let value = match &old {
        Some(old) if request.ignore_value => old.value.clone(),
        _ => request.value.clone(),
    };
    let lease_after = if request.ignore_lease { lease_before } else { request.lease };
    let after = Record::new(&KeyValue {
        key: request.key.clone(),
        create_revision,
        mod_revision: revision,
        version: version + 1,
        value,
        lease: lease_after,
    });
    let response = PutResponse { header: header(revision), prev_kv: old.filter(|_| request.prev_kv) };
    let change = Change { key: request.key.clone(), before, after: Some(after), lease_before, lease_after };
    Ok((change, response))
}

/// The refusals of [`write`] alone, for a transaction that must know them before it writes anything.
///
/// # Errors
/// As [`write`].
pub fn validate(view: &impl View, request: &PutRequest) -> Result<(), Failure> {
    check_lease(view, request)?;
    if needs_old(request) && view.get(&request.key)?.is_none() {
        return Err(Refusal::KeyNotFound.into());
    }
    Ok(())
}

fn check_lease(view: &impl View, request: &PutRequest) -> Result<(), Failure> {
    if request.lease != 0 && view.lease(request.lease)?.is_none() {
        return Err(Refusal::LeaseNotFound.into());
    }
    Ok(())
}

fn needs_old(request: &PutRequest) -> bool {
    request.ignore_value || request.ignore_lease
}
