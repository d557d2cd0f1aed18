//! The replicated part of compaction: the compaction revision, below which history is unreadable.
//!
//! The store deletes old versions at its own pace. Rules and reads only use the compaction revision, so members whose
//! deletion has progressed differently still give equal answers.

use super::effects::{Effects, Refusal, Response};
use super::kv::Failure;
use super::view::View;
use crate::proto::etcdserverpb::CompactionRequest;

/// Raises the compaction revision. The requested revision must be above the last compaction and not above the current
/// revision; on a fresh store (last = -1) revision 0 therefore works once, as in etcd. The main revision stays.
///
/// # Errors
/// [`Refusal::Compacted`], [`Refusal::FutureRevision`].
pub fn apply(view: &impl View, request: &CompactionRequest) -> Result<Effects, Failure> {
    if request.revision <= view.compacted() {
        return Err(Refusal::Compacted.into());
    }
    if request.revision > view.revision() {
        return Err(Refusal::FutureRevision.into());
    }
    let mut effects = Effects::nothing(view.revision(), Ok(Response::Compact));
    effects.compacted = Some(request.revision);
    Ok(effects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::tests::world::World;

    fn to(revision: i64) -> Command {
        Command::Compact(CompactionRequest { revision, physical: false })
    }

    #[test]
    fn a_compaction_may_reach_the_current_revision_and_no_further() {
        let mut world = World::default();
        world.put("a", "1");
        world.put("a", "2");
        assert_eq!(world.refused(&to(4)), Refusal::FutureRevision);
        let effects = world.run(&to(3));
        assert_eq!((effects.compacted, effects.revision), (Some(3), 3));
        assert_eq!(world.view.compacted(), 3);
    }

    #[test]
    fn compacting_to_the_same_or_a_lower_revision_is_refused() {
        let mut world = World::default();
        world.put("a", "1");
        world.put("a", "2");
        world.done(&to(2));
        assert_eq!(world.refused(&to(2)), Refusal::Compacted);
        assert_eq!(world.refused(&to(1)), Refusal::Compacted);
        assert_eq!(world.refused(&to(-5)), Refusal::Compacted);
    }

    #[test]
    fn on_a_fresh_store_revision_zero_works_once() {
        let mut world = World::default();
        assert_eq!(world.refused(&to(-1)), Refusal::Compacted);
        world.done(&to(0));
        assert_eq!(world.refused(&to(0)), Refusal::Compacted);
        world.done(&to(1));
    }
}
