//! Watch streams through the whole member.

use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::kv::put;
use super::member::{Member, ok, start};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb::Event;

/// Longest wait for a message that must come.
const PATIENCE: Duration = Duration::from_secs(10);

struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn open(member: &Member) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = pb::watch_client::WatchClient::new(member.service());
        let answers = ok(client.watch(ReceiverStream::new(receiver)).await);
        Self { requests, answers }
    }

    async fn ask(&self, request: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(request) }).await.expect("an open stream");
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        self.next().await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let message = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("a message in time");
        message.expect("no error").expect("an open stream")
    }
}

fn on(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.to_owned().into(), ..Default::default() }
}

fn events(response: &pb::WatchResponse) -> Vec<Event> {
    response.events.iter().map(|event| Event::decode(event.clone()).expect("an event")).collect()
}

#[tokio::test]
async fn a_watch_is_created_sees_changes_and_is_canceled() {
    let member = start().await;
    let mut stream = Watching::open(&member).await;
    let created = stream.create(on("k")).await;
    assert!(created.created && !created.canceled);
    assert_eq!((created.watch_id, created.header.expect("a header").revision), (0, 1));
    ok(member.kv().put(put("other", "x")).await);
    ok(member.kv().put(put("k", "1")).await);
    let message = stream.next().await;
    let seen = events(&message);
    assert_eq!(seen.len(), 1);
    let kv = seen[0].kv.as_ref().expect("a record");
    assert_eq!((&kv.key[..], kv.mod_revision), (&b"k"[..], 3));
    assert_eq!(message.header.expect("a header").revision, 3);
    stream.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 77 })).await;
    stream.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.cancel_reason.is_empty(), "the unknown id is met with silence");
    assert_eq!(canceled.watch_id, 0);
}

#[tokio::test]
async fn a_watch_from_the_past_replays_history_with_previous_values() {
    let member = start().await;
    ok(member.kv().put(put("k", "1")).await);
    ok(member.kv().put(put("k", "2")).await);
    let mut stream = Watching::open(&member).await;
    stream.create(pb::WatchCreateRequest { start_revision: 2, prev_kv: true, ..on("k") }).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(events(&stream.next().await));
    }
    assert!(seen[0].prev_kv.is_none());
    assert_eq!(seen[1].prev_kv.as_ref().expect("asked for").value, "1");
}

#[tokio::test]
async fn refused_creates_leave_the_stream_open() {
    let member = start().await;
    let mut stream = Watching::open(&member).await;
    let empty = stream.create(pb::WatchCreateRequest { range_end: "a".into(), ..on("b") }).await;
    assert!(empty.created && empty.canceled);
    assert_eq!((empty.watch_id, empty.cancel_reason.as_str()), (-1, "mvcc: watcher range is empty"));
    let negative = stream.create(pb::WatchCreateRequest { start_revision: -1, ..on("b") }).await;
    assert_eq!(negative.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(stream.create(pb::WatchCreateRequest { watch_id: 5, ..on("k") }).await.watch_id, 5);
    let twice = stream.create(pb::WatchCreateRequest { watch_id: 5, ..on("k") }).await;
    assert!(twice.created && twice.canceled);
    assert_eq!(twice.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    ok(member.kv().put(put("k", "1")).await);
    assert_eq!(stream.next().await.watch_id, 5, "the first watcher still works");
}

#[tokio::test]
async fn a_watch_below_the_compaction_is_created_then_canceled_with_the_revision() {
    let member = start().await;
    for value in ["1", "2", "3"] {
        ok(member.kv().put(put("k", value)).await);
    }
    ok(member.kv().compact(pb::CompactionRequest { revision: 4, physical: true }).await);
    let mut stream = Watching::open(&member).await;
    let created = stream.create(pb::WatchCreateRequest { start_revision: 2, ..on("k") }).await;
    assert!(created.created && !created.canceled);
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.cancel_reason.is_empty());
    assert_eq!((canceled.compact_revision, canceled.header.expect("a header").revision), (4, 0));
}

#[tokio::test]
async fn progress_is_told_for_the_whole_stream_on_request() {
    let member = start().await;
    let mut stream = Watching::open(&member).await;
    stream.create(on("k")).await;
    ok(member.kv().put(put("unwatched", "1")).await);
    stream.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.expect("a header").revision, 2);
}

#[tokio::test]
async fn a_quiet_watcher_hears_of_progress_by_itself_when_it_asked_for_that() {
    let member = start().await;
    let mut stream = Watching::open(&member).await;
    stream.create(pb::WatchCreateRequest { progress_notify: true, ..on("k") }).await;
    ok(member.kv().put(put("unwatched", "1")).await);
    loop {
        let message = stream.next().await;
        assert_eq!((message.watch_id, message.events.len()), (0, 0));
        if message.header.expect("a header").revision == 2 {
            return;
        }
    }
}

#[tokio::test]
async fn the_stream_outlives_the_clients_half_close_and_ends_when_the_member_stops() {
    let member = start().await;
    let mut stream = Watching::open(&member).await;
    stream.create(on("k")).await;
    let (closed, _) = mpsc::channel(1);
    drop(std::mem::replace(&mut stream.requests, closed));
    ok(member.kv().put(put("k", "1")).await);
    assert_eq!(events(&stream.next().await).len(), 1);
    member.state.stopping.cancel();
    let status = stream.answers.message().await.expect_err("the member stops");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
}

#[tokio::test]
async fn a_stream_given_up_by_its_client_counts_as_canceled() {
    let member = start().await;
    let mut stream = Watching::open(&member).await;
    stream.create(on("k")).await;
    drop(stream);
    let line = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
                grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 1";
    assert!(crate::api::exposition::render(&member.state).lines().any(|found| found == line));
}
