//! How a member ends: what tells it to, and in which order its parts stop.

use std::time::Duration;

use futures::future::join_all;
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use tokio::signal::unix::{Signal as Caught, SignalKind, signal as catch};
use tokio::time::{Instant, timeout};

use super::parts::Member;

/// How long handing leadership over may take.
const TRANSFER: Duration = Duration::from_millis(800);
/// How long open requests may take to end.
const DRAIN: Duration = Duration::from_millis(500);
/// How long consensus may take to stop.
const STOP: Duration = Duration::from_secs(2);

/// Why a member ended in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Signal(Signal),
    /// It was removed from the cluster.
    Removed,
}

impl Ended {
    /// Ends the process as this end demands: by the same signal again, so that whoever waits sees it; with 0 as the
    /// first process of a container, which cannot kill itself, and after a removal.
    pub fn exit(self) -> u8 {
        let Self::Signal(number) = self else { return 0 };
        if std::process::id() != 1 {
            // SAFETY: the default disposition runs no code of ours.
            let _ = unsafe { signal(number, SigHandler::SigDfl) };
            let _ = raise(number);
        }
        0
    }
}

/// The signals that end a member.
pub struct Signals {
    terminate: Caught,
    interrupt: Caught,
}

impl Signals {
    /// Starts to catch them; from here on they end nothing by themselves.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        let signal = tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
        };
        tracing::info!(signal = signal.as_str(), "received signal; shutting down");
        signal
    }
}

/// Stops the parts of a member in order; `ended` is `None` when it may not run.
pub async fn stop(member: Member, ended: Option<Ended>) {
    if ended == Some(Ended::Removed) {
        tracing::info!("this member has been permanently removed from the cluster; its data directory may be deleted");
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let Member { consensus, store, shutdown, streams, listeners, .. } = member;
    shutdown.drain();
    consensus.step_down(Instant::now() + TRANSFER).await;
    streams.cancel();
    if timeout(DRAIN, join_all(listeners)).await.is_err() {
        shutdown.cut();
    }
    if timeout(STOP, consensus.shutdown()).await.is_err() {
        tracing::warn!("consensus did not stop in time; it is cut off");
    }
    drop(store);
    tracing::info!("stopped");
}
