//! The Watch service: one stream, many watchers. Which events go to whom is the hub's work (`crate::watch`); here
//! requests become watchers and their output becomes etcd's messages.
//!
//! A stream has no task of its own: it takes requests and events when its connection can write. `created` is queued
//! before the hub is asked for events, so it always comes first.
//!
//! With authentication on, a watcher needs the right to read its range when it is created and for as long as it lives:
//! after every change of users, roles and permissions, no event goes out before all watchers of the stream were looked
//! at again, and those that lost the right are canceled. (etcd looks only once.)

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Request, Response as Reply, Status, Streaming};

use crate::api::access;
use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::identity::Credentials;
use crate::api::state::State;
use crate::api::stream::{self, Answers, Ending, Session};
use crate::model::auth::AuthError;
use crate::model::view::KeyRange;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::watch::{Created, WatchCreate, WatchOutput, WatchStream};

/// The id in answers that concern no watcher: a refused create, progress of a whole stream.
const NO_WATCH_ID: i64 = -1;

/// One watch stream.
struct Watching {
    state: Arc<State>,
    requests: Streaming<pb::WatchRequest>,
    /// The client has said all it will. The stream goes on: it ends by cancel, disconnect or the server.
    half_closed: bool,
    watchers: WatchStream,
    /// Messages to send before the hub is asked for more: answers to requests, pieces of a large message.
    replies: VecDeque<pb::WatchResponse>,
    ending: Ending,
    credentials: Arc<Credentials>,
    /// Whose stream it is, once that was needed.
    user: Option<String>,
    /// The state of the auth store under which all watchers were permitted.
    permitted_at: u64,
    /// Resolves when that changes.
    auth_change: AuthChange,
}

type AuthChange = Pin<Box<dyn Future<Output = ()> + Send>>;

fn next_auth_change(state: &State) -> AuthChange {
    let mut changes = state.identities.changes();
    Box::pin(async move {
        if changes.changed().await.is_err() {
            // The member is gone, and says so by other means.
            std::future::pending::<()>().await;
        }
    })
}

impl Session for Watching {
    type Answer = pb::WatchResponse;

    async fn next(&mut self) -> Option<Result<Self::Answer, Status>> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Some(Ok(reply));
            }
            tokio::select! {
                error = &mut self.ending => return Some(Err(error.into())),
                request = self.requests.message(), if !self.half_closed => match request {
                    Ok(Some(request)) => self.obey(request).await,
                    Ok(None) => self.half_closed = true,
                    Err(status) => return Some(Err(end_of(status))),
                },
                output = self.watchers.next() => {
                    if self.is_outdated() {
                        Box::pin(self.look_again()).await;
                    }
                    self.send(output);
                }
                () = &mut self.auth_change => Box::pin(self.look_again()).await,
            }
        }
    }
}

impl Watching {
    async fn obey(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let reply = self.create(create).await;
                self.replies.push_back(reply);
            }
            Some(RequestUnion::CancelRequest(cancel)) => {
                // An unknown id is answered with silence.
                if self.watchers.cancel(cancel.watch_id) {
                    self.replies.push_back(pb::WatchResponse {
                        header: self.state.header_now(),
                        watch_id: cancel.watch_id,
                        canceled: true,
                        ..Default::default()
                    });
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => self.watchers.request_progress(),
            None => {}
        }
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        match self.try_create(request).await {
            Ok(created) => pb::WatchResponse {
                header: self.state.header(created.revision),
                watch_id: created.watch_id,
                created: true,
                ..Default::default()
            },
            Err(reason) => pb::WatchResponse {
                header: self.state.header_now(),
                watch_id: NO_WATCH_ID,
                created: true,
                canceled: true,
                cancel_reason: reason,
                ..Default::default()
            },
        }
    }

