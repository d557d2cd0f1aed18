//! The peer port: accepts connections, checks who dials, and serves each channel.
//!
//! Nothing that arrives here can end the accept loop. A connection gets a handshake within a deadline or is closed, and
//! of more silent ones than [`MAX_GREETING`] the oldest goes first, so a flood of them cannot keep the members out. A
//! member of another cluster, a member that was removed, and one that wanted somebody else are told so and turned away
//! before any Raft byte is read.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::counted::counted;
use super::http;
use super::message::{Request, append, kind, put_append_result};
use super::snapshot;
use super::stream::{Greeting, PeerTls, Stream, receive, refuse, welcome};
use super::wire::{Channel, Frame, Hello, Refusal, WireError, put_frame, take_frame};
use crate::raft::codec::Reader;
use crate::raft::types::NodeId;
use crate::raft::{Consensus, Inner};

/// Members' connections at once; further ones are closed.
const MAX_CONNECTIONS: usize = 1024;
/// Connections that have not said yet who they are. A member does so within milliseconds.
const MAX_GREETING: usize = 256;
/// From the first packet to the end of TLS and handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing arrives for this long is closed; links ping every second.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Append streams are silent while nothing is written; heartbeats have a connection of their own.
const APPEND_IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Requests of one connection that may be worked on at once.
const MAX_WORKING: usize = 1024;
/// Batches that wait for the core on one append stream; openraft takes as many.
pub const APPEND_QUEUE: usize = 64;
/// Answers joined into one write, bytes.
const MAX_JOINED: usize = 256 << 10;
/// After a failed accept (no descriptors, say) the next try waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound peer address.
pub struct PeerListener {
    /// The socket.
    pub socket: TcpListener,
    /// Whether its URL is `https`.
    pub tls: bool,
}

