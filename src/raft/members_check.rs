//! The rules that keep a cluster from being reconfigured into one that cannot commit: etcd's
//! `--strict-reconfig-check`, decided on plain facts.

use std::collections::BTreeSet;

use super::error::MemberError;
use super::members::MemberInfo;
use super::types::NodeId;

/// What the rules look at.
pub(super) struct Facts<'a> {
    /// The member list.
    pub members: &'a [MemberInfo],
    /// Ids that were members once. They are spent.
    pub removed: &'a BTreeSet<NodeId>,
    /// Members that the leader has reached without a break for five seconds, itself included.
    pub steady: &'a BTreeSet<NodeId>,
    /// Members that the leader reaches now, itself included.
    pub reached: &'a BTreeSet<NodeId>,
    /// Whether the strict rules apply.
    pub strict: bool,
    /// Learners there may be.
    pub max_learners: usize,
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl Facts<'_> {
    fn voters(&self) -> impl Iterator<Item = &MemberInfo> {
        self.members.iter().filter(|info| !info.is_learner)
    }

    fn started_voters(&self) -> usize {
        self.voters().filter(|info| info.is_started()).count()
    }

    fn steady_voters(&self) -> usize {
        self.voters().filter(|info| self.steady.contains(&info.id)).count()
    }

    /// The member with this id. Unknown and removed ids answer alike.
    pub fn find(&self, id: NodeId) -> Result<&MemberInfo, MemberError> {
        self.members.iter().find(|info| info.id == id).ok_or(MemberError::NotFound)
    }

    fn urls_are_free(&self, urls: &[String], owner: Option<NodeId>) -> Result<(), MemberError> {
        let others = self.members.iter().filter(|info| Some(info.id) != owner);
        let taken = others.flat_map(|info| &info.member.peer_urls).any(|url| urls.contains(url));
        if taken { Err(MemberError::PeerUrlExists) } else { Ok(()) }
    }

    /// Whether a member may be added.
    pub fn add(&self, id: NodeId, peer_urls: &[String], learner: bool) -> Result<(), MemberError> {
        if !urls_are_usable(peer_urls) {
            return Err(MemberError::BadUrls);
        }
        let voters = self.voters().count();
        if self.strict {
            // One started member may grow to two, although two started ones are wanted then.
            let first_step = voters == 1 && self.started_voters() == 1;
            if !learner && !first_step && self.started_voters() < quorum(voters + 1) {
                return Err(MemberError::NotEnoughStarted);
            }
            // A learner enlarges no quorum; etcd counts it all the same (docs/decisions/005).
            let larger = voters + usize::from(!learner);
            if voters > 1 && self.steady_voters() < quorum(larger) {
                return Err(MemberError::Unhealthy);
            }
        }
        if self.removed.contains(&id) {
            return Err(MemberError::NotFound);
        }
        // Before the id: asked twice within one second, the same URLs make the same id.
        self.urls_are_free(peer_urls, None)?;
        if self.members.iter().any(|info| info.id == id) {
            return Err(MemberError::IdExists);
        }
        let learners = self.members.iter().filter(|info| info.is_learner).count();
        if learner && learners >= self.max_learners {
            return Err(MemberError::TooManyLearners);
        }
        Ok(())
    }

    /// Whether a member may be removed.
    pub fn remove(&self, id: NodeId) -> Result<(), MemberError> {
        let target = self.find(id)?;
        if !self.strict || target.is_learner {
            return Ok(());
        }
        let left = self.voters().count() - 1;
        let started = self.started_voters() - usize::from(target.is_started());
        if left == 0 || started < quorum(left) {
            return Err(MemberError::NotEnoughStarted);
        }
        // Whoever is down takes nothing away by leaving.
        if self.reached.contains(&id) && self.steady_voters().saturating_sub(1) < quorum(left) {
            return Err(MemberError::Unhealthy);
        }
        Ok(())
    }

    /// Whether a member may move to other peer URLs.
    pub fn update(&self, id: NodeId, peer_urls: &[String]) -> Result<(), MemberError> {
        self.find(id)?;
        self.urls_are_free(peer_urls, Some(id))
    }

    /// Whether a learner may become a voter. `matched` of `last` entries of the leader's log are known to be in its log.
    pub fn promote(&self, id: NodeId, matched: u64, last: u64) -> Result<(), MemberError> {
        if !self.find(id)?.is_learner {
            return Err(MemberError::NotLearner);
        }
        if self.strict && self.started_voters() + 1 < quorum(self.voters().count() + 1) {
            return Err(MemberError::NotEnoughStarted);
        }
        if u128::from(matched) * 10 < u128::from(last) * 9 {
            return Err(MemberError::LearnerNotReady);
        }
        Ok(())
    }
}

