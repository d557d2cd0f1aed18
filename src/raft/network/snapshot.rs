//! Shipping a snapshot: its files as they lie on disk, on a connection of their own.
//!
//! The sender offers the vote and the manifest; the receiver proves what it has of it and answers how much that is of each
//! file; the sender sends the rest in pieces, then the end; the receiver has the core install the whole, and answers with
//! its vote. A break anywhere costs the pieces under way: what came stays, also over a restart of either side
//! (`store::partial`).
//!
//! There is no limit on the whole, only on silence: a side that sees no byte of the other for [`Patience`] gives up. While
//! the receiver is busy with its own disk it says so for as long as it gets on.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::SnapshotResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use super::message::kind;
use super::peers::Address;
use super::stream::Stream;
use super::wire::{Channel, Frame, WireError, put_frame, take_frame};
use crate::raft::Inner;
use crate::raft::codec::{CodecError, Reader, put_bytes, put_vote, vote};
use crate::raft::types::{Snapshot, TypeConfig, Vote};
use crate::store::{SnapshotFiles, SnapshotReceiver, Store, StoreError};
use crate::work::SHIP_PIECE_BYTES;

/// How long a side waits for the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the next byte to come, or to leave.
    pub silence: Duration,
    /// For the install, during which nothing can be heard.
    pub install: Duration,
}

impl Patience {
    /// What the receiver has, and who sends to it.
    pub const DEFAULT: Self = Self { silence: Duration::from_secs(60), install: Duration::from_secs(600) };
}

/// How often a receiver that reads or writes its own disk says that it gets on.
const SAY_EVERY: Duration = Duration::from_secs(5);

fn late() -> WireError {
    WireError::Io(std::io::ErrorKind::TimedOut.into())
}

fn task_failed(error: tokio::task::JoinError) -> WireError {
    WireError::Io(std::io::Error::other(error))
}

fn broken(error: StoreError) -> WireError {
    WireError::Io(std::io::Error::other(error))
}

/// Sends what the other member does not have of a snapshot, and waits until it has installed or refused it.
pub(crate) async fn ship(
    address: &Address,
    vote: Vote,
    snapshot: Snapshot,
    patience: Patience,
) -> Result<SnapshotResponse<TypeConfig>, WireError> {
    let mut line = Line::new(address.open(Channel::Snapshot).await?, patience.silence);
    let files = snapshot.snapshot;
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::OFFER, 0, |out| {
        put_vote(out, &vote);
        put_bytes(out, &files.manifest());
    });
    line.send(&mut out).await?;
    let answer = line.next(patience.silence).await?;
    if answer.kind == kind::INSTALLED {
        // Its vote is higher, so it does not even begin.
        return Ok(SnapshotResponse::new(self::vote(&mut Reader::new(answer.body))?));
    }
    let held = held(answer, &files)?;
    let (total, kept) = (files.total_bytes(), held.iter().sum::<u64>());
    let (to, index) = (format!("{:x}", address.id()), files.meta().last_log_id.map_or(0, |id| id.index));
    tracing::info!(
        remote_peer_id = to,
        snapshot_index = index,
        bytes = total,
        held = kept,
        files = files.files().len(),
        "sending database snapshot"
    );
    for (number, (file, from)) in files.files().iter().zip(held).enumerate() {
        if from < file.size {
            ship_file(&mut line, &files, number as u64, &file.name, from).await?;
        }
    }
    put_frame(&mut out, kind::SNAPSHOT_END, 0, |_| ());
    line.send(&mut out).await?;
    let answer = line.next(patience.install).await?;
    if answer.kind != kind::INSTALLED {
        return Err(CodecError::Unknown { what: "answer to a snapshot", tag: answer.kind }.into());
    }
    let response = SnapshotResponse::new(self::vote(&mut Reader::new(answer.body))?);
    tracing::info!(remote_peer_id = to, bytes = total, sent = total - kept, "sent database snapshot");
    Ok(response)
}

/// What the other member has of each file.
fn held(answer: Frame, files: &SnapshotFiles) -> Result<Vec<u64>, WireError> {
    if answer.kind != kind::HELD {
        return Err(CodecError::Unknown { what: "answer to the offer of a snapshot", tag: answer.kind }.into());
    }
    let mut body = answer.body;
    if body.len() != files.files().len() * 8 {
        return Err(CodecError::Short { what: "held", needed: files.files().len() * 8, left: body.len() }.into());
    }
    // More than a file has is the other side's mistake; it is sent nothing of it and says so itself.
    Ok(files.files().iter().map(|file| body.get_u64_le().min(file.size)).collect())
}

async fn ship_file(
    line: &mut Line,
    files: &SnapshotFiles,
    number: u64,
    name: &str,
    from: u64,
) -> Result<(), WireError> {
    let mut file = files.open(name)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from))?;
    let mut offset = from;
    loop {
        // Reading may wait for the disk, and this thread serves everything else.
        let (back, read) = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            let read = (&mut file).take(SHIP_PIECE_BYTES as u64).read_to_end(&mut piece);
            (file, read.map(|_| piece))
        })
        .await
        .map_err(task_failed)?;
        file = back;
        let piece = read?;
        if piece.is_empty() {
            return Ok(());
        }
        let mut out = BytesMut::with_capacity(piece.len() + 64);
        put_frame(&mut out, kind::CHUNK, number, |out| {
            out.put_u64_le(offset);
            out.put_slice(&piece);
        });
        offset += piece.len() as u64;
        line.send(&mut out).await?;
    }
}

