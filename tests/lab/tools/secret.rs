//! The secret tools.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::flags::Flags;
use super::{Refusal, Session, failed, usage};
use crate::context::SecretChange;
use crate::world::Settings;
use crate::world::secret::{Grant, Owner, Secret, bare_id};

const ROTATIONS: [&str; 7] = ["never", "hourly", "daily", "weekly", "monthly", "quarterly", "yearly"];

/// Characters in a secret's id.
const ID_LENGTH: usize = 20;

/// Juju's bound on one revision.
const MAX_SECRET_BYTES: usize = 1 << 20;

pub(super) fn answer(session: &mut Session<'_>, name: &str, flags: &Flags) -> Result<String, Refusal> {
    match name {
        "secret-add" => add(session, flags),
        "secret-set" => set(session, flags),
        "secret-get" => get(session, flags),
        "secret-info-get" => info(session, flags),
        "secret-ids" => ids(session, flags),
        "secret-grant" | "secret-revoke" => grant_or_revoke(session, name == "secret-grant", flags),
        "secret-remove" => remove(session, flags),
        _ => Err(failed(format!("unknown command {name:?}"))),
    }
}

/// Collects `k=v`, `k#base64=…`, `k#file=path` and `--file`.
fn value(session: &Session<'_>, flags: &Flags, from: usize) -> Result<Settings, Refusal> {
    let mut all = session.settings_file(flags)?;
    for pair in flags.rest.iter().skip(from) {
        let (key, text) = pair.split_once('=').ok_or_else(|| usage(format!("expected \"key=value\", got {pair:?}")))?;
        let (key, text) = match key.split_once('#') {
            Some((key, "file")) => (key, session.file(text)?.to_owned()),
            Some((key, "base64")) => {
                let bytes = BASE64.decode(text).map_err(|error| failed(format!("base64 value not valid: {error}")))?;
                let text = String::from_utf8(bytes).map_err(|_| failed("the lab keeps text secrets only"))?;
                (key, text)
            }
            _ => (key, text.to_owned()),
        };
        all.insert(key.to_owned(), text);
    }
    for key in all.keys() {
        let letters = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        let edges = key.starts_with(|c: char| c.is_ascii_lowercase()) && !key.ends_with('-') && !key.contains("--");
        if key.len() < 3 || !letters || !edges {
            return Err(usage(format!("key {key:?} not valid")));
        }
    }
    if all.values().map(String::len).sum::<usize>() > MAX_SECRET_BYTES {
        return Err(failed("secret content exceeds the maximum size"));
    }
    Ok(all)
}

fn add(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let content = value(session, flags, 0)?;
    if content.is_empty() {
        return Err(usage("empty secret value not valid"));
    }
    check_rotation(flags)?;
    let owner = match flags.value("owner").unwrap_or("application") {
        "application" if !session.leads() => return Err(failed("this unit is not the leader")),
        "application" => Owner::App(session.context.app.clone()),
        "unit" => Owner::Unit(session.context.unit.clone()),
        other => return Err(usage(format!("secret owner {other:?} not valid"))),
    };
    let label = flags.value("label").map(str::to_owned);
    let pending = |change: &SecretChange| matches!(change, SecretChange::Add(secret) if label.is_some() && secret.label == label && secret.owner == owner);
    if session.context.secrets.iter().any(pending) {
        return Err(failed(format!("secret with label {:?} already exists", label.unwrap_or_default())));
    }
    let id = session.new_secret_id();
    session.context.secrets.push(SecretChange::Add(Box::new(Secret {
        id: id.clone(),
        owner,
        label,
        description: flags.value("description").map(str::to_owned),
        rotate: flags.value("rotate").map(str::to_owned),
        expire: flags.value("expire").map(str::to_owned),
        revisions: BTreeMap::from([(1, content)]),
        remove_told: BTreeSet::new(),
        consumers: BTreeMap::new(),
        grants: Vec::new(),
    })));
    Ok(format!("secret:{id}\n"))
}

fn check_rotation(flags: &Flags) -> Result<(), Refusal> {
    match flags.value("rotate") {
        Some(policy) if !ROTATIONS.contains(&policy) => Err(usage(format!("rotate policy {policy:?} not valid"))),
        _ => Ok(()),
    }
}

fn set(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let id = managed(session, flags)?;
    check_rotation(flags)?;
    let content = value(session, flags, 1)?;
    session.context.change_secret(SecretChange::Set {
        id,
        value: (!content.is_empty()).then_some(content),
        label: flags.value("label").map(str::to_owned),
        description: flags.value("description").map(str::to_owned),
    });
    Ok(String::new())
}

