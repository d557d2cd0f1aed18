//! `Maintenance.Snapshot`: the state as an etcd database file, in pieces, and its SHA-256 last.
//!
//! The file is made first, on a thread of its own, because each piece says how much is left. How many may exist at a time
//! is limited; who comes later waits. A client that goes away ends the work.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use crate::api::error::ApiError;
use crate::api::state::State;
use crate::api::stream::{Answers, Ending, Session, ending, serve};
use crate::proto::etcdserverpb::SnapshotResponse;
use crate::store::EtcdFile;

/// Bytes in one piece, as etcd sends them.
const PIECE: usize = 32 << 10;
/// Bytes read from the disk at once.
const READ: usize = 1 << 20;

/// The answers of one call.
pub fn stream(state: &Arc<State>) -> Answers<SnapshotResponse> {
    serve(Download { state: Arc::clone(state), ending: ending(state, false), step: Step::Waiting, _turn: None })
}

struct Download {
    state: Arc<State>,
    ending: Ending,
    step: Step,
    /// Held until the file is gone.
    _turn: Option<OwnedSemaphorePermit>,
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
}

/// Tells the thread that makes the file when nobody waits for it any more.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Download {
    async fn advance(&mut self) -> Result<Option<SnapshotResponse>, ApiError> {
        if matches!(self.step, Step::Waiting) {
            let turn = Arc::clone(&self.state.exports).acquire_owned().await.map_err(|_closed| ApiError::Stopped)?;
            self._turn = Some(turn);
            self.step = Step::Sending(make(&self.state).await?);
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

/// Makes the file on a blocking thread.
async fn make(state: &State) -> Result<Sending, ApiError> {
    let abandoned = Arc::new(AtomicBool::new(false));
    let _abandon = Abandon(Arc::clone(&abandoned));
    let store = state.store.clone();
    let made = tokio::task::spawn_blocking(move || store.export(&abandoned)).await;
    let EtcdFile { file, len, revision } = made.map_err(|_stopped| ApiError::Stopped)??;
    tracing::info!(total_bytes = len, revision, "sending database snapshot to client");
    Ok(Sending { file, unread: len, read: Bytes::new(), hash: Sha256::new(), len })
}

impl Sending {
    /// Reads the next part of the file.
    async fn fill(&mut self) -> Result<(), ApiError> {
        let want = (READ as u64).min(self.unread) as usize;
        let mut file = self.file.try_clone().map_err(unreadable)?;
        let mut hash = std::mem::take(&mut self.hash);
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; want];
            file.read_exact(&mut buffer)?;
            hash.update(&buffer);
            Ok((Bytes::from(buffer), hash))
        });
        let (read, hash) = read.await.map_err(|_stopped| ApiError::Stopped)?.map_err(unreadable)?;
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
