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
pub use pool::{Answering, Limits, Place, Pool, Source};
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

/// Open files that a member needs. With fewer it says so and divides these, so it may run out of them.
pub const LEAST_FILES: u64 = 320;

/// Connections of other members at most, and in any case; each has about four.
const MOST_PEERS: usize = 1024;
const LEAST_PEERS: usize = 32;

/// Connections of a pool that were told to go and are not gone yet, at most and at least. They are open files, too.
const MOST_LEAVING: usize = 64;
const LEAST_LEAVING: usize = 8;

/// Pools that [`Shares`] has.
const POOLS: usize = 6;

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
    /// Divides the open files that the process may have, less the reserve and those of connections on their way out: a
    /// thirty-second each to the two pools of peers, and of what is left a quarter to clients that are not let in yet, a
    /// thirty-second each to the two pools of metrics, the rest to clients. All together is never more than `open_files`,
    /// if these are at least [`LEAST_FILES`].
    pub fn of(open_files: u64) -> Self {
        let files = usize::try_from(open_files.max(LEAST_FILES) - RESERVED_FILES).unwrap_or(usize::MAX);
        let leaving = (files / 64).clamp(LEAST_LEAVING, MOST_LEAVING);
        let files = files - POOLS * leaving;
        let waiting = |connections, bytes| Pool::new(Limits { connections, bytes, each: EACH_WAITING, leaving });
        // An idle seat weighs nothing: who holds most bytes is asked only when heads that are not whole are too many.
        let seats = |connections| Pool::new(Limits { connections, bytes: HEAD_BYTES, each: 0, leaving });
        let few = files / 32;
        let (peers_waiting, peers_seats) = (few.max(LEAST_PEERS), few.clamp(LEAST_PEERS, MOST_PEERS));
        let files = files - peers_waiting - peers_seats;
        let (quarter, few) = (files / 4, (files / 32).max(1));
        Self {
            clients: Port { waiting: waiting(quarter, WAITING_BYTES), seats: seats(files - quarter - 2 * few) },
            metrics: Port { waiting: waiting(few, WAITING_BYTES_METRICS), seats: seats(few) },
            peers: Port { waiting: waiting(peers_waiting, WAITING_BYTES), seats: seats(peers_seats) },
        }
    }
}

/// The thread on which callers wait, and how much may wait there.
pub struct Admission {
    /// The pools.
    pub shares: Shares,
    /// Whose handshake is computed next, of clients.
    pub handshakes: Handshakes,
    /// The same of peers. The thread takes both in turn, so members do not wait behind a flood of clients.
    pub peers_handshakes: Handshakes,
    handle: Handle,
    _stop: DropGuard,
}

impl Admission {
    /// Raises the soft limit of open files to the hard one and starts the thread.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start() -> io::Result<Arc<Self>> {
        let limit = raised_file_limit();
        if limit < LEAST_FILES {
            tracing::warn!(
                limit,
                least = LEAST_FILES,
                "the limit of open files is too low: log and state may run out of them; raise LimitNOFILE (ulimit -n)"
            );
        }
        Self::with(Shares::of(limit))
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
        let (handshakes, peers_handshakes) = Default::default();
        Ok(Arc::new(Self { shares, handshakes, peers_handshakes, handle, _stop: stop.drop_guard() }))
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
    use futures::FutureExt;

    use super::*;

    fn connections(port: &Port) -> (usize, usize) {
        (port.waiting.limits().connections, port.seats.limits().connections)
    }

    #[test]
    fn open_files_are_divided_and_some_are_kept_back() {
        for (open_files, clients, metrics, peers) in [
            (65_536, (15_486, 42_591), (1935, 1935), (2031, 1024)),
            (1024, (183, 505), (22, 22), (32, 32)),
            (320, (14, 42), (1, 1), (32, 32)),
            (0, (14, 42), (1, 1), (32, 32)),
        ] {
            let shares = Shares::of(open_files);
            assert_eq!(connections(&shares.clients), clients, "{open_files}");
            assert_eq!(connections(&shares.metrics), metrics, "{open_files}");
            assert_eq!(connections(&shares.peers), peers, "{open_files}");
        }
    }

    #[test]
    fn all_pools_with_those_that_leave_them_and_the_reserve_fit_the_limit_of_open_files() {
        let sample = (LEAST_FILES..5000).chain((5000..1_048_576).step_by(97)).chain([1_048_576]);
        for open_files in sample {
            let Shares { clients, metrics, peers } = Shares::of(open_files);
            let pools = [clients.waiting, clients.seats, metrics.waiting, metrics.seats, peers.waiting, peers.seats];
            assert_eq!(pools.len(), POOLS);
            let of = |pool: &Pool| pool.limits().connections + pool.limits().leaving;
            let all = pools.iter().map(of).sum::<usize>() as u64 + RESERVED_FILES;
            assert!(all <= open_files, "{all} of {open_files}");
            assert!(pools.iter().all(|pool| pool.limits().connections > 0), "{open_files}");
        }
    }

    #[test]
    fn clients_that_are_let_in_have_five_eighths_of_many_files() {
        for open_files in [20_000, 65_536, 1_048_576] {
            let seats = Shares::of(open_files).clients.seats.limits().connections as u64;
            assert!(seats >= open_files * 5 / 8, "{seats} of {open_files}");
        }
    }

    #[tokio::test]
    async fn members_do_not_wait_behind_clients() {
        let admission = Admission::with(Shares::of(1024)).expect("a thread");
        let _turn = admission.handshakes.turn(Source::Local).await.expect("free");
        assert!(admission.handshakes.turn(Source::Local).now_or_never().is_none());
        assert!(admission.peers_handshakes.turn(Source::Local).now_or_never().flatten().is_some());
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
