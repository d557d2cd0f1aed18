//! The tools about the unit itself: leadership, configuration, status, log, charm state, goal state.

use serde_json::{Map, Value, json};

use super::flags::Flags;
use super::{Refusal, Session, failed, usage};
use crate::status::{self, report};
use crate::world::{Life, LogLine, StatusInfo, unit_tag};

/// Juju's limits on charm state.
const MAX_STATE_KEY: usize = 256;
const MAX_STATE_VALUE: usize = 64 << 10;

pub(super) fn answer(session: &mut Session<'_>, name: &str, flags: &Flags) -> Result<String, Refusal> {
    match name {
        "is-leader" => flags.print(&json!(session.leads()), "smart"),
        "leader-get" | "leader-set" => leader_settings(session, name, flags),
        "config-get" => config(session, flags),
        "status-set" => status_set(session, flags),
        "status-get" => status_get(session, flags),
        "application-version-set" => {
            let version = flags.arg(0).ok_or_else(|| usage("no version specified"))?.to_owned();
            if let Some(app) = session.world.apps.get_mut(&session.context.app) {
                app.version = version;
            }
            Ok(String::new())
        }
        "juju-log" => log(session, flags),
        "state-get" => state_get(session, flags),
        "state-set" => state_set(session, flags),
        "state-delete" => {
            let key = flags.arg(0).ok_or_else(|| usage("missing required key"))?.to_owned();
            session.context.state.insert(key, None);
            Ok(String::new())
        }
        "goal-state" => goal_state(session, flags),
        "unit-get" => unit_get(session, flags),
        "credential-get" => {
            Err(failed("cannot access cloud credentials: permission denied: the application is not trusted"))
        }
        "juju-reboot" if session.context.action.is_some() => {
            Err(failed("juju-reboot is not supported when running an action."))
        }
        "juju-reboot" => Err(failed("juju-reboot is not supported by this lab")),
        "resource-get" => {
            let name = flags.arg(0).ok_or_else(|| usage("missing required resource name"))?;
            Err(failed(format!("could not download resource: resource#{}/{name} not found", session.context.app)))
        }
        _ if name.starts_with("payload-") => Ok(String::new()),
        _ => Err(failed(format!("unknown command {name:?}"))),
    }
}

fn leader_settings(session: &mut Session<'_>, name: &str, flags: &Flags) -> Result<String, Refusal> {
    let leads = session.leads();
    let app = session.world.apps.get_mut(&session.context.app).ok_or_else(|| failed("application not found"))?;
    let (version, settings) = &mut app.leader_settings;
    if name == "leader-get" {
        let value = match flags.arg(0).filter(|key| *key != "-") {
            Some(key) => settings.get(key).map_or(Value::Null, |value| json!(value)),
            None => json!(settings),
        };
        return flags.print(&value, "smart");
    }
    if !leads {
        return Err(failed("cannot write leadership settings: cannot write settings: not the leader"));
    }
    for (key, value) in flags.pairs(0)? {
        if value.is_empty() {
            settings.remove(&key)
        } else {
            settings.insert(key, value)
        };
    }
    *version += 1;
    Ok(String::new())
}

fn config(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let app = session.world.apps.get(&session.context.app).ok_or_else(|| failed("application not found"))?;
    let mut all = session.world.config_of(app);
    if flags.has("a") || flags.has("all") {
        for name in app.charm.options.keys() {
            all.entry(name.clone()).or_insert(Value::Null);
        }
    }
    let value = match flags.arg(0) {
        Some(name) => all.remove(name).unwrap_or(Value::Null),
        None => json!(all),
    };
    flags.print(&value, "smart")
}

fn status_set(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let word = flags.arg(0).ok_or_else(|| usage("invalid args, require <status> [message]"))?.to_owned();
    if !["maintenance", "blocked", "waiting", "active"].contains(&word.as_str()) {
        return Err(usage(format!("invalid status {word:?}, expected one of [maintenance blocked waiting active]")));
    }
    let message = flags.rest[1..].join(" ");
    let leads = session.leads();
    let new = |old: Option<&StatusInfo>, now| match old {
        Some(old) if old.word == word && old.message == message => old.clone(),
        _ => StatusInfo::new(&word, &message, now),
    };
    if flags.has("application") {
        if !leads {
            return Err(failed("cannot set application status: this unit is not the leader"));
        }
        if let Some(app) = session.world.apps.get_mut(&session.context.app) {
            app.status = Some(new(app.status.as_ref(), session.now));
        }
    } else if let Some(unit) = session.world.units.get_mut(&session.context.unit) {
        unit.workload = new(Some(&unit.workload), session.now);
        unit.status_set = true;
    }
    Ok(String::new())
}

