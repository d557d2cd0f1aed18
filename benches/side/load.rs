//! A closed loop of clients over a few connections, and what it saw.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_charm::proto::etcdserverpb::{PutRequest, RangeRequest};
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::wire::{Connection, frame};

const CONNECTIONS: usize = 8;
/// The range that all keys are in.
pub const KEYS_START: &str = "bench/";
pub const KEYS_END: &str = "bench0";
const KEYS: u32 = 10_000;
const VALUE_BYTES: usize = 256;
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Put,
    LinearizableGet,
    SerializableGet,
}

impl Operation {
    fn path(self) -> &'static str {
        match self {
            Self::Put => "/etcdserverpb.KV/Put",
            Self::LinearizableGet | Self::SerializableGet => "/etcdserverpb.KV/Range",
        }
    }

    fn body(self, random: &mut SmallRng) -> Bytes {
        let key = Bytes::from(format!("{KEYS_START}{:08}", random.random_range(0..KEYS)));
        match self {
            Self::Put => {
                let mut value = vec![0u8; VALUE_BYTES];
                random.fill(value.as_mut_slice());
                frame(&PutRequest { key, value: value.into(), ..Default::default() })
            }
            Self::LinearizableGet => frame(&RangeRequest { key, ..Default::default() }),
            Self::SerializableGet => frame(&RangeRequest { key, serializable: true, ..Default::default() }),
        }
    }
}

pub struct Load {
    pub operation: Operation,
    pub clients: usize,
    pub length: Duration,
}

/// What the clients saw in the measured part.
pub struct Seen {
    pub operations: u64,
    pub errors: u64,
    pub latency: Histogram<u64>,
    pub elapsed: Duration,
}

struct Shared {
    seen: Seen,
    measuring: bool,
    stop: bool,
}

impl Load {
    pub fn connections(&self) -> usize {
        CONNECTIONS.min(self.clients)
    }

    /// Runs the loop: a warm-up, `begin` called at the start of the measured part, then `length` of load.
    pub async fn run(&self, connections: &[Connection], begin: impl FnOnce()) -> Result<Seen, String> {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())?;
        let seen = Seen { operations: 0, errors: 0, latency, elapsed: Duration::ZERO };
        let shared = Rc::new(RefCell::new(Shared { seen, measuring: false, stop: false }));
        let local = tokio::task::LocalSet::new();
        for n in 0..self.clients {
            local.spawn_local(client(
                n as u64,
                self.operation,
                connections[n % connections.len()].clone(),
                shared.clone(),
            ));
        }
        let length = self.length;
        let elapsed = local
            .run_until(async {
                tokio::time::sleep(WARM_UP).await;
                begin();
                let start = Instant::now();
                shared.borrow_mut().measuring = true;
                tokio::time::sleep(length).await;
                shared.borrow_mut().measuring = false;
                shared.borrow_mut().stop = true;
                start.elapsed()
            })
            .await;
        local.await;
        let shared = Rc::try_unwrap(shared).map_err(|_| "a client outlived the run")?.into_inner();
        Ok(Seen { elapsed, ..shared.seen })
    }
}

async fn client(seed: u64, operation: Operation, connection: Connection, shared: Rc<RefCell<Shared>>) {
    let mut random = SmallRng::seed_from_u64(seed);
    loop {
        let body = operation.body(&mut random);
        let start = Instant::now();
        let outcome = connection.call(operation.path(), body).await;
        let micros = start.elapsed().as_micros().max(1) as u64;
        let mut shared = shared.borrow_mut();
        if shared.stop {
            return;
        }
        if shared.measuring {
            match outcome {
                Ok(_) => {
                    shared.seen.operations += 1;
                    shared.seen.latency.saturating_record(micros);
                }
                Err(_) => shared.seen.errors += 1,
            }
        }
        if shared.seen.errors > 10_000 {
            return;
        }
    }
}
