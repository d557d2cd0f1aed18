//! The tools of `etcd v2`, run as a person runs them.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::ctl::Said;
use super::member::process_figure;
use super::wait::PAUSE;

/// Runs `etcd v2 WORDS`; what hangs fails instead, with exit code 124.
pub fn v2(words: &[&str]) -> Said {
    let mut command = Command::new("timeout");
    command.args(["400", env!("CARGO_BIN_EXE_etcd"), "v2"]).args(words).stdin(Stdio::null());
    let output = command.output().expect("the tool starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Starts `etcd v2 WORDS` and leaves it running.
pub fn start_v2(words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd"));
    command.arg("v2").args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the tool starts")
}

/// Runs `etcd v2 WORDS` to its good end, however long that takes.
///
/// # Returns
/// The most memory that it had, KiB.
pub async fn v2_memory(words: &[&str]) -> u64 {
    let mut child = start_v2(words);
    let mut peak = 0;
    loop {
        if let Some(ended) = child.try_wait().expect("the tool can be waited for") {
            assert!(ended.success(), "etcd v2 {words:?}: {ended}");
            return peak;
        }
        peak = peak.max(process_figure(child.id(), "VmHWM:").unwrap_or(0));
        tokio::time::sleep(PAUSE).await;
    }
}

/// A path as a word.
pub fn word(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
