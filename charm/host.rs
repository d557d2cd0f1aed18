//! The only reader and writer of this machine: files, the daemon's user, its service.
//!
//! Every file is written beside its place, synced, given its owner and mode, and renamed into place,
//! then the folder is synced: after a crash there is the old text or the new one. Keys are 0600 in a
//! 0700 folder. All paths lie under one root, `/` unless `ETCD_CHARM_ROOT` names another, so that
//! several machines can be played on one. With `ETCD_CHARM_SERVICE=process` the daemon is a plain
//! detached process instead of a systemd unit.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use etcd_charm::client::TlsPem;
use etcd_charm::pki;
use etcd_charm::settings::{Settings, SettingsError};
use sha2::{Digest, Sha256};

use crate::facts::{self, DATA_DIR, Pair, Program, Request, Service, Side, Storage};
use crate::files::{self, FileError, ForUser, InTheWay, read, remove};
use crate::plan::Remains;
use crate::plan::config::{self, DaemonConfig};
use crate::service::{self, Manager};
use crate::text::{Folder, Word};
use crate::trust::Report;

const UNIT: &str = include_str!("etcd.service");
/// Folder of additions to the service unit.
const DROP_INS: &str = "etc/systemd/system/etcd.service.d";
/// The addition that names the data folder.
const DROP_IN: &str = "etc/systemd/system/etcd.service.d/data.conf";
/// The daemon's user and group.
const USER: &str = "etcd";

