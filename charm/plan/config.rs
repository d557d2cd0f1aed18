//! The operator's options, the daemon's settings made from them, and when to (re)start it.
//!
//! Invariants: a bad option never reaches the daemon (the last good values stay); the settings that
//! matter only at a member's first start are never derived again once its data exists; a running
//! member restarts for new settings only in its turn, unless it does not serve anyway or is the only one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Action, bootstrap};
use crate::facts::{Facts, PEER_PORT, Service, Side, Storage, Store, Unit};
use crate::text::{ClientUrl, Folder, InitialCluster, MemberName, PeerUrl, UrlList, Word, quoted};

/// The daemon's settings file, under etcd's own names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each field is etcd's setting of that name")]
pub struct DaemonConfig {
    pub name: MemberName,
    pub data_dir: Folder,
    pub listen_peer_urls: UrlList,
    pub listen_client_urls: UrlList,
    pub initial_advertise_peer_urls: PeerUrl,
    pub advertise_client_urls: ClientUrl,
    pub initial_cluster: InitialCluster,
    pub initial_cluster_state: Word,
    pub initial_cluster_token: Word,
    pub client_transport_security: Security,
    pub peer_transport_security: Security,
    /// Ours, not etcd's: whoever leads gives learners their vote. Without it a new unit would have
    /// to wait for a hook of the Juju leader.
    #[serde(default)]
    pub promote_learners: bool,
    #[serde(flatten)]
    pub options: Options,
}

/// The PEM files of one port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each field is etcd's setting of that name")]
pub struct Security {
    pub cert_file: String,
    pub key_file: String,
    pub trusted_ca_file: String,
    pub client_cert_auth: bool,
}

/// The options that go to the daemon as they are, and the client port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Options {
    /// Client port; enters the URLs, not a setting of its own.
    #[serde(skip, default = "default_port")]
    pub port: u16,
    /// Milliseconds between two heartbeats.
    pub heartbeat_interval: u64,
    /// Milliseconds without a heartbeat before an election.
    pub election_timeout: u64,
    /// Log entries between two snapshots.
    pub snapshot_count: u64,
    /// Most bytes of data; 0 is etcd's default.
    pub quota_backend_bytes: i64,
    /// `periodic` or `revision`.
    pub auto_compaction_mode: String,
    /// A duration or a number of revisions; `0` is off.
    pub auto_compaction_retention: String,
    /// `debug`, `info`, `warn` or `error`.
    pub log_level: String,
}

fn default_port() -> u16 {
    2379
}

impl Default for Options {
    fn default() -> Self {
        Options {
            port: default_port(),
            heartbeat_interval: 100,
            election_timeout: 1000,
            snapshot_count: 10_000,
            quota_backend_bytes: 0,
            auto_compaction_mode: "periodic".to_owned(),
            auto_compaction_retention: "0".to_owned(),
            log_level: "info".to_owned(),
        }
    }
}

/// An option that cannot be used: which, what it holds, what it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadOption {
    /// Its name.
    pub name: &'static str,
    /// Its value, shortened.
    pub value: String,
    /// What would be accepted.
    pub wanted: &'static str,
}

impl DaemonConfig {
    /// The client port, from the URL the member advertises.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.advertise_client_urls.port().unwrap_or_else(default_port)
    }
}

