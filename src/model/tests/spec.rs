//! A second, deliberately naive implementation of etcd's key space: whole states are copied, nothing is optimised.
//! The rules must agree with it on every response and every record.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::model::command::Command;
use crate::model::effects::{Refusal, Response};
use crate::model::view::Lease;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;
use prost::Message;

type Keys = BTreeMap<Bytes, KeyValue>;

/// The whole state, history included.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// State after each revision; the last is the current one.
    pub(crate) states: BTreeMap<i64, Keys>,
    pub(crate) compacted: i64,
    pub(crate) leases: BTreeSet<i64>,
    /// How many commands ran.
    pub(crate) entries: u64,
}

impl Default for Spec {
    fn default() -> Self {
        Self { states: BTreeMap::from([(1, Keys::new())]), compacted: -1, leases: BTreeSet::new(), entries: 0 }
    }
}

/// A write in progress.
struct Draft {
    keys: Keys,
    changed: bool,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn inside(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => start <= key && key < end,
    }
}

impl Spec {
    pub(crate) fn revision(&self) -> i64 {
        *self.states.last_key_value().unwrap().0
    }

    pub(crate) fn keys(&self) -> &Keys {
        self.states.last_key_value().unwrap().1
    }

    /// Runs the command on the state and returns its response.
    pub(crate) fn run(&mut self, command: &Command) -> Result<Response, Refusal> {
        let mut draft = Draft { keys: self.keys().clone(), changed: false };
        self.entries += 1;
        let answer = match command {
            Command::Put(request) => self.put(&mut draft, request).map(Response::Put),
            Command::DeleteRange(request) => Ok(Response::DeleteRange(self.delete(&mut draft, request))),
            Command::Txn(request) => self.txn(&mut draft, request).map(Response::Txn),
            Command::Compact(request) if request.revision <= self.compacted => Err(Refusal::Compacted),
            Command::Compact(request) if request.revision > self.revision() => Err(Refusal::FutureRevision),
            Command::Compact(request) => {
                self.compacted = request.revision;
                Ok(Response::Compact)
            }
            Command::LeaseGrant(grant) if self.leases.insert(grant.id) => {
                Ok(Response::LeaseGrant(Lease { id: grant.id, ttl: grant.ttl, remaining: 0, granted: self.entries }))
            }
            Command::LeaseGrant(_) => Err(Refusal::LeaseExists),
            Command::LeaseRevoke(revoke) if self.leases.remove(&revoke.ids[0]) => {
                draft.changed = draft.keys.values().any(|kv| kv.lease == revoke.ids[0]);
                draft.keys.retain(|_, kv| kv.lease != revoke.ids[0]);
                Ok(Response::LeaseRevoke)
            }
            Command::LeaseRevoke(_) => Err(Refusal::LeaseNotFound),
            other => panic!("the spec does not cover {other:?}"),
        };
        if answer.is_ok() && draft.changed {
            self.states.insert(self.revision() + 1, draft.keys);
        }
        answer
    }

    fn visible(&self, draft: &Draft) -> i64 {
        self.revision() + i64::from(draft.changed)
    }

    fn put(&self, draft: &mut Draft, request: &PutRequest) -> Result<PutResponse, Refusal> {
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        let old = draft.keys.get(&request.key).cloned();
        if old.is_none() && (request.ignore_value || request.ignore_lease) {
            return Err(Refusal::KeyNotFound);
        }
        let revision = self.revision() + 1;
        let mut new = old.clone().unwrap_or(KeyValue { create_revision: revision, ..KeyValue::default() });
        new.key = request.key.clone();
        new.version += 1;
        new.mod_revision = revision;
        if !request.ignore_value {
            new.value = request.value.clone();
        }
        if !request.ignore_lease {
            new.lease = request.lease;
        }
        draft.keys.insert(request.key.clone(), new);
        draft.changed = true;
        Ok(PutResponse { header: header(revision), prev_kv: old.filter(|_| request.prev_kv) })
    }

