//! Merging table files when somebody asks for it or needs its space back, never beyond what the disk has room for: a merge
//! writes its new files before it removes the old ones, and one that fails ends the process.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use rocksdb::{CompactOptions, LiveFile, WriteBatch};

use super::database::{Database, walk};
use super::error::StoreError;
use super::keys::{self, meta};
use super::size;
use super::space::{Part, Space};

/// Beside the bytes of rows a merge writes indexes and filters: a tenth, and this much for small files, bytes.
const SLACK: u64 = 256 << 10;

/// What must be free for a merge that writes rows of `bytes`.
pub(super) fn with_slack(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 10).saturating_add(SLACK)
}

/// One table file, as a merge sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    level: i32,
    /// First and last key.
    span: (Vec<u8>, Vec<u8>),
    bytes: u64,
    /// About how many of these are deletions, which a merge into a level that is not the deepest writes again.
    deleted: u64,
}

/// What is merged at once.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    /// First and last key; `None` = the whole family.
    span: Option<(Vec<u8>, Vec<u8>)>,
    /// Files that are read: the new ones are no larger together.
    bytes: u64,
}

/// How to merge a family whose `tables` do not all fit beside their successors: one file of the deepest level after the
/// other, each with what lies above it. Files of level 0 overlap everything, so their merge takes in all of the level that
/// it goes to; where there is nothing deeper, there is only one piece.
fn pieces(tables: &[Table]) -> Vec<Piece> {
    let whole = || Piece { span: None, bytes: tables.iter().map(|table| table.bytes).sum() };
    let mut levels: BTreeMap<i32, u64> = BTreeMap::new();
    for table in tables {
        *levels.entry(table.level).or_default() += table.bytes;
    }
    let Some((&deepest, _)) = levels.last_key_value() else { return Vec::new() };
    if deepest == 0 {
        return vec![whole()];
    }
    let first_step = levels.get(&0).map_or(0, |young| young + levels.range(1..).next().map_or(0, |(_, bytes)| *bytes));
    let mut spans: Vec<_> = tables.iter().filter(|table| table.level == deepest).map(|table| &table.span).collect();
    spans.sort();
    spans
        .into_iter()
        .map(|span| Piece { span: Some(span.clone()), bytes: reached(span, tables).max(first_step) })
        .collect()
}

/// Bytes of the tables that a merge of `span` may take in. Tables are taken in whole, so each brings along those under all
/// of its own span.
fn reached(span: &(Vec<u8>, Vec<u8>), tables: &[Table]) -> u64 {
    let (mut from, mut to) = (&span.0, &span.1);
    loop {
        let overlaps = |table: &&Table| table.span.0 <= *to && table.span.1 >= *from;
        let lower = tables.iter().filter(overlaps).map(|table| &table.span.0).min().unwrap_or(from).min(from);
        let upper = tables.iter().filter(overlaps).map(|table| &table.span.1).max().unwrap_or(to).max(to);
        if (lower, upper) == (from, to) {
            return tables.iter().filter(overlaps).map(|table| table.bytes).sum();
        }
        (from, to) = (lower, upper);
    }
}

impl Database {
    fn files(&self) -> Result<Vec<LiveFile>, StoreError> {
        self.engine().live_files().map_err(StoreError::engine("list the files of the state"))
    }

    fn tables(&self, family: &str) -> Result<Vec<Table>, StoreError> {
        let of_family = self.files()?.into_iter().filter(|file| file.column_family_name == family);
        let table = |file: LiveFile| Table {
            level: file.level,
            span: (file.start_key.unwrap_or_default(), file.end_key.unwrap_or_default()),
            bytes: file.size as u64,
            deleted: file.size as u64 / file.num_entries.max(1) * file.num_deletions,
        };
        Ok(of_family.map(table).collect())
    }

    /// Whether files hold deletions, so that merging them gives space back.
    pub fn has_deletions(&self) -> Result<bool, StoreError> {
        Ok(self.files()?.iter().any(|file| file.num_deletions > 0))
    }

    /// An upper bound on what is left of a family's rows once they are merged, bytes; `u64::MAX` where nothing is counted.
    pub fn bytes_when_merged(&self, family: &str) -> u64 {
        let live = self.marks.live.load(Ordering::Acquire);
        match family {
            // A record begins with its key, which is the key of the row as well.
            keys::LATEST => live.saturating_mul(2),
            // A row holds what the change replaced, counted as superseded, and what it wrote: that is live, or superseded
            // by a later row.
            keys::HISTORY => {
                // First: what is dropped from this account meanwhile is counted among the kept.
                let superseded = self.superseded();
                superseded.saturating_mul(2).saturating_add(live).saturating_add(self.kept_below_compaction())
            }
            _ => u64::MAX,
        }
    }