/// The id in the first argument, if this unit may change that secret now.
fn managed(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let id = uri(flags.arg(0).ok_or_else(|| usage("missing secret URI"))?)?;
    let pending = session.context.pending_secret(id);
    let secret = pending.or_else(|| session.world.secrets.get(id));
    let secret = secret.ok_or_else(|| failed(format!("secret {id:?} not found")))?;
    let owned = secret.is_owned_by(&session.context.unit, &session.context.app);
    if !owned || matches!(secret.owner, Owner::App(_)) && !session.leads() {
        return Err(failed("permission denied"));
    }
    Ok(id.to_owned())
}

/// A secret by id, else by the reader's own label, else by the owner's.
fn find(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let (unit, app) = (&session.context.unit, &session.context.app);
    if let Some(text) = flags.arg(0) {
        let id = uri(text)?;
        let known = session.world.secrets.contains_key(id) || session.context.pending_secret(id).is_some();
        return if known { Ok(id.to_owned()) } else { Err(failed(format!("secret {id:?} not found"))) };
    }
    let label = flags.value("label").ok_or_else(|| usage("require either a secret URI or label"))?;
    let added = session.context.secrets.iter().find_map(|change| match change {
        SecretChange::Add(secret) if secret.label.as_deref() == Some(label) => Some(secret.as_ref()),
        _ => None,
    });
    let matches = |secret: &&Secret| {
        let own = secret.is_owned_by(unit, app) && secret.label.as_deref() == Some(label);
        own || secret.consumers.get(unit).is_some_and(|reader| reader.label.as_deref() == Some(label))
    };
    let found = added.or_else(|| session.world.secrets.values().find(matches));
    found.map(|secret| secret.id.clone()).ok_or_else(|| failed(format!("consumer label {label:?} not found")))
}

/// The id in a first argument: whatever stands there must be a URI, also beside a label.
fn uri(text: &str) -> Result<&str, Refusal> {
    let id = bare_id(text);
    let letters = id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    if id.len() == ID_LENGTH && letters { Ok(id) } else { Err(usage(format!("secret URI {text:?} not valid"))) }
}

fn get(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    if flags.has("peek") && flags.has("refresh") {
        return Err(usage("specify one of --peek or --refresh but not both"));
    }
    let id = find(session, flags)?;
    let key = flags.arg(1);
    let content = match session.context.pending_secret(&id) {
        Some(secret) => secret.revisions.get(&1).cloned().unwrap_or_default(),
        None => read(session, &id, flags)?,
    };
    let value = match key {
        None => json!(content),
        Some(key) => {
            let (name, encoded) = key.split_once('#').map_or((key, false), |(name, form)| (name, form == "base64"));
            let text = content.get(name).ok_or_else(|| failed(format!("secret key value {name:?} not found")))?;
            if encoded { json!(BASE64.encode(text)) } else { json!(text) }
        }
    };
    let default = if key.is_some() { "smart" } else { "yaml" };
    flags.print(&value, default)
}

/// The revision this unit follows; the first read, `--refresh` and `--peek` look at the latest. A change
/// made earlier in the same hook is what the unit sees with `--peek` or `--refresh`.
fn read(session: &mut Session<'_>, id: &str, flags: &Flags) -> Result<Settings, Refusal> {
    let (unit, app) = (session.context.unit.clone(), session.context.app.clone());
    let changed = session.context.secrets.iter().rev().find_map(|change| match change {
        SecretChange::Set { id: changed, value: Some(value), .. } if changed == id => Some(value.clone()),
        _ => None,
    });
    let secret = session.world.secrets.get_mut(id).ok_or_else(|| failed(format!("secret {id:?} not found")))?;
    if !secret.may_read(&unit, &app) {
        return Err(failed("permission denied"));
    }
    let latest = secret.latest();
    let first = !secret.consumers.contains_key(&unit);
    if flags.has("peek") {
        return Ok(changed.or_else(|| secret.revisions.get(&latest).cloned()).unwrap_or_default());
    }
    let reader = secret.consumers.entry(unit).or_default();
    if first || flags.has("refresh") || reader.tracked == 0 {
        reader.tracked = latest;
        reader.told = latest;
    }
    if let (Some(label), Some(_)) = (flags.value("label"), flags.arg(0)) {
        reader.label = Some(label.to_owned());
    }
    let tracked = reader.tracked;
    if flags.has("refresh")
        && let Some(changed) = changed
    {
        return Ok(changed);
    }
    secret.revisions.get(&tracked).cloned().ok_or_else(|| failed(format!("secret revision {tracked} not found")))
}

