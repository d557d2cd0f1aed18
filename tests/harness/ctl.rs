//! Debian's `etcdctl`, or the one that `ETCD_CTL` names, run as people run it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn program() -> PathBuf {
    let path = std::env::var_os("ETCD_CTL").map_or_else(|| "/usr/bin/etcdctl".into(), PathBuf::from);
    assert!(path.is_file(), "no {}: install etcd-client, these tests are about it", path.display());
    path
}

/// What a command wrote and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The output of a command that must have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "the command failed: {self:?}");
        self.out
    }
}

#[derive(Debug, Clone)]
pub struct Ctl {
    api: &'static str,
    endpoints: String,
    tls: Vec<(&'static str, String)>,
}

impl Ctl {
    pub fn v3(endpoints: impl Into<String>) -> Self {
        Self { api: "3", endpoints: endpoints.into(), tls: Vec::new() }
    }

    pub fn v2(endpoints: impl Into<String>) -> Self {
        Self { api: "2", endpoints: endpoints.into(), tls: Vec::new() }
    }

    /// With a client certificate out of `pem::Authority::leaf`, under the names of the API version.
    pub fn with_tls(mut self, authority: &Path, leaf: Option<&super::pem::Leaf>) -> Self {
        let names = match self.api {
            "2" => ["ETCDCTL_CA_FILE", "ETCDCTL_CERT_FILE", "ETCDCTL_KEY_FILE"],
            _ => ["ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY"],
        };
        self.tls.push((names[0], authority.display().to_string()));
        if let Some(leaf) = leaf {
            self.tls.push((names[1], leaf.certificate.display().to_string()));
            self.tls.push((names[2], leaf.key.display().to_string()));
        }
        self
    }

    fn command(&self, mut command: Command, words: &[&str]) -> Command {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        command.env("ETCDCTL_API", self.api).env("ETCDCTL_ENDPOINTS", &self.endpoints);
        command.envs(self.tls.iter().map(|(name, value)| (name, value))).args(words);
        command
    }

    /// Nothing here takes long; what would wait for ever fails instead, with exit code 124.
    fn limited(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg("30").arg(program());
        self.command(command, words)
    }

    pub fn run(&self, words: &[&str]) -> Said {
        said(self.limited(words).stdin(Stdio::null()).output().expect("etcdctl starts"))
    }

    /// With `input` on its standard input.
    pub fn run_with(&self, words: &[&str], input: &str) -> Said {
        use std::io::Write;
        let mut child = piped(self.limited(words).stdin(Stdio::piped()));
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("etcdctl reads");
        said(child.wait_with_output().expect("etcdctl ends"))
    }

    /// Started and left running, such as a watch.
    pub fn start(&self, words: &[&str]) -> Child {
        piped(self.command(Command::new(program()), words).stdin(Stdio::null()))
    }

    /// The same, listening to its standard input.
    pub fn start_to_talk(&self, words: &[&str]) -> Child {
        piped(self.command(Command::new(program()), words).stdin(Stdio::piped()))
    }

    /// Run to its end however long that takes.
    pub fn run_long(&self, words: &[&str]) -> Said {
        let mut command = self.command(Command::new(program()), words);
        said(command.stdin(Stdio::null()).output().expect("etcdctl starts"))
    }
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("etcdctl starts")
}

fn said(output: std::process::Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
