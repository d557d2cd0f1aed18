//! The log: one line per event in etcd's format, so that tools for etcd's log can read it.
//!
//! Invariant: a thread that logs never blocks on a disk, pipe or terminal. Lines go into a bounded
//! buffer, which one thread writes out; when the outputs block, the buffer fills, further lines are
//! dropped and counted, and the count is logged once writing resumes. Level `error` is reserved for
//! this program: errors from other crates are logged as warnings, because only this program knows
//! whether they matter.

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

/// Maximum wait at exit for buffered lines to be written.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// The buffer of the running log, for the dropped-lines counter and the panic hook.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Keeps the log running; dropping it flushes the buffer, for at most one second.
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

/// Opens the outputs, starts the writer thread, and installs this as the process's log. From here on
/// a panic logs one line and aborts the process: a replica that lost a thread is worse than one that
/// restarts.
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
/// Lines dropped since the start because the outputs blocked.
pub fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped())
}

/// Writes one line directly to standard error: for errors before the log is running.
pub fn print(level: &str, message: &str, fields: &[(&str, &str)]) {
    use std::io::Write;
    let mut line = Line::new(LogFormat::Json, level, Some("etcd/main.rs"), 0);
    line.message(message);
    for (name, value) in fields {
        line.text(name, value);
    }
    // If standard error is closed, the failure cannot be reported.
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
