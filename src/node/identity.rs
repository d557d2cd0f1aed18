//! Who this data directory is: `member/identity.json`, written once when a member is born, and the lock beside it.
//!
//! The ids are never derived again from flags, which may have changed since. A directory of a newer format, or one whose
//! log has vanished, is refused: continuing could break a promise that this member has given.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

/// Format of the data directory that this program writes, and the newest it reads.
pub const DATA_FORMAT: u32 = 1;

const IDENTITY: &str = "identity.json";
const LOCK: &str = "lock";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("cannot {action} {path}: {cause}; check the owner, the mode and the free space of --data-dir")]
    Files {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// Another process runs on it.
    #[error("data directory {0} is in use by another process; stop that one or choose another --data-dir")]
    InUse(PathBuf),
    /// The identity cannot be read.
    #[error(
        "{path} is damaged ({cause}); if this member cannot be restored, remove it from the cluster and add it anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Written by a newer program.
    #[error(
        "data directory {path} has format {found}, this program knows up to {DATA_FORMAT}; install the newer version"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Two programs of etcd have used it.
    #[error("invalid datadir. Both member and proxy directories exist in {0}; remove the one that is not used")]
    Proxy(PathBuf),
    /// There is data, but nothing that says whose.
    #[error("{0} holds data but no {IDENTITY}; it is no data directory of this program, choose another --data-dir")]
    Foreign(PathBuf),
}

/// A member of the very first list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstMember {
    /// Its name.
    pub name: String,
    /// Its peer URLs, sorted.
    pub peer_urls: Vec<String>,
}

/// What the data directory says of its member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of everything under `member/`.
    pub format: u32,
    /// Member id, lowercase hexadecimal as everywhere.
    #[serde(with = "hexadecimal")]
    pub member_id: u64,
    /// Cluster id.
    #[serde(with = "hexadecimal")]
    pub cluster_id: u64,
    /// The first list of a new cluster, by hexadecimal id; empty for a member that joined.
    pub first_members: BTreeMap<String, FirstMember>,
    /// Whether the log has ever held an entry. From then on an empty log is a lost log.
    pub has_log: bool,
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{id:x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

/// A data directory that this process holds.
pub struct DataDir {
    member: PathBuf,
    // Held for its lock, which goes with it.
    _lock: Flock<File>,
}

fn files(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_path_buf();
    move |cause| IdentityError::Files { action, path, cause }
}

fn private_dir(path: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(found) = fs::metadata(path)
        && found.is_dir()
    {
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            // etcd says so as well and goes on: the directory may be shared on purpose.
            tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others may read this directory; give it mode 700");
        }
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(files("create", path))
}

impl DataDir {
    /// Whether `data_dir` holds a member already; etcd then ignores what is said about a first start.
    pub fn has_member(data_dir: &Path) -> bool {
        data_dir.join("member").join(IDENTITY).exists()
    }

    /// Makes the directory if need be and takes its lock.
    ///
    /// # Errors
    /// It cannot be made, or another process has it.
    pub fn open(data_dir: &Path) -> Result<Self, IdentityError> {
        let member = data_dir.join("member");
        if data_dir.join("proxy").is_dir() && member.is_dir() {
            return Err(IdentityError::Proxy(data_dir.to_path_buf()));
        }
        private_dir(data_dir)?;
        Self::at(member, data_dir)
    }

    /// The same for a directory that will be `<data-dir>/member` once it is complete.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn at(member: PathBuf, data_dir: &Path) -> Result<Self, IdentityError> {
        private_dir(&member)?;
        let path = member.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(files("open", &path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, _)| IdentityError::InUse(data_dir.to_path_buf()))?;
        Ok(Self { member, _lock: lock })
    }

    /// Removes everything but the lock.
    ///
    /// # Errors
    /// The file system refused.
    pub fn clear(&self) -> Result<(), IdentityError> {
        for entry in fs::read_dir(&self.member).map_err(files("list", &self.member))? {
            let path = entry.map_err(files("list", &self.member))?.path();
            if path.file_name() == Some(LOCK.as_ref()) {
                continue;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(files("remove", &path))?;
        }
        Ok(())
    }

    /// Where everything of the member lies.
    pub fn member(&self) -> &Path {
        &self.member
    }

    /// Reads the identity; `None` for a fresh directory.
    ///
    /// # Errors
    /// It is damaged or newer, or the directory holds data without one.
    pub fn identity(&self) -> Result<Option<Identity>, IdentityError> {
        let path = self.member.join(IDENTITY);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let used = ["wal", "state", "snap"].iter().any(|part| self.member.join(part).exists());
                return if used { Err(IdentityError::Foreign(self.member.clone())) } else { Ok(None) };
            }
            Err(cause) => return Err(files("read", &path)(cause)),
        };
        let damaged =
            |cause: serde_json::Error| IdentityError::Damaged { path: path.clone(), cause: cause.to_string() };
        let plain: serde_json::Value = serde_json::from_slice(&bytes).map_err(damaged)?;
        let found = plain.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0) as u32;
        if found > DATA_FORMAT {
            return Err(IdentityError::Newer { path: self.member.clone(), found });
        }
        serde_json::from_value(plain).map(Some).map_err(damaged)
    }

    /// Writes the identity so that a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// The file system refused.
    pub fn write(&self, identity: &Identity) -> Result<(), IdentityError> {
        let (path, new) = (self.member.join(IDENTITY), self.member.join("identity.json.new"));
        let text = serde_json::to_vec_pretty(identity)
            .map_err(|error| IdentityError::Damaged { path: path.clone(), cause: error.to_string() })?;
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.member)?.sync_all()
        };
        write().map_err(files("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Identity {
        let first = FirstMember { name: "a".into(), peer_urls: vec!["http://a:1".into()] };
        Identity {
            format: DATA_FORMAT,
            member_id: 0x00a8_f345_8387_986d,
            cluster_id: u64::MAX,
            first_members: BTreeMap::from([("a8f3458387986d".to_owned(), first)]),
            has_log: false,
        }
    }

    #[test]
    fn an_identity_is_read_back_as_it_was_written() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::open(temp.path()).expect("a fresh directory");
        assert_eq!(dir.identity().expect("readable"), None);
        dir.write(&sample()).expect("written");
        assert_eq!(dir.identity().expect("readable"), Some(sample()));
    }

    #[test]
    fn two_processes_never_share_a_directory() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let first = DataDir::open(temp.path()).expect("a fresh directory");
        assert!(matches!(DataDir::open(temp.path()), Err(IdentityError::InUse(_))));
        drop(first);
        assert!(DataDir::open(temp.path()).is_ok());
    }

    #[test]
    fn a_newer_damaged_or_foreign_directory_is_refused_by_name() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::open(temp.path()).expect("a fresh directory");
        dir.write(&Identity { format: DATA_FORMAT + 1, ..sample() }).expect("written");
        assert!(matches!(dir.identity(), Err(IdentityError::Newer { found: 2, .. })));
        fs::write(dir.member().join(IDENTITY), b"{").expect("written");
        assert!(matches!(dir.identity(), Err(IdentityError::Damaged { .. })));
        fs::remove_file(dir.member().join(IDENTITY)).expect("removed");
        fs::create_dir(dir.member().join("snap")).expect("made");
        assert!(matches!(dir.identity(), Err(IdentityError::Foreign(_))));
    }
}
