//! What may be written before an append that waits for disk space: purges, because they are what frees some.
//!
//! A purge up to an entry that is on disk says nothing of the entries behind it, so on disk it may stand before appends that
//! were submitted earlier: read back in either order the log is the same, and appends that a crash loses after it were
//! never acknowledged. One that reaches further goes ahead as far as the disk goes, and stays in its place for the rest. A
//! cut of the tail is never passed, because the purge may name an entry that was written behind it.
//!
//! Votes never go ahead: openraft takes a vote that is on disk as the sign that all appends before it are. So while its log
//! waits for space a member votes for nobody.

use super::wal::Operation;
use crate::raft::types::LogId;

/// Up to where purges among `waiting`, in the order they were submitted, may go ahead; `last` is the last entry on disk.
pub(super) fn reach<'a>(waiting: impl IntoIterator<Item = &'a Operation>, last: LogId) -> Option<LogId> {
    let mut upto = None;
    for operation in waiting {
        match operation {
            Operation::Append(_) | Operation::Vote(_) => {}
            Operation::Truncate(..) => break,
            Operation::Purge(id) if id.index <= last.index => upto = Some(*id),
            Operation::Purge(_) => return Some(last),
        }
    }
    upto
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Entry, Payload, Vote};

    fn id(index: u64) -> LogId {
        LogId::new_term_index(1, index)
    }

    fn append(index: u64) -> Operation {
        Operation::Append(vec![Entry { log_id: id(index), payload: Payload::Blank }])
    }

    #[test]
    fn purges_of_what_is_on_disk_pass_appends_and_votes() {
        let waiting = [append(11), Operation::Purge(id(3)), Operation::Vote(Vote::new(1, 2)), Operation::Purge(id(10))];
        assert_eq!(reach(&waiting, id(10)), Some(id(10)));
        assert_eq!(reach(&waiting[..3], id(10)), Some(id(3)));
        assert_eq!(reach(&waiting[..1], id(10)), None);
    }

    #[test]
    fn no_purge_passes_a_cut_of_the_tail() {
        assert_eq!(reach(&[append(11), Operation::Truncate(Some(id(8)), 9), Operation::Purge(id(3))], id(10)), None);
    }

    #[test]
    fn a_purge_that_reaches_further_goes_ahead_as_far_as_the_disk_goes() {
        assert_eq!(reach(&[append(11), Operation::Purge(id(2)), Operation::Purge(id(11))], id(10)), Some(id(10)));
    }
}
