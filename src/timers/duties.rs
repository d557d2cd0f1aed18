//! The leader's duties: each returns what is due at a given moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::Notify;

use super::compaction::Compactor;
use super::deadlines::{Expired, REVOKES_PER_SECOND};
use super::lessor::Lessor;
use super::{Due, DueCommands, Moment, Outcome};
use crate::model::command::{Command, LeaseRevoke};
use crate::model::effects::Refusal;
use crate::model::v2::types::{Command as V2Command, UnixNanos, Verb};
use crate::proto::etcdserverpb::CompactionRequest;
use crate::raft::MemberInfo;
use crate::raft::types::NodeId;

/// Polling interval of leases and v2 nodes; etcd's number.
pub(super) const SCAN_EVERY: Duration = Duration::from_millis(500);
/// Maximum checkpoints in one log entry.
const MAX_CHECKPOINTS: usize = 1000;
/// Polling interval of learners.
const LEARNERS_EVERY: Duration = Duration::from_secs(1);
/// Delay before a failed promotion is retried; most failures mean that the learner is still catching up.
const PROMOTE_AGAIN: Duration = Duration::from_secs(2);

/// Proposes revokes of expired leases. One lease per command, so that each gets its own revision as in etcd; the
/// commands of one poll are proposed together and share an fsync.
pub struct LeaseExpiry(pub Arc<Lessor>);

impl DueCommands for LeaseExpiry {
    fn name(&self) -> &'static str {
        "lease expiry"
    }

    fn every(&self) -> Duration {
        SCAN_EVERY
    }

    fn due(&mut self, at: Moment) -> Vec<Due> {
        let limit = REVOKES_PER_SECOND as usize * SCAN_EVERY.as_millis() as usize / 1000;
        let Some((term, expired)) = at.leading.then(|| self.0.expired(limit)).flatten() else { return Vec::new() };
        let revoke = |lease: Expired| {
            let (ids, granted) = (vec![lease.id], vec![lease.granted]);
            Due::Propose(Command::LeaseRevoke(LeaseRevoke { ids, expired_by_term: term, granted }))
        };
        expired.into_iter().map(revoke).collect()
    }
}

/// Proposes checkpoints of long leases' remaining TTLs, so that a new leader need not give them their full TTL again,
/// and the removal of a checkpoint when its lease is renewed. A removal that failed is proposed again at the next poll;
/// the loop polls again only once the outcome of the last proposal is known, as [`Lessor::checkpoints`] requires.
pub struct LeaseCheckpoint(pub Arc<Lessor>);

impl DueCommands for LeaseCheckpoint {
    fn name(&self) -> &'static str {
        "lease checkpoint"
    }

    fn every(&self) -> Duration {
        SCAN_EVERY
    }

    fn due(&mut self, at: Moment) -> Vec<Due> {
        let checkpoints = at.leading.then(|| self.0.checkpoints(MAX_CHECKPOINTS)).flatten();
        checkpoints.map(|checkpoints| Due::Propose(Command::LeaseCheckpoint(checkpoints))).into_iter().collect()
    }

    fn done(&mut self, due: &Due, outcome: &Outcome, _now: Duration) {
        if let (Due::Propose(Command::LeaseCheckpoint(checkpoints)), Outcome::Done) = (due, outcome) {
            self.0.recorded(checkpoints);
        }
    }

    fn urgent(&self) -> BoxFuture<'static, ()> {
        let lessor = self.0.clone();
        Box::pin(async move { lessor.outdated().await })
    }
}

/// Proposes compactions by `--auto-compaction-mode`. `revision` returns the store's current revision.
pub struct AutoCompact<R> {
    /// The mode's state.
    pub compactor: Compactor,
    /// The store's current revision.
    pub revision: R,
}