    /// In etcd's order: the start, the right, the range, the id.
    async fn try_create(&mut self, mut request: pb::WatchCreateRequest) -> Result<Created, String> {
        // No key at all means the smallest one.
        if request.key.is_empty() {
            request.key = Bytes::from_static(&[0]);
        }
        if request.start_revision < 0 {
            return Err(ApiError::Compacted.to_string());
        }
        let call = Call::on_stream(&self.state, &self.credentials);
        match access::watch(&self.state, &call, &request.key, &request.range_end).await {
            Ok(user) => self.user = user.or(self.user.take()),
            Err(error) => return Err(as_status(error)),
        }
        let create = checked(request)?;
        self.watchers.create(create).map_err(|refusal| refusal.to_string())
    }

    /// Whether the auth store changed since all watchers were permitted.
    fn is_outdated(&self) -> bool {
        self.state.store.auth_mark().state() != self.permitted_at
    }

    /// Cancels every watcher whose user may no longer read its range.
    async fn look_again(&mut self) {
        // In this order: a change in between is one too many, not one too few.
        self.auth_change = next_auth_change(&self.state);
        self.permitted_at = self.state.store.auth_mark().state();
        let auth = self.state.store.auth();
        if !auth.is_enabled() {
            return;
        }
        let lost: Vec<(i64, ApiError)> = match self.whose().await {
            Ok(user) => {
                let verdict = |range: &KeyRange| {
                    let (key, range_end) = range.as_pair();
                    auth.still_reads(&user, key, range_end)
                };
                let ranges = self.watchers.ranges();
                ranges.filter_map(|(id, range)| Some((id, verdict(range).err()?.into()))).collect()
            }
            Err(error) => self.watchers.ranges().map(|(id, _)| (id, error)).collect(),
        };
        for (id, error) in lost {
            self.watchers.cancel(id);
            self.replies.push_back(pb::WatchResponse {
                header: self.state.header_now(),
                watch_id: id,
                canceled: true,
                cancel_reason: as_status(error),
                ..Default::default()
            });
        }
    }

    /// Whose the stream is. It may have been opened while authentication was off.
    async fn whose(&mut self) -> Result<String, ApiError> {
        if let Some(user) = &self.user {
            return Ok(user.clone());
        }
        let by = Call::on_stream(&self.state, &self.credentials).identity(&self.state).await?;
        if by.is_nobody() {
            return Err(ApiError::Auth(AuthError::UserEmpty));
        }
        self.user = Some(by.user.clone());
        Ok(by.user)
    }

    /// Passes a message of the hub on, unless its watcher was just canceled.
    fn send(&mut self, output: WatchOutput) {
        let gone = |reply: &pb::WatchResponse| reply.canceled && reply.watch_id == output.watch_id;
        if self.replies.iter().any(gone) {
            return;
        }
        let fragment = output.fragment;
        let message = pb::WatchResponse {
            header: self.state.header(output.header_revision),
            watch_id: output.watch_id,
            canceled: output.canceled,
            compact_revision: output.compact_revision,
            events: output.events,
            ..Default::default()
        };
        if fragment {
            self.replies.extend(fragments(message, self.state.limits.max_message_bytes()));
        } else {
            self.replies.push_back(message);
        }
    }
}

/// How a stream ends whose requests broke off: as canceled by its client, unless what it sent was at fault.
fn end_of(status: Status) -> Status {
    match status.code() {
        Code::Cancelled | Code::Unknown | Code::Unavailable => ApiError::WatchCanceled.into(),
        _ => status,
    }
}

/// A message in pieces below `limit` bytes, as far as single events allow; every piece but the last says so.
fn fragments(message: pb::WatchResponse, limit: usize) -> Vec<pb::WatchResponse> {
    if message.events.len() < 2 || message.encoded_len() < limit {
        return vec![message];
    }
    let empty = pb::WatchResponse { events: Vec::new(), fragment: true, ..message.clone() };
    let overhead = empty.encoded_len();
    let (mut pieces, mut piece, mut size) = (Vec::new(), empty.clone(), overhead);
    for event in message.events {
        // One byte of tag beside the length and the bytes.
        let cost = 1 + prost::length_delimiter_len(event.len()) + event.len();
        if !piece.events.is_empty() && size + cost >= limit {
            pieces.push(std::mem::replace(&mut piece, empty.clone()));
            size = overhead;
        }
        piece.events.push(event);
        size += cost;
    }
    piece.fragment = false;
    pieces.push(piece);
    pieces
}

