//! What a member does about a disk that fills up.
//!
//! Where a quorum of *other* voters has space it stands aside: it hands leadership over, takes what it can hold, and the
//! cluster goes on writing without it, as without any failed minority. Where there is none (a cluster of one or two, or
//! disks that fill up alike) it raises NOSPACE, from which moment every member refuses growth with etcd's words. Either
//! ends by itself once there is space again; an alarm of the quota is left to an operator, as in etcd.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::model::command::{self, Command};
use crate::model::view::View;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType};
use crate::raft::Consensus;
use crate::raft::network::{PeerTls, fetch_has_space};
use crate::store::Store;

/// Between two looks at what is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to watch and what to act through.
pub struct SpaceKeeper {
    pub consensus: Consensus,
    pub store: Store,
    /// For asking the others.
    pub tls: PeerTls,
    /// How long one proposal may take.
    pub patience: Duration,
    /// The quota in bytes: an alarm is not lowered while the state is above it.
    pub quota: Option<u64>,
}

/// What is to be done about the alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Raise,
    Lower,
    Nothing,
}

/// Whose the alarm of this member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// Not this disk's: the quota's, or there is none.
    No,
    /// It was proposed for this disk. It may be raised later even if the proposal seemed to fail.
    Proposed,
    /// It was raised for this disk.
    Raised,
}

impl Own {
    /// What is known once it was seen whether the alarm is raised.
    fn seen(self, raised: bool) -> Self {
        match (self, raised) {
            (Self::Proposed, true) => Self::Raised,
            // Somebody disarmed it.
            (Self::Raised, false) => Self::No,
            _ => self,
        }
    }
}

/// `low`: space is low here and nobody stands in. `own`: the alarm that is raised is this disk's, not the quota's.
fn step(low: bool, raised: bool, own: bool, over_quota: bool) -> Step {
    match (low, raised) {
        (true, false) => Step::Raise,
        (false, true) if own && !over_quota => Step::Lower,
        _ => Step::Nothing,
    }
}

/// Whether `with_space` other voters are a quorum of `voters`.
fn others_suffice(voters: usize, with_space: usize) -> bool {
    with_space > voters / 2
}

impl SpaceKeeper {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut levels = self.store.space().levels();
        let mut own = if self.store.space().was_low() { Own::Proposed } else { Own::No };
        loop {
            let low = *levels.borrow_and_update();
            let work = async {
                let aside = low && self.others_have_space().await;
                self.store.space().stand_aside(aside);
                if aside || self.store.space().is_awaited() {
                    self.hand_over().await;
                }
                own = self.keep_alarm(low && !aside, own).await;
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                changed = levels.changed() => if changed.is_err() { return },
                () = sleep(LOOK_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn id(&self) -> u64 {
        self.consensus.status().id
    }

    /// Asks every other voter at once. Who does not answer has nothing to offer.
    async fn others_have_space(&self) -> bool {
        let (members, id) = (self.store.membership(), self.id());
        let voters: Vec<u64> = members.voter_ids().collect();
        let others = members.nodes().filter(|(node, _)| **node != id && voters.contains(node));
        let asked = others.map(|(_, member)| async {
            for url in &member.peer_urls {
                if let Ok(has_space) = fetch_has_space(url, &self.tls).await {
                    return has_space;
                }
            }
            false
        });
        let with_space = join_all(asked).await.into_iter().filter(|has_space| *has_space).count();
        others_suffice(voters.len(), with_space)
    }

    /// Whoever cannot write its log must not lead: what it accepts would wait with it.
    async fn hand_over(&self) {
        if self.consensus.status().is_leader {
            tracing::warn!("this leader is short of disk space; handing leadership over");
            self.consensus.step_down(Instant::now() + self.patience).await;
        }
    }

    /// Raises or lowers the alarm as need be. Returns whose it is now.
    async fn keep_alarm(&self, low: bool, own: Own) -> Own {
        let raised = self.store.view().alarms().contains(&(self.id(), AlarmType::Nospace.into()));
        let own = own.seen(raised);
        let over_quota = self.quota.is_some_and(|quota| self.store.size().allocated >= quota);
        match step(low, raised, own == Own::Raised, over_quota) {
            Step::Raise => {
                self.propose(AlarmAction::Activate, "raised NOSPACE: this disk is nearly full").await;
                Own::Proposed
            }
            Step::Lower => {
                let lowered = self.propose(AlarmAction::Deactivate, "lowered NOSPACE: there is disk space again").await;
                if lowered { Own::No } else { own }
            }
            Step::Nothing => own,
        }
    }

    async fn propose(&self, action: AlarmAction, done: &'static str) -> bool {
        let alarm = AlarmRequest { action: action.into(), member_id: self.id(), alarm: AlarmType::Nospace.into() };
        let command = command::encode(Command::Alarm(alarm));
        match self.consensus.propose(command, Instant::now() + self.patience).await {
            Ok(_) => {
                tracing::warn!("{done}");
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the NOSPACE alarm could not be changed; trying again");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minority_stands_aside_and_a_majority_stops_the_writes() {
        assert!(!others_suffice(1, 0));
        assert!(!others_suffice(2, 1));
        assert!(others_suffice(3, 2));
        assert!(!others_suffice(3, 1), "a second one is low or down");
        assert!(others_suffice(4, 3) && !others_suffice(4, 2));
        assert!(others_suffice(5, 3) && !others_suffice(5, 2));
    }

    #[test]
    fn an_alarm_whose_proposal_seemed_to_fail_is_still_the_disks() {
        assert_eq!(Own::Proposed.seen(false), Own::Proposed, "it may come yet");
        assert_eq!(Own::Proposed.seen(true), Own::Raised);
        assert_eq!(Own::Raised.seen(true), Own::Raised);
        assert_eq!(Own::Raised.seen(false), Own::No, "an operator disarmed it");
        assert_eq!(Own::No.seen(true), Own::No, "the quota's");
    }

    #[test]
    fn only_the_disks_own_alarm_is_lowered_and_only_under_the_quota() {
        assert_eq!(step(true, false, false, false), Step::Raise);
        assert_eq!(step(true, true, false, false), Step::Nothing);
        assert_eq!(step(false, true, true, false), Step::Lower);
        assert_eq!(step(false, true, true, true), Step::Nothing);
        assert_eq!(step(false, true, false, false), Step::Nothing, "an operator's matter");
        assert_eq!(step(false, false, true, false), Step::Nothing);
    }
}
