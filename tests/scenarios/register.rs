//! One client of the registers: linearizable reads, puts, and swaps by modification revision.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use etcd_charm::proto::etcdserverpb as pb;
use etcd_charm::proto::mvccpb::KeyValue;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::kv_client::KvClient;
use pb::request_op::Request;
use pb::response_op::Response;
use prost::Message;
use rand::Rng;
use rand::rngs::SmallRng;
use tonic::transport::Channel;

use crate::harness::history::{Kind, Outcome, Version};

const KEYS: usize = 10;
/// Short, so that a client cut off asks often.
const CALL_LIMIT: Duration = Duration::from_millis(500);

pub struct Register {
    kv: KvClient<Channel>,
}

/// A random key and what to do with it. `known` is the newest revision the client has seen of each key.
pub fn operation(random: &mut SmallRng, value: &str, known: &HashMap<String, i64>) -> (String, Kind) {
    let key = format!("register{}", random.random_range(0..KEYS));
    let value = value.to_owned();
    let kind = match random.random_range(0..10) {
        0..5 => Kind::Read,
        5..7 => Kind::Put { value },
        _ => Kind::Swap { value, expected: known.get(&key).copied().unwrap_or(0) },
    };
    (key, kind)
}

fn version(kvs: &[bytes::Bytes]) -> Option<Version> {
    let kv = KeyValue::decode(kvs.first()?.clone()).expect("a key-value");
    Some(Version { revision: kv.mod_revision, value: String::from_utf8_lossy(&kv.value).into_owned() })
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.expect("every answer has a header").revision
}

impl Register {
    pub fn new(channel: Channel) -> Self {
        Self { kv: KvClient::new(channel) }
    }

    /// A write of a key that is no register.
    ///
    /// # Errors
    /// Why it was not acknowledged.
    pub async fn probe(&mut self) -> Result<(), String> {
        let request = pb::PutRequest { key: "probe".into(), ..Default::default() };
        let call = tokio::time::timeout(CALL_LIMIT, self.kv.put(request));
        call.await.map_err(|_| "no answer".to_owned())?.map(|_| ()).map_err(|status| status.to_string())
    }

    /// Does it and tells what came of it. Every error counts as "may have happened".
    pub async fn ask(&mut self, (key, kind): &(String, Kind), clock: Instant) -> Outcome {
        let call = async {
            match kind {
                Kind::Read => self.read(key, clock).await,
                Kind::Put { value } => self.put(key, value, clock).await,
                Kind::Swap { value, expected } => self.swap(key, value, *expected, clock).await,
            }
        };
        match tokio::time::timeout(CALL_LIMIT, call).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => {
                // A member that refuses at once must not be asked a thousand times a second.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Outcome::Unknown
            }
        }
    }

    async fn read(&mut self, key: &str, clock: Instant) -> Result<Outcome, tonic::Status> {
        let request = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let answer = self.kv.range(request).await?.into_inner();
        Ok(Outcome::Saw { ended: clock.elapsed(), revision: revision(answer.header), state: version(&answer.kvs) })
    }

    async fn put(&mut self, key: &str, value: &str, clock: Instant) -> Result<Outcome, tonic::Status> {
        let request =
            pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        let answer = self.kv.put(request).await?.into_inner();
        Ok(Outcome::Written { ended: clock.elapsed(), revision: revision(answer.header) })
    }

    async fn swap(&mut self, key: &str, value: &str, expected: i64, clock: Instant) -> Result<Outcome, tonic::Status> {
        let put = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        let read = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        let request = pb::TxnRequest {
            compare: vec![pb::Compare {
                result: CompareResult::Equal as i32,
                target: CompareTarget::Mod as i32,
                key: key.to_owned().into(),
                range_end: bytes::Bytes::new(),
                target_union: Some(TargetUnion::ModRevision(expected)),
            }],
            success: vec![pb::RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![pb::RequestOp { request: Some(Request::RequestRange(read)) }],
        };
        let answer = self.kv.txn(request).await?.into_inner();
        let (ended, revision) = (clock.elapsed(), revision(answer.header));
        if answer.succeeded {
            return Ok(Outcome::Written { ended, revision });
        }
        let response = answer.responses.into_iter().next().and_then(|operation| operation.response);
        let Some(Response::ResponseRange(range)) = response else {
            return Err(tonic::Status::internal("a swap that did not match must show the key"));
        };
        Ok(Outcome::Saw { ended, revision, state: version(&range.kvs) })
    }
}
