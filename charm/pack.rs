//! `pack FILE.charm` puts everything a deployment needs into one archive; `pack verify` checks the
//! house and never writes; `pack fix` repairs what a tool can repair.
//!
//! Run from the root of the sources. The programs are taken from the folder this one lies in, so a
//! build always packs its own. An archive Juju would refuse, or would accept and then not run, is
//! not written: see `rules.rs`.

mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rules::Entry;
use zip::write::SimpleFileOptions;

/// The Ubuntu releases the charm is for.
const BASES: [&str; 2] = ["22.04", "24.04"];
/// Files taken from the root of the sources as they are.
const FILES: [&str; 4] = ["metadata.yaml", "config.yaml", "actions.yaml", "README.md"];
/// Files taken when they exist.
const OPTIONAL: [&str; 2] = ["icon.svg", "LICENSE"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["verify"] => steps(&VERIFY),
        ["fix"] => steps(&FIX),
        [file] if file.ends_with(".charm") => pack(Path::new(file)),
        _ => Err("usage: pack FILE.charm | pack verify | pack fix".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("pack: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Stages, checks and writes the archive.
fn pack(file: &Path) -> Result<(), String> {
    let programs = std::env::current_exe().map_err(|e| format!("cannot find my own folder: {e}"))?;
    let programs = programs.parent().ok_or("my own path has no folder")?.to_owned();
    let entries = stage(Path::new("."), &programs)?;
    let refusals = rules::check(&entries);
    if !refusals.is_empty() {
        return Err(format!("Juju would not run this charm:\n  {}", refusals.join("\n  ")));
    }
    let bytes = write(&entries).map_err(|e| format!("cannot compress: {e}"))?;
    let beside = PathBuf::from(format!("{}.new", file.display()));
    fs::write(&beside, &bytes)
        .and_then(|()| fs::rename(&beside, file))
        .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    println!("{}: {} entries, {} KiB", file.display(), entries.len(), bytes.len() / 1024);
    Ok(())
}

/// Collects every entry of the archive by its name.
fn stage(root: &Path, programs: &Path) -> Result<BTreeMap<String, Entry>, String> {
    let mut entries = BTreeMap::new();
    let program = |name: &str| -> Result<Entry, String> {
        let path = programs.join(name);
        let bytes = fs::read(&path).map_err(|e| format!("cannot read {}: {e}; build it first", path.display()))?;
        Ok(Entry::File { mode: 0o755, bytes })
    };
    entries.insert("charm".to_owned(), program("charm")?);
    entries.insert("bin/etcd".to_owned(), program("etcd")?);
    for name in FILES {
        let path = root.join(name);
        let bytes = fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        entries.insert(name.to_owned(), Entry::File { mode: 0o644, bytes });
    }
    for name in OPTIONAL {
        if let Ok(bytes) = fs::read(root.join(name)) {
            entries.insert(name.to_owned(), Entry::File { mode: 0o644, bytes });
        }
    }
    let hooks = root.join("hooks");
    let listed = fs::read_dir(&hooks).map_err(|e| format!("cannot read {}: {e}", hooks.display()))?;
    for hook in listed {
        let path = hook.map_err(|e| format!("cannot read {}: {e}", hooks.display()))?.path();
        let name = format!("hooks/{}", path.file_name().unwrap_or_default().to_string_lossy());
        entries.insert(name, read_entry(&path)?);
    }
    // Without a file `dispatch` Juju runs `actions/<name>`; the names have one home, actions.yaml.
    for action in rules::action_names(&entries) {
        entries.insert(format!("actions/{action}"), Entry::Link { target: "../charm".to_owned() });
    }
    let text = |text: String| Entry::File { mode: 0o644, bytes: text.into_bytes() };
    entries.insert("manifest.yaml".to_owned(), text(manifest()));
    entries.insert("version".to_owned(), text(format!("{}\n", env!("CARGO_PKG_VERSION"))));
    entries.insert("revision".to_owned(), text("0\n".to_owned()));
    Ok(entries)
}

/// A file or link as it lies on disk.
fn read_entry(path: &Path) -> Result<Entry, String> {
    let fail = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let meta = fs::symlink_metadata(path).map_err(fail)?;
    if meta.is_symlink() {
        let target = fs::read_link(path).map_err(fail)?;
        return Ok(Entry::Link { target: target.to_string_lossy().into_owned() });
    }
    if !meta.is_file() {
        return Err(format!("{} is neither a file nor a link", path.display()));
    }
    Ok(Entry::File { mode: meta.permissions().mode() & 0o777, bytes: fs::read(path).map_err(fail)? })
}

/// The bases and the architecture this build runs on.
fn manifest() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut text = "bases:\n".to_owned();
    for base in BASES {
        text += &format!("  - name: ubuntu\n    channel: \"{base}\"\n    architectures: [{architecture}]\n");
    }
    text
}

fn write(entries: &BTreeMap<String, Entry>) -> zip::result::ZipResult<Vec<u8>> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, entry) in entries {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        match entry {
            Entry::File { mode, bytes } => {
                archive.start_file(name, options.unix_permissions(*mode))?;
                archive.write_all(bytes)?;
            }
            Entry::Link { target } => archive.add_symlink(name, target, options.unix_permissions(0o777))?,
        }
    }
    Ok(archive.finish()?.into_inner())
}

