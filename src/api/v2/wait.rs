//! Responses that wait: headers at once, then one event, or with `stream=true` one after another.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;

use super::guard::Controls;
use super::hub::{Waiter, Wish};
use super::keys::{broken, refused, with_raft};
use super::request::KeyRequest;
use super::{V2, json};
use crate::api::body::ClientBody;
use crate::model::v2;
use crate::model::v2::types::{Error, code};

/// Waits for an event, from the window when it has happened already. The head of the answer is sent at once.
pub(super) fn answer(v2: &Arc<V2>, request: &KeyRequest) -> Response<ClientBody> {
    let moment = || {
        let view = v2.state.store.view();
        v2::index(&view).and_then(|now| Ok((now, v2::window_begins_at(&view)?)))
    };
    let (now, oldest) = match moment() {
        Ok(moment) => moment,
        Err(error) => return broken(&error),
    };
    let since = if request.wait_index == 0 { now + 1 } else { request.wait_index };
    if let Some(refusal) = cleared(since, now, oldest) {
        return refused(&refusal);
    }
    let wish = Wish { path: request.path.clone(), recursive: request.recursive, stream: request.stream, since };
    match v2.hub.wait(&wish, || v2.state.store.view()) {
        Ok(waiter) => {
            // The window may have moved on meanwhile, and what was asked for may have left it unseen.
            let (later, oldest) = moment().unwrap_or((now, oldest));
            if let Some(refusal) = cleared(since, later, oldest) {
                return refused(&refusal);
            }
            let body = Events { v2: v2.clone(), waiter, stream: request.stream, under: Controls::now(v2), done: false };
            with_raft(v2, now, json(StatusCode::OK, ClientBody::streamed(body)))
        }
        Err(error) => broken(&error),
    }
}

/// The refusal of a wait that begins before the window, from `oldest` on, of a keyspace at `now`.
fn cleared(since: u64, now: u64, oldest: u64) -> Option<Error> {
    (since < oldest).then(|| {
        let cause = format!("the requested history has been cleared [{oldest}/{since}]");
        Error { code: code::EVENT_INDEX_CLEARED, cause: cause.into(), index: now }
    })
}

/// The body of a waiting response: driven by the connection that reads it.
struct Events {
    v2: Arc<V2>,
    waiter: Waiter,
    stream: bool,
    /// What the client was judged by. When a switch has been moved since, he must ask again.
    under: Controls,
    done: bool,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let next = ready!(self.waiter.poll_next(cx)).filter(|_| self.under == Controls::now(&self.v2));
        let Some(index) = next else {
            self.done = true;
            return Poll::Ready(None);
        };
        self.done = !self.stream;
        let stored = || match v2::event_at(&self.v2.state.store.view(), index) {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(%error, index, "cannot read the window of v2 events");
                None
            }
        };
        let line = self.v2.hub.line(index, stored);
        // An event that left the window before this client took it: an end, not a gap.
        self.done |= line.is_none();
        Poll::Ready(line.map(|line| Ok(Frame::data(line))))
    }
}
