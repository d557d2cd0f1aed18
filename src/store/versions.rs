//! Reads at a revision, past or current: the tail, the live versions, the undo log and the index of which revisions
//! changed a key.
//!
//! A key's version at revision X is its live version if that is not newer than X. Otherwise it is the image *before* the
//! key's first change above X. History rows never change once written, so none of this needs a RocksDB snapshot: a
//! change that lands meanwhile has a revision above X, and its "before" is still what X saw.
//!
//! Changes sink from the tail's young layer to its old one to the families, so places are looked at in that order: what
//! sinks meanwhile is met later, perhaps twice, never missed. Of what is found, the first change above X counts.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rocksdb::DBRawIterator;

use super::database::Database;
use super::error::StoreError;
use super::keys::{self, Before, Damaged, HistoryRow, Revision};
use super::tail::Known;
use crate::model::record::Record;
use crate::model::view::KeyRange;

/// How many index rows of one key are stepped over before a search is cheaper.
const STEPS_BEFORE_SEEK: usize = 4;

impl Database {
    /// The version of `key` that was live at `at`.
    pub fn version_at(&self, key: &[u8], at: i64) -> Result<Option<Record>, StoreError> {
        let (mut live, mut change) = (None, None);
        match self.tail.get(key, at) {
            Some(Known::Is(version)) => return Ok(version),
            Some(Known::Before(first)) => change = Some(first),
            None => live = self.get(keys::LATEST, key)?,
        }
        if let Some(record) = &live
            && keys::mod_revision(record)? <= at
        {
            return Ok(live.map(Record::from_stored));
        }
        if self.may_be_newer(at)
            && let Some(first) = Changes::of_key(self, key, at).next()?
        {
            change = Some(first);
        }
        match change {
            Some(change) => Ok(self.before(change)?.map(Record::from_stored)),
            None if live.is_none() => Ok(None),
            None => Err(Damaged("version").into()),
        }
    }

    /// Whether what was just read from `latest` may hold changes above `at`; they are in the index then.
    fn may_be_newer(&self, at: i64) -> bool {
        self.marks.spilling.load(Ordering::SeqCst) > at
    }

    /// Every key of `range` that was live at `at`, in key order, with its version of then.
    pub fn scan_at(
        &self,
        range: &KeyRange,
        at: i64,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if range.is_empty() {
            return Ok(());
        }
        let mut pending = self.tail.walk(range, at);
        let mut live = self.latest(range);
        let mut changes = self.may_be_newer(at).then(|| Changes::of_range(self, range, at));
        let mut change = next_of(&mut changes)?;
        loop {
            let indexed = changes.as_ref().filter(|_| change.is_some()).map(|changes| changes.key.as_slice());
            let keys = [live.key(), indexed, pending.key()];
            let Some(key) = keys.into_iter().flatten().min() else {
                return live.status().map_err(StoreError::engine("scan the state"));
            };
            let [is_live, is_indexed, is_pending] = keys.map(|other| other == Some(key));
            let known = if is_pending { pending.next() } else { None };
            let flow = if is_indexed && let (Some(first), Some(changes)) = (change, &changes) {
                // The index holds older changes than the tail.
                visit_some(&changes.key, self.before(first)?.as_deref(), visit)
            } else if let Some((key, known)) = &known {
                match known {
                    Known::Is(version) => visit_some(key, version.as_ref().map(|record| &record.bytes()[..]), visit),
                    Known::Before(first) => visit_some(key, self.before(*first)?.as_deref(), visit),
                }
            } else {
                let (key, record) = live.item().ok_or(Damaged("version"))?;
                if keys::mod_revision(record)? > at {
                    return Err(Damaged("version").into());
                }
                visit(key, record)
            };
            if flow.is_break() {
                return Ok(());
            }
            if is_live {
                live.next();
            }
            if is_indexed {
                change = next_of(&mut changes)?;
            }
        }
    }

    /// What the key of the change at `revision` was before it.
    fn before(&self, (main, sub): Revision) -> Result<Option<Bytes>, StoreError> {
        let row = self.get(keys::HISTORY, &keys::revision_key(main, sub))?.ok_or(Damaged("history"))?;
        self.image_before(&HistoryRow::decode(&row)?)
    }

    /// The version before a change, from its row or from the one that the row points to.
    pub fn image_before(&self, row: &HistoryRow<'_>) -> Result<Option<Bytes>, StoreError> {
        let main = match row.before {
            None => return Ok(None),
            Some(Before::Here(image)) => return Ok(Some(Bytes::copy_from_slice(image))),
            Some(Before::At(main, _)) => main,
        };
        // Nearly always the first row: a revision has a row per operation of a transaction, numbered without gaps.
        for sub in 0.. {
            let stored = self.get(keys::HISTORY, &keys::revision_key(main, sub))?.ok_or(Damaged("history"))?;
            if let HistoryRow { key, after: Some(after), .. } = HistoryRow::decode(&stored)?
                && key == row.key
            {
                return Ok(Some(stored.slice_ref(after)));
            }
        }
        Err(Damaged("history").into())
    }
}

fn visit_some(
    key: &[u8],
    record: Option<&[u8]>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> ControlFlow<()> {
    record.map_or(ControlFlow::Continue(()), |record| visit(key, record))
}

fn next_of(changes: &mut Option<Changes<'_>>) -> Result<Option<Revision>, StoreError> {
    changes.as_mut().map_or(Ok(None), Changes::next)
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
    fn next(&mut self) -> Result<Option<Revision>, StoreError> {
        if self.started {
            self.leave_key()?;
        }
        while let Some((key, earlier)) = self.rows.item() {
            // A row that ends above the mark, and is the first to, names the change: rows have no holes between them.
            let last = keys::parse_revision(key)?;
            keys::parse_version_key(key, &mut self.key)?;
            if last.0 > self.above {
                self.started = true;
                return Ok(Some(keys::first_version_above(earlier, last, self.above)?));
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
