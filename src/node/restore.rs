//! `etcd restore`: the data directory of a new cluster's member, from a snapshot file.
//!
//! Everything is made under `<data-dir>/member.restoring` and gets its name last: before that there is nothing a member
//! would start from, after it everything is durable. Members of the new cluster do this with the same file and get equal
//! states; the log of each begins behind an entry that nobody has, so whoever joins later is sent a snapshot.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::identity::{DATA_FORMAT, DataDir, Identity, IdentityError};
use super::snapshot_file::{FileError, SnapshotFile};
use crate::raft::types::Member;
use crate::settings::ids::{hex, member_id, restored_cluster_id};
use crate::settings::{Restore, Settings};
use crate::store::log::{self, LogError};
use crate::store::{Import, Imported, import};

/// What the directory is called until it is complete.
const STAGING: &str = "member.restoring";
/// Term of the entry that is said to have made the state.
const TERM: u64 = 1;

/// Why nothing was restored. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The snapshot file is refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is data already.
    #[error("data-dir {0:?} not empty or could not be read; a restore makes a new one, choose another --data-dir")]
    DataDir(PathBuf),
    /// There is a log already.
    #[error("wal-dir {0:?} exists; a restore makes a new one, choose another --wal-dir")]
    WalDir(PathBuf),
    /// The disk is too small.
    #[error(
        "{path} has {free} bytes free, and the snapshot needs at least {needed}; free space or choose another disk"
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// Bytes wanted.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A directory cannot be made.
    #[error("cannot {action} {path}: {cause}")]
    Files {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The log cannot be made.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The identity cannot be written, or somebody else restores here.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

fn files(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
    let path = path.to_owned();
    move |cause| RestoreError::Files { action, path, cause }
}

/// Restores, and says so in the log.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(asked: &Restore) -> Result<Imported, RestoreError> {
    let data_dir = asked.member.data_dir.display();
    let file = SnapshotFile::open(&asked.file, asked.skip_hash_check)?;
    // Only looks: a file that is no database is refused before a directory is made.
    file.reader()?;
    let place = Place::find(&asked.member, file.len)?;
    tracing::info!(path = %asked.file.display(), %data_dir, bytes = file.len, "restoring snapshot");
    let members = new_members(&asked.member);
    let ids: Vec<u64> = members.keys().copied().collect();
    let own = members.iter().find(|(_, member)| member.name == asked.member.name).map(|(id, _)| *id);
    let member_id = own.ok_or_else(|| RestoreError::DataDir(asked.member.data_dir.clone()))?;
    let cluster_id = restored_cluster_id(&ids, &file.sum, asked.bump_revision.unwrap_or(0));
    for (id, member) in &members {
        tracing::info!(
            cluster_id = hex(cluster_id),
            added_peer_id = hex(*id),
            added_peer_peer_urls = member.peer_urls.join(","),
            "added member"
        );
    }
    let applied = (TERM, ids.len() as u64);
    let identity =
        Identity { format: DATA_FORMAT, member_id, cluster_id, first_members: BTreeMap::new(), has_log: true };
    let how = Import { members, applied, bump: asked.bump_revision };
    let imported = place.fill(|held, wal| {
        let mut database = file.reader()?;
        let imported = import(&mut database, held.member(), &how).map_err(|cause| file.refuse(cause))?;
        log::create_after(wal, applied, ids[0])?;
        held.write(&identity)?;
        Ok(imported)
    })?;
    let Imported { revision, compacted, keys, leases } = imported;
    let (local_member_id, cluster_id) = (hex(member_id), hex(cluster_id));
    tracing::info!(
        path = %asked.file.display(), %data_dir, revision, compacted, keys, leases, local_member_id, cluster_id,
        "restored snapshot"
    );
    Ok(imported)
}

