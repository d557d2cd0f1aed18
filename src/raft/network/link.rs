//! One connection to one member that many callers share: requests out, answers back in any order.
//!
//! A task owns the connection, dials when there is something to say, and joins what is ready into one write. A call
//! that fails says whether its bytes may have left this member: only then may the other have acted on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::message::{Answer, Request};
use super::stream::Stream;
use super::wire::{Frame, Refusal, WireError, put_frame, take_frame};

/// Calls that may wait for the connection, per link. More are refused at once.
const MAX_QUEUED: usize = 4096;
/// How much is joined into one write, bytes.
const MAX_JOINED: usize = 1 << 20;
/// After this long without a byte from the other side it is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(1);
/// After this long without a byte the connection is given up.
const DEAD_AFTER: Duration = Duration::from_secs(4);
/// The first and the longest wait between two attempts to dial.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The id of pings that the link sends for itself; callers' ids start above it.
const OWN_PING: u64 = 0;

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Nothing left this member.
    #[error("{0}")]
    NotSent(String),
    /// The other member refuses to talk to this one; nothing was asked.
    #[error("{0}")]
    Refused(Refusal),
    /// The request may have arrived; the answer did not.
    #[error("{0}")]
    Lost(String),
}

struct Call {
    request: Request,
    answer: oneshot::Sender<Result<Answer, CallError>>,
}

/// The callers' side of a link. Cloning shares the connection.
#[derive(Clone)]
pub struct Link {
    calls: mpsc::Sender<Call>,
}

/// Opens the connection of a link; asked again whenever it broke.
pub trait Dial: Send + Sync + 'static {
    /// Opens a connection with the handshake done.
    fn dial(&self) -> impl Future<Output = Result<Stream, WireError>> + Send;
}

impl Link {
    /// Starts the task behind a link. It ends when the last clone is dropped.
    pub fn start(dial: impl Dial) -> Self {
        let (calls, queue) = mpsc::channel(MAX_QUEUED);
        tokio::spawn(Session::new(queue).run(Arc::new(dial)));
        Self { calls }
    }

    /// Asks and waits for the answer until `deadline`.
    ///
    /// # Errors
    /// See [`CallError`]; a deadline that passes after the bytes may have left is [`CallError::Lost`].
    pub async fn call(&self, request: Request, deadline: Instant) -> Result<Answer, CallError> {
        let (answer, answered) = oneshot::channel();
        match self.calls.try_send(Call { request, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(CallError::NotSent(format!("{MAX_QUEUED} requests wait for this peer already")));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(CallError::NotSent("stopped".to_owned())),
        }
        match timeout_at(deadline, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(CallError::Lost("stopped".to_owned())),
            Err(_) => Err(CallError::Lost("no answer before the deadline".to_owned())),
        }
    }
}

type Pending = HashMap<u64, oneshot::Sender<Result<Answer, CallError>>>;

struct Session {
    queue: mpsc::Receiver<Call>,
    pending: Pending,
    next_id: u64,
}

impl Session {
    fn new(queue: mpsc::Receiver<Call>) -> Self {
        Self { queue, pending: HashMap::new(), next_id: OWN_PING + 1 }
    }

