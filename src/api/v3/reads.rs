//! Where a read runs: small ones at once on the serving thread, large ones on the blocking pool.
//!
//! Nobody knows how large a range is before it is read, so each read starts inline under a limit. One that outgrows
//! it is begun again on the pool; the work thrown away is bounded by the limit. This keeps point reads free of thread
//! hops and keeps scans from holding up watches and heartbeats. On the pool a read takes from the budget of answers as it
//! grows (`crate::work`); one for which there is no room is begun again once more, when it may go beyond.

use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;

use prost::Message;

use crate::api::access::{Guarded, Reading};
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::limited::{Granted, Limit, Limited};
use crate::api::paid::Paid;
use crate::api::state::State;
use crate::model::kv::{self, RangeError};
use crate::model::txn;
use crate::model::view::View;
use crate::proto::etcdserverpb as pb;
use crate::work::{FREE_ANSWER_BYTES, Grant};

/// Keys an inline read may visit.
const INLINE_KEYS: usize = 64;
/// Bytes of records an inline read may visit.
const INLINE_BYTES: usize = 64 * 1024;

/// A request that only reads.
pub trait Read: Guarded + Send + 'static {
    /// What it answers; its header carries only the revision that was read at.
    type Answer: Message + Send + 'static;
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
/// That the asker may not, or that this changed meanwhile; the read's refusal; a timeout waiting for a thread or for room.
pub async fn read<R: Read>(state: &State, call: &Call, request: R) -> Result<Paid<R::Answer>, ApiError> {
    let guard = Reading::guard(state, call).await?;
    if let Some(reading) = &guard {
        request.permitted(&reading.auth, &state.store.view(), &reading.by)?;
    }
    let answer = read_where_it_fits(state, call, request).await;
    if let Some(reading) = &guard {
        reading.end(state)?;
    }
    let paid = answer?;
    state.metrics.ranges.fetch_add(R::ranges(&paid.answer) as u64, Relaxed);
    Ok(paid)
}

async fn read_where_it_fits<R: Read>(state: &State, call: &Call, request: R) -> Result<Paid<R::Answer>, ApiError> {
    if let Some(answer) = read_inline(state.store.view(), &request) {
        let answer = answer?;
        let bytes = answer.encoded_len();
        if bytes <= FREE_ANSWER_BYTES {
            return Ok(Paid { answer, grant: None });
        }
        if let Some(grant) = state.work.answers.take(bytes) {
            return Ok(Paid { answer, grant: Some(grant) });
        }
    }
    let none = state.work.answers.owed(0);
    let request = match read_aside(state, call, request, none).await? {
        Aside::Done(paid) => return Ok(paid),
        Aside::Outgrown(request) => request,
    };
    // What was gathered is gone. Now it waits to be the one that may take more than there is.
    let beyond = state.work.answers.beyond(call.source(), Some(call.deadline())).await;
    match read_aside(state, call, request, beyond.map_err(|undone| call.undone(undone))?).await? {
        Aside::Done(paid) => Ok(paid),
        Aside::Outgrown(_) => Err(ApiError::TooManyRequests),
    }
}

enum Aside<R: Read> {
    Done(Paid<R::Answer>),
    /// The budget has no room for it; the request again.
    Outgrown(R),
}

/// Reads on a thread of the pool; `grant` grows with what is gathered, and is then for what the answer takes.
async fn read_aside<R: Read>(state: &State, call: &Call, request: R, grant: Grant) -> Result<Aside<R>, ApiError> {
    let turn = call.turn(&state.work.reads).await?;
    let view = state.store.view();
    let scan = turn.run(move |gone| {
        let limited = Limited::new(view, Granted::new(grant, gone.clone()));
        let answer = request.read(&limited);
        (answer, limited.is_spent(), limited.limit.into_grant(), request, gone.is_gone())
    });
    let ((answer, spent, mut grant, request, gone), _turn) = scan.await.map_err(|undone| call.undone(undone))?;
    match (spent, gone) {
        (true, false) => Ok(Aside::Outgrown(request)),
        (true, true) => Err(ApiError::Stopped),
        (false, _) => {
            let answer = answer?;
            let bytes = answer.encoded_len();
            grant.resize(bytes);
            Ok(Aside::Done(Paid { answer, grant: (bytes > FREE_ANSWER_BYTES).then_some(grant) }))
        }
    }
}

/// Answers within the limit, or says `None`: too large.
fn read_inline<R: Read>(view: impl View, request: &R) -> Option<Result<R::Answer, RangeError>> {
    let limited = Limited::new(view, Inline { keys: Cell::new(INLINE_KEYS), bytes: Cell::new(INLINE_BYTES) });
    let answer = request.read(&limited);
    (!limited.is_spent()).then_some(answer)
}

/// The revision a response was read at.
pub fn revision_of(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// So much as does not hold up the serving thread.
struct Inline {
    keys: Cell<usize>,
    bytes: Cell<usize>,
}

impl Limit for Inline {
    const IS_TIME: bool = true;

    fn take(&self, bytes: usize) -> bool {
        match (self.keys.get().checked_sub(1), self.bytes.get().checked_sub(bytes)) {
            (Some(keys), Some(bytes)) => {
                self.keys.set(keys);
                self.bytes.set(bytes);
                true
            }
            _ => false,
        }
    }
}