/// Serves the peer port until the returned task is aborted or consensus stops.
pub fn serve(listener: PeerListener, tls: PeerTls, consensus: Consensus) -> JoinHandle<()> {
    tokio::spawn(async move {
        let stopping = consensus.inner.stopping.clone();
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut greeting = Greetings::default();
        loop {
            let accepted = tokio::select! {
                accepted = listener.socket.accept() => accepted,
                () = stopping.cancelled() => return,
            };
            let (socket, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer connection; check the limit of open files");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let _ = socket.set_nodelay(true);
            let secure = listener.tls.then(|| tls.clone());
            let (inner, stopping, room) = (consensus.inner.clone(), stopping.clone(), room.clone());
            greeting.add(|stranger| {
                tokio::spawn(async move {
                    let served = async {
                        let greeted = timeout(HANDSHAKE_TIMEOUT, greet(socket, from, secure, &inner)).await;
                        let greeted =
                            greeted.unwrap_or_else(|_| Err(WireError::Io(std::io::ErrorKind::TimedOut.into())));
                        let Some((hello, stream)) = greeted? else { return Ok(()) };
                        drop(stranger);
                        let _place =
                            room.try_acquire().map_err(|_| WireError::Io(std::io::ErrorKind::QuotaExceeded.into()))?;
                        channel(&inner, hello, stream).await
                    };
                    tokio::select! {
                        outcome = served => if let Err(error) = outcome { closed(from, &error) },
                        () = stopping.cancelled() => {}
                    }
                })
            });
        }
    })
}

/// The connections that have not said yet who they are, oldest first.
#[derive(Default)]
struct Greetings {
    strangers: VecDeque<(Weak<()>, AbortHandle)>,
}

impl Greetings {
    /// Starts a connection, which drops what it is given once it is known. Ends the oldest when there are too many.
    fn add(&mut self, start: impl FnOnce(Arc<()>) -> JoinHandle<()>) {
        let stranger = Arc::new(());
        let known = Arc::downgrade(&stranger);
        self.strangers.push_back((known, start(stranger).abort_handle()));
        if self.strangers.len() > MAX_GREETING {
            self.strangers.retain(|(stranger, _)| stranger.strong_count() > 0);
        }
        if self.strangers.len() > MAX_GREETING
            && let Some((_, oldest)) = self.strangers.pop_front()
        {
            oldest.abort();
        }
    }
}

fn closed(from: SocketAddr, error: &WireError) {
    match error {
        WireError::Closed => tracing::debug!(%from, %error, "peer connection ended"),
        // A handshake that was refused comes as an error of the stream, with the reason inside.
        WireError::Io(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
            let error = crate::tls::reason_of(cause);
            tracing::warn!(remote_addr = %from, error, "rejected connection on peer endpoint");
        }
        WireError::Io(_) => tracing::debug!(%from, %error, "peer connection ended"),
        other => tracing::warn!(remote_addr = %from, error = %other, "rejected connection on peer endpoint"),
    }
}

/// TLS, then either an HTTP request, which is answered here, or a member's handshake.
async fn greet(
    tcp: TcpStream,
    from: SocketAddr,
    secure: Option<PeerTls>,
    inner: &Arc<Inner>,
) -> Result<Option<(Hello, Stream)>, WireError> {
    let mut stream: Stream = match secure {
        Some(tls) => tls.accept(tcp, from.ip()).await?,
        None => Box::new(tcp),
    };
    let hello = match receive(&mut stream).await? {
        Greeting::Member(hello) => hello,
        Greeting::Http(first) => {
            http::answer(&mut stream, first, inner).await?;
            return Ok(None);
        }
    };
    match check(inner, &hello) {
        Ok(()) => {
            welcome(&mut stream).await?;
            Ok(Some((hello, stream)))
        }
        Err(refusal) => {
            refuse(&mut stream, refusal.clone()).await?;
            Err(WireError::Refused(refusal))
        }
    }
}

/// Whether this member talks to the one that dials.
fn check(inner: &Inner, hello: &Hello) -> Result<(), Refusal> {
    if hello.cluster != inner.cluster_id {
        return Err(Refusal::Cluster { ours: inner.cluster_id, theirs: hello.cluster });
    }
    if inner.was_removed(hello.from) {
        return Err(Refusal::Removed(hello.from));
    }
    if hello.to != inner.id {
        return Err(Refusal::Target { wanted: hello.to, actual: inner.id });
    }
    Ok(())
}

async fn channel(inner: &Arc<Inner>, hello: Hello, stream: Stream) -> Result<(), WireError> {
    let stream = match inner.peers.get(hello.from) {
        Some(peer) => counted(stream, peer.traffic.clone()),
        // A member that feeds this one before it has read the list: its next connection is counted.
        None => stream,
    };
    match hello.channel {
        Channel::Pulse | Channel::Forward => requests(inner, hello.from, stream).await,
        Channel::Append => entries(inner, stream).await,
        Channel::Snapshot => snapshot::receive(inner, stream).await,
    }
}

/// Writes what the tasks of a connection answer, joining what is ready.
async fn write_answers(mut writer: WriteHalf<Stream>, mut answers: mpsc::Receiver<BytesMut>) -> Result<(), WireError> {
    while let Some(mut out) = answers.recv().await {
        while out.len() < MAX_JOINED {
            let Ok(more) = answers.try_recv() else { break };
            out.unsplit(more);
        }
        writer.write_all(&out).await?;
        writer.flush().await?;
    }
    Ok(())
}

async fn read_some(reader: &mut ReadHalf<Stream>, input: &mut BytesMut, idle: Duration) -> Result<(), WireError> {
    match timeout(idle, reader.read_buf(input)).await {
        Ok(Ok(0)) => Err(WireError::Closed),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(WireError::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Aborts a connection's writer when its reader is done.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves a link: each request by a task of its own, answers in the order they are ready.
async fn requests(inner: &Arc<Inner>, from: NodeId, stream: Stream) -> Result<(), WireError> {
    let (mut reader, writer) = tokio::io::split(stream);
    let (answers, answered) = mpsc::channel(MAX_WORKING);
    let writing = tokio::spawn(write_answers(writer, answered));
    let _writing = AbortOnDrop(writing.abort_handle());
    let room = Arc::new(Semaphore::new(MAX_WORKING));
    let mut input = BytesMut::new();
    loop {
        read_some(&mut reader, &mut input, IDLE_TIMEOUT).await?;
        // A member may be removed while it is connected: it learns so when it comes back.
        if inner.was_removed(from) {
            return Err(WireError::Refused(Refusal::Removed(from)));
        }
        while let Some(frame) = take_frame(&mut input)? {
            let id = frame.id;
            let request = Request::decode(frame)?;
            let Ok(place) = room.clone().acquire_owned().await else { return Ok(()) };
            let (inner, answers) = (inner.clone(), answers.clone());
            tokio::spawn(async move {
                let answer = inner.answer(request).await;
                let mut out = BytesMut::new();
                put_frame(&mut out, answer.kind(), id, |out| answer.put(out));
                let _ = answers.send(out).await;
                drop(place);
            });
        }
    }
}

/// Serves the stream of entries: batches go to the core in order, and so do the answers.
async fn entries(inner: &Arc<Inner>, stream: Stream) -> Result<(), WireError> {
    let (mut reader, writer) = tokio::io::split(stream);
    let (answers, answered) = mpsc::channel(APPEND_QUEUE);
    let writing = tokio::spawn(write_answers(writer, answered));
    let _writing = AbortOnDrop(writing.abort_handle());
    let mut input = BytesMut::new();
    let mut session: Option<(u32, mpsc::Sender<_>, AbortOnDrop)> = None;
    loop {
        read_some(&mut reader, &mut input, APPEND_IDLE_TIMEOUT).await?;
        while let Some(Frame { kind: found, id, body }) = take_frame(&mut input)? {
            if found != kind::ENTRIES {
                continue;
            }
            inner.peers.appends().received(body.len());
            let number = (id >> 32) as u32;
            if session.as_ref().is_none_or(|(current, ..)| *current != number) {
                let (batches, queue) = mpsc::channel(APPEND_QUEUE);
                let results = inner.raft.stream_append(ReceiverStream::new(queue));
                let running = tokio::spawn(acknowledge(results, number, answers.clone()));
                session = Some((number, batches, AbortOnDrop(running.abort_handle())));
            }
            let batch = append(&mut Reader::new(body))?;
            if let Some((_, batches, _)) = &session {
                // After a conflict the core takes no more of this session; what was on its way is void.
                let _ = batches.send(batch).await;
            }
        }
    }
}

async fn acknowledge<S, E>(results: S, session: u32, answers: mpsc::Sender<BytesMut>)
where
    S: futures::Stream<Item = Result<openraft::raft::StreamAppendResult<crate::raft::types::TypeConfig>, E>>,
{
    let mut results = std::pin::pin!(results);
    let mut sequence: u32 = 0;
    // An error is the end of the core, which is the end of the process: there is nobody to tell.
    while let Some(Ok(result)) = results.next().await {
        let id = u64::from(session) << 32 | u64::from(sequence);
        sequence = sequence.wrapping_add(1);
        let mut out = BytesMut::new();
        put_frame(&mut out, kind::ACKNOWLEDGED, id, |out| put_append_result(out, &result));
        if answers.send(out).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_too_many_strangers_the_oldest_goes_and_members_stay() {
        let mut greetings = Greetings::default();
        let mut member = None;
        greetings.add(|stranger| {
            drop(stranger);
            let task = tokio::spawn(std::future::pending());
            member = Some(task.abort_handle());
            task
        });
        let mut silent = Vec::new();
        for _ in 0..MAX_GREETING + 10 {
            greetings.add(|stranger| {
                let task = tokio::spawn(async move {
                    let _stranger = stranger;
                    std::future::pending().await
                });
                silent.push(task.abort_handle());
                task
            });
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        let ended: Vec<bool> = silent.iter().map(AbortHandle::is_finished).collect();
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 10);
        assert!(ended[..10].iter().all(|ended| *ended), "the oldest ones");
        assert!(!member.expect("started").is_finished());
    }
}
