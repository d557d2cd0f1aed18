//! The member list and its changes.
//!
//! openraft's membership is the only record of who belongs to the cluster: names, URLs and votes change by membership
//! entries. One change at a time, decided by the leader on the list it is based on, one voter per entry, so that the
//! list never has two sets of voters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, EntryPayload, Precondition};
use tokio::time::{Instant, timeout_at};

use super::error::{MemberError, ProposeError};
use super::members_check::Facts;
use super::network::{Answer, CallError, Request};
use super::types::{LogId, Member, Membership, NodeId, StoredMembership, TypeConfig};
use super::{Consensus, Inner};
use crate::settings::ids::added_member_id;

/// How long a member must have been reachable without a break to count for a change. etcd's number.
const STEADY: Duration = Duration::from_secs(5);
/// Between two tries while another change commits or leadership settles.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// How often the applied list is compared with what the transport knows, besides at every change.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A removed member stays this long, so that its answer to whoever asked for the removal gets out.
const FAREWELL: Duration = Duration::from_millis(500);

/// A member as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its id.
    pub id: NodeId,
    /// Its name and URLs.
    pub member: Member,
    /// Whether it has no vote yet.
    pub is_learner: bool,
}

impl MemberInfo {
    /// Whether it has published itself.
    pub fn is_started(&self) -> bool {
        !self.member.name.is_empty()
    }
}

/// A change of the member list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// Take in a member that does not run yet. Its id follows from its URLs and the time.
    Add {
        /// Where it will be reached.
        peer_urls: Vec<String>,
        /// Without a vote.
        learner: bool,
    },
    /// Send a member away, for good.
    Remove(NodeId),
    /// Give a member other peer URLs.
    Update {
        /// Which.
        id: NodeId,
        /// Where it will be reached.
        peer_urls: Vec<String>,
    },
    /// Give a learner its vote.
    Promote(NodeId),
    /// A member that started says its name and client URLs.
    Publish {
        /// Which.
        id: NodeId,
        /// Its name.
        name: String,
        /// Where clients reach it.
        client_urls: Vec<String>,
    },
}

/// The outcome of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membered {
    /// Index of the entry that made it.
    pub index: u64,
    /// The member it was about.
    pub affected: NodeId,
    /// The list after it, by ascending id.
    pub members: Vec<MemberInfo>,
}

/// The list that a membership stands for, by ascending id.
pub(super) fn list(stored: &StoredMembership) -> Vec<MemberInfo> {
    let voters: BTreeSet<NodeId> = stored.voter_ids().collect();
    let info = |(id, member): (&NodeId, &Member)| MemberInfo {
        id: *id,
        member: member.clone(),
        is_learner: !voters.contains(id),
    };
    stored.nodes().map(info).collect()
}

/// Whether a list is the other one and a second voter. Only the newcomer can commit such an entry, and it starts after it
/// was added: as soon as the one voter has the entry on disk it is certain, since nobody is elected without that voter.
fn second_voter(one: &StoredMembership, two: &StoredMembership) -> bool {
    let voters = |stored: &StoredMembership| stored.voter_ids().collect::<BTreeSet<NodeId>>();
    let (one, two) = (voters(one), voters(two));
    one.len() == 1 && two.len() == 2 && one.is_subset(&two)
}

impl Consensus {
    /// Adds a member; the answer's `affected` is its id.
    ///
    /// # Errors
    /// See [`MemberError`], as for every change.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        learner: bool,
        deadline: Instant,
    ) -> Result<Membered, MemberError> {
        self.inner.change(MemberChange::Add { peer_urls, learner }, deadline).await
    }

    /// Removes a member for good.
    pub async fn member_remove(&self, id: NodeId, deadline: Instant) -> Result<Membered, MemberError> {
        self.inner.change(MemberChange::Remove(id), deadline).await
    }

    /// Gives a member other peer URLs.
    pub async fn member_update(
        &self,
        id: NodeId,
        peer_urls: Vec<String>,
        deadline: Instant,
    ) -> Result<Membered, MemberError> {
        self.inner.change(MemberChange::Update { id, peer_urls }, deadline).await
    }

    /// Gives a learner that has caught up its vote.
    pub async fn member_promote(&self, id: NodeId, deadline: Instant) -> Result<Membered, MemberError> {
        self.inner.change(MemberChange::Promote(id), deadline).await
    }

    /// Publishes this member's name and client URLs.
    pub async fn publish(
        &self,
        name: String,
        client_urls: Vec<String>,
        deadline: Instant,
    ) -> Result<Membered, MemberError> {
        self.inner.change(MemberChange::Publish { id: self.inner.id, name, client_urls }, deadline).await
    }
}

/// What one try to change the list came to.
enum Try {
    Done(Result<Membered, MemberError>),
    Again,
}

impl Inner {
    /// The applied member list, or the one with a second voter who has not started yet.
    pub(super) fn listed(&self) -> Vec<MemberInfo> {
        let applied = self.store.membership();
        let effective = self.metrics.borrow_watched().membership_config.clone();
        if second_voter(&applied, &effective) { list(&effective) } else { list(&applied) }
    }

