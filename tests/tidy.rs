//! The house rules that can be counted, kept by reading the source text: who may import whom, how large things may grow,
//! and words that must not appear. A rule that is broken on purpose names its decision note in [`EXCUSED`].

use std::fs;
use std::path::{Path, PathBuf};

/// Files over the size limit, each with the decision note that says why.
const EXCUSED: &[(&str, &str)] = &[];

const FILE_LINES: usize = 600;
const MEDIAN_LINES: usize = 250;
const FUNCTION_LINES: usize = 70;
const HEADER_FROM_LINES: usize = 100;

/// (crate path prefix, the only places that may name it)
const FOREIGN: &[(&str, &[&str])] = &[
    ("rocksdb::", &["src/store/"]),
    ("openraft::", &["src/raft/", "src/store/"]),
    ("tonic::", &["src/api/", "src/proto/", "src/client", "src/raft/network"]),
    ("jsonwebtoken::", &["src/api/identity/jwt"]),
    ("aws_lc_rs::", &["src/api/identity/jwt", "src/tls", "src/pki"]),
    ("prost_reflect::", &["src/api/gateway/"]),
    ("bcrypt::", &["src/api/identity/passwords"]),
    ("loona_hpack::", &["src/listen/authority"]),
    ("rcgen::", &["src/pki", "src/tls"]),
    ("x509_parser::", &["src/pki", "src/tls"]),
    ("serde_yaml::", &["src/settings", "charm/pack", "charm/rules", "charm/contract", "tests/lab/"]),
    ("clap::", &["src/settings", "src/migrate/options", "src/main.rs", "charm/pack", "tests/lab/"]),
    ("json_event_parser::", &["src/migrate/listing"]),
];

/// (room, rooms of this crate it may name)
const ROOMS: &[(&str, &[&str])] = &[
    ("src/model/", &["model", "proto"]),
    ("src/proto/", &["proto"]),
    ("src/bbolt/", &["bbolt"]),
    ("src/store/", &["store", "model", "bbolt", "proto", "raft::types", "raft::codec"]),
    ("src/work/", &["work", "admission"]),
    ("src/watch/", &["watch", "store", "model", "proto", "work"]),
    ("src/admission/", &["admission"]),
    ("src/raft/", &["raft", "store", "model", "proto", "tls", "settings", "histogram", "admission", "work"]),
    ("src/histogram", &["histogram"]),
    ("src/corruption/", &["corruption", "raft", "store", "model", "proto", "settings"]),
    ("src/pki", &["pki"]),
    ("src/client", &["client", "proto", "pki"]),
    ("src/treefile/", &["treefile"]),
    ("src/migrate/", &["migrate", "client", "tls", "treefile"]),
    ("src/settings", &["settings"]),
];

/// Crates the pure rooms may use besides std.
const PURE_CRATES: &[&str] = &[
    "bytes",
    "prost",
    "thiserror",
    "serde",
    "serde_json",
    "crate",
    "super",
    "self",
    "std",
    "proptest",
    "crc32c",
    "time",
];

struct Source {
    path: String,
    /// The text up to the file's inline test module.
    code: String,
    all: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut found);
    }
    assert!(!found.is_empty(), "no Rust source under {folders:?}");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let all = fs::read_to_string(&path).expect("a readable source file");
            let code = all.split("\n#[cfg(test)]\nmod ").next().unwrap_or(&all).to_owned();
            let path = path.strip_prefix(root()).expect("under the root").to_string_lossy().into_owned();
            found.push(Source { path, code, all });
        }
    }
}

/// Test-only files need not keep to the limits of shipped code.
fn is_test_file(path: &str) -> bool {
    path.contains("/tests/")
        || path.ends_with("tests.rs")
        || path.ends_with("_test.rs")
        || path == "charm/contract.rs"
        || path.contains("/sim/")
}

fn shipped() -> Vec<Source> {
    sources(&["src", "charm"]).into_iter().filter(|source| !is_test_file(&source.path)).collect()
}

fn complain(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{} breach(es):\n{}", breaches.len(), breaches.join("\n"));
}

fn code_lines(source: &Source) -> usize {
    source.code.lines().count()
}

/// Whether `name` is a module beside or below the file: `use overlay::Overlay` names no crate.
fn is_sibling(path: &str, name: &str) -> bool {
    let path = root().join(path);
    let folders = [path.parent().map(Path::to_path_buf), Some(path.with_extension(""))];
    folders
        .into_iter()
        .flatten()
        .any(|folder| folder.join(format!("{name}.rs")).is_file() || folder.join(name).join("mod.rs").is_file())
}

/// Lines that are not comments: the rules speak of code.
fn statements(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())).filter(|(_, line)| !line.starts_with("//"))
}

