//! The command lines of `etcd v2`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

/// Moves data of the v2 API.
#[derive(Debug, Parser)]
#[command(name = "etcd v2", bin_name = "etcd v2", no_binary_name = true, max_term_width = 100)]
pub enum Command {
    /// Write the v2 tree of a cluster, etcd's own or this one's, to a file.
    ///
    /// The tree is of one moment. TTLs are kept as times of expiry. Nodes whose name begins with `_` are hidden: a server
    /// of this project gives them all; etcd lists them to nobody, so name each with --hidden. Access control is not in it.
    Export(Export),
    /// Write an exported tree into a cluster, etcd's own or this one's.
    ///
    /// The whole file is checked before the first write. What has expired by then is left out.
    Import(Import),
    /// Copy every file of a v2 tree to the v3 key of its path.
    ///
    /// Directories and empty directories have no counterpart and are dropped. Nothing is written while a key exists with
    /// another value, unless --skip-conflicts is given; existing keys are never overwritten.
    #[command(name = "copy-to-v3")]
    CopyToV3(Copy),
    /// Compare two exports: the same nodes, values and expirations?
    Compare(Compare),
}

/// A server and how to talk to it.
#[derive(Debug, Clone, Args)]
pub struct Server {
    /// Client URLs; the next is tried when one fails.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// Authorities that sign the server's certificate, PEM; the system's when not given.
    #[arg(long)]
    pub cacert: Option<PathBuf>,
    /// Client certificate, PEM.
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
    /// User, or user:password; without a password the variable ETCDCTL_PASSWORD is read.
    #[arg(long)]
    pub user: Option<String>,
}

/// What is exported.
#[derive(Debug, Clone, Args)]
pub struct Tree {
    /// The node to begin at.
    #[arg(long, default_value = "/")]
    pub prefix: String,
    /// A hidden node below the prefix, to be read by its name; may be given often.
    #[arg(long)]
    pub hidden: Vec<String>,
}

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    pub server: Server,
    #[command(flatten)]
    pub tree: Tree,
    /// Where to write it; `-` is standard output. An old file is replaced when the new one is whole.
    pub file: PathBuf,
}

/// `import`.
#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    pub server: Server,
    /// Put the exported node here instead of where it was.
    #[arg(long)]
    pub prefix: Option<String>,
    /// Go on with an import that broke off: nodes that are there already stay and must be the same.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace files that are there already.
    #[arg(long)]
    pub overwrite: bool,
    /// Check the file, and whether the target is empty, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Requests at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    /// The export; `-` is standard input.
    pub file: PathBuf,
}

/// What becomes of a time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ttl {
    /// A lease that ends at the same time.
    Lease,
    /// The key is permanent.
    Drop,
    /// Nothing is copied while a file has one.
    Refuse,
}

/// `copy-to-v3`.
#[derive(Debug, Args)]
pub struct Copy {
    #[command(flatten)]
    pub server: Server,
    #[command(flatten)]
    pub tree: Tree,
    /// Read this export instead of a server; --endpoints is then the target.
    #[arg(long, conflicts_with_all = ["prefix", "hidden"])]
    pub from: Option<PathBuf>,
    /// The target's client URLs; the source's when not given.
    #[arg(long, value_delimiter = ',')]
    pub to_endpoints: Vec<String>,
    /// As --cacert, for --to-endpoints.
    #[arg(long, requires = "to_endpoints")]
    pub to_cacert: Option<PathBuf>,
    /// As --cert, for --to-endpoints.
    #[arg(long, requires_all = ["to_endpoints", "to_key"])]
    pub to_cert: Option<PathBuf>,
    /// As --key, for --to-endpoints.
    #[arg(long, requires_all = ["to_endpoints", "to_cert"])]
    pub to_key: Option<PathBuf>,
    /// User of the v3 keyspace, or user:password; without a password ETCDCTL_PASSWORD is read. Access control of v2
    /// and of v3 know different users.
    #[arg(long)]
    pub to_user: Option<String>,
    /// What becomes of TTLs.
    #[arg(long, value_enum, default_value = "lease")]
    pub ttl: Ttl,
    /// Copy what can be copied although some keys exist with other values.
    #[arg(long)]
    pub skip_conflicts: bool,
    /// Largest request the target's members take, as their flag of this name says; larger values count as conflicts.
    #[arg(long, default_value_t = 1_572_864)]
    pub max_request_bytes: usize,
    /// Say what would be done and write nothing.
    #[arg(long)]
    pub dry_run: bool,
}

impl Copy {
    /// The server with the v3 keyspace.
    pub fn target(&self) -> Server {
        if self.to_endpoints.is_empty() {
            return Server { user: self.to_user.clone(), ..self.server.clone() };
        }
        Server {
            endpoints: self.to_endpoints.clone(),
            cacert: self.to_cacert.clone(),
            cert: self.to_cert.clone(),
            key: self.to_key.clone(),
            user: self.to_user.clone(),
        }
    }
}

/// `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// Seconds by which expirations may differ: the v2 API takes whole seconds, and clocks differ.
    #[arg(long, default_value_t = 2)]
    pub ttl_tolerance: u32,
    /// One export.
    pub left: PathBuf,
    /// The other.
    pub right: PathBuf,
}

/// Parses the arguments after `v2`; the error is the text to print and the exit code.
pub fn read(words: impl Iterator<Item = OsString>) -> Result<Command, (String, u8)> {
    Command::try_parse_from(words).map_err(|error| (error.to_string(), if error.use_stderr() { 2 } else { 0 }))
}
