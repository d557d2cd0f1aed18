//! The leader's periodic duties: lease expiry, lease checkpoints, auto-compaction, v2 expiry, promotion of learners.
//!
//! A timer never changes state: it only proposes. Each duty decides what is due at a given moment ([`DueCommands`],
//! which never waits); the loop here proposes it. A duty that waits for a quorum does not delay the others. Times are
//! monotonic, except for v2, whose expirations are wall-clock times by contract.

mod compaction;
mod deadlines;
mod duties;
mod lessor;
#[cfg(test)]
mod lifetimes_test;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub use duties::PromotionRule;
pub use lessor::Lessor;

use self::compaction::Compactor;
use self::duties::{AutoCompact, LearnerPromotion, LeaseCheckpoint, LeaseExpiry, V2Expiry};
use crate::clock::Clock;
use crate::model::command::{self, Command};
use crate::model::effects::Refusal;
use crate::model::v2;
use crate::raft::Consensus;
use crate::raft::types::NodeId;
use crate::settings::AutoCompaction;
use crate::store::Store;

/// The moment at which a duty is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time.
    pub now: Duration,
    /// Wall-clock time since 1970.
    pub unix: Duration,
    /// Whether this member leads. Duties are polled on followers too, because some keep history.
    pub leading: bool,
}

/// An action that is due.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// A command for the log.
    Propose(Command),
    /// A learner to promote.
    Promote(NodeId),
}

/// The outcome of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Applied.
    Done,
    /// Applied, and the rules refused it.
    Refused(Refusal),
    /// Not known to be applied: no quorum, no leader, or not possible yet. The duty decides when to try again.
    Failed(String),
}

/// One duty of the leader.
pub trait DueCommands: Send + 'static {
    /// Name for logs.
    fn name(&self) -> &'static str;

    /// Polling interval.
    fn every(&self) -> Duration;

    /// What is due, nothing unless leading. Bounded: the rest is due at the next poll.
    fn due(&mut self, at: Moment) -> Vec<Due>;

    /// Reports the outcome of an action.
    fn done(&mut self, _due: &Due, _outcome: &Outcome, _now: Duration) {}

    /// Resolves when the duty should be polled early; never by default.
    fn urgent(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// Executes due actions: consensus, or a test double.
pub trait Act: Send + Sync + 'static {
    /// Whether this member leads.
    fn leads(&self) -> bool;

    /// Executes the action and returns its outcome.
    fn act<'a>(&'a self, due: &'a Due) -> BoxFuture<'a, Outcome>;
}

/// Executes actions through consensus.
struct ThroughConsensus {
    consensus: Consensus,
    /// Timeout of one proposal.
    patience: Duration,
}

impl Act for ThroughConsensus {
    fn leads(&self) -> bool {
        self.consensus.status().is_leader
    }

    fn act<'a>(&'a self, due: &'a Due) -> BoxFuture<'a, Outcome> {
        let deadline = Instant::now() + self.patience;
        Box::pin(async move {
            match due {
                Due::Propose(command) => {
                    match self.consensus.propose(command::encode(command.clone()), deadline).await {
                        Ok(applied) => applied.outcome.map_or_else(Outcome::Refused, |_| Outcome::Done),
                        Err(error) => Outcome::Failed(error.to_string()),
                    }
                }
                Due::Promote(id) => match self.consensus.member_promote(*id, deadline).await {
                    Ok(_) => Outcome::Done,
                    Err(error) => Outcome::Failed(error.to_string()),
                },
            }
        })
    }
}

/// The dependencies of a member's timers.
pub struct Timers {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The lessor, which consensus notifies of leadership and the store of lease changes.
    pub lessor: Arc<Lessor>,
    /// Executes due actions.
    pub consensus: Consensus,
    /// The applied state.
    pub store: Store,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// Learners to promote automatically; `None` = none, as in etcd.
    pub promote: Option<PromotionRule>,
    /// Timeout of one proposal.
    pub patience: Duration,
}

impl Timers {
    /// Runs every duty in a task of its own until `stop`.
    pub fn start(self, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let mut tasks = vec![tokio::spawn(self.lessor.clone().follow(stop.clone()))];
        let act: Arc<dyn Act> =
            Arc::new(ThroughConsensus { consensus: self.consensus.clone(), patience: self.patience });
        let clock = self.clock.clone();
        tasks.extend(start(self.duties(), &clock, &act, stop));
        tasks
    }