    /// Bytes of rows that are compacted but may be pointed to, at most two layers of history; `u64::MAX` where they cannot
    /// be read.
    fn kept_below_compaction(&self) -> u64 {
        let end = self.marks.dropped_below.load(Ordering::Acquire);
        let (from, to) = (keys::revision_key(self.floor.load(Ordering::Acquire), 0), keys::revision_key(end, 0));
        let mut bytes = 0;
        let rows = self.rows(keys::HISTORY, &from, Some(&to));
        let walked = walk(rows, &mut |key, row| {
            bytes += (key.len() + row.len()) as u64;
            ControlFlow::Continue(())
        });
        walked.map_or(u64::MAX, |()| bytes)
    }

    /// Merges a family's files now, at low priority; the compaction filter drops what is below the floor. Where `space`
    /// has no room for the new files beside the old, piece by piece, and only what fits. Says whether all was merged.
    pub fn merge(&self, family: &str, space: &Space) -> Result<bool, StoreError> {
        let has_room = |bytes: u64| space.has_room(Part::State, with_slack(bytes));
        if !has_room(self.unflushed()) {
            return Ok(false);
        }
        let tables = self.tables(family)?;
        let sum = |part: fn(&Table) -> u64| tables.iter().map(part).sum::<u64>();
        let left = self.bytes_when_merged(family).saturating_add(sum(|table| table.deleted));
        if has_room(left.min(sum(|table| table.bytes))) {
            self.merge_span(family, None);
            return Ok(true);
        }
        let mut complete = true;
        for Piece { span, bytes } in pieces(&tables) {
            if has_room(bytes) {
                self.merge_span(family, span.as_ref());
            } else {
                complete = false;
            }
        }
        Ok(complete)
    }

    fn merge_span(&self, family: &str, span: Option<&(Vec<u8>, Vec<u8>)>) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        let (from, to) = (span.map(|span| span.0.as_slice()), span.map(|span| span.1.as_slice()));
        self.engine().compact_range_cf_opt(self.family(family), from, to, &options);
    }

    /// Merges `families`; those that `space` has no room for are left as they are, with a warning.
    pub fn merge_all(&self, families: &[&str], space: &Space) -> Result<(), StoreError> {
        for family in families {
            if !self.merge(family, space)? {
                tracing::warn!(family, "not all merged: the disk has no room for the new files beside the old ones");
            }
        }
        Ok(())
    }

    /// Merges what compaction left behind and lets the allocated size fall to what is in use. Blocks; the state serves on.
    /// While space is low, deleted rows are merged away too: RocksDB does not do it then.
    pub fn defragment(&self, space: &Space) -> Result<(), StoreError> {
        if space.has_room(Part::State, self.unflushed()) {
            self.flush()?;
        }
        let families: &[&str] = if space.is_low() { &keys::FAMILIES } else { &[keys::HISTORY, keys::VERSIONS] };
        self.merge_all(families, space)?;
        let allocated = size::pages(self.in_use());
        self.marks.allocated.store(allocated, Ordering::Release);
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(keys::META), meta::ALLOCATED, allocated.to_be_bytes());
        self.write(batch)
    }

    /// Removes whole files of history below `floor`. Rows in files that reach above it go with later compactions.
    pub fn drop_history(&self, floor: i64) -> Result<(), StoreError> {
        let family = self.family(keys::HISTORY);
        self.engine()
            .delete_file_in_range_cf(family, keys::revision_key(0, 0), keys::revision_key(floor - 1, u32::MAX))
            .map_err(StoreError::engine("drop files of old history"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(level: i32, from: &str, to: &str, bytes: u64) -> Table {
        Table { level, span: (from.into(), to.into()), bytes, deleted: 0 }
    }

    fn piece(from: &str, to: &str, bytes: u64) -> Piece {
        Piece { span: Some((from.into(), to.into())), bytes }
    }

    #[test]
    fn young_files_are_merged_at_once() {
        assert_eq!(pieces(&[]), []);
        let young = [table(0, "a", "z", 10), table(0, "b", "c", 5)];
        assert_eq!(pieces(&young), [Piece { span: None, bytes: 15 }]);
    }

    #[test]
    fn a_piece_is_a_file_of_the_deepest_level_with_what_lies_above_it() {
        let tables = [table(6, "n", "z", 100), table(6, "a", "m", 100), table(5, "c", "d", 7), table(5, "x", "y", 9)];
        assert_eq!(pieces(&tables), [piece("a", "m", 107), piece("n", "z", 109)]);
    }

    #[test]
    fn a_table_above_brings_along_all_that_lies_under_it() {
        let tables = [table(5, "c", "p", 7), table(6, "a", "m", 100), table(6, "n", "r", 50), table(6, "s", "z", 30)];
        assert_eq!(pieces(&tables), [piece("a", "m", 157), piece("n", "r", 157), piece("s", "z", 30)]);
    }

    #[test]
    fn young_files_need_room_for_all_of_the_level_below_them() {
        let tables = [table(0, "a", "z", 30), table(5, "a", "z", 200), table(6, "a", "b", 40), table(6, "c", "z", 500)];
        assert_eq!(pieces(&tables), [piece("a", "b", 770), piece("c", "z", 770)]);
    }
}
