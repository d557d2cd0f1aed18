//! Auto-compaction: when to compact, and to which revision, in etcd's two modes. Pure.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::settings::AutoCompaction;

/// Polling interval of revision mode.
const REVISION_EVERY: Duration = Duration::from_secs(300);
/// Maximum interval between compactions in periodic mode, however long history is kept.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);
/// How many times per interval periodic mode samples the revision.
const SAMPLES: u32 = 10;

/// The state of one mode.
#[derive(Debug)]
pub enum Compactor {
    /// Keep a period of history.
    Periodic(Periodic),
    /// Keep a number of revisions.
    Revision(Revision),
}

/// See [`Compactor::Periodic`]. Every member samples, so that a new leader knows the revision of one period ago.
#[derive(Debug)]
pub struct Periodic {
    period: Duration,
    /// Sampled revisions, oldest first: the first was current one period ago.
    seen: VecDeque<i64>,
    last_success: Duration,
    last_revision: i64,
    /// Whether the first period has passed; from then on compaction is due once per interval.
    begun: bool,
}

/// See [`Compactor::Revision`].
#[derive(Debug)]
pub struct Revision {
    kept: NonZeroU64,
    last_revision: i64,
}

impl Compactor {
    /// The compactor for a setting, started at `now`; `None` when auto-compaction is off.
    pub fn new(setting: AutoCompaction, now: Duration) -> Option<Self> {
        match setting {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic(period) => Some(Self::Periodic(Periodic {
                period,
                seen: VecDeque::new(),
                last_success: now,
                last_revision: 0,
                begun: false,
            })),
            AutoCompaction::Revision(kept) => Some(Self::Revision(Revision { kept, last_revision: 0 })),
        }
    }

    /// How often to call [`look`](Self::look).
    pub fn every(&self) -> Duration {
        match self {
            Self::Periodic(periodic) => periodic.interval() / SAMPLES,
            Self::Revision(_) => REVISION_EVERY,
        }
    }

    /// Samples the current revision. Returns the revision to compact to if one is due and this member is `leading`.
    pub fn look(&mut self, now: Duration, revision: i64, leading: bool) -> Option<i64> {
        match self {
            Self::Periodic(periodic) => periodic.look(now, revision).filter(|_| leading),
            Self::Revision(mode) => {
                let kept = i64::try_from(mode.kept.get()).unwrap_or(i64::MAX);
                let target = revision.saturating_sub(kept);
                (leading && target > 0 && target != mode.last_revision).then_some(target)
            }
        }
    }

    /// Records that a compaction to `revision` was done at `now`, whoever requested it.
    pub fn compacted(&mut self, now: Duration, revision: i64) {
        match self {
            Self::Periodic(periodic) => (periodic.last_success, periodic.last_revision) = (now, revision),
            Self::Revision(mode) => mode.last_revision = revision,
        }
    }
}

impl Periodic {
    fn interval(&self) -> Duration {
        self.period.min(LONGEST_INTERVAL)
    }

    fn look(&mut self, now: Duration, revision: i64) -> Option<i64> {
        self.seen.push_back(revision);
        let looks_per_period = self.period.as_nanos() / (self.interval() / SAMPLES).as_nanos().max(1);
        while self.seen.len() as u128 > looks_per_period + 1 {
            self.seen.pop_front();
        }
        let wait = if self.begun { self.interval() } else { self.period };
        if now.saturating_sub(self.last_success) < wait {
            return None;
        }
        self.begun = true;
        let oldest = self.seen.front().copied();
        oldest.filter(|oldest| *oldest > 0 && *oldest != self.last_revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    /// Polls a compactor `looks` times with one new revision per second; returns (time, revision) of each compaction.
    fn run(setting: AutoCompaction, looks: u32, leading: impl Fn(Duration) -> bool) -> Vec<(u64, i64)> {
        let mut compactor = Compactor::new(setting, Duration::ZERO).expect("a mode is set");
        let mut done = Vec::new();
        for look in 0..looks {
            let now = compactor.every() * look;
            let revision = 1 + now.as_secs() as i64;
            if let Some(target) = compactor.look(now, revision, leading(now)) {
                done.push((now.as_secs(), target));
                compactor.compacted(now, target);
            }
        }
        done
    }

    #[test]
    fn a_long_period_waits_once_and_then_keeps_that_much_history_every_hour() {
        let done = run(AutoCompaction::Periodic(Duration::from_secs(5 * HOUR)), 81, |_| true);
        assert_eq!(
            done,
            [
                (5 * HOUR, 1),
                (6 * HOUR, 1 + HOUR as i64),
                (7 * HOUR, 1 + 2 * HOUR as i64),
                (8 * HOUR, 1 + 3 * HOUR as i64)
            ]
        );
    }

    #[test]
    fn a_short_period_compacts_once_per_period() {
        let done = run(AutoCompaction::Periodic(Duration::from_secs(600)), 31, |_| true);
        assert_eq!(done, [(600, 1), (1200, 601), (1800, 1201)]);
    }

    #[test]
    fn a_new_leader_compacts_from_its_own_samples() {
        let done = run(AutoCompaction::Periodic(Duration::from_secs(600)), 31, |now| now.as_secs() >= 1000);
        assert_eq!(done.first(), Some(&(1020, 421)), "a follower compacts nothing, but knows the past");
    }

    #[test]
    fn a_store_without_writes_is_not_compacted_again() {
        let setting = AutoCompaction::Periodic(Duration::from_secs(600));
        let mut compactor = Compactor::new(setting, Duration::ZERO).expect("a mode is set");
        let mut done = 0;
        for look in 0..100 {
            let now = compactor.every() * look;
            if let Some(target) = compactor.look(now, 7, true) {
                compactor.compacted(now, target);
                done += 1;
            }
        }
        assert_eq!(done, 1);
    }

    #[test]
    fn revision_mode_keeps_the_newest_and_never_repeats_a_compaction() {
        let kept = AutoCompaction::Revision(NonZeroU64::new(100).expect("not zero"));
        let mut compactor = Compactor::new(kept, Duration::ZERO).expect("a mode is set");
        assert_eq!(compactor.every(), Duration::from_secs(300));
        assert_eq!(compactor.look(Duration::ZERO, 100, true), None);
        assert_eq!(compactor.look(Duration::ZERO, 150, false), None);
        assert_eq!(compactor.look(Duration::ZERO, 150, true), Some(50));
        assert_eq!(compactor.look(Duration::ZERO, 150, true), Some(50), "a failed compaction is tried again");
        compactor.compacted(Duration::ZERO, 50);
        assert_eq!(compactor.look(Duration::ZERO, 150, true), None);
    }

    #[test]
    fn retention_zero_never_compacts() {
        assert!(Compactor::new(AutoCompaction::Off, Duration::ZERO).is_none());
    }
}
