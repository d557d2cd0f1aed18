//! Reads and unpacks `.charm` archives with Juju's rules: plain zip, modes kept, symlinks only relative
//! and inside, devices refused, known hook names made executable, an upgrade removes what the new charm lacks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use zip::ZipArchive;

use crate::world::charm::Charm;

const FILE_TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// Records which paths an unpack wrote, so that the next one can remove what is gone.
const MANIFEST: &str = ".lab-unpacked";

/// Hook names Juju knows without a relation, storage or workload in front.
const PLAIN_HOOKS: [&str; 16] = [
    "install",
    "start",
    "config-changed",
    "upgrade-charm",
    "update-status",
    "stop",
    "remove",
    "leader-elected",
    "leader-settings-changed",
    "leader-deposed",
    "pre-series-upgrade",
    "post-series-upgrade",
    "secret-changed",
    "secret-rotate",
    "secret-expired",
    "secret-remove",
];

/// Parses the metadata of an archive and checks every entry; nothing is written.
pub fn read(path: &Path) -> Result<Charm, String> {
    let mut zip = open(path)?;
    for index in 0..zip.len() {
        check_entry(&mut zip, index)?;
    }
    let metadata = text_of(&mut zip, "metadata.yaml")?.ok_or("the archive has no metadata.yaml at its root")?;
    let manifest = text_of(&mut zip, "manifest.yaml")?.ok_or("the archive has no manifest.yaml at its root")?;
    let manifest: serde_json::Value =
        serde_yaml::from_str(&manifest).map_err(|error| format!("manifest.yaml: {error}"))?;
    if manifest.get("bases").and_then(|bases| bases.as_array()).is_none_or(|bases| bases.is_empty()) {
        return Err("manifest.yaml: bases are missing".to_owned());
    }
    let config = text_of(&mut zip, "config.yaml")?;
    let actions = text_of(&mut zip, "actions.yaml")?;
    let has_code = zip.file_names().flatten().any(|name| name == "dispatch" || name.starts_with("hooks/"));
    if !has_code {
        return Err("the archive has neither dispatch nor hooks/".to_owned());
    }
    let mut charm = Charm::parse(&metadata, config.as_deref(), actions.as_deref())?;
    charm.archive = path.to_owned();
    Ok(charm)
}

/// Unpacks `archive` over `target`, removing files an earlier unpack put there.
pub fn unpack(archive: &Path, target: &Path) -> Result<(), String> {
    let at = |error: io::Error| format!("cannot unpack {} into {}: {error}", archive.display(), target.display());
    let mut zip = open(archive)?;
    fs::create_dir_all(target).map_err(at)?;
    remove_earlier(target).map_err(at)?;
    let mut written = BTreeSet::new();
    for index in 0..zip.len() {
        if let Some(path) = write_entry(&mut zip, index, target)? {
            written.insert(path);
        }
    }
    make_hooks_executable(target).map_err(at)?;
    let lines: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    fs::write(target.join(MANIFEST), lines.join("\n")).map_err(at)
}

/// Writes a copy of `archive` to `target` in which the file `name` is some bytes longer: an ELF program
/// does the same as before, but is another one.
pub fn with_longer_file(archive: &Path, target: &Path, name: &str) -> Result<(), String> {
    let at =
        |error: &dyn std::fmt::Display| format!("cannot copy {} to {}: {error}", archive.display(), target.display());
    let mut from = open(archive)?;
    let mut to = zip::ZipWriter::new(File::create(target).map_err(|error| at(&error))?);
    for index in 0..from.len() {
        let raw = from.by_index_raw(index).map_err(|error| at(&error))?;
        if !raw.name().is_ok_and(|found| found == name) {
            to.raw_copy_file(raw).map_err(|error| at(&error))?;
            continue;
        }
        let mode = raw.unix_mode().unwrap_or(0o755) & 0o777;
        drop(raw);
        let mut entry = from.by_index(index).map_err(|error| at(&error))?;
        to.start_file(name, zip::write::SimpleFileOptions::default().unix_permissions(mode))
            .map_err(|error| at(&error))?;
        io::copy(&mut entry, &mut to).map_err(|error| at(&error))?;
        io::Write::write_all(&mut to, b"another program").map_err(|error| at(&error))?;
    }
    to.finish().map(drop).map_err(|error| at(&error))
}

fn open(path: &Path) -> Result<ZipArchive<File>, String> {
    let file = File::open(path).map_err(|error| format!("cannot open charm {}: {error}", path.display()))?;
    ZipArchive::new(file).map_err(|error| format!("{} is not a charm archive: {error}", path.display()))
}

fn text_of(zip: &mut ZipArchive<File>, name: &str) -> Result<Option<String>, String> {
    if zip.index_for_name(name).is_none() {
        return Ok(None);
    }
    let mut text = String::new();
    let mut entry = zip.by_name(name).map_err(|error| format!("{name}: {error}"))?;
    entry.read_to_string(&mut text).map_err(|error| format!("{name}: {error}"))?;
    Ok(Some(text))
}

