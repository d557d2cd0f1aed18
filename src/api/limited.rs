//! A state of which a reader may see only so much: so much time of the serving thread, or so much memory for the answer.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::auth::Auth;
use crate::model::record::Record;
use crate::model::view::{Alarm, KeyRange, Lease, View, ViewError, Visit};
use crate::work::{ANSWER_STEP_BYTES, Gone, Grant, RECORD_OVERHEAD_BYTES};

/// How much a reader may see.
pub(super) trait Limit {
    /// Whether it is time that counts, on the serving thread, and not memory: a point read costs little of it, and a count,
    /// which keeps nothing, as much as a scan.
    const IS_TIME: bool;
    /// Whether it may see a record of `bytes` as well.
    fn take(&self, bytes: usize) -> bool;
}

/// So much as there is memory for, while somebody waits for it.
pub(super) struct Granted {
    grant: RefCell<Grant>,
    /// Bytes of the grant that nothing was gathered for yet.
    spare: Cell<usize>,
    gone: Gone,
    /// What a byte of a record becomes while it is gathered.
    factor: usize,
}

impl Granted {
    /// `grant` grows while somebody waits for the answer.
    pub(super) fn new(grant: Grant, gone: Gone) -> Self {
        Self { grant: RefCell::new(grant), spare: Cell::new(0), gone, factor: 1 }
    }

    /// The same for answers that are printed: nodes and text take `factor` times what is stored.
    pub(super) fn printed(self, factor: usize) -> Self {
        Self { factor, ..self }
    }

    /// What it grew to.
    pub(super) fn into_grant(self) -> Grant {
        self.grant.into_inner()
    }
}

impl Limit for Granted {
    const IS_TIME: bool = false;

    fn take(&self, bytes: usize) -> bool {
        let cost = bytes * self.factor + RECORD_OVERHEAD_BYTES;
        if self.spare.get() < cost {
            let step = cost.max(ANSWER_STEP_BYTES);
            if self.gone.is_gone() || !self.grant.borrow_mut().grow(step) {
                return false;
            }
            self.spare.set(self.spare.get() + step);
        }
        self.spare.set(self.spare.get() - cost);
        true
    }
}

/// A view that fails once its reader has seen enough.
pub(super) struct Limited<V, L> {
    inner: V,
    pub(super) limit: L,
    spent: Cell<bool>,
}

impl<V: View, L: Limit> Limited<V, L> {
    pub(super) fn new(inner: V, limit: L) -> Self {
        Self { inner, limit, spent: Cell::new(false) }
    }

    /// Whether its reader wanted more than it may see.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.get()
    }

    /// Wraps a visitor so that it stops when the limit is reached.
    fn bounded<'a>(&'a self, visit: &'a mut Visit<'_>) -> impl FnMut(Record) -> ControlFlow<()> + 'a {
        move |record| {
            if self.limit.take(record.bytes().len()) {
                return visit(record);
            }
            self.spent.set(true);
            ControlFlow::Break(())
        }
    }

    fn one(&self, found: Option<Record>) -> Result<Option<Record>, ViewError> {
        if let Some(record) = &found
            && !L::IS_TIME
            && !self.limit.take(record.bytes().len())
        {
            self.spent.set(true);
        }
        self.verdict().map(|()| found)
    }

    fn verdict(&self) -> Result<(), ViewError> {
        if self.spent.get() {
            return Err(ViewError { what: "a range", cause: "it is larger than its reader's limit".into() });
        }
        Ok(())
    }
}

impl<V: View, L: Limit> View for Limited<V, L> {
    fn revision(&self) -> i64 {
        self.inner.revision()
    }

    fn compacted(&self) -> i64 {
        self.inner.compacted()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Record>, ViewError> {
        self.one(self.inner.get(key)?)
    }

    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, ViewError> {
        self.one(self.inner.get_at(key, revision)?)
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.inner.scan(range, &mut self.bounded(visit))?;
        self.verdict()
    }

    fn scan_at(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.inner.scan_at(range, revision, &mut self.bounded(visit))?;
        self.verdict()
    }

    fn count(&self, range: &KeyRange) -> Result<i64, ViewError> {
        if !L::IS_TIME {
            return self.inner.count(range);
        }
        let mut count = 0;
        self.scan(range, &mut |_record| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    fn lease(&self, id: i64) -> Result<Option<Lease>, ViewError> {
        self.inner.lease(id)
    }

    fn lease_keys(&self, id: i64) -> Result<Vec<Bytes>, ViewError> {
        self.inner.lease_keys(id)
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.inner.alarms()
    }

    fn cluster_version(&self) -> String {
        self.inner.cluster_version()
    }

    fn auth(&self) -> Arc<Auth> {
        self.inner.auth()
    }

    fn v2_latest(&self, key: &[u8]) -> Result<Option<(u64, Bytes)>, ViewError> {
        self.inner.v2_latest(key)
    }

    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.inner.v2_get(key)
    }

    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        self.inner.v2_scan(prefix, &mut |key, row| {
            if self.limit.take(key.len() + row.len()) {
                return visit(key, row);
            }
            self.spent.set(true);
            ControlFlow::Break(())
        })?;
        self.verdict()
    }
}
