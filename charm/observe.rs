//! Fills [`Facts`] from Juju's hook tools, this machine and the cluster; reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_charm::client::Presented;
use etcd_charm::pki;

use crate::act::CharmError;
use crate::bags::{AppBag, UnitBag};
use crate::cluster::{Asker, census};
use crate::facts::{Authorities, Facts, Host as HostFacts, Life, Member, Network, Peer, Service, Side, Store, Unit};
use crate::host::Host;
use crate::juju::{Addresses, Console, Juju, SecretInfo};
use crate::pending::Pending;
use crate::secret::SecretContent;
use crate::text::{ClientUrl, HostName, RelationId};
use crate::trust::Report;

/// How often a look at a cluster that seems ill is repeated before it is believed.
const LOOKS: u32 = 3;
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How often a member is asked whether it has taken up the files on its disk. It looks at them once a
/// second, when somebody calls.
const HANDSHAKES: u32 = 4;
/// Pause between two handshakes.
const HANDSHAKE_PAUSE: Duration = Duration::from_millis(600);

/// Everything one look found: the facts, and what it takes to act on them.
pub struct Sight {
    /// What the planner may know.
    pub facts: Facts,
    /// The peer relation's id.
    pub relation: Option<RelationId>,
    /// Whom to ask in the cluster.
    pub asker: Asker,
    /// Where the secret is; looked up by the leader alone.
    secret: Option<SecretInfo>,
    /// The authorities with their keys; looked up by the leader alone. Never part of the facts.
    signer: Option<SecretContent>,
}

impl Sight {
    /// Where the secret is.
    ///
    /// # Errors
    /// [`CharmError::Secret`] when this look did not find it.
    pub fn secret(&self) -> Result<&SecretInfo, CharmError> {
        self.secret.as_ref().ok_or_else(absent)
    }

    /// The authorities with their keys.
    ///
    /// # Errors
    /// [`CharmError::Secret`] when this look did not find them.
    pub fn signer(&self) -> Result<&SecretContent, CharmError> {
        self.signer.as_ref().ok_or_else(absent)
    }
}

fn absent() -> CharmError {
    CharmError::Secret("it does not exist yet; wait until the unit is active".to_owned())
}