/// The members of the new cluster, with the ids that they would have without a snapshot.
fn new_members(settings: &Settings) -> BTreeMap<u64, Member> {
    let member = |(name, urls): (&String, &crate::settings::UrlList)| {
        let mut peer_urls = urls.texts();
        peer_urls.sort();
        let id = member_id(&peer_urls, &settings.initial_cluster_token);
        (id, Member { name: name.clone(), peer_urls, client_urls: Vec::new() })
    };
    settings.initial_cluster.iter().map(member).collect()
}

/// Where the new member will be.
struct Place {
    data_dir: PathBuf,
    /// Whether the directory is ours to remove.
    made: bool,
    wal_dir: Option<PathBuf>,
}

impl Place {
    /// Looks whether the directories are free and the disk is large enough. Changes nothing.
    fn find(settings: &Settings, bytes: u64) -> Result<Self, RestoreError> {
        let data_dir = settings.data_dir.clone();
        let occupied = || RestoreError::DataDir(data_dir.clone());
        let made = match fs::read_dir(&data_dir) {
            Ok(entries) => {
                for entry in entries {
                    let name = entry.map_err(|_| occupied())?.file_name();
                    // What a restore that was killed left behind is nobody's.
                    if name != STAGING && name != "lost+found" {
                        return Err(occupied());
                    }
                }
                false
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(_) => return Err(occupied()),
        };
        if let Some(wal) = settings.wal_dir.as_ref().filter(|wal| fs::symlink_metadata(wal).is_ok()) {
            return Err(RestoreError::WalDir(wal.clone()));
        }
        let near = data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new(".")).to_owned();
        let found = statvfs(&near).map_err(|errno| files("look at the disk of", &near)(errno.into()))?;
        let free = found.blocks_available() * found.fragment_size();
        if free < bytes {
            return Err(RestoreError::NoRoom { path: near, needed: bytes, free });
        }
        Ok(Self { data_dir, made, wal_dir: settings.wal_dir.clone() })
    }

    /// Lets `build` fill the staging directory and the log's, then gives the member its name. Leaves nothing of its own
    /// behind when that fails, and nothing of anybody else is touched.
    fn fill<T>(&self, build: impl FnOnce(&DataDir, &Path) -> Result<T, RestoreError>) -> Result<T, RestoreError> {
        let staging = self.data_dir.join(STAGING);
        // The lock first: two restores at once must not clean up after each other.
        let held = DataDir::at(staging.clone(), &self.data_dir)?;
        let filled = held.clear().map_err(RestoreError::from).and_then(|()| self.fill_held(&held, &staging, build));
        if filled.is_err() {
            // What is left then is found by the next restore, which says so if it cannot remove it either.
            let _ = fs::remove_dir_all(&staging);
            if self.made {
                let _ = fs::remove_dir(&self.data_dir);
            }
        }
        filled
    }

    fn fill_held<T>(
        &self,
        held: &DataDir,
        staging: &Path,
        build: impl FnOnce(&DataDir, &Path) -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        let wal = match &self.wal_dir {
            None => staging.join("wal"),
            Some(wal) => {
                let parent = wal.parent().unwrap_or(Path::new("."));
                fs::create_dir_all(parent).map_err(files("create", parent))?;
                fs::DirBuilder::new().mode(0o700).create(wal).map_err(|_| RestoreError::WalDir(wal.clone()))?;
                wal.clone()
            }
        };
        let built = build(held, &wal).and_then(|built| self.publish(staging).map(|()| built));
        if built.is_err() && self.wal_dir.is_some() && staging.is_dir() {
            let _ = fs::remove_dir_all(&wal);
        }
        built
    }

    fn publish(&self, staging: &Path) -> Result<(), RestoreError> {
        sync(staging)?;
        let member = self.data_dir.join("member");
        fs::rename(staging, &member).map_err(files("rename", staging))?;
        sync(&self.data_dir)?;
        match self.data_dir.canonicalize().ok().as_deref().and_then(Path::parent) {
            Some(parent) if self.made => sync(parent),
            _ => Ok(()),
        }
    }
}

fn sync(path: &Path) -> Result<(), RestoreError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(files("sync", path))
}
