//! Files: read, replaced durably, removed; and what is left in the folder of the machine's user.
//!
//! A file is written beside its place, synced, given its owner and mode, and renamed into place, then the
//! folder is synced. No link is ever followed and nothing that is not ours is ever deleted: the folder of
//! the user is the user's, who may have put anything there.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, geteuid};

/// Names that are tried for a new file before it is given up.
const MAX_NAMES: u32 = 100;
/// The user of Ubuntu's machines.
const USER: &str = "ubuntu";

/// A file or folder could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {cause}", path.display())]
pub struct FileError {
    /// What was tried: `cannot write`.
    pub what: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// The system's reason.
    pub cause: std::io::Error,
}

/// Something that is not ours lies where a file goes.
#[derive(Debug, thiserror::Error)]
#[error("{} is {what}, which is not for the charm to delete: move it away and try again", path.display())]
pub struct InTheWay {
    /// Where.
    pub path: PathBuf,
    /// What it is: `a directory`.
    pub what: String,
}

/// Where a file for the machine's `ubuntu` user goes.
#[derive(Debug)]
pub struct ForUser {
    /// The path as the user sees it.
    pub path: PathBuf,
    /// The user; `None` when the machine has none, or we may not give it files.
    pub owner: Option<(Uid, Gid)>,
}

impl ForUser {
    /// A place in the user's folder where nothing lies that is somebody else's. A file of that user or of
    /// ours, a link, a pipe or a socket can be replaced, since none of them holds what is not ours to
    /// replace; a directory or another's file is left alone.
    ///
    /// # Errors
    /// [`InTheWay`] names what has to be moved.
    pub fn find(home: &Path, name: &'static str) -> Result<Self, InTheWay> {
        let owner = User::from_name(USER).ok().flatten().filter(|_| geteuid().is_root());
        let place = ForUser { path: home.join(name), owner: owner.map(|user| (user.uid, user.gid)) };
        // What cannot be looked at cannot be replaced either; the writer says why.
        let Ok(found) = fs::symlink_metadata(&place.path) else { return Ok(place) };
        let ours = [Some(geteuid()), place.owner.map(|(uid, _)| uid)];
        let kind = found.file_type();
        let what = match found.uid() {
            _ if kind.is_dir() => "a directory".to_owned(),
            _ if kind.is_block_device() || kind.is_char_device() => "a device".to_owned(),
            uid if kind.is_file() && !ours.contains(&Some(uid.into())) => format!("a file of user {uid}"),
            _ => return Ok(place),
        };
        Err(InTheWay { path: place.path, what })
    }

    /// Leaves the file there, 0600.
    ///
    /// # Errors
    /// [`FileError`] with the path that failed.
    pub fn leave(&self, content: &[u8]) -> Result<(), FileError> {
        let home = self.path.parent().unwrap_or(Path::new("/"));
        let fail = |cause| FileError { what: "cannot make", path: home.to_owned(), cause };
        fs::create_dir_all(home).map_err(fail)?;
        replace(&self.path, content, 0o600, self.owner)
    }
}

/// The text of a file; `None` when there is none.
///
/// # Errors
/// [`FileError`] when it cannot be read.
pub fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(FileError { what: "cannot read", path: path.to_owned(), cause }),
    }
}

/// Removes a file or a folder with all in it, when it is there; of a link the link alone.
///
/// # Errors
/// [`FileError`] when it cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let result = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            Err(FileError { what: "cannot remove", path: path.to_owned(), cause })
        }
        _ => Ok(()),
    }
}

/// Removes a folder with all in it; one that is a mount point is emptied and stays.
///
/// # Errors
/// [`FileError`] when something in it cannot be removed.
pub fn remove_or_empty(path: &Path) -> Result<(), FileError> {
    match remove(path) {
        Err(error) if error.cause.kind() == ErrorKind::ResourceBusy && is_empty(path) => Ok(()),
        result => result,
    }
}

