//! The Lock service: mutual exclusion by a queue of leased keys.

use std::sync::Arc;

use tonic::{Request, Response as Reply, Status};

use super::kv;
use super::queue::{self, Place, Queue, op};
use crate::api::call::{Audience, Call};
use crate::api::error::{ApiError, in_recipe};
use crate::api::state::State;
use crate::proto::etcdserverpb as kvpb;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::v3lockpb as pb;

/// Returns when the caller's lease holds the lock; at once when it holds it already. A caller that goes away while it
/// waits leaves the queue.
///
/// # Errors
/// A lease that does not exist or ended meanwhile; the errors of reads and transactions.
pub async fn lock(state: &Arc<State>, call: &Call, request: pb::LockRequest) -> Result<pb::LockResponse, ApiError> {
    let lease = queue::session(state, call, request.lease).await?;
    let queue = Queue::new(&request.name);
    let key = queue.key(lease);
    let put = kvpb::PutRequest { key: key.clone(), lease, ..Default::default() };
    let owner = op(Op::RequestRange(queue.first()));
    let enter = kvpb::TxnRequest {
        compare: vec![queue::is_from(key.clone(), 0)],
        success: vec![op(Op::RequestPut(put)), owner.clone()],
        failure: vec![op(Op::RequestRange(queue::get(key.clone()))), owner],
    };
    let entered = kv::txn(state, &call.step(state), enter).await?;
    let created = match queue::key_of(&entered, 0)? {
        Some(own) if !entered.succeeded => own.create_revision,
        _ => queue::revision(entered.header.as_ref()),
    };
    let owner = queue::key_of(&entered, 1)?;
    if owner.is_none_or(|owner| owner.create_revision == created) {
        return Ok(pb::LockResponse { header: entered.header, key });
    }
    let place = Place::new(state, call, key.clone(), created);
    queue.wait_for_turn(state, call, created).await?;
    let own = kv::range(state, &call.step(state), queue::get(key.clone())).await?;
    place.keep();
    if own.kvs.is_empty() {
        return Err(ApiError::SessionExpired);
    }
    Ok(pb::LockResponse { header: own.header, key })
}

/// Deletes the key that [`lock`] returned. One that is gone already is no error.
///
/// # Errors
/// Those of a delete.
pub async fn unlock(state: &State, call: &Call, request: pb::UnlockRequest) -> Result<pb::UnlockResponse, ApiError> {
    let delete = kvpb::DeleteRangeRequest { key: request.key, ..Default::default() };
    let deleted = kv::delete_range(state, call, delete).await?;
    Ok(pb::UnlockResponse { header: deleted.header })
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Lock(pub Arc<State>);

#[tonic::async_trait]
impl pb::lock_server::Lock for Lock {
    async fn lock(&self, request: Request<pb::LockRequest>) -> Result<Reply<pb::LockResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(lock(&self.0, &call, request.into_inner()).await.map_err(in_recipe)?))
    }

    async fn unlock(&self, request: Request<pb::UnlockRequest>) -> Result<Reply<pb::UnlockResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(unlock(&self.0, &call, request.into_inner()).await.map_err(in_recipe)?))
    }
}
