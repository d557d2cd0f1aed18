//! The KV service: ranges, puts, deletes, transactions, compaction.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response as Reply, Status};

use super::reads;
use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::paid::Paid;
use crate::api::quota;
use crate::api::state::State;
use crate::model::command::Command;
use crate::model::effects::Response;
use crate::model::{check, txn as rules};
use crate::proto::etcdserverpb as pb;
use crate::work::FREE_ANSWER_BYTES;

/// Keys of a range at one revision. Linearizable unless the request says otherwise.
///
/// # Errors
/// Refused requests, barrier errors, compacted or future revisions.
pub async fn range(state: &State, call: &Call, request: pb::RangeRequest) -> Result<pb::RangeResponse, ApiError> {
    Ok(paid_range(state, call, request).await?.answer)
}

async fn paid_range(
    state: &State,
    call: &Call,
    request: pb::RangeRequest,
) -> Result<Paid<pb::RangeResponse>, ApiError> {
    check::range(&request)?;
    if !request.serializable {
        call.read_barrier(state).await?;
    }
    let mut paid = reads::read(state, call, request).await?;
    paid.answer.header = state.header(reads::revision_of(paid.answer.header.as_ref()));
    Ok(paid)
}

/// Sets one key.
///
/// # Errors
/// Refused requests, the quota, proposal errors.
pub async fn put(state: &State, call: &Call, request: pb::PutRequest) -> Result<pb::PutResponse, ApiError> {
    check::put(&request)?;
    let command = Command::Put(request);
    quota::admit(state, call, &command).await?;
    let (revision, Response::Put(mut response)) = call.propose(state, command).await? else {
        return Err(mismatch("put"));
    };
    response.header = state.header(revision);
    Ok(response)
}

/// Deletes the keys of a range.
///
/// # Errors
/// Refused requests, a disk that is too full to write it down, proposal errors.
pub async fn delete_range(
    state: &State,
    call: &Call,
    request: pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, ApiError> {
    check::delete_range(&request)?;
    let command = Command::DeleteRange(request);
    quota::admit(state, call, &command).await?;
    let (revision, Response::DeleteRange(mut response)) = call.propose(state, command).await? else {
        return Err(mismatch("delete range"));
    };
    response.header = state.header(revision);
    Ok(response)
}

/// Compares, then runs one of two lists of operations, atomically. One that only reads never enters the log.
///
/// # Errors
/// Refused requests, the quota, proposal or barrier errors, an operation's refusal.
pub async fn txn(state: &State, call: &Call, request: pb::TxnRequest) -> Result<pb::TxnResponse, ApiError> {
    Ok(paid_txn(state, call, request).await?.answer)
}

async fn paid_txn(state: &State, call: &Call, request: pb::TxnRequest) -> Result<Paid<pb::TxnResponse>, ApiError> {
    check::txn(&request, state.limits.max_txn_ops)?;
    if rules::is_read_only(&request) {
        if !rules::is_serializable(&request) {
            call.read_barrier(state).await?;
        }
        let mut paid = reads::read(state, call, request).await?;
        paid.answer.header = state.header(reads::revision_of(paid.answer.header.as_ref()));
        return Ok(paid);
    }
    let command = Command::Txn(request);
    quota::admit(state, call, &command).await?;
    let (revision, Response::Txn(mut response)) = call.propose(state, command).await? else {
        return Err(mismatch("transaction"));
    };
    response.header = state.header(revision);
    Ok(owed(state, response))
}

/// What apply answered is there already; a large answer makes others wait.
fn owed<T: Message>(state: &State, answer: T) -> Paid<T> {
    let bytes = answer.encoded_len();
    let grant = (bytes > FREE_ANSWER_BYTES).then(|| state.work.answers.owed(bytes));
    Paid { answer, grant }
}

/// Forgets history up to a revision. With `physical`, answers only once it is gone from this member's disk, also when
/// it had been compacted before.
///
/// # Errors
/// Compacted or future revisions, proposal errors.
pub async fn compact(
    state: &State,
    call: &Call,
    request: pb::CompactionRequest,
) -> Result<pb::CompactionResponse, ApiError> {
    let outcome = call.propose(state, Command::Compact(request)).await;
    if request.physical && matches!(outcome, Ok(_) | Err(ApiError::Compacted)) {
        tokio::time::timeout_at(call.deadline(), state.store.compacted_physically(request.revision))
            .await
            .map_err(|_elapsed| call.timed_out())?;
    }
    let (revision, _) = outcome?;
    Ok(pb::CompactionResponse { header: state.header(revision) })
}

/// A command answered with another command's response: a fault of ours, never of the client.
pub(super) fn mismatch(what: &'static str) -> ApiError {
    tracing::error!(command = what, "applying a command answered with the response of another");
    ApiError::Internal
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Kv(pub Arc<State>);

#[tonic::async_trait]
impl pb::kv_server::Kv for Kv {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Reply<pb::RangeResponse>, Status> {
        let audience = if request.get_ref().serializable { Audience::Anyone } else { Audience::Voters };
        let call = Call::of(&self.0, &request, audience)?;
        Ok(paid_range(&self.0, &call, request.into_inner()).await?.reply())
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Reply<pb::PutResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(owed(&self.0, put(&self.0, &call, request.into_inner()).await?).reply())
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Reply<pb::DeleteRangeResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(owed(&self.0, delete_range(&self.0, &call, request.into_inner()).await?).reply())
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Reply<pb::TxnResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(paid_txn(&self.0, &call, request.into_inner()).await?.reply())
    }

    async fn compact(&self, request: Request<pb::CompactionRequest>) -> Result<Reply<pb::CompactionResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(compact(&self.0, &call, request.into_inner()).await?))
    }
}
