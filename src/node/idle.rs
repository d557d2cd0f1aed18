//! Duties of a leader that keeps no time.

use crate::raft::LeaderDuties;

/// Knows no lease.
pub struct Idle;

impl LeaderDuties for Idle {
    fn promoted(&self, _term: u64) {}
    fn demoted(&self) {}
    fn renew(&self, _id: i64) -> Option<i64> {
        None
    }
    fn remaining(&self, _id: i64) -> Option<i64> {
        None
    }
}
