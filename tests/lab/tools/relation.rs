//! relation-ids, relation-list, relation-get, relation-set, relation-model-get.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::flags::Flags;
use super::{Refusal, Session, failed, usage};
use crate::context::{Side, Writes};
use crate::schedule::RelationHook;
use crate::world::Settings;

pub(super) fn answer(session: &mut Session<'_>, name: &str, flags: &Flags) -> Result<String, Refusal> {
    match name {
        "relation-ids" => ids(session, flags),
        "relation-list" => list(session, flags),
        "relation-get" => get(session, flags),
        "relation-model-get" => {
            relation(session, flags)?;
            flags.print(&json!({"uuid": session.world.model_uuid}), "smart")
        }
        _ => set(session, flags),
    }
}

/// The relation a call is about: `-r ep:3`, `-r 3` or the hook's own.
pub(super) fn relation(session: &Session<'_>, flags: &Flags) -> Result<u32, Refusal> {
    let Some(text) = flags.relation() else {
        return session.context.relation.ok_or_else(|| usage("no relation id specified"));
    };
    let number = text.rsplit_once(':').map_or(text, |(_, number)| number);
    let bad = |why: &str| usage(format!("invalid value {text:?} for option -r: {why}"));
    let id: u32 = number.parse().map_err(|_| bad("invalid relation id"))?;
    let relation = session.world.relations.get(&id).ok_or_else(|| bad("relation not found"))?;
    let endpoint = relation.endpoint_of(&session.context.app).ok_or_else(|| bad("relation not found"))?;
    match text.rsplit_once(':') {
        Some((given, _)) if given != endpoint => Err(bad("relation not found")),
        _ => Ok(id),
    }
}

fn ids(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let current = session.context.relation.and_then(|id| session.world.relations.get(&id));
    let endpoint = match flags.arg(0) {
        Some(name) => name.to_owned(),
        None => current
            .and_then(|relation| relation.endpoint_of(&session.context.app))
            .ok_or_else(|| usage("no endpoint name specified"))?
            .to_owned(),
    };
    let breaking = session.context.relation.filter(|_| session.context.relation_hook == Some(RelationHook::Broken));
    let unit = session.world.units.get(&session.context.unit);
    let mut found: Vec<String> = session
        .world
        .relations
        .values()
        .filter(|relation| relation.endpoint_of(&session.context.app) == Some(&endpoint))
        .filter(|relation| Some(relation.id) != breaking)
        // A relation exists for a unit from the start of its relation-created hook until broken.
        .filter(|relation| unit.and_then(|unit| unit.relations.get(&relation.id)).is_some_and(|local| !local.left))
        .map(|relation| format!("{endpoint}:{}", relation.id))
        .collect();
    found.sort();
    flags.print(&json!(found), "smart")
}

fn list(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let id = relation(session, flags)?;
    if flags.has("app") {
        let app = session.world.relations.get(&id).map(|relation| relation.remote_app(&session.context.app));
        return flags.print(&json!(app), "smart");
    }
    let local = session.world.units.get(&session.context.unit).and_then(|unit| unit.relations.get(&id));
    let members: Vec<&String> = local.map(|local| local.members.keys().collect()).unwrap_or_default();
    flags.print(&json!(members), "smart")
}

fn get(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let id = relation(session, flags)?;
    let key = flags.arg(0).filter(|key| *key != "-").map(str::to_owned);
    let remote_app =
        session.world.relations.get(&id).map(|relation| relation.remote_app(&session.context.app).to_owned());
    let target = match flags.arg(1) {
        Some(target) => target.to_owned(),
        None if flags.has("app") || session.context.remote_unit.is_none() && session.context.relation == Some(id) => {
            remote_app.ok_or_else(|| usage("no unit or application specified"))?
        }
        None => session.context.remote_unit.clone().ok_or_else(|| usage("no unit or application specified"))?,
    };
    let wants_app = flags.has("app") || flags.arg(1).is_none() && !target.contains('/');
    let settings = if wants_app {
        let app = target.split('/').next().unwrap_or_default().to_owned();
        app_settings(session, id, &app)?
    } else if !target.contains('/') {
        return Err(usage(format!("expected unit name, got application name {target:?}")));
    } else {
        unit_settings(session, id, &target)?
    };
    let value = match key {
        Some(key) => settings.get(&key).map_or(Value::Null, |value| json!(value)),
        None => json!(settings),
    };
    flags.print(&value, "smart")
}

fn with_writes(mut settings: Settings, writes: Option<&Writes>) -> Settings {
    for (key, value) in writes.into_iter().flatten() {
        match value {
            Some(value) => settings.insert(key.clone(), value.clone()),
            None => settings.remove(key),
        };
    }
    settings
}

/// Application bags are read afresh in every hook; a follower may not read its own, except among peers.
fn app_settings(session: &Session<'_>, id: u32, app: &str) -> Result<Settings, Refusal> {
    let relation = session.world.relations.get(&id).ok_or_else(|| failed("relation not found"))?;
    let own = app == session.context.app;
    if own && !relation.is_peer() && !session.leads() {
        return Err(failed("permission denied"));
    }
    let live = relation.apps.get(app).map(|bag| bag.settings.clone()).unwrap_or_default();
    let writes = session.context.writes.get(&(id, Side::App)).filter(|_| own);
    Ok(with_writes(live, writes))
}

