//! The command lines for snapshot files: `etcd restore` and `etcd snapshot status`.
//!
//! Flags have the names of `etcdutl snapshot restore`'s, with one or two dashes, before or after the file. The
//! environment is ignored: everything about a restore is on its command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::build::{self, Source};
use super::error::{CheckError, SettingsError, shown};
use super::sources::{self, CommandLine, argument, boolean, split_flag};
use super::{Invocation, Settings};

/// Member flags that `restore` also accepts.
const MEMBER_FLAGS: [&str; 6] =
    ["name", "data-dir", "wal-dir", "initial-cluster", "initial-cluster-token", "initial-advertise-peer-urls"];

/// The text of `etcd restore --help`.
pub const USAGE: &str = "\
Usage:

  etcd restore <file> [flags]
    Make the data directory of a new cluster's member from a snapshot file, of this program or of etcd.
    Every member of the new cluster is made so from the same file with the same flags, but for its own
    --name, --data-dir and --initial-advertise-peer-urls, and then started as usual.

  etcd snapshot status <file> [--write-out simple|json]
    Print hash, revision, number of changes and size of a snapshot file. All of it is read and checked.

Flags of restore:
  --name 'default'
  --data-dir '<name>.etcd'                                      must not exist, or be empty
  --wal-dir ''                                                  must not exist
  --initial-cluster '<name>=http://localhost:2380'
  --initial-cluster-token 'etcd-cluster'
  --initial-advertise-peer-urls 'http://localhost:2380'
  --skip-hash-check 'false'                                     for a file copied from etcd's data directory
  --bump-revision '0'                                           raise the revision by this much
  --mark-compacted 'false'                                      count everything before as compacted;
                                                                required with --bump-revision, and only then
";

/// `etcd restore`, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Restore {
    /// The snapshot file.
    pub file: PathBuf,
    /// Name, directories, URLs and cluster of the new member; everything else has its default.
    pub member: Settings,
    /// `--skip-hash-check`.
    pub skip_hash_check: bool,
    /// `--bump-revision` with `--mark-compacted`; above 0.
    pub bump_revision: Option<i64>,
}

/// `etcd snapshot status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// The snapshot file.
    pub file: PathBuf,
    /// Print JSON instead of a text line.
    pub json: bool,
}

/// Parses the command line if it is one of these; `None` if not.
///
/// # Errors
/// It is one of these and cannot be parsed or is invalid.
pub fn read(words: &[String]) -> Result<Option<Invocation>, SettingsError> {
    let text = |n: usize| words.get(n).map(String::as_str);
    match (text(0), text(1)) {
        (Some("restore"), _) => restore(&words[1..]).map(Some),
        (Some("snapshot"), Some("restore")) => restore(&words[2..]).map(Some),
        (Some("snapshot"), Some("status")) => status(&words[2..]).map(Some),
        (Some("snapshot"), Some(other)) if !matches!(other, "-h" | "--help") => {
            Err(SettingsError::StrayWord(shown(other)))
        }
        (Some("snapshot"), _) => Ok(Some(Invocation::Print(USAGE.to_owned()))),
        _ => Ok(None),
    }
}

/// The subcommand's own flags, the file argument, and all other words for the common parser.
struct Split {
    own: BTreeMap<&'static str, String>,
    file: PathBuf,
    rest: Vec<String>,
}

