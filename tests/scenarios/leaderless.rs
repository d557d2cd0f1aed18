//! What a client that asks for a connected member (`hasleader`) gets when the member has no leader; real etcd beside us.

use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use futures::FutureExt;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::member::Product;
use crate::harness::wait::{turn, until};

/// A lost leader is noticed by then, and the streams that care are ended.
const LOSS_LIMIT: Duration = Duration::from_secs(30);

/// The request, told to be refused rather than served by a member that is cut off.
fn wanting_a_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("metadata"));
    request
}

fn is_no_leader(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message() == "etcdserver: no leader"
}

/// A stream with one watcher of `a`, which it has told of. The sender keeps it open.
async fn watch(
    channel: Channel,
    has_leader: bool,
) -> Result<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>), Status> {
    let (requests, receiver) = mpsc::channel(1);
    let create = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(create).await.expect("there is room");
    let receiver = ReceiverStream::new(receiver);
    let request = if has_leader { wanting_a_leader(receiver) } else { Request::new(receiver) };
    let mut answers = WatchClient::new(channel).watch(request).await?.into_inner();
    assert!(answers.message().await?.is_some_and(|answer| answer.created));
    Ok((requests, answers))
}

/// A stream that keeps a lease alive and was answered once.
async fn keep_alive(
    channel: Channel,
) -> Result<(mpsc::Sender<pb::LeaseKeepAliveRequest>, Streaming<pb::LeaseKeepAliveResponse>), Status> {
    let mut lease = LeaseClient::new(channel);
    let id = lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: 0 }).await?.into_inner().id;
    let (requests, receiver) = mpsc::channel(1);
    requests.send(pb::LeaseKeepAliveRequest { id }).await.expect("there is room");
    let mut answers = lease.lease_keep_alive(wanting_a_leader(ReceiverStream::new(receiver))).await?.into_inner();
    assert!(answers.message().await?.is_some_and(|answer| answer.ttl == 600));
    Ok((requests, answers))
}

async fn ended<T>(stream: &mut Streaming<T>) -> Status {
    let next = tokio::time::timeout(LOSS_LIMIT, stream.message()).await.expect("the stream ends");
    match next {
        Err(status) => status,
        Ok(answer) => panic!("the stream {}", if answer.is_some() { "goes on" } else { "ended without a reason" }),
    }
}

async fn a_member_that_lost_its_leader_refuses_those_who_asked_for_one(product: Product) {
    let mut cluster = Cluster::start_in_memory(product, 3, &[]).await;
    let channel = cluster.channel(0).await.expect("the member accepts");
    let mut kv = KvClient::new(channel.clone());
    kv.put(pb::PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await.expect("a put");
    let (_asking, mut strict) = watch(channel.clone(), true).await.expect("a stream");
    let (_alive, mut kept) = keep_alive(channel.clone()).await.expect("a stream");
    let (_patient, mut patient) = watch(channel.clone(), false).await.expect("a stream");

    cluster.members[1].crash();
    cluster.members[2].crash();
    let read = pb::RangeRequest { key: "a".into(), serializable: true, ..Default::default() };
    until("a member alone refuses those who want a leader", LOSS_LIMIT, || {
        let (mut kv, read) = (kv.clone(), read.clone());
        async move {
            match kv.range(wanting_a_leader(read)).await {
                Err(status) if is_no_leader(&status) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    })
    .await;
    let others = kv.range(read.clone()).await.expect("a read of this member's own state").into_inner();
    assert_eq!(others.kvs.len(), 1, "those who did not ask are served");
    for status in [ended(&mut strict).await, ended(&mut kept).await] {
        assert!(is_no_leader(&status), "{product:?}: {status:?}");
    }
    let refused = watch(channel.clone(), true).await.err();
    assert!(refused.as_ref().is_some_and(is_no_leader), "{product:?}: {refused:?}");
    assert!(patient.message().now_or_never().is_none(), "a stream that did not ask stays");

    cluster.members[1].start();
    cluster.members[2].start();
    cluster.ready(0).await;
    until("a put", START_LIMIT, || {
        let put = pb::PutRequest { key: "a".into(), value: "2".into(), ..Default::default() };
        let mut kv = kv.clone();
        async move { kv.put(put).await.map(drop).map_err(|status| status.to_string()) }
    })
    .await;
    let event = patient.message().await.expect("the stream that stayed").expect("goes on");
    assert_eq!(event.events.len(), 1, "{product:?}: {event:?}");
    until("streams that want a leader are taken again", START_LIMIT, || {
        let channel = channel.clone();
        async move { watch(channel, true).await.map(drop).map_err(|status| status.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_leader_refuses_those_who_asked_for_one_here() {
    let _turn = turn().await;
    a_member_that_lost_its_leader_refuses_those_who_asked_for_one(Product::Ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_leader_refuses_those_who_asked_for_one_in_real_etcd() {
    let _turn = turn().await;
    a_member_that_lost_its_leader_refuses_those_who_asked_for_one(Product::Etcd).await;
}
