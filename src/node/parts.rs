//! The parts of a member, built in the order in which they need each other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::bounds::{table, text};
use super::identity::{DataDir, Identity};
use super::space::SpaceKeeper;
use super::{NodeError, birth};
use crate::admission::Admission;
use crate::api::http::HttpOptions;
use crate::api::identity::{Identities, IdentityOptions};
use crate::api::metrics::{Metrics, MetricsOptions};
use crate::api::service::{ClientService, MetricsService, Serves};
use crate::api::state::{Limits, State};
use crate::api::v2;
use crate::clock::SystemClock;
use crate::corruption::{CheckTimes, Checker};
use crate::listen::{self, Bound, Shutdown};
use crate::raft::network::{PeerListener, PeerTls};
use crate::raft::types::Member as Listed;
use crate::raft::{self, Consensus, MemberInfo, RaftOptions, Rules, network};
use crate::settings::Settings;
use crate::settings::ids::hex;
use crate::store::log::LogOptions;
use crate::store::{self, LogBounds, Part, Space, Store, StoreOptions};
use crate::timers::{Lessor, PromotionRule, Timers};
use crate::tls::{ClientTls, ServerTls};
use crate::watch::Hub;

/// A running member.
pub struct Member {
    pub(super) settings: Settings,
    pub(super) consensus: Consensus,
    pub(super) store: Store,
    pub(super) identities: Arc<Identities>,
    /// Cancelled once clients may be answered: what this member had served before a restart is applied again.
    pub(super) ready: CancellationToken,
    /// Compares this member with the others.
    pub(super) checker: Checker,
    /// Ends the client listeners.
    pub(super) shutdown: Shutdown,
    /// Ends watches and other streams.
    pub(super) streams: CancellationToken,
    /// Addresses of the client listeners, for the log.
    pub(super) client_addresses: Vec<String>,
    /// Their tasks and those of the timers; the peer port ends with consensus.
    pub(super) listeners: Vec<JoinHandle<()>>,
    // Last, so that the lock goes when everything else is closed.
    pub(super) _data_dir: DataDir,
}

struct Sockets {
    peers: Vec<PeerListener>,
    clients: Vec<Bound>,
    http: Vec<Bound>,
    metrics: Vec<Bound>,
}

impl Member {
    /// Builds everything and starts serving.
    ///
    /// # Errors
    /// Any part refuses; nothing was promised to anybody then.
    pub async fn start(settings: Settings) -> Result<Self, NodeError> {
        announce(&settings);
        if !DataDir::has_member(&settings.data_dir) {
            settings.check_bootstrap()?;
        }
        let data_dir = DataDir::open(&settings.data_dir)?;
        let admission =
            Admission::start().map_err(|cause| NodeError::System { action: "start the admission thread", cause })?;
        let sockets = bind(&settings).await?;
        let clock = Arc::new(SystemClock::new());
        let client_tls = serves_tls(&settings).then(|| ServerTls::for_clients(&settings, clock.clone())).transpose()?;
        let peer_tls = peer_tls(&settings, clock.clone())?;
        let mut identity = match data_dir.identity()? {
            Some(identity) => identity,
            None => {
                let born = birth::identity(&settings, &peer_tls).await?;
                data_dir.write(&born)?;
                born
            }
        };
        let identities = identities(&settings, &clock)?;
        let metrics = Arc::new(Metrics::new(metrics_options(&settings)));
        let (consensus, store, lessor) =
            consensus(&settings, &data_dir, &identity, &peer_tls, &metrics, &clock).await?;
        check_log(&consensus, &settings, &data_dir, &mut identity).await?;
        for socket in sockets.peers {
            network::serve(socket, peer_tls.clone(), consensus.clone(), &admission)
                .map_err(|cause| NodeError::System { action: "serve the peer port", cause })?;
        }
        let streams = CancellationToken::new();
        let checker =
            Checker { consensus: consensus.clone(), store: store.clone(), patience: settings.request_timeout() };
        let mut listeners = timers(&settings, &consensus, &store, lessor, clock, &streams);
        listeners.push(keep_space(&settings, &consensus, &store, &peer_tls, &streams));
        listeners.extend(checker.clone().start(check_times(&settings), &streams));
        let state = client_state(&settings, &consensus, &store, metrics, identities.clone(), streams.clone());
        let (shutdown, ready) = (Shutdown::new(), CancellationToken::new());
        let client_addresses = sockets.clients.iter().map(Bound::address).collect();
        let v2_hub = Arc::new(v2::Hub::new(state.metrics.v2.clone()));
        store.subscribe(v2_hub.clone());
        let v2 = v2::V2::new(state.clone(), v2_hub, settings.client_tls.client_cert_auth);
        let apart = if sockets.http.is_empty() { Serves::Both } else { Serves::Grpc };
        let grpc = sockets.clients.into_iter().map(|bound| (bound, apart));
        let options = listen::Options::for_clients(&settings, client_tls.clone(), &admission);
        let bounds = grpc.chain(sockets.http.into_iter().map(|bound| (bound, Serves::Http)));
        listeners.extend(serve_clients(&settings, bounds, options, &state, &v2, &shutdown, &ready));
        let options = listen::Options::for_metrics(&settings, client_tls, &admission);
        for bound in sockets.metrics {
            let service = MetricsService::new(state.clone());
            listeners.push(tokio::spawn(listen::serve(bound, options.clone(), service, shutdown.clone())));
        }
        Ok(Self {
            settings,
            consensus,
            store,
            identities,
            ready,
            checker,
            shutdown,
            streams,
            client_addresses,
            listeners,
            _data_dir: data_dir,
        })
    }
}