/// Splits the words. `own` lists the subcommand's flags and whether each takes a value. `None`: help was requested.
fn split(words: &[String], own: &[(&'static str, bool)]) -> Result<Option<Split>, SettingsError> {
    let (mut found, mut files, mut rest) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some((name, inline)) = split_flag(word)? else {
            files.push(word.clone());
            continue;
        };
        if matches!(name, "h" | "help") {
            return Ok(None);
        }
        match own.iter().find(|(flag, _)| *flag == name) {
            Some((flag, true)) => drop(found.insert(*flag, argument(name, inline, &mut words)?.to_owned())),
            Some((flag, false)) => drop(found.insert(*flag, boolean(name, inline)?.to_string())),
            None if MEMBER_FLAGS.contains(&name) => {
                rest.push(format!("--{name}={}", argument(name, inline, &mut words)?));
            }
            None => return Err(SettingsError::UnknownFlag(shown(name))),
        }
    }
    let [file] = files.as_slice() else {
        let said = format!("expected one snapshot file, got {}", files.len());
        return Err(CheckError::Value(said).into());
    };
    Ok(Some(Split { own: found, file: file.into(), rest }))
}

fn restore(words: &[String]) -> Result<Invocation, SettingsError> {
    let own = [
        ("skip-hash-check", false),
        ("mark-compacted", false),
        ("bump-revision", true),
        ("initial-memory-map-size", true),
    ];
    let Some(Split { own, file, rest }) = split(words, &own)? else {
        return Ok(Invocation::Print(USAGE.to_owned()));
    };
    let CommandLine::Flags { values, .. } = sources::read_command_line(&rest)? else {
        return Ok(Invocation::Print(USAGE.to_owned()));
    };
    let (member, _) = build::from_values(&values, Source::FlagsAndVariables)?;
    member.check_bootstrap()?;
    let is_on = |name: &str| own.get(name).is_some_and(|text| text == "true");
    let bump = own.get("bump-revision").map_or(Ok(0), |text| {
        text.parse::<u64>().ok().and_then(|bump| i64::try_from(bump).ok()).ok_or_else(|| SettingsError::FlagValue {
            name: "bump-revision".to_owned(),
            value: shown(text),
            reason: "expected a number from 0 to 9223372036854775807".to_owned(),
        })
    })?;
    if (bump > 0) != is_on("mark-compacted") {
        return Err(
            CheckError::Value("--mark-compacted required if --bump-revision > 0, and only then".to_owned()).into()
        );
    }
    let bump_revision = (bump > 0).then_some(bump);
    let skip_hash_check = is_on("skip-hash-check");
    Ok(Invocation::Restore(Box::new(Restore { file, member, skip_hash_check, bump_revision })))
}

fn status(words: &[String]) -> Result<Invocation, SettingsError> {
    let words: Vec<String> =
        words.iter().map(|word| if word == "-w" { "--write-out".to_owned() } else { word.clone() }).collect();
    let Some(Split { own, file, .. }) = split(&words, &[("write-out", true)])? else {
        return Ok(Invocation::Print(USAGE.to_owned()));
    };
    let json = match own.get("write-out").map(String::as_str) {
        None | Some("simple") => false,
        Some("json") => true,
        Some(other) => {
            let said = format!("--write-out {:?} is not known (use simple or json)", shown(other));
            return Err(CheckError::Value(said).into());
        }
    };
    Ok(Invocation::SnapshotStatus(SnapshotStatus { file, json }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Result<Option<Invocation>, SettingsError> {
        read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn restore_of(line: &str) -> Restore {
        match read_line(line) {
            Ok(Some(Invocation::Restore(restore))) => *restore,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_restore_is_parsed_as_etcdutls_with_one_dash_or_two() {
        let line = "restore -name m1 --data-dir=/d s.db --initial-cluster m1=http://h1:1,m2=http://h2:1 \
                    -initial-advertise-peer-urls http://h1:1 --initial-cluster-token t --wal-dir /w \
                    --bump-revision 1000 --mark-compacted --skip-hash-check";
        for line in [line.to_owned(), format!("snapshot {line}")] {
            let restore = restore_of(&line);
            assert_eq!(restore.file, PathBuf::from("s.db"));
            assert_eq!((restore.bump_revision, restore.skip_hash_check), (Some(1000), true));
            let member = &restore.member;
            assert_eq!((member.name.as_str(), member.initial_cluster_token.as_str()), ("m1", "t"));
            assert_eq!((member.data_dir.clone(), member.wal_dir.clone()), ("/d".into(), Some("/w".into())));
            assert_eq!(member.initial_cluster.len(), 2);
        }
        let least = restore_of("restore s.db");
        assert_eq!(least.member.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(least.member.initial_cluster.to_string(), "default=http://localhost:2380");
    }

    #[test]
    fn invalid_values_are_refused_by_name() {
        for (line, said) in [
            ("restore", "expected one snapshot file, got 0"),
            ("restore a b", "expected one snapshot file, got 2"),
            ("restore a --bump-revision 5", "--mark-compacted required"),
            ("restore a --mark-compacted", "--mark-compacted required"),
            ("restore a --bump-revision -5 --mark-compacted", "bump-revision"),
            ("restore a --bump-revision 9223372036854775808 --mark-compacted", "bump-revision"),
            ("restore a --quota-backend-bytes 5", "quota-backend-bytes"),
            ("restore a --name m1 --initial-cluster m2=http://h:1", "couldn't find local name \"m1\""),
            ("restore a --initial-cluster default=http://h:1", "missing from --initial-advertise-peer-urls"),
            ("snapshot save x", "\"save\" is not a valid flag"),
            ("snapshot status a -w xml", "--write-out"),
        ] {
            let error = read_line(line).expect_err(line).to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
        assert!(matches!(read_line("--name x"), Ok(None)), "a member's start is not read here");
    }
}
