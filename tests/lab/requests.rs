//! What the command line may ask of the controller, and the controller's answers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::archive;
use crate::hub::{Hub, now};
use crate::machine::{Provider, User};
use crate::status::report;
use crate::world::relation::End;
use crate::world::task::{Task, Work};
use crate::world::{MachineState, World};

/// One request; the answer is a JSON value or an error text for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Adds an application with some units.
    Deploy { archive: PathBuf, app: Option<String>, units: u32, config: Vec<String>, storage: Vec<String> },
    /// Adds units; answers their names.
    AddUnit { app: String, count: u32 },
    /// Adds a file system to a unit; answers its id.
    AddStorage { unit: String, name: String },
    /// Removes units; with `force` without any hook on them.
    RemoveUnit { units: Vec<String>, force: bool },
    /// Removes an application and all its units.
    RemoveApplication { app: String, force: bool },
    /// Queues an action; answers its task number.
    Run { unit: String, action: String, params: BTreeMap<String, Value> },
    /// Queues shell text in a hook context; answers its task number.
    Exec { unit: String, script: String },
    /// How a task stands.
    Task { id: u64 },
    /// Sets (`name=value`) or resets options; answers all of them.
    Config { app: String, set: Vec<String>, reset: Vec<String> },
    /// Relates two applications (`app` or `app:endpoint`).
    Integrate { one: String, other: String },
    /// Ends the relation between two applications.
    RemoveRelation { one: String, other: String },
    /// Replaces an application's charm.
    Refresh { app: String, archive: PathBuf },
    /// The report.
    Status,
    /// Cuts a machine's power.
    KillMachine { machine: String },
    /// Stops or continues every process of a machine.
    Pause { machine: String, stop: bool },
    /// Cuts a machine from the network or plugs it in.
    Partition { machine: String, cut: bool },
    /// Ends and starts a unit's agent between two hooks.
    RestartAgent { unit: String },
    /// The revisions Juju keeps of each secret: `{label or id: [numbers]}`.
    Secrets,
    /// Makes another unit Juju's leader, as when the lease was lost for a moment; answers its name.
    MoveLeadership { app: String },
    /// Kills a unit's agent in the middle of a hook; the hook counts as failed when the agent starts again.
    InterruptHook { unit: String },
    /// Retries or skips a failed hook.
    Resolve { unit: String, retry: bool },
    /// Log lines from number `from` on; answers `{next, lines}`.
    Log { from: u64 },
    /// The command line that runs `argv` in a unit's machine.
    Enter { unit: String, root: bool, argv: Vec<String> },
    /// Ends the controller and every machine.
    Stop,
}

/// Does what is asked.
pub fn answer(hub: &Arc<Hub>, request: Request) -> Result<Value, String> {
    let value = match request {
        Request::Deploy { archive, app, units, config, storage } => {
            deploy(hub, &archive, app, units, (&config, storage))?
        }
        Request::AddStorage { unit, name } => add_storage(hub, &unit, &name)?,
        Request::AddUnit { app, count } => json!(add_units(hub, &app, count)?),
        Request::RemoveUnit { units, force } => {
            for unit in &units {
                remove_unit(hub, unit, force)?;
            }
            Value::Null
        }
        Request::RemoveApplication { app, force } => remove_application(hub, &app, force)?,
        Request::Run { unit, action, params } => run_action(hub, &unit, action, params)?,
        Request::Exec { unit, script } => queue(&mut hub.lock(), &unit, Work::Exec { script })?,
        Request::Task { id } => task(&hub.lock(), id)?,
        Request::Config { app, set, reset } => config(&mut hub.lock(), &app, &set, &reset)?,
        Request::Integrate { one, other } => integrate(&mut hub.lock(), &one, &other)?,
        Request::RemoveRelation { one, other } => remove_relation(&mut hub.lock(), &one, &other)?,
        Request::Refresh { app, archive } => refresh(hub, &app, &archive)?,
        Request::Status => {
            let cloud = if matches!(hub.provider, Provider::Nspawn { .. }) { "nspawn" } else { "process" };
            let report = report::report(&hub.lock(), cloud, now());
            serde_json::to_value(report).map_err(|error| error.to_string())?
        }
        Request::KillMachine { machine } => kill_machine(hub, &machine)?,
        Request::Pause { machine, stop } => pause(hub, &machine, stop)?,
        Request::Partition { machine, cut } => {
            let id = machine_of(&hub.lock(), &machine)?;
            hub.with_machine(id, |machine| machine.partition(cut)).ok_or("the machine is not running")??;
            Value::Null
        }
        Request::RestartAgent { unit } => {
            hub.lock().restart_agent(&unit)?;
            Value::Null
        }
        Request::InterruptHook { unit } => {
            let mut world = hub.lock();
            let state = world.units.get_mut(&unit).ok_or(format!("unit {unit:?} not found"))?;
            state.interrupted = true;
            Value::Null
        }
        Request::Secrets => secrets(&hub.lock()),
        Request::MoveLeadership { app } => json!(hub.lock().move_leadership(&app, now())?),
        Request::Resolve { unit, retry } => {
            let mut world = hub.lock();
            let state = world.units.get_mut(&unit).ok_or(format!("unit {unit:?} not found"))?;
            if state.failed.is_none() {
                return Err(format!("unit {unit:?} is not in an error state"));
            }
            state.resolved = Some(retry);
            if let Some(failed) = &mut state.failed {
                failed.retry_at = 0;
            }
            Value::Null
        }
        Request::Log { from } => log(&hub.lock(), from),
        Request::Enter { unit, root, argv } => enter(hub, &unit, root, &argv)?,
        Request::Stop => Value::Null,
    };
    hub.wake();
    Ok(value)
}