/// Reads the authorities, with their keys, on whatever unit.
///
/// # Errors
/// [`CharmError::Secret`] when there are none or they do not fit together.
pub fn read_secret(juju: &Juju) -> Result<SecretContent, CharmError> {
    SecretContent::read(&juju.secret()?.ok_or_else(absent)?).map_err(CharmError::Secret)
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

/// Looks at Juju, at the machine and at the cluster, in this order: a leader that reads its
/// databag after the answer to `is-leader` reads everything an earlier leader ever published. What this
/// program wants Juju to keep is laid over Juju's answers; `started` tells whether it has started the daemon.
///
/// # Errors
/// [`CharmError`] when a hook tool or the machine cannot be read; a silent cluster is a fact.
pub fn observe(juju: &Juju, host: &Host, pending: &Pending, started: bool) -> Result<Sight, CharmError> {
    let leader = juju.is_leader()?;
    let relation = juju.peer_relation()?;
    let goal = juju.goal().inspect_err(|error| Console.log("WARNING", &error.to_string())).ok();
    let peer = relation.as_ref().map(|relation| read_peer(juju, relation, goal.as_ref(), pending)).transpose()?;
    let network = network(juju)?;
    let storage = juju.storage()?;
    let machine = host.look(storage.as_ref())?;
    let bags = peer.as_ref().map(|peer| peer.units.values().cloned().collect()).unwrap_or_default();
    let asker = asker(host, &machine, bags)?;
    let known = if leader { authorities(juju, pending) } else { Known::default() };
    let mut facts = Facts {
        unit: juju.unit().clone(),
        now: now(),
        leader,
        options: juju.config()?,
        network,
        authorities: known.authorities,
        ports: pending.over_ports(juju.opened_ports()?),
        presented: presented(host, &machine, &asker),
        secret_revision: known.secret.as_ref().map(|secret| secret.revision),
        storage,
        host: machine,
        store: Store::Unreachable,
        census: None,
        peer,
        goal,
        done: pending.done(started),
    };
    for look in 1..=LOOKS {
        facts.store = asker.look();
        let expected = facts.peer.as_ref().is_some_and(|peer| peer.own.member.is_some());
        if look == LOOKS || !expected || all_well(&facts) {
            break;
        }
        std::thread::sleep(LOOK_PAUSE);
    }
    let registered = facts.peer.as_ref().is_some_and(|peer| peer.own.member.is_some());
    if leader && registered && facts.store == Store::Unreachable {
        facts.census = asker.members().ok().map(|members| census(&asker.check_all(&members)));
    }
    if let Some(why) = facts.impossible() {
        Console.log("WARNING", &format!("these facts do not fit together: {why}"));
    }
    Ok(Sight { facts, relation, asker, secret: known.secret, signer: known.signer })
}

/// True when every wanted member answers and is well: no reason to look again.
fn all_well(facts: &Facts) -> bool {
    let Store::Reachable(cluster) = &facts.store else { return false };
    let wanted: BTreeSet<String> = facts.planned().iter().map(Unit::member_name).collect();
    let well = |member: &Member| member.reachable && member.healthy;
    cluster.own_healthy && cluster.members.iter().all(|member| well(member) || !wanted.contains(&*member.name))
}

/// Who exists is what goal-state says, not whom the relation lists: it goes on listing units that have gone
/// (seen with Juju 4.0 until this unit's agent was restarted), and no longer lists those from whom a leaving
/// unit has parted, which must still find the cluster and lead it. The bag of a unit that has not come so
/// far as to write one cannot be read.
fn read_peer(
    juju: &Juju,
    relation: &RelationId,
    goal: Option<&BTreeMap<Unit, Life>>,
    pending: &Pending,
) -> Result<Peer, CharmError> {
    let unit = juju.unit();
    let listed = juju.relation_units(relation)?;
    let existing = goal.map_or_else(|| listed.clone(), |goal| goal.keys().cloned().collect());
    let mut units = BTreeMap::new();
    for other in existing.into_iter().filter(|other| other != unit) {
        match juju.unit_bag(relation, &other) {
            Ok(bag) => units.extend([(other, UnitBag::read(&bag))]),
            Err(error) if listed.contains(&other) => return Err(error.into()),
            Err(_) => {}
        }
    }
    Ok(Peer {
        own: UnitBag::read(&pending.over_unit(juju.unit_bag(relation, unit)?)),
        app: AppBag::read(&pending.over_app(juju.app_bag(relation)?), &unit.application),
        units,
    })
}

fn network(juju: &Juju) -> Result<Option<Network>, CharmError> {
    let found = match juju.addresses() {
        Ok(found) => found,
        // Juju has no address for the binding yet, or has lost it for a moment.
        Err(error) if error.to_string().contains("no network config") => Addresses::default(),
        Err(error) => return Err(error.into()),
    };
    let Some(ingress) = found.ingress.first().or(found.bind.first()).copied() else { return Ok(None) };
    let bind: Vec<IpAddr> = if found.bind.is_empty() { vec![ingress] } else { found.bind.clone() };
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    names.extend(bind.iter().chain(&found.ingress).map(IpAddr::to_string));
    names.extend(host_names());
    Ok(Some(Network { bind, ingress, names: pki::normal_names(&names) }))
}

/// The host's name and its names in `/etc/hosts`: no name server is asked, because an answer that
/// comes and goes would have certificates issued again and again.
fn host_names() -> Vec<String> {
    let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") else { return Vec::new() };
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    names_of(name.trim(), &hosts)
}

/// Its own and those on its line.
#[must_use]
pub fn names_of(host: &str, hosts: &str) -> Vec<String> {
    let mut names: Vec<String> = HostName::parse(host).into_iter().map(String::from).collect();
    for line in hosts.lines() {
        let listed: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().skip(1).collect();
        if listed.contains(&host) {
            names.extend(listed.into_iter().filter_map(HostName::parse).map(String::from));
        }
    }
    names
}

fn asker(host: &Host, machine: &HostFacts, bags: Vec<UnitBag>) -> Result<Asker, CharmError> {
    let own = match (&machine.service, &machine.config) {
        (Service::Running(_), Some(config)) => config.listen_client_urls.first(),
        _ => None,
    };
    let mut bags = bags;
    // Those that have a member first: an address where nothing listens yet may cost a time-out.
    bags.sort_by_key(|bag| bag.member.is_none());
    let others = bags.into_iter().filter_map(|bag| bag.client_url).collect();
    Asker::new(host.credentials(Side::Server), own, others).map_err(CharmError::Runtime)
}

/// What this unit's running member shows on each port. One that has not yet taken up what is on its
/// disk is given a few seconds.
fn presented(host: &Host, machine: &HostFacts, asker: &Asker) -> BTreeMap<Side, Report> {
    let mut seen = BTreeMap::new();
    let (Service::Running(_), Some(config)) = (&machine.service, &machine.config) else { return seen };
    for side in Side::BOTH {
        let urls = match side {
            Side::Server => &config.listen_client_urls,
            Side::Peer => &config.listen_peer_urls,
        };
        let (Some(url), Some(tls)) = (urls.first(), host.credentials(side)) else { continue };
        let on_disk = machine.pairs.get(&side).map(|pair| pair.report.clone()).unwrap_or_default();
        for handshake in 1..=HANDSHAKES {
            let Some(shown) = asker.presented(&url, &tls) else { break };
            let report = report(&shown, &tls.ca);
            let current = report == on_disk;
            seen.insert(side, report);
            if current || handshake == HANDSHAKES {
                break;
            }
            std::thread::sleep(HANDSHAKE_PAUSE);
        }
    }
    seen
}

/// Names what a member showed by the authorities on its disk; others do not matter to anybody.
fn report(shown: &Presented, bundle: &str) -> Report {
    let known = pki::describe_bundle(bundle).unwrap_or_default();
    let trusts = known.into_iter().filter(|one| shown.accepts.contains(&one.subject)).map(|one| one.public_key);
    Report { trusts: trusts.collect(), issuer: pki::issuer_in(&shown.certificate, bundle).ok().flatten() }
}

/// What the leader knows of the secret.
struct Known {
    authorities: Authorities,
    secret: Option<SecretInfo>,
    signer: Option<SecretContent>,
}

impl Default for Known {
    fn default() -> Self {
        Known { authorities: Authorities::Unasked, secret: None, signer: None }
    }
}

fn authorities(juju: &Juju, pending: &Pending) -> Known {
    let unusable = |why: String| Known { authorities: Authorities::Unusable(why), ..Known::default() };
    let held = |signer: SecretContent, secret| match signer.trust() {
        Ok(trust) => Known { authorities: Authorities::Held(trust), secret, signer: Some(signer) },
        Err(why) => unusable(why),
    };
    if let Some(content) = pending.secret_content() {
        return held(content.clone(), None);
    }
    let secret = match juju.secret_info() {
        Err(error) => return unusable(error.to_string()),
        Ok(None) => return Known { authorities: Authorities::Absent, ..Known::default() },
        Ok(Some(secret)) => secret,
    };
    match juju.secret() {
        Err(error) => unusable(error.to_string()),
        // A secret that is listed and cannot be read is not an absent one, for which another would be made.
        Ok(None) => unusable("Juju lists it but does not show its content".to_owned()),
        Ok(Some(content)) => SecretContent::read(&content).map_or_else(unusable, |signer| held(signer, Some(secret))),
    }
}

/// The client URLs of all wanted units that have a member, sorted: the answer when the cluster
/// itself does not give its list.
#[must_use]
pub fn published_endpoints(facts: &Facts) -> Vec<ClientUrl> {
    let Some(peer) = &facts.peer else { return Vec::new() };
    let wanted = |unit| facts.goal.as_ref().is_none_or(|goal| goal.get(unit) == Some(&Life::Alive));
    let mut urls: Vec<ClientUrl> = peer
        .units
        .iter()
        .chain([(&facts.unit, &peer.own)])
        .filter(|(unit, bag)| wanted(unit) && bag.member.is_some())
        .filter_map(|(_, bag)| bag.client_url.clone())
        .collect();
    urls.sort();
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_come_from_the_host_and_its_line_in_etc_hosts_only() {
        let hosts = "127.0.0.1 localhost\n10.0.0.5 box.example.org box # the box\n10.0.0.6 other box2\n";
        assert_eq!(names_of("box", hosts), ["box", "box.example.org", "box"]);
        assert_eq!(names_of("bad name!", hosts), Vec::<String>::new());
    }
}
