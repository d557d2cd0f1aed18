//! Who leads, what this member does while it does, and how leadership moves.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, ServerState};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::{LeaseError, MemberError};
use super::network::{Answer, CallError, Request};
use super::types::NodeId;
use super::{Consensus, Inner};
use crate::model::view::View;

/// Who leads in which term, as far as this member can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderState {
    /// `None` while there is none, or while this member cannot reach it, or while it leads without a quorum.
    pub leader: Option<NodeId>,
    /// The term this member is in.
    pub term: u64,
}

/// What the leader answers to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease has its full time again, so many seconds: whoever leads next gives it that, too.
    Renewed(i64),
    /// No such lease, or it has expired.
    Gone,
    /// It lives, but that may not be promised yet: something has to be committed first. To be asked again.
    NotYet,
}

/// What only the leader does: lease deadlines and whatever else is due at a time. Calls must return at once.
pub trait LeaderDuties: Send + Sync {
    /// This member leads from now on, in `term`.
    fn promoted(&self, term: u64);
    /// It leads no more.
    fn demoted(&self);
    /// Starts the lease's time anew, for the leader of `term`; [`Renewal::NotYet`] unless that was told of by `promoted`.
    fn renew(&self, id: i64, term: u64) -> Renewal;
    /// Seconds the lease has left; `None` = no such lease.
    fn remaining(&self, id: i64) -> Option<i64>;
}

/// When leadership was last won by anybody, for the reasons of timeouts.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct LeadTimes {
    pub(super) elected: Option<Instant>,
}

/// Tells duties and watchers about every change until consensus stops.
pub(super) async fn follow(inner: Arc<Inner>) {
    let mut changes = inner.raft.server_metrics();
    let mut leading_in: Option<u64> = None;
    let mut leading_since: Option<Instant> = None;
    let mut unseen_since: Option<Instant> = None;
    loop {
        let (leader, term, leads) = {
            let now = changes.borrow_and_update();
            (now.current_leader, now.vote.leader_id.term, now.state == ServerState::Leader)
        };
        let leads_in = (leads && leader == Some(inner.id)).then_some(term);
        if leading_in != leads_in {
            if leading_in.is_some() {
                tracing::info!(local_member_id = format!("{:x}", inner.id), "stopped leading");
                inner.duties.demoted();
            }
            if let Some(term) = leads_in {
                tracing::info!(local_member_id = format!("{:x}", inner.id), term, "became leader");
                inner.duties.promoted(term);
            }
            leading_in = leads_in;
            leading_since = leads_in.map(|_| Instant::now());
        }
        let reachable = inner.is_reachable(leader, leading_since, &mut unseen_since);
        inner.publish(LeaderState { leader: leader.filter(|_| reachable), term });
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = sleep(inner.rules.election / 4) => {}
            () = inner.stopping.cancelled() => break,
        }
    }
    if leading_in.is_some() {
        inner.duties.demoted();
    }
    // A borrow that lived on into `publish` would wait for itself.
    let last = *inner.leader.borrow();
    inner.publish(LeaderState { leader: None, term: last.term });
}

impl Inner {
    fn publish(&self, state: LeaderState) {
        self.leader.send_if_modified(|known| {
            if *known == state {
                return false;
            }
            if known.leader != state.leader {
                if state.leader.is_some() {
                    self.lead_times.lock().elected = Some(Instant::now());
                }
                let name = |id: Option<NodeId>| id.map_or_else(|| "none".to_owned(), |id| format!("{id:x}"));
                tracing::info!(from = name(known.leader), to = name(state.leader), term = state.term, "leader changed");
            }
            *known = state;
            true
        });
    }

    /// openraft goes on naming a leader that it lost contact with, or that is itself without a quorum, until somebody
    /// else is elected. Clients are told earlier: after two election timeouts.
    fn is_reachable(
        &self,
        leader: Option<NodeId>,
        leading_since: Option<Instant>,
        unseen_since: &mut Option<Instant>,
    ) -> bool {
        let patience = 2 * self.rules.election;
        let seen = match leader {
            None => true,
            Some(leader) if leader == self.id => self.quorum_silence(leading_since) < patience,
            Some(leader) => self.peers.active([leader], Duration::ZERO) == 1,
        };
        if seen {
            *unseen_since = None;
            return true;
        }
        let own = leader == Some(self.id);
        let since = *unseen_since.get_or_insert_with(Instant::now);
        !own && since.elapsed() < patience
    }