/// Checks the operator's options.
///
/// # Errors
/// The first bad one.
pub fn check(given: &BTreeMap<String, Value>) -> Result<Options, BadOption> {
    let ok = Options::default();
    let number = |name: &'static str, default: i64, low: i64, high: i64, wanted: &'static str| match given.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => match value.as_i64() {
            Some(number) if (low..=high).contains(&number) => Ok(number),
            _ => Err(BadOption { name, value: short(value), wanted }),
        },
    };
    let text = |name: &'static str, default: &str, good: &dyn Fn(&str) -> bool, wanted| match given.get(name) {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(text)) if good(text) => Ok(text.clone()),
        Some(value) => Err(BadOption { name, value: short(value), wanted }),
    };
    let port = number("port", 2379, 1024, 65_535, "a port from 1024 to 65535 other than 2380")?;
    if port == i64::from(PEER_PORT) {
        let value = port.to_string();
        return Err(BadOption { name: "port", value, wanted: "a port other than 2380, the members' own" });
    }
    let heartbeat = number("heartbeat-interval", 100, 10, 10_000, "milliseconds from 10 to 10000")?;
    let election = number(
        "election-timeout",
        1000,
        heartbeat * 5,
        50_000,
        "milliseconds, at least 5 times heartbeat-interval and at most 50000",
    )?;
    Ok(Options {
        port: u16::try_from(port).unwrap_or_else(|_| default_port()),
        heartbeat_interval: heartbeat.unsigned_abs(),
        election_timeout: election.unsigned_abs(),
        snapshot_count: number("snapshot-count", 10_000, 1, 10_000_000, "a number from 1 to 10000000")?.unsigned_abs(),
        quota_backend_bytes: number(
            "quota-backend-bytes",
            0,
            0,
            i64::MAX,
            "a number of bytes, or 0 for etcd's default",
        )?,
        auto_compaction_mode: text(
            "auto-compaction-mode",
            &ok.auto_compaction_mode,
            &|mode| mode == "periodic" || mode == "revision",
            "periodic or revision",
        )?,
        auto_compaction_retention: text(
            "auto-compaction-retention",
            &ok.auto_compaction_retention,
            &is_retention,
            "a whole number, or a duration such as 30m or 1h",
        )?,
        log_level: text(
            "log-level",
            &ok.log_level,
            &|level| ["debug", "info", "warn", "error"].contains(&level),
            "debug, info, warn or error",
        )?,
    })
}

fn is_retention(text: &str) -> bool {
    let digits = text.trim_end_matches(['h', 'm', 's']);
    let unit = &text[digits.len()..];
    !digits.is_empty()
        && digits.len() <= 9
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (unit.is_empty() || unit.len() == 1)
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    quoted(&text)
}

/// The options in force: the operator's, or while one of them is bad, those of the settings on
/// disk. `None` when there is nothing good at all.
#[must_use]
pub fn in_force(facts: &Facts) -> Option<Options> {
    match check(&facts.options) {
        Ok(options) => Some(options),
        Err(_) => facts.host.config.as_ref().map(|config| config.options.clone()),
    }
}

/// Where this unit stands on its way to a serving member; input of the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No address, relation, program or certificate yet.
    Preparing,
    /// No unit was chosen to start the cluster, or the choice is not yet published.
    Unchosen,
    /// Another unit starts the cluster, or the leader has yet to add this one.
    Outside {
        /// The unit that starts the cluster.
        bootstrap: Unit,
    },
    /// The data on disk belongs to something else.
    ForeignData,
    /// The member's data is gone although it had started.
    DataLost,
    /// The storage that holds the member's data is not there.
    StorageMissing,
    /// The daemon is, or is about to be, running.
    Running,
    /// It runs, with settings that are not the wanted ones, until its turn comes.
    AwaitingTurn,
}

/// The initial cluster and its state, which count at the first start only.
struct Initial {
    cluster: InitialCluster,
    state: &'static str,
}

/// Plans settings, start and restart.
pub fn serve(facts: &Facts, actions: &mut Vec<Action>) -> Standing {
    let (Some(peer), Some(token)) = (&facts.peer, facts.peer.as_ref().and_then(|peer| peer.app.token())) else {
        return Standing::Preparing;
    };
    let initial = if facts.host.data {
        match facts.host.config.as_ref().filter(|_| owns_data(facts)) {
            Some(old) => Initial { cluster: old.initial_cluster.clone(), state: state_word(old) },
            None => return Standing::ForeignData,
        }
    } else if storage_missing(facts, &token) {
        return Standing::StorageMissing;
    } else if peer.own.member.is_some() {
        return Standing::DataLost;
    } else {
        match first_start(facts) {
            Ok(initial) => initial,
            Err(standing) => return standing,
        }
    };
    let Some(config) = render(facts, &token, initial) else { return Standing::Preparing };
    if !Side::BOTH.iter().all(|side| certified(facts, *side)) {
        return Standing::Preparing;
    }
    run(facts, config, actions)
}

