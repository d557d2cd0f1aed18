//! What may be written before an append that waits for disk space: purges, because they are what frees some.
//!
//! A purge up to an entry that is on disk says nothing of the entries behind it, so on disk it may stand before appends that
//! were submitted earlier: read back in either order the log is the same, and appends that a crash loses after it were
//! never acknowledged. One that reaches further is split: what is on disk goes at once, and it stays in its place for the
//! rest. A cut of the tail is never passed, because the purge may name an entry that was written behind it. Votes keep
//! their order among appends, which openraft counts on.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::wal::{Item, Operation};
use crate::raft::types::LogId;

/// Purges that go ahead of what was submitted before them.
#[derive(Default)]
pub(super) struct Ahead {
    /// Up to where the log on disk is purged.
    pub upto: Option<LogId>,
    /// Items that are done with it.
    pub whole: Vec<Item>,
}

/// Takes out of `items` what a purge up to `last`, the last entry on disk, or less does. Breaks where nothing may pass.
pub(super) fn take_purges(items: &mut VecDeque<Item>, last: LogId, ahead: &mut Ahead) -> ControlFlow<()> {
    let mut at = 0;
    while let Some(item) = items.get(at) {
        match item.operation {
            Operation::Append(_) | Operation::Vote(_) => at += 1,
            Operation::Truncate(..) => return ControlFlow::Break(()),
            Operation::Purge(id) if id.index <= last.index => {
                ahead.upto = Some(id);
                ahead.whole.extend(items.remove(at));
            }
            Operation::Purge(_) => {
                ahead.upto = Some(last);
                return ControlFlow::Break(());
            }
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Entry, Payload, Vote};

    fn id(index: u64) -> LogId {
        LogId::new_term_index(1, index)
    }

    fn queue(operations: impl IntoIterator<Item = Operation>) -> VecDeque<Item> {
        operations.into_iter().map(|operation| Item { operation, bytes: 64, done: None }).collect()
    }

    fn append(index: u64) -> Operation {
        Operation::Append(vec![Entry { log_id: id(index), payload: Payload::Blank }])
    }

    /// Up to where is purged, how many purges are done with that, and how many items stay.
    fn taken(operations: impl IntoIterator<Item = Operation>) -> (Option<LogId>, usize, usize) {
        let (mut items, mut ahead) = (queue(operations), Ahead::default());
        let _ = take_purges(&mut items, id(10), &mut ahead);
        (ahead.upto, ahead.whole.len(), items.len())
    }

    #[test]
    fn purges_of_what_is_on_disk_pass_appends_and_votes() {
        let passing = [append(11), Operation::Purge(id(3)), Operation::Vote(Vote::new(1, 2)), Operation::Purge(id(10))];
        assert_eq!(taken(passing), (Some(id(10)), 2, 2));
    }

    #[test]
    fn no_purge_passes_a_cut_of_the_tail() {
        assert_eq!(taken([append(11), Operation::Truncate(Some(id(8)), 9), Operation::Purge(id(3))]), (None, 0, 3));
    }

    #[test]
    fn a_purge_that_reaches_further_is_done_as_far_as_the_disk_goes_and_stays_for_the_rest() {
        assert_eq!(taken([append(11), Operation::Purge(id(2)), Operation::Purge(id(11))]), (Some(id(10)), 1, 2));
    }
}
