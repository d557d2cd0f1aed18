//! v3: KV, transactions, leases and compaction.
//!
//! `DIFF_OPS` sets how many operations, `DIFF_SEED` which; the seed of a failure is printed.

use std::fmt::Debug;

use etcd_charm::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tonic::transport::Channel;

use super::generate::{Call, Generator};
use super::mask;
use crate::harness::cluster::Cluster;
use crate::harness::member::Product;
use crate::harness::wait::setting;

struct Server {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
}

/// An answer with everything that may differ taken out.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Put(pb::PutResponse),
    Range(pb::RangeResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    Leases(Vec<i64>),
    Refused(i32, String),
}

impl Server {
    async fn connect(cluster: &Cluster) -> Self {
        let channel = cluster.channel(0).await.expect("the server accepts");
        Self { kv: KvClient::new(channel.clone()), lease: LeaseClient::new(channel) }
    }

    async fn ask(&mut self, call: &Call) -> Answer {
        match self.call(call).await {
            Ok(answer) => answer,
            Err(status) => Answer::Refused(status.code() as i32, status.message().to_owned()),
        }
    }

    async fn call(&mut self, call: &Call) -> Result<Answer, tonic::Status> {
        Ok(match call.clone() {
            Call::Put(request) => {
                let mut answer = self.kv.put(request).await?.into_inner();
                mask::header(&mut answer.header);
                Answer::Put(answer)
            }
            Call::Range(request) => {
                let mut answer = self.kv.range(request.clone()).await?.into_inner();
                mask::range(&request, &mut answer);
                Answer::Range(answer)
            }
            Call::Delete(request) => {
                let mut answer = self.kv.delete_range(request).await?.into_inner();
                mask::header(&mut answer.header);
                Answer::Delete(answer)
            }
            Call::Txn(request) => {
                let mut answer = self.kv.txn(request.clone()).await?.into_inner();
                mask::txn(&request, &mut answer);
                Answer::Txn(answer)
            }
            Call::Compact(request) => {
                let mut answer = self.kv.compact(request).await?.into_inner();
                mask::header(&mut answer.header);
                Answer::Compact(answer)
            }
            Call::Grant(request) => {
                let mut answer = self.lease.lease_grant(request).await?.into_inner();
                mask::header(&mut answer.header);
                Answer::Grant(answer)
            }
            Call::Revoke(request) => {
                let mut answer = self.lease.lease_revoke(request).await?.into_inner();
                mask::header(&mut answer.header);
                Answer::Revoke(answer)
            }
            Call::TimeToLive(request) => {
                let mut answer = self.lease.lease_time_to_live(request).await?.into_inner();
                mask::header(&mut answer.header);
                // Remaining seconds run on while the two servers are asked in turn.
                answer.ttl = answer.ttl.min(0);
                answer.keys.sort();
                Answer::TimeToLive(answer)
            }
            Call::Leases => {
                let answer = self.lease.lease_leases(pb::LeaseLeasesRequest {}).await?.into_inner();
                let mut ids: Vec<i64> = answer.leases.iter().map(|lease| lease.id).collect();
                ids.sort_unstable();
                Answer::Leases(ids)
            }
        })
    }
}

impl Answer {
    fn revision(&self) -> Option<i64> {
        let header = match self {
            Self::Put(answer) => &answer.header,
            Self::Range(answer) => &answer.header,
            Self::Delete(answer) => &answer.header,
            Self::Txn(answer) => &answer.header,
            _ => return None,
        };
        header.as_ref().map(|header| header.revision)
    }
}

#[tokio::test]
async fn random_v3_operations_answer_as_etcd_answers_them() {
    let (operations, seed) = (setting("DIFF_OPS", 20_000), setting("DIFF_SEED", 1));
    let (etcd, ours) =
        (Cluster::start_in_memory(Product::Etcd, 1, &[]).await, Cluster::start_in_memory(Product::Ours, 1, &[]).await);
    let (mut etcd_server, mut our_server) = (Server::connect(&etcd).await, Server::connect(&ours).await);
    let mut generator = Generator { random: SmallRng::seed_from_u64(seed), revision: 1, compacted: 0 };
    let mut refused = 0u64;
    for n in 0..operations {
        let call = generator.next();
        let (expected, got) = (etcd_server.ask(&call).await, our_server.ask(&call).await);
        assert!(expected == got, "operation {n} of seed {seed}: {call:#?}\netcd: {expected:#?}\nours: {got:#?}");
        refused += u64::from(matches!(got, Answer::Refused(..)));
        generator.revision = expected.revision().unwrap_or(generator.revision);
        if let (Call::Compact(request), Answer::Compact(_)) = (&call, &expected) {
            generator.compacted = request.revision;
        }
    }
    println!("{operations} operations of seed {seed} answered alike, {refused} of them refused alike");
    assert!(refused < operations / 2, "most operations must succeed for the comparison to mean something");
}
