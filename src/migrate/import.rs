//! `import`: from a file into a server.
//!
//! The file is verified and the target checked before the first node is written. Directories are created implicitly by
//! their children, empty ones explicitly; directory TTLs are set last, so that no directory expires while it is filled.

use std::sync::Arc;

use futures::{StreamExt, stream};
use http::Method;
use tokio::sync::Semaphore;

use super::access::{Access, CALL_LIMIT, Said, ask, clean, encode, encode_directory, index, judge, unexpected};
use super::error::MigrateError;
use super::export::{gives_the_file, now, piece};
use super::options::Import;
use super::plan::{Moved, Plan, Step};
use super::report::{self, Conflicts, Progress};
use super::spool::Spool;
use super::writes::{Outcome, Pool, Write};
use crate::client::http::Connection;
use crate::treefile::order::is_within;
use crate::treefile::{Lines, Part};

/// Maximum bytes of nodes in flight.
const BYTES_IN_FLIGHT: usize = 64 << 20;

/// Counts of an import.
#[derive(Default)]
struct Tally {
    written: u64,
    present: u64,
    expired: u64,
    conflicts: Conflicts,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Written => self.written += 1,
            Outcome::Present => self.present += 1,
            Outcome::Expired => self.expired += 1,
            Outcome::InTheWay(what) => self.conflicts.add(&what),
        }
    }
}

/// Runs the command.
pub async fn run(options: &Import) -> Result<(), MigrateError> {
    let access = Access::new(&options.server)?;
    let mut spool = Spool::open(&options.file)?;
    let (from, counted) = (spool.header.prefix.clone(), spool.totals);
    let to = options.prefix.as_deref().map_or(Ok(from.clone()), |prefix| clean("--prefix", prefix))?;
    eprintln!("the file is whole: {} of {from}, of {}", report::totals(&counted), spool.header.time);
    eprintln!("{}", report::hidden(&spool.header));
    if !options.resume && !options.overwrite {
        look(&mut access.open_any().await?, &to).await?;
    }
    if options.dry_run {
        eprintln!("dry run: {to} of the target could take them; nothing was written");
        return Ok(());
    }
    let pool = Pool::new(&access, options.overwrite);
    let moved = Moved { from, to: to.clone() };
    let (mut tally, began) = (Tally::default(), now());
    let mut progress = Progress::new("imported", counted.nodes());
    let plan = Plan::new(spool.nodes()?, moved.clone(), now);
    carry_out(plan, &pool, options.parallel, |outcome| {
        tally.count(outcome);
        progress.at(tally.written + tally.present);
    })
    .await
    .map_err(|error| broke_off(error, &tally))?;
    if counted.expiring > 0 {
        let done = expire_directories(&mut spool, &moved, &pool, began, &mut tally).await;
        done.map_err(|error| broke_off(error, &tally))?;
    }
    say(&access, &spool, &to, &tally, &progress).await?;
    match tally.conflicts.count() {
        0 => Ok(()),
        count => Err(MigrateError::Conflicts(count)),
    }
}

fn broke_off(error: MigrateError, tally: &Tally) -> MigrateError {
    match error {
        MigrateError::BrokeOff { last, .. } => MigrateError::BrokeOff { done: tally.written, last },
        error if tally.written > 0 => MigrateError::BrokeOff { done: tally.written, last: error.to_string() },
        error => error,
    }
}

async fn say(access: &Access, spool: &Spool, to: &str, tally: &Tally, progress: &Progress) -> Result<(), MigrateError> {
    eprintln!(
        "imported {} nodes to {to} in {:.1} s; {} were there already, {} had expired",
        tally.written,
        progress.seconds(),
        tally.present,
        tally.expired
    );
    let target = format!("/v2/keys{}?quorum=true", encode_directory(to.as_bytes()));
    let said = ask(&mut access.open_any().await?, Method::GET, &target, None).await?;
    // A user with write but no read permission gets no report of the target's index.
    let Said::Done(headers, _) = said else { return Ok(()) };
    let reached = index(&headers).unwrap_or(u64::MAX);
    if reached < spool.header.index {
        eprintln!(
            "note: the index of the target is {reached}, that of the source was {}: clients that keep an index must start over, and names made by POST from now on sort before those imported until the target has caught up",
            spool.header.index
        );
    }
    Ok(())
}

