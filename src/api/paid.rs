//! Answers that count in the budget of bytes: handed to their connection in pieces, and taken back from a reader who stalls.
//!
//! A connection asks for a piece when it can send one. A reader that takes nothing for [`STALLED`](crate::work::STALLED)
//! keeps memory that others wait for, and so does one that takes less than [`SLOWEST_READER`](crate::work::SLOWEST_READER):
//! its answer is dropped, and the connection hears of it when it asks again.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::body::BodyError;
use crate::work::{ANSWER_PIECE_BYTES, Grant, SLOWEST_READER};

/// An answer and the grant that pays for it.
#[derive(Debug)]
pub struct Paid<T> {
    /// The answer.
    pub answer: T,
    /// `None` for a small one.
    pub grant: Option<Grant>,
}

impl<T> Paid<T> {
    /// The answer in its gRPC response, with the grant on the way to the body.
    pub fn reply(self) -> tonic::Response<T> {
        let mut reply = tonic::Response::new(self.answer);
        if let Some(grant) = self.grant {
            reply.extensions_mut().insert(Carried(Arc::new(Mutex::new(Some(grant)))));
        }
        reply
    }
}

/// A grant as an extension of a response: those can be cloned, a grant cannot.
#[derive(Clone)]
pub(super) struct Carried(Arc<Mutex<Option<Grant>>>);

impl Carried {
    pub(super) fn take(&self) -> Option<Grant> {
        self.0.lock().take()
    }
}

/// A body whose bytes are paid for until they are handed over.
pub(super) struct PaidBody<B> {
    held: Arc<Mutex<Held<B>>>,
    /// The task that takes it back. It ends with the body, or many short answers would leave many sleepers.
    watch: AbortHandle,
}

impl<B> Drop for PaidBody<B> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

struct Held<B> {
    /// What is still to come: a message that is not encoded yet, trailers.
    inner: Option<B>,
    data: Bytes,
    grant: Option<Grant>,
    taken: Instant,
    /// When the slowest reader has it all.
    due: Instant,
    expired: bool,
}

impl<B: Send + 'static> PaidBody<B> {
    /// What `inner` gives, paid for by `grant`, and dropped after `patience` without a reader, or with one that is too slow.
    pub(super) fn new(inner: Option<B>, data: Bytes, grant: Grant, patience: Duration) -> Self {
        let now = Instant::now();
        let due = now + patience + Duration::from_secs_f64(grant.bytes() as f64 / SLOWEST_READER as f64);
        let held = Held { inner, data, grant: Some(grant), taken: now, due, expired: false };
        let held = Arc::new(Mutex::new(held));
        let watch = tokio::spawn(expire(Arc::downgrade(&held), patience)).abort_handle();
        Self { held, watch }
    }

    /// The grant, for an answer that is made of this one.
    pub(super) fn take_grant(&self) -> Option<Grant> {
        self.held.lock().grant.take()
    }
}

async fn expire<B>(held: Weak<Mutex<Held<B>>>, patience: Duration) {
    let mut at = Instant::now() + patience;
    loop {
        sleep_until(at).await;
        let Some(held) = held.upgrade() else { return };
        let mut held = held.lock();
        if held.grant.is_none() {
            return;
        }
        at = held.due.min(held.taken + patience);
        if at <= Instant::now() {
            let bytes = held.grant.take().map_or(0, |grant| grant.bytes());
            tracing::warn!(bytes, ?patience, "dropped an answer whose reader takes nothing of it, or too little");
            held.data = Bytes::new();
            held.inner = None;
            held.expired = true;
            return;
        }
    }
}

impl<B> Body for PaidBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let held = &mut *self.held.lock();
        held.taken = Instant::now();
        loop {
            if held.expired {
                return Poll::Ready(Some(Err("the answer was not read in time".into())));
            }
            if !held.data.is_empty() {
                // A copy: a slice would keep the whole in memory for as long as its connection has it.
                let piece = held.data.split_to(ANSWER_PIECE_BYTES.min(held.data.len()));
                let piece = Bytes::copy_from_slice(&piece);
                if held.data.is_empty() {
                    held.data = Bytes::new();
                }
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(inner) = &mut held.inner else {
                held.grant = None;
                return Poll::Ready(None);
            };
            let Poll::Ready(frame) = Pin::new(inner).poll_frame(cx) else { return Poll::Pending };
            match frame {
                None => held.inner = None,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => held.data = data,
                    Err(other) => {
                        held.grant = None;
                        return Poll::Ready(Some(Ok(other)));
                    }
                },
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.lock();
        match &held.inner {
            None if !held.expired => SizeHint::with_exact(held.data.len() as u64),
            _ => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        let held = self.held.lock();
        !held.expired && held.data.is_empty() && held.inner.as_ref().is_none_or(Body::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::work::Budget;

    #[tokio::test]
    async fn an_answer_comes_whole_in_pieces_and_is_paid_for_until_then() {
        let budget = Budget::new(1 << 20);
        let bytes: Bytes = (0..200_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
        let grant = budget.take(bytes.len()).expect("room");
        let mut body = PaidBody::new(Some(Full::new(bytes.clone())), Bytes::new(), grant, Duration::from_secs(60));
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.expect("whole").into_data().expect("data");
            assert!(piece.len() <= ANSWER_PIECE_BYTES);
            read.extend_from_slice(&piece);
        }
        assert_eq!((read == bytes, budget.taken()), (true, 0));
    }

    #[tokio::test]
    async fn whoever_takes_nothing_for_long_loses_the_answer_and_whoever_goes_on_does_not() {
        let budget = Budget::new(1 << 20);
        let patience = Duration::from_millis(200);
        let paid = |data: Bytes| {
            let grant = budget.take(data.len()).expect("room");
            PaidBody::<Full<Bytes>>::new(None, data, grant, patience)
        };
        let (mut stalled, mut slow) = (paid(vec![7; 300_000].into()), paid(vec![7; 300_000].into()));
        stalled.frame().await.expect("a piece").expect("whole");
        let begun = Instant::now();
        while let Some(frame) = slow.frame().await {
            frame.expect("it is read on");
            tokio::time::sleep(patience / 3).await;
        }
        assert!(begun.elapsed() > patience);
        let freed = async {
            while budget.taken() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), freed).await.expect("taken back");
        assert!(!stalled.is_end_stream());
        let error = stalled.frame().await.expect("not just its end").expect_err("cut short");
        assert_eq!(error.to_string(), "the answer was not read in time");
    }

    #[tokio::test]
    async fn whoever_takes_a_little_now_and_then_loses_the_answer_too() {
        let budget = Budget::new(1 << 20);
        let (patience, data) = (Duration::from_millis(200), Bytes::from(vec![7; SLOWEST_READER]));
        let grant = budget.take(data.len()).expect("room");
        let mut dripping = PaidBody::<Full<Bytes>>::new(None, data, grant, patience);
        let begun = Instant::now();
        for _ in 0..3 {
            dripping.frame().await.expect("a piece").expect("whole");
        }
        // Never silent for longer than half of the patience.
        while budget.taken() > 0 {
            dripping.held.lock().taken = Instant::now();
            tokio::time::sleep(patience / 20).await;
        }
        let error = dripping.frame().await.expect("not just its end").expect_err("cut short");
        assert_eq!(error.to_string(), "the answer was not read in time");
        assert!(begun.elapsed() > Duration::from_secs(1));
    }
}