    async fn run(mut self, dial: Arc<impl Dial>) {
        let mut backoff = BACKOFF.0;
        while let Some(first) = self.queue.recv().await {
            match dial.dial().await {
                Ok(stream) => {
                    backoff = BACKOFF.0;
                    let error = self.talk(stream, first).await;
                    for (_, answer) in self.pending.drain() {
                        let _ = answer.send(Err(CallError::Lost(error.to_string())));
                    }
                }
                Err(error) => {
                    let error = match error {
                        WireError::Refused(refusal) => CallError::Refused(refusal),
                        other => CallError::NotSent(other.to_string()),
                    };
                    let _ = first.answer.send(Err(error.clone()));
                    self.refuse_until(Instant::now() + backoff, &error).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// Fails every call at once while it is too early to dial again.
    async fn refuse_until(&mut self, until: Instant, error: &CallError) {
        while let Ok(Some(call)) = timeout_at(until, self.queue.recv()).await {
            let _ = call.answer.send(Err(error.clone()));
        }
    }

    fn enqueue(&mut self, call: Call, out: &mut BytesMut) {
        // The caller may have given up while the call waited; then nothing needs to be sent.
        if call.answer.is_closed() {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        put_frame(out, call.request.kind(), id, |out| call.request.put(out));
        self.pending.insert(id, call.answer);
    }

    /// Serves calls until the connection breaks; returns why it did.
    async fn talk(&mut self, stream: Stream, first: Call) -> WireError {
        let (mut reader, mut writer): (ReadHalf<Stream>, WriteHalf<Stream>) = tokio::io::split(stream);
        let mut out = BytesMut::new();
        let mut input = BytesMut::new();
        let mut heard = Instant::now();
        let mut pinged = false;
        let mut unflushed = false;
        self.enqueue(first, &mut out);
        loop {
            while out.len() < MAX_JOINED {
                let Ok(call) = self.queue.try_recv() else { break };
                self.enqueue(call, &mut out);
            }
            let wake = heard + if pinged { DEAD_AFTER } else { PING_AFTER };
            let step = tokio::select! {
                wrote = write_some(&mut writer, &mut out, &mut unflushed), if !out.is_empty() || unflushed => wrote,
                call = self.queue.recv(), if out.is_empty() => match call {
                    Some(call) => { self.enqueue(call, &mut out); Ok(()) }
                    None => return WireError::Closed,
                },
                read = reader.read_buf(&mut input) => {
                    heard = Instant::now();
                    pinged = false;
                    match read {
                        Ok(0) => Err(WireError::Closed),
                        Ok(_) => self.answer(&mut input),
                        Err(error) => Err(error.into()),
                    }
                }
                () = sleep_until(wake) => {
                    if pinged {
                        Err(WireError::Io(std::io::ErrorKind::TimedOut.into()))
                    } else {
                        pinged = true;
                        put_frame(&mut out, Request::Ping.kind(), OWN_PING, |_| ());
                        Ok(())
                    }
                }
            };
            if let Err(error) = step {
                return error;
            }
        }
    }

    fn answer(&mut self, input: &mut BytesMut) -> Result<(), WireError> {
        while let Some(frame) = take_frame(input)? {
            let Frame { id, .. } = frame;
            let answer = Answer::decode(frame)?;
            if let Some(waiting) = self.pending.remove(&id) {
                let _ = waiting.send(Ok(answer));
            }
        }
        Ok(())
    }
}

/// Writes what the connection takes; flushes when nothing is left. Cancelling it loses nothing: TLS takes bytes that it has
/// not sent yet, and `unflushed` says that they still wait for a flush.
async fn write_some(writer: &mut WriteHalf<Stream>, out: &mut BytesMut, unflushed: &mut bool) -> Result<(), WireError> {
    if !out.is_empty() {
        if writer.write_buf(out).await? == 0 {
            return Err(WireError::Closed);
        }
        *unflushed = true;
    }
    if out.is_empty() {
        writer.flush().await?;
        *unflushed = false;
    }
    Ok(())
}

/// Remembers a member's last refusal, so that it is logged once and not at every attempt.
#[derive(Default)]
pub struct OncePerReason(Mutex<String>);

impl OncePerReason {
    /// Whether `reason` differs from the last one told.
    pub fn is_new(&self, reason: &str) -> bool {
        let mut last = self.0.lock();
        if *last == reason {
            return false;
        }
        reason.clone_into(&mut last);
        true
    }

    /// Forgets the last reason: the next one is told whatever it is.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use futures::task::AtomicWaker;
    use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

    use super::*;

    /// What a test sees of a connection, and the gate that it holds.
    #[derive(Default)]
    struct Gate {
        open: AtomicBool,
        refused: AtomicUsize,
        read: AtomicUsize,
        wake: AtomicWaker,
    }

    /// As TLS over a full socket: takes every write, and sends it with a flush that has to wait.
    struct Buffered {
        wire: DuplexStream,
        taken: Vec<u8>,
        gate: Arc<Gate>,
    }

    impl AsyncRead for Buffered {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let before = buf.filled().len();
            let polled = Pin::new(&mut self.wire).poll_read(cx, buf);
            self.gate.read.fetch_add(buf.filled().len() - before, Ordering::SeqCst);
            polled
        }
    }

    impl AsyncWrite for Buffered {
        fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.taken.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.gate.wake.register(cx.waker());
            if !self.gate.open.load(Ordering::SeqCst) {
                self.gate.refused.fetch_add(1, Ordering::SeqCst);
                return Poll::Pending;
            }
            let taken = std::mem::take(&mut self.taken);
            // The other end has room for all that this test sends.
            let Poll::Ready(wrote) = Pin::new(&mut self.wire).poll_write(cx, &taken) else { return Poll::Pending };
            assert_eq!(wrote?, taken.len());
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    struct Once(Mutex<Option<Stream>>);

    impl Dial for Once {
        async fn dial(&self) -> Result<Stream, WireError> {
            self.0.lock().take().ok_or(WireError::Closed)
        }
    }

    async fn becomes(what: &str, mut condition: impl FnMut() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout_at(Instant::now() + Duration::from_secs(60), waiting).await.is_ok(), "never: {what}");
    }

    #[tokio::test]
    async fn a_flush_that_something_else_came_before_goes_on_without_another_write() {
        let (near, mut far) = duplex(1 << 16);
        let gate = Arc::new(Gate::default());
        let stream: Stream = Box::new(Buffered { wire: near, taken: Vec::new(), gate: gate.clone() });
        let link = Link::start(Once(Mutex::new(Some(stream))));
        let asked = link.clone();
        let call =
            tokio::spawn(async move { asked.call(Request::ReadIndex, Instant::now() + Duration::from_secs(60)).await });
        becomes("the flush has to wait", || gate.refused.load(Ordering::SeqCst) > 0).await;
        // Something arrives meanwhile, as answers to earlier calls do: the link leaves the flush to read it.
        let mut stray = BytesMut::new();
        put_frame(&mut stray, Answer::Pong.kind(), 999, |_| ());
        far.write_all(&stray).await.expect("room");
        becomes("it is read", || gate.read.load(Ordering::SeqCst) == stray.len()).await;
        tokio::task::yield_now().await;
        gate.open.store(true, Ordering::SeqCst);
        gate.wake.wake();

        let mut input = BytesMut::new();
        let first = loop {
            if let Some(frame) = take_frame(&mut input).expect("our own frames") {
                break frame;
            }
            let read = timeout_at(Instant::now() + Duration::from_secs(60), far.read_buf(&mut input)).await;
            assert!(read.expect("something is sent").expect("open") > 0);
        };
        assert_eq!(first.kind, Request::ReadIndex.kind());
        assert!(input.is_empty(), "it left by itself and not with the ping that came a second later");
        let mut answer = BytesMut::new();
        let index = Answer::ReadIndex(Some(7));
        put_frame(&mut answer, index.kind(), first.id, |out| index.put(out));
        far.write_all(&answer).await.expect("room");
        assert!(matches!(call.await.expect("it ran"), Ok(Answer::ReadIndex(Some(7)))));
    }
}