fn metrics_options(settings: &Settings) -> MetricsOptions {
    MetricsOptions {
        extensive: settings.extensive_metrics,
        slow_apply: settings.checks.warning_apply_duration,
        features: settings.feature_gates.all().collect(),
    }
}

fn announce(settings: &Settings) {
    tracing::info!(
        name = settings.name,
        data_dir = %settings.data_dir.display(),
        initial_cluster = %settings.initial_cluster,
        initial_cluster_state = ?settings.initial_cluster_state,
        "snapshot-count" = settings.snapshot_count,
        "snapshot-catchup-entries" = settings.snapshot_catchup_entries,
        "starting an etcd server"
    );
}

/// Starts the client listeners, each of which begins to answer once `ready` is cancelled.
fn serve_clients(
    settings: &Settings,
    bounds: impl Iterator<Item = (Bound, Serves)>,
    options: listen::Options,
    state: &Arc<State>,
    v2: &Arc<v2::V2>,
    shutdown: &Shutdown,
    ready: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let http = HttpOptions {
        cors: settings.cors.clone(),
        hosts: settings.host_whitelist.clone(),
        tls: options.tls.is_some(),
        gateway: settings.enable_grpc_gateway,
        debug: settings.enable_pprof,
    };
    let serve = |(bound, serves): (Bound, Serves)| {
        let v2 = settings.enable_v2.then(|| v2.clone());
        let service = ClientService::new(state.clone(), http.clone(), v2).only(serves);
        let (options, shutdown, ready) = (options.clone(), shutdown.clone(), ready.clone());
        tokio::spawn(async move {
            // Clients that come earlier wait in the socket's backlog; metrics and health are for those who wait.
            tokio::select! {
                () = ready.cancelled() => listen::serve(bound, options, service, shutdown).await,
                () = shutdown.draining() => {}
            }
        })
    };
    bounds.map(serve).collect()
}

async fn bind(settings: &Settings) -> Result<Sockets, NodeError> {
    let mut peers = Vec::new();
    for url in settings.listen_peer_urls.iter() {
        let ip = url.bind_ip().ok_or_else(|| NodeError::PeerScheme(url.as_str().to_owned()))?;
        let address = std::net::SocketAddr::new(ip, url.port());
        let bound = TcpListener::bind(address).await;
        let socket = bound.map_err(|cause| NodeError::PeerPort { address: address.to_string(), cause })?;
        peers.push(PeerListener { socket, tls: url.scheme().is_tls() });
    }
    let reuse = settings.socket_reuse_port;
    Ok(Sockets {
        peers,
        clients: listen::bind(&settings.listen_client_urls, reuse)?,
        http: listen::bind(&settings.listen_client_http_urls, reuse)?,
        metrics: listen::bind(&settings.listen_metrics_urls, reuse)?,
    })
}

fn serves_tls(settings: &Settings) -> bool {
    let urls = [&settings.listen_client_urls, &settings.listen_client_http_urls, &settings.listen_metrics_urls];
    urls.iter().any(|urls| urls.iter().any(|url| url.scheme().is_tls()))
}

fn peer_tls(settings: &Settings, clock: Arc<SystemClock>) -> Result<PeerTls, NodeError> {
    if !settings.peer_tls.can_serve() {
        return Ok(PeerTls::Plain);
    }
    let server = ServerTls::for_peers(settings, clock.clone())?;
    let client = ClientTls::for_peers(settings, clock)?;
    let verify_source = settings.peer_tls.requires_client_cert() && !settings.peer_tls.skip_client_san_verification;
    Ok(PeerTls::Tls { server, client, verify_source })
}

