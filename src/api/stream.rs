//! Long-lived response streams: driven by the connection that reads them, so an idle stream costs no task and a slow
//! reader no memory.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tonic::Status;

use super::error::ApiError;
use super::state::State;

/// The answers of one streaming call.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Resolves when a stream must end for reasons outside it, with what to tell the client.
pub type Ending = Pin<Box<dyn Future<Output = ApiError> + Send>>;

/// One streaming call: asked for its next answer whenever the client can take one.
pub trait Session: Send + 'static {
    /// What it answers with.
    type Answer: Send + 'static;

    /// The next answer; `None` ends the call well, an error ends it with that status.
    fn next(&mut self) -> impl Future<Output = Option<Result<Self::Answer, Status>>> + Send;
}

/// The session as the stream tonic wants.
pub fn serve<S: Session>(session: S) -> Answers<S::Answer> {
    Box::pin(futures::stream::unfold(Some(session), |session| async move {
        let mut session = session?;
        match session.next().await? {
            Ok(answer) => Some((Ok(answer), Some(session))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

/// The end that the member sets to streams: it stops, or (for clients that ask for it) has lost the leader for long.
pub fn ending(state: &Arc<State>, require_leader: bool) -> Ending {
    let state = Arc::clone(state);
    Box::pin(async move {
        if !require_leader {
            state.stopping.cancelled().await;
            return ApiError::Stopped;
        }
        tokio::select! {
            () = state.stopping.cancelled() => ApiError::Stopped,
            () = state.leader_loss.lost() => ApiError::NoLeader,
        }
    })
}
