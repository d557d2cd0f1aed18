//! The tracing layer: formats events as lines in the buffer.

use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::metadata::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::FLUSH_WAIT;
use super::line::Line;
use super::queue::Queue;
use crate::settings::{LogFormat, LogLevel};

/// Targets of this program's own events.
const OWN: [&str; 3] = ["etcd_charm", "etcd", LAST_WORDS];
/// Target of the last event before the process exits: logging it returns once it is written, or after [`FLUSH_WAIT`].
/// It is a target because the modules that use it must not depend on this one.
const LAST_WORDS: &str = "last_words";

/// Formats events as lines. Spans are disabled: lines do not include them.
#[derive(Debug)]
pub struct LineLayer {
    level: Level,
    format: LogFormat,
    queue: Arc<Queue>,
}

impl LineLayer {
    /// A layer for events of this level and above; from other crates only `warn` and above, from openraft only `error`.
    pub fn new(level: LogLevel, format: LogFormat, queue: Arc<Queue>) -> LineLayer {
        let level = match level {
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Info => Level::INFO,
            LogLevel::Warn => Level::WARN,
            LogLevel::Error => Level::ERROR,
        };
        LineLayer { level, format, queue }
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        // openraft warns about every attempt to reach an unreachable member; `raft::network::peers` logs it once.
        let foreign = if metadata.target().starts_with("openraft") { Level::ERROR } else { Level::WARN };
        let most = if is_own(metadata.target()) { self.level } else { self.level.min(foreign) };
        // An error from another crate is logged as a warning, so it is enabled with warnings.
        let heard = *metadata.level() <= most && (self.level >= Level::WARN || is_own(metadata.target()));
        metadata.is_event() && heard
    }
}

fn is_own(target: &str) -> bool {
    let root = target.split("::").next().unwrap_or(target);
    OWN.contains(&root)
}

/// The level's name in a line; zap has no `trace` level.
fn word(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        Level::ERROR if is_own(metadata.target()) => "error",
        Level::ERROR | Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut line = Line::new(self.format, word(metadata), metadata.file(), metadata.line().unwrap_or(0));
        event.record(&mut Fields(&mut line));
        if metadata.target() == LAST_WORDS {
            self.queue.push_always(&line.finish());
            self.queue.flush(FLUSH_WAIT);
        } else {
            self.queue.push(&line.finish());
        }
    }
}

/// Adds fields to a line; underscores in names become dashes, as in etcd's logs.
struct Fields<'a>(&'a mut Line);

impl Fields<'_> {
    fn text(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.0.message(value),
            name => self.0.text(&name.replace('_', "-"), value),
        }
    }

    fn plain(&mut self, field: &Field, value: impl std::fmt::Display) {
        self.0.plain(&field.name().replace('_', "-"), value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.text(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.text(field, &value.to_string());
        }
    }
}
