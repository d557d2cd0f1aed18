//! The standard gRPC health service. Only the whole server (service name "") is known, and it serves from the moment
//! gRPC does.

use std::sync::Arc;

use tonic::{Request, Response as Reply, Status};

use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::state::State;
use crate::api::stream::{self, Answers, Ending, Session};
use crate::proto::health as pb;
use crate::proto::health::health_check_response::ServingStatus;

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Health(pub Arc<State>);

/// One health stream: the status, then silence until the end, because it does not change.
struct Report {
    first: Option<ServingStatus>,
    ending: Ending,
}

impl Session for Report {
    type Answer = pb::HealthCheckResponse;

    async fn next(&mut self) -> Option<Result<Self::Answer, Status>> {
        match self.first.take() {
            Some(status) => Some(Ok(pb::HealthCheckResponse { status: status.into() })),
            None => Some(Err((&mut self.ending).await.into())),
        }
    }
}

#[tonic::async_trait]
impl pb::health_server::Health for Health {
    type WatchStream = Answers<pb::HealthCheckResponse>;

    async fn check(&self, request: Request<pb::HealthCheckRequest>) -> Result<Reply<pb::HealthCheckResponse>, Status> {
        Call::admit(&self.0, request.metadata().as_ref(), Audience::Voters)?;
        if !request.get_ref().service.is_empty() {
            return Err(ApiError::UnknownHealthService.into());
        }
        Ok(Reply::new(pb::HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn watch(&self, request: Request<pb::HealthCheckRequest>) -> Result<Reply<Self::WatchStream>, Status> {
        let call = Call::admit(&self.0, request.metadata().as_ref(), Audience::Voters)?;
        let known = request.get_ref().service.is_empty();
        let status = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let ending = stream::ending(&self.0, call.require_leader);
        Ok(Reply::new(stream::serve(Report { first: Some(status), ending })))
    }
}
