//! What locks and elections are made of: a queue of keys under one prefix, each bound to a lease, ordered by the
//! revision that created it. The first key holds; the others wait until every key before theirs is deleted.
//!
//! Nothing here has state of its own: every step is an ordinary read, transaction or watch of the caller's, so leases,
//! limits and permissions hold as they do for a client that plays the recipe itself.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::{kv, lease};
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::state::State;
use crate::api::stream;
use crate::model::view::KeyRange;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as Outcome;
use crate::proto::mvccpb::KeyValue;
use crate::watch::{WatchCreate, WatchStream};
use crate::work::Source;

/// Seconds of a lease that is granted because the caller named none. Nobody renews it here.
const SESSION_TTL: i64 = 60;

/// The caller's lease, or a new one when it names none.
///
/// # Errors
/// Those of a grant. Whether a lease that was named exists is found out by the first write under it.
pub async fn session(state: &State, call: &Call, lease: i64) -> Result<i64, ApiError> {
    if lease != 0 {
        return Ok(lease);
    }
    Ok(lease::grant(state, &call.step(state), pb::LeaseGrantRequest { ttl: SESSION_TTL, id: 0 }).await?.id)
}

/// The keys of one lock or election.
#[derive(Debug, Clone)]
pub struct Queue {
    prefix: Bytes,
    end: Bytes,
}

impl Queue {
    /// The queue called `name`.
    pub fn new(name: &[u8]) -> Self {
        Self { prefix: [name, b"/"].concat().into(), end: [name, b"0"].concat().into() }
    }

    /// The place of a lease in it.
    pub fn key(&self, lease: i64) -> Bytes {
        [self.prefix.as_ref(), format!("{lease:x}").as_bytes()].concat().into()
    }

    /// Every key of the queue.
    pub fn range(&self) -> KeyRange {
        KeyRange::new(self.prefix.clone(), self.end.clone())
    }

    /// Asks for the oldest key.
    pub fn first(&self) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.prefix.clone(),
            range_end: self.end.clone(),
            limit: 1,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..Default::default()
        }
    }

    /// Asks for the youngest key that is not younger than `created`.
    fn last_until(&self, created: i64) -> pb::RangeRequest {
        pb::RangeRequest { sort_order: SortOrder::Descend.into(), max_create_revision: created, ..self.first() }
    }

    /// Returns when every key created before `created` is gone.
    ///
    /// # Errors
    /// Read errors; the end of the member, of its leader (for callers that want one), or of the caller's time.
    pub async fn wait_for_turn(&self, state: &Arc<State>, call: &Call, created: i64) -> Result<(), ApiError> {
        loop {
            let answer = kv::range(state, &call.step(state), self.last_until(created - 1)).await?;
            let Some(before) = only_key(&answer)? else { return Ok(()) };
            wait_for_delete(state, call, before.key, revision(answer.header.as_ref())).await?;
        }
    }
}

/// Waits until `key`, seen at `revision`, is deleted. May return early: the caller looks again.
async fn wait_for_delete(state: &Arc<State>, call: &Call, key: Bytes, revision: i64) -> Result<(), ApiError> {
    let mut deletes = watch(state, call.source(), KeyRange::One(key), revision + 1, Kinds::Deletes)?;
    let ending = stream::ending(state, call.require_leader);
    tokio::select! {
        error = ending => Err(error),
        () = call.given_up() => Err(ApiError::DeadlineExceeded),
        // A delete, or a watcher overtaken by compaction.
        _output = deletes.next() => Ok(()),
    }
}

/// Which events a watcher of this room sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinds {
    /// Puts only.
    Puts,
    /// Deletes only.
    Deletes,
    /// Both.
    All,
}

/// A watcher of its own.
///
/// # Errors
/// None that a fresh stream has; a refusal would be a fault of ours.
pub fn watch(
    state: &Arc<State>,
    source: Source,
    range: KeyRange,
    from: i64,
    kinds: Kinds,
) -> Result<WatchStream, ApiError> {
    let mut stream = state.hub.open_stream(source);
    let wanted = WatchCreate {
        range,
        watch_id: 0,
        start_revision: from,
        progress_notify: false,
        no_put: kinds == Kinds::Deletes,
        no_delete: kinds == Kinds::Puts,
        prev_kv: false,
        fragment: false,
    };
    match stream.create(wanted) {
        Ok(_created) => Ok(stream),
        Err(refusal) => {
            tracing::error!(error = %refusal, "failed to watch for a lock or an election");
            Err(ApiError::Internal)
        }
    }
}

/// A key that waits, taken out of the queue when its caller goes away before its turn.
pub struct Place {
    state: Arc<State>,
    /// Whose place it is: the removal is theirs too.
    call: Call,
    key: Bytes,
    created: i64,
    kept: bool,
}

impl Place {
    /// The place of `key`, made for `call` at revision `created`.
    pub fn new(state: &Arc<State>, call: &Call, key: Bytes, created: i64) -> Self {
        Self { state: Arc::clone(state), call: call.clone(), key, created, kept: false }
    }

    /// It stays whatever happens now.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The caller may be gone with its runtime; its lease then ends the place.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (state, delete) = (Arc::clone(&self.state), delete_if(self.key.clone(), self.created));
        let again = self.call.again(&state);
        runtime.spawn(async move {
            if let Err(error) = kv::txn(&state, &again, delete).await {
                tracing::warn!(%error, "failed to remove the key of a caller that went away; its lease will");
            }
        });
    }
}

/// Whether `key` was created by revision `created`; 0 = does not exist.
pub fn is_from(key: Bytes, created: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(created)),
    }
}

/// Deletes `key` if it is still the one created by `created`.
pub fn delete_if(key: Bytes, created: i64) -> pb::TxnRequest {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![is_from(key, created)],
        success: vec![op(Op::RequestDeleteRange(delete))],
        failure: Vec::new(),
    }
}

/// An operation of a transaction.
pub fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// Asks for one key.
pub fn get(key: Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key, ..Default::default() }
}

/// The one record of a range that asks for one.
///
/// # Errors
/// A record that cannot be read, which is a fault of ours.
pub fn only_key(answer: &pb::RangeResponse) -> Result<Option<KeyValue>, ApiError> {
    let decode = |record: &Bytes| {
        KeyValue::decode(record.clone()).map_err(|error| {
            tracing::error!(%error, "failed to decode a record of a lock or an election");
            ApiError::Internal
        })
    };
    answer.kvs.first().map(decode).transpose()
}

/// The record read by the `n`th operation of a transaction; `None` also when it was no read.
///
/// # Errors
/// As [`only_key`].
pub fn key_of(answer: &pb::TxnResponse, n: usize) -> Result<Option<KeyValue>, ApiError> {
    match answer.responses.get(n).and_then(|op| op.response.as_ref()) {
        Some(Outcome::ResponseRange(range)) => only_key(range),
        _ => Ok(None),
    }
}

/// The revision in a header.
pub fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
