//! Who the other members are, where they live, and since when each can be reached.
//!
//! One [`Peer`] per member, made when the member list first names it. Its two shared links are kept open by a ping, so
//! that the health of every pair of members is known on both sides, as etcd's member changes need it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::counted::counted;
use super::link::{CallError, Dial, Link, OncePerReason};
use super::message::{Answer, Request};
use super::stream::{PeerTls, Stream, dial, hello};
use super::wire::{Channel, Refusal, WireError};
use crate::histogram::{Histogram, ROUND_TRIP};
use crate::raft::types::{Member, NodeId, StoredMembership};

/// Between two pings of a member.
const PING_EVERY: Duration = Duration::from_millis(500);
/// A ping without an answer for this long means that the member is not reachable.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Traffic with one member, for metrics.
#[derive(Debug)]
pub struct Traffic {
    /// Requests that failed for reasons of the network.
    pub failures: AtomicU64,
    /// Last measured round trip, microseconds.
    pub round_trip_micros: AtomicU64,
    /// Bytes written to connections with it, before encryption.
    pub sent_bytes: AtomicU64,
    /// Bytes read from them, after decryption.
    pub received_bytes: AtomicU64,
    /// Round trips.
    pub round_trips: Histogram,
    trips: Mutex<Trips>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            failures: AtomicU64::new(0),
            round_trip_micros: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            round_trips: Histogram::new(ROUND_TRIP),
            trips: Mutex::default(),
        }
    }
}

/// Appends of entries between this member and the others since it started, for the statistics of v2.
#[derive(Debug, Default)]
pub struct Appends {
    /// Sent, whether answered or not.
    pub sent: AtomicU64,
    /// Bytes of them.
    pub sent_bytes: AtomicU64,
    /// Received.
    pub received: AtomicU64,
    /// Bytes of them.
    pub received_bytes: AtomicU64,
    /// Index of the last entry that the log cannot keep for anybody: who still needs it is sent a snapshot.
    pub let_go: AtomicU64,
}

impl Appends {
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Round trips to one member since this process first spoke to it.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Trips {
    /// How many were answered.
    pub count: u64,
    /// How many were not.
    pub failures: u64,
    /// The last one, milliseconds.
    pub current_ms: f64,
    /// The shortest.
    pub minimum_ms: f64,
    /// The longest.
    pub maximum_ms: f64,
    sum: f64,
    sum_of_squares: f64,
}

impl Trips {
    /// Mean, milliseconds; 0 before the first.
    pub fn average_ms(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// Standard deviation, milliseconds; 0 before the second.
    pub fn deviation_ms(&self) -> f64 {
        let mean = self.average_ms();
        if self.count < 2 { 0.0 } else { (self.sum_of_squares / self.count as f64 - mean * mean).max(0.0).sqrt() }
    }

    fn answered(&mut self, millis: f64) {
        self.minimum_ms = if self.count == 0 { millis } else { self.minimum_ms.min(millis) };
        self.maximum_ms = self.maximum_ms.max(millis);
        self.current_ms = millis;
        self.count += 1;
        self.sum += millis;
        self.sum_of_squares += millis * millis;
    }
}

impl Traffic {
    /// Round trips so far.
    pub fn trips(&self) -> Trips {
        *self.trips.lock()
    }

    fn answered(&self, micros: u64) {
        self.round_trip_micros.store(micros, Ordering::Relaxed);
        self.round_trips.observe(Duration::from_micros(micros));
        self.trips.lock().answered(micros as f64 / 1000.0);
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.trips.lock().failures += 1;
    }
}

/// What is needed to reach a member: shared by its links and by the connections for entries and snapshots.
pub struct Address {
    id: NodeId,
    me: NodeId,
    cluster: u64,
    urls: Mutex<Vec<String>>,
    tls: PeerTls,
    traffic: Arc<Traffic>,
}

impl Address {
    /// The member's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Opens a connection for `channel`, with the handshake done.
    pub async fn open(&self, channel: Channel) -> Result<Stream, WireError> {
        let urls = self.urls.lock().clone();
        let stream = dial(&urls, &self.tls, hello(self.cluster, self.me, self.id, channel)).await?;
        Ok(counted(stream, self.traffic.clone()))
    }
}

struct LinkDial {
    address: Arc<Address>,
    channel: Channel,
}

impl Dial for LinkDial {
    async fn dial(&self) -> Result<Stream, WireError> {
        self.address.open(self.channel).await
    }
}

/// Another member.
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// How to reach it.
    pub address: Arc<Address>,
    /// Heartbeats, votes, read rounds.
    pub pulse: Link,
    /// Whatever is carried to the leader.
    pub forward: Link,
    /// For metrics.
    pub traffic: Arc<Traffic>,
    active_since: Mutex<Option<Instant>>,
    pinger: Mutex<Option<AbortHandle>>,
}

impl Peer {
    /// Since when the member can be reached without a break; `None` while it cannot.
    pub fn active_since(&self) -> Option<Instant> {
        *self.active_since.lock()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(pinger) = self.pinger.lock().take() {
            pinger.abort();
        }
    }
}

/// All other members.
pub struct Peers {
    me: NodeId,
    cluster: u64,
    tls: PeerTls,
    known: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    expelled: watch::Sender<bool>,
    appends: Arc<Appends>,
}

impl Peers {
    /// Nobody known yet.
    pub fn new(me: NodeId, cluster: u64, tls: PeerTls) -> Arc<Self> {
        let expelled = watch::Sender::new(false);
        Arc::new(Self { me, cluster, tls, known: Mutex::default(), expelled, appends: Arc::default() })
    }