/// What the agent knows of the unit's own secrets; the answer names the secret as it was asked for.
fn info(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let asked = match (flags.arg(0), flags.value("label")) {
        (Some(_), Some(_)) => return Err(usage("specify either a secret URI or label but not both")),
        (Some(text), None) => uri(text)?,
        (None, label) => label.unwrap_or_default(),
    };
    let unknown = || failed(format!("secret {asked:?} not found"));
    let id = find(session, flags).map_err(|refusal| if refusal.is_usage() { refusal } else { unknown() })?;
    if session.context.hides(&id) {
        return Err(unknown());
    }
    let secret = session.world.secrets.get(&id).or_else(|| session.context.pending_secret(&id));
    let secret =
        secret.filter(|secret| secret.is_owned_by(&session.context.unit, &session.context.app)).ok_or_else(unknown)?;
    let mut body = Map::new();
    body.insert("revision".to_owned(), json!(secret.latest()));
    body.insert("label".to_owned(), json!(secret.label.clone().unwrap_or_default()));
    let owner = if matches!(secret.owner, Owner::App(_)) { "application" } else { "unit" };
    body.insert("owner".to_owned(), json!(owner));
    for (name, text) in [("description", &secret.description), ("expiry", &secret.expire)] {
        if let Some(text) = text {
            body.insert(name.to_owned(), json!(text));
        }
    }
    body.insert("rotation".to_owned(), json!(secret.rotate.as_deref().unwrap_or("never")));
    if !secret.grants.is_empty() {
        let access = |grant: &Grant| {
            let kind = if grant.to.contains('/') { "unit" } else { "application" };
            json!({"target": format!("{kind}-{}", grant.to.replace('/', "-")), "role": "view"})
        };
        body.insert("access".to_owned(), secret.grants.iter().map(access).collect());
    }
    flags.print(&json!({ id: Value::Object(body) }), "yaml")
}

fn ids(session: &Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let leads = session.leads();
    let owned: Vec<&String> = session
        .world
        .secrets
        .values()
        .filter(|secret| secret.is_owned_by(&session.context.unit, &session.context.app))
        .filter(|secret| leads || matches!(secret.owner, Owner::Unit(_)))
        .filter(|secret| !session.context.hides(&secret.id))
        .map(|secret| &secret.id)
        .collect();
    flags.print(&if owned.is_empty() { Value::Null } else { json!(owned) }, "smart")
}

fn grant_or_revoke(session: &mut Session<'_>, grants: bool, flags: &Flags) -> Result<String, Refusal> {
    let id = managed(session, flags)?;
    if grants && session.context.hides(&id) {
        return Err(failed(format!("secret {id:?} not found")));
    }
    let given = flags.relation().is_some() || session.context.relation.is_some();
    if !grants && given && flags.value("app").is_some() {
        return Err(usage("do not specify both relation and app"));
    }
    if grants && !given {
        return Err(usage("no relation id specified"));
    }
    let relation = if given { Some(super::relation::relation(session, flags)?) } else { None };
    let remote = relation.and_then(|id| session.world.relations.get(&id));
    let remote = remote.map(|relation| relation.remote_app(&session.context.app).to_owned());
    let target = flags.value("unit").or(flags.value("app")).map(str::to_owned);
    let change = if grants {
        let to = target.or(remote).ok_or_else(|| usage("no relation id specified"))?;
        SecretChange::Grant { id, grant: Grant { to, relation } }
    } else {
        SecretChange::Revoke { id, to: target, relation }
    };
    session.context.secrets.push(change);
    Ok(String::new())
}

fn remove(session: &mut Session<'_>, flags: &Flags) -> Result<String, Refusal> {
    let id = managed(session, flags)?;
    let revision = match flags.value("revision") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| usage(format!("invalid value {text:?} for option --revision")))?),
    };
    session.context.change_secret(SecretChange::Remove { id, revision });
    Ok(String::new())
}

