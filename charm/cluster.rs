//! The cluster as a hook sees it: a blocking front over the etcd client.
//!
//! Looks (member list, each member's answer, own health) and the few membership calls. Every call
//! ends in seconds, so that a hook never hangs on a sick cluster.

use std::time::Duration;

use etcd_charm::client::health::{self, Checkup};
use etcd_charm::client::{Client, ClientError, Code, Presented, TlsPem, presented};
use futures::future::join_all;

use crate::facts::{Census, Cluster, Member, Store};
use crate::text::{ClientUrl, MemberName, PeerUrl, Version};

/// How often a membership change is tried while the members say that they are not ready for it.
const CHANGE_TRIES: u32 = 6;
/// Pause between two tries.
const CHANGE_PAUSE: Duration = Duration::from_secs(1);
/// How long a started member may take to serve and to vote before the hook goes on without it.
const SERVE_TIMEOUT: Duration = Duration::from_secs(25);
/// How often it is asked meanwhile.
const SERVE_POLL: Duration = Duration::from_millis(500);

/// Whom to ask, and with which credentials.
pub struct Asker {
    runtime: tokio::runtime::Runtime,
    tls: Option<TlsPem>,
    /// This unit's own member; `None` while the daemon does not run.
    pub own: Option<ClientUrl>,
    /// The client URLs of the others.
    pub others: Vec<ClientUrl>,
}

impl Asker {
    /// Prepares to ask.
    ///
    /// # Errors
    /// The system's reason when no timer or poller can be had.
    pub fn new(tls: Option<TlsPem>, own: Option<ClientUrl>, others: Vec<ClientUrl>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Asker { runtime, tls, own, others })
    }

    /// Looks at the whole cluster.
    #[must_use]
    pub fn look(&self) -> Store {
        let Some(tls) = &self.tls else { return Store::Unreachable };
        self.runtime.block_on(async {
            match look(tls, self.own.as_deref(), &self.endpoints(true)).await {
                Ok(cluster) => Store::Reachable(cluster),
                Err(_) => Store::Unreachable,
            }
        })
    }

    fn endpoints(&self, own_first: bool) -> Vec<String> {
        let own = self.own.iter().map(ToString::to_string);
        let others = self.others.iter().map(ToString::to_string);
        if own_first { own.chain(others).collect() } else { others.chain(own).collect() }
    }

    /// What a member shows in a handshake; `None` when there was none.
    #[must_use]
    pub fn presented(&self, url: &ClientUrl, tls: &TlsPem) -> Option<Presented> {
        self.runtime.block_on(presented(url, tls)).ok()
    }

    /// Adds a learner. That it is already listed is success.
    ///
    /// # Errors
    /// The members' refusal.
    pub fn add_learner(&self, peer_url: &PeerUrl) -> Result<(), ClientError> {
        self.change(|client| {
            let urls = [peer_url.to_string()];
            async move {
                match client.member_add_learner(&urls).await {
                    Err(error) if error.to_string().contains("Peer URLs already exist") => Ok(()),
                    other => other.map(drop),
                }
            }
        })
    }

    /// Removes a member. That it is not listed is success. Another member is asked first: one that
    /// removes itself may stop before it can answer.
    ///
    /// # Errors
    /// The members' refusal.
    pub fn remove(&self, id: u64) -> Result<(), ClientError> {
        self.change(|client| async move {
            match client.member_remove(id).await {
                Err(error) if error.code() == Some(Code::NotFound) => Ok(()),
                other => other,
            }
        })
    }

    /// Replaces a member's peer URL.
    ///
    /// # Errors
    /// The members' refusal.
    pub fn update(&self, id: u64, peer_url: &PeerUrl) -> Result<(), ClientError> {
        self.change(|client| {
            let urls = [peer_url.to_string()];
            async move { client.member_update(id, &urls).await }
        })
    }

    /// Asks this unit's own member, the raft leader, to hand leadership to another.
    ///
    /// # Errors
    /// The member's refusal.
    pub fn move_leader(&self, to: u64) -> Result<(), ClientError> {
        let own: Vec<String> = self.own.iter().map(ToString::to_string).collect();
        self.runtime.block_on(async { Client::connect(&own, self.tls.as_ref()).await?.move_leader(to).await })
    }

    /// Waits until this unit's own member votes and serves linearizable reads, or time is up.
    #[must_use]
    pub fn wait_until_serving(&self, own: &ClientUrl) -> bool {
        let deadline = std::time::Instant::now() + SERVE_TIMEOUT;
        let own = [own.to_string()];
        self.runtime.block_on(async {
            while std::time::Instant::now() < deadline {
                let serves = async {
                    let client = Client::connect(&own, self.tls.as_ref()).await?;
                    let learner = client.status().await?.is_learner;
                    client.health().await?;
                    Ok::<_, ClientError>(!learner)
                };
                if matches!(serves.await, Ok(true)) {
                    return true;
                }
                tokio::time::sleep(SERVE_POLL).await;
            }
            false
        })
    }

    /// The check of `etcdctl cluster-health` for each member.
    #[must_use]
    pub fn check_all(&self, members: &[etcd_charm::client::Member]) -> Vec<Checkup> {
        self.runtime.block_on(join_all(members.iter().map(|member| health::check(member, self.tls.as_ref()))))
    }

    /// The member list, with the client URLs that can be used: a URL that is more than scheme, host and port
    /// is left out, because no file or line that it could enter would carry it unharmed.
    ///
    /// # Errors
    /// The members' refusal, or that none could be reached.
    pub fn members(&self) -> Result<Vec<etcd_charm::client::Member>, ClientError> {
        self.runtime.block_on(async {
            let client = Client::connect(&self.endpoints(true), self.tls.as_ref()).await?;
            let listed = match client.member_list(true).await {
                Ok(members) => members,
                // Without a quorum the member's own view is better than nothing.
                Err(_) => client.member_list(false).await?,
            };
            Ok(listed.into_iter().map(usable).collect())
        })
    }

    /// Tries a membership change while the members say they are not ready.
    fn change<F, W>(&self, attempt: F) -> Result<(), ClientError>
    where
        F: Fn(Client) -> W,
        W: Future<Output = Result<(), ClientError>>,
    {
        self.runtime.block_on(async {
            let mut tries = 1;
            loop {
                let result = match Client::connect(&self.endpoints(false), self.tls.as_ref()).await {
                    Ok(client) => attempt(client).await,
                    Err(error) => Err(error),
                };
                match result {
                    Err(error) if tries < CHANGE_TRIES && is_passing(&error) => {
                        tries += 1;
                        tokio::time::sleep(CHANGE_PAUSE).await;
                    }
                    other => return other,
                }
            }
        })
    }
}

