//! The Lease service. Leases are granted and revoked through the log; how long each still lives only the leader knows,
//! so renewals and remaining times are asked of it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tonic::{Request, Response as Reply, Status, Streaming};

use super::kv::mismatch;
use crate::api::access;
use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::identity::Credentials;
use crate::api::quota;
use crate::api::state::State;
use crate::api::stream::{self, Answers, Ending, Session};
use crate::model::check;
use crate::model::command::{self, Command};
use crate::model::effects::Response;
use crate::model::view::View;
use crate::proto::etcdserverpb as pb;

/// What a time-to-live answer says of a lease that does not exist.
const TTL_UNKNOWN: i64 = -1;

/// Grants a lease; id 0 lets the server choose. A TTL below the minimum is raised to it.
///
/// # Errors
/// TTL too large, id in use, the quota, proposal errors.
pub async fn grant(
    state: &State,
    call: &Call,
    request: pb::LeaseGrantRequest,
) -> Result<pb::LeaseGrantResponse, ApiError> {
    access::somebody(state, call).await?;
    check::lease_grant(&request)?;
    let id = if request.id == 0 { rand::random_range(1..=i64::MAX) } else { request.id };
    let ttl = request.ttl.max(state.limits.min_lease_ttl());
    let command = Command::LeaseGrant(command::LeaseGrant { id, ttl });
    quota::admit(state, call, &command).await?;
    let (revision, Response::LeaseGrant(lease)) = call.propose(state, command).await? else {
        return Err(mismatch("lease grant"));
    };
    Ok(pb::LeaseGrantResponse { header: state.header(revision), id: lease.id, ttl: lease.ttl, error: String::new() })
}

/// Ends a lease and deletes its keys in one revision.
///
/// # Errors
/// Unknown lease, proposal errors.
pub async fn revoke(
    state: &State,
    call: &Call,
    request: pb::LeaseRevokeRequest,
) -> Result<pb::LeaseRevokeResponse, ApiError> {
    access::somebody(state, call).await?;
    let command = Command::LeaseRevoke(command::LeaseRevoke { ids: vec![request.id], ..Default::default() });
    let (revision, _) = call.propose(state, command).await?;
    Ok(pb::LeaseRevokeResponse { header: state.header(revision) })
}

/// Renews a lease at the leader. An unknown one answers TTL 0. The header shows the state before the renewal.
///
/// # Errors
/// No leader, or none that answers in time.
pub async fn renew(
    state: &State,
    call: &Call,
    request: pb::LeaseKeepAliveRequest,
) -> Result<pb::LeaseKeepAliveResponse, ApiError> {
    let header = state.header_now();
    access::renewal(state, call, request.id).await?;
    let ttl = call.within(state.consensus.lease_renew(request.id)).await?;
    if ttl > 0 {
        state.metrics.leases_renewed.fetch_add(1, Relaxed);
    }
    Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl })
}

/// Remaining and granted time of a lease, with its keys when asked. An unknown one answers TTL -1.
///
/// # Errors
/// No leader, or none that answers in time; barrier errors when keys are asked for.
pub async fn time_to_live(
    state: &State,
    call: &Call,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, ApiError> {
    access::somebody(state, call).await?;
    let remaining = call.within(state.consensus.lease_remaining(request.id)).await?;
    let mut response = pb::LeaseTimeToLiveResponse { id: request.id, ttl: TTL_UNKNOWN, ..Default::default() };
    if let Some((granted, remaining)) = remaining {
        (response.granted_ttl, response.ttl) = (granted, remaining);
        if request.keys {
            // The keys are read here: not before this member knows what the leader knew.
            call.read_barrier(state).await?;
            response.keys = state.store.view().lease_keys(request.id)?;
            access::lease_keys(state, call, &response.keys).await?;
        }
    }
    response.header = state.header_now();
    Ok(response)
}

/// Every lease this member knows of.
///
/// # Errors
/// Keys on a lease that the asker may not read; a failed read.
pub async fn leases(state: &State, call: &Call) -> Result<pb::LeaseLeasesResponse, ApiError> {
    let leases = state.store.leases()?;
    access::lease_list(state, call, &leases).await?;
    let leases = leases.into_iter().map(|lease| pb::LeaseStatus { id: lease.id }).collect();
    Ok(pb::LeaseLeasesResponse { header: state.header_now(), leases })
}

/// One keep-alive stream: every request gets one answer, in order; the client's end of file ends it well.
struct KeepAlive {
    state: Arc<State>,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    credentials: Arc<Credentials>,
    ending: Ending,
}

impl Session for KeepAlive {
    type Answer = pb::LeaseKeepAliveResponse;

    async fn next(&mut self) -> Option<Result<Self::Answer, Status>> {
        let request = tokio::select! {
            error = &mut self.ending => return Some(Err(error.into())),
            request = self.requests.message() => request,
        };
        match request {
            Ok(Some(request)) => {
                let state = Arc::clone(&self.state);
                let call = Call::on_stream(&state, &self.credentials);
                Some(renew(&state, &call, request).await.map_err(Status::from))
            }
            Ok(None) => None,
            Err(status) => Some(Err(status)),
        }
    }
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Lease(pub Arc<State>);

#[tonic::async_trait]
impl pb::lease_server::Lease for Lease {
    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Reply<pb::LeaseGrantResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(grant(&self.0, &call, request.into_inner()).await?))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Reply<pb::LeaseRevokeResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(revoke(&self.0, &call, request.into_inner()).await?))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Reply<Self::LeaseKeepAliveStream>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        let ending = stream::ending(&self.0, call.require_leader);
        let credentials = Arc::new(Credentials::of_request(&request));
        let state = Arc::clone(&self.0);
        let session = KeepAlive { state, requests: request.into_inner(), credentials, ending };
        Ok(Reply::new(stream::serve(session)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Reply<pb::LeaseTimeToLiveResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(time_to_live(&self.0, &call, request.into_inner()).await?))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Reply<pb::LeaseLeasesResponse>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        Ok(Reply::new(leases(&self.0, &call).await?))
    }
}
