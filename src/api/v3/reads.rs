//! Where a read runs: small ones at once on the serving thread, large ones on the blocking pool.
//!
//! Nobody knows how large a range is before it is read, so each read starts inline under a budget. One that outgrows
//! it is begun again on the pool; the work thrown away is bounded by the budget. This keeps point reads free of thread
//! hops and keeps scans from holding up watches and heartbeats.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::api::access::{Guarded, Reading};
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::state::State;
use crate::model::auth::Auth;
use crate::model::kv::{self, RangeError};
use crate::model::record::Record;
use crate::model::txn;
use crate::model::view::{Alarm, KeyRange, Lease, View, ViewError, Visit};
use crate::proto::etcdserverpb as pb;

/// Keys an inline read may visit.
const INLINE_KEYS: usize = 64;
/// Bytes of records an inline read may visit.
const INLINE_BYTES: usize = 64 * 1024;

/// A request that only reads.
pub trait Read: Guarded + Send + 'static {
    /// What it answers; its header carries only the revision that was read at.
    type Answer: Send + 'static;
    /// Answers from one state.
    fn read(&self, view: &impl View) -> Result<Self::Answer, RangeError>;
    /// How many ranges the answer holds.
    fn ranges(answer: &Self::Answer) -> usize;
}

impl Read for pb::RangeRequest {
    type Answer = pb::RangeResponse;
    fn read(&self, view: &impl View) -> Result<Self::Answer, RangeError> {
        kv::range(view, self)
    }
    fn ranges(_answer: &Self::Answer) -> usize {
        1
    }
}

impl Read for pb::TxnRequest {
    type Answer = pb::TxnResponse;
    fn read(&self, view: &impl View) -> Result<Self::Answer, RangeError> {
        txn::read_only(view, self)
    }
    fn ranges(answer: &Self::Answer) -> usize {
        answer.responses.len()
    }
}

/// Reads the state as it is now, on the thread that suits the size, if the asker may.
///
/// # Errors
/// That the asker may not, or that this changed meanwhile; the read's refusal; a timeout waiting for the pool.
pub async fn read<R: Read>(state: &State, call: &Call, request: R) -> Result<R::Answer, ApiError> {
    let guard = Reading::guard(state, call).await?;
    if let Some(reading) = &guard {
        request.permitted(&reading.auth, &state.store.view(), &reading.by)?;
    }
    let answer = read_where_it_fits(state, call, request).await;
    if let Some(reading) = &guard {
        reading.end(state)?;
    }
    let answer = answer?;
    state.metrics.ranges.fetch_add(R::ranges(&answer) as u64, Relaxed);
    Ok(answer)
}

async fn read_where_it_fits<R: Read>(state: &State, call: &Call, request: R) -> Result<R::Answer, ApiError> {
    if let Some(answer) = read_inline(state.store.view(), &request) {
        return Ok(answer?);
    }
    let permit = tokio::time::timeout_at(call.deadline(), Arc::clone(&state.big_reads).acquire_owned())
        .await
        .map_err(|_elapsed| call.timed_out())?
        .map_err(|_closed| ApiError::Stopped)?;
    let view = state.store.view();
    let scan = tokio::task::spawn_blocking(move || {
        let answer = request.read(&view);
        drop(permit);
        answer
    });
    Ok(scan.await.map_err(|_stopped| ApiError::Stopped)??)
}

/// Answers within the budget, or says `None`: too large.
fn read_inline<R: Read>(view: impl View, request: &R) -> Option<Result<R::Answer, RangeError>> {
    let budget =
        Budget { inner: view, keys: Cell::new(INLINE_KEYS), bytes: Cell::new(INLINE_BYTES), spent: Cell::new(false) };
    let answer = request.read(&budget);
    (!budget.spent.get()).then_some(answer)
}

/// The revision a response was read at.
pub fn revision_of(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// A view that fails once its reader has seen enough.
struct Budget<V> {
    inner: V,
    keys: Cell<usize>,
    bytes: Cell<usize>,
    spent: Cell<bool>,
}

impl<V: View> Budget<V> {
    fn take(&self, record: &Record) -> bool {
        match (self.keys.get().checked_sub(1), self.bytes.get().checked_sub(record.bytes().len())) {
            (Some(keys), Some(bytes)) => {
                self.keys.set(keys);
                self.bytes.set(bytes);
                true
            }
            _ => {
                self.spent.set(true);
                false
            }
        }
    }

    /// Wraps a visitor so that it stops when the budget is spent.
    fn bounded<'a>(&'a self, visit: &'a mut Visit<'_>) -> impl FnMut(Record) -> ControlFlow<()> + 'a {
        move |record| if self.take(&record) { visit(record) } else { ControlFlow::Break(()) }
    }

    fn verdict(&self) -> Result<(), ViewError> {
        if self.spent.get() {
            return Err(ViewError { what: "a small range", cause: "it is larger than the inline budget".into() });
        }
        Ok(())
    }
}

impl<V: View> View for Budget<V> {
    fn revision(&self) -> i64 {
        self.inner.revision()
    }

    fn compacted(&self) -> i64 {
        self.inner.compacted()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Record>, ViewError> {
        self.inner.get(key)
    }

    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, ViewError> {
        self.inner.get_at(key, revision)
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

    fn v2_get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.inner.v2_get(key)
    }

    fn v2_scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        self.inner.v2_scan(prefix, visit)
    }
}
