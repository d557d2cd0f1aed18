//! `GET /v2/export/<path>`: the tree below a path as one file, hidden nodes included.
//!
//! Not etcd's: no request of etcd's lists hidden nodes, and a recursive read holds the whole answer in memory. This one
//! is a walk over one frozen state that runs no faster than its reader takes it. It shows everything, so with access
//! control on it is for root alone. The format is [`crate::treefile`]'s.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::auth::source;
use super::keys::{broken, raft_error, refused, with_raft};
use super::propose::{Failure, busy};
use super::request::{clean, unescape};
use super::{V2, respond, unix_now, with_cluster_id};
use crate::api::body::ClientBody;
use crate::model::v2::types::{Error, Stored, UnixNanos};
use crate::model::v2::{self};
use crate::model::view::ViewError;
use crate::treefile::{Header, Node, WriteError, Writer};
use crate::work::Source;

/// Where it is served.
const PATH: &str = "/v2/export";
/// Bytes handed to the connection at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait for the connection.
const CHUNKS: usize = 4;
/// How long the reader may take for a chunk: the walk holds a thread and old versions of the state.
const READER_LIMIT: Duration = Duration::from_secs(60);

/// Answers with the whole tree below the path.
pub(super) async fn answer<B>(v2: &Arc<V2>, request: &Request<B>) -> Response<ClientBody> {
    let path = request.uri().path().strip_prefix(PATH).unwrap_or_default();
    let response = match unescape(path.as_bytes(), false).and_then(|path| clean(&path)) {
        Ok(path) => start(v2, source(request), path).await,
        Err(refusal) => refused(&Error { code: refusal.code, cause: refusal.cause.into(), index: 0 }),
    };
    with_cluster_id(v2, response)
}

async fn start(v2: &Arc<V2>, source: Source, path: Bytes) -> Response<ClientBody> {
    let Ok(prefix) = std::str::from_utf8(&path).map(str::to_owned) else {
        return refused(&Error { code: 210, cause: "the path to export is not UTF-8".into(), index: 0 });
    };
    if let Err(error) = v2.state.consensus.read_barrier(v2.deadline()).await {
        return refused(&raft_error(&Failure::from(error).to_string()));
    }
    // Lanes apart: a walk goes as slowly as its reader, and nobody's list is to wait for that.
    let turn = match v2.state.work.exports.turn(source, Some(v2.deadline())).await {
        Ok(turn) => turn,
        Err(undone) => return refused(&raft_error(&busy(undone).to_string())),
    };
    let view = v2.state.store.view();
    let now = unix_now();
    // A look at the node itself costs nothing and refuses what is not there while a status can still be sent.
    let found = v2::walk(&view, &path, &mut |_, _| ControlFlow::Break(()));
    let index = match found.and_then(|found| Ok((found, v2::index(&view)?))) {
        Ok((Ok(()), index)) => index,
        Ok((Err(refusal), _)) => return refused(&refusal),
        Err(error) => return broken(&error),
    };
    let cluster = format!("{:x}", v2.state.consensus.status().cluster_id);
    let header = Header { all_hidden: true, ..Header::new(&prefix, index, cluster, now) };
    let (chunks, body) = mpsc::channel(CHUNKS);
    let (stopping, runtime) = (v2.state.stopping.clone(), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        // A reader that is gone or asleep and a member that stops end the walk alike: the file has no trailer then.
        let hand_over = |chunk| {
            runtime.block_on(async {
                tokio::select! {
                    sent = tokio::time::timeout(READER_LIMIT, chunks.send(chunk)) => matches!(sent, Ok(Ok(()))),
                    () = stopping.cancelled() => false,
                }
            })
        };
        let walk = |visit: &mut dyn FnMut(&Bytes, &Stored) -> ControlFlow<()>| v2::walk(&view, &path, visit).map(drop);
        if let Err(error) = write_tree(&header, walk, &hand_over) {
            tracing::warn!(%error, path = %header.prefix, "an export of the v2 tree broke off");
            // Cuts the connection, if anybody still reads. Nobody takes the part for the whole: it has no trailer.
            let _gone = chunks.try_send(Err(io::Error::other(error.to_string())));
        }
    });
    let body = ClientBody::streamed(StreamBody::new(ReceiverStream::new(body).map_ok(Frame::data)));
    with_raft(v2, index, respond(StatusCode::OK, "application/x-ndjson", body))
}

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("its reader is gone or takes nothing, or this member stops")]
    Reader,
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    View(#[from] ViewError),
}

fn write_tree(
    header: &Header,
    walk: impl FnOnce(&mut dyn FnMut(&Bytes, &Stored) -> ControlFlow<()>) -> Result<(), ViewError>,
    hand_over: &dyn Fn(Result<Bytes, io::Error>) -> bool,
) -> Result<(), Broken> {
    let mut writer = Writer::new(Vec::new(), header)?;
    let mut broken = None;
    walk(&mut |path, stored| {
        let written = writer.node(&node(path, stored)).map_err(Broken::from).and_then(|()| {
            let ready = writer.output();
            if ready.len() < CHUNK_BYTES || hand_over(Ok(std::mem::take(ready).into())) {
                return Ok(());
            }
            Err(Broken::Reader)
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                broken = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = broken {
        return Err(error);
    }
    let rest = writer.finish()?;
    if hand_over(Ok(rest.into())) { Ok(()) } else { Err(Broken::Reader) }
}

fn node(path: &Bytes, stored: &Stored) -> Node {
    let expiration: Option<UnixNanos> = stored.expiration;
    Node { key: path.to_vec(), value: (!stored.dir).then(|| stored.value.to_vec()), expiration }
}
