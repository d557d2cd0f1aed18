//! Errors of the tools, each message with what to do.

use std::path::PathBuf;

use crate::client::ClientError;
use crate::tls::TlsError;
use crate::treefile::{FileError, WriteError};

/// Why a tool failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A server is unreachable or refused a v3 call.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// No endpoint works.
    #[error("none of the endpoints works: {0}")]
    Endpoints(String),
    /// PEM files.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// `--user` without a password.
    #[error("--user {0} needs a password: give --user {0}:<password> or set ETCDCTL_PASSWORD")]
    Password(String),
    /// A path that is no v2 path.
    #[error("{flag} {path:?} is no path of a v2 node: it begins with / and has no empty part, . or ..")]
    Path {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: String,
    },
    /// A `--hidden` path that is outside the prefix or not hidden.
    #[error(
        "--hidden {0:?} names no hidden node below the prefix: its last part begins with _ and it is below --prefix"
    )]
    NotHidden(String),
    /// A v2 error.
    #[error("{endpoint} refuses {what}: {code}: {message} ({cause})")]
    Refused {
        /// Who.
        endpoint: String,
        /// What was asked.
        what: String,
        /// etcd's code.
        code: u32,
        /// etcd's sentence.
        message: String,
        /// etcd's cause.
        cause: String,
    },
    /// Not a v2 server.
    #[error(
        "{endpoint} answers {what} with HTTP {status} and no v2 answer (is v2 enabled there? etcd 3.4 needs --enable-v2)"
    )]
    NoV2 {
        /// Who.
        endpoint: String,
        /// What was asked.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// A malformed response.
    #[error("the answer of {endpoint} cannot be used: {reason}")]
    Answer {
        /// Who.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
    /// A file on this machine.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// `read`, `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An invalid export.
    #[error("{path}: {error}; nothing was written")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: FileError,
    },
    /// The file changed after it was verified.
    #[error(
        "{path} changed while it was read: {error}; what was written so far stays (run again with a good file and --resume)"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: FileError,
    },
    /// The tree cannot be written.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// The target has data.
    #[error(
        "{prefix} of the target is not empty (it holds {found}): nothing was written; choose another --prefix, or give --resume or --overwrite"
    )]
    NotEmpty {
        /// The target's node.
        prefix: String,
        /// Something that is there.
        found: String,
    },
    /// Writes failed repeatedly.
    #[error("{done} nodes were written, then {last} (run again with --resume)")]
    BrokeOff {
        /// Nodes written.
        done: u64,
        /// The last error.
        last: String,
    },
    /// Some nodes could not be written.
    #[error("{0} nodes are in the way, see above; everything else was written")]
    Conflicts(u64),
    /// Keys exist with other values.
    #[error("{0} v3 keys exist with other values, see above; nothing was written (--skip-conflicts copies the rest)")]
    KeyConflicts(u64),
    /// Keys exist with other values; the rest was copied.
    #[error("{0} v3 keys exist with other values, see above, and stay as they are; the rest was copied")]
    KeysSkipped(u64),
    /// `--ttl=refuse`.
    #[error("{count} files have a TTL, such as {example}; nothing was written (--ttl=lease or --ttl=drop copies them)")]
    Ttl {
        /// How many.
        count: u64,
        /// One.
        example: String,
    },
    /// `compare` found differences.
    #[error("the trees differ: {0} differences, see above")]
    Differ(u64),
}