fn deploy(
    hub: &Arc<Hub>,
    path: &std::path::Path,
    app: Option<String>,
    units: u32,
    (settings, storage): (&[String], Vec<String>),
) -> Result<Value, String> {
    let charm = keep_archive(hub, path)?;
    let app = app.unwrap_or_else(|| charm.name.clone());
    if let Some(unknown) = storage.iter().find(|name| !charm.storage.contains_key(*name)) {
        return Err(format!("charm {:?} has no store called {unknown:?}", charm.name));
    }
    let mut world = hub.lock();
    world.deploy(&app, Arc::new(charm))?;
    if let Some(app) = world.apps.get_mut(&app) {
        app.storage = storage;
    }
    if let Err(error) = config(&mut world, &app, settings, &[]) {
        world.apps.remove(&app);
        world.relations.retain(|_, relation| relation.endpoint_of(&app).is_none());
        return Err(error);
    }
    drop(world);
    Ok(json!({"application": app, "units": add_units(hub, &app, units)?}))
}

/// Checks an archive and copies it where later changes of the file do not reach it.
fn keep_archive(hub: &Arc<Hub>, path: &std::path::Path) -> Result<crate::world::charm::Charm, String> {
    let mut charm = archive::read(path)?;
    let number = hub.lock().take_number("archive");
    let copy = hub.home.root().join(format!("{}-{number}.charm", charm.name));
    std::fs::copy(path, &copy)
        .map_err(|error| format!("cannot copy {} to {}: {error}", path.display(), copy.display()))?;
    charm.archive = copy;
    Ok(charm)
}

fn add_units(hub: &Arc<Hub>, app: &str, count: u32) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for _ in 0..count {
        let name = hub.lock().add_unit(app, now())?;
        hub.provision(&name);
        names.push(name);
    }
    Ok(names)
}

/// A file system that comes after its unit: made on the machine at once, then the unit is told.
fn add_storage(hub: &Arc<Hub>, unit: &str, name: &str) -> Result<Value, String> {
    let storage = hub.lock().add_storage(unit, name)?;
    let id = machine_of(&hub.lock(), unit)?;
    hub.with_machine(id, |machine| machine.make_folder(&storage.location)).ok_or("the machine is not running")??;
    let shown = storage.id.clone();
    if let Some(unit) = hub.lock().units.get_mut(unit) {
        unit.storage.push(storage);
    }
    Ok(json!(shown))
}

fn remove_unit(hub: &Arc<Hub>, unit: &str, force: bool) -> Result<(), String> {
    hub.lock().remove_unit(unit)?;
    if force {
        hub.retire(unit);
    }
    Ok(())
}

fn remove_application(hub: &Arc<Hub>, app: &str, force: bool) -> Result<Value, String> {
    let mut world = hub.lock();
    world.apps.get_mut(app).ok_or(format!("application {app:?} not found"))?.dying = true;
    for relation in world.relations.values_mut().filter(|relation| relation.endpoint_of(app).is_some()) {
        relation.dying = !relation.is_peer();
    }
    let units: Vec<String> = world.units_of(app).iter().map(|unit| unit.name.clone()).collect();
    world.forget_finished();
    drop(world);
    for unit in units {
        remove_unit(hub, &unit, force)?;
    }
    Ok(Value::Null)
}

/// `etcd/leader` means whoever leads now.
fn resolve_unit(world: &World, unit: &str) -> Result<String, String> {
    match unit.strip_suffix("/leader") {
        Some(app) => {
            let holder = world.apps.get(app).and_then(|app| app.lease.holder_at(now()));
            holder.map(str::to_owned).ok_or(format!("could not determine leader for {app:?}"))
        }
        None if world.units.contains_key(unit) => Ok(unit.to_owned()),
        None => Err(format!("unit {unit:?} not found")),
    }
}

