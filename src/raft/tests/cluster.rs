//! A cluster to test with: start members, stop them, wait for what must become true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use crate::admission::Admission;
use crate::model::command::{self, Command};
use crate::model::effects::Applied;
use crate::model::view::View;
use crate::proto::etcdserverpb::PutRequest;
use crate::raft::network::{PeerListener, PeerTls, serve};
use crate::raft::types::{Member, NodeId};
use crate::raft::{Consensus, LeaderDuties, ProposeError, RaftOptions, Renewal, Rules, start};
use crate::store::log::LogOptions;
use crate::store::{Space, Store, StoreOptions};

/// The longest anything here may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const CLUSTER: u64 = 0xc1;

/// Duties of somebody without any.
struct Nothing;

impl LeaderDuties for Nothing {
    fn promoted(&self, _term: u64) {}
    fn demoted(&self) {}
    fn renew(&self, id: i64, _term: u64) -> Renewal {
        if id == 7 { Renewal::Renewed(70) } else { Renewal::Gone }
    }
    fn remaining(&self, _id: i64) -> Option<i64> {
        None
    }
}

pub struct Node {
    pub id: NodeId,
    pub url: String,
    pub consensus: Consensus,
    pub store: Store,
    pub dir: Arc<TempDir>,
    end: End,
}

/// Ends what a member left running on the thread of its callers when its test is over, or its store and folder would stay.
struct End(Consensus);

impl Drop for End {
    fn drop(&mut self) {
        self.0.inner.stopping.cancel();
    }
}

pub fn rules() -> Rules {
    Rules {
        heartbeat: Duration::from_millis(100),
        election: Duration::from_millis(500),
        pre_vote: true,
        snapshot_count: 100_000,
        catchup_entries: 5_000,
        log_bytes: 1 << 30,
        max_wals: 5,
        strict_reconfig: false,
        max_learners: 1,
        request_timeout: Duration::from_secs(10),
    }
}

pub async fn listener() -> (TcpListener, String) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    (socket, url)
}

async fn open(id: NodeId, cluster_id: u64, dir: &Arc<TempDir>, rules: Rules, space: Space) -> (Consensus, Store) {
    space.hold(dir.clone());
    let dir = dir.path();
    let segment_bytes = (rules.log_bytes / 8).min(4 << 20);
    let options =
        LogOptions { segment_bytes, first_segment_bytes: 64 << 10, space: space.clone(), ..LogOptions::default() };
    // A member of this process that was just stopped may hold its locks for a moment: a snapshot or a sweep ends first.
    let deadline = Instant::now() + PATIENCE;
    let (log, store, machine) = loop {
        let (log, watermark) = crate::store::log::open(&dir.join("wal"), options.clone()).expect("the log opens");
        match crate::store::open(dir, StoreOptions { space: space.clone(), ..StoreOptions::default() }, watermark) {
            Ok((store, machine)) => break (log, store, machine),
            Err(error) if Instant::now() > deadline => panic!("the state does not open: {error}"),
            Err(_still_held) => drop(log),
        }
        sleep(Duration::from_millis(20)).await;
    };
    let consensus = start(RaftOptions {
        id,
        cluster_id,
        rules,
        force_alone: false,
        log,
        machine,
        store: store.clone(),
        tls: PeerTls::Plain,
        duties: Arc::new(Nothing),
    })
    .await
    .expect("consensus starts");
    (consensus, store)
}

impl Node {
    /// A member on `socket`, with the data of `dir`.
    pub async fn start(id: NodeId, socket: TcpListener, url: String, dir: Arc<TempDir>, rules: Rules) -> Self {
        Self::start_in(Space::unbounded(), id, socket, url, dir, rules).await
    }

    async fn start_in(
        space: Space,
        id: NodeId,
        socket: TcpListener,
        url: String,
        dir: Arc<TempDir>,
        rules: Rules,
    ) -> Self {
        let (consensus, store) = open(id, CLUSTER, &dir, rules, space).await;
        let admission = Admission::start().expect("a thread for callers");
        serve(PeerListener { socket, tls: false }, PeerTls::Plain, consensus.clone(), &admission).expect("served");
        let end = End(consensus.clone());
        Self { id, url, consensus, store, dir, end }
    }

    pub async fn fresh(id: NodeId, socket: TcpListener, url: String, rules: Rules) -> Self {
        Self::fresh_in(Space::unbounded(), id, socket, url, rules).await
    }

