//! Raising, disarming and listing alarms. The commands they block are in `gate`.

use super::effects::{Effects, Response};
use super::view::{Alarm, View};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};

/// Lists alarms (of one type, or all for type NONE), raises one, or disarms one exact (member, type) pair.
///
/// The response lists the alarms the call touched: an already raised alarm is included, disarming an absent one lists
/// nothing. Raising NONE, and an unknown action, do nothing.
pub fn apply(view: &impl View, request: &AlarmRequest) -> Effects {
    let raised = view.alarms();
    let named: Alarm = (request.member_id, request.alarm);
    let place = raised.binary_search(&named);
    let mut after = None;
    let touched = match (AlarmAction::try_from(request.action), place) {
        (Ok(AlarmAction::Get), _) => {
            let all = request.alarm == AlarmType::None as i32;
            raised.iter().copied().filter(|(_, kind)| all || *kind == request.alarm).collect()
        }
        (Ok(AlarmAction::Activate), _) if request.alarm == AlarmType::None as i32 => Vec::new(),
        (Ok(AlarmAction::Activate), Ok(_)) => vec![named],
        (Ok(AlarmAction::Activate), Err(place)) => {
            let mut alarms = raised;
            alarms.insert(place, named);
            after = Some(alarms);
            vec![named]
        }
        (Ok(AlarmAction::Deactivate), Ok(place)) => {
            let mut alarms = raised;
            alarms.remove(place);
            after = Some(alarms);
            vec![named]
        }
        (Ok(AlarmAction::Deactivate), Err(_)) | (Err(_), _) => Vec::new(),
    };
    let answer = touched.into_iter().map(|(member_id, alarm)| AlarmMember { member_id, alarm }).collect();
    let mut effects = Effects::nothing(view.revision(), Ok(Response::Alarm(answer)));
    effects.alarms = after;
    effects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::Command;
    use crate::model::tests::world::World;

    fn request(action: AlarmAction, member_id: u64, alarm: i32) -> Command {
        Command::Alarm(AlarmRequest { action: action.into(), member_id, alarm })
    }

    fn touched(world: &mut World, action: AlarmAction, member_id: u64, alarm: i32) -> Vec<Alarm> {
        match world.done(&request(action, member_id, alarm)) {
            Response::Alarm(members) => members.into_iter().map(|member| (member.member_id, member.alarm)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn alarms_are_listed_by_member_then_type_and_can_be_filtered_by_type() {
        let mut world = World::default();
        for (member, kind) in [(9, 1), (2, 2), (2, 1)] {
            assert_eq!(touched(&mut world, AlarmAction::Activate, member, kind), [(member, kind)]);
        }
        assert_eq!(touched(&mut world, AlarmAction::Get, 77, 0), [(2, 1), (2, 2), (9, 1)]);
        assert_eq!(touched(&mut world, AlarmAction::Get, 0, 2), [(2, 2)]);
        assert_eq!(world.view.revision(), 1, "alarms are not key changes");
    }

    #[test]
    fn raising_an_alarm_twice_returns_it_and_changes_nothing() {
        let mut world = World::default();
        touched(&mut world, AlarmAction::Activate, 4, 1);
        let again = world.run(&request(AlarmAction::Activate, 4, 1));
        assert_eq!(again.alarms, None);
        assert_eq!(again.outcome, Ok(Response::Alarm(vec![AlarmMember { member_id: 4, alarm: 1 }])));
    }

    #[test]
    fn raising_none_and_unknown_actions_do_nothing() {
        let mut world = World::default();
        assert_eq!(touched(&mut world, AlarmAction::Activate, 4, 0), []);
        let unknown = world.run(&Command::Alarm(AlarmRequest { action: 17, member_id: 4, alarm: 1 }));
        assert_eq!(unknown.outcome, Ok(Response::Alarm(Vec::new())));
        assert!(world.view.alarms().is_empty());
    }

    #[test]
    fn only_the_exact_member_and_type_pair_is_disarmed() {
        let mut world = World::default();
        touched(&mut world, AlarmAction::Activate, 4, 1);
        assert_eq!(touched(&mut world, AlarmAction::Deactivate, 4, 0), []);
        assert_eq!(touched(&mut world, AlarmAction::Deactivate, 5, 1), []);
        assert_eq!(touched(&mut world, AlarmAction::Deactivate, 4, 2), []);
        assert_eq!(world.view.alarms(), [(4, 1)]);
        assert_eq!(touched(&mut world, AlarmAction::Deactivate, 4, 1), [(4, 1)]);
        assert_eq!(touched(&mut world, AlarmAction::Deactivate, 4, 1), []);
        assert!(world.view.alarms().is_empty());
    }
}