    async fn change(&self, change: MemberChange, deadline: Instant) -> Result<Membered, MemberError> {
        let started = Instant::now();
        let attempt = async {
            loop {
                if self.stopping.is_cancelled() {
                    return Err(ProposeError::Stopped.into());
                }
                let tried = match self.current_leader() {
                    Some(leader) if leader == self.id => self.change_here(&change).await,
                    Some(leader) => self.change_there(leader, &change, deadline).await,
                    None => Try::Again,
                };
                match tried {
                    Try::Done(outcome) => return outcome,
                    Try::Again => self.pause(RETRY_EVERY).await,
                }
            }
        };
        let outcome = match timeout_at(deadline, attempt).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(ProposeError::from(self.why_late(started)).into()),
        };
        let _ = timeout_at(deadline, self.store.wait_applied(outcome.index)).await;
        Ok(outcome)
    }

    async fn change_there(&self, leader: NodeId, change: &MemberChange, deadline: Instant) -> Try {
        let Some(peer) = self.peers.get(leader) else { return Try::Again };
        match peer.forward.call(Request::Members(change.clone()), deadline).await {
            Ok(Answer::Members(Err(MemberError::NotLeader | MemberError::Busy))) => Try::Again,
            Ok(Answer::Members(outcome)) => Try::Done(outcome),
            Ok(_) | Err(CallError::Lost(_)) => Try::Done(Err(ProposeError::LeaderChanged.into())),
            Err(CallError::NotSent(_) | CallError::Refused(_)) => Try::Again,
        }
    }

    /// For a change that another member carried here.
    pub(super) async fn change_carried(&self, change: &MemberChange) -> Result<Membered, MemberError> {
        let deadline = Instant::now() + self.rules.request_timeout;
        loop {
            if self.current_leader() != Some(self.id) {
                return Err(MemberError::NotLeader);
            }
            match self.change_here(change).await {
                Try::Done(outcome) => return outcome,
                Try::Again if Instant::now() >= deadline => return Err(MemberError::Busy),
                Try::Again => self.pause(RETRY_EVERY).await,
            }
        }
    }

    /// Decides and makes one change as the leader.
    async fn change_here(&self, change: &MemberChange) -> Try {
        let _one_at_a_time = self.changing.lock().await;
        let (base, committed) = {
            let metrics = self.metrics.borrow_watched();
            (metrics.membership_config.clone(), metrics.committed_membership_config.clone())
        };
        if base.log_id() != committed.log_id() {
            let refused = second_voter(&committed, &base).then(|| self.decide(change, &base).err()).flatten();
            return refused.map_or(Try::Again, |error| Try::Done(Err(error)));
        }
        if base.get_joint_config().len() > 1 {
            return self.leave_joint(&base).await;
        }
        match self.decide(change, &base) {
            Ok(Some((affected, next))) => self.append(affected, next, &base).await,
            Ok(None) => Try::Done(Ok(Membered { index: index(&base), affected: self.id, members: list(&base) })),
            Err(error) => Try::Done(Err(error)),
        }
    }

    /// The list after the change and the member it is about; `None` when it is so already.
    fn decide(&self, change: &MemberChange, base: &StoredMembership) -> Result<Option<(NodeId, Next)>, MemberError> {
        let members = list(base);
        let removed = self.store.removed();
        let (steady, reached) = (self.active(&members, STEADY), self.active(&members, Duration::ZERO));
        let facts = Facts {
            members: &members,
            removed: &removed,
            steady: &steady,
            reached: &reached,
            strict: self.rules.strict_reconfig,
            max_learners: self.rules.max_learners,
        };
        let mut voters: BTreeSet<NodeId> = base.voter_ids().collect();
        let mut nodes: BTreeMap<NodeId, Member> = base.nodes().map(|(id, member)| (*id, member.clone())).collect();
        let (affected, next) = match change {
            MemberChange::Add { peer_urls, learner } => {
                let id = added_member_id(peer_urls, unix_seconds());
                facts.add(id, peer_urls, *learner)?;
                nodes.insert(id, Member { peer_urls: peer_urls.clone(), ..Member::default() });
                if !learner {
                    voters.insert(id);
                }
                (id, Next::Votes(voters, nodes))
            }
            MemberChange::Remove(id) => {
                facts.remove(*id)?;
                voters.remove(id);
                nodes.remove(id);
                (*id, Next::Votes(voters, nodes))
            }
            MemberChange::Promote(id) => {
                let (matched, last) = self.progress(*id);
                facts.promote(*id, matched, last)?;
                voters.insert(*id);
                (*id, Next::Votes(voters, nodes))
            }
            MemberChange::Update { id, peer_urls } => {
                facts.update(*id, peer_urls)?;
                let member = Member { peer_urls: peer_urls.clone(), ..facts.find(*id)?.member.clone() };
                (*id, Next::Attributes(*id, member))
            }
            MemberChange::Publish { id, name, client_urls } => {
                let known = &facts.find(*id)?.member;
                let member =
                    Member { name: name.clone(), client_urls: client_urls.clone(), peer_urls: known.peer_urls.clone() };
                if member == *known {
                    return Ok(None);
                }
                (*id, Next::Attributes(*id, member))
            }
        };
        Ok(Some((affected, next)))
    }

    fn active(&self, members: &[MemberInfo], since: Duration) -> BTreeSet<NodeId> {
        members.iter().map(|info| info.id).filter(|id| self.peers.active([*id], since) == 1).collect()
    }

    /// How much of this leader's log is known to be in a member's log.
    fn progress(&self, id: NodeId) -> (u64, u64) {
        let metrics = self.metrics.borrow_watched();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        (matched.map_or(0, |id| id.index), metrics.last_log_index.unwrap_or(0))
    }

    async fn append(&self, affected: NodeId, next: Next, base: &StoredMembership) -> Try {
        let precondition = Precondition::LastMembershipLogId { last_membership_log_id: *base.log_id() };
        let written = match next {
            Next::Votes(voters, nodes) => match Membership::new(vec![voters], nodes) {
                Ok(membership) => {
                    let written = self.raft.append_membership(membership, EntryPayload::Blank, [precondition]);
                    tokio::select! {
                        written = written => written,
                        members = self.second_voter_after(base) => {
                            return Try::Done(Ok(Membered { index: index(base), affected, members }));
                        }
                    }
                }
                Err(_) => return Try::Done(Err(MemberError::NotEnoughStarted)),
            },
            Next::Attributes(id, member) => {
                let change = ChangeMembers::SetNodes(BTreeMap::from([(id, member)]));
                self.raft.change_membership_if(change, true, [precondition]).await
            }
        };
        match written {
            Ok(response) => {
                let after = response.membership.unwrap_or_default();
                let members = list(&StoredMembership::new(Some(response.log_id), after));
                Try::Done(Ok(Membered { index: response.log_id.index, affected, members }))
            }
            Err(error) => self.not_written(error),
        }
    }

    /// Returns when the entry after `base` adds a second voter and this member, the first, has it on disk.
    async fn second_voter_after(&self, base: &StoredMembership) -> Vec<MemberInfo> {
        let mut metrics = self.metrics.clone();
        loop {
            let (effective, on_disk) = {
                let seen = metrics.borrow_and_update();
                let own = seen.replication.as_ref().and_then(|all| all.get(&self.id).copied().flatten());
                (seen.membership_config.clone(), own.map_or(0, |id| id.index))
            };
            if second_voter(base, &effective) && on_disk >= index(&effective) {
                return list(&effective);
            }
            if metrics.changed().await.is_err() {
                // Consensus ended; whoever waits for the entry itself hears of it.
                std::future::pending::<()>().await;
            }
        }
    }

    fn not_written(&self, error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Try {
        match error {
            RaftError::Fatal(fatal) => Try::Done(Err(self.fatal(&fatal.to_string()).into())),
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
                Try::Done(Err(ProposeError::LeaderChanged.into()))
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(
                error @ (ChangeMembershipError::EmptyMembership(_)
                | ChangeMembershipError::LearnerNotFound(_)
                | ChangeMembershipError::UnsupportedMembershipTransition(_)),
            )) => {
                tracing::warn!(%error, "a membership change was refused below the rules");
                Try::Done(Err(MemberError::NotEnoughStarted))
            }
            // Not leading any more, an earlier change not committed yet, or the list moved: nothing was written.
            RaftError::APIError(error) => {
                tracing::debug!(%error, "a membership change waits");
                Try::Again
            }
        }
    }

    /// Finishes a change with two sets of voters that an earlier leader left behind.
    async fn leave_joint(&self, base: &StoredMembership) -> Try {
        tracing::warn!(membership = %base, "finishing an unfinished membership change");
        match self.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await {
            Ok(_) => Try::Again,
            Err(error) => self.not_written(error),
        }
    }
}

/// The list after a change.
enum Next {
    /// Other voters or other members.
    Votes(BTreeSet<NodeId>, BTreeMap<NodeId, Member>),
    /// Other attributes of one member.
    Attributes(NodeId, Member),
}

fn index(stored: &StoredMembership) -> u64 {
    stored.log_id().map_or(0, |id: LogId| id.index)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Keeps the transport's picture of the members up to date, and notices when this one has been removed.
pub(super) async fn follow(inner: Arc<Inner>) {
    let mut changes = inner.raft.server_metrics();
    let mut known: Option<Arc<StoredMembership>> = None;
    loop {
        let effective = changes.borrow_and_update().membership_config.clone();
        if known.as_ref() != Some(&effective) {
            inner.peers.follow(&effective);
            known = Some(effective);
        }
        if inner.store.removed().contains(&inner.id) {
            tracing::info!(local_member_id = format!("{:x}", inner.id), "this member was removed from the cluster");
            tokio::time::sleep(FAREWELL).await;
            inner.peers.expel();
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = inner.stopping.cancelled() => return,
        }
    }
}
