//! Messages of the tools on standard error: results, progress and conflicts.

use std::path::Path;
use std::time::{Duration, Instant};

use super::export::Exported;
use super::spool::is_dash;
use crate::treefile::{Header, Totals};

/// Minimum interval between two progress lines.
const PROGRESS_PAUSE: Duration = Duration::from_secs(5);
/// Maximum number of conflicts listed individually.
pub const MAX_NAMED: u64 = 50;

/// A one-line summary of an export.
pub fn totals(totals: &Totals) -> String {
    let Totals { directories, files, expiring, .. } = totals;
    format!("{} nodes ({files} files, {directories} directories, {expiring} with a TTL)", totals.nodes())
}

/// Prints the result of an export.
pub fn exported(exported: &Exported, file: &Path) {
    let Exported { header, totals: counted, endpoint, .. } = exported;
    let to = if is_dash(file) { "standard output".to_owned() } else { file.display().to_string() };
    eprintln!("exported {} of {} at index {} from {endpoint} to {to}", totals(counted), header.prefix, header.index);
    eprintln!("{}", hidden(header));
    if let Some(note) = replaced(counted) {
        eprintln!("{note}");
    }
    if let Some(ahead) = exported.skew_seconds() {
        let (seconds, way) = (ahead.abs(), if ahead > 0 { "ahead of" } else { "behind" });
        eprintln!(
            "note: the clock of {endpoint} is {seconds} s {way} this machine's; expirations are kept by that clock, so TTLs will be off by as much where clocks are right"
        );
    }
}

/// Which hidden nodes an export includes.
pub fn hidden(header: &Header) -> String {
    if header.all_hidden {
        return "hidden nodes: all included".to_owned();
    }
    let named = if header.hidden.is_empty() { "none".to_owned() } else { header.hidden.join(" ") };
    format!(
        "hidden nodes (names that begin with _): the source lists them to nobody, so only those named with --hidden are included: {named}; any others are NOT"
    )
}

fn replaced(totals: &Totals) -> Option<String> {
    (totals.replaced > 0).then(|| {
        format!(
            "note: {} nodes hold the character U+FFFD: written by a client, or put by the source in place of bytes that are not UTF-8, which etcd cannot export",
            totals.replaced
        )
    })
}

/// Prints progress lines, at most one per [`PROGRESS_PAUSE`].
pub struct Progress {
    doing: &'static str,
    all: u64,
    begun: Instant,
    last: Instant,
}

impl Progress {
    /// `doing` such as `imported`, out of `all`.
    pub fn new(doing: &'static str, all: u64) -> Self {
        Self { doing, all, begun: Instant::now(), last: Instant::now() }
    }

    /// Prints a progress line if one is due.
    pub fn at(&mut self, done: u64) {
        if self.last.elapsed() >= PROGRESS_PAUSE {
            self.last = Instant::now();
            eprintln!("{} {done} of {} in {} s", self.doing, self.all, self.begun.elapsed().as_secs());
        }
    }

    /// Seconds since the beginning.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

/// Prints conflicts, up to [`MAX_NAMED`], and counts all of them.
#[derive(Default)]
pub struct Conflicts {
    count: u64,
}

impl Conflicts {
    /// Adds one.
    pub fn add(&mut self, what: &str) {
        self.count += 1;
        match self.count {
            count if count <= MAX_NAMED => eprintln!("conflict: {what}"),
            count if count == MAX_NAMED + 1 => eprintln!("conflict: and more, which are only counted"),
            _ => {}
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.count
    }
}