/// An error as etcd writes it into the reason of a cancel: the way Go prints a status.
fn as_status(error: ApiError) -> String {
    let (code, sentence) = error.row();
    format!("rpc error: code = {code:?} desc = {sentence}")
}

/// What the hub is asked to watch, or etcd's reason to refuse.
fn checked(request: pb::WatchCreateRequest) -> Result<WatchCreate, String> {
    let filters = |kind: FilterType| request.filters.contains(&kind.into());
    let (no_put, no_delete) = (filters(FilterType::Noput), filters(FilterType::Nodelete));
    let range = KeyRange::new(request.key, request.range_end);
    if range.is_empty() {
        return Err("mvcc: watcher range is empty".to_owned());
    }
    Ok(WatchCreate {
        range,
        watch_id: request.watch_id,
        start_revision: request.start_revision,
        progress_notify: request.progress_notify,
        no_put,
        no_delete,
        prev_kv: request.prev_kv,
        fragment: request.fragment,
    })
}

/// The gRPC face of this file.
#[derive(Clone)]
pub struct Watch(pub Arc<State>);

#[tonic::async_trait]
impl pb::watch_server::Watch for Watch {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Reply<Self::WatchStream>, Status> {
        let call = Call::of(&self.0, &request, Audience::Voters)?;
        let credentials = Arc::new(Credentials::of_request(&request));
        let session = Watching {
            state: Arc::clone(&self.0),
            requests: request.into_inner(),
            half_closed: false,
            watchers: self.0.hub.open_stream(call.source()),
            replies: VecDeque::new(),
            ending: stream::ending(&self.0, call.require_leader),
            credentials,
            user: None,
            auth_change: next_auth_change(&self.0),
            permitted_at: self.0.store.auth_mark().state(),
        };
        Ok(Reply::new(stream::serve(session)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: &'static [u8], range_end: &'static [u8]) -> pb::WatchCreateRequest {
        pb::WatchCreateRequest {
            key: Bytes::from_static(key),
            range_end: Bytes::from_static(range_end),
            ..Default::default()
        }
    }

    #[test]
    fn impossible_watches_are_refused_in_etcds_words() {
        assert_eq!(checked(request(b"b", b"a")).err().as_deref(), Some("mvcc: watcher range is empty"));
        assert_eq!(checked(request(b"b", b"b")).err().as_deref(), Some("mvcc: watcher range is empty"));
    }

    #[test]
    fn reasons_are_written_as_go_prints_a_status() {
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(as_status(ApiError::Auth(AuthError::Denied)), denied);
        let unknown = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        assert_eq!(as_status(ApiError::InvalidAuthToken), unknown);
    }

    #[test]
    fn large_messages_are_cut_between_events_and_small_ones_left_alone() {
        let event = Bytes::from(vec![7; 100]);
        let message = pb::WatchResponse { watch_id: 3, events: vec![event; 10], ..Default::default() };
        assert_eq!(fragments(message.clone(), 4096), std::slice::from_ref(&message));
        let pieces = fragments(message.clone(), 350);
        assert_eq!(pieces.iter().map(|piece| piece.events.len()).collect::<Vec<_>>(), [3, 3, 3, 1]);
        assert!(pieces.iter().all(|piece| piece.watch_id == 3 && piece.encoded_len() < 350));
        assert_eq!(pieces.iter().map(|piece| piece.fragment).collect::<Vec<_>>(), [true, true, true, false]);
        // An event larger than the limit goes alone.
        assert_eq!(fragments(message, 10).len(), 10);
    }

    #[test]
    fn filters_are_read_and_unknown_ones_ignored() {
        let filters = vec![FilterType::Noput.into(), 7];
        let create = checked(pb::WatchCreateRequest { filters, ..request(b"a", b"") }).expect("a legal request");
        assert!(create.no_put && !create.no_delete);
    }
}
