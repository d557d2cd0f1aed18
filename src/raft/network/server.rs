//! The peer port: accepts connections, checks who dials, and serves each channel.
//!
//! Nothing that arrives here can end the accept loop. A connection waits on the thread of [`crate::admission`] until it has
//! said who it is, within a deadline; a flood of others cannot keep the members out, because of more than fit the oldest of
//! the source with most goes first. A member of another cluster, a member that was removed, and one that wanted somebody
//! else are told so and turned away before any Raft byte is read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
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
use crate::admission::{Admission, Place, Socket, Source, Waiting};
use crate::raft::codec::Reader;
use crate::raft::types::NodeId;
use crate::raft::{Consensus, Inner};

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

/// What the connections of a listener have in common.
#[derive(Clone)]
struct Gate {
    admission: Arc<Admission>,
    /// `None`: the listener is plain.
    tls: Option<PeerTls>,
    inner: Arc<Inner>,
    /// The runtime of consensus.
    serving: Handle,
}

/// Serves the peer port until the returned task is aborted or consensus stops. Callers wait on the thread of `admission`;
/// members are served on the runtime that this is called in.
///
/// # Errors
/// The socket cannot be taken from the runtime it was made in.
pub fn serve(
    listener: PeerListener,
    tls: PeerTls,
    consensus: Consensus,
    admission: &Arc<Admission>,
) -> std::io::Result<JoinHandle<()>> {
    let socket = listener.socket.into_std()?;
    let tls = listener.tls.then_some(tls);
    let gate = Gate { admission: admission.clone(), tls, inner: consensus.inner.clone(), serving: Handle::current() };
    Ok(admission.spawn(async move {
        match TcpListener::from_std(socket) {
            Ok(socket) => accept_all(socket, gate).await,
            Err(error) => tracing::error!(%error, "the peer socket cannot be watched; no member can reach this one"),
        }
    }))
}

async fn accept_all(socket: TcpListener, gate: Gate) {
    let stopping = gate.inner.stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
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
        let waiting = &gate.admission.shares.peers.waiting;
        // Those who must go for others are given the time to go: their descriptors count.
        while waiting.is_crowded() {
            tokio::task::yield_now().await;
        }
        if let Some(place) = waiting.enter(Source::of(Some(from.ip()))) {
            tokio::spawn(admit(socket, from, place, gate.clone()));
        }
    }
}

/// Waits with one connection until it has said which member it is, and hands it over.
async fn admit(socket: TcpStream, from: SocketAddr, place: Place, gate: Gate) {
    let evicted = place.evicted();
    let waiting = Waiting::new(place);
    let greeted = tokio::select! {
        greeted = timeout(HANDSHAKE_TIMEOUT, greet(socket, from, &waiting, &gate)) => greeted,
        () = evicted.cancelled() => Ok(Err(WireError::Closed)),
        () = gate.inner.stopping.cancelled() => return,
    };
    match greeted.unwrap_or_else(|_| Err(WireError::Io(std::io::ErrorKind::TimedOut.into()))) {
        Ok(None) => {}
        Ok(Some((hello, stream))) => match gate.admission.shares.peers.seats.enter(Source::of(Some(from.ip()))) {
            Some(seat) => {
                waiting.admit();
                gate.serving.spawn(attend(gate.inner, hello, stream, from, seat));
            }
            None => closed(from, &WireError::Io(std::io::ErrorKind::QuotaExceeded.into())),
        },
        Err(error) => closed(from, &error),
    }
}

/// Serves a member's connection to its end.
async fn attend(inner: Arc<Inner>, hello: Hello, stream: Stream, from: SocketAddr, seat: Place) {
    let evicted = seat.evicted();
    tokio::select! {
        outcome = channel(&inner, hello, stream) => if let Err(error) = outcome { closed(from, &error) },
        () = evicted.cancelled() => closed(from, &WireError::Io(std::io::ErrorKind::QuotaExceeded.into())),
        () = inner.stopping.cancelled() => {}
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
    waiting: &Arc<Waiting>,
    gate: &Gate,
) -> Result<Option<(Hello, Stream)>, WireError> {
    let (inner, socket) = (&gate.inner, Socket::new(tcp, waiting.clone()));
    let mut stream: Stream = match &gate.tls {
        Some(tls) => {
            let turn = async {
                waiting.has_session();
                gate.admission.peers_handshakes.turn(Source::of(Some(from.ip()))).await
            };
            tls.accept(socket, from.ip(), turn).await?
        }
        None => Box::new(socket),
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