    /// Counts of appends.
    pub fn appends(&self) -> &Arc<Appends> {
        &self.appends
    }

    /// Turns true when another member says that this one has been removed.
    pub fn expelled(&self) -> watch::Receiver<bool> {
        self.expelled.subscribe()
    }

    /// Notes a refusal. "You have been removed" is final: the id is spent.
    pub fn refused(&self, refusal: &Refusal) {
        if *refusal == Refusal::Removed(self.me) {
            self.expel();
        }
    }

    /// Says that this member has been removed.
    pub fn expel(&self) {
        self.expelled.send_replace(true);
    }

    /// The member with this id, if the member list names it.
    pub fn get(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.known.lock().get(&id).cloned()
    }

    /// Every other member, by id.
    pub fn all(&self) -> Vec<Arc<Peer>> {
        self.known.lock().values().cloned().collect()
    }

    /// The member with this id, made if it is new, with its peer URLs brought up to date.
    pub fn learn(self: &Arc<Self>, id: NodeId, member: &Member) -> Arc<Peer> {
        let mut known = self.known.lock();
        if let Some(peer) = known.get(&id) {
            let mut urls = peer.address.urls.lock();
            if *urls != member.peer_urls {
                urls.clone_from(&member.peer_urls);
            }
            return peer.clone();
        }
        let peer = self.make(id, member);
        known.insert(id, peer.clone());
        peer
    }

    fn make(self: &Arc<Self>, id: NodeId, member: &Member) -> Arc<Peer> {
        let traffic = Arc::new(Traffic::default());
        let address = Arc::new(Address {
            id,
            traffic: traffic.clone(),
            me: self.me,
            cluster: self.cluster,
            urls: Mutex::new(member.peer_urls.clone()),
            tls: self.tls.clone(),
        });
        let link = |channel| Link::start(LinkDial { address: address.clone(), channel });
        let peer = Arc::new(Peer {
            id,
            pulse: link(Channel::Pulse),
            forward: link(Channel::Forward),
            traffic,
            active_since: Mutex::new(None),
            pinger: Mutex::new(None),
            address,
        });
        let watching = tokio::spawn(ping(Arc::downgrade(self), Arc::downgrade(&peer)));
        *peer.pinger.lock() = Some(watching.abort_handle());
        peer
    }

    /// Follows the member list: forgets who left, learns who came and who moved.
    pub fn follow(self: &Arc<Self>, membership: &StoredMembership) {
        let mut listed = BTreeSet::new();
        for (id, member) in membership.nodes() {
            if *id != self.me {
                self.learn(*id, member);
                listed.insert(*id);
            }
        }
        // An empty list is that of a member which waits to be fed: whoever feeds it must stay known.
        if !listed.is_empty() || membership.nodes().next().is_some() {
            self.known.lock().retain(|id, _| listed.contains(id));
        }
    }

    /// How many of `ids` can be reached without a break for at least `since`; this member counts as reachable.
    pub fn active(&self, ids: impl IntoIterator<Item = NodeId>, since: Duration) -> usize {
        let now = Instant::now();
        let known = self.known.lock();
        ids.into_iter()
            .filter(|id| {
                *id == self.me
                    || known
                        .get(id)
                        .and_then(|peer| peer.active_since())
                        .is_some_and(|from| now.duration_since(from) >= since)
            })
            .count()
    }
}

/// Asks a member whether it is there, again and again, for as long as the member list names it.
async fn ping(peers: std::sync::Weak<Peers>, peer: std::sync::Weak<Peer>) {
    let reasons = OncePerReason::default();
    loop {
        let Some(target) = peer.upgrade() else { return };
        let sent = Instant::now();
        let deadline = sent + PING_TIMEOUT;
        let outcome = match timeout_at(deadline, target.pulse.call(Request::Ping, deadline)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Lost("no answer to a ping".to_owned())),
        };
        match outcome {
            Ok(Answer::Pong) => {
                let micros = sent.elapsed().as_micros().min(u128::from(u64::MAX)) as u64;
                target.traffic.answered(micros);
                let first = {
                    let mut since = target.active_since.lock();
                    let first = since.is_none();
                    since.get_or_insert(sent);
                    first
                };
                if first {
                    reasons.clear();
                    tracing::info!(remote_peer_id = format!("{:x}", target.id), "peer became active");
                }
            }
            Ok(other) => tracing::warn!(remote_peer_id = format!("{:x}", target.id), ?other, "peer answers nonsense"),
            Err(error) => {
                if let (CallError::Refused(refusal), Some(peers)) = (&error, peers.upgrade()) {
                    peers.refused(refusal);
                }
                target.traffic.failed();
                let was = target.active_since.lock().take();
                let reason = error.to_string();
                if was.is_some() || reasons.is_new(&reason) {
                    tracing::warn!(
                        remote_peer_id = format!("{:x}", target.id),
                        error = reason,
                        "peer is not reachable"
                    );
                }
            }
        }
        drop(target);
        sleep(PING_EVERY).await;
    }
}
