//! Settings: the command line, the `ETCD_*` variables or a configuration file, parsed once into one
//! valid [`Settings`] value.
//!
//! Everything here is pure: arguments, environment and a file reader in, a value or one error
//! message out. Only [`from_process`] reads the process's own. The charm builds a `Settings` as a
//! struct literal over [`Settings::default`], calls [`Settings::check`] and writes
//! [`Settings::to_yaml`]; the server parses that file into the same type, so the two cannot
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

/// The etcd release this server reports, because clients depend on it.
pub const SERVER_VERSION: &str = "3.6.5";

/// The cluster version of that release.
pub const CLUSTER_VERSION: &str = "3.6.0";

/// This program's own name and version, second line of `--version`.
pub const OWN_VERSION: &str = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));

/// Largest configuration file that is read.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// What the process was started to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run a member.
    Run {
        /// The checked settings.
        settings: Box<Settings>,
        /// Warnings to log once logging is initialised.
        notices: Vec<String>,
    },
    /// Create a data directory from a snapshot file.
    Restore(Box<Restore>),
    /// Print the status of a snapshot file.
    SnapshotStatus(SnapshotStatus),
    /// Print this text to standard output and exit with 0.
    Print(String),
}

/// Parses the arguments after the program's name, the environment, and through `read_file` the
/// configuration file if one is given; a configuration file replaces all other flags and
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

/// The reason a file cannot be read; etcd's message if it does not exist.
fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Reads at most one byte more than [`MAX_FILE_BYTES`]: a huge file is refused without loading it.
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