/// Refuses a target that is not empty. An empty directory counts as empty.
async fn look(connection: &mut Connection, to: &str) -> Result<(), MigrateError> {
    let not_empty = |found: &str| MigrateError::NotEmpty { prefix: to.to_owned(), found: found.to_owned() };
    // A server of this project includes hidden nodes.
    let response =
        connection.call(Method::GET, &format!("/v2/export{}", encode(to.as_bytes())), None, CALL_LIMIT).await?;
    if gives_the_file(&response) {
        let mut body = response.into_body();
        let (mut lines, mut line) = (Lines::default(), Vec::new());
        let answer = |reason: String| MigrateError::Answer { endpoint: "the target".to_owned(), reason };
        while let Some(chunk) = piece(&mut body).await.map_err(|error| answer(error.to_string()))? {
            for &byte in &chunk {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                match lines.take(&line).map_err(|error| answer(error.to_string()))? {
                    Part::Node(node) if node.value.is_some() || node.key != to.as_bytes() => {
                        return Err(not_empty(&String::from_utf8_lossy(&node.key)));
                    }
                    Part::End(_) => return Ok(()),
                    Part::Header(_) | Part::Node(_) => {}
                }
                line.clear();
            }
        }
        return Err(answer(lines.cut().to_string()));
    }
    judge(response).await?;
    let said =
        ask(connection, Method::GET, &format!("/v2/keys{}?quorum=true", encode_directory(to.as_bytes())), None).await?;
    match said {
        Said::Refused(refusal) if refusal.code == 100 => Ok(()),
        Said::Done(_, bytes) => {
            let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let node = &answer["node"];
            if node.get("value").is_some() {
                return Err(not_empty(to));
            }
            match node["nodes"][0]["key"].as_str() {
                Some(found) => Err(not_empty(found)),
                None => Ok(()),
            }
        }
        said => Err(unexpected(said, connection.endpoint(), &format!("a read of {to}"))),
    }
}

/// Executes the plan with up to `parallel` writes at once, and reports each outcome.
async fn carry_out(
    plan: impl Iterator<Item = Result<Step, MigrateError>>,
    pool: &Pool<'_>,
    parallel: u16,
    mut tell: impl FnMut(Outcome),
) -> Result<(), MigrateError> {
    let budget = Arc::new(Semaphore::new(BYTES_IN_FLIGHT));
    let weighed = stream::iter(plan).then(|step| {
        let budget = Arc::clone(&budget);
        async move {
            let step = step?;
            let weight = if let Step::Write(write) = &step { write.weight() } else { 0 };
            let weight = u32::try_from(weight.min(BYTES_IN_FLIGHT)).unwrap_or(u32::MAX);
            // The semaphore is never closed.
            Ok::<_, MigrateError>((step, budget.acquire_many_owned(weight).await.ok()))
        }
    });
    let carried = weighed.map(|weighed| async move {
        let (step, _permit) = weighed?;
        match step {
            Step::Write(write) => pool.write(&write).await,
            Step::Implied => Ok(Outcome::Written),
            Step::Expired => Ok(Outcome::Expired),
        }
    });
    let mut carried = std::pin::pin!(carried.buffer_unordered(usize::from(parallel)));
    while let Some(outcome) = carried.next().await {
        tell(outcome?);
    }
    Ok(())
}

/// Sets the remaining TTL of directories. One that expired while it was filled is removed; one that had expired before
/// was not written by this run.
async fn expire_directories(
    spool: &mut Spool,
    moved: &Moved,
    pool: &Pool<'_>,
    began: i64,
    tally: &mut Tally,
) -> Result<(), MigrateError> {
    let mut gone: Option<Vec<u8>> = None;
    for node in spool.nodes()? {
        let node = node?;
        let (None, Some(at)) = (&node.value, node.expiration) else { continue };
        if gone.as_ref().is_some_and(|gone| is_within(&node.key, gone)) {
            continue;
        }
        if at <= now() {
            gone = Some(node.key.clone());
        }
        let key = moved.key(&node.key);
        if at <= began || key.is_empty() {
            continue;
        }
        match pool.write(&Write::Expiry(key, at)).await? {
            Outcome::InTheWay(what) => tally.conflicts.add(&what),
            Outcome::Written | Outcome::Present | Outcome::Expired => {}
        }
    }
    Ok(())
}
