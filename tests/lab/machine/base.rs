//! The file system every container starts from: a debootstrap of this computer's own release, made once
//! and kept in the user's cache.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use crate::home::{must, quiet};

/// Grows whenever the contents below change, so that an old cache is not used.
const VERSION: u32 = 1;

/// Beyond debootstrap's own minimum: what every cloud image has and charms count on.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,ca-certificates,sudo,openssl,libstdc++6";

/// The base directory, built now if it is not there yet.
pub fn ensure(say: &dyn Fn(&str)) -> Result<PathBuf, String> {
    let release = Release::read()?;
    let cache = cache_dir()?;
    let base = cache.join(format!("base-{}-{VERSION}", release.codename));
    let io = |error: std::io::Error| format!("cannot prepare {}: {error}", base.display());
    fs::create_dir_all(&cache).map_err(io)?;
    let lock = File::create(cache.join("base.lock")).map_err(io)?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| format!("cannot lock the cache: {error}"))?;
    if base.exists() {
        return Ok(base);
    }
    let building = base.with_extension("building");
    if building.exists() {
        fs::remove_dir_all(&building).map_err(io)?;
    }
    say(&format!(
        "Building the machine image once: debootstrap {} from {} into {} (a minute or two)",
        release.codename,
        release.mirror,
        base.display()
    ));
    debootstrap(&release, &building, say)?;
    finish(&building)?;
    fs::rename(&building, &base).map_err(io)?;
    Ok(base)
}

fn cache_dir() -> Result<PathBuf, String> {
    let dir = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => return Err("neither XDG_CACHE_HOME nor HOME is set; set one for the machine image's cache".to_owned()),
    };
    Ok(dir.join("etcd-charm"))
}

/// What this computer runs and where its own packages come from.
struct Release {
    codename: String,
    mirror: String,
    keyring: Option<String>,
    proxy: Option<String>,
}

impl Release {
    fn read() -> Result<Self, String> {
        let text =
            fs::read_to_string("/etc/os-release").map_err(|error| format!("cannot read /etc/os-release: {error}"))?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches('"').to_owned())
        };
        let id = field("ID").unwrap_or_default();
        let codename = field("VERSION_CODENAME")
            .ok_or("/etc/os-release has no VERSION_CODENAME; the lab needs Debian or Ubuntu")?;
        let keyring = match id.as_str() {
            "ubuntu" => "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
            _ => "/usr/share/keyrings/debian-archive-keyring.gpg",
        };
        let none =
            || format!("apt's sources name no mirror of {id} with the component main; the lab builds machines from it");
        Ok(Self {
            mirror: configured_mirror(&id).ok_or_else(none)?,
            keyring: Path::new(keyring).exists().then(|| keyring.to_owned()),
            proxy: configured_proxy(),
            codename,
        })
    }
}

/// The mirror apt uses for the release itself.
fn configured_mirror(id: &str) -> Option<String> {
    let targets = must(
        "apt-get",
        &["indextargets", "--no-release-info", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages"],
    )
    .ok()?;
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(uri, component)| *component == "main" && uri.trim_end_matches('/').ends_with(&format!("/{id}")))
        .map(|(uri, _)| uri.trim_end_matches('/').to_owned())
}

/// The proxy apt uses, as debootstrap's downloader wants it.
fn configured_proxy() -> Option<String> {
    let text = must("apt-config", &["shell", "PROXY", "Acquire::http::Proxy"]).ok()?;
    let value = text.trim().strip_prefix("PROXY=")?.trim_matches('\'').to_owned();
    (!value.is_empty() && value != "DIRECT").then_some(value)
}

fn debootstrap(release: &Release, target: &Path, say: &dyn Fn(&str)) -> Result<(), String> {
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}")]);
    if let Some(keyring) = &release.keyring {
        command.arg(format!("--keyring={keyring}"));
    }
    if let Some(proxy) = &release.proxy {
        command.env("http_proxy", proxy);
    }
    command.arg(&release.codename).arg(target).arg(&release.mirror);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|error| {
            format!("cannot run debootstrap: {error}; install it with `apt-get install debootstrap`")
        })?;
    let mut last = String::new();
    let mut lines = 0u32;
    for line in BufReader::new(child.stdout.take().ok_or("debootstrap has no output")?).lines().map_while(Result::ok) {
        lines += 1;
        if lines.is_multiple_of(40) {
            say(&format!("  {line}"));
        }
        last = line;
    }
    let status = child.wait().map_err(|error| format!("cannot wait for debootstrap: {error}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "debootstrap {} from {} failed ({status}), last line: {last}; see {}",
        release.codename,
        release.mirror,
        target.join("debootstrap/debootstrap.log").display()
    ))
}

/// What a cloud image would add: the user `ubuntu` with sudo, no stale identity, no timers, no consoles.
fn finish(base: &Path) -> Result<(), String> {
    let root = base.display().to_string();
    let inside = |args: &[&str]| must("chroot", &[&[root.as_str()], args].concat());
    inside(&["useradd", "--create-home", "--shell", "/bin/bash", "ubuntu"])?;
    let write = |path: &str, text: &str| {
        fs::write(base.join(path), text).map_err(|error| format!("cannot write {path} in the machine image: {error}"))
    };
    write("etc/sudoers.d/90-ubuntu", "ubuntu ALL=(ALL) NOPASSWD:ALL\n")?;
    write("etc/machine-id", "")?;
    write("etc/resolv.conf", "")?;
    let idle = [
        "getty.target",
        "console-getty.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "fstrim.timer",
        "e2scrub_all.timer",
        "motd-news.timer",
    ];
    for unit in idle {
        // Some of these do not exist in every release; masking a missing one is harmless.
        quiet("systemctl", &["--root", &root, "mask", unit]);
    }
    fs::remove_dir_all(base.join("var/cache/apt/archives")).ok();
    Ok(())
}
