//! Runs one hook, action or command as Juju's agent does: environment, working directory, output to the log.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::context::Context;
use crate::machine::{JUJU_DIR, Machine, User};
use crate::world::World;
use crate::world::generation::Generation;
use crate::world::task::Work;
use crate::world::{Settings, unit_tag};

/// How long pipes a hook's child still holds are read after the hook has ended.
const PIPE_GRACE: Duration = Duration::from_millis(100);

/// The most output kept of one action.
const MAX_OUTPUT: usize = 1 << 20;

/// How a hook ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; 128 + signal when killed.
    pub code: Option<i32>,
    /// True when SIGTERM or SIGKILL ended it.
    pub terminated: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// What a hook may run as.
#[derive(Debug)]
pub struct Launch {
    /// The command line.
    pub argv: Vec<String>,
    /// The complete environment.
    pub env: Vec<(String, String)>,
    /// The charm directory as seen inside.
    pub dir: String,
}

/// Chooses the executable and builds the environment. `None`: the charm does not have this hook.
pub fn launch(world: &World, context: &Context, machine: &Machine) -> Result<Option<Launch>, String> {
    let tag = unit_tag(&context.unit);
    let below = format!("agents/{tag}/charm");
    let dir = machine.seen_inside(&below);
    let env = environment(world, context, machine, &dir);
    if let Some(Work::Exec { script }) = exec_of(world, context) {
        let argv = vec!["/bin/bash".to_owned(), "-c".to_owned(), script];
        return Ok(Some(Launch { argv, env, dir }));
    }
    let path = dispatch_path(context);
    let on_disk = machine.juju_path(&below);
    let wanted = if on_disk.join("dispatch").exists() { "dispatch".to_owned() } else { path };
    let file = on_disk.join(&wanted);
    let Ok(metadata) = std::fs::metadata(&file) else {
        return match &context.action {
            Some(_) => Err(format!("action not implemented on unit {:?}", context.unit)),
            None => Ok(None),
        };
    };
    use std::os::unix::fs::PermissionsExt;
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("fork/exec {dir}/{wanted}: permission denied"));
    }
    Ok(Some(Launch { argv: vec![format!("{dir}/{wanted}")], env, dir }))
}

fn exec_of(world: &World, context: &Context) -> Option<Work> {
    if !context.hook.is_empty() || context.action.is_some() {
        return None;
    }
    let task = world.units.get(&context.unit)?.queue.front()?;
    world.tasks.get(task).map(|task| task.work.clone())
}

fn dispatch_path(context: &Context) -> String {
    match &context.action {
        Some(action) => format!("actions/{}", action.name),
        None => format!("hooks/{}", context.hook),
    }
}

/// Exactly Juju's variables, nothing inherited.
fn environment(world: &World, context: &Context, machine: &Machine, dir: &str) -> Vec<(String, String)> {
    let tag = unit_tag(&context.unit);
    let socket = machine.agent_socket(&tag).1;
    let tools = machine.seen_inside(&format!("tools/{tag}"));
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    set("CHARM_DIR", dir);
    set("JUJU_CHARM_DIR", dir);
    set("JUJU_CONTEXT_ID", &context.id);
    set("JUJU_HOOK_NAME", &context.hook);
    set("JUJU_AGENT_SOCKET_ADDRESS", &socket);
    set("JUJU_AGENT_SOCKET_NETWORK", "unix");
    set("JUJU_UNIT_NAME", &context.unit);
    set("JUJU_MODEL_UUID", &world.model_uuid);
    set("JUJU_MODEL_NAME", "lab");
    set("JUJU_API_ADDRESSES", "127.0.0.1:17070");
    let machine_id = world.units.get(&context.unit).map_or(0, |unit| unit.machine);
    set("JUJU_MACHINE_ID", &machine_id.to_string());
    for name in ["JUJU_PRINCIPAL_UNIT", "JUJU_AVAILABILITY_ZONE", "CLOUD_API_VERSION"] {
        set(name, "");
    }
    set("JUJU_VERSION", world.options.generation.version());
    if world.options.generation.has_sla() {
        set("JUJU_SLA", "unsupported");
    }
    for name in ["HTTP", "HTTPS", "FTP", "NO"] {
        set(&format!("JUJU_CHARM_{name}_PROXY"), "");
    }
    if world.options.generation.has_charm_tracing() {
        for name in ["HTTP", "GRPC", "CA_CERT"] {
            set(&format!("JUJU_CHARM_TRACE_CONFIG_{name}"), "");
        }
    }
    set("PATH", &format!("{tools}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"));
    set("DEBIAN_FRONTEND", "noninteractive");
    set("APT_LISTCHANGES_FRONTEND", "none");
    set("LANG", "C.UTF-8");
    set("TERM", "tmux-256color");
    all.extend(specific(world, context));
    all
}

