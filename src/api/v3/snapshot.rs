//! `Maintenance.Snapshot`: the state as an etcd database file, in pieces, and its SHA-256 last.
//!
//! The file is made first, on a thread of its own, because each piece says how much is left. How many may exist at a time
//! is limited; who comes later waits. A client that goes away ends the work, and so does one that takes nothing for long.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::api::error::ApiError;
use crate::api::state::State;
use crate::api::stream::{Answers, Ending, Session, ending};
use crate::proto::etcdserverpb::SnapshotResponse;
use crate::store::EtcdFile;
use crate::work::{FILE_PIECE_BYTES, Patience, STALLED, Source, Turn, Undone};

/// Bytes in one piece, as etcd sends them.
const PIECE: usize = 32 << 10;

/// Pieces that wait for the connection.
const PIECES: usize = 4;

/// The answers of one call. A task makes them, so that a reader who takes nothing for [`STALLED`] can lose the file, which
/// others wait for.
pub fn stream(state: &Arc<State>, source: Source) -> Answers<SnapshotResponse> {
    let ending = ending(state, false);
    let download = Download { state: Arc::clone(state), source, ending, step: Step::Waiting };
    let (pieces, answers) = mpsc::channel(PIECES);
    let making = tokio::spawn(hand_over(download, pieces, STALLED));
    // The channel ends when the task has; only then is it known whether that was the end of the file.
    let rest = making.map(|stalled| stalled.unwrap_or(false).then(|| Err(Status::cancelled(NOT_READ))));
    Box::pin(ReceiverStream::new(answers).chain(rest.into_stream().filter_map(std::future::ready)))
}

/// What a reader hears that comes back to a file it has lost.
const NOT_READ: &str = "the snapshot was not read in time";

/// Gives the pieces to the connection as it takes them. `true`: it took none for `patience`, or less than
/// [`SLOWEST_READER`](crate::work::SLOWEST_READER) for so long that the time it was behind adds up to that.
async fn hand_over(
    mut download: Download,
    pieces: mpsc::Sender<Result<SnapshotResponse, Status>>,
    patience: Duration,
) -> bool {
    let mut patience = Patience::new(patience);
    loop {
        let next = tokio::select! {
            next = download.next() => next,
            () = pieces.closed() => return false,
        };
        let Some(piece) = next else { return false };
        let (bytes, asked) = (piece.as_ref().map_or(0, |piece| piece.blob.len()), Instant::now());
        match tokio::time::timeout(patience.left(), pieces.send(piece)).await {
            Ok(Ok(())) => patience.taken(asked.elapsed(), bytes),
            Ok(Err(_gone)) => return false,
            Err(_elapsed) => {
                tracing::warn!("dropped a snapshot whose reader takes nothing of it, or too little");
                return true;
            }
        }
    }
}

struct Download {
    state: Arc<State>,
    source: Source,
    ending: Ending,
    step: Step,
}

enum Step {
    Waiting,
    Sending(Sending),
    Done,
}

/// A file on its way.
struct Sending {
    file: File,
    /// Bytes that were not read yet.
    unread: u64,
    /// Bytes that were read and not sent yet.
    read: Bytes,
    hash: Sha256,
    len: u64,
    /// Held until the file is gone; `None` while a thread has it, that reads a part.
    turn: Option<Turn>,
}

impl Download {
    async fn advance(&mut self) -> Result<Option<SnapshotResponse>, ApiError> {
        if matches!(self.step, Step::Waiting) {
            let turn = self.state.work.snapshots.turn(self.source, None).await.map_err(refused)?;
            self.step = Step::Sending(make(&self.state, self.source, turn).await?);
        }
        let Step::Sending(sending) = &mut self.step else { return Ok(None) };
        if sending.read.is_empty() && sending.unread > 0 {
            sending.fill().await?;
        }
        if sending.read.is_empty() {
            let sum = sending.hash.finalize_reset();
            tracing::info!(total_bytes = sending.len, "successfully sent database snapshot to client");
            self.step = Step::Done;
            return Ok(Some(piece(0, Bytes::copy_from_slice(&sum))));
        }
        let blob = sending.read.split_to(PIECE.min(sending.read.len()));
        Ok(Some(piece(sending.unread + sending.read.len() as u64, blob)))
    }
}

impl Session for Download {
    type Answer = SnapshotResponse;

    async fn next(&mut self) -> Option<Result<SnapshotResponse, Status>> {
        if matches!(self.step, Step::Done) {
            return None;
        }
        // Taken out so that both can be borrowed; nothing ends a call twice.
        let mut ending = std::mem::replace(&mut self.ending, Box::pin(std::future::pending()));
        let advanced = tokio::select! {
            error = &mut ending => Err(error),
            advanced = self.advance() => advanced,
        };
        self.ending = ending;
        advanced.map_err(Status::from).transpose()
    }
}

fn refused(undone: Undone) -> ApiError {
    match undone {
        Undone::TooMany | Undone::Late => ApiError::TooManyRequests,
        Undone::Stopped => ApiError::Stopped,
    }
}

/// Makes the file on a blocking thread, which stops when nobody waits for it any more.
async fn make(state: &State, source: Source, turn: Turn) -> Result<Sending, ApiError> {
    let store = state.store.clone();
    let made = state.work.files.run(source, None, move |gone| store.export(gone.flag())).await;
    let EtcdFile { file, len, revision } = made.map_err(refused)??;
    tracing::info!(total_bytes = len, revision, "sending database snapshot to client");
    Ok(Sending { file, unread: len, read: Bytes::new(), hash: Sha256::new(), len, turn: Some(turn) })
}

impl Sending {
    /// Reads the next part of the file.
    async fn fill(&mut self) -> Result<(), ApiError> {
        let want = (FILE_PIECE_BYTES as u64).min(self.unread) as usize;
        let mut file = self.file.try_clone().map_err(unreadable)?;
        let mut hash = std::mem::take(&mut self.hash);
        let turn = self.turn.take().ok_or(ApiError::Stopped)?;
        let reading = turn.run(move |_| {
            let mut buffer = vec![0; want];
            file.read_exact(&mut buffer)?;
            hash.update(&buffer);
            Ok((Bytes::from(buffer), hash))
        });
        let (read, turn) = reading.await.map_err(refused)?;
        self.turn = Some(turn);
        let (read, hash) = read.map_err(unreadable)?;
        self.unread -= read.len() as u64;
        (self.read, self.hash) = (read, hash);
        Ok(())
    }
}

fn unreadable(error: std::io::Error) -> ApiError {
    tracing::error!(%error, "a snapshot that was made for a client cannot be read back");
    ApiError::Internal
}

fn piece(remaining_bytes: u64, blob: Bytes) -> SnapshotResponse {
    SnapshotResponse { header: None, remaining_bytes, blob, version: EtcdFile::VERSION.to_owned() }
}