    /// For how long no quorum has answered this leader.
    fn quorum_silence(&self, leading_since: Option<Instant>) -> Duration {
        // Until its first list is applied a leader knows of nobody, and is not alone for that.
        if self.store.membership().voter_ids().count() == 1 {
            return Duration::ZERO;
        }
        // The votes are the first answer; after them there may never be another.
        match self.metrics.borrow_watched().last_quorum_acked {
            Some(at) => at.into_inner().elapsed(),
            None => leading_since.map_or(Duration::ZERO, |since| since.elapsed()),
        }
    }
}

impl Consensus {
    /// Moves leadership to another voter and waits until it has it.
    ///
    /// # Errors
    /// `NotLeader`, `BadTransferee`, or `TransferTimeout` when it did not happen before `deadline`.
    pub async fn move_leader(&self, target: NodeId, deadline: Instant) -> Result<(), MemberError> {
        let inner = &self.inner;
        if inner.current_leader() != Some(inner.id) {
            return Err(MemberError::NotLeader);
        }
        // A leader just elected may have committed changes of the list, its very first one among them, that it has not
        // applied: it would call a voter a stranger.
        inner.read_barrier(deadline).await.map_err(|_| MemberError::TransferTimeout)?;
        if inner.current_leader() != Some(inner.id) {
            return Err(MemberError::NotLeader);
        }
        if !inner.store.membership().voter_ids().any(|voter| voter == target) {
            return Err(MemberError::BadTransferee);
        }
        if target == inner.id {
            return Ok(());
        }
        inner.transfer(target, deadline).await
    }

    /// Hands leadership to the voter that has been connected longest, if this member leads and there is one. For an
    /// orderly stop; failing only costs the others an election.
    pub async fn step_down(&self, deadline: Instant) {
        let inner = &self.inner;
        if inner.current_leader() != Some(inner.id) {
            return;
        }
        let voters: Vec<NodeId> = inner.store.membership().voter_ids().collect();
        let oldest = inner
            .peers
            .all()
            .into_iter()
            .filter(|peer| voters.contains(&peer.id))
            .filter_map(|peer| peer.active_since().map(|since| (since, peer.id)))
            .min();
        let Some((_, target)) = oldest else { return };
        let target_id = format!("{target:x}");
        match inner.transfer(target, deadline).await {
            Ok(()) => tracing::info!(target_id, "leadership transfer finished"),
            Err(error) => tracing::warn!(target_id, %error, "leadership was not transferred; the others elect"),
        }
    }

    /// Renews a lease with the leader: its TTL in seconds, 0 when nobody knows it.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub async fn lease_renew(&self, id: i64) -> Result<i64, LeaseError> {
        let inner = &self.inner;
        let answer = inner.ask_leader(Request::Renew(id), |inner, term| inner.renew_here(id, term)).await?;
        match answer {
            Asked::Here(ttl) => Ok(ttl),
            Asked::There(Answer::Renewed(Some(ttl))) => Ok(ttl),
            Asked::There(_) => Err(LeaseError::NoLeader),
        }
    }

    /// Granted and remaining seconds of a lease, from the leader; `None` when nobody knows it.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub async fn lease_remaining(&self, id: i64) -> Result<Option<(i64, i64)>, LeaseError> {
        let answer = self.inner.ask_leader(Request::Remaining(id), |inner, _| Some(inner.lease_times(id))).await?;
        match answer {
            Asked::Here(times) => Ok(times),
            Asked::There(Answer::Remaining(Some(times))) => Ok(times),
            Asked::There(_) => Err(LeaseError::NoLeader),
        }
    }
}

enum Asked<T> {
    Here(T),
    There(Answer),
}