    fn duties(self) -> Vec<Box<dyn DueCommands>> {
        let mut duties: Vec<Box<dyn DueCommands>> =
            vec![Box::new(LeaseExpiry(self.lessor.clone())), Box::new(LeaseCheckpoint(self.lessor))];
        let store = self.store.clone();
        // The store reports a failed read and stops the process itself.
        duties.push(Box::new(V2Expiry::new(move || v2::next_expiry(&store.view()).ok().flatten())));
        if let Some(compactor) = Compactor::new(self.auto_compaction, self.clock.monotonic()) {
            let store = self.store;
            duties.push(Box::new(AutoCompact { compactor, revision: move || store.revision() }));
        }
        if let Some(rule) = self.promote {
            let consensus = self.consensus;
            duties.push(Box::new(LearnerPromotion::new(move || consensus.members(), rule)));
        }
        duties
    }
}

fn start(
    duties: Vec<Box<dyn DueCommands>>,
    clock: &Arc<dyn Clock>,
    act: &Arc<dyn Act>,
    stop: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let run = |duty| tokio::spawn(follow(duty, clock.clone(), act.clone(), stop.clone()));
    duties.into_iter().map(run).collect()
}

async fn follow(mut duty: Box<dyn DueCommands>, clock: Arc<dyn Clock>, act: Arc<dyn Act>, stop: CancellationToken) {
    let mut ticks = interval(duty.every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = duty.urgent() => {}
            () = stop.cancelled() => return,
        }
        let due = duty.due(Moment { now: clock.monotonic(), unix: clock.unix(), leading: act.leads() });
        if due.is_empty() {
            continue;
        }
        let outcomes = tokio::select! {
            outcomes = join_all(due.iter().map(|due| act.act(due))) => outcomes,
            () = stop.cancelled() => return,
        };
        let failed = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Failed(_))).count();
        if let Some(Outcome::Failed(error)) = outcomes.iter().find(|outcome| matches!(outcome, Outcome::Failed(_))) {
            tracing::debug!(duty = duty.name(), failed, of = due.len(), error, "not done yet");
        }
        for (due, outcome) in due.iter().zip(&outcomes) {
            duty.done(due, outcome, clock.monotonic());
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::clock::ManualClock;
    use crate::proto::etcdserverpb::CompactionRequest;

    struct Recorder {
        acted: Mutex<Vec<Due>>,
        outcome: Outcome,
    }

    impl Act for Recorder {
        fn leads(&self) -> bool {
            true
        }

        fn act<'a>(&'a self, due: &'a Due) -> BoxFuture<'a, Outcome> {
            self.acted.lock().push(due.clone());
            let outcome = self.outcome.clone();
            Box::pin(async move { outcome })
        }
    }

    struct Once {
        name: &'static str,
        waits: bool,
        told: Arc<Mutex<Vec<Outcome>>>,
    }

    fn compaction(revision: i64) -> Due {
        Due::Propose(Command::Compact(CompactionRequest { revision, physical: false }))
    }

    impl DueCommands for Once {
        fn name(&self) -> &'static str {
            self.name
        }

        fn every(&self) -> Duration {
            Duration::from_millis(1)
        }

        fn due(&mut self, at: Moment) -> Vec<Due> {
            assert!(at.leading);
            if std::mem::take(&mut self.waits) { vec![compaction(1), compaction(2)] } else { Vec::new() }
        }

        fn done(&mut self, _due: &Due, outcome: &Outcome, _now: Duration) {
            self.told.lock().push(outcome.clone());
        }
    }

    #[tokio::test]
    async fn a_due_action_runs_once_and_its_duty_gets_the_outcome() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let duty = |name| Box::new(Once { name, waits: true, told: told.clone() }) as Box<dyn DueCommands>;
        let recorder = Arc::new(Recorder { acted: Mutex::default(), outcome: Outcome::Refused(Refusal::Compacted) });
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        let (act, stop): (Arc<dyn Act>, _) = (recorder.clone(), CancellationToken::new());
        let tasks = start(vec![duty("one"), duty("two")], &clock, &act, &stop);
        while told.lock().len() < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
        for task in tasks {
            task.await.expect("ends");
        }
        assert_eq!(recorder.acted.lock().len(), 4);
        assert!(told.lock().iter().all(|outcome| *outcome == Outcome::Refused(Refusal::Compacted)));
    }
}
