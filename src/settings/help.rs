//! The texts of `--help` and `--version`, generated from the flag table.

use super::flags::{FLAGS, Group};
use super::{OWN_VERSION, SERVER_VERSION};

/// Usage text printed after a command line error.
pub const USAGE: &str = "\
Usage:

  etcd [flags]
    Start a member.

  etcd restore <file> [flags]
    Make a data directory from a snapshot file; see etcd restore --help.

  etcd snapshot status <file>
    Say what a snapshot file holds.

  etcd --version
    Print the versions.

  etcd -h | --help
    Print every flag.

  etcd --config-file <path>
    Read everything from a YAML or JSON file; other flags and variables are then ignored.

  etcd v2 export | import | copy-to-v3 | compare
    Move data of the v2 API between clusters, and from v2 to v3; see etcd v2 --help.
";

/// Usage and every flag with its default.
pub fn full() -> String {
    let mut text = USAGE.to_owned();
    text.push_str("\nEvery flag may also be given as the variable ETCD_<FLAG>, upper case, - written as _.\n");
    for group in Group::ALL {
        text.push_str(&format!("\n{}:\n", group.title()));
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            let note = if flag.used { "" } else { " (no effect here)" };
            text.push_str(&format!("  --{} '{}'\n    {}{note}\n", flag.name, flag.default, flag.help));
        }
    }
    text
}

/// First line as etcd prints it, for programs that parse it; then this program's own name and version.
pub fn version() -> String {
    format!(
        "etcd Version: {SERVER_VERSION}\n{OWN_VERSION} (compatible with etcd {SERVER_VERSION})\nOS/Arch: {}/{}\n",
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}