fn secrets(world: &World) -> Value {
    let shown = |secret: &crate::world::secret::Secret| {
        let name = secret.label.clone().unwrap_or_else(|| secret.id.clone());
        (name, json!(secret.revisions.keys().collect::<Vec<_>>()))
    };
    Value::Object(world.secrets.values().map(shown).collect())
}

fn run_action(hub: &Arc<Hub>, unit: &str, name: String, params: BTreeMap<String, Value>) -> Result<Value, String> {
    let mut world = hub.lock();
    let unit = resolve_unit(&world, unit)?;
    let app = world.units.get(&unit).and_then(|unit| world.apps.get(&unit.app)).ok_or("application not found")?;
    let action = app.charm.actions.get(&name);
    let action = action.ok_or(format!("action {name:?} not defined on unit {unit:?}"))?;
    let params = action.check(params)?;
    queue(&mut world, &unit, Work::Action { name, params })
}

fn queue(world: &mut World, unit: &str, work: Work) -> Result<Value, String> {
    let unit = resolve_unit(world, unit)?;
    let id = world.take_number("task") + 1;
    world.tasks.insert(id, Task::new(id, &unit, work, now()));
    if let Some(unit) = world.units.get_mut(&unit) {
        unit.queue.push_back(id);
    }
    Ok(json!({"task": id, "unit": unit}))
}

fn task(world: &World, id: u64) -> Result<Value, String> {
    let task = world.tasks.get(&id).ok_or(format!("task {id} not found"))?;
    let time = |millis: u64| if millis == 0 { Value::Null } else { json!(crate::status::time(millis)) };
    Ok(json!({
        "id": task.id.to_string(),
        "unit": task.unit,
        "over": task.is_over(),
        "status": task.state.word(),
        "message": task.message,
        "results": task.results,
        "return-code": task.exit,
        "stdout": task.stdout,
        "stderr": task.stderr,
        "log": task.log,
        "timing": {"enqueued": time(task.times[0]), "started": time(task.times[1]), "completed": time(task.times[2])},
    }))
}

fn config(world: &mut World, app: &str, set: &[String], reset: &[String]) -> Result<Value, String> {
    let state = world.apps.get(app).ok_or(format!("application {app:?} not found"))?;
    let mut changed = state.config.clone();
    let option = |name: &str| state.charm.options.get(name).ok_or(format!("unknown option {name:?}"));
    for pair in set {
        let (name, text) = pair.split_once('=').ok_or(format!("expected \"name=value\", got {pair:?}"))?;
        changed.insert(name.to_owned(), option(name)?.parse(name, text)?);
    }
    for name in reset {
        option(name)?;
        changed.remove(name);
    }
    let charm = Arc::clone(&state.charm);
    let state = world.apps.get_mut(app).ok_or("application not found")?;
    state.config = changed;
    let settings: BTreeMap<&String, Value> = charm
        .options
        .iter()
        .map(|(name, option)| {
            let own = state.config.get(name);
            let body = json!({
                "default": option.default,
                "description": option.description,
                "source": if own.is_some() { "user" } else if option.default.is_null() { "unset" } else { "default" },
                "type": option.kind,
                "value": own.unwrap_or(&option.default),
            });
            (name, body)
        })
        .collect();
    Ok(json!({"application": app, "charm": charm.name, "settings": settings}))
}

/// Finds the one pair of endpoints that fits two names.
fn endpoints(world: &World, one: &str, other: &str) -> Result<(End, End, String), String> {
    let side = |text: &str| {
        let (app, endpoint) =
            text.split_once(':').map_or((text, None), |(app, endpoint)| (app, Some(endpoint.to_owned())));
        let charm =
            world.apps.get(app).map(|app| Arc::clone(&app.charm)).ok_or(format!("application {app:?} not found"))?;
        Ok::<_, String>((app.to_owned(), endpoint, charm))
    };
    let (a, b) = (side(one)?, side(other)?);
    let mut found = Vec::new();
    for (provider, requirer) in [(&a, &b), (&b, &a)] {
        for (endpoint, interface) in &provider.2.provides {
            for (remote, wanted) in &requirer.2.requires {
                let named = |given: &Option<String>, name: &String| given.as_ref().is_none_or(|given| given == name);
                if interface == wanted && named(&provider.1, endpoint) && named(&requirer.1, remote) {
                    let end = |app: &str, endpoint: &str| End { app: app.to_owned(), endpoint: endpoint.to_owned() };
                    found.push((end(&provider.0, endpoint), end(&requirer.0, remote), interface.clone()));
                }
            }
        }
    }
    match found.len() {
        0 => Err(format!("no relations found between {one:?} and {other:?}")),
        1 => Ok(found.remove(0)),
        _ => Err(format!("ambiguous relation between {one:?} and {other:?}: name the endpoints as app:endpoint")),
    }
}