impl Session<'_> {
    /// 20 characters of Juju's alphabet, unique within the controller.
    fn new_secret_id(&mut self) -> String {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
        let number = self.world.take_number("secret");
        let mixed =
            u128::from(self.now) << 40 | u128::from(number) << 20 | u128::from(self.world.options.seed & 0xf_ffff);
        (0..ID_LENGTH)
            .map(|place| char::from(ALPHABET[(mixed >> (5 * (ID_LENGTH - 1 - place)) & 31) as usize]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, running};
    use crate::context::Context;
    use crate::schedule::{Next, Op, next};
    use crate::world::World;
    use crate::world::generation::Generation;
    use crate::world::secret::bare_id;

    fn commit(world: &mut World) {
        let context = world.contexts.remove("toy/0").unwrap();
        context.flush(world, 1).unwrap();
        let context = Context::new(world, "toy/0", &Op::Plain("start"), "t2");
        world.contexts.insert("toy/0".to_owned(), context);
    }

    #[test]
    fn a_reader_stays_on_its_revision_until_it_refreshes() {
        let mut world = running(1, true);
        let id = call(&mut world, &["secret-add", "--label", "ca", "key=one"]).stdout.trim().to_owned();
        assert_eq!(call(&mut world, &["secret-get", &id, "key"]).stdout, "one\n");
        assert!(world.secrets.is_empty(), "held back until the hook ends");
        commit(&mut world);
        assert_eq!(call(&mut world, &["secret-get", &id, "key"]).stdout, "one\n");
        assert_eq!(call(&mut world, &["secret-set", &id, "key=two"]).code, 0);
        commit(&mut world);
        assert_eq!(call(&mut world, &["secret-get", &id, "key"]).stdout, "one\n");
        assert_eq!(call(&mut world, &["secret-get", &id, "key", "--peek"]).stdout, "two\n");
        assert_eq!(call(&mut world, &["secret-get", "--label", "ca", "--refresh"]).stdout, "key: two\n");
    }

    #[test]
    fn followers_read_but_neither_add_nor_change_application_secrets() {
        let mut world = running(1, true);
        let id = call(&mut world, &["secret-add", "key=one"]).stdout.trim().to_owned();
        commit(&mut world);
        world.apps.get_mut("toy").unwrap().lease.resign("toy/0");
        assert_eq!(call(&mut world, &["secret-get", &id, "key"]).stdout, "one\n");
        let refusals = [
            (vec!["secret-add", "key=x"], "this unit is not the leader"),
            (vec!["secret-set", &id, "key=x"], "permission denied"),
            (vec!["secret-remove", &id], "permission denied"),
        ];
        for (line, text) in refusals {
            let reply = call(&mut world, &line);
            assert_eq!((reply.code, reply.stderr), (1, format!("ERROR {text}\n")), "{line:?}");
        }
    }

    /// A secret `ca` of the application with these contents, one revision each; gives its URI.
    fn stored(world: &mut World, contents: &[&str]) -> String {
        let id = call(world, &["secret-add", "--label", "ca", &format!("key={}", contents[0])]);
        let id = id.stdout.trim().to_owned();
        commit(world);
        for content in &contents[1..] {
            assert_eq!(call(world, &["secret-set", &id, &format!("key={content}")]).code, 0);
            commit(world);
        }
        id
    }

    fn revisions(world: &World) -> Vec<u64> {
        world.secrets.values().flat_map(|secret| secret.revisions.keys().copied()).collect()
    }

    #[test]
    fn a_secret_is_hidden_for_the_rest_of_a_hook_that_removes_a_revision_of_it() {
        for generation in Generation::BOTH {
            let mut world = running(1, true);
            world.options.generation = generation;
            let id = stored(&mut world, &["one", "two"]);
            assert_eq!(call(&mut world, &["secret-info-get", "--label", "ca"]).code, 0);
            assert_eq!(call(&mut world, &["secret-remove", &id, "--revision", "1"]).code, 0);
            let reply = call(&mut world, &["secret-info-get", "--label", "ca"]);
            assert_eq!((reply.code, reply.stderr.as_str()), (1, "ERROR secret \"ca\" not found\n"));
            assert_eq!(call(&mut world, &["secret-info-get", &id]).code, 1);
            assert_eq!(call(&mut world, &["secret-ids", "--format=json"]).stdout, "null\n");
            commit(&mut world);
            assert_eq!(call(&mut world, &["secret-info-get", "--label", "ca"]).code, 0, "the next hook sees it again");
            assert_eq!(revisions(&world), [2]);
        }
    }

    #[test]
    fn of_two_removals_of_one_secret_in_one_hook_only_the_later_is_kept() {
        let mut world = running(1, true);
        let id = stored(&mut world, &["one", "two", "three"]);
        for revision in ["1", "2"] {
            assert_eq!(call(&mut world, &["secret-remove", &id, "--revision", revision]).code, 0);
        }
        commit(&mut world);
        assert_eq!(revisions(&world), [1, 3]);
    }

    #[test]
    fn of_a_set_and_a_removal_in_one_hook_only_the_later_is_kept() {
        let mut world = running(1, true);
        let id = stored(&mut world, &["one", "two"]);
        call(&mut world, &["secret-set", &id, "key=three"]);
        call(&mut world, &["secret-remove", &id, "--revision", "1"]);
        commit(&mut world);
        assert_eq!(revisions(&world), [2], "the set is dropped");
        let mut world = running(1, true);
        let id = stored(&mut world, &["one", "two"]);
        call(&mut world, &["secret-remove", &id, "--revision", "1"]);
        call(&mut world, &["secret-set", &id, "key=three"]);
        commit(&mut world);
        assert_eq!(revisions(&world), [1, 2, 3], "the removal is dropped");
    }

    #[test]
    fn secret_get_takes_a_uri_or_a_label_and_never_a_plain_word() {
        let mut world = running(1, true);
        let id = stored(&mut world, &["one"]);
        for line in [vec!["secret-get", "--label", "ca", "key"], vec!["secret-get", "ca"]] {
            let word = line.last().unwrap();
            let reply = call(&mut world, &line);
            assert_eq!((reply.code, reply.stderr), (2, format!("ERROR secret URI {word:?} not valid\n")));
        }
        assert_eq!(call(&mut world, &["secret-get", &id, "key", "--label", "mine"]).stdout, "one\n");
        assert_eq!(call(&mut world, &["secret-get", "--label", "mine"]).stdout, "key: one\n");
        let both = ["secret-get", "--label", "ca", "--peek", "--refresh"];
        assert_eq!(call(&mut world, &both).code, 2);
        assert_eq!(call(&mut world, &["secret-info-get", &id, "--label", "ca"]).code, 2);
    }

    #[test]
    fn secret_remove_is_told_once_to_each_unit_and_again_to_a_new_leader() {
        let mut world = running(2, true);
        let id = stored(&mut world, &["one", "two"]);
        let bare = bare_id(&id).to_owned();
        let due = |world: &World, unit: &str| world.secrets[&bare].unused_revisions(unit);
        assert_eq!(due(&world, "toy/0"), [1]);
        world.finish("toy/0", &Op::SecretRemove { id: bare.clone(), revision: 1 }, 0, 0, 1_000);
        assert_eq!(revisions(&world), [1, 2], "the charm did nothing about it");
        assert!(due(&world, "toy/0").is_empty());
        assert_eq!(due(&world, "toy/1"), [1]);
    }

    #[test]
    fn after_an_agents_restart_a_secret_changed_that_was_due_never_runs_and_the_old_revision_stays_pinned() {
        let mut world = running(1, true);
        let id = stored(&mut world, &["one"]);
        let bare = bare_id(&id).to_owned();
        assert_eq!(call(&mut world, &["secret-get", &id, "key"]).stdout, "one\n");
        call(&mut world, &["secret-set", &id, "key=two"]);
        commit(&mut world);
        let unit = world.units.get_mut("toy/0").unwrap();
        (unit.installed, unit.told_leader) = (true, true);
        let due = Next::Run(Op::SecretChanged { id: bare.clone() });
        assert_eq!(next(&world, &world.units["toy/0"], 1, &mut |_| 0), due);
        world.restart_agent("toy/0").unwrap();
        assert_ne!(next(&world, &world.units["toy/0"], 1, &mut |_| 0), due);
        assert_eq!(call(&mut world, &["secret-get", &id, "key"]).stdout, "one\n");
        assert!(world.secrets[&bare].unused_revisions("toy/0").is_empty(), "a reader pins it");
        call(&mut world, &["secret-get", &id, "--refresh"]);
        assert_eq!(world.secrets[&bare].unused_revisions("toy/0"), [1]);
    }

    #[test]
    fn keys_need_three_characters_without_underscores() {
        let mut world = running(1, true);
        for bad in ["ab=1", "a_b=1", "Abc=1", "abc-=1"] {
            assert_eq!(call(&mut world, &["secret-add", bad]).code, 2, "{bad}");
        }
        assert_eq!(call(&mut world, &["secret-ids", "--format=json"]).stdout, "null\n");
    }
}
