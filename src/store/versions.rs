//! Reads in the past: the undo log and the index of which revisions changed a key.
//!
//! A key's version at revision X is its live version if that is not newer than X. Otherwise it is the image *before* the
//! key's first change above X. History rows never change once written, so none of this needs a RocksDB snapshot: a
//! change that lands meanwhile has a revision above X, and its "before" is still what X saw.
//!
//! The index is a column family like the others. Its write buffer is the part in memory, bounded with the others', and
//! flushes are the spill to disk: both off the apply path (`docs/decisions/` says why not a table of our own).

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bytes::Bytes;
use rocksdb::DBRawIterator;

use super::database::Database;
use super::error::StoreError;
use super::keys::{self, Before, Damaged, HistoryRow};
use crate::model::view::KeyRange;

/// How many index rows of one key are stepped over before a search is cheaper.
const STEPS_BEFORE_SEEK: usize = 4;

impl Database {
    /// The version of `key` that was live at `at`.
    pub fn version_at(&self, key: &[u8], at: i64) -> Result<Option<Bytes>, StoreError> {
        // The live version must be read first: a change after this read is found by the index below.
        let live = self.get(keys::LATEST, key)?;
        if let Some(record) = &live
            && keys::mod_revision(record)? <= at
        {
            return Ok(live);
        }
        match Changes::of_key(self, key, at).next()? {
            Some(change) => self.before(change),
            None if live.is_none() => Ok(None),
            None => Err(Damaged("version").into()),
        }
    }

    /// Every key of `range` that was live at `at`, in key order, with its version of then.
    pub fn scan_at(
        &self,
        range: &KeyRange,
        at: i64,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        // As above: the live versions are looked at first, the index is at least as new.
        let mut live = self.live(range);
        let mut changes = Changes::of_range(self, range, at);
        let mut change = changes.next()?;
        loop {
            let order = match (live.key(), &change) {
                (None, None) => return live.status().map_err(StoreError::engine("scan the state")),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(key), Some(_)) => key.cmp(&changes.key),
            };
            if order == Ordering::Less {
                let (key, record) = live.item().ok_or(Damaged("version"))?;
                if keys::mod_revision(record)? > at {
                    return Err(Damaged("version").into());
                }
                if visit(key, record).is_break() {
                    return Ok(());
                }
            } else if let Some(revision) = change {
                if let Some(record) = self.before(revision)?
                    && visit(&changes.key, &record).is_break()
                {
                    return Ok(());
                }
                change = changes.next()?;
            }
            if order != Ordering::Greater {
                live.next();
            }
        }
    }

    /// What the key of the change at `revision` was before it.
    fn before(&self, (main, sub): (i64, u32)) -> Result<Option<Bytes>, StoreError> {
        let row = self.get(keys::HISTORY, &keys::revision_key(main, sub))?.ok_or(Damaged("history"))?;
        self.image_before(&HistoryRow::decode(&row)?)
    }

    /// The version before the change that `row` tells of, from there or from where the row points to.
    pub fn image_before(&self, row: &HistoryRow<'_>) -> Result<Option<Bytes>, StoreError> {
        let (main, len) = match row.before {
            None => return Ok(None),
            Some(Before::Here(image)) => return Ok(Some(Bytes::copy_from_slice(image))),
            Some(Before::At { main, len }) => (main, len as usize),
        };
        // Most revisions change one key. Where there are more, the index knows which row is this key's.
        if let Some(image) = self.image_after((main, 0), row.key, len)? {
            return Ok(Some(image));
        }
        let (mut from, mut to) = (Vec::new(), Vec::new());
        keys::version_key(row.key, main, 0, &mut from);
        keys::version_key(row.key, main + 1, 0, &mut to);
        let mut rows = self.rows(keys::VERSIONS, &from, Some(&to));
        while let Some(version) = rows.key() {
            if let Some(image) = self.image_after(keys::parse_revision(version)?, row.key, len)? {
                return Ok(Some(image));
            }
            rows.next();
        }
        rows.status().map_err(StoreError::engine("scan the version index"))?;
        Err(Damaged("history").into())
    }

    /// The version after the change at `revision`, if that put `key` and is `len` bytes long.
    fn image_after(&self, (main, sub): (i64, u32), key: &[u8], len: usize) -> Result<Option<Bytes>, StoreError> {
        let Some(stored) = self.get(keys::HISTORY, &keys::revision_key(main, sub))? else { return Ok(None) };
        let row = HistoryRow::decode(&stored)?;
        Ok(row.after.filter(|after| row.key == key && after.len() == len).map(|after| stored.slice_ref(after)))
    }
}

/// Walks the index: for each key, in order, its first change above a revision.
struct Changes<'a> {
    rows: DBRawIterator<'a>,
    above: i64,
    /// The key of the change that [`next`](Self::next) returned.
    key: Vec<u8>,
    /// Scratch for positions to search.
    position: Vec<u8>,
    /// Whether `key` is set: the walk has to get past its remaining rows.
    started: bool,
}

impl<'a> Changes<'a> {
    fn of_key(database: &'a Database, key: &[u8], above: i64) -> Self {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        keys::version_key(key, above + 1, 0, &mut from);
        keys::version_key(key, i64::MAX, u32::MAX, &mut to);
        Self::walk(database, &from, Some(&to), above)
    }

    fn of_range(database: &'a Database, range: &KeyRange, above: i64) -> Self {
        match range {
            KeyRange::One(key) => Self::of_key(database, key, above),
            KeyRange::Span { start, end } => {
                let mut from = Vec::new();
                keys::put_escaped(start, &mut from);
                let to = end.as_ref().map(|end| {
                    let mut to = Vec::new();
                    keys::put_escaped(end, &mut to);
                    to
                });
                Self::walk(database, &from, to.as_deref(), above)
            }
        }
    }

    fn walk(database: &'a Database, from: &[u8], to: Option<&[u8]>, above: i64) -> Self {
        let rows = database.rows(keys::VERSIONS, from, to);
        Self { rows, above, key: Vec::new(), position: Vec::new(), started: false }
    }

    /// The revision of the next key's first change above the mark; the key itself is in `self.key`.
    fn next(&mut self) -> Result<Option<(i64, u32)>, StoreError> {
        if self.started {
            self.leave_key()?;
        }
        while let Some(row) = self.rows.key() {
            let (main, sub) = keys::parse_revision(row)?;
            keys::parse_version_key(row, &mut self.key)?;
            if main > self.above {
                self.started = true;
                return Ok(Some((main, sub)));
            }
            keys::version_key(&self.key, self.above + 1, 0, &mut self.position);
            self.forward()?;
        }
        self.rows.status().map_err(StoreError::engine("scan the version index"))?;
        Ok(None)
    }

    fn leave_key(&mut self) -> Result<(), StoreError> {
        keys::version_key(&self.key, i64::MAX, u32::MAX, &mut self.position);
        self.forward()
    }

    /// Moves to the first row at or after `position`: a few steps, then a search.
    fn forward(&mut self) -> Result<(), StoreError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            match self.rows.key() {
                Some(row) if row < self.position.as_slice() => self.rows.next(),
                _ => return Ok(()),
            }
        }
        self.rows.seek(&self.position);
        Ok(())
    }
}
