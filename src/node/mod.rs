//! The node: builds the parts of a member from its settings, owns their tasks, and stops them in order.
//!
//! One current-thread runtime serves clients, peers and consensus; the log, the state's engine and big reads have
//! threads of their own. Start: data directory and lock, sockets, certificates, identity, log, state, consensus, peer
//! port, client port, publication, readiness. Stop: no new connections, leadership handed over, open requests drained,
//! consensus, state and log closed.

mod birth;
mod bounds;
mod identity;
mod parts;
mod ready;
mod restore;
mod snapshot_file;
mod space;
mod stop;

use crate::api::identity::jwt::KeyError;
use crate::corruption::Inconsistent;
use crate::listen::ListenError;
use crate::raft::StartError;
use crate::settings::{CheckError, Restore, Settings, SnapshotStatus};
use crate::store::StoreError;
use crate::store::log::LogError;
use crate::tls::TlsError;
use crate::work::POOL_THREADS;
use birth::BirthError;
use identity::IdentityError;
use parts::Member;
use stop::Ended;

/// Why a member does not start, or cannot go on. Every sentence names the thing and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The runtime cannot be built, or signals not be caught.
    #[error("cannot {action}: {cause}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The first start of this member does not fit the cluster it is to be born into.
    #[error(transparent)]
    Bootstrap(#[from] CheckError),
    /// The member cannot come into being.
    #[error(transparent)]
    Birth(#[from] BirthError),
    /// An address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The keys of signed tokens cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The Raft log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Consensus does not start.
    #[error(transparent)]
    Raft(#[from] StartError),
    /// A peer address cannot be bound.
    #[error("listen tcp {address}: bind: {cause} (is another process on this address? see --listen-peer-urls)")]
    PeerPort {
        /// The URL's address.
        address: String,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The peer URL's scheme is not served.
    #[error("peer URL {0} is not http or https; give --listen-peer-urls an address that peers can reach")]
    PeerScheme(String),
    /// A new cluster was to be forced while the old one lives.
    #[error(
        "--force-new-cluster: {answering} of this cluster still answers, and there would be two clusters with one id; \
         stop it first, or start this member without --force-new-cluster"
    )]
    OthersLive {
        /// Name and URL of who answers.
        answering: String,
    },
    /// The file systems cannot be watched.
    #[error("cannot watch the free space of {dir}: {cause}")]
    Space {
        /// The data directory.
        dir: String,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The log is gone although the member has run.
    #[error(
        "member {id} has run before and its Raft log is gone: it may have voted and acknowledged, so it must not start \
         empty. Remove it (etcdctl member remove {id}), empty {dir}, add it again and start it with \
         --initial-cluster-state existing"
    )]
    LogLost {
        /// The member.
        id: String,
        /// The data directory.
        dir: String,
    },
    /// Its keyspace is not the others'.
    #[error(transparent)]
    Corrupt(#[from] Inconsistent),
    /// The directory is another member's.
    #[error(
        "data directory {dir} belongs to member {id} ({listed}), but this start is for {given}; check --data-dir, --name \
         and --initial-advertise-peer-urls"
    )]
    OtherMember {
        /// The data directory.
        dir: String,
        /// Whose it is.
        id: String,
        /// Its name and URLs.
        listed: String,
        /// The name and URLs given.
        given: String,
    },
}

/// Runs a member until a signal, or its removal from the cluster, ends it, and returns the exit code: 1 when it did not
/// start, with the reason as the last line of the log.
pub fn run(settings: Settings, notices: &[String]) -> u8 {
    let ended = match crate::logging::init(&settings.logging) {
        Ok(_log) => {
            for notice in notices {
                tracing::warn!("{notice}");
            }
            let ended = run_logged(settings);
            if let Err(error) = &ended {
                tracing::error!(%error, "the member does not start");
            }
            ended
        }
        Err(error) => {
            crate::logging::print("fatal", "the log cannot be opened", &[("error", &error.to_string())]);
            return 1;
        }
    };
    ended.map_or(1, Ended::exit)
}

/// Makes a data directory from a snapshot file and returns the exit code.
pub fn restore(asked: &Restore) -> u8 {
    let restored = match crate::logging::init(&asked.member.logging) {
        Ok(_log) => restore::restore(asked).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match restored {
        Ok(_) => 0,
        Err(error) => {
            // Straight out: whoever ran the command must see it, however busy the machine is.
            crate::logging::print("fatal", "nothing was restored", &[("error", &error)]);
            1
        }
    }
}

/// What `etcd snapshot status` prints, or why not.
///
/// # Errors
/// The sentence for people.
pub fn snapshot_status(asked: &SnapshotStatus) -> Result<String, String> {
    snapshot_file::status(asked).map_err(|error| error.to_string())
}

fn run_logged(settings: Settings) -> Result<Ended, NodeError> {
    let system = |action| move |cause| NodeError::System { action, cause };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime =
        runtime.enable_all().max_blocking_threads(POOL_THREADS).build().map_err(system("build the runtime"))?;
    let ended = runtime.block_on(async {
        let signals = stop::Signals::catch().map_err(system("catch signals"))?;
        serve(settings, signals).await
    });
    // Whatever still runs is cut here; everything durable was closed before.
    runtime.shutdown_background();
    ended
}

async fn serve(settings: Settings, mut signals: stop::Signals) -> Result<Ended, NodeError> {
    let member = tokio::select! {
        started = Member::start(settings) => started?,
        signal = signals.next() => return Ok(Ended::Signal(signal)),
    };
    let mut expelled = member.consensus.expelled();
    let ended = tokio::select! {
        Err(inconsistent) = ready::make_ready(&member) => Err(NodeError::Corrupt(inconsistent)),
        signal = signals.next() => Ok(Ended::Signal(signal)),
        _ = expelled.wait_for(|expelled| *expelled) => Ok(Ended::Removed),
    };
    stop::stop(member, ended.as_ref().ok().copied()).await;
    ended
}
