//! A continuous load of unique keys through all members, and the proof that none of what was acknowledged is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use etcd_charm::proto::mvccpb::KeyValue;
use pb::kv_client::KvClient;
use prost::Message;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::harness::cluster::{Cluster, START_LIMIT};
use crate::harness::wait::until;

const CALL_LIMIT: Duration = Duration::from_secs(2);
/// Between two tries at a member that is away.
const RETRY: Duration = Duration::from_millis(20);
const WRITERS_PER_MEMBER: usize = 4;
const PAGE: i64 = 10_000;

/// What all writers and readers know together.
#[derive(Default)]
struct Shared {
    /// First part of the keys.
    name: String,
    stop: AtomicBool,
    /// Highest revision of a linearizable answer: no later one may be lower.
    agreed: AtomicI64,
    acknowledged: AtomicI64,
}

/// Running writers and readers.
pub struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Written>>,
    readers: Vec<JoinHandle<u64>>,
}

/// Serial numbers one writer got acknowledged (with revisions), and how many it tried.
struct Written {
    writer: usize,
    acknowledged: Vec<(u64, i64)>,
    tried: u64,
}

/// All that was acknowledged.
pub struct Acknowledged {
    name: String,
    writers: Vec<Written>,
}

impl Load {
    /// Writers through every member, and one reader at each that sees to it that no answer of the member goes back.
    /// All keys start with `name`, which must not have been used before.
    pub fn start(cluster: &Cluster, name: &str) -> Self {
        let shared = Arc::new(Shared { name: name.to_owned(), ..Default::default() });
        let members = cluster.members.len();
        let writer = |n| tokio::spawn(write(n, cluster.lasting_channel(n % members), shared.clone()));
        let writers = (0..members * WRITERS_PER_MEMBER).map(writer).collect();
        let readers = (0..members).map(|n| tokio::spawn(read(n, cluster.lasting_channel(n), shared.clone()))).collect();
        Self { writers, readers, shared }
    }

    pub fn acknowledged(&self) -> i64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until writes get through.
    pub async fn proceeds(&self, writes: i64) {
        let goal = self.acknowledged() + writes;
        until("writes are acknowledged again", START_LIMIT, || async {
            let now = self.acknowledged();
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        })
        .await
    }

    /// Ends the load. Fails when an answer went back.
    pub async fn stop(self) -> Acknowledged {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut writers = Vec::new();
        for writer in self.writers {
            writers.push(writer.await.expect("no writer saw a fault"));
        }
        let mut reads = 0;
        for reader in self.readers {
            reads += reader.await.expect("no reader saw a fault");
        }
        println!("{} writes acknowledged, {reads} reads answered", self.shared.acknowledged.load(Ordering::Relaxed));
        Acknowledged { name: self.shared.name.clone(), writers }
    }
}

fn key(name: &str, writer: usize, serial: u64) -> String {
    format!("{name}/{writer:02}/{serial:08}")
}

async fn write(writer: usize, channel: Channel, shared: Arc<Shared>) -> Written {
    let mut kv = KvClient::new(channel);
    let mut written = Written { writer, acknowledged: Vec::new(), tried: 0 };
    while !shared.stop.load(Ordering::Relaxed) {
        let serial = written.tried;
        written.tried += 1;
        let before = shared.agreed.load(Ordering::SeqCst);
        let request = pb::PutRequest {
            key: key(&shared.name, writer, serial).into(),
            value: serial.to_string().into(),
            ..Default::default()
        };
        match tokio::time::timeout(CALL_LIMIT, kv.put(request)).await {
            Ok(Ok(answer)) => {
                let revision = answer.into_inner().header.map_or(0, |header| header.revision);
                assert!(revision > before, "a write got revision {revision} after {before} had been answered");
                shared.agreed.fetch_max(revision, Ordering::SeqCst);
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                written.acknowledged.push((serial, revision));
            }
            _ => tokio::time::sleep(RETRY).await,
        }
    }
    written
}

/// Serializable and linearizable reads in turn through one member.
async fn read(member: usize, channel: Channel, shared: Arc<Shared>) -> u64 {
    let mut kv = KvClient::new(channel);
    let (mut reads, mut served) = (0, 0);
    while !shared.stop.load(Ordering::Relaxed) {
        let serializable = reads % 2 == 0;
        let floor = if serializable { served } else { shared.agreed.load(Ordering::SeqCst).max(served) };
        let request = pb::RangeRequest { key: shared.name.clone().into(), serializable, ..Default::default() };
        match tokio::time::timeout(CALL_LIMIT, kv.range(request)).await {
            Ok(Ok(answer)) => {
                let revision = answer.into_inner().header.map_or(0, |header| header.revision);
                let kind = if serializable { "serializable" } else { "linearizable" };
                assert!(revision >= floor, "a {kind} read of member {member} answered {revision} after {floor}");
                if !serializable {
                    shared.agreed.fetch_max(revision, Ordering::SeqCst);
                }
                served = revision;
                reads += 1;
            }
            _ => tokio::time::sleep(RETRY).await,
        }
        tokio::task::yield_now().await;
    }
    reads
}

impl Acknowledged {
    pub fn count(&self) -> usize {
        self.writers.iter().map(|written| written.acknowledged.len()).sum()
    }

    /// Reads every key through member `n`: all that was acknowledged is there, written once, at the revision answered;
    /// and nothing nobody tried.
    pub async fn assert_all_in(&self, cluster: &Cluster, n: usize) {
        let mut found = all_keys(cluster.lasting_channel(n), &self.name).await;
        for written in &self.writers {
            for &(serial, revision) in &written.acknowledged {
                let key = key(&self.name, written.writer, serial);
                let kv = found.remove(&key).unwrap_or_else(|| panic!("lost: {key} acknowledged at {revision}"));
                assert_eq!((kv.mod_revision, kv.version), (revision, 1), "revision and version of {kv:?}");
                assert_eq!(kv.value, serial.to_string(), "value of {kv:?}");
            }
        }
        for key in found.keys() {
            let mut numbers = key.split('/').skip(1).map(|number| number.parse::<u64>().expect("a number"));
            let (writer, serial) = (numbers.next().expect("a writer"), numbers.next().expect("a serial number"));
            assert!(serial < self.writers[writer as usize].tried, "nobody wrote {key}");
        }
        println!(
            "member {n}: {} acknowledged writes there, and {} that nobody was told about",
            self.count(),
            found.len()
        );
    }
}

async fn all_keys(channel: Channel, name: &str) -> BTreeMap<String, KeyValue> {
    let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
    let (mut found, mut from) = (BTreeMap::new(), format!("{name}/").into_bytes());
    let end = format!("{name}0");
    loop {
        let request = pb::RangeRequest {
            key: from.clone().into(),
            range_end: end.clone().into(),
            limit: PAGE,
            ..Default::default()
        };
        let answer = kv.range(request).await.expect("a linearizable read").into_inner();
        for bytes in &answer.kvs {
            let kv = KeyValue::decode(bytes.clone()).expect("a key-value");
            from = [&kv.key[..], b"\0"].concat();
            found.insert(String::from_utf8_lossy(&kv.key).into_owned(), kv);
        }
        if !answer.more {
            return found;
        }
    }
}