impl Inner {
    /// What the leader's clock says of a lease.
    pub(super) fn lease_times(&self, id: i64) -> Option<(i64, i64)> {
        let remaining = self.duties.remaining(id)?;
        let lease = self.store.view().lease(id).ok().flatten()?;
        Some((lease.ttl, remaining))
    }

    /// Renews a lease here: its seconds, 0 when there is no such lease. `None` = it cannot be promised yet.
    pub(super) fn renew_here(&self, id: i64, term: u64) -> Option<i64> {
        match self.duties.renew(id, term) {
            Renewal::Renewed(ttl) => Some(ttl),
            Renewal::Gone => Some(0),
            Renewal::NotYet => None,
        }
    }

    /// The term in which this member leads, as its core says.
    fn leads_in(&self) -> Option<u64> {
        let now = self.metrics.borrow_watched();
        (now.current_leader == Some(self.id)).then_some(now.current_term)
    }

    /// What `look` finds here while this member leads, in the term that it is told; `None` when this member may not lead:
    /// an old leader's clock is worth nothing.
    ///
    /// A quorum confirms the leadership after the call began, so a later leader was elected after that. And the look ends
    /// within an election timeout of the call, which every new leader adds to the time of each lease: so what a renewal
    /// promises here holds under that leader, however long this process stood still in between.
    pub(super) async fn as_leader<T>(&self, look: impl FnOnce(&Self, u64) -> T) -> Option<T> {
        let deadline = Instant::now() + self.rules.election;
        let term = self.leads_in()?;
        self.read_barrier(deadline).await.ok()?;
        // In the same term, or another leader may have confirmed it.
        let seen = (self.leads_in() == Some(term)).then(|| look(self, term));
        seen.filter(|_| Instant::now() < deadline)
    }

    /// Asks the leader, which may be this member, until it answers. `here` says `None` when it is to be asked again.
    async fn ask_leader<T>(
        &self,
        request: Request,
        here: impl Fn(&Self, u64) -> Option<T>,
    ) -> Result<Asked<T>, LeaseError> {
        let deadline = Instant::now() + self.rules.request_timeout;
        // Lease requests may be repeated: renewing twice is renewing once.
        while Instant::now() < deadline {
            if self.stopping.is_cancelled() {
                return Err(LeaseError::Stopped);
            }
            match self.current_leader() {
                Some(leader) if leader == self.id => {
                    if let Some(answer) = self.as_leader(&here).await.flatten() {
                        return Ok(Asked::Here(answer));
                    }
                }
                Some(leader) => {
                    if let Some(answer) = self.ask(leader, &request, deadline).await {
                        return Ok(Asked::There(answer));
                    }
                }
                None => {}
            }
            self.pause(Duration::from_millis(50)).await;
        }
        let now = *self.leader.borrow();
        Err(if now.leader.is_none() { LeaseError::NoLeader } else { LeaseError::Timeout })
    }

    async fn ask(&self, leader: NodeId, request: &Request, deadline: Instant) -> Option<Answer> {
        let again = match request {
            Request::Renew(id) => Request::Renew(*id),
            Request::Remaining(id) => Request::Remaining(*id),
            _ => return None,
        };
        match self.peers.get(leader)?.forward.call(again, deadline).await {
            Ok(Answer::Renewed(None) | Answer::Remaining(None)) => None,
            Ok(answer) => Some(answer),
            Err(CallError::NotSent(_) | CallError::Refused(_) | CallError::Lost(_)) => None,
        }
    }

    async fn transfer(&self, target: NodeId, deadline: Instant) -> Result<(), MemberError> {
        let mut changes = self.raft.server_metrics();
        if self.raft.trigger().transfer_leader(target).await.is_err() {
            return Err(MemberError::TransferTimeout);
        }
        let arrived = async {
            loop {
                if changes.borrow_and_update().current_leader == Some(target) {
                    return true;
                }
                if changes.changed().await.is_err() {
                    return false;
                }
            }
        };
        match timeout_at(deadline, arrived).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(MemberError::TransferTimeout),
        }
    }
}
