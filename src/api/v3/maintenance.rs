//! The Maintenance service: how this member is, alarms, hashes, leader transfer. Snapshots are in `snapshot`. Callers have
//! been judged before they come here (`api::rights`), but for alarms, where that depends on what is asked.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tonic::{Request, Response as Reply, Status};

use super::kv::mismatch;
use crate::api::access;
use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::state::State;
use crate::api::stream::Answers;
use crate::model::command::Command;
use crate::model::effects::Response;
use crate::model::view::{Alarm, View};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::settings::{CLUSTER_VERSION, SERVER_VERSION};

/// The quota etcd applies when none is configured; reported also when it is off.
const DEFAULT_QUOTA_BYTES: i64 = 2 * 1024 * 1024 * 1024;

/// How this member is. Needs neither a leader nor a vote.
pub fn status(state: &State) -> pb::StatusResponse {
    let raft = state.consensus.status();
    let size = state.store.size();
    let view = state.store.view();
    let mut errors: Vec<String> = Vec::new();
    if raft.leader.is_none() {
        errors.push(ApiError::NoLeader.to_string());
    }
    errors.extend(view.alarms().into_iter().map(alarm_text));
    pb::StatusResponse {
        header: state.header(view.revision()),
        version: SERVER_VERSION.to_owned(),
        // Never 0: etcdctl divides by it.
        db_size: signed(size.allocated).max(1),
        leader: raft.leader.unwrap_or(0),
        raft_index: raft.committed,
        raft_term: raft.term,
        raft_applied_index: raft.applied,
        errors,
        db_size_in_use: signed(size.in_use.min(size.allocated.max(1))),
        is_learner: raft.is_learner,
        storage_version: CLUSTER_VERSION.to_owned(),
        db_size_quota: state.limits.quota_bytes.map_or(DEFAULT_QUOTA_BYTES, signed),
        downgrade_info: Some(pb::DowngradeInfo::default()),
    }
}

/// Shows, raises or disarms alarms.
///
/// # Errors
/// Barrier errors of a GET, proposal errors of the others.
pub async fn alarm(state: &State, call: &Call, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, ApiError> {
    if request.action() == AlarmAction::Get {
        access::somebody(state, call).await?;
        call.read_barrier(state).await?;
        let view = state.store.view();
        let wanted = request.alarm;
        let alarms =
            view.alarms().into_iter().filter(|alarm| wanted == i32::from(AlarmType::None) || alarm.1 == wanted);
        let alarms = alarms.map(alarm_member).collect();
        return Ok(pb::AlarmResponse { header: state.header(view.revision()), alarms });
    }
    access::root(state, call).await?;
    let (revision, Response::Alarm(alarms)) = call.propose(state, Command::Alarm(request)).await? else {
        return Err(mismatch("alarm"));
    };
    Ok(pb::AlarmResponse { header: state.header(revision), alarms })
}

/// A hash of the keys and their history up to a revision, equal on all members at equal revisions.
///
/// # Errors
/// Compacted or future revision.
pub async fn hash_kv(state: &State, call: &Call, request: pb::HashKvRequest) -> Result<pb::HashKvResponse, ApiError> {
    let (store, begun) = (state.store.clone(), Instant::now());
    let hash = blocking(state, call, move || store.hash_kv(request.revision)).await??;
    state.metrics.hash_rev.observe(begun.elapsed());
    Ok(pb::HashKvResponse {
        header: state.header(hash.current),
        hash: hash.hash,
        compact_revision: hash.compact_revision,
        hash_revision: hash.hash_revision,
    })
}

/// A hash of everything this member keeps; for tests.
///
/// # Errors
/// A failed read.
pub async fn hash(state: &State, call: &Call) -> Result<pb::HashResponse, ApiError> {
    let (store, begun) = (state.store.clone(), Instant::now());
    let hash = blocking(state, call, move || store.hash()).await??;
    state.metrics.hash.observe(begun.elapsed());
    Ok(pb::HashResponse { header: state.header_now(), hash })
}

/// Gives back space that deleted history still holds. Serving goes on meanwhile. The answer has no header, as etcd's.
///
/// # Errors
/// The engine's failure.
pub async fn defragment(state: &State, call: &Call) -> Result<pb::DefragmentResponse, ApiError> {
    // Before the turn: on a full disk this may take as long as it stays full.
    state.store.compacted_physically(state.store.compacted()).await;
    let turn = state.work.files.turn(call.source(), None).await.map_err(|undone| call.undone(undone))?;
    let under_way = DefragUnderWay::count(state);
    let store = state.store.clone();
    // A task, so that the turn is not given up before the work is, when the caller leaves.
    let work = tokio::spawn(async move {
        let done = store.defragment().await;
        drop(turn);
        done
    });
    work.await.map_err(|_stopped| ApiError::Stopped)??;
    drop(under_way);
    Ok(pb::DefragmentResponse { header: None })
}

/// Counts a defragmentation for as long as it takes; with the gate for that, the health service says so.
struct DefragUnderWay<'a>(&'a State);

