//! What the controller's threads share: the world behind one lock, the machines behind another, a wake-up.
//!
//! Lock order: world, then machines. Threads: one per unit (agent), one per machine being booted, one for
//! leases, one per connection of the command line or a hook tool.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::home::Home;
use crate::machine::{Machine, Provider};
use crate::world::{Life, LogLine, MachineState, World, unit_tag};
use crate::{hook, tools, wire};

/// How often leases are renewed and claimed.
const LEASE_TICK: Duration = Duration::from_millis(250);

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}

/// See the module text.
pub struct Hub {
    /// The lab's directory.
    pub home: Home,
    /// How machines are made.
    pub provider: Provider,
    world: Mutex<World>,
    machines: Mutex<BTreeMap<u32, Machine>>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Hub {
    /// A hub over an empty world.
    pub fn new(home: Home, provider: Provider, world: World) -> Arc<Self> {
        let hub = Self {
            home,
            provider,
            world: Mutex::new(world),
            machines: Mutex::new(BTreeMap::new()),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        };
        Arc::new(hub)
    }

    /// The world. A thread that panicked under the lock left whole values behind, so its poison is ignored.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the lock until something changes or `millis` have passed.
    pub fn wait<'a>(&self, guard: MutexGuard<'a, World>, millis: u64) -> MutexGuard<'a, World> {
        let waited = self.changed.wait_timeout(guard, Duration::from_millis(millis));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Tells every waiting thread to look again.
    pub fn wake(&self) {
        self.changed.notify_all();
    }

    /// True once the controller is ending.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Runs `work` on a machine that exists.
    pub fn with_machine<T>(&self, id: u32, work: impl FnOnce(&mut Machine) -> T) -> Option<T> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        machines.get_mut(&id).map(work)
    }

    /// Adds a line to `debug-log`.
    pub fn log(&self, level: &str, entity: &str, module: &str, message: &str) {
        let line = LogLine {
            at: now(),
            entity: entity.to_owned(),
            level: level.to_owned(),
            module: module.to_owned(),
            message: message.to_owned(),
        };
        self.lock().write_log(line);
    }

    /// Boots the machine of a new unit and starts its agent, in the background.
    pub fn provision(self: &Arc<Self>, unit: &str) {
        let (hub, unit) = (Arc::clone(self), unit.to_owned());
        std::thread::spawn(move || {
            let Some(id) = hub.lock().units.get(&unit).map(|unit| unit.machine) else { return };
            match hub.boot(id, &unit) {
                Ok(()) => crate::agent::serve(&hub, &unit),
                Err(error) => {
                    hub.log("ERROR", &format!("machine-{id}"), "provisioner", &error);
                    if let Some(machine) = hub.lock().machines.get_mut(&id) {
                        machine.state = MachineState::Down;
                        machine.message = error;
                    }
                    hub.wake();
                }
            }
        });
    }

    fn boot(self: &Arc<Self>, id: u32, unit: &str) -> Result<(), String> {
        let machine = self.provider.boot(&self.home, id)?;
        let generation = self.lock().options.generation;
        hook::install_tools(&machine, &self.home.program(), unit, generation)?;
        let mut world = self.lock();
        for storage in world.units.get(unit).map(|unit| unit.storage.clone()).unwrap_or_default() {
            machine.make_folder(&storage.location)?;
        }
        let (socket, _) = machine.agent_socket(&unit_tag(unit));
        let identity = machine.identity().clone();
        let listener =
            UnixListener::bind(&socket).map_err(|error| format!("cannot listen on {}: {error}", socket.display()))?;
        self.answer_tools(listener);
        let slot = world.machines.get_mut(&id).ok_or("the machine was removed while it booted")?;
        slot.state = MachineState::Started;
        slot.address = identity.address;
        slot.prefix = identity.prefix;
        slot.interface = identity.interface;
        slot.mac = identity.mac;
        slot.hostname = identity.hostname;
        if let Some(unit) = world.units.get_mut(unit)
            && !unit.status_set
        {
            unit.workload.message = "installing agent".to_owned();
        }
        self.machines.lock().unwrap_or_else(PoisonError::into_inner).insert(id, machine);
        drop(world);
        self.wake();
        Ok(())
    }

    /// Answers hook tools on a unit's agent socket for as long as the controller lives.
    fn answer_tools(self: &Arc<Self>, listener: UnixListener) {
        let hub = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let hub = Arc::clone(&hub);
                std::thread::spawn(move || {
                    let Ok(call) = wire::receive::<tools::Call>(&mut stream) else { return };
                    let reply = tools::answer(&mut hub.lock(), &call, now());
                    hub.wake();
                    // The caller may have been killed meanwhile; then nobody reads this.
                    let _ = wire::send(&mut stream, &reply);
                });
            }
        });
    }

    /// True, once, when the hook a unit runs is to be killed.
    pub fn take_interruption(&self, unit: &str) -> bool {
        self.lock().units.get_mut(unit).is_some_and(|unit| std::mem::take(&mut unit.interrupted))
    }

    /// Takes a unit's machine off this computer, then the unit out of the model: only then may a new machine
    /// take the old one's number and address.
    pub fn retire(&self, unit: &str) {
        let id = {
            let mut world = self.lock();
            let id = world.units.get(unit).map(|unit| unit.machine);
            // What dies with its machine has not failed.
            if let Some(machine) = id.and_then(|id| world.machines.get_mut(&id)) {
                machine.state = MachineState::Down;
            }
            id
        };
        let machine = id.and_then(|id| self.machines.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
        if let Some(machine) = machine
            && let Err(error) = machine.remove()
        {
            self.log("WARNING", "controller", "provisioner", &error);
        }
        self.lock().forget_unit(unit);
        self.wake();
    }

    /// Renews leases of living holders and hands out those that have run out, until the controller ends.
    pub fn keep_leases(self: &Arc<Self>) {
        let hub = Arc::clone(self);
        std::thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(hub.lock().options.seed);
            while !hub.stopping() {
                std::thread::sleep(LEASE_TICK);
                if tick_leases(&mut hub.lock(), now(), &mut rng) {
                    hub.wake();
                }
            }
        });
    }

    /// Kills every machine and asks all threads to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wake();
        let machines = std::mem::take(&mut *self.machines.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, machine) in machines {
            // What cannot be removed here is what `Home::clean` removes next.
            let _ = machine.remove();
        }
    }
}

/// One round of lease keeping; true when a new leader was chosen. A claim waits for chance, so that the
/// first unit to be up is not always the leader.
fn tick_leases(world: &mut World, now: u64, rng: &mut StdRng) -> bool {
    let length = world.options.lease_ms;
    let mut elected = false;
    for app in world.apps.keys().cloned().collect::<Vec<_>>() {
        let able: Vec<String> = world
            .units_of(&app)
            .into_iter()
            .filter(|unit| unit.life == Life::Alive && world.reachable(unit))
            .map(|unit| unit.name.clone())
            .collect();
        let holder = world.apps[&app].lease.holder_at(now).map(str::to_owned);
        let holder_lives =
            holder.as_ref().and_then(|name| world.units.get(name)).is_some_and(|unit| world.reachable(unit));
        let Some(lease) = world.apps.get_mut(&app).map(|app| &mut app.lease) else { continue };
        match holder {
            Some(holder) if holder_lives => lease.renew(&holder, now, length),
            Some(_) => {}
            None if able.is_empty() || now < lease.expires() || rng.random_bool(0.7) => {}
            None => elected |= lease.claim(&able[rng.random_range(0..able.len())], now, length),
        }
    }
    elected
}
