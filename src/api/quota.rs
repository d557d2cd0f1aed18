//! The space quota and the disk, checked before a write is proposed: cheap, local, and loud once.
//!
//! The member that notices raises the NOSPACE alarm through the log, and from then on every member refuses growing
//! writes at apply, until an operator frees space and disarms the alarm.

use super::call::Call;
use super::error::ApiError;
use super::state::State;
use crate::model::command::Command;
use crate::model::quota;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};

/// Lets `command` pass when the state has room for it.
///
/// # Errors
/// [`ApiError::NoSpace`]: over the quota, after the alarm was raised; or this member's disk is nearly full, which only
/// a deletion of less than half of what is left may pass.
pub async fn admit(state: &State, call: &Call, command: &Command) -> Result<(), ApiError> {
    let (quota, disk_is_low) = (state.limits.quota_bytes, state.store.space().refuses_growth());
    if quota.is_none() && !disk_is_low {
        return Ok(());
    }
    let cost = quota::cost(command);
    if disk_is_low {
        // The alarm is raised by whoever watches the disk (`node::space`), and lowered when there is space again.
        return if cost == 0 && deletions_fit(state, call, command).await? { Ok(()) } else { Err(ApiError::NoSpace) };
    }
    if cost == 0 {
        return Ok(());
    }
    if quota.is_none_or(|quota| state.store.size().allocated.saturating_add(cost) < quota) {
        return Ok(());
    }
    let alarm = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: state.consensus.status().id,
        alarm: AlarmType::Nospace.into(),
    };
    // The answer is the same whether or not the alarm could be raised now: the next write tries again.
    if let Err(error) = call.as_member().propose(state, Command::Alarm(alarm)).await {
        tracing::warn!(%error, "failed to raise the NOSPACE alarm; the next write over the quota will try again");
    }
    Err(ApiError::NoSpace)
}

/// Whether what `command` deletes can be written down on a disk that is nearly full. One that cannot would be committed and
/// then wait, and everything behind it too, so it is refused: fewer keys at a time, with compactions in between, fit.
async fn deletions_fit(state: &State, call: &Call, command: &Command) -> Result<bool, ApiError> {
    let ranges = quota::deletions(command);
    if ranges.is_empty() {
        return Ok(true);
    }
    // Half: others delete at the same time, and the flush adds indexes.
    let (store, most) = (state.store.clone(), state.store.space().writable() / 2);
    let turn = call.turn(&state.work.reads).await?;
    let counted = turn.run(move |_| store.bytes_to_delete(&ranges, most)).await;
    let (bytes, _turn) = counted.map_err(|undone| call.undone(undone))?;
    Ok(bytes? < most)
}
