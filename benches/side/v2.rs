//! The v2 API over HTTP/1.1: one request at a time on each of many connections, as clients of v2 send them.
//!
//! The client writes prepared bytes and looks for the end of the answer, nothing more, so that the machine's time goes to
//! the servers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cluster::Cluster;
use super::load::Seen;

const KEYS: u32 = 10_000;
const VALUE_BYTES: usize = 256;
const WARM_UP: Duration = Duration::from_secs(1);
const FILLERS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Set,
    Get,
    QuorumGet,
}

pub struct Load {
    pub operation: Operation,
    pub connections: usize,
    pub length: Duration,
}

trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// One connection, and what of the next answer has been read.
struct Connection {
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(cluster: &Cluster) -> Result<Self, String> {
        let address = cluster.leader_address();
        let tcp = TcpStream::connect(address).await.map_err(|error| format!("connect {address}: {error}"))?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let wire: Box<dyn Wire> = match cluster.tls() {
            None => Box::new(tcp),
            Some(config) => {
                let mut config = (**config).clone();
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                let name = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
                let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
                Box::new(connector.connect(name, tcp).await.map_err(|error| format!("TLS to {address}: {error}"))?)
            }
        };
        Ok(Self { wire, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and reads the whole answer. True when it is 200 or 201.
    async fn call(&mut self, request: &[u8]) -> Result<bool, String> {
        self.wire.write_all(request).await.map_err(|error| error.to_string())?;
        self.wire.flush().await.map_err(|error| error.to_string())?;
        self.buffer.clear();
        loop {
            if self.wire.read_buf(&mut self.buffer).await.map_err(|error| error.to_string())? == 0 {
                return Err("the server closed the connection".to_owned());
            }
            let Some(head) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&self.buffer[..head]).map_err(|error| error.to_string())?;
            let length = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let length = length.ok_or("an answer without a Content-Length")?;
            if self.buffer.len() >= head + 4 + length {
                return Ok(text.starts_with("HTTP/1.1 200") || text.starts_with("HTTP/1.1 201"));
            }
        }
    }
}

impl Operation {
    fn request(self, key: u32, random: &mut SmallRng) -> Vec<u8> {
        match self {
            Self::Set => {
                let value: String = (0..VALUE_BYTES).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
                format!(
                    "PUT /v2/keys/bench/{key:08} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\nvalue={value}",
                    VALUE_BYTES + 6
                )
                .into_bytes()
            }
            Self::Get => format!("GET /v2/keys/bench/{key:08} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes(),
            Self::QuorumGet => {
                format!("GET /v2/keys/bench/{key:08}?quorum=true HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
            }
        }
    }
}

/// Writes every key once, so that reads find them.
pub async fn fill(cluster: &Cluster) -> Result<(), String> {
    let next = Rc::new(RefCell::new(0..KEYS));
    let fillers = (0..FILLERS).map(|n| {
        let next = next.clone();
        async move {
            let (mut connection, mut random) = (Connection::open(cluster).await?, SmallRng::seed_from_u64(n as u64));
            loop {
                let Some(key) = next.borrow_mut().next() else { return Ok(()) };
                if !connection.call(&Operation::Set.request(key, &mut random)).await? {
                    return Err(format!("key {key} was refused"));
                }
            }
        }
    });
    futures::future::try_join_all(fillers).await.map(drop)
}

struct Shared {
    seen: Seen,
    measuring: bool,
    stop: bool,
}

impl Load {
    /// Runs the loop: a warm-up, `begin` called at the start of the measured part, then `length` of load.
    pub async fn run(&self, cluster: &Cluster, begin: impl FnOnce()) -> Result<Seen, String> {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())?;
        let seen = Seen { operations: 0, errors: 0, latency, elapsed: Duration::ZERO };
        let shared = Rc::new(RefCell::new(Shared { seen, measuring: false, stop: false }));
        let local = tokio::task::LocalSet::new();
        for n in 0..self.connections {
            let connection = Connection::open(cluster).await?;
            local.spawn_local(client(n as u64, self.operation, connection, shared.clone()));
        }
        let elapsed = local
            .run_until(async {
                tokio::time::sleep(WARM_UP).await;
                begin();
                let start = Instant::now();
                shared.borrow_mut().measuring = true;
                tokio::time::sleep(self.length).await;
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

async fn client(seed: u64, operation: Operation, mut connection: Connection, shared: Rc<RefCell<Shared>>) {
    let mut random = SmallRng::seed_from_u64(seed);
    loop {
        let key = random.random_range(0..KEYS);
        let request = operation.request(key, &mut random);
        let start = Instant::now();
        let outcome = connection.call(&request).await;
        let micros = start.elapsed().as_micros().max(1) as u64;
        let mut shared = shared.borrow_mut();
        if shared.stop {
            return;
        }
        let good = matches!(outcome, Ok(true));
        if shared.measuring && good {
            shared.seen.operations += 1;
            shared.seen.latency.saturating_record(micros);
        }
        shared.seen.errors += u64::from(shared.measuring && !good);
        if outcome.is_err() {
            return;
        }
    }
}
