//! Several members without TLS, and the calls tests make most.

use std::path::Path;
use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::ctl::Ctl;
use super::member::{Member, Product, free_ports};
use super::net::Network;
use super::wait::until;

pub const START_LIMIT: Duration = Duration::from_secs(60);
const CALL_LIMIT: Duration = Duration::from_secs(3);

pub struct Cluster {
    pub members: Vec<Member>,
    /// Where data and logs are, until the test ends.
    pub folder: TempDir,
    product: Product,
}

/// Where a member listens and what it is started through.
struct Place {
    host: String,
    wrapper: Vec<String>,
    ports: (u16, u16),
}

impl Place {
    fn on_loopback(count: usize) -> Vec<Self> {
        let ports = free_ports(count * 2);
        let place =
            |n: usize| Self { host: "127.0.0.1".to_owned(), wrapper: Vec::new(), ports: (ports[n], ports[count + n]) };
        (0..count).map(place).collect()
    }

    fn peer_url(&self) -> String {
        format!("http://{}:{}", self.host, self.ports.1)
    }
}

impl Cluster {
    /// `size` members of `product` started with `extra` flags; ready when each answers a linearizable read.
    pub async fn start(product: Product, size: usize, extra: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), product, Place::on_loopback(size), extra).await
    }

    /// The same with data in memory, so that the control's syncs cost nothing where durability is not the question.
    pub async fn start_in_memory(product: Product, size: usize, extra: &[&str]) -> Self {
        Self::start_in(in_memory(), product, Place::on_loopback(size), extra).await
    }

    /// One member in each namespace of `network`, data in memory.
    pub async fn start_across(product: Product, network: &Network, extra: &[&str]) -> Self {
        let place = |n| Place { host: network.address(n), wrapper: network.wrapper(n), ports: (2379, 2380) };
        Self::start_in(in_memory(), product, (0..network.size()).map(place).collect(), extra).await
    }

    /// One member whose data are in `data`.
    pub async fn start_with_data(product: Product, data: &Path, extra: &[&str]) -> Self {
        let mut cluster = Self::build(in_memory(), product, Place::on_loopback(1), extra);
        cluster.members[0].set_data_dir(data);
        cluster.run().await
    }

    /// Members that were not started yet.
    pub fn prepare(product: Product, size: usize, extra: &[&str]) -> Self {
        Self::build(in_memory(), product, Place::on_loopback(size), extra)
    }

    async fn start_in(folder: TempDir, product: Product, places: Vec<Place>, extra: &[&str]) -> Self {
        Self::build(folder, product, places, extra).run().await
    }

    fn build(folder: TempDir, product: Product, places: Vec<Place>, extra: &[&str]) -> Self {
        let initial: Vec<String> =
            places.iter().enumerate().map(|(n, place)| format!("m{n}={}", place.peer_url())).collect();
        let mut cluster = Self { members: Vec::new(), folder, product };
        for place in places {
            cluster.new_member(place, &initial.join(","), "new", extra);
        }
        cluster
    }

    /// Starts all and waits until each serves.
    pub async fn run(mut self) -> Self {
        self.members.iter_mut().for_each(Member::start);
        for n in 0..self.members.len() {
            self.ready(n).await;
        }
        self
    }

    fn new_member(&mut self, place: Place, initial: &str, state: &str, extra: &[&str]) -> &mut Member {
        let (name, peer) = (format!("m{}", self.members.len()), place.peer_url());
        let client = format!("http://{}:{}", place.host, place.ports.0);
        let mut flags: Vec<String> =
            ["--initial-cluster", initial, "--initial-cluster-state", state].map(str::to_owned).to_vec();
        flags.extend(["--listen-client-urls", &client, "--advertise-client-urls", &client].map(str::to_owned));
        flags.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer].map(str::to_owned));
        flags.extend(extra.iter().map(|&flag| flag.to_owned()));
        let member =
            Member::new(self.product, &name, self.folder.path(), place.ports, flags).at(&place.host, place.wrapper);
        self.members.push(member);
        self.members.last_mut().expect("a member was pushed")
    }

    /// Adds a learner by `etcdctl member add`, starts it as that says, and returns its id. It is the last member now.
    pub async fn add_learner(&mut self, ctl: &Ctl) -> String {
        let id = self.add_unstarted(ctl, &["--learner"]).await;
        self.members.last_mut().expect("a member was added").start();
        id
    }

    /// Adds a member by `etcdctl member add` and does not start it yet.
    pub async fn add_unstarted(&mut self, ctl: &Ctl, flags: &[&str]) -> String {
        let (place, name) = (Place::on_loopback(1).remove(0), format!("m{}", self.members.len()));
        // Members that have just met refuse changes for some seconds.
        let said = until("the cluster takes a member", START_LIMIT, || async {
            let peer = place.peer_url();
            let said = ctl.run(&[&["member", "add", &name, "--peer-urls", &peer], flags].concat());
            if said.code == Some(0) { Ok(said.out) } else { Err(said.err) }
        })
        .await;
        let id = said.split_whitespace().nth(1).expect("Member ID added to cluster").to_owned();
        let initial = said.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER="));
        let initial = initial.expect("etcdctl says how to start the member").trim_matches('"').to_owned();
        self.new_member(place, &initial, "existing", &[]);
        id
    }

    pub fn endpoint(&self, n: usize) -> String {
        self.members[n].client_url()
    }

    /// The endpoints of all members as `etcdctl` takes them.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(Member::client_url).collect::<Vec<_>>().join(",")
    }

    /// Waits until member `n` answers a linearizable read.
    pub async fn ready(&self, n: usize) {
        until(&format!("member {n} serves"), START_LIMIT, || async { self.read_at(n).await.map(|_| ()) }).await
    }

    /// A linearizable read of no key through member `n`: the revision.
    pub async fn read_at(&self, n: usize) -> Result<i64, String> {
        let mut kv = KvClient::new(self.channel(n).await?);
        let call =
            tokio::time::timeout(CALL_LIMIT, kv.range(pb::RangeRequest { key: "ready".into(), ..Default::default() }));
        let answer = call.await.map_err(|_| "no answer".to_owned())?.map_err(|status| status.to_string())?;
        Ok(answer.into_inner().header.map_or(0, |header| header.revision))
    }

    pub async fn channel(&self, n: usize) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(self.endpoint(n)).map_err(|error| error.to_string())?;
        endpoint.connect_timeout(Duration::from_secs(2)).connect().await.map_err(|error| error.to_string())
    }

    /// A channel that connects when used, and again after the member was away.
    pub fn lasting_channel(&self, n: usize) -> Channel {
        let endpoint = Endpoint::from_shared(self.endpoint(n)).expect("a URL");
        endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()
    }

    pub async fn status(&self, n: usize) -> Result<pb::StatusResponse, String> {
        let mut maintenance = MaintenanceClient::new(self.channel(n).await?);
        let call = tokio::time::timeout(CALL_LIMIT, maintenance.status(pb::StatusRequest {}));
        let answer = call.await.map_err(|_| "no answer".to_owned())?;
        answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    }

    /// Hash of the keyspace up to `revision` in member `n`, and where it is compacted.
    pub async fn hash(&self, n: usize, revision: i64) -> Result<(u32, i64), String> {
        let mut maintenance = MaintenanceClient::new(self.channel(n).await?);
        let answer = maintenance.hash_kv(pb::HashKvRequest { revision }).await.map_err(|status| status.to_string())?;
        let answer = answer.into_inner();
        Ok((answer.hash, answer.compact_revision))
    }

    /// Every member has the same keyspace at the newest revision. Returns it.
    pub async fn assert_equal_hashes(&self) -> i64 {
        let mut revision = 0;
        for n in 0..self.members.len() {
            self.ready(n).await;
            revision = until("a read", START_LIMIT, || self.read_at(n)).await.max(revision);
        }
        let first = until("a hash", START_LIMIT, || self.hash(0, revision)).await;
        for n in 1..self.members.len() {
            let other = until("a hash", START_LIMIT, || self.hash(n, revision)).await;
            assert_eq!(first, other, "hash and compaction of member 0 and member {n} at revision {revision}");
        }
        revision
    }

    /// The place of the member that leads, waiting for one.
    pub async fn leader(&mut self) -> usize {
        let running: Vec<usize> = (0..self.members.len()).filter(|&n| self.members[n].is_running()).collect();
        self.leader_among(&running).await
    }

    /// The same, looking at some members only.
    pub async fn leader_among(&self, places: &[usize]) -> usize {
        until("a leader", START_LIMIT, || async {
            for &n in places {
                if let Ok(status) = self.status(n).await
                    && status.header.as_ref().is_some_and(|header| header.member_id == status.leader)
                {
                    return Ok(n);
                }
            }
            Err("no member leads".to_owned())
        })
        .await
    }
}

fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a folder in memory")
}