fn integrate(world: &mut World, one: &str, other: &str) -> Result<Value, String> {
    let (provider, requirer, interface) = endpoints(world, one, other)?;
    let ends = vec![provider, requirer];
    if world.relations.values().any(|relation| relation.ends == ends && !relation.dying) {
        return Err(format!("cannot add relation between {one:?} and {other:?}: relation already exists"));
    }
    Ok(json!(world.add_relation(ends, &interface)))
}

fn remove_relation(world: &mut World, one: &str, other: &str) -> Result<Value, String> {
    let (provider, requirer, _) = endpoints(world, one, other)?;
    let ends = [provider, requirer];
    let relation = world.relations.values_mut().find(|relation| relation.ends == ends && !relation.dying);
    relation.ok_or(format!("relation between {one:?} and {other:?} not found"))?.dying = true;
    world.forget_finished();
    Ok(Value::Null)
}

fn refresh(hub: &Arc<Hub>, app: &str, path: &std::path::Path) -> Result<Value, String> {
    let charm = keep_archive(hub, path)?;
    let mut world = hub.lock();
    let peers = charm.peers.clone();
    let state = world.apps.get_mut(app).ok_or(format!("application {app:?} not found"))?;
    if state.charm.name != charm.name {
        return Err(format!("cannot refresh {app:?}: it runs charm {:?}, not {:?}", state.charm.name, charm.name));
    }
    state.charm = Arc::new(charm);
    state.charm_revision += 1;
    let revision = state.charm_revision;
    for unit in world.units.values_mut().filter(|unit| unit.app == app) {
        unit.unaware_of.clear();
    }
    for (endpoint, interface) in peers {
        let known = world.relations.values().any(|r| r.is_peer() && r.endpoint_of(app) == Some(&endpoint));
        if !known {
            world.add_relation(vec![End { app: app.to_owned(), endpoint }], &interface);
        }
    }
    Ok(json!(revision))
}

/// A machine by its number or by a unit on it.
fn machine_of(world: &World, text: &str) -> Result<u32, String> {
    if let Ok(id) = text.parse::<u32>() {
        return if world.machines.contains_key(&id) { Ok(id) } else { Err(format!("machine {id} not found")) };
    }
    let unit = resolve_unit(world, text)?;
    world.units.get(&unit).map(|unit| unit.machine).ok_or(format!("unit {text:?} not found"))
}

fn set_state(hub: &Arc<Hub>, id: u32, state: MachineState, message: &str) {
    if let Some(machine) = hub.lock().machines.get_mut(&id) {
        machine.state = state;
        machine.message = message.to_owned();
    }
}

fn kill_machine(hub: &Arc<Hub>, machine: &str) -> Result<Value, String> {
    let id = machine_of(&hub.lock(), machine)?;
    // Marked first, so that a hook that dies with the machine is not taken for a failed one.
    set_state(hub, id, MachineState::Down, "killed");
    hub.with_machine(id, crate::machine::Machine::kill).ok_or("the machine is not running")?;
    hub.log("WARNING", &format!("machine-{id}"), "provisioner", "killed on request: every process in it is gone");
    Ok(json!(id))
}

fn pause(hub: &Arc<Hub>, machine: &str, stop: bool) -> Result<Value, String> {
    let id = machine_of(&hub.lock(), machine)?;
    let expected = if stop { MachineState::Started } else { MachineState::Paused };
    if hub.lock().machines.get(&id).map(|machine| machine.state) != Some(expected) {
        return Err(format!("machine {id} is not {}", if stop { "running" } else { "paused" }));
    }
    hub.with_machine(id, |machine| machine.pause(stop)).ok_or("the machine is not running")??;
    let (state, message) = if stop { (MachineState::Paused, "paused") } else { (MachineState::Started, "") };
    set_state(hub, id, state, message);
    Ok(json!(id))
}

fn log(world: &World, from: u64) -> Value {
    let (written, lines) = &world.log;
    let first = written - lines.len() as u64;
    let skip = from.saturating_sub(first) as usize;
    json!({"next": written, "lines": lines.iter().skip(skip).collect::<Vec<_>>()})
}

fn enter(hub: &Arc<Hub>, unit: &str, root: bool, argv: &[String]) -> Result<Value, String> {
    let world = hub.lock();
    let id = machine_of(&world, unit)?;
    drop(world);
    let user = if root { User::Root } else { User::Ubuntu };
    let home = if root { "/root" } else { "/home/ubuntu" };
    let dir = if root { "/" } else { home };
    let env: Vec<(String, String)> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", home),
        ("USER", if root { "root" } else { "ubuntu" }),
        ("TERM", "xterm-256color"),
        ("LANG", "C.UTF-8"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let line =
        hub.with_machine(id, |machine| machine.enter(user, dir, &env, argv)).ok_or("the machine is not running")?;
    Ok(json!(line))
}