impl<R: Fn() -> i64 + Send + 'static> DueCommands for AutoCompact<R> {
    fn name(&self) -> &'static str {
        "auto-compaction"
    }

    fn every(&self) -> Duration {
        self.compactor.every()
    }

    fn due(&mut self, at: Moment) -> Vec<Due> {
        let target = self.compactor.look(at.now, (self.revision)(), at.leading);
        let request = target.map(|revision| CompactionRequest { revision, physical: false });
        request.map(|request| Due::Propose(Command::Compact(request))).into_iter().collect()
    }

    fn done(&mut self, due: &Due, outcome: &Outcome, now: Duration) {
        let Due::Propose(Command::Compact(request)) = due else { return };
        match outcome {
            Outcome::Done | Outcome::Refused(Refusal::Compacted) => {
                tracing::info!(revision = request.revision, "completed auto compaction");
                self.compactor.compacted(now, request.revision);
            }
            outcome => tracing::warn!(revision = request.revision, ?outcome, "failed auto compaction"),
        }
    }
}

/// Proposes the sweep of expired v2 nodes. `next` returns when the next one expires. A sweep deletes a bounded number
/// of nodes; while more have expired the next one follows at once, so that no node outlives its TTL by more than one
/// polling interval, the commits needed and, after a failure, an election.
pub struct V2Expiry<N> {
    next: N,
    more: Arc<Notify>,
}

impl<N: Fn() -> Option<UnixNanos> + Send + 'static> V2Expiry<N> {
    /// A duty that polls `next`.
    pub fn new(next: N) -> Self {
        Self { next, more: Arc::default() }
    }
}

impl<N: Fn() -> Option<UnixNanos> + Send + 'static> DueCommands for V2Expiry<N> {
    fn name(&self) -> &'static str {
        "v2 expiry"
    }

    fn every(&self) -> Duration {
        SCAN_EVERY
    }

    fn due(&mut self, at: Moment) -> Vec<Due> {
        let now = at.unix.as_nanos() as UnixNanos;
        if !at.leading || (self.next)().is_none_or(|next| next > now) {
            return Vec::new();
        }
        let sweep = V2Command { verb: Verb::Expire as i32, now, ..V2Command::default() };
        vec![Due::Propose(Command::V2(sweep.encode_to_vec().into()))]
    }

    fn done(&mut self, due: &Due, outcome: &Outcome, _now: Duration) {
        let (Due::Propose(Command::V2(sweep)), Outcome::Done) = (due, outcome) else { return };
        let cutoff = V2Command::decode(sweep.clone()).map_or(0, |sweep| sweep.now);
        if (self.next)().is_some_and(|next| next <= cutoff) {
            self.more.notify_one();
        }
    }

    fn urgent(&self) -> BoxFuture<'static, ()> {
        let more = self.more.clone();
        Box::pin(async move { more.notified().await })
    }
}

/// Selects the learners that the leader promotes automatically.
pub type PromotionRule = Box<dyn Fn(&MemberInfo) -> bool + Send>;

/// Promotes learners that have published their attributes, as far as the rule allows; consensus refuses those that have
/// not caught up. `members` returns the applied member list.
pub struct LearnerPromotion<M> {
    members: M,
    rule: PromotionRule,
    /// When the promotion of a learner that failed may be retried.
    again: HashMap<NodeId, Duration>,
}

impl<M: Fn() -> Vec<MemberInfo> + Send + 'static> LearnerPromotion<M> {
    /// Promotes the learners that `rule` allows.
    pub fn new(members: M, rule: PromotionRule) -> Self {
        Self { members, rule, again: HashMap::new() }
    }
}

