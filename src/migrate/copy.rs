//! `copy-to-v3`: every file of a v2 tree becomes the v3 key of its path.
//!
//! The whole tree is read first, from a server or a file. Then every key is checked, and only if there is no conflict
//! is anything written: in batches of keys that must not exist yet, so that an existing value is never replaced, not
//! even one written concurrently. A repeated run changes nothing.

use std::collections::HashMap;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use super::access::{self, Access};
use super::error::MigrateError;
use super::export::export;
use super::options::{Copy, Server, Ttl};
use super::report::{self, Conflicts, Progress};
use super::spool::{Spool, nameless};
use super::writes::remaining;
use crate::client::copy::{Creation, NewKey};
use crate::client::{Client, ClientError, Code};
use crate::treefile::order::is_within;
use crate::treefile::{Node, WriteError};

/// Keys per transaction, below any server's `--max-txn-ops`.
const BATCH_KEYS: usize = 64;
/// Maximum leases remembered, so that keys that expire in the same second share a lease.
const MAX_LEASES: usize = 10_000;
/// Attempts per call while the target elects a leader or restarts.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);
/// Overhead of a request beside keys and values, in bytes.
const ENVELOPE_BYTES: usize = 256;

/// Runs the command.
pub async fn run(options: &Copy) -> Result<(), MigrateError> {
    let mut spool = match &options.from {
        Some(file) => Spool::open(file)?,
        None => take(options).await?,
    };
    eprintln!("{} of {}", report::totals(&spool.totals), spool.header.prefix);
    eprintln!("{}", report::hidden(&spool.header));
    let server = options.target();
    let mut target = Target { client: access::v3(&server).await?, server, leases: HashMap::new() };
    let found = look(options, &mut spool, &mut target).await?;
    let Found { new, same, conflicts, expiring, example } = &found;
    let verb = if options.dry_run { "dry run: " } else { "" };
    eprintln!("{verb}{new} keys are new, {same} are there already with the same value, {conflicts} stand against it");
    if options.ttl == Ttl::Refuse && *expiring > 0 {
        return Err(MigrateError::Ttl { count: *expiring, example: example.clone() });
    }
    if *conflicts > 0 && !options.skip_conflicts {
        return Err(MigrateError::KeyConflicts(*conflicts));
    }
    if options.dry_run {
        return Ok(());
    }
    let conflicts = write(options, &mut spool, &mut target, *new).await?;
    if conflicts > 0 { Err(MigrateError::KeysSkipped(conflicts)) } else { Ok(()) }
}

/// Exports the server's tree to a temporary file.
async fn take(options: &Copy) -> Result<Spool, MigrateError> {
    let source = Access::new(&options.server)?;
    let kept = nameless()?;
    let mut out = BufWriter::new(&kept);
    let exported = export(&source, &options.tree, &mut out).await?;
    out.flush().map_err(|error| MigrateError::Write(WriteError::Output(error)))?;
    drop(out);
    Spool::prove(PathBuf::from(format!("the export of {}", exported.endpoint)), kept)
}

/// The result of checking every key.
#[derive(Default)]
struct Found {
    new: u64,
    same: u64,
    conflicts: u64,
    expiring: u64,
    example: String,
}

async fn look(options: &Copy, spool: &mut Spool, target: &mut Target) -> Result<Found, MigrateError> {
    let (mut found, mut conflicts) = (Found::default(), Conflicts::default());
    let mut progress = Progress::new("looked at", spool.totals.files);
    for batch in Batches::new(spool.nodes()?, options.max_request_bytes) {
        let batch = batch?;
        let keys: Vec<Vec<u8>> = batch.iter().map(|file| file.key.clone()).collect();
        let there = target.get_all(&keys).await?;
        for (file, there) in batch.iter().zip(there) {
            let shown = String::from_utf8_lossy(&file.key);
            if file.expiration.is_some() {
                found.expiring += 1;
                if found.expiring == 1 {
                    found.example = shown.clone().into_owned();
                }
            }
            match there {
                Some(value) if value == file.value => found.same += 1,
                Some(value) => {
                    conflicts.add(&format!("{shown} exists in v3 with another value, of {} bytes", value.len()));
                }
                None if file.bytes() > options.max_request_bytes => conflicts.add(&format!(
                    "{shown} has {} bytes; a v3 request holds {} (raise --max-request-bytes of the members, then give it here too)",
                    file.value.len(),
                    options.max_request_bytes
                )),
                None => found.new += 1,
            }
        }
        progress.at(found.new + found.same + conflicts.count());
    }
    found.conflicts = conflicts.count();
    Ok(found)
}