#[test]
fn foreign_crates_are_named_only_in_their_own_room() {
    let mut breaches = Vec::new();
    for source in shipped() {
        for (n, line) in statements(&source.code) {
            for (foreign, homes) in FOREIGN {
                let named = line.match_indices(foreign).any(|(at, _)| {
                    !line[..at]
                        .chars()
                        .next_back()
                        .is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
                });
                if named && !homes.iter().any(|home| source.path.starts_with(home)) {
                    breaches.push(format!("{}:{n}: {foreign} belongs to {homes:?}", source.path));
                }
            }
        }
    }
    complain(breaches);
}

/// Who may take a thread of the blocking pool, each with the reason why it cannot be more than a few at once.
const BLOCKING: &[(&str, &str)] = &[
    ("src/work/lane.rs", "the lanes: everything that clients ask"),
    ("src/api/v2/export.rs", "has a turn of its lane"),
    ("src/api/key_count.rs", "one task"),
    ("src/corruption/mod.rs", "one task"),
    ("src/raft/hashes.rs", "one permit"),
    ("src/raft/network/snapshot.rs", "one snapshot in, one out for each member"),
    ("src/store/log/storage.rs", "one reader for each member"),
    ("src/store/machine.rs", "openraft makes one snapshot at a time"),
    ("src/store/reader.rs", "a merge: its caller has a turn"),
    ("src/timers/lessor.rs", "one task"),
];

#[test]
fn threads_are_taken_only_where_their_number_is_bounded() {
    let mut breaches = Vec::new();
    for source in shipped().iter().filter(|source| source.path.starts_with("src/")) {
        let known = BLOCKING.iter().any(|(path, _)| *path == source.path);
        for (n, line) in statements(&source.code) {
            if (line.contains("spawn_blocking") || line.contains("block_in_place")) && !known {
                breaches
                    .push(format!("{}:{n}: takes a thread of the pool; give it a lane (src/work/mod.rs)", source.path));
            }
        }
    }
    complain(breaches);
}

#[test]
fn rooms_import_only_the_rooms_below_them() {
    let mut breaches = Vec::new();
    for source in shipped() {
        let Some((_, allowed)) = ROOMS.iter().find(|(room, _)| source.path.starts_with(room)) else { continue };
        for (n, line) in statements(&source.code) {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let known = allowed.iter().any(|room| {
                    rest.strip_prefix(room)
                        .is_some_and(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                });
                if !known {
                    breaches.push(format!("{}:{n}: {line} (this room may use {allowed:?})", source.path));
                }
            }
        }
    }
    complain(breaches);
}

#[test]
fn the_charm_sees_only_settings_client_and_pki() {
    let mut breaches = Vec::new();
    for source in sources(&["charm"]) {
        for (n, line) in statements(&source.all) {
            if let Some(at) = line.find("etcd_charm::") {
                let rest = &line[at + "etcd_charm::".len()..];
                if !["settings", "client", "pki", "{"].iter().any(|room| rest.starts_with(room)) {
                    breaches.push(format!("{}:{n}: {line}", source.path));
                }
            }
        }
    }
    for source in sources(&["src"]) {
        for (n, line) in statements(&source.code) {
            if line.contains("charm::") && !line.contains("etcd_charm::") {
                breaches.push(format!("{}:{n}: the store names the charm: {line}", source.path));
            }
        }
    }
    complain(breaches);
}

#[test]
fn the_rules_of_the_store_use_plain_data_crates_only() {
    let mut breaches = Vec::new();
    for source in shipped().iter().filter(|source| source.path.starts_with("src/model/")) {
        for (n, line) in statements(&source.code) {
            let Some(used) = line.strip_prefix("use ").or_else(|| line.strip_prefix("pub use ")) else { continue };
            let first = used.split("::").next().unwrap_or(used).trim_end_matches(';');
            if !PURE_CRATES.contains(&first) && !is_sibling(&source.path, first) {
                breaches.push(format!("{}:{n}: {line}", source.path));
            }
        }
        for banned in [
            "std::time",
            "std::fs",
            "std::net",
            "std::thread",
            "std::env",
            "SystemTime",
            "Instant::now",
            "tokio",
            "rand::",
        ] {
            if statements(&source.code).any(|(_, line)| line.contains(banned)) {
                breaches.push(format!("{}: names {banned}", source.path));
            }
        }
    }
    for source in shipped().iter().filter(|source| source.path.starts_with("charm/plan/")) {
        for banned in [
            "std::time::SystemTime",
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "std::process",
            "std::env",
            "tokio",
            "rand::",
        ] {
            if statements(&source.code).any(|(_, line)| line.contains(banned)) {
                breaches.push(format!("{}: the plan names {banned}", source.path));
            }
        }
    }
    complain(breaches);
}

