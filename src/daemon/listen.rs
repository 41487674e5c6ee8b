//! The sockets that clients connect to: from systemd, from the process that is to be taken over, or
//! new.
//!
//! A new socket has its address from the beginning, which finds out who else has it, and is opened to
//! clients by [`open`] only, when nothing else can fail any more: clients are not let in by a process
//! that then does not start.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use caching_proxy::cli::config::{Config, FrontKind};

use crate::daemon::error::StartError;
use crate::daemon::instances;
use crate::daemon::systemd;
use crate::daemon::takeover::{self, Predecessor};

/// For how long a client may take none of the bytes that are sent to it.
const CLIENT_WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many new connections may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How many free ports are tried until one is free on both loopback addresses.
const PORTS_TRIED: usize = 32;

/// What clients connect to.
pub struct Sockets {
    /// At least one.
    pub listeners: Vec<TcpListener>,
    /// The process that they are taken over from.
    pub predecessor: Option<Predecessor>,
    /// systemd has opened them and keeps them: clients that connect when this process has ended start the next.
    pub stay: bool,
}

impl From<Vec<TcpListener>> for Sockets {
    /// New ones, which end with this process.
    fn from(listeners: Vec<TcpListener>) -> Self {
        Self { listeners, predecessor: None, stay: false }
    }
}

/// The listening sockets, from wherever they are to come.
pub fn sockets(config: &Config) -> Result<Sockets, StartError> {
    // systemd's sockets come first, whatever --host and --port say: the unit file has the address then.
    let given = systemd::sockets();
    if !given.is_empty() {
        return Ok(Sockets { stay: true, ..given.into() });
    }
    let address = SocketAddr::new(config.host, config.port);
    // A server of tiny_http has one listener.
    let both = config.both_loopbacks && config.front == FrontKind::Event;
    if config.take_over
        && let Some(stream) = instances::handover(config.port)
    {
        // Whoever offers its sockets at that name is this user's own process: the folder is nobody
        // else's.
        match takeover::take(stream) {
            Ok((mut listeners, predecessor)) => {
                let addresses = listeners.iter().filter_map(|one| one.local_addr().ok());
                // A process of an older version listened on one of the two loopback addresses.
                if both && addresses.map(|one| one.ip()).eq([config.host]) {
                    listeners.extend(beside(address).unwrap_or_else(|error| told(address, &error)));
                }
                return Ok(Sockets { predecessor: Some(predecessor), ..listeners.into() });
            }
            // Then the port is tried as usual, and the error that matters is the one about the port.
            Err(error) => log::warn!("--take-over: port {}: {error}", config.port),
        }
    }
    if both { on_both(address) } else { at(address).map(|one| vec![one]) }.map(Sockets::from)
}

/// Lets clients connect: the system queues them until a front accepts them.
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

/// The loopback address `address` and, where it can be had, `::1` on the same port: `localhost` leads
/// to either, and a client that tries `::1` first was refused, or reached another program.
fn on_both(address: SocketAddr) -> Result<Vec<TcpListener>, StartError> {
    // Only where the system chooses the port can another one be tried.
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
                // The socket is kept open, so that the system does not offer its port again.
                tried.push(first);
            }
            Err(error) => {
                told(local, &error);
                return Ok(vec![first]);
            }
        }
    }
}

/// The port of `address` on `::1`; `None` where this machine has no such address. The error is that
/// another program has it.
fn beside(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    let second = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), address.port());
    match bind(second) {
        Ok(listener) => Ok(Some(listener)),
        // The one case that harms clients: those of `localhost` may reach that program.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(error) => {
            log::debug!("{second}: {error}; only {} is listened on", address.ip());
            Ok(None)
        }
    }
}

/// Warns that `localhost` may lead to another program, and goes on without `::1`.
fn told(address: SocketAddr, error: &io::Error) -> Option<TcpListener> {
    let port = address.port();
    log::warn!(
        "[::1]:{port}: {error}; clients of localhost may reach the program that listens there"
    );
    None
}

/// A socket with this address, which does not listen yet.
pub fn at(address: SocketAddr) -> Result<TcpListener, StartError> {
    bind(address).map_err(|source| StartError::Listen { address, source })
}

/// Binds a socket and sets on it what accepted connections inherit: one call for all instead of four
/// for each.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT would keep the address for a minute.
    socket.set_reuse_address(true)?;
    // Head and content go out in one write; Nagle's algorithm would hold the last piece back for an
    // acknowledgement.
    socket.set_tcp_nodelay(true)?;
    // Finds clients that are gone without a word (a laptop that was closed), above all those of
    // tunnels.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    // The front cuts a client that reads nothing; this is for when it cannot. (A timeout for
    // reading would end accept itself.)
    socket.set_write_timeout(Some(CLIENT_WRITE_TIMEOUT))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
