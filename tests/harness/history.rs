//! What clients of a run did and saw, and what the store says happened.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use etcd_charm::proto::mvccpb::Event;
use etcd_charm::proto::mvccpb::event::EventType;
use pb::kv_client::KvClient;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use prost::Message;
use tonic::transport::Channel;

/// One write that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub revision: i64,
    pub value: String,
}

/// Every version of every key, oldest first.
pub type Versions = BTreeMap<String, Vec<Version>>;

/// What an operation was and, once answered, saw. Times are offsets on one monotonic clock.
#[derive(Debug, Clone)]
pub struct Operation {
    pub key: String,
    pub kind: Kind,
    pub begun: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone)]
pub enum Kind {
    Read,
    Put {
        value: String,
    },
    /// Put when the key's modification revision is `expected`; zero means that there is no key.
    Swap {
        value: String,
        expected: i64,
    },
}

#[derive(Debug, Clone)]
pub enum Outcome {
    /// Written at `revision`.
    Written { ended: Duration, revision: i64 },
    /// The key was in this state at `revision` of the store: of a read, or of a swap that did not match.
    Saw { ended: Duration, revision: i64, state: Option<Version> },
    /// No answer: it may have happened, at any time from its beginning.
    Unknown,
}

impl Operation {
    /// The value it writes.
    pub fn value(&self) -> Option<&String> {
        match &self.kind {
            Kind::Read => None,
            Kind::Put { value } | Kind::Swap { value, .. } => Some(value),
        }
    }
}

/// Reads every change of the keys that start with `prefix` by a watch from the first revision, up to a mark it writes.
///
/// # Errors
/// The server's, and a watch that ends before the mark.
pub async fn versions(channel: Channel, prefix: &str) -> Result<Versions, String> {
    let text = |status: tonic::Status| status.to_string();
    let mark = format!("{prefix}~end");
    let request = pb::PutRequest { key: mark.clone().into(), ..Default::default() };
    KvClient::new(channel.clone()).put(request).await.map_err(text)?;
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().ok_or("a prefix must not be empty")? += 1;
    let create = pb::WatchCreateRequest {
        key: prefix.as_bytes().to_vec().into(),
        range_end: end.into(),
        start_revision: 1,
        ..Default::default()
    };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(request).await.map_err(|error| error.to_string())?;
    let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut stream =
        client.watch(tokio_stream::wrappers::ReceiverStream::new(receiver)).await.map_err(text)?.into_inner();
    let mut versions = Versions::new();
    loop {
        let answer = stream.message().await.map_err(text)?.ok_or("the watch ended")?;
        if answer.canceled {
            return Err(format!("the watch was cancelled: {answer:?}"));
        }
        for event in answer.events {
            let (key, version) = version(Event::decode(event).map_err(|error| error.to_string())?)?;
            if key == mark {
                return Ok(versions);
            }
            versions.entry(key).or_default().push(version);
        }
    }
}

fn version(event: Event) -> Result<(String, Version), String> {
    if event.r#type != EventType::Put as i32 {
        return Err(format!("nobody deletes in this run: {event:?}"));
    }
    let kv = event.kv.ok_or("an event without a key")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&kv.key), Version { revision: kv.mod_revision, value: text(&kv.value) }))
}
