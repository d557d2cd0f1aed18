//! Calls needed to copy into the v3 keyspace: read many keys, create many at once, grant a lease, log in.

use prost::Message as _;

use super::{Client, ClientError, pb, timed};
use crate::proto::mvccpb;
use pb::auth_client::AuthClient;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::lease_client::LeaseClient;
use pb::request_op::Request;
use pb::response_op::Response;

/// A key to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// Lease id; 0 is none.
    pub lease: i64,
}

/// The outcome of creating a batch of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// All were created.
    Done,
    /// None was created, because some existed already: the existing values, in the order of the batch.
    Existing(Vec<Option<Vec<u8>>>),
}

impl Client {
    /// Logs in; the calls of the returned client carry the token.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with etcd's sentence.
    pub async fn log_in(&self, name: &str, password: &str) -> Result<Client, ClientError> {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
        let answer = AuthClient::new(self.channel.clone()).authenticate(timed(request)).await?.into_inner();
        let token = answer.token.parse().map_err(|_| ClientError::Answer("authenticate"))?;
        Ok(Client { token: Some(token), ..self.clone() })
    }

    /// The values of many keys at one revision, in the same order. The number of keys is limited by `--max-txn-ops`.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn get_all(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, ClientError> {
        let success = keys.iter().map(|key| read(key)).collect();
        let request = pb::TxnRequest { success, ..Default::default() };
        let answer = self.kv().txn(self.bearing(request)).await?.into_inner();
        values(answer, keys.len())
    }

    /// Creates all the keys, or none if any of them exists.
    ///
    /// # Errors
    /// [`ClientError::Refused`]; after a timeout the outcome is unknown, and a retry is safe.
    pub async fn create_all(&self, keys: &[NewKey]) -> Result<Creation, ClientError> {
        let absent = |new: &NewKey| pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Create.into(),
            key: new.key.clone().into(),
            target_union: Some(TargetUnion::CreateRevision(0)),
            ..Default::default()
        };
        let put = |new: &NewKey| pb::RequestOp {
            request: Some(Request::RequestPut(pb::PutRequest {
                key: new.key.clone().into(),
                value: new.value.clone().into(),
                lease: new.lease,
                ..Default::default()
            })),
        };
        let request = pb::TxnRequest {
            compare: keys.iter().map(absent).collect(),
            success: keys.iter().map(put).collect(),
            failure: keys.iter().map(|new| read(&new.key)).collect(),
        };
        let answer = self.kv().txn(self.bearing(request)).await?.into_inner();
        if answer.succeeded {
            return Ok(Creation::Done);
        }
        values(answer, keys.len()).map(Creation::Existing)
    }

    /// Grants a lease of `ttl` seconds and returns its id.
    ///
    /// # Errors
    /// [`ClientError::Refused`].
    pub async fn grant(&self, ttl: i64) -> Result<i64, ClientError> {
        let request = self.bearing(pb::LeaseGrantRequest { ttl, id: 0 });
        Ok(LeaseClient::new(self.channel.clone()).lease_grant(request).await?.into_inner().id)
    }

    fn bearing<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = timed(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}

fn read(key: &[u8]) -> pb::RequestOp {
    let range = pb::RangeRequest { key: key.to_vec().into(), ..Default::default() };
    pb::RequestOp { request: Some(Request::RequestRange(range)) }
}

/// The value, if any, from each range response of a transaction.
fn values(answer: pb::TxnResponse, count: usize) -> Result<Vec<Option<Vec<u8>>>, ClientError> {
    let wrong = ClientError::Answer("txn");
    if answer.responses.len() != count {
        return Err(wrong);
    }
    let value = |op: pb::ResponseOp| match op.response {
        Some(Response::ResponseRange(range)) => match range.kvs.into_iter().next() {
            None => Ok(None),
            Some(encoded) => mvccpb::KeyValue::decode(encoded)
                .map(|kv| Some(kv.value.to_vec()))
                .map_err(|_| ClientError::Answer("txn")),
        },
        _ => Err(ClientError::Answer("txn")),
    };
    answer.responses.into_iter().map(value).collect()
}
