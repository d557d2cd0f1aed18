//! What a member keeps, and how much of each it may keep: one row per thing, in bytes. The numbers are the constants and
//! settings that the code enforces them by; `docs/operating.md` shows the table for a disk of 10 GiB.

use crate::api::v2;
use crate::logging::MAX_QUEUED_BYTES;
use crate::model::v2 as tree;
use crate::raft::{MAX_IN_FLIGHT_KIB, network};
use crate::settings::Settings;
use crate::store::log::LogOptions;
use crate::store::{self, LogBounds, StoreOptions};
use crate::watch;

/// Where something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// On the file system of the log.
    Log,
    /// On the file system of the state.
    State,
    /// In memory.
    Memory,
}

/// One thing that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// What it is.
    pub what: &'static str,
    /// Where.
    pub kept: Kept,
    /// How much of it at most; `None` where the operator switched the limit off.
    pub bytes: Option<u64>,
    /// What enforces it.
    pub by: &'static str,
}

const fn bound(what: &'static str, kept: Kept, bytes: u64, by: &'static str) -> Bound {
    Bound { what, kept, bytes: Some(bytes), by }
}

/// Bytes of RocksDB's own log, which is kept in two files.
const ENGINE_LOG: u64 = 2 * (4 << 20);
/// Bytes of an id.
const ID: u64 = 8;

/// Everything that a member with these settings keeps, on file systems of `log_total` and `state_total` bytes.
pub fn table(settings: &Settings, log_total: u64, state_total: u64) -> Vec<Bound> {
    let mut table = on_disk(settings, log_total, state_total);
    table.extend(in_memory(settings, log_total));
    table
}

fn on_disk(settings: &Settings, log_total: u64, state_total: u64) -> Vec<Bound> {
    let log = LogBounds::of(log_total);
    let (quota, buffers) = (settings.limits.quota.limit(), settings.memory.write_buffer_bytes);
    let compacted = 2 * StoreOptions::default().history_layer;
    let window = (tree::WINDOW - 1) * tree::LARGE_EVENT_BYTES as u64 + tree::LARGE_EVENTS_BYTES;
    vec![
        bound("raft log", Kept::Log, log.segments, "snapshots and purges; commands wait above it"),
        bound("raft log, spare files", Kept::Log, log.spares, "the thread that prepares them; one while space is low"),
        Bound { what: "keys and their history", kept: Kept::State, bytes: quota, by: "--quota-backend-bytes" },
        bound("compacted history", Kept::State, compacted, "two layers of history"),
        Bound { what: "tables of the last snapshot", kept: Kept::State, bytes: quota, by: "there is one snapshot" },
        Bound {
            what: "an older snapshot on its way to a slow follower",
            kept: Kept::State,
            bytes: quota,
            by: "the oldest goes on, others end; all of them while space is low",
        },
        Bound {
            what: "a snapshot on its way in",
            kept: Kept::State,
            bytes: quota,
            by: "there is one place; nothing is taken while space is low",
        },
        bound("v2 events", Kept::State, window, "1000 events, and the bytes of large ones"),
        bound("ids that left", Kept::State, ID * store::MAX_REMOVED as u64, "others are forgotten"),
        bound("reserve", Kept::State, store::reserve_bytes(state_total, buffers), "a file of this length"),
        bound("the engine's log", Kept::State, ENGINE_LOG, "two files"),
    ]
}

fn in_memory(settings: &Settings, log_total: u64) -> Vec<Bound> {
    let (log, memory) = (LogOptions::default(), &settings.memory);
    let append = network::APPEND_QUEUE as u64 * log.read_bytes as u64;
    let (in_flight, queue) = (MAX_IN_FLIGHT_KIB as u64 * 1024, LogBounds::of(log_total).queue);
    vec![
        bound("write buffers", Kept::Memory, memory.write_buffer_bytes, "--write-buffer-bytes"),
        bound("block cache", Kept::Memory, memory.block_cache_bytes, "--block-cache-bytes"),
        bound("newest raft entries", Kept::Memory, log.ring_bytes as u64, "the log's ring"),
        bound("raft entries not on disk yet", Kept::Memory, queue, "appends wait"),
        bound("commands in flight", Kept::Memory, in_flight, "refused as too many requests"),
        bound(
            "entries on their way to a follower",
            Kept::Memory,
            network::MAX_UNSENT as u64,
            "the log is read no further",
        ),
        bound("entries that came from the leader", Kept::Memory, append, "the connection is read no further"),
        bound("keys that changed lately", Kept::Memory, store::RECENT_BYTES as u64, "two generations"),
        bound("v2 rows met lately", Kept::Memory, store::RECENT_BYTES as u64, "two generations"),
        bound("events for watchers", Kept::Memory, watch::RING_BYTES as u64, "older ones are read from history"),
        bound("v2 events as JSON", Kept::Memory, v2::LINE_BYTES as u64, "older ones are written anew"),
        bound("log lines", Kept::Memory, MAX_QUEUED_BYTES as u64, "further ones are dropped and counted"),
    ]
}

/// The table as one text, for the log.
pub fn text(table: &[Bound]) -> String {
    let row = |bound: &Bound| match bound.bytes {
        Some(bytes) => format!("{} {bytes}", bound.what),
        None => format!("{} without limit", bound.what),
    };
    table.iter().map(row).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANUAL: &str = include_str!("../../docs/operating.md");

    fn defaults() -> Settings {
        Settings::default()
    }

    fn shown(bytes: Option<u64>) -> String {
        match bytes {
            Some(bytes) if bytes >= 1 << 30 => format!("{} GiB", bytes >> 30),
            Some(bytes) if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
            Some(bytes) => format!("{} KiB", bytes >> 10),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn the_manual_shows_every_row_of_the_table() {
        for bound in table(&defaults(), 10 << 30, 10 << 30) {
            let row = format!("| {} | {} |", bound.what, shown(bound.bytes));
            assert!(MANUAL.contains(&row), "docs/operating.md lacks {row:?}");
        }
    }

    #[test]
    fn log_and_reserve_leave_most_of_any_disk_to_the_state() {
        for mebibytes in [64, 128, 512, 1024, 4096, 1 << 20] {
            let total = mebibytes << 20;
            let table = table(&defaults(), total, total);
            let fixed = table.iter().filter(|bound| bound.what.starts_with("raft log") || bound.what == "reserve");
            let bytes: u64 = fixed.filter_map(|bound| bound.bytes).sum();
            assert!(bytes <= total / 2, "{bytes} of {mebibytes} MiB");
        }
    }

    #[test]
    fn what_waits_for_a_small_disk_is_a_quarter_of_what_the_log_may_take_there() {
        for (mebibytes, queue) in [(64, 4), (512, 16), (1024, 32), (4096, 64), (1 << 20, 64)] {
            let table = table(&defaults(), mebibytes << 20, 10 << 30);
            let found = table.iter().find(|bound| bound.what == "raft entries not on disk yet");
            assert_eq!(found.and_then(|bound| bound.bytes), Some(queue << 20), "{mebibytes} MiB");
        }
    }

    #[test]
    fn a_limit_that_was_switched_off_is_said_to_be() {
        let none = Bound { what: "keys", kept: Kept::State, bytes: None, by: "--quota-backend-bytes" };
        assert_eq!(text(&[none, bound("log", Kept::Log, 5, "x")]), "keys without limit, log 5");
    }
}