/// Whether these are peer URLs as etcd takes them: at least one, each a scheme, a host and a port and nothing else.
pub(super) fn urls_are_usable(urls: &[String]) -> bool {
    let usable = |url: &String| {
        let Ok(parsed) = url::Url::parse(url) else { return false };
        let port = url.rsplit_once(':').is_some_and(|(_, port)| port.trim_end_matches('/').parse::<u16>().is_ok());
        let bare = matches!(parsed.path(), "" | "/") && parsed.query().is_none() && !url.ends_with('/');
        matches!(parsed.scheme(), "http" | "https" | "unix" | "unixs") && parsed.has_host() && port && bare
    };
    !urls.is_empty() && urls.iter().all(usable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::Member;

    fn info(id: NodeId, started: bool, is_learner: bool) -> MemberInfo {
        let name = if started { format!("m{id}") } else { String::new() };
        let peer_urls = vec![format!("http://h{id}:2380")];
        MemberInfo { id, member: Member { name, peer_urls, client_urls: vec![] }, is_learner }
    }

    struct Cluster {
        members: Vec<MemberInfo>,
        removed: BTreeSet<NodeId>,
        steady: BTreeSet<NodeId>,
        reached: BTreeSet<NodeId>,
    }

    impl Cluster {
        /// Voters 1..=`voters`, all started and reachable.
        fn healthy(voters: u64) -> Self {
            let all: BTreeSet<NodeId> = (1..=voters).collect();
            let members = (1..=voters).map(|id| info(id, true, false)).collect();
            Self { members, removed: BTreeSet::from([99]), steady: all.clone(), reached: all }
        }

        fn down(mut self, id: NodeId) -> Self {
            self.steady.remove(&id);
            self.reached.remove(&id);
            self
        }

        fn facts(&self) -> Facts<'_> {
            Facts {
                members: &self.members,
                removed: &self.removed,
                steady: &self.steady,
                reached: &self.reached,
                strict: true,
                max_learners: 1,
            }
        }
    }

    fn urls() -> Vec<String> {
        vec!["http://new:2380".to_owned()]
    }

    #[test]
    fn one_started_member_may_grow_at_once() {
        let one = Cluster::healthy(1);
        assert_eq!(one.facts().add(7, &urls(), false), Ok(()));
        assert_eq!(one.facts().add(7, &urls(), true), Ok(()));
    }

    #[test]
    fn a_member_is_added_only_while_the_larger_cluster_would_have_a_steady_quorum() {
        assert_eq!(Cluster::healthy(3).facts().add(7, &urls(), false), Ok(()));
        let result = Cluster::healthy(3).down(3).facts().add(7, &urls(), false);
        assert_eq!(result, Err(MemberError::Unhealthy), "four members need three");
        assert_eq!(Cluster::healthy(4).down(4).facts().add(7, &urls(), false), Ok(()), "five need three");
        assert_eq!(Cluster::healthy(5).down(5).facts().add(7, &urls(), false), Ok(()), "six need four");
    }

    #[test]
    fn a_learner_is_added_while_the_voters_have_a_steady_quorum() {
        assert_eq!(Cluster::healthy(3).down(3).facts().add(7, &urls(), true), Ok(()));
        let result = Cluster::healthy(3).down(3).down(2).facts().add(7, &urls(), true);
        assert_eq!(result, Err(MemberError::Unhealthy));
    }

    #[test]
    fn no_second_voter_is_added_before_the_first_has_started() {
        let mut two = Cluster::healthy(2);
        two.members[1] = info(2, false, false);
        assert_eq!(two.facts().add(7, &urls(), false), Err(MemberError::NotEnoughStarted));
    }

    #[test]
    fn the_last_member_stays() {
        assert_eq!(Cluster::healthy(1).facts().remove(1), Err(MemberError::NotEnoughStarted));
        assert_eq!(Cluster::healthy(2).facts().remove(1), Ok(()));
    }

    #[test]
    fn a_live_member_is_removed_only_while_the_rest_is_a_steady_quorum() {
        assert_eq!(Cluster::healthy(3).facts().remove(2), Ok(()));
        assert_eq!(Cluster::healthy(3).down(3).facts().remove(2), Err(MemberError::Unhealthy));
        assert_eq!(Cluster::healthy(3).down(3).facts().remove(3), Ok(()), "a dead one always may go");
    }

    #[test]
    fn a_learner_may_always_be_removed() {
        let mut cluster = Cluster::healthy(3).down(2).down(3);
        cluster.members.push(info(8, true, true));
        assert_eq!(cluster.facts().remove(8), Ok(()));
    }

    #[test]
    fn ids_and_urls_are_taken_once() {
        let cluster = Cluster::healthy(3);
        let facts = cluster.facts();
        assert_eq!(facts.add(2, &urls(), false), Err(MemberError::IdExists));
        assert_eq!(facts.add(99, &urls(), false), Err(MemberError::NotFound), "removed ids are spent");
        assert_eq!(facts.add(7, &["http://h2:2380".to_owned()], false), Err(MemberError::PeerUrlExists));
        assert_eq!(facts.update(2, &["http://h2:2380".to_owned()]), Ok(()), "its own URL is no conflict");
        assert_eq!(facts.update(2, &["http://h3:2380".to_owned()]), Err(MemberError::PeerUrlExists));
        assert_eq!(facts.update(42, &urls()), Err(MemberError::NotFound));
    }

    #[test]
    fn learners_have_a_limit_and_are_promoted_when_nine_tenths_are_there() {
        let mut cluster = Cluster::healthy(1);
        cluster.members.push(info(8, true, true));
        let facts = cluster.facts();
        assert_eq!(facts.add(7, &urls(), true), Err(MemberError::TooManyLearners));
        assert_eq!(facts.promote(8, 89, 100), Err(MemberError::LearnerNotReady));
        assert_eq!(facts.promote(8, 90, 100), Ok(()));
        assert_eq!(facts.promote(1, 100, 100), Err(MemberError::NotLearner));
        assert_eq!(facts.promote(42, 100, 100), Err(MemberError::NotFound));
    }

    #[test]
    fn peer_urls_need_scheme_host_and_port_and_nothing_else() {
        for good in ["http://a:1", "https://[::1]:2380", "http://10.0.0.1:80"] {
            assert!(urls_are_usable(&[good.to_owned()]), "{good}");
        }
        for bad in ["", "a:1", "ftp://a:1", "http://a", "http://a:1/x", "http://:1", "http://a:b", "http://a:99999"] {
            assert!(!urls_are_usable(&[bad.to_owned()]), "{bad}");
        }
        assert!(!urls_are_usable(&[]));
    }

    #[test]
    fn without_the_strict_check_only_nonsense_is_refused() {
        let cluster = Cluster::healthy(3).down(2).down(3);
        let facts = Facts { strict: false, ..cluster.facts() };
        assert_eq!(facts.add(7, &urls(), false), Ok(()));
        assert_eq!(facts.remove(1), Ok(()));
        assert_eq!(facts.remove(42), Err(MemberError::NotFound));
    }
}
