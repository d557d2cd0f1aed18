//! The Election service: a queue of leased keys whose first is the leader and whose value is what it proclaims.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response as Reply, Status};

use super::kv;
use super::queue::{self, Kinds, Place, Queue, op};
use crate::api::call::{Audience, Call};
use crate::api::error::{ApiError, in_recipe};
use crate::api::state::State;
use crate::api::stream::{self, Answers, Ending, Session};
use crate::model::auth::AuthError;
use crate::model::view::KeyRange;
use crate::proto::etcdserverpb as kvpb;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
use crate::proto::v3electionpb as pb;
use crate::watch::{WatchOutput, WatchStream};

/// Returns when the caller's lease leads. One that campaigns again with another value proclaims it.
///
/// # Errors
/// A lease that does not exist; one that ended while waiting (where etcd answers with a leadership that nobody has);
/// the errors of reads and transactions.
pub async fn campaign(
    state: &Arc<State>,
    call: &Call,
    request: pb::CampaignRequest,
) -> Result<pb::CampaignResponse, ApiError> {
    let lease = queue::session(state, call, request.lease).await?;
    let queue = Queue::new(&request.name);
    let key = queue.key(lease);
    let put = kvpb::PutRequest { key: key.clone(), value: request.value.clone(), lease, ..Default::default() };
    let enter = kvpb::TxnRequest {
        compare: vec![queue::is_from(key.clone(), 0)],
        success: vec![op(Op::RequestPut(put))],
        failure: vec![op(Op::RequestRange(queue::get(key.clone())))],
    };
    let entered = kv::txn(state, &call.step(state), enter).await?;
    // The answer has the header of this step whatever follows, as in etcd.
    let (header, own) = (entered.header, queue::key_of(&entered, 0)?);
    let rev = own.as_ref().map_or(queue::revision(header.as_ref()), |own| own.create_revision);
    let leader = pb::LeaderKey { name: request.name, key: key.clone(), rev, lease };
    let place = Place::new(state, call, key.clone(), rev);
    if own.is_some_and(|own| own.value != request.value) {
        put_if_leading(state, &call.step(state), &leader, request.value).await?;
    }
    let turn = queue.wait_for_turn(state, call, rev).await;
    if turn != Err(ApiError::DeadlineExceeded) {
        place.keep();
    }
    turn?;
    let own = kv::range(state, &call.step(state), queue::get(key)).await?;
    match queue::only_key(&own)? {
        Some(own) if own.create_revision == rev => Ok(pb::CampaignResponse { header, leader: Some(leader) }),
        _ => Err(ApiError::NotElectionLeader),
    }
}

/// Sets the leader's value.
///
/// # Errors
/// No leader given, one that leads no more, the errors of a transaction.
pub async fn proclaim(
    state: &State,
    call: &Call,
    request: pb::ProclaimRequest,
) -> Result<pb::ProclaimResponse, ApiError> {
    let mut leader = request.leader.ok_or(ApiError::LeaderFieldMissing)?;
    leader.lease = queue::session(state, call, leader.lease).await?;
    let header = put_if_leading(state, &call.step(state), &leader, request.value).await?;
    Ok(pb::ProclaimResponse { header })
}

async fn put_if_leading(
    state: &State,
    call: &Call,
    leader: &pb::LeaderKey,
    value: Bytes,
) -> Result<Option<kvpb::ResponseHeader>, ApiError> {
    let put = kvpb::PutRequest { key: leader.key.clone(), value, lease: leader.lease, ..Default::default() };
    let proclaim = kvpb::TxnRequest {
        compare: vec![queue::is_from(leader.key.clone(), leader.rev)],
        success: vec![op(Op::RequestPut(put))],
        failure: Vec::new(),
    };
    let answer = kv::txn(state, call, proclaim).await?;
    if answer.succeeded { Ok(answer.header) } else { Err(ApiError::NotElectionLeader) }
}

/// Who leads.
///
/// # Errors
/// Nobody does; read errors.
pub async fn leader(state: &State, call: &Call, request: pb::LeaderRequest) -> Result<pb::LeaderResponse, ApiError> {
    let answer = kv::range(state, call, Queue::new(&request.name).first()).await?;
    let kv = queue::only_key(&answer)?.ok_or(ApiError::NoElectionLeader)?;
    Ok(pb::LeaderResponse { header: answer.header, kv: Some(kv) })
}

/// Ends a leadership. One that has ended already is no error.
///
/// # Errors
/// No leader given, the errors of a transaction.
pub async fn resign(state: &State, call: &Call, request: pb::ResignRequest) -> Result<pb::ResignResponse, ApiError> {
    let leader = request.leader.ok_or(ApiError::LeaderFieldMissing)?;
    queue::session(state, call, leader.lease).await?;
    let answer = kv::txn(state, &call.step(state), queue::delete_if(leader.key, leader.rev)).await?;
    Ok(pb::ResignResponse { header: answer.header })
}

/// One observer: the leader's value now, then every value and leader after it.
struct Observing {
    state: Arc<State>,
    call: Call,
    queue: Queue,
    stage: Stage,
    /// Answers found and not yet sent.
    found: VecDeque<pb::LeaderResponse>,
    /// Whose stream it is, once authentication was on.
    user: Option<String>,
    /// The state of the auth store under which the user might read the election.
    permitted_at: u64,
    ending: Ending,
}

/// What an observer knows.
enum Stage {
    /// Nothing: it looks who leads.
    Looking,
    /// Nobody leads: it waits for the first key.
    Waiting(WatchStream),
    /// A key leads: it follows its value until the key is deleted.
    Following(WatchStream),
}

