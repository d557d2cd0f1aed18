//! Put: one key, one new version. The hot path: one read of the key, one encoding, which is the only copy of the value.

use crate::model::effects::{Change, Effects, Refusal, Response};
use crate::model::record::Record;
use crate::model::view::View;
use crate::proto::etcdserverpb::{PutRequest, PutResponse};
use crate::proto::mvccpb::KeyValue;

use super::{Failure, header};

/// A put outside a transaction: always a new revision, even when the value is unchanged.
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

/// The change of a put at `revision`, and its response.
///
/// The request's lease replaces the key's; 0 detaches the key, unless `ignore_lease` keeps the old lease.
///
/// # Errors
/// [`Refusal::LeaseNotFound`], then [`Refusal::KeyNotFound`] for `ignore_value` or `ignore_lease` on a missing key.
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

/// The checks of [`write`] alone, for a transaction that must be checked before it writes anything.
///
/// # Errors
/// In the opposite order to [`write`]: first [`Refusal::KeyNotFound`], then [`Refusal::LeaseNotFound`], as in etcd up
/// to 3.6.
pub fn validate(view: &impl View, request: &PutRequest) -> Result<(), Failure> {
    if needs_old(request) && view.get(&request.key)?.is_none() {
        return Err(Refusal::KeyNotFound.into());
    }
    check_lease(view, request)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::tests::world::{World, always, put, put_op, text};

    fn counters(world: &World, key: &str) -> (i64, i64, i64) {
        let kv = world.kv(key).unwrap();
        (kv.create_revision, kv.mod_revision, kv.version)
    }

    fn answer(world: &mut World, request: PutRequest) -> PutResponse {
        match world.done(&Command::Put(request)) {
            Response::Put(response) => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn versions_start_at_one_in_each_generation() {
        let mut world = World::default();
        world.put("a", "1");
        world.put("a", "2");
        assert_eq!(counters(&world, "a"), (2, 3, 2));
        world.delete("a");
        world.put("a", "3");
        assert_eq!(counters(&world, "a"), (5, 5, 1));
    }

    #[test]
    fn the_response_has_the_new_revision_and_prev_kv_only_when_requested() {
        let mut world = World::default();
        let asked = |value| PutRequest { prev_kv: true, ..put("a", value) };
        assert_eq!(answer(&mut world, asked("1")), PutResponse { header: header(2), prev_kv: None });
        let old = world.kv("a");
        assert_eq!(answer(&mut world, asked("2")), PutResponse { header: header(3), prev_kv: old });
        assert_eq!(answer(&mut world, put("a", "3")).prev_kv, None);
    }

    #[test]
    fn ignore_value_keeps_the_old_value_and_ignore_lease_the_old_lease() {
        let mut world = World::default();
        world.grant(1);
        world.grant(2);
        world.done(&Command::Put(PutRequest { lease: 1, ..put("a", "old") }));
        world.done(&Command::Put(PutRequest { lease: 2, ignore_value: true, ..put("a", "") }));
        assert_eq!(world.kv("a").map(|kv| (kv.value, kv.lease)), Some((text("old"), 2)));
        world.done(&Command::Put(PutRequest { ignore_lease: true, ..put("a", "new") }));
        assert_eq!(world.kv("a").map(|kv| (kv.value, kv.lease)), Some((text("new"), 2)));
        world.put("a", "free");
        assert_eq!(world.kv("a").map(|kv| kv.lease), Some(0));
    }

    #[test]
    fn ignore_value_and_ignore_lease_on_a_missing_key_are_refused() {
        let mut world = World::default();
        let value = PutRequest { ignore_value: true, ..put("a", "") };
        let lease = PutRequest { ignore_lease: true, ..put("a", "x") };
        assert_eq!(world.refused(&Command::Put(value)), Refusal::KeyNotFound);
        assert_eq!(world.refused(&Command::Put(lease)), Refusal::KeyNotFound);
    }

    #[test]
    fn an_unknown_lease_is_reported_before_a_missing_key() {
        let mut world = World::default();
        let both = PutRequest { lease: 5, ignore_value: true, ..put("a", "") };
        assert_eq!(world.refused(&Command::Put(both.clone())), Refusal::LeaseNotFound);
        let in_txn = Command::Txn(always(vec![put_op(both)]));
        assert_eq!(world.refused(&in_txn), Refusal::KeyNotFound, "but not in a transaction");
    }

    #[test]
    fn a_change_names_the_leases_before_and_after() {
        let mut world = World::default();
        world.grant(1);
        world.put_leased("a", 1);
        let effects = world.run(&Command::Put(put("a", "")));
        assert_eq!((effects.changes[0].lease_before, effects.changes[0].lease_after), (1, 0));
    }
}
