//! Shipping a snapshot: its files as they lie on disk, on a connection of their own.
//!
//! The sender says the vote and the manifest, then every file in pieces, then the end; the receiver checks each piece
//! and each file, has the core install the whole, and answers with its vote. A break anywhere starts over: the
//! receiver's half-written staging directory goes away with it.

use std::io::Read;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::SnapshotResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::message::kind;
use super::peers::Address;
use super::stream::Stream;
use super::wire::{Channel, Frame, WireError, put_frame, take_frame};
use crate::raft::Raft;
use crate::raft::codec::{CodecError, Reader, put_bytes, put_vote, vote};
use crate::raft::types::{Snapshot, TypeConfig, Vote};
use crate::store::{SnapshotFiles, SnapshotReceiver, Store};

/// One piece of a file, bytes. Its checksum is the frame's.
const CHUNK: usize = 1 << 20;
/// How long one piece may take to leave, or to arrive.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

fn late() -> WireError {
    WireError::Io(std::io::ErrorKind::TimedOut.into())
}

fn task_failed(error: tokio::task::JoinError) -> WireError {
    WireError::Io(std::io::Error::other(error))
}

/// Sends a snapshot and waits until the other member has installed or refused it, at most `limit`.
pub(super) async fn ship(
    address: &Address,
    vote: Vote,
    snapshot: Snapshot,
    limit: Duration,
) -> Result<SnapshotResponse<TypeConfig>, WireError> {
    let shipping = async {
        let mut stream = address.open(Channel::Snapshot).await?;
        let files = snapshot.snapshot;
        tracing::info!(bytes = files.total_bytes(), files = files.files().len(), "sending database snapshot");
        let mut out = BytesMut::new();
        put_frame(&mut out, kind::SNAPSHOT, 0, |out| {
            put_vote(out, &vote);
            put_bytes(out, &files.manifest());
        });
        send(&mut stream, &mut out).await?;
        for (number, file) in files.files().iter().enumerate() {
            ship_file(&mut stream, &files, number as u64, &file.name).await?;
        }
        put_frame(&mut out, kind::SNAPSHOT_END, 0, |_| ());
        send(&mut stream, &mut out).await?;
        let answer = next_frame(&mut stream, &mut BytesMut::new(), limit).await?;
        let mut reader = Reader::new(answer.body);
        let response = SnapshotResponse::new(self::vote(&mut reader)?);
        tracing::info!(bytes = files.total_bytes(), "sent database snapshot");
        Ok(response)
    };
    timeout(limit, shipping).await.unwrap_or_else(|_| Err(late()))
}

async fn ship_file(stream: &mut Stream, files: &SnapshotFiles, number: u64, name: &str) -> Result<(), WireError> {
    let mut file = files.open(name)?;
    let mut offset: u64 = 0;
    loop {
        // Reading may wait for the disk, and this thread serves everything else.
        let (back, read) = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; CHUNK];
            let mut filled = 0;
            while filled < CHUNK {
                match file.read(&mut piece[filled..]) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(error) => return (file, Err(error)),
                }
            }
            piece.truncate(filled);
            (file, Ok(piece))
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
        send(stream, &mut out).await?;
    }
}

async fn send(stream: &mut Stream, out: &mut BytesMut) -> Result<(), WireError> {
    let sending = async {
        stream.write_all_buf(out).await?;
        stream.flush().await
    };
    Ok(timeout(CHUNK_TIMEOUT, sending).await.map_err(|_| late())??)
}

async fn next_frame(stream: &mut Stream, input: &mut BytesMut, wait: Duration) -> Result<Frame, WireError> {
    loop {
        if let Some(frame) = take_frame(input)? {
            return Ok(frame);
        }
        if timeout(wait, stream.read_buf(input)).await.map_err(|_| late())?? == 0 {
            return Err(WireError::Closed);
        }
    }
}

/// Receives one snapshot and has the core install it.
pub(super) async fn receive(raft: &Raft, store: &Store, mut stream: Stream) -> Result<(), WireError> {
    let mut input = BytesMut::new();
    let first = next_frame(&mut stream, &mut input, CHUNK_TIMEOUT).await?;
    if first.kind != kind::SNAPSHOT {
        return Err(CodecError::Unknown { what: "start of a snapshot", tag: first.kind }.into());
    }
    let mut reader = Reader::new(first.body);
    let sender = vote(&mut reader)?;
    let manifest = reader.bytes("manifest of a snapshot")?;
    let files = gather(store, &mut stream, &mut input, manifest).await?;
    let snapshot = Snapshot { meta: files.meta().clone(), snapshot: files };
    let response = raft
        .install_full_snapshot(sender, snapshot)
        .await
        .map_err(|error| WireError::Io(std::io::Error::other(error)))?;
    let mut out = BytesMut::new();
    put_frame(&mut out, kind::INSTALLED, 0, |out| put_vote(out, &response.vote));
    send(&mut stream, &mut out).await
}

async fn gather(
    store: &Store,
    stream: &mut Stream,
    input: &mut BytesMut,
    manifest: Bytes,
) -> Result<SnapshotFiles, WireError> {
    let broken = |error: crate::store::StoreError| WireError::Io(std::io::Error::other(error));
    let store = store.clone();
    let begin = tokio::task::spawn_blocking(move || SnapshotReceiver::begin(&store, &manifest));
    let mut receiver = begin.await.map_err(task_failed)?.map_err(broken)?;
    loop {
        let frame = next_frame(stream, input, CHUNK_TIMEOUT).await?;
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
