//! Callers who have not been let in yet, on every port.
//!
//! From `accept` to the end of TLS and the first whole request (on the peer port: the handshake of a member) a connection
//! costs this side memory, descriptors and signatures, and nobody knows yet who it is. All of that happens on one thread of
//! its own, of lower priority than the one that serves clients, peers and consensus; a flood is paid for there. What is held
//! is bounded by [`Limits`], which [`Shares`] sets for each port in one place, and who goes when a bound is reached is
//! decided in [`pool`](Pool): the oldest of the source that holds most. Whose handshake is computed next is decided in
//! `handshakes`. Nothing here is first come, first served.

mod handshakes;
mod pool;
mod socket;

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use handshakes::Handshakes;
pub use pool::{Answering, Limits, MAX_LEAVING, Place, Pool, Source};
pub use socket::{Socket, Waiting};

/// Open files kept back from connections, for log, state and snapshots.
pub const RESERVED_FILES: u64 = 150;

/// Bytes that the connections of the client ports may hold before they are let in; the same for the peer ports.
pub const WAITING_BYTES: usize = 64 << 20;

/// The same for metrics ports.
pub const WAITING_BYTES_METRICS: usize = 16 << 20;

/// Bytes that a connection is reckoned with from the beginning: its task, its entry, its registration.
pub const EACH_WAITING: usize = 3 << 10;

/// Bytes that all connections which have been let in may hold of request heads that are not whole.
pub const HEAD_BYTES: usize = 64 << 20;

/// What a seat is reckoned with, so that idle ones have a weight: nobody measures it.
const EACH_SEAT: usize = 1 << 10;

/// Files for connections when the limit of open files is hardly above the reserve.
const LEAST_FILES: u64 = 32;

/// Connections of other members at most, and in any case; each has about four.
const MOST_PEERS: usize = 1024;
const LEAST_PEERS: usize = 32;

/// How much less the thread counts than the others when the machine is busy, in steps of `nice`.
const NICENESS: i32 = 5;

/// Names of peers' certificates looked up at the same time.
const LOOK_UPS: usize = 4;

/// Tasks run between two looks at the sockets: handshakes are long, and newcomers should be seen among them.
const LOOK_EVERY: u32 = 8;

/// The two pools of a kind of port.
#[derive(Debug, Clone)]
pub struct Port {
    /// Connections that have not been let in.
    pub waiting: Pool,
    /// Connections that have.
    pub seats: Pool,
}

/// The pools of all ports, each with its share of the open files.
#[derive(Debug, Clone)]
pub struct Shares {
    /// Client URLs.
    pub clients: Port,
    /// Metrics URLs.
    pub metrics: Port,
    /// Peer URLs.
    pub peers: Port,
}

impl Shares {
    /// Divides the open files that the process may have: a quarter to clients that are not let in yet, a thirty-second each to
    /// the four smaller pools, the rest to clients.
    pub fn of(open_files: u64) -> Self {
        let files = usize::try_from(open_files.saturating_sub(RESERVED_FILES).max(LEAST_FILES)).unwrap_or(usize::MAX);
        let (quarter, few) = (files / 4, files / 32);
        let waiting = |connections, bytes| Pool::new(Limits { connections, bytes, each: EACH_WAITING });
        let seats = |connections: usize| {
            Pool::new(Limits {
                connections,
                bytes: connections.saturating_mul(EACH_SEAT).saturating_add(HEAD_BYTES),
                each: EACH_SEAT,
            })
        };
        Self {
            clients: Port { waiting: waiting(quarter, WAITING_BYTES), seats: seats(files - quarter - 4 * few) },
            metrics: Port { waiting: waiting(few.max(1), WAITING_BYTES_METRICS), seats: seats(few.max(1)) },
            peers: Port {
                waiting: waiting(few.max(LEAST_PEERS), WAITING_BYTES),
                seats: seats(few.clamp(LEAST_PEERS, MOST_PEERS)),
            },
        }
    }
}

/// The thread on which callers wait, and how much may wait there.
pub struct Admission {
    /// The pools.
    pub shares: Shares,
    /// Whose handshake is computed next.
    pub handshakes: Handshakes,
    handle: Handle,
    _stop: DropGuard,
}

impl Admission {
    /// Raises the soft limit of open files to the hard one and starts the thread.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start() -> io::Result<Arc<Self>> {
        Self::with(Shares::of(raised_file_limit()))
    }

    /// The same with given pools.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with(shares: Shares) -> io::Result<Arc<Self>> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().event_interval(LOOK_EVERY).max_blocking_threads(LOOK_UPS).build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        std::thread::Builder::new().name("admission".to_owned()).spawn(move || {
            step_back();
            runtime.block_on(stopped.cancelled());
        })?;
        Ok(Arc::new(Self { shares, handshakes: Handshakes::default(), handle, _stop: stop.drop_guard() }))
    }

    /// Runs a task on the thread.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(task)
    }
}

/// Lowers the priority of the calling thread. Without it everything still works.
fn step_back() {
    // SAFETY: plain numbers; on Linux 0 names the calling thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "the admission thread keeps its priority");
    }
}

fn raised_file_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        if raised { hard } else { soft }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(port: &Port) -> (usize, usize) {
        (port.waiting.limits().connections, port.seats.limits().connections)
    }

    #[test]
    fn open_files_are_divided_and_some_are_kept_back() {
        for (open_files, clients, metrics, peers) in [
            (65_536, (16_346, 40_868), (2_043, 2_043), (2_043, 1024)),
            (1024, (218, 548), (27, 27), (32, 32)),
            (256, (26, 68), (3, 3), (32, 32)),
            (0, (8, 20), (1, 1), (32, 32)),
        ] {
            let shares = Shares::of(open_files);
            assert_eq!(connections(&shares.clients), clients, "{open_files}");
            assert_eq!(connections(&shares.metrics), metrics, "{open_files}");
            assert_eq!(connections(&shares.peers), peers, "{open_files}");
        }
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let admission = Admission::with(Shares::of(1024)).expect("a thread");
        let (told, ended) = std::sync::mpsc::channel::<()>();
        admission.spawn(async move {
            std::future::pending::<()>().await;
            drop(told);
        });
        drop(admission);
        assert!(ended.recv().is_err(), "the task was dropped with its runtime");
    }
}
