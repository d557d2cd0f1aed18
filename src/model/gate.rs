//! Commands blocked by raised alarms. It wraps the rules, so that no rule mentions alarms.
//!
//! The quota itself is not checked here. Members' data files differ in size, so a size check during apply would make
//! replicas diverge; it is done once, before proposing (`quota`), and the member that exceeds it raises NOSPACE through
//! the log. From that entry on every replica refuses the same commands. (etcd also checks its own size during apply and
//! then returns an error for a put that it did apply; we do not copy that.)

use super::command::Command;
use super::effects::Refusal;
use super::quota;
use super::view::Alarm;
use crate::proto::etcdserverpb::AlarmType;

/// Why `alarms` block `command`; `None` = they do not. CORRUPT takes precedence over NOSPACE.
///
/// Reads and read-only transactions do not go through the log and so are not checked here. v2 commands pass both
/// alarms: etcd's v2 store has neither.
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

/// Commands blocked on a possibly corrupt state. Alarms themselves, lease checkpoints, users and roles, and the cluster
/// version pass.
fn changes_v3_data(command: &Command) -> bool {
    match command {
        Command::Put(_)
        | Command::DeleteRange(_)
        | Command::Txn(_)
        | Command::Compact(_)
        | Command::LeaseGrant(_)
        | Command::LeaseRevoke(_) => true,
        Command::LeaseCheckpoint(_)
        | Command::Alarm(_)
        | Command::ClusterVersion(_)
        | Command::Auth(_)
        | Command::V2(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::command::{AuthCommand, ClusterVersion, LeaseCheckpoints, LeaseGrant, LeaseRevoke};
    use crate::model::tests::world::{always, delete, delete_op, put, put_op, range, range_op, txn_op};
    use crate::proto::etcdserverpb::{AlarmRequest, CompactionRequest, TxnRequest};

    const NOSPACE: Alarm = (1, 1);
    const CORRUPT: Alarm = (0, 2);

    /// Every kind of command: whether NOSPACE blocks it, and whether CORRUPT does.
    fn table() -> Vec<(Command, bool, bool)> {
        let in_else = TxnRequest { failure: vec![put_op(put("a", ""))], ..TxnRequest::default() };
        let nested = always(vec![txn_op(always(vec![put_op(put("a", ""))]))]);
        vec![
            (Command::Put(put("a", "1")), true, true),
            (Command::DeleteRange(delete("a", "")), false, true),
            (Command::Txn(in_else), true, true),
            (Command::Txn(nested), true, true),
            (Command::Txn(always(vec![delete_op(delete("a", "")), range_op(range("a", ""))])), false, true),
            (Command::Compact(CompactionRequest::default()), false, true),
            (Command::LeaseGrant(LeaseGrant { id: 1, ttl: 9 }), true, true),
            (Command::LeaseRevoke(LeaseRevoke::default()), false, true),
            (Command::LeaseCheckpoint(LeaseCheckpoints::default()), false, false),
            (Command::Alarm(AlarmRequest::default()), false, false),
            (Command::ClusterVersion(ClusterVersion::default()), false, false),
            (Command::Auth(AuthCommand::default()), false, false),
            (Command::V2(Bytes::new()), false, false),
        ]
    }

    #[test]
    fn each_alarm_blocks_exactly_its_commands() {
        for (command, by_nospace, by_corrupt) in table() {
            assert_eq!(refusal(&[], &command), None, "{command:?}");
            assert_eq!(refusal(&[NOSPACE], &command), by_nospace.then_some(Refusal::NoSpace), "{command:?}");
            assert_eq!(refusal(&[CORRUPT], &command), by_corrupt.then_some(Refusal::Corrupt), "{command:?}");
        }
    }

    #[test]
    fn corrupt_takes_precedence_over_nospace() {
        assert_eq!(refusal(&[CORRUPT, NOSPACE], &Command::Put(put("a", ""))), Some(Refusal::Corrupt));
    }

    #[test]
    fn an_alarm_of_an_unknown_type_blocks_nothing() {
        assert_eq!(refusal(&[(1, 99)], &Command::Put(put("a", ""))), None);
    }

    #[test]
    fn an_alarm_of_one_member_blocks_all_members() {
        use crate::model::tests::world::World;
        let mut world = World::default();
        world.done(&Command::Alarm(AlarmRequest { action: 1, member_id: 3, alarm: 1 }));
        assert_eq!(world.refused(&Command::Put(put("a", ""))), Refusal::NoSpace);
        world.done(&Command::Alarm(AlarmRequest { action: 2, member_id: 3, alarm: 1 }));
        world.put("a", "");
    }
}