impl Observing {
    /// Whether the user may still read the election: a watcher is permitted once, and rights change.
    async fn look_at_rights(&mut self) -> Result<(), ApiError> {
        let state = self.state.store.auth_mark().state();
        if state == self.permitted_at {
            return Ok(());
        }
        // In this order: a change in between is one too many, not one too few.
        self.permitted_at = state;
        let auth = self.state.store.auth();
        if auth.is_enabled() {
            let user = self.whose().await?;
            let range = self.queue.range();
            let (key, range_end) = range.as_pair();
            auth.still_reads(&user, key, range_end)?;
        }
        Ok(())
    }

    /// The user, known from the first time on: a token may end before its stream, as with watchers.
    async fn whose(&mut self) -> Result<String, ApiError> {
        if let Some(user) = &self.user {
            return Ok(user.clone());
        }
        let by = self.call.step(&self.state).identity(&self.state).await?;
        if by.is_nobody() {
            return Err(ApiError::Auth(AuthError::UserEmpty));
        }
        self.user = Some(by.user.clone());
        Ok(by.user)
    }

    async fn look(&mut self) -> Result<(), ApiError> {
        self.permitted_at = self.state.store.auth_mark().state();
        if self.state.store.auth_mark().is_on() {
            self.whose().await?;
        }
        let answer = kv::range(&self.state, &self.call.step(&self.state), self.queue.first()).await?;
        let revision = queue::revision(answer.header.as_ref());
        self.stage = match queue::only_key(&answer)? {
            Some(kv) => self.follow(kv, answer.header, revision)?,
            None => Stage::Waiting(queue::watch(
                &self.state,
                self.call.source(),
                self.queue.range(),
                revision + 1,
                Kinds::Puts,
            )?),
        };
        Ok(())
    }

    fn follow(&mut self, kv: KeyValue, header: Option<kvpb::ResponseHeader>, revision: i64) -> Result<Stage, ApiError> {
        let values =
            queue::watch(&self.state, self.call.source(), KeyRange::One(kv.key.clone()), revision + 1, Kinds::All)?;
        self.found.push_back(pb::LeaderResponse { header, kv: Some(kv) });
        Ok(Stage::Following(values))
    }

    fn take(&mut self, output: WatchOutput, waiting: bool) -> Result<(), ApiError> {
        if output.canceled {
            // Overtaken by compaction: what was missed is of no interest, who leads now is.
            self.stage = Stage::Looking;
        }
        for event in output.events {
            let event = Event::decode(event).map_err(|error| {
                tracing::error!(%error, "failed to decode an event of an election");
                ApiError::Internal
            })?;
            let deleted = event.r#type == i32::from(EventType::Delete);
            let Some(kv) = event.kv else { continue };
            if deleted {
                self.stage = Stage::Looking;
                break;
            }
            if waiting {
                let revision = kv.mod_revision;
                self.stage = self.follow(kv, self.state.header(revision), revision)?;
                break;
            }
            self.found
                .push_back(pb::LeaderResponse { header: self.state.header(output.header_revision), kv: Some(kv) });
        }
        Ok(())
    }

    async fn advance(&mut self) -> Result<(), ApiError> {
        let (watcher, waiting) = match &mut self.stage {
            Stage::Looking => return self.look().await,
            Stage::Waiting(watcher) => (watcher, true),
            Stage::Following(watcher) => (watcher, false),
        };
        let output = watcher.next().await;
        self.look_at_rights().await?;
        self.take(output, waiting)
    }
}

impl Session for Observing {
    type Answer = pb::LeaderResponse;

    async fn next(&mut self) -> Option<Result<Self::Answer, Status>> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Some(Ok(found));
            }
            let mut ending = std::mem::replace(&mut self.ending, Box::pin(std::future::pending()));
            let advanced = tokio::select! {
                error = &mut ending => return Some(Err(error.into())),
                advanced = self.advance() => advanced,
            };
            self.ending = ending;
            if let Err(error @ (ApiError::Auth(_) | ApiError::InvalidAuthToken)) = advanced {
                // Better than etcd, which ends this stream as any other: whoever may not look should hear it.
                return Some(Err(error.into()));
            }
            if let Err(error) = advanced {
                // etcd closes the stream without a word.
                tracing::debug!(%error, "an observer of an election ended");
                return None;
            }
        }
    }
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Election(pub Arc<State>);

#[tonic::async_trait]
impl pb::election_server::Election for Election {
    type ObserveStream = Answers<pb::LeaderResponse>;

    async fn campaign(&self, request: Request<pb::CampaignRequest>) -> Result<Reply<pb::CampaignResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(campaign(&self.0, &call, request.into_inner()).await.map_err(in_recipe)?))
    }

    async fn proclaim(&self, request: Request<pb::ProclaimRequest>) -> Result<Reply<pb::ProclaimResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(proclaim(&self.0, &call, request.into_inner()).await.map_err(in_recipe)?))
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Result<Reply<pb::LeaderResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(leader(&self.0, &call, request.into_inner()).await.map_err(in_recipe)?))
    }

    async fn observe(&self, request: Request<pb::LeaderRequest>) -> Result<Reply<Self::ObserveStream>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        let session = Observing {
            queue: Queue::new(&request.get_ref().name),
            stage: Stage::Looking,
            found: VecDeque::new(),
            user: None,
            permitted_at: self.0.store.auth_mark().state(),
            ending: stream::ending(&self.0, call.require_leader),
            state: Arc::clone(&self.0),
            call,
        };
        Ok(Reply::new(stream::serve(session)))
    }

    async fn resign(&self, request: Request<pb::ResignRequest>) -> Result<Reply<pb::ResignResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(resign(&self.0, &call, request.into_inner()).await.map_err(in_recipe)?))
    }
}