/// A connection on which every byte must move within a time.
struct Line {
    stream: Stream,
    input: BytesMut,
    silence: Duration,
}

impl Line {
    fn new(stream: Stream, silence: Duration) -> Self {
        Self { stream, input: BytesMut::new(), silence }
    }

    async fn send(&mut self, out: &mut BytesMut) -> Result<(), WireError> {
        while !out.is_empty() {
            if timeout(self.silence, self.stream.write_buf(out)).await.map_err(|_| late())?? == 0 {
                return Err(WireError::Closed);
            }
        }
        Ok(timeout(self.silence, self.stream.flush()).await.map_err(|_| late())??)
    }

    /// The next frame that is not just a sign of life.
    async fn next(&mut self, wait: Duration) -> Result<Frame, WireError> {
        loop {
            while let Some(frame) = take_frame(&mut self.input)? {
                if frame.kind != kind::GETTING_ON {
                    return Ok(frame);
                }
            }
            if timeout(wait, self.stream.read_buf(&mut self.input)).await.map_err(|_| late())?? == 0 {
                return Err(WireError::Closed);
            }
        }
    }

    /// Waits for `work` on the disk, and tells the other side while `done` moves. What does not get on is not told, so the
    /// other side ends it.
    async fn while_working<T>(&mut self, done: &AtomicU64, mut work: JoinHandle<T>) -> Result<T, WireError> {
        let mut ticks = interval(SAY_EVERY.min(self.silence / 4));
        let mut told = 0;
        loop {
            tokio::select! {
                outcome = &mut work => return outcome.map_err(task_failed),
                _ = ticks.tick() => {}
            }
            let now = done.load(Ordering::Relaxed);
            if now != told {
                told = now;
                let mut out = BytesMut::new();
                put_frame(&mut out, kind::GETTING_ON, 0, |out| out.put_u64_le(now));
                self.send(&mut out).await?;
            }
        }
    }
}

/// Lets one snapshot in at a time. A later one ends the earlier: its sender may be gone without a word.
#[derive(Default)]
pub(crate) struct Inbound {
    current: parking_lot::Mutex<CancellationToken>,
    turn: tokio::sync::Mutex<()>,
}

/// Receives one snapshot and has the core install it.
pub(super) async fn receive(inner: &Inner, stream: Stream) -> Result<(), WireError> {
    let mut line = Line::new(stream, Patience::DEFAULT.silence);
    let first = line.next(line.silence).await?;
    if first.kind != kind::OFFER {
        return Err(CodecError::Unknown { what: "start of a snapshot", tag: first.kind }.into());
    }
    let mut reader = Reader::new(first.body);
    let sender = vote(&mut reader)?;
    let manifest = reader.bytes("manifest of a snapshot")?;
    let own = inner.metrics.borrow_watched().vote;
    if own > sender {
        return installed(&mut line, &own).await;
    }
    let superseded = CancellationToken::new();
    std::mem::replace(&mut *inner.inbound.current.lock(), superseded.clone()).cancel();
    let _turn = inner.inbound.turn.lock().await;
    let files = tokio::select! {
        files = gather(&inner.store, &mut line, manifest) => files?,
        () = superseded.cancelled() => return Err(WireError::Closed),
    };
    let snapshot = Snapshot { meta: files.meta().clone(), snapshot: files };
    let response = inner
        .raft
        .install_full_snapshot(sender, snapshot)
        .await
        .map_err(|error| WireError::Io(std::io::Error::other(error)))?;
    installed(&mut line, &response.vote).await
}

async fn installed(line: &mut Line, vote: &Vote) -> Result<(), WireError> {
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::INSTALLED, 0, |out| put_vote(out, vote));
    line.send(&mut out).await
}

async fn gather(store: &Store, line: &mut Line, manifest: Bytes) -> Result<SnapshotFiles, WireError> {
    let (store, checked) = (store.clone(), Arc::new(AtomicU64::new(0)));
    let done = checked.clone();
    let begin = tokio::task::spawn_blocking(move || SnapshotReceiver::begin(&store, &manifest, &done));
    let mut receiver = line.while_working(&checked, begin).await?.map_err(broken)?;
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::HELD, 0, |out| receiver.held().for_each(|bytes| out.put_u64_le(bytes)));
    line.send(&mut out).await?;
    loop {
        let frame = line.next(line.silence).await?;
        match frame.kind {
            kind::CHUNK => {
                let name = receiver
                    .files()
                    .get(frame.id as usize)
                    .map(|file| file.name.clone())
                    .ok_or(CodecError::Unknown { what: "a file of a snapshot", tag: frame.id as u8 })?;
                let mut reader = Reader::new(frame.body);
                let offset = reader.u64("offset of a piece")?;
                let piece = reader.rest();
                let write = tokio::task::spawn_blocking(move || {
                    let written = receiver.write(&name, offset, &piece);
                    (receiver, written)
                });
                let (back, written) = write.await.map_err(task_failed)?;
                receiver = back;
                written.map_err(broken)?;
            }
            kind::SNAPSHOT_END => {
                let finish = tokio::task::spawn_blocking(move || receiver.finish());
                return finish.await.map_err(task_failed)?.map_err(broken);
            }
            tag => return Err(CodecError::Unknown { what: "part of a snapshot", tag }.into()),
        }
    }
}
