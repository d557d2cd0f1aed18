//! How a member comes into the world: as one of the first of a new cluster, or into one that exists.
//!
//! The first members derive the same ids from the same `--initial-cluster` without talking. A member that joins asks the
//! others who it is. Either way a member that has lost its data is turned away: it may have voted and acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::sleep;

use super::identity::{DATA_FORMAT, FirstMember, Identity};
use crate::raft::MemberInfo;
use crate::raft::network::{PeerMembers, PeerTls, fetch_members};
use crate::settings::Settings;
use crate::settings::ids::{cluster_id, hex, member_id};

/// How often a joining member asks the others before it gives up.
const ASK_ROUNDS: u32 = 10;
/// Between two rounds.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Why a member is not born.
#[derive(Debug, thiserror::Error)]
pub enum BirthError {
    /// The list does not name this member.
    #[error(
        "couldn't find local name \"{0}\" in the initial cluster configuration; check --name and --initial-cluster"
    )]
    NotListed(String),
    /// The cluster knows this member as one that has run.
    #[error(
        "member {id} has already been bootstrapped and its data directory is empty: it cannot come back without its \
         data. Remove it (etcdctl member remove {id}), add it again (etcdctl member add) and start it with \
         --initial-cluster-state existing"
    )]
    AlreadyBorn {
        /// Its id.
        id: String,
    },
    /// Nobody of the cluster to join answers.
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs ({0}); \
         check --initial-cluster, the network and the peer certificates"
    )]
    NobodyAnswers(String),
    /// The cluster to join does not expect this member.
    #[error("the cluster has no member with peer URLs {0}; add it first with etcdctl member add")]
    NotAdded(String),
}

fn own_urls(settings: &Settings) -> Vec<String> {
    let mut urls = settings.initial_advertise_peer_urls.texts();
    urls.sort();
    urls
}

/// The identity of a member whose data directory is empty.
///
/// # Errors
/// See [`BirthError`].
pub async fn identity(settings: &Settings, tls: &PeerTls) -> Result<Identity, BirthError> {
    if settings.is_new_cluster() {
        let identity = first(settings)?;
        refuse_if_known(&identity, settings, tls).await?;
        return Ok(identity);
    }
    let existing = find_cluster(settings, tls).await?;
    join(&existing, &own_urls(settings))
}

/// One of the first members.
fn first(settings: &Settings) -> Result<Identity, BirthError> {
    let token = &settings.initial_cluster_token;
    let mut first_members = BTreeMap::new();
    let (mut ids, mut own) = (Vec::new(), None);
    for (name, urls) in settings.initial_cluster.iter() {
        let mut peer_urls = urls.texts();
        peer_urls.sort();
        let id = member_id(&peer_urls, token);
        if *name == settings.name {
            own = Some(id);
        }
        ids.push(id);
        first_members.insert(hex(id), FirstMember { name: name.clone(), peer_urls });
    }
    let member_id = own.ok_or_else(|| BirthError::NotListed(settings.name.clone()))?;
    Ok(Identity { format: DATA_FORMAT, member_id, cluster_id: cluster_id(&ids), first_members, has_log: false })
}

fn others(settings: &Settings) -> Vec<String> {
    let others = settings.initial_cluster.iter().filter(|(name, _)| **name != settings.name);
    others.flat_map(|(_, urls)| urls.texts()).collect()
}

/// Asks whoever already runs whether this member has run before.
async fn refuse_if_known(identity: &Identity, settings: &Settings, tls: &PeerTls) -> Result<(), BirthError> {
    let answers = join_all(others(settings).iter().map(|url| fetch_members(url, tls)).collect::<Vec<_>>()).await;
    for answer in answers.into_iter().flatten() {
        let known = answer.members.iter().find(|info| info.id == identity.member_id);
        let has_run = known.is_some_and(|info| !info.member.client_urls.is_empty());
        if answer.cluster_id == identity.cluster_id && has_run {
            return Err(BirthError::AlreadyBorn { id: hex(identity.member_id) });
        }
    }
    Ok(())
}

async fn find_cluster(settings: &Settings, tls: &PeerTls) -> Result<PeerMembers, BirthError> {
    let urls = others(settings);
    let mut reasons = Vec::new();
    for round in 0..ASK_ROUNDS {
        if round > 0 {
            sleep(ASK_EVERY).await;
        }
        reasons.clear();
        for url in &urls {
            match fetch_members(url, tls).await {
                Ok(found) if !found.members.is_empty() => return Ok(found),
                Ok(_) => reasons.push(format!("{url}: has no members yet")),
                Err(error) => reasons.push(format!("{url}: {error}")),
            }
        }
        tracing::warn!(reasons = reasons.join("; "), "no member of the cluster to join answers yet");
    }
    Err(BirthError::NobodyAnswers(reasons.join("; ")))
}

fn join(existing: &PeerMembers, own_urls: &[String]) -> Result<Identity, BirthError> {
    let is_own = |info: &&MemberInfo| {
        let mut urls = info.member.peer_urls.clone();
        urls.sort();
        urls == own_urls
    };
    let own = existing.members.iter().find(is_own).ok_or_else(|| BirthError::NotAdded(own_urls.join(",")))?;
    if !own.member.client_urls.is_empty() {
        return Err(BirthError::AlreadyBorn { id: hex(own.id) });
    }
    Ok(Identity {
        format: DATA_FORMAT,
        member_id: own.id,
        cluster_id: existing.cluster_id,
        first_members: BTreeMap::new(),
        has_log: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::Member;

    fn info(id: u64, url: &str, client: Option<&str>) -> MemberInfo {
        let client_urls = client.map(str::to_owned).into_iter().collect();
        let member = Member { name: String::new(), peer_urls: vec![url.to_owned()], client_urls };
        MemberInfo { id, member, is_learner: false }
    }

    #[test]
    fn a_member_that_joins_finds_itself_by_its_peer_urls() {
        let members = vec![info(1, "http://a:1", Some("http://a:2")), info(7, "http://b:1", None)];
        let existing = PeerMembers { cluster_id: 5, members };
        let identity = join(&existing, &["http://b:1".to_owned()]).expect("it was added");
        assert_eq!((identity.member_id, identity.cluster_id), (7, 5));
        assert!(identity.first_members.is_empty());
        assert!(matches!(join(&existing, &["http://c:1".to_owned()]), Err(BirthError::NotAdded(_))));
        assert!(
            matches!(join(&existing, &["http://a:1".to_owned()]), Err(BirthError::AlreadyBorn { .. })),
            "one that has run does not come back without its data"
        );
    }
}
