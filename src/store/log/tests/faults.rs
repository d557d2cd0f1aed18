//! Disks that fail and power that goes, on a helper process that this test binary runs itself as.

use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use openraft::storage::IOFlushed;
use openraft::type_config::TypeConfigExt;

use super::*;
use crate::raft::types::TypeConfig;

const HELPER: &str = "store::log::tests::faults::helper_appends_and_reports";
const DIR: &str = "LOG_TEST_DIR";
/// A helper that reached this index was not stopped by the fault.
const LAST: u64 = 20_000;
/// Entries the helper keeps in flight.
const PIPELINE: usize = 8;

/// Not a test: the process that the tests below start, fail and read. Appends for ever; prints each index once it was
/// told that the entry is durable.
#[tokio::test]
#[ignore = "started by the fault tests"]
async fn helper_appends_and_reports() {
    let dir = std::env::var(DIR).expect("the fault tests name a directory");
    let options = LogOptions { segment_bytes: 256 << 10, first_segment_bytes: 64 << 10, ..LogOptions::default() };
    let (mut store, _) = open(Path::new(&dir), options).expect("opens");
    let mut waiting = std::collections::VecDeque::new();
    for index in 0..LAST {
        let (done, told) = TypeConfig::oneshot();
        store.append([entry(1, index, 900)], IOFlushed::signal(done)).await.expect("appends");
        waiting.push_back((index, told));
        if waiting.len() == PIPELINE {
            let (index, told) = waiting.pop_front().expect("not empty");
            if told.await.expect("told").is_ok() {
                println!("acked {index}");
            } else {
                println!("failed {index}");
            }
        }
        if index % 500 == 499 {
            store.purge(log_id(1, index - 300)).await.expect("purges");
        }
    }
}

fn helper(mut command: Command, dir: &Path) -> std::process::Child {
    command
        .args(["--ignored", "--exact", HELPER, "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts the helper")
}

/// The index of a line of the helper that reports an acknowledged entry.
fn acked(line: &str) -> Option<u64> {
    line.strip_prefix("acked ")?.parse().ok()
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program has a path")
}

#[tokio::test]
async fn a_failed_sync_ends_the_process_and_is_never_acknowledged() {
    if !run("strace", &["-V"]) {
        eprintln!("SKIPPED: strace is not installed, so no sync can be made to fail");
        return;
    }
    for failing in [1_u64, 2, 30] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut strace = Command::new("strace");
        let inject = format!("inject=fdatasync:error=EIO:when={failing}");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", &inject]).arg(this_program());
        let output = helper(strace, dir.path()).wait_with_output().expect("ends");
        assert!(!output.status.success(), "the process went on after its sync failed");
        let last = String::from_utf8_lossy(&output.stdout).lines().filter_map(acked).max();
        // strace counts per thread: the very first sync is that of the empty log in the main thread.
        assert!(last.is_none_or(|last| last < failing * PIPELINE as u64), "{last:?} acked, sync {failing} failed");
        let Ok((mut store, _)) = open(dir.path(), LogOptions::default()) else {
            assert_eq!(last, None, "something was acknowledged and the log does not open");
            continue;
        };
        let held = state(&mut store).await.1.map(|id| id.index);
        assert!(held >= last, "acked up to {last:?}, the log holds {held:?}");
    }
}

/// A small ext4 of its own, on a loop device.
struct Disk {
    image: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    fn new() -> Option<Self> {
        let mut disk = Self { image: tempfile::tempdir().expect("a temporary directory"), mounted: false };
        let (file, at) = (disk.file(), disk.at());
        fs::create_dir(&at).expect("creates the mount point");
        fs::File::create(&file).and_then(|file| file.set_len(96 << 20)).expect("creates the image");
        let made = run("mkfs.ext4", &["-q", "-F", &file.to_string_lossy()]);
        (made && disk.mount()).then_some(disk)
    }

    fn file(&self) -> PathBuf {
        self.image.path().join("image")
    }

    fn at(&self) -> PathBuf {
        self.image.path().join("at")
    }

    fn mount(&mut self) -> bool {
        self.mounted = run("mount", &["-o", "loop", &self.file().to_string_lossy(), &self.at().to_string_lossy()]);
        self.mounted
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            assert!(run("umount", &[&self.at().to_string_lossy()]), "the test disk cannot be unmounted");
        }
    }

    /// Stops the file system at once, without flushing its journal: everything that was not synced is lost.
    fn cut_power(&self) {
        const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
        let no_flush: u32 = 2;
        let root = fs::File::open(self.at()).expect("opens the mount point");
        // SAFETY: the descriptor is open for the call and the argument outlives it.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &no_flush) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if std::mem::take(&mut self.mounted) {
            run("umount", &[&self.at().to_string_lossy()]);
        }
    }
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_in_a_power_cut() {
    let Some(mut disk) = Disk::new() else {
        eprintln!(
            "SKIPPED: no loop-mounted ext4 here (needs root, mkfs.ext4 and a loop device), so no power can be cut"
        );
        return;
    };
    // The fault must bite before any verdict counts: an unsynced byte has to be gone.
    fs::write(disk.at().join("unsynced"), b"x").expect("writes");
    disk.cut_power();
    disk.unmount();
    assert!(disk.mount(), "mounts again");
    assert!(!fs::read(disk.at().join("unsynced")).is_ok_and(|bytes| bytes == b"x"), "the power cut lost nothing");

    for wanted in [1, 40, 700, 1500] {
        let dir = disk.at().join(format!("log-{wanted}"));
        let mut child = helper(Command::new(this_program()), &dir);
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut last = None;
        for line in lines.map_while(Result::ok) {
            last = acked(&line).or(last);
            if last == Some(wanted) {
                disk.cut_power();
            }
        }
        assert!(!child.wait().expect("ends").success(), "the process went on after its disk was gone");
        disk.unmount();
        assert!(disk.mount(), "mounts again");
        let last = last.expect("something was acknowledged");
        assert!(last >= wanted);
        let (mut store, _) = open(&dir, small()).unwrap_or_else(|error| panic!("acked up to {last}: {error}"));
        let (purged, held) = state(&mut store).await;
        assert!(held.is_some_and(|held| held.index >= last), "acked up to {last}, the log holds {held:?}");
        let first = purged.map_or(0, |id| id.index + 1);
        let expected: Vec<Entry> = (first..=last).map(|index| entry(1, index, 900)).collect();
        assert_eq!(read(&mut store, first..last + 1).await, expected);
        drop(store);
    }
    disk.unmount();
}
