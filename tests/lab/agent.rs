//! One thread per unit: asks the schedule what comes next, runs it on the unit's machine, commits or fails.
//!
//! A thread ends when its unit has gone or its machine has died. All shared state is behind the hub's lock;
//! the lock is never held while a hook runs.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::context::Context;
use crate::hook::{self, Outcome};
use crate::hub::{Hub, now};
use crate::schedule::{self, Next, Op, fingerprint};
use crate::world::task::{TaskState, Work};
use crate::world::{LogLine, MachineState, World, unit_tag};

/// How often an idle agent looks again even when nothing woke it.
const LOOK_AGAIN_MS: u64 = 1_000;

/// Serves `unit` until it has gone.
pub fn serve(hub: &Arc<Hub>, unit: &str) {
    let seed = hub.lock().options.seed;
    let mixed = unit.bytes().fold(seed, |mix, byte| mix.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let mut rng = StdRng::seed_from_u64(mixed);
    while let Some(op) = next_op(hub, unit, &mut rng) {
        let jitter = hub.lock().options.jitter_ms;
        std::thread::sleep(Duration::from_millis(rng.random_range(0..=jitter)));
        run(hub, unit, &op, &mut rng);
    }
    let finished = |world: &World| {
        world.units.get(unit).is_none_or(|unit| {
            world.machines.get(&unit.machine).is_none_or(|machine| machine.state != MachineState::Down)
        })
    };
    if !hub.stopping() && finished(&hub.lock()) {
        hub.retire(unit);
    }
}

/// Waits for the next thing to do; `None` when the thread should end.
fn next_op(hub: &Arc<Hub>, unit: &str, rng: &mut StdRng) -> Option<Op> {
    let mut world = hub.lock();
    loop {
        if hub.stopping() {
            return None;
        }
        world.note_deposition(unit, now());
        let state = world.units.get(unit)?;
        match world.machines.get(&state.machine)?.state {
            MachineState::Down => return None,
            MachineState::Paused | MachineState::Pending => {
                world = hub.wait(world, LOOK_AGAIN_MS);
                continue;
            }
            MachineState::Started => {}
        }
        let time = now();
        let wait = match schedule::next(&world, state, time, &mut |count| rng.random_range(0..count)) {
            Next::Run(op) => return Some(op),
            Next::Gone => return None,
            Next::WaitUntil(due) => due.saturating_sub(time).clamp(10, LOOK_AGAIN_MS),
        };
        world = hub.wait(world, wait);
    }
}

fn run(hub: &Arc<Hub>, unit: &str, op: &Op, rng: &mut StdRng) {
    if resolved_without_retry(hub, unit, op, rng) {
        return;
    }
    let token = format!("{:016x}{:016x}", rng.random::<u64>(), rng.random::<u64>());
    // Storage hooks of a machine's first storage run before install, out of a charm that is there already.
    let fresh = matches!(op, Op::Storage { attach: true, .. })
        && hub.lock().units.get(unit).is_some_and(|unit| !unit.installed);
    if (fresh || matches!(op, Op::Plain("install" | "upgrade-charm")))
        && let Err(error) = unpack(hub, unit)
    {
        hub.log("ERROR", &unit_tag(unit), "charm", &error);
        hub.lock().fail(unit, op, now(), rng.random());
        return;
    }
    let Some((launch, label, config_seen)) = start(hub, unit, op, &token) else { return };
    let outcome = match launch {
        Ok(None) => Ok(None),
        Ok(Some(command)) => {
            let say = |is_error: bool, line: &str| {
                let level = if is_error { "WARNING" } else { "DEBUG" };
                hub.log(level, &unit_tag(unit), &format!("unit.{unit}.{label}"), line);
            };
            hook::run(command, &say, &|| hub.take_interruption(unit)).map(Some)
        }
        Err(error) => Err(error),
    };
    end(hub, unit, op, outcome, config_seen, rng);
}

/// `resolve --no-retry`: the failed hook counts as run.
fn resolved_without_retry(hub: &Arc<Hub>, unit: &str, op: &Op, rng: &mut StdRng) -> bool {
    let mut world = hub.lock();
    let skip = world.units.get(unit).is_some_and(|unit| unit.failed.is_some() && unit.resolved == Some(false));
    if skip {
        let pause = update_status_pause(&world, rng);
        let seen = config_fingerprint(&world, unit);
        world.finish(unit, op, seen, now(), pause);
    }
    skip
}

fn unpack(hub: &Arc<Hub>, unit: &str) -> Result<(), String> {
    let world = hub.lock();
    let state = world.units.get(unit).ok_or("the unit has gone")?;
    let archive = world.apps.get(&state.app).ok_or("the application has gone")?.charm.archive.clone();
    let machine = state.machine;
    drop(world);
    let target = hub.with_machine(machine, |machine| machine.juju_path(&format!("agents/{}/charm", unit_tag(unit))));
    crate::archive::unpack(&archive, &target.ok_or("the machine has gone")?)
}

type Start = (Result<Option<std::process::Command>, String>, String, u64);

/// Marks the start in the world and builds the command.
fn start(hub: &Arc<Hub>, unit: &str, op: &Op, token: &str) -> Option<Start> {
    let mut world = hub.lock();
    let machine = world.units.get(unit)?.machine;
    world.begin(unit, op, now());
    let context = Context::new(&world, unit, op, token);
    let label = label(&world, &context, op);
    let what = match (&context.action, op) {
        (Some(action), _) => format!("running action {}", action.name),
        (None, Op::Task(_)) => "running commands".to_owned(),
        _ => format!("running {label} hook"),
    };
    world.units.get_mut(unit)?.executing = Some(what);
    if let Op::Task(task) = op
        && let Some(task) = world.tasks.get_mut(task)
    {
        task.state = TaskState::Running;
        task.times[1] = now();
    }
    let launch = hub.with_machine(machine, |machine| {
        hook::launch(&world, &context, machine).map(|launch| launch.map(|launch| hook::command(machine, &launch)))
    })?;
    let seen = config_fingerprint(&world, unit);
    world.contexts.insert(unit.to_owned(), context);
    hub.wake();
    drop(world);
    hub.log("INFO", &unit_tag(unit), "juju.worker.uniter.operation", &format!("running {label}"));
    Some((launch, label, seen))
}

fn label(world: &World, context: &Context, op: &Op) -> String {
    match (&context.action, op) {
        (Some(action), _) => action.name.clone(),
        (None, Op::Task(_)) => "juju-run".to_owned(),
        _ => crate::context::hook_name(world, &context.unit, op),
    }
}

fn config_fingerprint(world: &World, unit: &str) -> u64 {
    let app = world.units.get(unit).and_then(|unit| world.apps.get(&unit.app));
    app.map_or(0, |app| fingerprint(&world.config_of(app)))
}

fn update_status_pause(world: &World, rng: &mut StdRng) -> u64 {
    let mean = world.options.update_status_ms;
    mean * rng.random_range(80..=120) / 100
}

/// Commits or fails what just ran.
fn end(
    hub: &Arc<Hub>,
    unit: &str,
    op: &Op,
    outcome: Result<Option<Outcome>, String>,
    config_seen: u64,
    rng: &mut StdRng,
) {
    let mut world = hub.lock();
    let context = world.contexts.remove(unit);
    let Some(state) = world.units.get_mut(unit) else { return };
    state.executing = None;
    let machine = state.machine;
    // A hook that died with its machine neither failed nor succeeded.
    if world.machines.get(&machine).is_none_or(|machine| machine.state == MachineState::Down) {
        hub.wake();
        return;
    }
    let Some(context) = context else { return };
    let terminated = matches!(&outcome, Ok(Some(outcome)) if outcome.terminated);
    if let Op::Task(id) = op {
        end_task(&mut world, unit, *id, &context, outcome);
    } else if terminated {
        world.requeue(unit, op);
        log_into(&mut world, "WARNING", unit, "a signal ended the hook: it is queued again");
    } else {
        let failure = match outcome {
            Ok(Some(outcome)) if outcome.code != Some(0) => Some(format!("exit status {}", outcome.code.unwrap_or(-1))),
            Ok(_) => context.flush(&mut world, now()).err(),
            Err(error) => Some(error),
        };
        let label = label(&world, &context, op);
        match failure {
            None => {
                let pause = update_status_pause(&world, rng);
                world.finish(unit, op, config_seen, now(), pause);
            }
            Some(reason) => {
                world.fail(unit, op, now(), rng.random());
                log_into(&mut world, "ERROR", unit, &format!("hook {label:?} failed: {reason}"));
            }
        }
    }
    let over = |unit: &crate::world::Unit| unit.failed.is_none() && unit.queued.is_none();
    let gone = *op == Op::Plain("remove") && world.units.get(unit).is_some_and(over);
    hub.wake();
    drop(world);
    if gone {
        hub.retire(unit);
    }
}

fn log_into(world: &mut MutexGuard<'_, World>, level: &str, unit: &str, message: &str) {
    let module = "juju.worker.uniter.operation".to_owned();
    world.write_log(LogLine {
        at: now(),
        entity: unit_tag(unit),
        level: level.to_owned(),
        module,
        message: message.to_owned(),
    });
}

fn end_task(world: &mut World, unit: &str, id: u64, context: &Context, outcome: Result<Option<Outcome>, String>) {
    if let Some(unit) = world.units.get_mut(unit) {
        unit.queue.retain(|task| *task != id);
    }
    let exit = outcome.as_ref().ok().and_then(|outcome| outcome.as_ref()?.code);
    let flushed = if exit == Some(0) { context.flush(world, now()) } else { Ok(()) };
    let Some(task) = world.tasks.get_mut(&id) else { return };
    task.times[2] = now();
    task.exit = exit;
    if let Ok(Some(outcome)) = &outcome {
        task.stdout.clone_from(&outcome.stdout);
        task.stderr.clone_from(&outcome.stderr);
    }
    let is_action = matches!(task.work, Work::Action { .. });
    let told = context.action.as_ref().and_then(|action| action.failure.clone());
    let failure = match (outcome, exit, flushed) {
        (Err(error), ..) => Some(error),
        // Juju lets the exit status overwrite what action-fail said.
        (_, Some(code), _) if code != 0 && is_action => Some(format!("exit status {code}")),
        (_, Some(0), Err(_)) => Some("committing requested changes failed".to_owned()),
        _ => told,
    };
    task.state = if failure.is_some() { TaskState::Failed } else { TaskState::Completed };
    task.message = failure.unwrap_or_default();
}
