//! systemd: the sockets that it opens for a service, and the word that the service is ready.
//! sd_listen_fds(3), sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use listenfd::ListenFd;

/// The sockets that systemd has opened for us.
pub fn sockets() -> Vec<TcpListener> {
    let mut given = ListenFd::from_env();
    let count = given.len();
    let take = |index| match given.take_tcp_listener(index) {
        Ok(listener) => listener,
        Err(error) => {
            log::warn!("socket {index} from systemd: {error}; expected a TCP listener");
            None
        }
    };
    (0..count).filter_map(take).collect()
}

/// Tells systemd, if it wants to know, that the proxy serves.
pub fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        let text = format!("READY=1\nMAINPID={}\n", std::process::id());
        socket.send_to_addr(text.as_bytes(), &notified(&path)?)
    });
    if let Err(error) = sent {
        log::debug!("NOTIFY_SOCKET: {error}");
    }
}

/// The address that systemd gives: a path, or, behind an `@`, a name that is in no folder (Linux).
fn notified(given: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = given.as_bytes().strip_prefix(b"@") {
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(given)
}
