//! One real member to test against: log, state, consensus and the service in front of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};

use crate::api::http::HttpOptions;
use crate::api::identity::{Identities, IdentityOptions};
use crate::api::metrics::{Metrics, MetricsOptions};
use crate::api::service::ClientService;
use crate::api::state::{Limits, State};
use crate::clock::SystemClock;
use crate::model::view::View;
use crate::proto::etcdserverpb::auth_client::AuthClient;
use crate::proto::etcdserverpb::cluster_client::ClusterClient;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::raft::network::PeerTls;
use crate::raft::types::Member as Node;
use crate::raft::{LeaderDuties, RaftOptions, Renewal, Rules};
use crate::settings::{AllowList, AuthToken};
use crate::store::log::LogOptions;
use crate::store::{EventSink, Space, Store, StoreOptions};
use crate::watch::Hub;

/// Longest wait for the member to lead itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between progress messages of quiet watchers.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A cluster of one, in this process.
pub struct Member {
    pub state: Arc<State>,
}

/// Leases as a leader with a stopped clock would keep them: granted ones are always fresh.
#[derive(Default)]
struct FreshLeases(OnceLock<Store>);

impl LeaderDuties for FreshLeases {
    fn promoted(&self, _term: u64) {}
    fn demoted(&self) {}
    fn renew(&self, id: i64, _term: u64) -> Renewal {
        self.remaining(id).map_or(Renewal::Gone, Renewal::Renewed)
    }
    fn remaining(&self, id: i64) -> Option<i64> {
        let lease = self.0.get()?.view().lease(id).expect("a readable lease table");
        lease.map(|lease| lease.ttl)
    }
}

impl Member {
    pub const ID: u64 = 0xa1;
    pub const CLUSTER_ID: u64 = 0xc1;
    pub const PEER_URL: &str = "http://127.0.0.1:1";

    pub fn http_options(&self) -> HttpOptions {
        HttpOptions { cors: AllowList::Any, hosts: AllowList::Any, tls: false, gateway: true, debug: true }
    }

    pub fn service(&self) -> ClientService {
        ClientService::new(Arc::clone(&self.state), self.http_options(), None)
    }

    pub fn kv(&self) -> KvClient<ClientService> {
        KvClient::new(self.service())
    }

    pub fn lease(&self) -> LeaseClient<ClientService> {
        LeaseClient::new(self.service())
    }

    pub fn cluster(&self) -> ClusterClient<ClientService> {
        ClusterClient::new(self.service())
    }

    pub fn auth(&self) -> AuthClient<ClientService> {
        AuthClient::new(self.service())
    }

    pub fn maintenance(&self) -> MaintenanceClient<ClientService> {
        MaintenanceClient::new(self.service())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.state.stopping.cancel();
    }
}

/// A member with etcd's default limits.
pub async fn start() -> Member {
    start_with(|_limits| {}).await
}

/// A member with limits of the test's choice. Returns once it leads itself.
pub async fn start_with(adjust: impl FnOnce(&mut Limits)) -> Member {
    let options = IdentityOptions {
        token: AuthToken::Simple,
        token_ttl: Duration::from_secs(300),
        bcrypt_cost: 4,
        by_certificate: false,
    };
    start_as(options, adjust).await
}

/// The same, with clients known as the test chooses.
pub async fn start_as(options: IdentityOptions, adjust: impl FnOnce(&mut Limits)) -> Member {
    // In memory: a disk that stalls for longer than a request may take says nothing about the API.
    let dir = Arc::new(tempfile::tempdir_in("/dev/shm").expect("a temporary directory"));
    let space = Space::unbounded();
    space.hold(dir.clone());
    let mut limits = Limits {
        max_request_bytes: 1_572_864,
        max_txn_ops: 128,
        quota_bytes: Some(2 << 30),
        heartbeat: Duration::from_millis(20),
        election_timeout: Duration::from_millis(100),
    };
    adjust(&mut limits);
    let metrics = Arc::new(Metrics::new(MetricsOptions::default()));
    let small = 64 << 10;
    let log_options = LogOptions {
        segment_bytes: 4 << 20,
        first_segment_bytes: small,
        on_sync: Some(metrics.sync_observer()),
        space: space.clone(),
        ..LogOptions::default()
    };
    let (log, watermark) = crate::store::log::open(&dir.path().join("wal"), log_options).expect("a fresh log");
    let (store, machine) = crate::store::open(dir.path(), StoreOptions { space, ..StoreOptions::default() }, watermark)
        .expect("a fresh state");
    let duties = Arc::new(FreshLeases::default());
    assert!(duties.0.set(store.clone()).is_ok());
    let rules = Rules {
        heartbeat: limits.heartbeat,
        election: limits.election_timeout,
        pre_vote: true,
        snapshot_count: 10_000,
        catchup_entries: 5_000,
        log_bytes: 1 << 30,
        max_wals: 5,
        strict_reconfig: true,
        max_learners: 1,
        request_timeout: limits.request_timeout(),
    };
    let consensus = crate::raft::start(RaftOptions {
        id: Member::ID,
        cluster_id: Member::CLUSTER_ID,
        rules,
        force_alone: false,
        log,
        machine,
        store: store.clone(),
        tls: PeerTls::Plain,
        duties,
    })
    .await
    .expect("consensus starts");
    let node = Node {
        name: "one".to_owned(),
        peer_urls: vec![Member::PEER_URL.to_owned()],
        client_urls: vec!["http://127.0.0.1:2".to_owned()],
    };
    consensus.bootstrap(BTreeMap::from([(Member::ID, node)])).await.expect("a first membership");
    let mut leader = consensus.leader_watch();
    let led = tokio::time::timeout(PATIENCE, leader.wait_for(|now| now.leader == Some(Member::ID))).await;
    drop(led.expect("a leader in time").expect("consensus runs"));
    let hub = Hub::new(store.clone(), PROGRESS_EVERY);
    let sink: Arc<dyn EventSink> = hub.clone();
    store.subscribe(sink);
    let identities = Identities::new(&options, Arc::new(SystemClock::new())).expect("keys that can be used");
    identities.open();
    let state = State::new(consensus, store, hub, limits, metrics, identities, CancellationToken::new());
    Member { state }
}

/// The answer of a call that must succeed.
pub fn ok<T>(answer: Result<Response<T>, Status>) -> T {
    answer.expect("the call succeeds").into_inner()
}

/// Checks that a call was refused with this code and sentence.
pub fn refused<T: Debug>(answer: Result<Response<T>, Status>, (code, sentence): (Code, &str)) {
    let status = answer.expect_err("the call is refused");
    assert_eq!((status.code(), status.message()), (code, sentence));
}
