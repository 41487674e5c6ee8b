//! The sockets that clients connect to: from systemd, from the process that is to be taken over, or new.
//!
//! A new one has its address from the beginning, and is opened to clients by [`open`] only, when nothing else
//! can fail any more: no client is let in by a process that then does not start.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use caching_proxy::cli::config::{Config, FrontKind};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::daemon::error::StartError;
use crate::daemon::instances;
use crate::daemon::systemd;
use crate::daemon::takeover::{self, Predecessor};

/// How long a client may take none of the bytes that are sent to it.
const CLIENT_WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many new connections may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How many free ports are tried until one is free on both loopback addresses.
const PORTS_TRIED: usize = 32;

/// The sockets, at least one, and the process that they are taken over from.
pub fn sockets(config: &Config) -> Result<(Vec<TcpListener>, Option<Predecessor>), StartError> {
    let given = systemd::sockets();
    if !given.is_empty() {
        return Ok((given, None));
    }
    let address = SocketAddr::new(config.host, config.port);
    // tiny_http has one listener.
    let both = config.both_loopbacks && config.front == FrontKind::Event;
    if config.take_over
        && let Some(stream) = instances::handover(config.port)
    {
        match takeover::take(stream) {
            Ok((mut listeners, predecessor)) => {
                let addresses = listeners.iter().filter_map(|one| one.local_addr().ok());
                // An older process listened on one of the two.
                if both && addresses.map(|one| one.ip()).eq([config.host]) {
                    listeners.extend(beside(address).unwrap_or_else(|error| told(address, &error)));
                }
                return Ok((listeners, Some(predecessor)));
            }
            Err(error) => log::warn!("--take-over: port {}: {error}", config.port),
        }
    }
    if both { on_both(address) } else { at(address).map(|one| vec![one]) }
        .map(|listeners| (listeners, None))
}

/// Lets clients connect.
pub fn open(listeners: &[TcpListener]) -> Result<(), StartError> {
    for listener in listeners {
        let socket = SockRef::from(listener);
        // One that was given to us may have a queue of another length.
        if socket.is_listener().is_ok_and(|listens| listens) {
            continue;
        }
        let address =
            listener.local_addr().map_err(|source| StartError::System("own address", source))?;
        socket.listen(BACKLOG).map_err(|source| StartError::Listen { address, source })?;
    }
    Ok(())
}

/// This loopback address and `::1`, where that can be had, on the same port: names such as
/// localhost lead to either.
fn on_both(address: SocketAddr) -> Result<Vec<TcpListener>, StartError> {
    let is_free = address.port() == 0;
    let mut tried = Vec::new();
    loop {
        let first = at(address)?;
        let local =
            first.local_addr().map_err(|source| StartError::System("own address", source))?;
        match beside(local) {
            Ok(second) => return Ok([Some(first), second].into_iter().flatten().collect()),
            Err(error) if is_free && tried.len() < PORTS_TRIED => {
                log::debug!("port {}: {error} on ::1; another one is tried", local.port());
                // It is kept, so that the system does not offer it again.
                tried.push(first);
            }
            Err(error) => {
                told(local, &error);
                return Ok(vec![first]);
            }
        }
    }
}

/// The port of `address` on `::1`; `None` where there is no such address. The error is that somebody
/// else has it.
fn beside(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    let second = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), address.port());
    match bind(second) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            log::debug!("{second}: {error}; only {} is listened on", address.ip());
            Ok(None)
        }
    }
}

fn told(address: SocketAddr, error: &io::Error) -> Option<TcpListener> {
    let port = address.port();
    log::warn!(
        "[::1]:{port}: {error}; clients of localhost may reach the program that listens there"
    );
    None
}

/// A socket with this address, which is not open yet.
pub fn at(address: SocketAddr) -> Result<TcpListener, StartError> {
    bind(address).map_err(|source| StartError::Listen { address, source })
}

/// Accepted connections inherit what is set on the socket.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    // The front cuts a client that reads nothing; this is for when it cannot. (A timeout for
    // reading would end accept itself.)
    socket.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
