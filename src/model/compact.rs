//! Compaction as the replicas agree on it: a number below which history is gone.
//!
//! Dropping the old versions is the store's work at its own pace. Rules and reads only ever ask for the number, so
//! members that are at different points of that work still answer alike.

use super::effects::{Effects, Refusal, Response};
use super::kv::Failure;
use super::view::View;
use crate::proto::etcdserverpb::CompactionRequest;

/// Raises the compaction revision. The revision asked for must be above the last one and not above the current one; on
/// a fresh store (last = -1) revision 0 therefore works once, as in etcd. The main revision does not move.
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