    /// The same on a disk with as much space as `space` says.
    pub async fn fresh_in(space: Space, id: NodeId, socket: TcpListener, url: String, rules: Rules) -> Self {
        // In memory: a disk that stalls for longer than an election timeout changes the leader.
        let dir = Arc::new(tempfile::tempdir_in("/dev/shm").expect("a temporary directory"));
        Self::start_in(space, id, socket, url, dir, rules).await
    }

    /// Stops the member; what it takes to start it again.
    pub async fn stop(self) -> Stopped {
        let Self { id, url, consensus, store, dir, end } = self;
        consensus.shutdown().await;
        drop((consensus, store, end));
        Stopped { id, url, dir }
    }

    pub async fn put(&self, key: &str, value: &str) -> Result<Applied, ProposeError> {
        self.consensus.propose(put(key, value), Instant::now() + Duration::from_secs(20)).await
    }

    /// Version of a live key here; 0 when there is none.
    pub fn version(&self, key: &str) -> i64 {
        let record = self.store.view().get(key.as_bytes()).expect("a readable state");
        record.map_or(0, |record| record.decode().expect("a whole record").version)
    }

    pub fn member(&self) -> Member {
        Member { name: format!("m{}", self.id), peer_urls: vec![self.url.clone()], client_urls: vec![] }
    }
}

pub struct Stopped {
    pub id: NodeId,
    pub url: String,
    dir: Arc<TempDir>,
}

impl Stopped {
    /// Starts the member again, on its port and its data, once the old one has let go of both.
    pub async fn restart(self) -> Node {
        let address = self.url.trim_start_matches("http://").to_owned();
        self.restart_at(&address).await
    }

    /// The same for a member that listens elsewhere than where its URL leads.
    pub async fn restart_at(self, address: &str) -> Node {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(socket) = TcpListener::bind(address).await {
                return Node::start(self.id, socket, self.url, self.dir, rules()).await;
            }
            assert!(Instant::now() < deadline, "port {address} is not given back");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

pub fn put(key: &str, value: &str) -> bytes::Bytes {
    let request = PutRequest {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        ..PutRequest::default()
    };
    command::encode(Command::Put(request))
}

/// A running cluster of `count` voters with ids from 1.
pub async fn cluster(count: u64) -> Vec<Node> {
    let nodes = strangers(count, rules()).await;
    bootstrap(&nodes).await;
    nodes
}

/// Members with ids from 1 and the same rules that have no list yet.
async fn strangers(count: u64, rules: Rules) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=count {
        let (socket, url) = listener().await;
        nodes.push(Node::fresh(id, socket, url, rules.clone()).await);
    }
    nodes
}

/// Three members of which the first is about to be elected, for tests that count terms: it alone was told the list and
/// so stands alone, and another election takes five seconds of silence.
pub async fn calm() -> Vec<Node> {
    let nodes = strangers(3, Rules { election: Duration::from_secs(5), ..rules() }).await;
    tell_list(&nodes[..1], &nodes).await;
    nodes
}

/// Tells `some` that `all` are the first members.
pub async fn tell_list(some: &[Node], all: &[Node]) {
    let first: BTreeMap<NodeId, Member> = all.iter().map(|node| (node.id, node.member())).collect();
    for node in some {
        node.consensus.bootstrap(first.clone()).await.expect("a first membership");
    }
}

/// Makes a cluster of members without a list, and waits until all have applied it and follow one leader.
pub async fn bootstrap(nodes: &[Node]) {
    tell_list(nodes, nodes).await;
    leader(nodes).await;
    all_know_the_list(nodes).await;
}

pub async fn all_know_the_list(nodes: &[Node]) {
    let known = || nodes.iter().all(|node| node.consensus.members().len() == nodes.len());
    eventually("all know the list", known).await;
}

/// Waits for `condition`.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never came true: {what}");
}

/// The place of the leader, once all agree on it.
pub async fn leader(nodes: &[Node]) -> usize {
    let agreed = || {
        let said: Vec<_> = nodes.iter().map(|node| node.consensus.status().leader).collect();
        let first = said.first().copied().flatten()?;
        let at = nodes.iter().position(|node| node.id == first)?;
        said.iter().all(|leader| *leader == Some(first)).then_some(at)
    };
    eventually("one leader", || agreed().is_some()).await;
    agreed().expect("just agreed")
}

/// The place of any member that does not lead.
pub async fn follower(nodes: &[Node]) -> usize {
    (leader(nodes).await + 1) % nodes.len()
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}