/// The entry's path, file type and permission bits, after Juju's refusals.
fn check_entry(zip: &mut ZipArchive<File>, index: usize) -> Result<(PathBuf, u32, u32), String> {
    let mut entry = zip.by_index(index).map_err(|error| format!("entry {index}: {error}"))?;
    let name = entry.name().map_err(|error| format!("entry {index}: {error}"))?.into_owned();
    let path = PathBuf::from(&name);
    if path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("entry name {name:?} leads out of the charm"));
    }
    let mode = entry.unix_mode().unwrap_or(if entry.is_dir() { DIRECTORY | 0o755 } else { REGULAR | 0o644 });
    let kind = match mode & FILE_TYPE {
        0 if entry.is_dir() => DIRECTORY,
        0 => REGULAR,
        kind => kind,
    };
    match kind {
        REGULAR | DIRECTORY => {}
        LINK => {
            let mut target = String::new();
            entry.read_to_string(&mut target).map_err(|error| format!("symlink {name:?}: {error}"))?;
            check_link(&path, Path::new(&target))?;
        }
        _ => {
            return Err(format!("file {name:?} has an unknown type: only files, directories and symlinks are allowed"));
        }
    }
    Ok((path, kind, mode & 0o777))
}

fn check_link(path: &Path, target: &Path) -> Result<(), String> {
    if target.is_absolute() {
        return Err(format!("symlink {:?} is absolute", path.display().to_string()));
    }
    let mut depth = path.components().count() as i64 - 1;
    for part in target.components() {
        match part {
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => depth += 1,
            _ => {}
        }
        if depth < 0 {
            return Err(format!("symlink {:?} leads out of scope", path.display().to_string()));
        }
    }
    Ok(())
}

fn write_entry(zip: &mut ZipArchive<File>, index: usize, target: &Path) -> Result<Option<PathBuf>, String> {
    let (path, kind, mode) = check_entry(zip, index)?;
    let full = target.join(&path);
    let at = |error: io::Error| format!("cannot unpack {}: {error}", full.display());
    if kind == DIRECTORY {
        fs::create_dir_all(&full).map_err(at)?;
        return Ok(None);
    }
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent).map_err(at)?;
    }
    if full.symlink_metadata().is_ok() {
        fs::remove_file(&full).map_err(at)?;
    }
    let mut entry = zip.by_index(index).map_err(|error| format!("{}: {error}", path.display()))?;
    if kind == LINK {
        let mut link = String::new();
        entry.read_to_string(&mut link).map_err(at)?;
        symlink(&link, &full).map_err(at)?;
    } else {
        let mut file = File::create(&full).map_err(at)?;
        io::copy(&mut entry, &mut file).map_err(at)?;
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(at)?;
    }
    Ok(Some(path))
}

/// Removes what an earlier unpack wrote; files the charm made itself stay, as in Juju.
fn remove_earlier(target: &Path) -> io::Result<()> {
    let Ok(manifest) = fs::read_to_string(target.join(MANIFEST)) else { return Ok(()) };
    for line in manifest.lines().filter(|line| !line.is_empty()) {
        match fs::remove_file(target.join(line)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Only known hook names directly in `hooks/` get the owner's execute bit; `dispatch` and `actions/` do not.
fn make_hooks_executable(target: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(target.join("hooks")) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if is_hook_name(&entry.file_name().to_string_lossy()) {
            // Through a symlink this changes the file behind it, which the archive rules keep inside.
            if let Ok(metadata) = fs::metadata(entry.path()) {
                let mode = metadata.permissions().mode();
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode | 0o100))?;
            }
        }
    }
    Ok(())
}

fn is_hook_name(name: &str) -> bool {
    let suffixes = ["-relation-created", "-relation-joined", "-relation-changed", "-relation-departed"];
    let more = ["-relation-broken", "-storage-attached", "-storage-detaching"];
    PLAIN_HOOKS.contains(&name) || suffixes.iter().chain(&more).any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    const METADATA: &str = "name: toy\nsummary: s\ndescription: d\n";
    const MANIFEST_TEXT: &str = "bases: [{name: ubuntu, channel: '24.04', architectures: [amd64]}]\n";

    fn charm(dir: &Path, name: &str, links: &[(&str, &str)], files: &[&str]) -> PathBuf {
        let path = dir.join(name);
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        let plain = SimpleFileOptions::default().unix_permissions(0o644);
        for (name, text) in [("metadata.yaml", METADATA), ("manifest.yaml", MANIFEST_TEXT)] {
            zip.start_file(name, plain).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        for name in files {
            zip.start_file(*name, plain).unwrap();
            zip.write_all(b"#!/bin/sh\n").unwrap();
        }
        for (name, target) in links {
            zip.add_symlink(*name, *target, plain).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn symlinks_that_leave_the_charm_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let absolute = charm(dir.path(), "a.charm", &[("hooks/install", "/bin/sh")], &[]);
        assert!(read(&absolute).unwrap_err().contains("is absolute"));
        let escaping = charm(dir.path(), "b.charm", &[("hooks/install", "../../x")], &[]);
        assert!(read(&escaping).unwrap_err().contains("leads out of scope"));
        assert!(read(&charm(dir.path(), "c.charm", &[("hooks/install", "../run")], &["run"])).is_ok());
    }

    #[test]
    fn only_hooks_get_the_execute_bit_and_an_upgrade_removes_old_files() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("charm");
        let first = charm(dir.path(), "1.charm", &[], &["hooks/install", "actions/go", "old"]);
        unpack(&first, &target).unwrap();
        assert_eq!(mode(&target.join("hooks/install")), 0o744);
        assert_eq!(mode(&target.join("actions/go")), 0o644);
        fs::write(target.join("made-by-charm"), "x").unwrap();
        let second = charm(dir.path(), "2.charm", &[], &["hooks/install"]);
        unpack(&second, &target).unwrap();
        assert!(!target.join("old").exists() && target.join("made-by-charm").exists());
    }
}