impl<M: Fn() -> Vec<MemberInfo> + Send + 'static> DueCommands for LearnerPromotion<M> {
    fn name(&self) -> &'static str {
        "learner promotion"
    }

    fn every(&self) -> Duration {
        LEARNERS_EVERY
    }

    fn due(&mut self, at: Moment) -> Vec<Due> {
        if !at.leading {
            self.again.clear();
            return Vec::new();
        }
        let members = (self.members)();
        self.again.retain(|id, _| members.iter().any(|member| member.id == *id && member.is_learner));
        let ready = |member: &&MemberInfo| {
            member.is_learner
                && member.is_started()
                && self.again.get(&member.id).is_none_or(|again| *again <= at.now)
                && (self.rule)(member)
        };
        // One membership change at a time.
        members.iter().find(ready).map(|member| Due::Promote(member.id)).into_iter().collect()
    }

    fn done(&mut self, due: &Due, outcome: &Outcome, now: Duration) {
        let Due::Promote(id) = due else { return };
        match outcome {
            Outcome::Failed(_) | Outcome::Refused(_) => {
                self.again.insert(*id, now + PROMOTE_AGAIN);
            }
            Outcome::Done => tracing::info!(member = format!("{id:x}"), "promoted a learner that caught up"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::raft::types::Member;
    use crate::settings::AutoCompaction;

    fn at(seconds: u64) -> Moment {
        let now = Duration::from_secs(seconds);
        Moment { now, unix: Duration::from_secs(1_700_000_000) + now, leading: true }
    }

    fn learner(id: NodeId, name: &str) -> MemberInfo {
        let member = Member { name: name.into(), ..Member::default() };
        MemberInfo { id, member, is_learner: true }
    }

    #[test]
    fn a_started_learner_is_promoted_when_the_rule_allows_and_one_at_a_time() {
        let members = || vec![learner(1, ""), learner(2, "stranger"), learner(3, "a"), learner(4, "b")];
        let mut duty = LearnerPromotion::new(members, Box::new(|member| member.member.name != "stranger"));
        assert!(duty.due(Moment { leading: false, ..at(0) }).is_empty());
        assert_eq!(duty.due(at(0)), [Due::Promote(3)]);
        duty.done(&Due::Promote(3), &Outcome::Failed("not in sync".into()), at(0).now);
        assert_eq!(duty.due(at(1)), [Due::Promote(4)], "one that still catches up holds up nobody");
        duty.done(&Due::Promote(4), &Outcome::Failed("not in sync".into()), at(1).now);
        assert!(duty.due(at(1)).is_empty());
        assert_eq!(duty.due(at(2)), [Due::Promote(3)]);
    }

    #[test]
    fn v2_nodes_are_swept_only_when_one_is_due() {
        let due = at(10).unix.as_nanos() as UnixNanos;
        let mut duty = V2Expiry::new(move || Some(due));
        assert!(duty.due(at(9)).is_empty());
        assert!(duty.due(Moment { leading: false, ..at(11) }).is_empty());
        let [Due::Propose(Command::V2(bytes))] = &duty.due(at(10))[..] else { panic!("nothing due") };
        let sweep = V2Command::decode(bytes.clone()).expect("decodes");
        assert_eq!((sweep.verb(), sweep.now), (Verb::Expire, due));
        assert!(V2Expiry::new(|| None).due(at(10)).is_empty());
    }

    #[tokio::test]
    async fn a_sweep_that_leaves_expired_nodes_is_followed_by_another_at_once() {
        let next = Arc::new(std::sync::atomic::AtomicI64::new(0));
        let told = next.clone();
        let mut duty = V2Expiry::new(move || Some(told.load(std::sync::atomic::Ordering::Relaxed)));
        let due = duty.due(at(10));
        duty.done(&due[0], &Outcome::Failed("no leader".into()), at(10).now);
        assert!(futures::poll!(duty.urgent()).is_pending(), "what failed waits for its turn");
        duty.done(&due[0], &Outcome::Done, at(10).now);
        assert!(futures::poll!(duty.urgent()).is_ready());
        next.store(UnixNanos::MAX, std::sync::atomic::Ordering::Relaxed);
        duty.done(&due[0], &Outcome::Done, at(10).now);
        assert!(futures::poll!(duty.urgent()).is_pending());
    }

    #[test]
    fn a_failed_compaction_is_retried_unless_already_compacted() {
        let setting = AutoCompaction::Revision(NonZeroU64::new(10).expect("not zero"));
        let compactor = Compactor::new(setting, Duration::ZERO).expect("a mode is set");
        let mut duty = AutoCompact { compactor, revision: || 25 };
        let due = duty.due(at(0));
        let [Due::Propose(Command::Compact(request))] = &due[..] else { panic!("nothing due") };
        assert_eq!(request.revision, 15);
        duty.done(&due[0], &Outcome::Failed("no leader".into()), at(0).now);
        assert_eq!(duty.due(at(300)), due);
        duty.done(&due[0], &Outcome::Refused(Refusal::Compacted), at(300).now);
        assert!(duty.due(at(600)).is_empty());
    }
}
