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

/// The TCP sockets that systemd has opened for this service; none without `LISTEN_FDS`.
pub fn sockets() -> Vec<TcpListener> {
    // The variables are meant for one process only (sd_listen_fds(3)): they name its id, and a child
    // that inherited them is not deceived.
    let mut given = ListenFd::from_env();
    let count = given.len();
    let take = |index| match given.take_tcp_listener(index) {
        Ok(listener) => listener,
        Err(error) => {
            // One odd socket (UDP, Unix) does not keep the others from being served.
            log::warn!("socket {index} from systemd: {error}; expected a TCP listener");
            None
        }
    };
    (0..count).filter_map(take).collect()
}

/// Tells systemd, where it wants to know (`Type=notify`), that clients are served. The main process is
/// named, because after a take-over it is another one.
pub fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        let text = format!("READY=1\nMAINPID={}\n", std::process::id());
        socket.send_to_addr(text.as_bytes(), &notified(&path)?)
    });
    // Nothing depends on it but systemd, which has a timeout of its own for a service that stays
    // silent.
    if let Err(error) = sent {
        log::debug!("NOTIFY_SOCKET: {error}");
    }
}

/// The address in `NOTIFY_SOCKET`: a path, or behind an `@` an abstract name (Linux).
fn notified(given: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = given.as_bytes().strip_prefix(b"@") {
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(given)
}