#[test]
fn files_stay_small_and_say_what_they_own() {
    let mut breaches = Vec::new();
    let mut sizes = Vec::new();
    for source in shipped() {
        let lines = code_lines(&source);
        sizes.push(lines);
        let excused = EXCUSED.iter().any(|(path, note)| *path == source.path && root().join(note).is_file());
        if lines > FILE_LINES && !excused {
            breaches.push(format!("{}: {lines} lines, limit {FILE_LINES} without a decision note", source.path));
        }
        if lines > HEADER_FROM_LINES && !source.all.starts_with("//!") {
            breaches.push(format!("{}: {lines} lines without a header", source.path));
        }
    }
    sizes.sort_unstable();
    let median = sizes[sizes.len() / 2];
    if median > MEDIAN_LINES {
        breaches.push(format!("the median file has {median} lines, limit {MEDIAN_LINES}"));
    }
    complain(breaches);
}

#[test]
fn functions_stay_short() {
    let mut breaches = Vec::new();
    for source in shipped() {
        let mut open: Option<(usize, usize, String)> = None;
        for (n, line) in source.code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let text = line.trim_start();
            match &open {
                None => {
                    let head = text
                        .trim_start_matches("pub(crate) ")
                        .trim_start_matches("pub(super) ")
                        .trim_start_matches("pub ");
                    let head =
                        head.trim_start_matches("const ").trim_start_matches("async ").trim_start_matches("unsafe ");
                    if head.starts_with("fn ") {
                        open = Some((n, indent, head.split('(').next().unwrap_or(head).to_owned()));
                    }
                }
                Some((start, depth, name))
                    if indent == *depth && (text.starts_with('}') || (n == *start && text.ends_with('}'))) =>
                {
                    if n - start + 1 > FUNCTION_LINES {
                        breaches.push(format!(
                            "{}:{}: {name} has {} lines, limit {FUNCTION_LINES}",
                            source.path,
                            start + 1,
                            n - start + 1
                        ));
                    }
                    open = None;
                }
                Some((start, depth, _)) if indent == *depth && text.ends_with(';') && n != *start => open = None,
                Some((start, _, _))
                    if n == *start + 1
                        && source.code.lines().nth(*start).is_some_and(|l| l.trim_end().ends_with([';', '}'])) =>
                {
                    open = None;
                }
                Some(_) => {}
            }
        }
    }
    complain(breaches);
}

#[test]
fn shipped_code_neither_unwraps_nor_leaves_work_undone() {
    let mut breaches = Vec::new();
    for source in shipped() {
        for (n, line) in statements(&source.code) {
            for banned in [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "XXX", "FIXME"] {
                if line.contains(banned) {
                    breaches.push(format!("{}:{n}: {banned}", source.path));
                }
            }
        }
    }
    complain(breaches);
}

#[test]
fn hook_links_are_relative_and_stay_inside_the_charm() {
    let hooks = root().join("hooks");
    let mut names = Vec::new();
    for entry in fs::read_dir(&hooks).expect("hooks/ exists") {
        let entry = entry.expect("a readable link");
        let target = fs::read_link(entry.path()).expect("every entry of hooks/ is a symlink");
        assert_eq!(target, Path::new("../charm"), "{:?}", entry.file_name());
        names.push(entry.file_name());
    }
    assert!(!names.is_empty(), "hooks/ holds no link");
}

#[test]
fn every_decision_has_a_number_of_its_own_and_a_row_in_the_index() {
    let folder = root().join("docs/decisions");
    let index = fs::read_to_string(folder.join("README.md")).expect("an index of the decisions");
    let mut numbers = std::collections::BTreeMap::new();
    let mut breaches = Vec::new();
    for entry in fs::read_dir(&folder).expect("decision notes") {
        let name = entry.expect("a readable folder entry").file_name().to_string_lossy().into_owned();
        if ["README.md", "000-template.md"].contains(&&*name) {
            continue;
        }
        let number = name.split('-').next().unwrap_or_default().to_owned();
        let text = fs::read_to_string(folder.join(&name)).expect("a readable note");
        if number.len() != 3 || !text.starts_with(&format!("# {number} ")) {
            breaches.push(format!("{name}: begin its title with `# <number> `, three digits as in its name"));
        }
        if !index.contains(&format!("[{number}]({name})")) {
            breaches.push(format!("{name}: give it a row in docs/decisions/README.md"));
        }
        if let Some(other) = numbers.insert(number, name.clone()) {
            breaches.push(format!("{name}: its number is that of {other}: take the next free one"));
        }
    }
    complain(breaches);
}