/// True when the data that lies here, if any, is that of this unit's member in this cluster. Once the relation is
/// gone nothing tells the cluster's token; a unit's name is never used again.
#[must_use]
pub fn owns_data(facts: &Facts) -> bool {
    let token = facts.peer.as_ref().and_then(|peer| peer.app.token());
    facts.host.config.as_ref().is_some_and(|old| {
        old.name == facts.unit.member_name()
            && token.is_none_or(|token| old.initial_cluster_token == token)
            && old.data_dir == facts.host.data_dir
    })
}

fn state_word(old: &DaemonConfig) -> &'static str {
    if old.initial_cluster_state == "new" { "new" } else { "existing" }
}

/// Where the data lies when no storage was attached before the first start.
#[must_use]
pub fn default_data_dir(facts: &Facts) -> Folder {
    facts.host.root.below(&Folder::data())
}

/// The attached storage, when it came too late to hold the member's data.
#[must_use]
pub fn unused_storage(facts: &Facts) -> Option<&Storage> {
    let config = facts.host.config.as_ref().filter(|_| facts.host.data)?;
    facts.storage.as_ref().filter(|storage| config.data_dir != storage.data_dir(&facts.host.root))
}

/// True when this cluster's settings were written for a storage that is not there: a member may have
/// started in it although its hook ended too early to say so.
fn storage_missing(facts: &Facts, token: &str) -> bool {
    let old = facts.host.config.as_ref().filter(|old| old.initial_cluster_token == token);
    facts.storage.is_none() && old.is_some_and(|old| old.data_dir != default_data_dir(facts))
}

/// How a member without data starts: alone as the chosen unit, or as the leader laid down.
fn first_start(facts: &Facts) -> Result<Initial, Standing> {
    let Some(peer) = &facts.peer else { return Err(Standing::Preparing) };
    if facts.done.app_written {
        // What this hook wrote counts only once the hook has ended well: were it to fail, the next
        // leader could not know that this unit has started, and would start a second cluster.
        return Err(Standing::Unchosen);
    }
    if let Some(cluster) = peer.app.joins.get(&facts.unit) {
        return Ok(Initial { cluster: cluster.clone(), state: "existing" });
    }
    let Some(chosen) = &peer.app.bootstrap else { return Err(Standing::Unchosen) };
    // The choice alone is not enough: where there is a cluster, the chosen unit joins it like any other.
    if chosen != &facts.unit || bootstrap::is_seen(facts) {
        return Err(Standing::Outside { bootstrap: chosen.clone() });
    }
    let url = facts.peer_url().ok_or(Standing::Preparing)?;
    let alone = vec![(MemberName::read(&facts.unit.member_name()), url)];
    Ok(Initial { cluster: InitialCluster::of(alone).ok_or(Standing::Preparing)?, state: "new" })
}

/// True when certificate and authorities of a side are on disk, belong to its key and are the
/// published ones; a certificate planned for this very hook counts from the next look on.
fn certified(facts: &Facts, side: Side) -> bool {
    let Some(pair) = facts.host.pairs.get(&side) else { return false };
    pair.request.is_some() && pair.certificate.is_some() && pair.trust.is_some()
}

