//! The standard gRPC health service. Only the whole server (service name "") is known. It serves from the moment gRPC
//! does; a defragmentation stops that only with the gate `StopGRPCServiceOnDefrag`, for clients that then look elsewhere.

use std::sync::Arc;

use tokio::sync::watch;
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

/// One health stream: the status, and again whenever it changes.
struct Report {
    serving: watch::Receiver<bool>,
    known: bool,
    sent: Option<ServingStatus>,
    ending: Ending,
}

impl Session for Report {
    type Answer = pb::HealthCheckResponse;

    async fn next(&mut self) -> Option<Result<Self::Answer, Status>> {
        loop {
            let serving = *self.serving.borrow_and_update();
            let status = if self.known { status_of(serving) } else { ServingStatus::ServiceUnknown };
            if self.sent.replace(status) != Some(status) {
                return Some(Ok(pb::HealthCheckResponse { status: status.into() }));
            }
            tokio::select! {
                error = &mut self.ending => return Some(Err(error.into())),
                // The sender lives as long as the member.
                Ok(()) = self.serving.changed() => {}
            }
        }
    }
}

fn status_of(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl pb::health_server::Health for Health {
    type WatchStream = Answers<pb::HealthCheckResponse>;

    async fn check(&self, request: Request<pb::HealthCheckRequest>) -> Result<Reply<pb::HealthCheckResponse>, Status> {
        Call::admit(&self.0, request.metadata().as_ref(), Audience::Voters)?;
        if !request.get_ref().service.is_empty() {
            return Err(ApiError::UnknownHealthService.into());
        }
        let status = status_of(*self.0.serving.borrow());
        Ok(Reply::new(pb::HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, request: Request<pb::HealthCheckRequest>) -> Result<Reply<Self::WatchStream>, Status> {
        let call = Call::admit(&self.0, request.metadata().as_ref(), Audience::Voters)?;
        let known = request.get_ref().service.is_empty();
        let ending = stream::ending(&self.0, call.require_leader);
        Ok(Reply::new(stream::serve(Report { serving: self.0.serving.subscribe(), known, sent: None, ending })))
    }
}
