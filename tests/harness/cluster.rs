//! Several members on loopback, without TLS, and the calls tests make most.

use std::time::Duration;

use etcd_charm::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;
use tonic::transport::Channel;

use super::member::{Member, Product, free_ports};
use super::wait::until;

const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub members: Vec<Member>,
    /// Where data and logs are, until the test ends.
    pub folder: TempDir,
}

impl Cluster {
    /// `size` members of `product` started with `extra` flags; ready when each answers a linearizable read.
    pub async fn start(product: Product, size: usize, extra: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), product, size, extra).await
    }

    /// The same with data in memory, so that the control's syncs cost nothing where durability is not the question.
    pub async fn start_in_memory(product: Product, size: usize, extra: &[&str]) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        Self::start_in(folder, product, size, extra).await
    }

    async fn start_in(folder: TempDir, product: Product, size: usize, extra: &[&str]) -> Self {
        let ports = free_ports(size * 2);
        let peer = |n: usize| format!("http://127.0.0.1:{}", ports[size + n]);
        let initial = (0..size).map(|n| format!("m{n}={}", peer(n))).collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for n in 0..size {
            let client = format!("http://127.0.0.1:{}", ports[n]);
            let mut flags: Vec<String> =
                ["--initial-cluster", &initial, "--initial-cluster-state", "new"].map(str::to_owned).to_vec();
            flags.extend(["--listen-client-urls", &client, "--advertise-client-urls", &client].map(str::to_owned));
            flags
                .extend(["--listen-peer-urls", &peer(n), "--initial-advertise-peer-urls", &peer(n)].map(str::to_owned));
            flags.extend(extra.iter().map(|&flag| flag.to_owned()));
            let mut member = Member::new(product, &format!("m{n}"), folder.path(), (ports[n], ports[size + n]), flags);
            member.start();
            members.push(member);
        }
        let cluster = Self { members, folder };
        for n in 0..size {
            cluster.ready(n).await;
        }
        cluster
    }

    pub fn endpoint(&self, n: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[n].client_port)
    }

    /// Waits until member `n` answers a linearizable read.
    pub async fn ready(&self, n: usize) {
        until("the member serves", START_LIMIT, || async {
            let mut kv = KvClient::new(self.channel(n).await?);
            let request = pb::RangeRequest { key: "ready".into(), ..Default::default() };
            let call = tokio::time::timeout(Duration::from_secs(2), kv.range(request));
            call.await.map_err(|_| "no answer".to_owned())?.map(|_| ()).map_err(|status| status.to_string())
        })
        .await
    }

    pub async fn channel(&self, n: usize) -> Result<Channel, String> {
        let endpoint = tonic::transport::Endpoint::from_shared(self.endpoint(n)).map_err(|error| error.to_string())?;
        endpoint.connect_timeout(Duration::from_secs(2)).connect().await.map_err(|error| error.to_string())
    }

    pub async fn status(&self, n: usize) -> Result<pb::StatusResponse, String> {
        let mut maintenance = MaintenanceClient::new(self.channel(n).await?);
        let call = tokio::time::timeout(Duration::from_secs(2), maintenance.status(pb::StatusRequest {}));
        let answer = call.await.map_err(|_| "no answer".to_owned())?;
        answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    }

    /// The place of the member that leads, waiting for one.
    pub async fn leader(&mut self) -> usize {
        let running: Vec<usize> = (0..self.members.len()).filter(|&n| self.members[n].is_running()).collect();
        let cluster = &*self;
        until("a leader", START_LIMIT, || async {
            for &n in &running {
                if let Ok(status) = cluster.status(n).await
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