fn status_get(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let unit_value = |name: &str| {
        let unit = session.world.units.get(name);
        let info = unit.map_or_else(|| StatusInfo::new("unknown", "", 0), |unit| unit.workload.clone());
        json!({"status": info.word, "message": info.message, "status-data": {}})
    };
    let wants_map = flags.has("include-data") || matches!(flags.value("format"), Some("json" | "yaml"));
    if !flags.has("application") {
        let value = unit_value(&session.context.unit);
        return flags.print(if wants_map { &value } else { &value["status"] }, "smart");
    }
    if !session.leads() {
        return Err(failed("finding application status: this unit is not the leader"));
    }
    let app = session.world.apps.get(&session.context.app).ok_or_else(|| failed("application not found"))?;
    let info = report::app_status(session.world, app, session.now);
    let units: Map<String, Value> =
        session.world.units_of(&app.name).iter().map(|unit| (unit.name.clone(), unit_value(&unit.name))).collect();
    let value = json!({"application-status":
        {"status": info.word, "message": info.message, "status-data": {}, "units": units}});
    flags.print(if wants_map { &value } else { &value["application-status"]["status"] }, "smart")
}

fn log(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    if flags.rest.is_empty() {
        return Err(usage("no message specified"));
    }
    let level = flags.value("l").or(flags.value("log-level")).unwrap_or("INFO").to_uppercase();
    let level = match level.as_str() {
        _ if flags.has("debug") => "DEBUG",
        level @ ("TRACE" | "DEBUG" | "INFO" | "WARNING" | "ERROR") => level,
        _ => "INFO",
    };
    let relation = session.context.relation.and_then(|id| session.world.relations.get(&id));
    let prefix = relation
        .and_then(|relation| Some(format!("{}:{}: ", relation.endpoint_of(&session.context.app)?, relation.id)));
    let line = LogLine {
        at: session.now,
        entity: unit_tag(&session.context.unit),
        level: level.to_owned(),
        module: format!("unit.{}.juju-log", session.context.unit),
        message: prefix.unwrap_or_default() + &flags.rest.join(" "),
    };
    session.world.write_log(line);
    Ok(String::new())
}

fn state_get(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let unit = session.world.units.get(&session.context.unit);
    let mut state = unit.map(|unit| unit.state.clone()).unwrap_or_default();
    for (key, value) in &session.context.state {
        match value {
            Some(value) => state.insert(key.clone(), value.clone()),
            None => state.remove(key),
        };
    }
    let value = match flags.arg(0).filter(|key| *key != "-") {
        Some(key) => match state.get(key) {
            None if flags.has("strict") => return Err(failed(format!("{key:?} not found"))),
            value => json!(value.map_or("", String::as_str)),
        },
        None => json!(state),
    };
    flags.print(&value, "smart")
}

fn state_set(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let mut pairs = session.settings_file(flags)?;
    pairs.extend(flags.pairs(0)?);
    for (key, value) in &pairs {
        if key.len() > MAX_STATE_KEY {
            return Err(failed(format!("max allowed key length ({MAX_STATE_KEY}) exceeded")));
        }
        if value.len() > MAX_STATE_VALUE {
            return Err(failed(format!("max allowed value length ({MAX_STATE_VALUE}) exceeded")));
        }
    }
    session.context.state.extend(pairs.into_iter().map(|(key, value)| (key, Some(value))));
    Ok(String::new())
}