/// Removes a folder when nothing is in it; a mount point stays.
///
/// # Errors
/// [`FileError`] when an empty one cannot be removed.
pub fn remove_if_empty(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir(path) {
        Err(cause) if is_empty(path) && cause.kind() != ErrorKind::ResourceBusy => {
            Err(FileError { what: "cannot remove", path: path.to_owned(), cause })
        }
        _ => Ok(()),
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Replaces a file atomically and durably. The new text lies in a file that did not exist before,
/// so that a link left in a user's folder is replaced, never followed.
///
/// # Errors
/// [`FileError`]; the old file is there then.
pub fn replace(path: &Path, content: &[u8], mode: u32, owner: Option<(Uid, Gid)>) -> Result<(), FileError> {
    let fail = |cause| FileError { what: "cannot write", path: path.to_owned(), cause };
    let folder = path.parent().unwrap_or(Path::new("/"));
    let (beside, mut file) = fresh_beside(path, mode & 0o700).map_err(fail)?;
    let mut write = || -> std::io::Result<()> {
        file.write_all(content)?;
        if let Some((uid, gid)) = owner {
            nix::unistd::fchown(&file, Some(uid), Some(gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|cause| {
        let _ = fs::remove_file(&beside);
        fail(cause)
    })
}

/// A file that did not exist before, in the folder of `path`. Whatever lies at a name that is taken, a link
/// planted by the folder's owner included, is neither opened nor removed: the next name is tried.
fn fresh_beside(path: &Path, mode: u32) -> std::io::Result<(PathBuf, File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut tries = 0..MAX_NAMES;
    loop {
        let number = tries.next();
        let beside = path.with_file_name(format!(".{name}.{}.{}.new", std::process::id(), number.unwrap_or_default()));
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number.is_some() => {}
            opened => return Ok((beside, opened?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_link_in_the_users_folder_is_replaced_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let victim = root.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        fs::create_dir_all(root.path().join("home/ubuntu")).unwrap();
        std::os::unix::fs::symlink(&victim, root.path().join("home/ubuntu/x.tar.gz")).unwrap();
        let place = ForUser::find(&root.path().join("home/ubuntu"), "x.tar.gz").unwrap();
        place.leave(b"secret").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(&place.path).unwrap(), b"secret");
        assert_eq!(mode(&place.path), 0o600);
    }

    #[test]
    fn what_holds_nothing_of_others_is_replaced_in_the_users_folder_and_anything_else_is_named() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home/ubuntu");
        fs::create_dir_all(&home).unwrap();
        let at = home.join("x.tar.gz");
        let leave = || ForUser::find(&home, "x.tar.gz").map(|place| place.leave(b"secret").unwrap());
        let plant: [(&str, &dyn Fn()); 5] = [
            ("nothing", &|| ()),
            ("an earlier archive", &|| fs::write(&at, "old").unwrap()),
            ("a link to nowhere", &|| std::os::unix::fs::symlink("/nowhere/x", &at).unwrap()),
            ("a link to a directory", &|| std::os::unix::fs::symlink("/tmp", &at).unwrap()),
            ("a pipe", &|| nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ];
        for (what, plant) in plant {
            let _ = fs::remove_file(&at);
            plant();
            leave().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(fs::read(&at).unwrap(), b"secret", "{what}");
            assert!(fs::symlink_metadata(&at).unwrap().is_file(), "{what}");
        }
        fs::remove_file(&at).unwrap();
        fs::create_dir_all(at.join("precious")).unwrap();
        let refusal = leave().unwrap_err().to_string();
        assert!(refusal.contains("x.tar.gz is a directory") && refusal.contains("move it away"), "{refusal}");
        assert!(at.join("precious").is_dir(), "nothing of others is deleted");
        assert_eq!(fs::read_dir(&home).unwrap().count(), 1, "and nothing is left beside it");
    }

    #[test]
    fn a_file_of_another_user_is_named_and_left_alone() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root can make a file of another user");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let at = root.path().join("home/ubuntu/x.tar.gz");
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, "precious").unwrap();
        std::os::unix::fs::chown(&at, Some(65_534), None).unwrap();
        let refusal = ForUser::find(&root.path().join("home/ubuntu"), "x.tar.gz").unwrap_err().to_string();
        assert!(refusal.contains("is a file of user 65534"), "{refusal}");
        assert_eq!(fs::read(&at).unwrap(), b"precious");
    }

    #[test]
    fn names_taken_beside_a_file_are_passed_over_and_stay() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().join("x");
        let taken = |number: u32| root.path().join(format!(".x.{}.{number}.new", std::process::id()));
        fs::create_dir_all(taken(0).join("precious")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", taken(1)).unwrap();
        replace(&at, b"text", 0o644, None).unwrap();
        assert_eq!(fs::read(&at).unwrap(), b"text");
        assert!(taken(0).join("precious").is_dir() && fs::read_link(taken(1)).is_ok() && !taken(2).exists());
    }
}