/// Variables that only some kinds of hook have.
fn specific(world: &World, context: &Context) -> Settings {
    let mut all = Settings::new();
    let mut set = |name: &str, value: &str| {
        all.insert(name.to_owned(), value.to_owned());
    };
    if !context.hook.is_empty() || context.action.is_some() {
        set("JUJU_DISPATCH_PATH", &dispatch_path(context));
    }
    if let Some(relation) = context.relation.and_then(|id| world.relations.get(&id)) {
        let endpoint = relation.endpoint_of(&context.app).unwrap_or_default();
        set("JUJU_RELATION", endpoint);
        set("JUJU_RELATION_ID", &format!("{endpoint}:{}", relation.id));
        set("JUJU_REMOTE_UNIT", context.remote_unit.as_deref().unwrap_or_default());
        set("JUJU_REMOTE_APP", relation.remote_app(&context.app));
        if context.relation_hook == Some(crate::schedule::RelationHook::Departed) {
            let dying = world.units.get(&context.unit).is_some_and(|unit| unit.life == crate::world::Life::Dying);
            let departing = if dying { Some(context.unit.as_str()) } else { context.remote_unit.as_deref() };
            set("JUJU_DEPARTING_UNIT", departing.unwrap_or_default());
        }
    }
    if let Some(action) = &context.action {
        set("JUJU_ACTION_NAME", &action.name);
        set("JUJU_ACTION_UUID", &action.task.to_string());
        set("JUJU_ACTION_TAG", &format!("action-{}", action.task));
    }
    if let Some(id) = &context.storage {
        let unit = world.units.get(&context.unit);
        let storage = unit.and_then(|unit| unit.storage.iter().find(|storage| storage.id == *id));
        set("JUJU_STORAGE_ID", id);
        set("JUJU_STORAGE_KIND", "filesystem");
        set("JUJU_STORAGE_LOCATION", storage.map_or("", |storage| storage.location.as_str()));
    }
    if let Some((id, revision)) = &context.secret {
        set("JUJU_SECRET_ID", &format!("secret:{id}"));
        let label = world.secrets.get(id).and_then(|secret| {
            let own = secret.consumers.get(&context.unit).and_then(|reader| reader.label.clone());
            own.or_else(|| secret.label.clone())
        });
        set("JUJU_SECRET_LABEL", &label.unwrap_or_default());
        if let Some(revision) = revision {
            set("JUJU_SECRET_REVISION", &revision.to_string());
        }
    }
    all
}

/// Runs it; every output line goes to `say` as it comes, with `true` for standard error.
/// `interrupted` is asked while it runs; once it says yes, the hook is killed and has failed.
pub fn run(
    machine_command: std::process::Command,
    say: &dyn Fn(bool, &str),
    interrupted: &dyn Fn() -> bool,
) -> Result<Outcome, String> {
    let mut command = machine_command;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))?;
    let (sender, lines) = mpsc::channel();
    read_lines(child.stdout.take(), false, sender.clone());
    read_lines(child.stderr.take(), true, sender);
    let mut outcome = Outcome { code: None, terminated: false, stdout: String::new(), stderr: String::new() };
    let mut take = |is_error: bool, line: String| {
        say(is_error, line.trim_end_matches('\n'));
        let target = if is_error { &mut outcome.stderr } else { &mut outcome.stdout };
        if target.len() + line.len() <= MAX_OUTPUT {
            target.push_str(&line);
        }
    };
    let status = loop {
        match lines.recv_timeout(Duration::from_millis(20)) {
            Ok((is_error, line)) => take(is_error, line),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if interrupted() {
                    // It may have ended by itself just now, which is as good.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err("the agent was killed while the hook ran".to_owned());
                }
                if let Some(status) = child.try_wait().map_err(|error| format!("cannot wait for the hook: {error}"))? {
                    break status;
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                break child.wait().map_err(|error| format!("cannot wait for the hook: {error}"))?;
            }
        }
    };
    // A daemon that kept the pipes must not hold the agent.
    while let Ok((is_error, line)) = lines.recv_timeout(PIPE_GRACE) {
        take(is_error, line);
    }
    use std::os::unix::process::ExitStatusExt;
    outcome.code = status.code().or(status.signal().map(|signal| 128 + signal));
    outcome.terminated =
        status.signal().is_some_and(|signal| [Signal::SIGTERM as i32, Signal::SIGKILL as i32].contains(&signal));
    Ok(outcome)
}

fn read_lines(pipe: Option<impl Read + Send + 'static>, is_error: bool, sender: mpsc::Sender<(bool, String)>) {
    let Some(pipe) = pipe else { return };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if sender.send((is_error, String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// Prepares a new machine for one unit: directories and hook tools.
pub fn install_tools(
    machine: &Machine,
    program: &std::path::Path,
    unit: &str,
    generation: Generation,
) -> Result<(), String> {
    let tag = unit_tag(unit);
    let tools = machine.juju_path(&format!("tools/{tag}"));
    let io = |error: std::io::Error| format!("cannot install hook tools in {}: {error}", tools.display());
    std::fs::create_dir_all(&tools).map_err(io)?;
    std::fs::create_dir_all(machine.juju_path(&format!("agents/{tag}/charm"))).map_err(io)?;
    let target = match machine {
        Machine::Nspawn(_) => format!("{JUJU_DIR}/tools/lab").into(),
        Machine::Process(_) => program.to_owned(),
    };
    for name in crate::tools::names(generation) {
        std::os::unix::fs::symlink(&target, tools.join(name)).map_err(io)?;
    }
    Ok(())
}

/// Hooks run as root in the charm's directory.
pub fn command(machine: &Machine, launch: &Launch) -> std::process::Command {
    machine.command(User::Root, &launch.dir, &launch.env, &launch.argv)
}