impl<'a> DefragUnderWay<'a> {
    fn count(state: &'a State) -> Self {
        state.metrics.defrag_inflight.fetch_add(1, Relaxed);
        if state.gate("StopGRPCServiceOnDefrag") {
            state.serving.send_replace(false);
        }
        Self(state)
    }
}

impl Drop for DefragUnderWay<'_> {
    fn drop(&mut self) {
        if self.0.metrics.defrag_inflight.fetch_sub(1, Relaxed) == 1 {
            self.0.serving.send_replace(true);
        }
    }
}

/// Hands leadership to another voter. Only the leader can.
///
/// # Errors
/// Not the leader, a bad target, a transfer that takes too long.
pub async fn move_leader(
    state: &State,
    call: &Call,
    request: pb::MoveLeaderRequest,
) -> Result<pb::MoveLeaderResponse, ApiError> {
    let status = state.consensus.status();
    if status.leader != Some(status.id) {
        return Err(ApiError::NotLeader);
    }
    state.consensus.move_leader(request.target_id, call.deadline()).await?;
    Ok(pb::MoveLeaderResponse { header: None })
}

/// Runs work that reads much of the disk away from the serving thread.
async fn blocking<T: Send + 'static>(
    state: &State,
    call: &Call,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    // As long as it takes: etcd has no limit here either, and a large state takes longer than a request may.
    state.work.files.run(call.source(), None, move |_| work()).await.map_err(|undone| call.undone(undone))
}

/// An alarm in protobuf's text form with its trailing space, as etcd reports it.
fn alarm_text((member, kind): Alarm) -> String {
    format!("memberID:{member} alarm:{} ", alarm_name(kind))
}

/// An alarm's name; protobuf prints the number of one it does not know.
pub fn alarm_name(kind: i32) -> String {
    AlarmType::try_from(kind).map_or_else(|_| kind.to_string(), |kind| kind.as_str_name().to_owned())
}

fn alarm_member((member_id, alarm): Alarm) -> pb::AlarmMember {
    pb::AlarmMember { member_id, alarm }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Maintenance(pub Arc<State>);

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Maintenance {
    type SnapshotStream = Answers<pb::SnapshotResponse>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Reply<pb::AlarmResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(alarm(&self.0, &call, request.into_inner()).await?))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Reply<pb::StatusResponse>, Status> {
        Call::of(&self.0, &request, Audience::Anyone)?;
        Ok(Reply::new(status(&self.0)))
    }

    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Reply<pb::DefragmentResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(defragment(&self.0, &call).await?))
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Reply<pb::HashResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(hash(&self.0, &call).await?))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Reply<pb::HashKvResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(hash_kv(&self.0, &call, request.into_inner()).await?))
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Reply<Self::SnapshotStream>, Status> {
        let call = Call::of(&self.0, &request, Audience::Anyone)?;
        Ok(Reply::new(super::snapshot::stream(&self.0, call.source())))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Reply<pb::MoveLeaderResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(move_leader(&self.0, &call, request.into_inner()).await?))
    }

    async fn downgrade(&self, request: Request<pb::DowngradeRequest>) -> Result<Reply<pb::DowngradeResponse>, Status> {
        Call::of(&self.0, &request, Audience::Voters)?;
        Err(ApiError::NotImplemented.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_reported_in_protobufs_text_form() {
        assert_eq!(alarm_text((5, AlarmType::Nospace.into())), "memberID:5 alarm:NOSPACE ");
        assert_eq!(alarm_text((0, AlarmType::Corrupt.into())), "memberID:0 alarm:CORRUPT ");
        assert_eq!(alarm_text((5, 7)), "memberID:5 alarm:7 ");
    }
}
