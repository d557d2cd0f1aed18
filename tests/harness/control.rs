//! The newest etcd as the control: `etcd`, `etcdctl` and `etcdutl` of the release that `tests/control/go.mod` requires,
//! built once into the target folder. Debian's 3.4 stays the floor (`Product::Etcd`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};

/// Program and the package it is built from.
const PROGRAMS: [(&str, &str); 3] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
    ("etcdutl", "go.etcd.io/etcd/etcdutl/v3"),
];

/// Where the programs of the newest release are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub etcd: PathBuf,
    pub etcdctl: PathBuf,
    pub etcdutl: PathBuf,
}

impl Control {
    fn in_folder(folder: &Path) -> Self {
        let [etcd, etcdctl, etcdutl] = PROGRAMS.map(|(name, _)| folder.join(name));
        Self { etcd, etcdctl, etcdutl }
    }

    fn is_whole(&self) -> bool {
        [&self.etcd, &self.etcdctl, &self.etcdutl].into_iter().all(|program| program.is_file())
    }
}

/// The programs of the newest release, built now if they are not there yet: minutes the first time, seconds when Go has
/// its parts in its cache. `CONTROL_PROGRAMS` may name a folder that has them already.
///
/// `None`, said loudly: this machine has no Go.
///
/// # Panics
/// Go is there and the build fails, or `CONTROL_PROGRAMS` names a folder without them.
pub fn newest() -> Option<&'static Control> {
    static CONTROL: OnceLock<Option<Control>> = OnceLock::new();
    let control = CONTROL.get_or_init(|| match std::env::var_os("CONTROL_PROGRAMS") {
        Some(folder) => {
            let control = Control::in_folder(Path::new(&folder));
            assert!(control.is_whole(), "CONTROL_PROGRAMS: {folder:?} lacks etcd, etcdctl or etcdutl");
            Some(control)
        }
        None => go_is_here().then(|| built(&target_folder())),
    });
    super::wait::can("Go, which builds the newest etcd to compare with", control.is_some());
    control.as_ref()
}

fn go_is_here() -> bool {
    Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|go| go.success())
}

/// The folder under which cargo puts this run's programs.
fn target_folder() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_etcd"));
    program.ancestors().nth(2).expect("programs lie in a profile's folder of the target folder").to_owned()
}

/// Builds into a folder of `target`, unless what is there was built from the same requirements.
fn built(target: &Path) -> Control {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control");
    let wanted = ["go.mod", "go.sum"].map(|file| fs::read_to_string(module.join(file)).expect("the control's module"));
    let wanted = wanted.concat();
    let folder = target.join("control");
    fs::create_dir_all(&folder).expect("a folder for the control");
    // Other test processes may want the same at the same time.
    let lock = File::create(folder.join("lock")).expect("a lock file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("the control's lock");
    let (control, stamp) = (Control::in_folder(&folder), folder.join("built-from"));
    if control.is_whole() && fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return control;
    }
    for (name, package) in PROGRAMS {
        let mut go = Command::new("go");
        go.current_dir(&module).env("CGO_ENABLED", "0").args(["build", "-mod=readonly", "-trimpath", "-o"]);
        let output = go.arg(folder.join(name)).arg(package).output().expect("go starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the control's {name} cannot be built from {}: {said}", module.display());
    }
    fs::write(&stamp, wanted).expect("a stamp beside the control");
    control
}

#[test]
fn the_newest_control_is_the_release_that_its_module_requires() {
    let Some(control) = newest() else { return };
    let module = include_str!("../control/go.mod");
    let version = module.lines().find_map(|line| line.trim().strip_prefix("go.etcd.io/etcd/server/v3 v"));
    let version = version.expect("go.mod requires the server");
    let said = |program: &Path, word: &str| {
        let output = Command::new(program).arg(word).output().expect("the control starts");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(said(&control.etcd, "--version").contains(&format!("etcd Version: {version}\n")));
    assert!(said(&control.etcdctl, "version").contains(&format!("etcdctl version: {version}\n")));
    assert!(said(&control.etcdutl, "version").contains(&format!("etcdutl version: {version}\n")));
}