fn rules(settings: &Settings, log: LogBounds) -> Rules {
    Rules {
        heartbeat: settings.heartbeat_interval,
        election: settings.election_timeout,
        pre_vote: settings.pre_vote,
        snapshot_count: settings.snapshot_count,
        catchup_entries: settings.snapshot_catchup_entries,
        log_bytes: log.segments,
        max_wals: if settings.max_wals == 0 { usize::MAX } else { settings.max_wals as usize },
        strict_reconfig: settings.strict_reconfig_check,
        max_learners: settings.max_learners as usize,
        request_timeout: settings.request_timeout(),
    }
}

async fn consensus(
    settings: &Settings,
    data_dir: &DataDir,
    identity: &Identity,
    tls: &PeerTls,
    metrics: &Arc<Metrics>,
    clock: &Arc<SystemClock>,
) -> Result<(Consensus, Store, Arc<Lessor>), NodeError> {
    let wal: PathBuf = settings.wal_dir.clone().unwrap_or_else(|| data_dir.member().join("wal"));
    let space = Space::watch(data_dir.member(), &wal, settings.memory.write_buffer_bytes)
        .map_err(|cause| NodeError::Space { dir: data_dir.member().display().to_string(), cause })?;
    let bounds = space.log_bounds();
    let total = |part| space.total(part).unwrap_or(u64::MAX);
    let kept = table(settings, total(Part::Log), total(Part::State));
    tracing::info!(bytes = text(&kept), "what is kept has these limits");
    let log_options = LogOptions {
        segment_bytes: bounds.segment,
        spare_bytes: bounds.spares,
        queue_bytes: bounds.queue as usize,
        space: space.clone(),
        on_sync: Some(metrics.sync_observer()),
        ..LogOptions::default()
    };
    let (log, watermark) = store::log::open(&wal, log_options)?;
    let store_options = StoreOptions {
        block_cache: settings.memory.block_cache_bytes as usize,
        write_buffers: settings.memory.write_buffer_bytes as usize,
        space,
        ..StoreOptions::default()
    };
    let (store, machine) = store::open(data_dir.member(), store_options, watermark)?;
    if settings.force_new_cluster {
        refuse_if_others_live(identity, &store, tls).await?;
    }
    let checkpointing = settings.feature_gates.enabled("LeaseCheckpoint");
    let lessor = Lessor::new(clock.clone(), store.clone(), settings.election_timeout, checkpointing);
    store.subscribe(lessor.clone());
    let consensus = raft::start(RaftOptions {
        id: identity.member_id,
        cluster_id: identity.cluster_id,
        rules: rules(settings, bounds),
        force_alone: settings.force_new_cluster,
        log,
        machine,
        store: store.clone(),
        tls: tls.clone(),
        duties: lessor.clone(),
    })
    .await?;
    tracing::info!(
        local_member_id = hex(identity.member_id),
        cluster_id = hex(identity.cluster_id),
        "started consensus"
    );
    Ok((consensus, store, lessor))
}

/// Asks every other member of the list whether it runs. A dead one costs its connection's deadline, all at once.
async fn refuse_if_others_live(identity: &Identity, store: &Store, tls: &PeerTls) -> Result<(), NodeError> {
    let members = store.membership();
    let others = members.nodes().filter(|(id, _)| **id != identity.member_id);
    let asked = others.flat_map(|(_, member)| member.peer_urls.iter().map(|url| (member.name.clone(), url.clone())));
    let answers = asked.map(|(name, url)| async move {
        let answered = network::fetch_members(&url, tls).await;
        answered.is_ok_and(|answer| answer.cluster_id == identity.cluster_id).then(|| format!("{name} at {url}"))
    });
    match futures::future::join_all(answers).await.into_iter().flatten().next() {
        Some(answering) => Err(NodeError::OthersLive { answering }),
        None => Ok(()),
    }
}

fn keep_space(
    settings: &Settings,
    consensus: &Consensus,
    store: &Store,
    tls: &PeerTls,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let keeper = SpaceKeeper {
        tls: tls.clone(),
        consensus: consensus.clone(),
        store: store.clone(),
        patience: settings.request_timeout(),
        quota: settings.limits.quota.limit(),
    };
    tokio::spawn(keeper.run(stop.clone()))
}

/// Starts everything that happens because time passes. It ends with the streams, before consensus does.
fn timers(
    settings: &Settings,
    consensus: &Consensus,
    store: &Store,
    lessor: Arc<Lessor>,
    clock: Arc<SystemClock>,
    stop: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let promote: Option<PromotionRule> = settings.promote_learners.then(|| -> PromotionRule { Box::new(|_| true) });
    let timers = Timers {
        clock,
        lessor,
        consensus: consensus.clone(),
        store: store.clone(),
        auto_compaction: settings.auto_compaction,
        promote,
        patience: settings.request_timeout(),
    };
    timers.start(stop)
}