/// Own bag live with this hook's writes; a member's bag as it was when last joined or changed ran for it;
/// anybody else's as it was when this hook first read it (Juju's `RelationCache`: members and others).
fn unit_settings(session: &mut Session<'_>, id: u32, unit: &str) -> Result<Settings, Refusal> {
    let live = session.world.relations.get(&id).and_then(|relation| relation.units.get(unit));
    let live = live.map(|bag| bag.settings.clone());
    if unit == session.context.unit {
        return Ok(with_writes(live.unwrap_or_default(), session.context.writes.get(&(id, Side::Unit))));
    }
    let local = session.world.units.get_mut(&session.context.unit).and_then(|unit| unit.relations.get_mut(&id));
    if let Some(member) = local.and_then(|local| local.members.get_mut(unit)) {
        return Ok(member.cache.get_or_insert_with(|| live.unwrap_or_default()).clone());
    }
    if let Some(read) = session.context.strangers.get(&(id, unit.to_owned())) {
        return Ok(read.clone());
    }
    let missing = || failed(format!("cannot read settings for unit {unit:?} in relation {id}: settings not found"));
    let live = live.ok_or_else(missing)?;
    session.context.strangers.insert((id, unit.to_owned()), live.clone());
    Ok(live)
}

fn set(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let id = relation(session, flags)?;
    let mut pairs: BTreeMap<String, String> = session.settings_file(flags)?;
    pairs.extend(flags.pairs(0)?);
    let side = if flags.has("app") { Side::App } else { Side::Unit };
    if side == Side::App && !session.leads() {
        return Err(failed("cannot write relation settings"));
    }
    let writes = session.context.writes.entry((id, side)).or_default();
    for (key, value) in pairs {
        writes.insert(key, if value.is_empty() { None } else { Some(value) });
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, running};

    #[test]
    fn writes_are_seen_by_their_hook_and_by_nobody_else_until_it_ends() {
        let mut world = running(2, true);
        assert_eq!(call(&mut world, &["relation-set", "-r", "peer:0", "a= x "]).code, 0);
        assert_eq!(call(&mut world, &["relation-get", "-r", "0", "a", "toy/0"]).stdout, "x\n");
        assert!(!world.relations[&0].units["toy/0"].settings.contains_key("a"));
        let context = world.contexts.remove("toy/0").unwrap();
        context.flush(&mut world, 1).unwrap();
        assert_eq!(world.relations[&0].units["toy/0"].settings["a"], "x");
    }

    #[test]
    fn a_members_bag_stays_cached_until_its_changed_hook() {
        let mut world = running(2, true);
        world.enter_scope(0, "toy/1");
        world.relations.get_mut(&0).unwrap().units.get_mut("toy/1").unwrap().settings.insert("k".into(), "1".into());
        let local = world.units.get_mut("toy/0").unwrap().relations.get_mut(&0).unwrap();
        local.members.insert("toy/1".into(), Default::default());
        let read = ["relation-get", "-r", "0", "k", "toy/1"];
        assert_eq!(call(&mut world, &read).stdout, "1\n");
        world.relations.get_mut(&0).unwrap().units.get_mut("toy/1").unwrap().settings.insert("k".into(), "2".into());
        assert_eq!(call(&mut world, &read).stdout, "1\n");
        let op = crate::schedule::Op::Relation {
            hook: crate::schedule::RelationHook::Changed,
            relation: 0,
            remote: Some("toy/1".into()),
        };
        world.begin("toy/0", &op, 2);
        assert_eq!(call(&mut world, &read).stdout, "2\n");
    }

    #[test]
    fn the_bag_of_a_unit_that_has_not_joined_stays_for_one_hook_as_it_first_read_it() {
        let mut world = running(2, true);
        let read = ["relation-get", "-r", "0", "k", "toy/1"];
        assert_eq!(call(&mut world, &read).code, 1, "it has written nothing yet");
        let write = |world: &mut crate::world::World, value: &str| {
            world.enter_scope(0, "toy/1");
            let bag = world.relations.get_mut(&0).unwrap().units.get_mut("toy/1").unwrap();
            bag.settings.insert("k".into(), value.into());
        };
        write(&mut world, "1");
        assert_eq!(call(&mut world, &read).stdout, "1\n");
        write(&mut world, "2");
        assert_eq!(call(&mut world, &read).stdout, "1\n");
        world.contexts.get_mut("toy/0").unwrap().strangers.clear();
        assert_eq!(call(&mut world, &read).stdout, "2\n", "the next hook reads it afresh");
    }

    #[test]
    fn followers_may_not_write_the_application_bag_but_peers_may_read_it() {
        let mut world = running(2, false);
        let reply = call(&mut world, &["relation-set", "-r", "peer:0", "--app", "a=1"]);
        assert_eq!((reply.code, reply.stderr.as_str()), (1, "ERROR cannot write relation settings\n"));
        let reply = call(&mut world, &["relation-get", "-r", "peer:0", "--app", "-", "toy", "--format=json"]);
        assert_eq!((reply.code, reply.stdout.as_str()), (0, "{}\n"));
    }

    #[test]
    fn errors_are_jujus() {
        let mut world = running(1, true);
        let cases = [
            (vec!["relation-get", "-r", "99", "-"], 2, "invalid value \"99\" for option -r: relation not found"),
            (vec!["relation-get", "-r", "x", "-"], 2, "invalid value \"x\" for option -r: invalid relation id"),
            (vec!["relation-list"], 2, "no relation id specified"),
            (vec!["relation-ids"], 2, "no endpoint name specified"),
            (vec!["relation-set", "-r", "0", "a"], 2, "expected \"key=value\", got \"a\""),
            (vec!["relation-get", "-r", "0", "-", "toy"], 2, "expected unit name, got application name \"toy\""),
        ];
        for (line, code, text) in cases {
            let reply = call(&mut world, &line);
            assert_eq!((reply.code, reply.stderr), (code, format!("ERROR {text}\n")), "{line:?}");
        }
    }
}