async fn write(options: &Copy, spool: &mut Spool, target: &mut Target, new: u64) -> Result<u64, MigrateError> {
    let mut progress = Progress::new("copied", new);
    let (mut written, mut same, mut other, mut expired) = (0u64, 0u64, 0u64, 0u64);
    for batch in Batches::new(spool.nodes()?, options.max_request_bytes) {
        let mut keys = Vec::new();
        for file in batch? {
            if file.bytes() > options.max_request_bytes {
                other += 1;
                continue;
            }
            let expiration = if options.ttl == Ttl::Drop { None } else { file.expiration };
            let Some(ttl) = remaining(expiration) else {
                expired += 1;
                continue;
            };
            let lease = match (ttl, expiration) {
                (Some(ttl), Some(at)) => target.lease(at, ttl).await?,
                _ => 0,
            };
            keys.push(NewKey { key: file.key, value: file.value, lease });
        }
        while !keys.is_empty() {
            let Creation::Existing(there) = target.create_all(&keys).await? else {
                written += keys.len() as u64;
                break;
            };
            let mut absent = Vec::new();
            for (new, there) in keys.into_iter().zip(there) {
                match there {
                    None => absent.push(new),
                    Some(value) if value == new.value => same += 1,
                    Some(_) => other += 1,
                }
            }
            keys = absent;
        }
        progress.at(written);
    }
    eprintln!(
        "copied {written} keys in {:.1} s; {same} were there already with the same value, {other} stay as they are, {expired} had expired",
        progress.seconds()
    );
    Ok(other)
}

/// The v3 keyspace; calls are retried while it elects a leader or restarts.
struct Target {
    client: Client,
    server: Server,
    /// Second of expiration → lease id.
    leases: HashMap<i64, i64>,
}

impl Target {
    async fn get_all(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, MigrateError> {
        let mut tries = 0;
        loop {
            match self.client.get_all(keys).await {
                Ok(values) => return Ok(values),
                Err(error) => self.again(error, &mut tries).await?,
            }
        }
    }

    async fn create_all(&mut self, keys: &[NewKey]) -> Result<Creation, MigrateError> {
        let mut tries = 0;
        loop {
            match self.client.create_all(keys).await {
                Ok(creation) => return Ok(creation),
                // The keys may have been created: then the next attempt finds them, which counts as done.
                Err(error) => self.again(error, &mut tries).await?,
            }
        }
    }

    /// A lease that expires at `at`, or up to a second later.
    async fn lease(&mut self, at: i64, ttl: i64) -> Result<i64, MigrateError> {
        let second = at.div_euclid(1_000_000_000);
        if let Some(&lease) = self.leases.get(&second) {
            return Ok(lease);
        }
        let mut tries = 0;
        let lease = loop {
            match self.client.grant(ttl).await {
                Ok(lease) => break lease,
                // If the lease was granted anyway, it expires unused.
                Err(error) => self.again(error, &mut tries).await?,
            }
        };
        if self.leases.len() >= MAX_LEASES {
            self.leases.clear();
        }
        self.leases.insert(second, lease);
        Ok(lease)
    }

    /// Waits and reconnects, or gives up.
    async fn again(&mut self, error: ClientError, tries: &mut u32) -> Result<(), MigrateError> {
        let passing = match error.code() {
            None => matches!(error, ClientError::Unreachable(_)),
            Some(code) => matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown),
        };
        *tries += 1;
        if !passing || *tries >= TRIES {
            return Err(error.into());
        }
        tokio::time::sleep(PAUSE).await;
        if let Ok(client) = access::v3(&self.server).await {
            self.client = client;
        }
        Ok(())
    }
}

/// A file with its effective expiration: the earliest of its own and those of the directories above it.
struct File {
    key: Vec<u8>,
    value: Vec<u8>,
    expiration: Option<i64>,
}

impl File {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.len() + ENVELOPE_BYTES
    }
}

/// The files of a tree, in batches that fit a request.
struct Batches<I> {
    nodes: I,
    most: usize,
    /// Directories above, with their effective expiration.
    above: Vec<(Vec<u8>, Option<i64>)>,
    next: Option<File>,
}

impl<I: Iterator<Item = Result<Node, MigrateError>>> Batches<I> {
    fn new(nodes: I, most: usize) -> Self {
        Self { nodes, most, above: Vec::new(), next: None }
    }

    fn file(&mut self) -> Option<Result<File, MigrateError>> {
        loop {
            let node = match self.nodes.next()? {
                Ok(node) => node,
                Err(error) => return Some(Err(error)),
            };
            while self.above.pop_if(|(above, _)| !is_within(&node.key, above)).is_some() {}
            let inherited = self.above.last().and_then(|(_, expiration)| *expiration);
            let expiration = match (node.expiration, inherited) {
                (Some(own), Some(inherited)) => Some(own.min(inherited)),
                (own, inherited) => own.or(inherited),
            };
            match node.value {
                Some(value) => return Some(Ok(File { key: node.key, value, expiration })),
                None => self.above.push((node.key, expiration)),
            }
        }
    }
}

impl<I: Iterator<Item = Result<Node, MigrateError>>> Iterator for Batches<I> {
    type Item = Result<Vec<File>, MigrateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_KEYS {
            let file = match self.next.take().map(Ok).or_else(|| self.file()) {
                None => break,
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(file)) => file,
            };
            // Each key is in the request twice: in a compare and in a put.
            let weight = file.bytes() + file.key.len();
            if !batch.is_empty() && bytes + weight > self.most {
                self.next = Some(file);
                break;
            }
            bytes += weight;
            batch.push(file);
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}