    fn delete(&self, draft: &mut Draft, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let doomed: Vec<KeyValue> =
            draft.keys.values().filter(|kv| inside(&kv.key, &request.key, &request.range_end)).cloned().collect();
        doomed.iter().for_each(|kv| drop(draft.keys.remove(&kv.key)));
        draft.changed |= !doomed.is_empty();
        let deleted = doomed.len() as i64;
        let prev_kvs = if request.prev_kv { doomed } else { Vec::new() };
        DeleteRangeResponse { header: header(self.visible(draft)), deleted, prev_kvs }
    }

    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        let draft = Draft { keys: self.keys().clone(), changed: false };
        self.range_in(&draft, request)
    }

    fn range_in(&self, draft: &Draft, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        if request.revision > self.visible(draft) {
            return Err(Refusal::FutureRevision);
        }
        if request.revision > 0 && request.revision < self.compacted {
            return Err(Refusal::Compacted);
        }
        let state = match request.revision {
            asked if asked > 0 => self.states.get(&asked).unwrap_or(&draft.keys),
            _ => &draft.keys,
        };
        let all: Vec<&KeyValue> =
            state.values().filter(|kv| inside(&kv.key, &request.key, &request.range_end)).collect();
        let mut response =
            RangeResponse { header: header(self.visible(draft)), count: all.len() as i64, ..RangeResponse::default() };
        if request.count_only {
            return Ok(response);
        }
        let above = |least: i64, is: i64| least == 0 || is >= least;
        let below = |most: i64, is: i64| most == 0 || is <= most;
        let mut kvs: Vec<KeyValue> = all.into_iter().cloned().collect();
        kvs.retain(|kv| above(request.min_mod_revision, kv.mod_revision));
        kvs.retain(|kv| below(request.max_mod_revision, kv.mod_revision));
        kvs.retain(|kv| above(request.min_create_revision, kv.create_revision));
        kvs.retain(|kv| below(request.max_create_revision, kv.create_revision));
        let filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ] != [0; 4];
        if request.sort_order == 0 && !filtered && request.limit > 0 {
            // etcd's quirk: without an order the range is truncated before it is sorted.
            kvs.truncate(request.limit as usize + 1);
        }
        match request.sort_target {
            1 => kvs.sort_by_key(|kv| kv.version),
            2 => kvs.sort_by_key(|kv| kv.create_revision),
            3 => kvs.sort_by_key(|kv| kv.mod_revision),
            4 => kvs.sort_by_key(|kv| kv.value.clone()),
            _ => {}
        }
        if request.sort_order == 2 {
            descending(&mut kvs, request.sort_target);
        }
        response.more = request.limit > 0 && kvs.len() > request.limit as usize;
        if response.more {
            kvs.truncate(request.limit as usize);
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        response.kvs = kvs.iter().map(|kv| kv.encode_to_vec().into()).collect();
        Ok(response)
    }

    fn txn(&self, draft: &mut Draft, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        self.allowed(request)?;
        let mut response = self.execute(draft, request)?;
        response.header = header(self.visible(draft));
        Ok(response)
    }

    fn taken<'r>(&self, request: &'r TxnRequest) -> (bool, &'r [RequestOp]) {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        (succeeded, if succeeded { &request.success } else { &request.failure })
    }

    fn allowed(&self, request: &TxnRequest) -> Result<(), Refusal> {
        for op in self.taken(request).1 {
            match op.request.as_ref().unwrap() {
                Request::RequestRange(range) if range.revision > self.revision() => {
                    return Err(Refusal::FutureRevision);
                }
                Request::RequestRange(range) if range.revision != 0 && range.revision < self.compacted => {
                    return Err(Refusal::Compacted);
                }
                Request::RequestPut(put)
                    if (put.ignore_value || put.ignore_lease) && !self.keys().contains_key(&put.key) =>
                {
                    return Err(Refusal::KeyNotFound);
                }
                Request::RequestPut(put) if put.lease != 0 && !self.leases.contains(&put.lease) => {
                    return Err(Refusal::LeaseNotFound);
                }
                Request::RequestTxn(txn) => self.allowed(txn)?,
                Request::RequestRange(_) | Request::RequestPut(_) | Request::RequestDeleteRange(_) => {}
            }
        }
        Ok(())
    }

    fn execute(&self, draft: &mut Draft, request: &TxnRequest) -> Result<TxnResponse, Refusal> {
        let (succeeded, ops) = self.taken(request);
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().unwrap() {
                Request::RequestRange(range) => OpResponse::ResponseRange(self.range_in(draft, range)?),
                Request::RequestPut(put) => OpResponse::ResponsePut(self.put(draft, put)?),
                Request::RequestDeleteRange(delete) => OpResponse::ResponseDeleteRange(self.delete(draft, delete)),
                Request::RequestTxn(txn) => OpResponse::ResponseTxn(self.execute(draft, txn)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found: Vec<&KeyValue> =
            self.keys().values().filter(|kv| inside(&kv.key, &compare.key, &compare.range_end)).collect();
        if found.is_empty() {
            return compare.target != 3 && relation(compare, &KeyValue::default());
        }
        found.into_iter().all(|kv| relation(compare, kv))
    }
}

/// Sorts descending by the target, with ties in key order.
fn descending(kvs: &mut [KeyValue], target: i32) {
    match target {
        1 => kvs.sort_by_key(|kv| (-kv.version, kv.key.clone())),
        2 => kvs.sort_by_key(|kv| (-kv.create_revision, kv.key.clone())),
        3 => kvs.sort_by_key(|kv| (-kv.mod_revision, kv.key.clone())),
        4 => kvs.sort_by(|a, b| (&b.value, &a.key).cmp(&(&a.value, &b.key))),
        _ => kvs.reverse(),
    }
}

fn relation(compare: &Compare, kv: &KeyValue) -> bool {
    use TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
    let ordering = match (compare.target, compare.target_union.clone()) {
        (0, Some(Version(number))) => kv.version.cmp(&number),
        (1, Some(CreateRevision(number))) => kv.create_revision.cmp(&number),
        (2, Some(ModRevision(number))) => kv.mod_revision.cmp(&number),
        (4, Some(Lease(number))) => kv.lease.cmp(&number),
        (3, Some(Value(value))) => kv.value.cmp(&value),
        (0, _) => kv.version.cmp(&0),
        (1, _) => kv.create_revision.cmp(&0),
        (2, _) => kv.mod_revision.cmp(&0),
        (4, _) => kv.lease.cmp(&0),
        (3, _) => kv.value.cmp(&Bytes::new()),
        _ => std::cmp::Ordering::Equal,
    };
    match compare.result {
        0 => ordering.is_eq(),
        1 => ordering.is_gt(),
        2 => ordering.is_lt(),
        3 => ordering.is_ne(),
        _ => true,
    }
}