fn goal_state(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let world = &*session.world;
    let entry = |status: &str, since: u64| json!({"status": status, "since": status::time(since)});
    let unit_entry = |unit: &crate::world::Unit| {
        let word = if unit.life == Life::Dying { "dying" } else { unit.workload.word.as_str() };
        (unit.name.clone(), entry(word, unit.workload.since))
    };
    let units: Map<String, Value> = world.units_of(&session.context.app).into_iter().map(unit_entry).collect();
    let mut relations: Map<String, Value> = Map::new();
    for relation in world.relations.values().filter(|relation| !relation.is_peer()) {
        let Some(endpoint) = relation.endpoint_of(&session.context.app) else { continue };
        let remote = relation.remote_app(&session.context.app);
        let group = relations.entry(endpoint.to_owned()).or_insert_with(|| json!({}));
        let Some(group) = group.as_object_mut() else { continue };
        group.insert(remote.to_owned(), entry("joined", 0));
        group.extend(world.units_of(remote).into_iter().map(unit_entry));
    }
    flags.print(&json!({"units": units, "relations": relations}), "yaml")
}

fn unit_get(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let unit = session.world.units.get(&session.context.unit);
    let machine = unit.and_then(|unit| session.world.machines.get(&unit.machine));
    match flags.arg(0) {
        Some("private-address" | "public-address") => {
            flags.print(&json!(machine.map(|machine| machine.address.as_str())), "smart")
        }
        Some(other) => Err(usage(format!("unknown setting {other:?}"))),
        None => Err(usage("no setting specified")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, running};

    #[test]
    fn status_is_set_at_once_and_unknown_words_are_refused() {
        let mut world = running(1, false);
        assert_eq!(call(&mut world, &["status-set", "active", "all", "well"]).code, 0);
        assert_eq!(world.units["toy/0"].workload.message, "all well");
        let reply = call(&mut world, &["status-set", "error", "x"]);
        let text = "ERROR invalid status \"error\", expected one of [maintenance blocked waiting active]\n";
        assert_eq!((reply.code, reply.stderr.as_str()), (2, text));
        let reply = call(&mut world, &["status-set", "--application", "active"]);
        assert!(reply.code == 1 && reply.stderr.contains("this unit is not the leader"));
        assert_eq!(call(&mut world, &["status-get"]).stdout, "active\n");
    }

    #[test]
    fn the_application_shows_what_its_leader_set_and_before_that_one_or_another_of_its_units() {
        let mut world = running(2, true);
        for (unit, message) in [("toy/0", "(leader) well"), ("toy/1", "well")] {
            world.units.get_mut(unit).unwrap().workload = crate::world::StatusInfo::new("active", message, 0);
            world.machines.values_mut().for_each(|machine| machine.state = crate::world::MachineState::Started);
        }
        let shown = |world: &crate::world::World| -> std::collections::BTreeSet<String> {
            (0..10).map(|now| super::report::app_status(world, &world.apps["toy"], now).message).collect()
        };
        assert_eq!(shown(&world).into_iter().collect::<Vec<_>>(), ["(leader) well", "well"], "another each time");
        assert_eq!(call(&mut world, &["status-set", "--application", "blocked", "1", "of", "2"]).code, 0);
        assert_eq!(shown(&world).into_iter().collect::<Vec<_>>(), ["1 of 2"]);
        let reply = call(&mut world, &["status-get", "--application"]);
        assert_eq!(reply.stdout, "blocked\n");
        world.units.get_mut("toy/1").unwrap().workload = crate::world::StatusInfo::new("blocked", "worse", 0);
        assert_eq!(shown(&world).len(), 1, "it is not derived again");
    }

    #[test]
    fn charm_state_is_held_back_and_strict_reads_fail() {
        let mut world = running(1, true);
        assert_eq!(call(&mut world, &["state-set", "a=1"]).code, 0);
        assert_eq!(call(&mut world, &["state-get", "a"]).stdout, "1\n");
        assert!(world.units["toy/0"].state.is_empty());
        let reply = call(&mut world, &["state-get", "--strict", "b"]);
        assert_eq!((reply.code, reply.stderr.as_str()), (1, "ERROR \"b\" not found\n"));
    }

    #[test]
    fn goal_state_names_all_own_units_and_marks_leavers() {
        let mut world = running(2, true);
        world.remove_unit("toy/1").unwrap();
        let reply = call(&mut world, &["goal-state", "--format=json"]);
        let value: serde_json::Value = serde_json::from_str(&reply.stdout).unwrap();
        assert_eq!(value["units"]["toy/1"]["status"], "dying");
        assert!(value["units"]["toy/0"].is_object() && value["relations"].as_object().unwrap().is_empty());
    }
}
