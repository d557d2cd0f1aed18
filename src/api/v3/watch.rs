//! The Watch service: one stream, many watchers. Which events go to whom is the hub's work (`crate::watch`); here
//! requests become watchers and their output becomes etcd's messages.
//!
//! A stream has no task of its own: it takes requests and events when its connection can write. `created` is queued
//! before the hub is asked for events, so it always comes first.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Request, Response as Reply, Status, Streaming};

use crate::api::call::{Audience, Call};
use crate::api::error::ApiError;
use crate::api::state::State;
use crate::api::stream::{self, Answers, Ending, Session};
use crate::model::view::KeyRange;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::watch::{WatchCreate, WatchOutput, WatchStream};

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
                    Ok(Some(request)) => self.obey(request),
                    Ok(None) => self.half_closed = true,
                    Err(status) => return Some(Err(end_of(status))),
                },
                output = self.watchers.next() => self.send(output),
            }
        }
    }
}

impl Watching {
    fn obey(&mut self, request: pb::WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let reply = self.create(create);
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

    fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        match checked(request).and_then(|create| self.watchers.create(create).map_err(|refusal| refusal.to_string())) {
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

    fn send(&mut self, output: WatchOutput) {
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

/// What the hub is asked to watch, or etcd's reason to refuse.
fn checked(request: pb::WatchCreateRequest) -> Result<WatchCreate, String> {
    let filters = |kind: FilterType| request.filters.contains(&kind.into());
    let (no_put, no_delete) = (filters(FilterType::Noput), filters(FilterType::Nodelete));
    // No key at all means the smallest one.
    let key = if request.key.is_empty() { Bytes::from_static(&[0]) } else { request.key };
    let range = KeyRange::new(key, request.range_end);
    if range.is_empty() {
        return Err("mvcc: watcher range is empty".to_owned());
    }
    if request.start_revision < 0 {
        return Err(ApiError::Compacted.to_string());
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
        let call = Call::admit(&self.0, request.metadata().as_ref(), Audience::Voters)?;
        let session = Watching {
            state: Arc::clone(&self.0),
            requests: request.into_inner(),
            half_closed: false,
            watchers: self.0.hub.open_stream(),
            replies: VecDeque::new(),
            ending: stream::ending(&self.0, call.require_leader),
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
    fn no_key_means_every_key_from_the_smallest() {
        let create = checked(request(b"", b"\0")).expect("a legal request");
        assert_eq!(create.range, KeyRange::Span { start: Bytes::from_static(b"\0"), end: None });
        let create = checked(request(b"", b"")).expect("a legal request");
        assert_eq!(create.range, KeyRange::One(Bytes::from_static(b"\0")));
    }

    #[test]
    fn impossible_watches_are_refused_in_etcds_words() {
        assert_eq!(checked(request(b"b", b"a")).err().as_deref(), Some("mvcc: watcher range is empty"));
        assert_eq!(checked(request(b"b", b"b")).err().as_deref(), Some("mvcc: watcher range is empty"));
        let negative = pb::WatchCreateRequest { start_revision: -1, ..request(b"a", b"") };
        assert_eq!(checked(negative).err().as_deref(), Some("etcdserver: mvcc: required revision has been compacted"));
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
