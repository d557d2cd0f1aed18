//! What raised alarms forbid. A wrapper around the rules, so that no rule mentions alarms.
//!
//! The quota itself is not looked at here. Members' files differ in size, so a check of the size during apply would let
//! replicas disagree; it happens once, before proposing (`quota`), and the member that trips it raises NOSPACE through
//! the log. From that entry on every replica refuses alike. (The reference also looks at its own size during apply and
//! then answers an error for a put that it did apply; we do not copy that.)

use super::command::Command;
use super::effects::Refusal;
use super::quota;
use super::view::Alarm;
use crate::proto::etcdserverpb::AlarmType;

/// Why `alarms` forbid `command`; `None` = they do not. CORRUPT speaks before NOSPACE.
///
/// Reads and read-only transactions do not come through the log and are therefore not asked about here. v2 commands pass
/// both alarms: etcd's v2 store knows neither.
pub fn refusal(alarms: &[Alarm], command: &Command) -> Option<Refusal> {
    let raised = |kind: AlarmType| alarms.iter().any(|(_, alarm)| *alarm == kind as i32);
    if alarms.is_empty() {
        None
    } else if raised(AlarmType::Corrupt) && changes_v3_data(command) {
        Some(Refusal::Corrupt)
    } else if raised(AlarmType::Nospace) && quota::cost(command) > 0 {
        Some(Refusal::NoSpace)
    } else {
        None
    }
}

/// What a member must not do to a state that may be wrong. Alarms themselves, checkpoints and the cluster version pass.
fn changes_v3_data(command: &Command) -> bool {
    match command {
        Command::Put(_)
        | Command::DeleteRange(_)
        | Command::Txn(_)
        | Command::Compact(_)
        | Command::LeaseGrant(_)
        | Command::LeaseRevoke(_) => true,
        Command::LeaseCheckpoint(_) | Command::Alarm(_) | Command::ClusterVersion(_) | Command::V2(_) => false,
    }
}