/// The machine could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file or folder.
    #[error("{what} {}: {cause}", path.display())]
    File {
        /// What was tried: `cannot write`.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// Something that is not ours lies where a file goes.
    #[error(transparent)]
    InTheWay(#[from] InTheWay),
    /// A system program.
    #[error("{program} failed: {message}")]
    Program {
        /// With its first arguments.
        program: String,
        /// Its stderr.
        message: String,
    },
    /// A key or certificate on disk.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    /// The daemon would not start with these settings.
    #[error("the daemon's settings are refused: {0}")]
    Refused(SettingsError),
    /// A variable of the environment is no folder.
    #[error("{0} is not an absolute path without control characters")]
    Root(&'static str),
    /// The settings cannot be written as text.
    #[error("the daemon's settings cannot be written: {0}")]
    Settings(#[from] serde_json::Error),
}

impl From<FileError> for HostError {
    fn from(FileError { what, path, cause }: FileError) -> Self {
        HostError::File { what, path, cause }
    }
}

/// This machine under one root.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    charm: PathBuf,
    manager: Manager,
}

impl Host {
    /// Reads root, charm folder and service manager from the environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let path =
            |name: &str, default: &str| PathBuf::from(std::env::var(name).unwrap_or_else(|_| default.to_owned()));
        let root = path("ETCD_CHARM_ROOT", "/");
        let manager = match std::env::var("ETCD_CHARM_SERVICE").as_deref() {
            Ok("process") => Manager::process(&root),
            _ => Manager::Systemd,
        };
        Host { root, charm: path("JUJU_CHARM_DIR", "."), manager }
    }

    /// A path of the machine under this root.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn tls(&self, side: Side, what: &str) -> PathBuf {
        self.path("etc/etcd/tls").join(format!("{}{what}", side.word()))
    }

    /// What the planner may know of this machine.
    ///
    /// # Errors
    /// [`HostError`] when a file exists but cannot be read.
    pub fn look(&self, storage: Option<&Storage>) -> Result<facts::Host, HostError> {
        let mut pairs = BTreeMap::new();
        for side in Side::BOTH {
            pairs.insert(side, self.pair(side)?);
        }
        let running = service::is_running(&self.manager)?;
        let generation = read(&self.path("run/etcd-charm/generation"))?.and_then(|text| Word::parse(&text));
        let noted = read(&self.path("opt/etcd/bin/etcd.stamp"))?.unwrap_or_default();
        let (stamp, installed_from) = noted.split_once('\n').unwrap_or_default();
        let current = !stamp.is_empty() && installed_from == self.shipped()?;
        let config = read(&self.path("etc/etcd/etcd.json"))?.and_then(|text| read_config(&text));
        let root = self.root.to_str().and_then(Folder::parse).ok_or(HostError::Root("ETCD_CHARM_ROOT"))?;
        let preferred = storage.map_or_else(|| root.below(&Folder::data()), |storage| storage.data_dir(&root));
        let holds = |folder: &Folder| Path::new(&**folder).join("member").exists();
        let written = config.as_ref().map(|config| config.data_dir.clone());
        let data_dir = written.filter(|folder| holds(folder)).unwrap_or(preferred);
        Ok(facts::Host {
            root,
            program: if current { Program::Current } else { Program::Outdated },
            stamp: stamp.to_owned(),
            config,
            data: holds(&data_dir),
            data_dir,
            pairs,
            service: if running { Service::Running(generation) } else { Service::Stopped },
        })
    }

    fn pair(&self, side: Side) -> Result<Pair, HostError> {
        let key = read(&self.tls(side, ".key"))?.and_then(|key| pki::key_fingerprint(&key).ok());
        let request = read(&self.tls(side, ".csr"))?.and_then(|pem| {
            let says = pki::describe_request(&pem).ok()?;
            (Some(&says.public_key) == key.as_ref()).then_some(Request { pem, says })
        });
        let certificate = read(&self.tls(side, ".crt"))?
            .filter(|pem| pki::describe_certificate(pem).ok().map(|says| says.public_key) == key);
        let trust = read(&self.tls(side, "-ca.crt"))?;
        let bundle = trust.as_deref().unwrap_or_default();
        let trusts = pki::describe_bundle(bundle).unwrap_or_default().into_iter().map(|one| one.public_key).collect();
        let issuer = certificate.as_ref().and_then(|pem| pki::issuer_in(pem, bundle).ok().flatten());
        Ok(Pair { request, certificate, trust, report: Report { trusts, issuer } })
    }

    /// The PEM texts to reach a member's port with: this unit's own pair, which is also a client's.
    #[must_use]
    pub fn credentials(&self, side: Side) -> Option<TlsPem> {
        let text = |what| read(&self.tls(side, what)).ok().flatten();
        Some(TlsPem { ca: text("-ca.crt")?, certificate: text(".crt")?, key: text(".key")? })
    }

    /// Changes whenever the charm is unpacked: version, size and time of modification of its program.
    /// Whether the program itself is another one is known by the hash that is taken when it is installed.
    fn shipped(&self) -> Result<String, HostError> {
        let path = self.charm.join("bin/etcd");
        let cause = |cause| HostError::File { what: "cannot read", path: path.clone(), cause };
        let meta = fs::metadata(&path).map_err(cause)?;
        let version = read(&self.charm.join("version"))?.unwrap_or_default();
        let modified = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        Ok(format!("{} {} {:?}", version.trim(), meta.len(), modified.map(|at| at.as_nanos())))
    }

    /// Makes user and folders, installs program and service unit.
    ///
    /// # Errors
    /// [`HostError`] with the path or program that failed.
    pub fn install(&self) -> Result<(), HostError> {
        if matches!(self.manager, Manager::Systemd) && !user_exists() {
            let home = "/var/lib/etcd";
            let shell = "/usr/sbin/nologin";
            service::run(
                "useradd",
                &["--system", "--user-group", "--no-create-home", "--home-dir", home, "--shell", shell, USER],
            )?;
        }
        self.folder("opt/etcd/bin", 0o755, false)?;
        self.folder("etc/etcd", 0o755, false)?;
        self.folder("etc/etcd/tls", 0o700, true)?;
        self.folder("var/lib/etcd", 0o700, true)?;
        let shipped = self.shipped()?;
        let from = self.charm.join("bin/etcd");
        let program = fs::read(&from).map_err(|cause| HostError::File { what: "cannot read", path: from, cause })?;
        let hash: String = Sha256::digest(&program)[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        self.write(&self.path("opt/etcd/bin/etcd"), &program, 0o755, false)?;
        if matches!(self.manager, Manager::Systemd) {
            self.write(&self.path("etc/systemd/system/etcd.service"), UNIT.as_bytes(), 0o644, false)?;
            service::run("systemctl", &["daemon-reload"])?;
        }
        // Last: only a complete installation carries the stamp.
        self.write(&self.path("opt/etcd/bin/etcd.stamp"), format!("{hash}\n{shipped}").as_bytes(), 0o644, false)
    }

    /// Makes a request for a side, and first the key when there is none.
    ///
    /// # Errors
    /// [`HostError`] with the path that failed.
    pub fn make_request(&self, side: Side, common_name: &str, names: &[String]) -> Result<(), HostError> {
        self.folder("etc/etcd/tls", 0o700, true)?;
        let path = self.tls(side, ".key");
        let key = match read(&path)?.filter(|key| pki::key_fingerprint(key).is_ok()) {
            Some(key) => key,
            None => {
                let key = pki::make_key()?;
                self.write(&path, key.as_bytes(), 0o600, true)?;
                key
            }
        };
        let request = pki::make_request(&key, common_name, names)?;
        self.write(&self.tls(side, ".csr"), request.as_bytes(), 0o600, true)
    }

    /// Installs a certificate and its authorities; the daemon reads them at the next handshake.
    ///
    /// # Errors
    /// [`HostError`] when the certificate is not for the key on disk, or a path failed.
    pub fn install_certificate(&self, side: Side, certificate: &str, trust: &str) -> Result<(), HostError> {
        let key = read(&self.tls(side, ".key"))?.unwrap_or_default();
        pki::check_pair(certificate, &key)?;
        pki::check_issued_by(certificate, trust)?;
        self.write(&self.tls(side, "-ca.crt"), trust.as_bytes(), 0o600, true)?;
        self.write(&self.tls(side, ".crt"), certificate.as_bytes(), 0o600, true)
    }

    /// Writes the daemon's settings: JSON, which every YAML reader accepts. The daemon's own reader
    /// checks them first, so that a text it would refuse never replaces the one it runs with.
    ///
    /// # Errors
    /// [`HostError`] with the path that failed.
    pub fn write_config(&self, config: &DaemonConfig) -> Result<(), HostError> {
        let text = serde_json::to_string_pretty(config)?;
        Settings::from_yaml(&text).map_err(HostError::Refused)?;
        self.folder_at(Path::new(&*config.data_dir), 0o700, true)?;
        self.admit(&config.data_dir)?;
        self.write(&self.path("etc/etcd/etcd.json"), text.as_bytes(), 0o644, false)
    }

    /// Lets the hardened service write to a data folder that is not its state directory, and start only
    /// after the file system with it is mounted.
    fn admit(&self, data_dir: &Folder) -> Result<(), HostError> {
        if !matches!(self.manager, Manager::Systemd) {
            return Ok(());
        }
        let path = self.path(DROP_IN);
        let item = data_dir.for_systemd();
        let wanted = (*data_dir != DATA_DIR)
            .then(|| format!("[Unit]\nRequiresMountsFor={item}\n\n[Service]\nReadWritePaths={item}\n"));
        if read(&path)? == wanted {
            return Ok(());
        }
        match &wanted {
            None => remove(&path)?,
            Some(text) => {
                self.folder(DROP_INS, 0o755, false)?;
                self.write(&path, text.as_bytes(), 0o644, false)?;
            }
        }
        service::run("systemctl", &["daemon-reload"])
    }

    /// Starts the daemon, or restarts it, and notes under which generation.
    ///
    /// # Errors
    /// [`HostError`] when the note cannot be written or the service manager refuses.
    pub fn start(&self, generation: &Word, restart: bool) -> Result<(), HostError> {
        self.folder("run/etcd-charm", 0o755, false)?;
        self.write(&self.path("run/etcd-charm/generation"), generation.as_bytes(), 0o644, false)?;
        service::start(&self.manager, restart)
    }

    /// Stops the daemon for good.
    ///
    /// # Errors
    /// [`HostError`] when it does not stop.
    pub fn stop(&self) -> Result<(), HostError> {
        service::stop(&self.manager)
    }

    /// Where the settings say that the data lies.
    fn data(&self) -> Result<PathBuf, HostError> {
        let written = read(&self.path("etc/etcd/etcd.json"))?.and_then(|text| read_config(&text));
        Ok(written.map_or_else(|| self.path(DATA_DIR), |config| PathBuf::from(&*config.data_dir)))
    }

    /// Sets the data aside as `<folder>.kept-<now>`, when there is any; in a storage it stays in the storage. A
    /// mount point cannot be renamed: there the data becomes `member.kept-<now>` inside.
    ///
    /// # Errors
    /// [`HostError`] with the path that failed.
    pub fn set_aside(&self, now: i64) -> Result<(), HostError> {
        let data = self.data()?;
        if data.join("member").exists() {
            let aside = PathBuf::from(format!("{}.kept-{now}", data.display()));
            let fail = |cause| HostError::File { what: "cannot set aside", path: data.clone(), cause };
            match fs::rename(&data, &aside) {
                Err(cause) if [ErrorKind::ResourceBusy, ErrorKind::CrossesDevices].contains(&cause.kind()) => {
                    fs::rename(data.join("member"), data.join(format!("member.kept-{now}"))).map_err(fail)?;
                }
                result => result.map_err(fail)?,
            }
        }
        Ok(())
    }

    /// Removes what was installed. The default data folder is removed only if it is empty: its contents may belong
    /// to another member, even when this member's data was on a storage.
    ///
    /// # Errors
    /// [`HostError`] with the path that failed.
    pub fn clean(&self, data: &Remains, now: i64) -> Result<(), HostError> {
        // The data before the settings, which say where it is: a second try must find it too.
        match data {
            Remains::Deleted => files::remove_or_empty(&self.data()?)?,
            Remains::SetAside => self.set_aside(now)?,
            Remains::Foreign(_) => {}
        }
        for folder in [self.data()?, self.path(DATA_DIR)] {
            files::remove_if_empty(&folder)?;
        }
        for path in ["etc/etcd", "opt/etcd", "run/etcd-charm", DROP_INS, "etc/systemd/system/etcd.service"] {
            remove(&self.path(path))?;
        }
        if matches!(self.manager, Manager::Systemd) {
            service::run("systemctl", &["daemon-reload"])?;
        }
        Ok(())
    }

    /// Writes a secret for a hook tool into a file only root can read, hands over its path, and
    /// removes it whatever happens.
    ///
    /// # Errors
    /// [`HostError`] when it cannot be written; else whatever `hand_over` returns.
    pub fn with_private_file<T, E: From<HostError>>(
        &self,
        text: &str,
        hand_over: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<T, E> {
        self.folder("run/etcd-charm", 0o755, false)?;
        self.folder("run/etcd-charm/private", 0o700, false)?;
        let path = self.path("run/etcd-charm/private/secret");
        let path = std::path::absolute(&path).unwrap_or(path);
        self.write(&path, text.as_bytes(), 0o600, false)?;
        let result = hand_over(&path);
        remove(&path).map_err(HostError::from)?;
        result
    }

    /// Where a file for the machine's user goes, if nothing that is somebody else's lies there.
    ///
    /// # Errors
    /// [`HostError::InTheWay`]; nothing was changed.
    pub fn place_for_user(&self, name: &'static str) -> Result<ForUser, HostError> {
        Ok(ForUser::find(&self.path("home/ubuntu"), name)?)
    }

    fn folder(&self, path: &str, mode: u32, daemons: bool) -> Result<(), HostError> {
        self.folder_at(&self.path(path), mode, daemons)
    }

    fn folder_at(&self, path: &Path, mode: u32, daemons: bool) -> Result<(), HostError> {
        let fail = |what| move |path: &Path, cause| HostError::File { what, path: path.to_owned(), cause };
        fs::create_dir_all(path).map_err(|cause| fail("cannot make")(path, cause))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|cause| fail("cannot set the mode of")(path, cause))?;
        if let Some((uid, gid)) = self.owner(daemons) {
            nix::unistd::chown(path, Some(uid), Some(gid))
                .map_err(|cause| fail("cannot set the owner of")(path, cause.into()))?;
        }
        Ok(())
    }

    fn write(&self, path: &Path, content: &[u8], mode: u32, daemons: bool) -> Result<(), HostError> {
        Ok(files::replace(path, content, mode, self.owner(daemons))?)
    }

    /// The daemon's user, for what the daemon must read alone; `None` where all is one user's.
    fn owner(&self, daemons: bool) -> Option<(nix::unistd::Uid, nix::unistd::Gid)> {
        if !daemons || !matches!(self.manager, Manager::Systemd) {
            return None;
        }
        nix::unistd::User::from_name(USER).ok().flatten().map(|user| (user.uid, user.gid))
    }
}

/// Reads settings back, if the charm could have written them; the client port is part of the URLs only.
#[must_use]
pub fn read_config(text: &str) -> Option<DaemonConfig> {
    let mut config: DaemonConfig = serde_json::from_str(text).ok()?;
    config.options.port = config.port();
    let serde_json::Value::Object(options) = serde_json::to_value(&config.options).ok()? else { return None };
    let checked = config::check(&options.into_iter().collect()).ok()?;
    (config::Options { port: config.options.port, ..checked } == config.options).then_some(config)
}

fn user_exists() -> bool {
    matches!(nix::unistd::User::from_name(USER), Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        let charm = root.path().join("charm");
        fs::create_dir_all(charm.join("bin")).unwrap();
        fs::write(charm.join("bin/etcd"), "a program").unwrap();
        let host = Host { root: root.path().to_owned(), charm, manager: Manager::process(root.path()) };
        (root, host)
    }

    fn settings_for(data_dir: &Path) -> DaemonConfig {
        let planned = crate::plan::tests::healthy(&[1]).host.config.unwrap();
        DaemonConfig { data_dir: Folder::parse(data_dir.to_str().unwrap()).unwrap(), ..planned }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn an_installation_is_current_until_the_charm_carries_another_program() {
        let (_root, host) = host();
        assert_eq!(host.look(None).unwrap().program, Program::Outdated);
        host.install().unwrap();
        assert_eq!(host.look(None).unwrap().program, Program::Current);
        fs::write(host.charm.join("bin/etcd"), "a newer program").unwrap();
        assert_eq!(host.look(None).unwrap().program, Program::Outdated);
        let before = host.look(None).unwrap().stamp;
        host.install().unwrap();
        assert_ne!(host.look(None).unwrap().stamp, before);
        assert_eq!(mode(&host.path("opt/etcd/bin/etcd")), 0o755);
        assert_eq!(mode(&host.path("var/lib/etcd")), 0o700);
    }

    #[test]
    fn the_same_program_unpacked_again_keeps_its_stamp_so_that_nothing_restarts() {
        let (_root, host) = host();
        host.install().unwrap();
        let before = host.look(None).unwrap();
        fs::write(host.charm.join("version"), "2").unwrap();
        assert_eq!(host.look(None).unwrap().program, Program::Outdated);
        host.install().unwrap();
        assert_eq!(host.look(None).unwrap(), before);
    }

    #[test]
    fn data_lies_where_the_settings_say_and_else_in_the_storage() {
        let (root, host) = host();
        let storage = Storage { id: "data/0".into(), location: "/srv/0".into() };
        let inside = root.path().join("srv/0/etcd").display().to_string();
        let seen = host.look(Some(&storage)).unwrap();
        assert_eq!((seen.data_dir.to_string(), seen.data), (inside, false));
        fs::create_dir_all(root.path().join("srv/0/etcd/member")).unwrap();
        assert!(host.look(Some(&storage)).unwrap().data, "somebody's data is not overlooked");
        assert_eq!(host.look(None).unwrap().data_dir, host.path(DATA_DIR).display().to_string().as_str());
    }

    #[test]
    fn keys_are_0600_in_a_0700_folder_and_are_made_once() {
        let (_root, host) = host();
        let names = vec!["10.0.0.5".to_owned()];
        host.make_request(Side::Server, "etcd0", &names).unwrap();
        let key = fs::read(host.tls(Side::Server, ".key")).unwrap();
        host.make_request(Side::Server, "etcd0", &["10.0.0.6".to_owned()]).unwrap();
        assert_eq!(fs::read(host.tls(Side::Server, ".key")).unwrap(), key);
        assert_eq!(mode(&host.tls(Side::Server, ".key")), 0o600);
        assert_eq!(mode(&host.path("etc/etcd/tls")), 0o700);
        let seen = host.look(None).unwrap();
        assert_eq!(seen.pairs[&Side::Server].request.as_ref().unwrap().says.names, ["10.0.0.6"]);
        assert_eq!(seen.pairs[&Side::Peer], Pair::default());
    }

    #[test]
    fn a_certificate_for_another_key_is_refused_and_the_old_one_stays() {
        let (_root, host) = host();
        let names = vec!["10.0.0.5".to_owned()];
        let authority = pki::make_authority("clients", 1_800_000_000).unwrap();
        host.make_request(Side::Server, "etcd0", &names).unwrap();
        let sign = |request: &str| {
            let life = pki::Validity::days(1_800_000_000, 90);
            pki::sign_request(&authority, request, &names, pki::Usage::ServerAndClient, life).unwrap()
        };
        let good = sign(&fs::read_to_string(host.tls(Side::Server, ".csr")).unwrap());
        host.install_certificate(Side::Server, &good, &authority.certificate).unwrap();
        let other = sign(&pki::make_request(&pki::make_key().unwrap(), "etcd1", &names).unwrap());
        assert!(host.install_certificate(Side::Server, &other, &authority.certificate).is_err());
        assert_eq!(host.look(None).unwrap().pairs[&Side::Server].certificate, Some(good));
    }

    #[test]
    fn cleaning_sets_the_last_copy_aside_and_deletes_any_other() {
        for data in [Remains::SetAside, Remains::Deleted] {
            let (_root, host) = host();
            host.install().unwrap();
            fs::create_dir_all(host.path("var/lib/etcd/member")).unwrap();
            host.clean(&data, 7).unwrap();
            assert!(!host.path("var/lib/etcd").exists() && !host.path("etc/etcd").exists());
            assert_eq!(host.path("var/lib/etcd.kept-7/member").exists(), data == Remains::SetAside);
            host.clean(&data, 8).unwrap();
        }
    }

    #[test]
    fn cleaning_leaves_what_is_not_this_members_in_the_default_folder() {
        for data in [Remains::SetAside, Remains::Deleted, Remains::Foreign("/var/lib/etcd".into())] {
            let (root, host) = host();
            host.install().unwrap();
            let member = host.path("var/lib/etcd/member");
            fs::create_dir_all(&member).unwrap();
            if !matches!(data, Remains::Foreign(_)) {
                // This member's own data is in a storage.
                let folder = root.path().join("srv/0/etcd");
                fs::create_dir_all(folder.join("member")).unwrap();
                host.write_config(&settings_for(&folder)).unwrap();
            }
            host.clean(&data, 7).unwrap();
            assert!(member.exists() && !host.path("etc/etcd").exists(), "{data:?}");
            assert!(!root.path().join("srv/0/etcd").exists(), "{data:?}");
            assert_eq!(root.path().join("srv/0/etcd.kept-7/member").exists(), data == Remains::SetAside);
        }
    }

    #[test]
    fn a_data_folder_that_is_a_mount_point_is_emptied_and_stays() {
        for data in [Remains::SetAside, Remains::Deleted] {
            let (_root, host) = host();
            host.install().unwrap();
            let folder = host.path("var/lib/etcd");
            let none: Option<&str> = None;
            if nix::mount::mount(none, &folder, Some("tmpfs"), nix::mount::MsFlags::empty(), none).is_err() {
                eprintln!("SKIPPED: only root can mount");
                return;
            }
            fs::create_dir_all(folder.join("member")).unwrap();
            let cleaned = host.clean(&data, 7);
            let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            nix::mount::umount(&folder).unwrap();
            cleaned.unwrap();
            let wanted = if data == Remains::SetAside { vec!["member.kept-7"] } else { vec![] };
            assert_eq!(left, wanted, "{data:?}");
            assert!(!host.path("etc/etcd").exists());
        }
    }

    #[test]
    fn settings_the_daemon_would_refuse_never_replace_those_it_runs_with() {
        let (_root, host) = host();
        host.install().unwrap();
        let mut good = settings_for(Path::new("/var/lib/etcd"));
        good.advertise_client_urls = "https://10.0.0.5:2381".into();
        good.options.port = 2381;
        host.write_config(&good).unwrap();
        let read = fs::read_to_string(host.path("etc/etcd/etcd.json")).unwrap();
        let settings = Settings::from_yaml(&read).unwrap();
        assert_eq!((settings.name.as_str(), settings.promote_learners), ("etcd1", true));
        assert_eq!(host.look(None).unwrap().config.as_ref(), Some(&good));
        let mut bad = good.clone();
        bad.options.election_timeout = 1;
        assert!(matches!(host.write_config(&bad), Err(HostError::Refused(_))));
        assert_eq!(host.look(None).unwrap().config, Some(good));
    }

    #[test]
    fn a_private_file_is_gone_afterwards() {
        let (_root, host) = host();
        let path = host
            .with_private_file("key", |path| {
                assert_eq!((mode(path), path.is_absolute()), (0o600, true));
                Ok::<_, HostError>(path.to_owned())
            })
            .unwrap();
        assert!(!path.exists());
    }
}