fn render(facts: &Facts, token: &Word, initial: Initial) -> Option<DaemonConfig> {
    let network = facts.network.as_ref()?;
    let options = in_force(facts)?;
    let root = facts.host.root.trim_end_matches('/');
    let mut served = network.bind.clone();
    if !served.iter().any(IpAddr::is_loopback) {
        served.push(Ipv4Addr::LOCALHOST.into());
    }
    let security = |side: Side| Security {
        cert_file: format!("{root}/etc/etcd/tls/{}.crt", side.word()),
        key_file: format!("{root}/etc/etcd/tls/{}.key", side.word()),
        trusted_ca_file: format!("{root}/etc/etcd/tls/{}-ca.crt", side.word()),
        client_cert_auth: true,
    };
    Some(DaemonConfig {
        name: MemberName::read(&facts.unit.member_name()),
        data_dir: facts.host.data_dir.clone(),
        listen_peer_urls: UrlList::at(&network.bind, PEER_PORT),
        listen_client_urls: UrlList::at(&served, options.port),
        initial_advertise_peer_urls: PeerUrl::at(network.ingress, PEER_PORT),
        advertise_client_urls: ClientUrl::at(network.ingress, options.port),
        initial_cluster: initial.cluster,
        initial_cluster_state: Word::parse(initial.state)?,
        initial_cluster_token: token.clone(),
        client_transport_security: security(Side::Server),
        peer_transport_security: security(Side::Peer),
        promote_learners: true,
        options,
    })
}

/// Fingerprint of what a daemon runs with: its program and its settings.
#[must_use]
pub fn generation(config: &DaemonConfig, stamp: &str) -> Word {
    let mut hash = Sha256::new();
    hash.update(stamp.as_bytes());
    hash.update(format!("{config:?}").as_bytes());
    Word::hex("", &hash.finalize()[..8])
}

fn run(facts: &Facts, config: DaemonConfig, actions: &mut Vec<Action>) -> Standing {
    let wanted = generation(&config, &facts.host.stamp);
    let written = facts.host.config.as_ref() == Some(&config);
    let config = Box::new(config);
    let outdated = facts.host.program == crate::facts::Program::Outdated;
    match &facts.host.service {
        _ if facts.done.started || outdated => Standing::Running,
        Service::Stopped => {
            if !written {
                actions.push(Action::WriteConfig(config));
            }
            actions.push(Action::StartService { generation: wanted });
            Standing::Running
        }
        // Settings on disk that are not what runs would be taken up by the next start, whoever makes it.
        Service::Running(running) if written && running.as_ref().is_none_or(|running| *running == wanted) => {
            Standing::Running
        }
        Service::Running(_) if !serving(facts) || alone(facts) || its_turn(facts, &wanted) => {
            if let Some(to) = super::membership::successor(facts) {
                actions.push(Action::MoveLeader { to });
            }
            if !written {
                actions.push(Action::WriteConfig(config));
            }
            actions.push(Action::RestartService { generation: wanted });
            Standing::Running
        }
        Service::Running(_) => Standing::AwaitingTurn,
    }
}

/// The generation this unit should run but does not, when it has to wait for its turn.
#[must_use]
pub fn wanted_restart(facts: &Facts) -> Option<Word> {
    let mut actions = Vec::new();
    if serve(facts, &mut actions) != Standing::AwaitingTurn {
        return None;
    }
    let peer = facts.peer.as_ref()?;
    let old = facts.host.config.as_ref()?;
    let initial = Initial { cluster: old.initial_cluster.clone(), state: state_word(old) };
    let config = render(facts, &peer.app.token()?, initial)?;
    Some(generation(&config, &facts.host.stamp))
}

/// The member takes part: the quorum answers and lists it, and it answers itself.
fn serving(facts: &Facts) -> bool {
    matches!(facts.store, Store::Reachable(_)) && facts.own_member().is_some_and(|member| member.reachable)
}

/// The only member, with no other on its way: there is nobody whose turn it could be instead, and nobody to
/// say so but an `update-status` minutes later.
fn alone(facts: &Facts) -> bool {
    let Store::Reachable(cluster) = &facts.store else { return false };
    cluster.members.len() == 1 && facts.own_member().is_some()
}

fn its_turn(facts: &Facts, generation: &Word) -> bool {
    let turn = facts.peer.as_ref().and_then(|peer| peer.app.turn.as_ref());
    !facts.done.app_written && turn.is_some_and(|(unit, granted)| *unit == facts.unit && granted == generation)
}
