//! Directories and pointer files that survive a power cut: every create and rename is followed by a sync of its directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use super::error::StoreError;

/// Makes `dir`, readable by its owner only, if it is not there. Its parent must exist.
pub(super) fn private_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().mode(0o700).create(dir).map_err(StoreError::files("create", dir))?;
    dir.parent().map_or(Ok(()), sync)
}

/// Makes the contents of a file, or the names in a directory, durable.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::files("sync", path))
}

/// Renames within one directory, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::files("rename", from))?;
    to.parent().map_or(Ok(()), sync)
}

/// Replaces a file's contents: afterwards, and after a crash at any moment, it is either all old or all new.
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let next = path.with_extension("next");
    let mut file = File::create(&next).map_err(StoreError::files("create", &next))?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(StoreError::files("write", &next))?;
    rename(&next, path)
}

/// Memory as direct I/O wants it.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Whether the file system of `dir` takes writes past its page cache. Asked with a block in a file that never has a name, so
/// nothing is left behind; a file system without such files counts as one that does not. And `existing`, a file in `dir` that
/// may have come from elsewhere (the lower side of an overlay), must bear to be opened so if it is there.
pub(super) fn takes_direct_io(dir: &Path, existing: &str) -> bool {
    let mut nameless = OpenOptions::new();
    nameless.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE | libc::O_DIRECT);
    let written = nameless.open(dir).and_then(|file| file.write_all_at(&Block([0; 4096]).0, 0));
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(dir.join(existing));
    written.is_ok() && opened.map_or_else(|error| error.kind() == std::io::ErrorKind::NotFound, |_| true)
}

/// Removes a directory and all it holds; it is fine if it is not there.
pub(super) fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::files("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// Names of the entries of a directory, sorted. A name that is not text is foreign.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::files("list", dir))? {
        let name = entry.map_err(StoreError::files("list", dir))?.file_name();
        let foreign =
            |name: std::ffi::OsString| StoreError::Foreign { path: dir.join(name), found: "no text".to_owned() };
        names.push(name.into_string().map_err(foreign)?);
    }
    names.sort_unstable();
    Ok(names)
}
