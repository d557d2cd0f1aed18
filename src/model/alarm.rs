//! Raising, lowering and listing alarms. What they forbid is in `gate`.

use super::effects::{Effects, Response};
use super::view::{Alarm, View};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};

/// Lists alarms (of one type, or all for type NONE), raises one or lowers one exact (member, type) pair.
///
/// The answer holds the alarms that the call touched: also one that was raised before, never one that was not there to
/// lower. Raising NONE, and an action this program does not know, do nothing.
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