/// One tool to run: a line for people, its arguments, extra environment.
struct Step {
    what: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// The tool is not part of Rust and may be missing; that is said loudly.
    may_be_missing: bool,
    /// What the tool says when it cannot reach what it needs from outside; the step is then skipped, loudly.
    out_of_reach: Option<&'static str>,
}

const fn step(what: &'static str, arguments: &'static [&'static str]) -> Step {
    Step { what, arguments, environment: &[], may_be_missing: false, out_of_reach: None }
}

const VERIFY: [Step; 6] = [
    step("formatting", &["fmt", "--check"]),
    step("clippy", &["clippy", "--release", "--locked", "--all-targets", "--", "-D", "warnings"]),
    step("tidy", &["test", "--release", "--locked", "--test", "all", "tidy"]),
    Step { may_be_missing: true, ..step("dependencies", &["deny", "check", "licenses", "bans", "sources"]) },
    Step {
        may_be_missing: true,
        out_of_reach: Some("failed to fetch advisory database"),
        ..step("advisories", &["deny", "check", "advisories"])
    },
    Step {
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
        ..step("documentation", &["doc", "--release", "--locked", "--no-deps", "--lib"])
    },
];

const FIX: [Step; 2] = [
    step("clippy", &["clippy", "--release", "--locked", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"]),
    step("formatting", &["fmt"]),
];

/// Runs every step, also after one has failed, and names those that did.
fn steps(list: &[Step]) -> Result<(), String> {
    let mut failed = Vec::new();
    for step in list {
        println!("== {}: cargo {}", step.what, step.arguments.join(" "));
        if step.may_be_missing && !is_installed(step.arguments[0]) {
            println!("SKIPPED {}: cargo-{} is not installed (cargo install cargo-{1})", step.what, step.arguments[0]);
            continue;
        }
        match run(step)? {
            Outcome::Passed => {}
            Outcome::Failed => failed.push(step.what),
            Outcome::OutOfReach(said) => println!("SKIPPED {}: {said}", step.what),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

/// How a step went.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// The line in which the tool says what it could not reach.
    OutOfReach(String),
}

fn run(step: &Step) -> Result<Outcome, String> {
    let mut command = Command::new("cargo");
    command.args(step.arguments).envs(step.environment.iter().copied());
    let cannot_start = |error: std::io::Error| format!("cannot start cargo: {error}");
    if step.out_of_reach.is_none() {
        let status = command.status().map_err(cannot_start)?;
        return Ok(if status.success() { Outcome::Passed } else { Outcome::Failed });
    }
    let output = command.output().map_err(cannot_start)?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    Ok(judge(step, output.status.success(), &said))
}

/// A tool that failed for want of a network has found nothing, and has not passed either.
fn judge(step: &Step, success: bool, said: &str) -> Outcome {
    let line = step.out_of_reach.and_then(|words| said.lines().find(|line| line.contains(words)));
    match line {
        _ if success => Outcome::Passed,
        Some(line) => Outcome::OutOfReach(line.to_owned()),
        None => Outcome::Failed,
    }
}

fn is_installed(subcommand: &str) -> bool {
    let output = Command::new("cargo").args([subcommand, "--version"]).output();
    output.is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn staged() -> BTreeMap<String, Entry> {
        let programs = tempfile::tempdir().unwrap();
        for name in ["charm", "etcd"] {
            fs::write(programs.path().join(name), "a program").unwrap();
        }
        stage(Path::new(env!("CARGO_MANIFEST_DIR")), programs.path()).unwrap()
    }

    #[test]
    fn the_charm_as_it_stands_breaks_no_rule() {
        assert_eq!(rules::check(&staged()), Vec::<String>::new());
    }

    #[test]
    fn modes_and_links_survive_the_archive() {
        let entries = staged();
        let bytes = write(&entries).unwrap();
        let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
        assert_eq!(archive.len(), entries.len());
        let mut install = archive.by_name("hooks/install").unwrap();
        let mut target = String::new();
        install.read_to_string(&mut target).unwrap();
        assert_eq!((install.is_symlink(), target.as_str()), (true, "../charm"));
        drop(install);
        for name in ["charm", "bin/etcd"] {
            assert_eq!(archive.by_name(name).unwrap().unix_mode().unwrap() & 0o777, 0o755, "{name}");
        }
        assert!(archive.by_name("actions/generate-client-certificates").unwrap().is_symlink());
    }

    #[test]
    fn a_step_out_of_reach_neither_passes_nor_fails() {
        let step = Step { out_of_reach: Some("cannot fetch"), ..step("x", &[]) };
        assert_eq!(
            judge(&step, false, "a\nerror: cannot fetch y"),
            Outcome::OutOfReach("error: cannot fetch y".into())
        );
        assert_eq!(judge(&step, false, "error: vulnerable"), Outcome::Failed);
        assert_eq!(judge(&step, true, "warning: cannot fetch, used the copy"), Outcome::Passed);
        assert_eq!(judge(&super::step("x", &[]), false, "cannot fetch"), Outcome::Failed);
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let empty = tempfile::tempdir().unwrap();
        let refusal = stage(Path::new(env!("CARGO_MANIFEST_DIR")), empty.path()).unwrap_err();
        assert!(refusal.contains("charm") && refusal.contains("build it first"), "{refusal}");
    }
}
