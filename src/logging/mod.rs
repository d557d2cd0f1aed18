//! The log: one line per event in the shape etcd's lines have, so that what reads etcd's log reads
//! ours.
//!
//! What holds true: a thread that logs never waits for a disk, a pipe or a terminal. Lines go into a
//! bounded buffer which one thread empties; when nobody reads the outputs the buffer fills, further
//! lines are counted and dropped, and the count is logged once lines flow again. Level `error` is
//! this program's own word: foreign crates' errors appear as warnings, since only we know whether
//! something is wrong.

mod layer;
mod line;
mod queue;
mod sink;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;

use crate::settings::{LogFormat, Logging};
use layer::LineLayer;
use line::Line;
use queue::Queue;
use sink::Sink;

pub use queue::MAX_QUEUED_BYTES;
pub use sink::LogError;

/// Longest wait at exit for the outputs to take what is still buffered.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// The buffer of the running log, for the counter and the panic hook.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Keeps the log running; dropping it writes out what is buffered, for at most one second.
#[must_use = "the log is flushed when the guard is dropped"]
#[derive(Debug)]
pub struct LogGuard {
    queue: Arc<Queue>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_WAIT);
    }
}

/// Opens the outputs, starts the thread that writes to them, and makes this the process's log. From
/// here on a panic is one line in the log and the end of the process: a replica that lost a thread
/// is worse than one that restarts.
pub fn init(settings: &Logging) -> Result<LogGuard, LogError> {
    let sinks = settings.outputs.iter().map(Sink::open).collect::<Result<Vec<Sink>, LogError>>()?;
    let queue = Arc::new(Queue::new());
    let layer = LineLayer::new(settings.level, settings.format, queue.clone());
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    let writer = queue.clone();
    let format = settings.format;
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || sink::write_forever(&writer, sinks, format))
        .map_err(LogError::Thread)?;
    let known = QUEUE.get_or_init(|| queue.clone()).clone();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic_line(format, panic);
        known.push_always(&text);
        known.flush(FLUSH_WAIT);
        std::process::abort();
    }));
    Ok(LogGuard { queue })
}

#[cfg(test)]
/// Lines dropped since the start because nobody read the outputs.
pub fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped())
}

/// Writes one line straight to standard error: for refusals before the log runs.
pub fn print(level: &str, message: &str, fields: &[(&str, &str)]) {
    use std::io::Write;
    let mut line = Line::new(LogFormat::Json, level, Some("etcd/main.rs"), 0);
    line.message(message);
    for (name, value) in fields {
        line.text(name, value);
    }
    // Nobody is left to be told when standard error is closed.
    drop(std::io::stderr().write_all(&line.finish()));
}

fn panic_line(format: LogFormat, panic: &std::panic::PanicHookInfo<'_>) -> Vec<u8> {
    let place = panic.location();
    let mut line = Line::new(format, "fatal", place.map(|place| place.file()), place.map_or(0, |place| place.line()));
    line.message("panic; the process ends");
    let thread = std::thread::current();
    line.text("thread", thread.name().unwrap_or("unnamed"));
    let payload = panic.payload();
    let said = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    line.text("error", said.unwrap_or("panic without a message"));
    line.text("stack", &std::backtrace::Backtrace::force_capture().to_string());
    line.finish()
}

#[cfg(test)]
mod tests;
