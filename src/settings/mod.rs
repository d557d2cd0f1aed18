//! Settings: the command line, the `ETCD_*` variables or a configuration file, read once into one
//! [`Settings`] value whose parts cannot be wrong.
//!
//! Everything here is pure: arguments, environment and a file reader come in, a value or one
//! sentence comes out. [`from_process`] is the only function that looks at the process. The charm
//! builds a `Settings` as a struct literal over [`Settings::default`], calls [`Settings::check`] and
//! writes [`Settings::to_yaml`]; the daemon reads that file into the same type, so the two cannot
//! drift apart.

mod auth;
mod build;
mod check;
mod error;
mod features;
mod file;
mod flags;
mod help;
pub mod ids;
mod model;
mod render;
mod snapshot;
mod sources;
mod urls;
mod values;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

pub use auth::{AuthToken, Jwt};
pub use error::{CheckError, SettingsError};
pub use features::FeatureGates;
pub use flags::{FLAGS, Flag, Group, Kind};
pub use help::USAGE;
pub use model::{
    AllowList, Authentication, Checks, Keepalive, Limits, LogOutput, Logging, Memory, Settings, TlsPolicy, TlsSettings,
};
pub use snapshot::{Restore, SnapshotStatus};
pub use urls::{InitialCluster, Scheme, Url, UrlError, UrlList};
pub use values::{
    AutoCompaction, CipherSuite, ClusterState, LogFormat, LogLevel, Quota, TlsVersion, format_duration, parse_duration,
};

/// The etcd release whose behaviour this server reports, because clients switch on it.
pub const SERVER_VERSION: &str = "3.6.5";

/// The cluster version of that release.
pub const CLUSTER_VERSION: &str = "3.6.0";

/// This program's own name and version, second line of `--version`.
pub const OWN_VERSION: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));

/// Largest configuration file that is read.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// What a started process has to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run a member.
    Run {
        /// The checked settings.
        settings: Box<Settings>,
        /// Sentences to log as warnings once logging works.
        notices: Vec<String>,
    },
    /// Make a data directory from a snapshot file.
    Restore(Box<Restore>),
    /// Say what a snapshot file holds.
    SnapshotStatus(SnapshotStatus),
    /// Print this text to standard output and exit with 0.
    Print(String),
}

/// Reads the words after the program's name, the environment, and through `read_file` the
/// configuration file when one is named; a configuration file replaces all other flags and
/// variables.
pub fn read(
    words: &[String],
    environment: &BTreeMap<String, String>,
    read_file: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Invocation, SettingsError> {
    if let Some(invocation) = snapshot::read(words)? {
        return Ok(invocation);
    }
    let (mut values, config_file) = match sources::read_command_line(words)? {
        sources::CommandLine::Help => return Ok(Invocation::Print(help::full())),
        sources::CommandLine::Version => return Ok(Invocation::Print(help::version())),
        sources::CommandLine::Flags { values, config_file } => (values, config_file),
    };
    let from_variable = || environment.get("ETCD_CONFIG_FILE").filter(|path| !path.is_empty());
    if let Some(path) = config_file.as_ref().or_else(from_variable) {
        let bytes = read_file(Path::new(path))
            .map_err(|error| SettingsError::File { path: path.clone(), reason: unreadable(&error) })?;
        let ignored: Vec<&str> = values.flags.keys().copied().collect();
        let mut settings = file::read(&bytes, path)?;
        if !ignored.is_empty() {
            settings.1.push(format!("flags beside --config-file are ignored: --{}", ignored.join(", --")));
        }
        return Ok(Invocation::Run { settings: Box::new(settings.0), notices: settings.1 });
    }
    sources::add_environment(&mut values, environment)?;
    let (settings, notices) = build::from_values(&values, build::Source::FlagsAndVariables)?;
    Ok(Invocation::Run { settings: Box::new(settings), notices })
}

/// [`read`] with this process's own arguments, environment and file system.
pub fn from_process() -> Result<Invocation, SettingsError> {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let environment = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    read(&words, &environment, &|path| read_bounded(path))
}

/// Why a file cannot be read; for one that is not there in the words etcd has for it.
fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads at most one byte more than [`MAX_FILE_BYTES`], so that a huge file is refused, not held.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
