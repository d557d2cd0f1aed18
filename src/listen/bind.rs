//! Sockets from URLs.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};

use crate::settings::Url;

/// Connections the kernel queues before we accept them.
const BACKLOG: i32 = 4096;

/// Why a listener could not be opened; sentences as Go's.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Port in use, address not ours, or not allowed.
    #[error("listen tcp {address}: bind: {source} (is another process on this address? see --listen-*-urls)")]
    Tcp {
        /// `ip:port`.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The same for a unix socket.
    #[error("listen unix {path}: bind: {source}")]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A host that is no address of its own.
    #[error("expected IP in URL for binding ({0})")]
    NeedsIp(String),
    /// Plain and TLS on one unix socket.
    #[error("unix socket {0} cannot be plain and TLS at once (give each its own path)")]
    MixedUnix(PathBuf),
}

/// An open listener, not yet accepting.
#[derive(Debug)]
pub struct Bound {
    pub(super) socket: Socketed,
    /// Some URL of this address is plain.
    pub(super) plain: bool,
    /// Some URL of this address is TLS.
    pub(super) tls: bool,
}

#[derive(Debug)]
pub(super) enum Socketed {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Bound {
    #[cfg(test)]
    /// The real address, with the port the system chose for port 0; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socketed::Tcp(listener) => listener.local_addr().ok(),
            Socketed::Unix(..) => None,
        }
    }

    /// The address for the log.
    pub fn address(&self) -> String {
        match &self.socket {
            Socketed::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string())
            }
            Socketed::Unix(_, path) => path.display().to_string(),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Socketed::Unix(_, path) = &self.socket {
            // The file may be gone already, and a stale one is removed at the next bind.
            drop(std::fs::remove_file(path));
        }
    }
}

/// Opens a listener for every address among the URLs; an address listed with both schemes becomes
/// one listener that serves both.
pub fn bind(urls: &[Url], reuse_port: bool) -> Result<Vec<Bound>, ListenError> {
    let mut bound: Vec<(String, Bound)> = Vec::new();
    for url in urls {
        let (authority, tls) = (url.authority(), url.scheme().is_tls());
        // Port 0 asks for a new port each time, so two such URLs are two listeners.
        let shared = url.port() != 0 || url.scheme().is_unix();
        if let Some((_, same)) = bound.iter_mut().find(|(known, _)| shared && *known == authority) {
            same.tls |= tls;
            same.plain |= !tls;
            continue;
        }
        let socket = match url.socket_path() {
            Some(path) => unix(path)?,
            None => {
                let ip = url.bind_ip().ok_or_else(|| ListenError::NeedsIp(url.to_string()))?;
                tcp(ip, url.port(), reuse_port)?
            }
        };
        bound.push((authority, Bound { socket, plain: !tls, tls }));
    }
    for (_, both) in bound.iter().filter(|(_, bound)| bound.plain && bound.tls) {
        if let Socketed::Unix(_, path) = &both.socket {
            return Err(ListenError::MixedUnix(path.clone()));
        }
    }
    Ok(bound.into_iter().map(|(_, bound)| bound).collect())
}

fn tcp(ip: IpAddr, port: u16, reuse_port: bool) -> Result<Socketed, ListenError> {
    let address = SocketAddr::new(ip, port);
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            // As Go does: [::] takes callers of both families.
            socket.set_only_v6(!ip.is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map(Socketed::Tcp).map_err(|source| ListenError::Tcp { address, source })
}

fn unix(path: PathBuf) -> Result<Socketed, ListenError> {
    use std::os::unix::fs::FileTypeExt;
    // A socket left behind by a killed process; anything else in the way is somebody's file.
    if std::fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
        drop(std::fs::remove_file(&path));
    }
    let open = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    match open() {
        Ok(listener) => Ok(Socketed::Unix(listener, path)),
        Err(source) => Err(ListenError::Unix { path, source }),
    }
}
