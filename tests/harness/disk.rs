//! A small ext4 file system of its own on a loop device: it can fill up, and its power can be cut.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// `EXT4_IOC_SHUTDOWN` flag: nothing more reaches the disk, not even the journal, as when power fails.
const WITHOUT_LOG_FLUSH: u32 = 2;

mod ioctl {
    // `_IOR('X', 125, __u32)`: the kernel reads the flags although the macro says otherwise.
    nix::ioctl_read!(shutdown, b'X', 125, u32);
}

pub struct Disk {
    folder: TempDir,
    mounted: bool,
}

impl Disk {
    /// A mounted, empty file system of `mebibytes`. `None` where the machine does not allow it.
    pub fn new(mebibytes: u64) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("disk-").tempdir_in("/dev/shm").expect("a folder in memory");
        let disk = Self { folder, mounted: false };
        let image = File::create(disk.image()).expect("an image file");
        image.set_len(mebibytes << 20).expect("the image has a size");
        fs::create_dir(disk.path()).expect("a mount point");
        // Nothing in reserve for root, so that full means full.
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(disk.image()));
        let mut disk = made.then_some(disk)?;
        disk.mount().then_some(disk)
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    pub fn mount(&mut self) -> bool {
        self.mounted =
            succeeds(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(self.image()).arg(self.path()));
        self.mounted
    }

    pub fn unmount(&mut self) {
        assert!(succeeds(Command::new("umount").arg(self.path())), "the file system cannot be unmounted");
        self.mounted = false;
    }

    /// Cuts the power: from now on every write and sync fails, and what was not synced is lost.
    pub fn cut_power(&self) {
        let root = File::open(self.path()).expect("the mount point opens");
        let mut flags = WITHOUT_LOG_FLUSH;
        // SAFETY: the descriptor is open and the kernel only reads the four bytes behind the pointer.
        unsafe { ioctl::shutdown(root.as_raw_fd(), &mut flags) }.expect("the file system takes the shutdown request");
    }

    /// Fills the file system with one file and returns its path.
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        for block in ["1M", "4k"] {
            let options = ["if=/dev/zero", "oflag=append", "conv=notrunc,fsync", "status=none"];
            // Ends with "no space left on device", as it should.
            let _ = Command::new("dd")
                .arg(format!("of={}", path.display()))
                .arg(format!("bs={block}"))
                .args(options)
                .output();
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a test that fails may have left a process inside.
            let _ = Command::new("umount").arg("-l").arg(self.path()).output();
        }
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// What `path` holds; nothing when it does not exist.
pub fn content(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

#[test]
fn cut_power_loses_what_was_not_synced_and_keeps_what_was() {
    let Some(mut disk) = Disk::new(32) else {
        super::wait::can("root and loop devices", false);
        return;
    };
    let (synced, unsynced) = (disk.path().join("synced"), disk.path().join("unsynced"));
    fs::write(&synced, "kept").unwrap();
    File::open(&synced).unwrap().sync_all().unwrap();
    File::open(disk.path()).unwrap().sync_all().unwrap();
    fs::write(&unsynced, "lost").unwrap();
    disk.cut_power();
    disk.unmount();
    assert!(disk.mount());
    assert_eq!((content(&synced), content(&unsynced)), (b"kept".to_vec(), Vec::new()));
}