fn check_times(settings: &Settings) -> CheckTimes {
    let checks = &settings.checks;
    CheckTimes {
        every: checks.corrupt_check_time,
        compaction: settings.feature_gates.enabled("CompactHashCheck").then_some(checks.compact_hash_check_time),
    }
}

/// Writes the first membership of a new cluster, or checks that the directory still is what it was.
async fn check_log(
    consensus: &Consensus,
    settings: &Settings,
    data_dir: &DataDir,
    identity: &mut Identity,
) -> Result<(), NodeError> {
    let (id, dir) = (hex(identity.member_id), settings.data_dir.display().to_string());
    let empty = !consensus.has_log().await?;
    if empty && identity.has_log {
        return Err(NodeError::LogLost { id, dir });
    }
    if empty && !identity.first_members.is_empty() {
        let first = identity.first_members.iter().filter_map(|(id, first)| {
            let listed =
                Listed { name: first.name.clone(), peer_urls: first.peer_urls.clone(), client_urls: Vec::new() };
            Some((u64::from_str_radix(id, 16).ok()?, listed))
        });
        consensus.bootstrap(first.collect::<BTreeMap<_, _>>()).await?;
    }
    if !identity.has_log && consensus.has_log().await? {
        identity.has_log = true;
        data_dir.write(identity)?;
    }
    let mut given = settings.initial_advertise_peer_urls.texts();
    given.sort();
    match other_owner(identity.member_id, &settings.name, &given, &consensus.members()) {
        None => Ok(()),
        Some(listed) => {
            let given = format!("{} at {}", settings.name, given.join(","));
            Err(NodeError::OtherMember { dir, id, listed, given })
        }
    }
}

/// Who owns the data of member `id`, when the name and URLs of this start say that it is not this process: they are
/// another member's, or neither fits the list. One alone may have changed for good reasons.
fn other_owner(id: u64, name: &str, peer_urls: &[String], members: &[MemberInfo]) -> Option<String> {
    let own = members.iter().find(|info| info.id == id)?;
    let taken = members.iter().any(|info| info.id != id && info.member.peer_urls == peer_urls);
    let fits = own.member.name.is_empty() || own.member.name == name || own.member.peer_urls == peer_urls;
    (taken || !fits).then(|| format!("{} at {}", own.member.name, own.member.peer_urls.join(",")))
}

/// How clients are known. Bad keys stop the start before anything of the cluster is touched.
fn identities(settings: &Settings, clock: &Arc<SystemClock>) -> Result<Arc<Identities>, NodeError> {
    let options = IdentityOptions {
        token: settings.authentication.token.clone(),
        token_ttl: settings.authentication.token_ttl,
        bcrypt_cost: settings.authentication.bcrypt_cost,
        by_certificate: settings.client_tls.client_cert_auth,
    };
    Ok(Identities::new(&options, clock.clone())?)
}

fn client_state(
    settings: &Settings,
    consensus: &Consensus,
    store: &Store,
    metrics: Arc<Metrics>,
    identities: Arc<Identities>,
    streams: CancellationToken,
) -> Arc<State> {
    let hub = Hub::new(store.clone(), settings.checks.watch_progress_notify_interval);
    store.subscribe(hub.clone());
    let limits = Limits {
        max_request_bytes: settings.limits.max_request_bytes as usize,
        max_txn_ops: settings.limits.max_txn_ops as usize,
        quota_bytes: settings.limits.quota.limit(),
        heartbeat: settings.heartbeat_interval,
        election_timeout: settings.election_timeout,
    };
    State::new(consensus.clone(), store.clone(), hub, limits, metrics, identities, streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_refused_when_name_and_urls_are_another_members() {
        let info = |id: u64| MemberInfo {
            id,
            member: Listed { name: format!("m{id}"), peer_urls: vec![format!("http://h{id}:1")], client_urls: vec![] },
            is_learner: false,
        };
        let members = [info(1), info(2)];
        let whose = |name: &str, url: &str| other_owner(1, name, &[url.to_owned()], &members);
        assert_eq!(whose("m1", "http://h1:1"), None);
        assert_eq!(whose("renamed", "http://h1:1"), None);
        assert_eq!(whose("m1", "http://moved:1"), None, "the list may be updated later");
        assert_eq!(whose("m1", "http://h2:1").as_deref(), Some("m1 at http://h1:1"));
        assert!(whose("m3", "http://h3:1").is_some(), "neither fits");
        assert_eq!(other_owner(9, "m3", &["http://h3:1".to_owned()], &members), None, "not listed yet: it joins");
    }
}