/// Refusals that pass by themselves: an election, a member that was just started.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) => true,
        other => other.code() == Some(Code::Unavailable) || other.to_string().contains("unhealthy cluster"),
    }
}

/// What a check of all members found, counted.
#[must_use]
pub fn census(checkups: &[Checkup]) -> Census {
    Census { members: checkups.len(), ill: checkups.iter().filter(|checkup| !checkup.is_healthy()).count() }
}

/// The same member with client URLs in their printed form, those that have one.
fn usable(member: etcd_charm::client::Member) -> etcd_charm::client::Member {
    let client_urls = client_urls(&member).iter().map(ToString::to_string).collect();
    etcd_charm::client::Member { client_urls, ..member }
}

/// The client URLs that can be used.
#[must_use]
pub fn client_urls(member: &etcd_charm::client::Member) -> Vec<ClientUrl> {
    member.client_urls.iter().filter_map(|url| ClientUrl::parse(url)).collect()
}

async fn look(tls: &TlsPem, own: Option<&str>, endpoints: &[String]) -> Result<Cluster, ClientError> {
    let client = Client::connect(endpoints, Some(tls)).await?;
    let listed: Vec<_> = client.member_list(true).await?.into_iter().map(usable).collect();
    // Two questions to each: who it is and whom it follows, and what `cluster-health` asks, which decides the status.
    let asked = join_all(listed.iter().map(|member| async {
        let who = async { Client::connect(&member.client_urls, Some(tls)).await?.status().await };
        futures::future::join(who, health::check(member, Some(tls))).await
    }));
    let own_healthy = async {
        let Some(own) = own else { return false };
        health::check_urls(0, &[own.to_owned()], Some(tls)).await.is_healthy()
    };
    let (asked, own_healthy) = futures::future::join(asked, own_healthy).await;
    let (answers, checkups): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    let statuses: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    Ok(Cluster {
        members: listed
            .iter()
            .zip(answers.iter().zip(&checkups))
            .map(|(member, (answer, checkup))| {
                let reachable = matches!(answer, Ok(status) if status.member_id == member.id);
                fact(member, reachable, checkup.is_healthy())
            })
            .collect(),
        leader: statuses.iter().map(|status| status.leader).find(|leader| *leader != 0).unwrap_or(0),
        own_healthy,
        version: statuses.first().and_then(|status| Version::parse(&status.version)),
    })
}

/// A member of the list as the planner may know it.
#[must_use]
pub fn fact(member: &etcd_charm::client::Member, reachable: bool, healthy: bool) -> Member {
    let peer_url = member.peer_urls.first().and_then(|url| PeerUrl::parse(url));
    Member {
        id: member.id,
        name: MemberName::read(&member.name),
        peer_url: peer_url.unwrap_or_else(PeerUrl::unknown),
        learner: member.is_learner,
        reachable,
        healthy,
    }
}
