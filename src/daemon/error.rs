//! Why the proxy could not start, in one line that says what to try.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use caching_proxy::message::target::OriginUrl;

/// Why the proxy could not start: one line, exit code 1.
#[derive(Debug)]
pub enum StartError {
    /// The address cannot be listened on.
    Listen { address: SocketAddr, source: io::Error },
    /// tiny_http on an address that others can reach.
    UnsafeFront(IpAddr),
    /// The origin server and the proxy, which are the same.
    OriginIsUs(Box<OriginUrl>, SocketAddr),
    /// The origin server's URL, its certificates or the way to it.
    Origin(String),
    /// The store behind memory.
    Store(String),
    /// A file that a flag names.
    File { flag: &'static str, path: PathBuf, source: io::Error },
    /// What was asked of the system, and what it said.
    System(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, source } => explain_listening(f, *address, source),
            Self::UnsafeFront(host) => write!(
                f,
                "--host {host}: --front tiny-http is not safe on a network; use --front event, listen \
                 on 127.0.0.1, or add --allow-unsafe-front"
            ),
            Self::OriginIsUs(origin, address) => {
                write!(
                    f,
                    "--origin {origin}: this is the proxy itself ({address}); name another server"
                )
            }
            Self::Origin(what) | Self::Store(what) => f.write_str(what),
            Self::File { flag, path, source } => write!(f, "{flag} {}: {source}", path.display()),
            Self::System(what, source) => write!(f, "{what}: {source}"),
        }
    }
}

/// What is wrong with a listening address, and the remedy: this is the error that newcomers meet first.
fn explain_listening(
    f: &mut fmt::Formatter<'_>,
    address: SocketAddr,
    source: &io::Error,
) -> fmt::Result {
    let port = address.port();
    match source.kind() {
        io::ErrorKind::AddrInUse if is_another_proxy(address) => {
            write!(f, "port {port}: in use by another proxy; stop it, or choose another --port")
        }
        io::ErrorKind::AddrInUse => {
            write!(f, "port {port}: in use by another program; choose another --port")
        }
        io::ErrorKind::PermissionDenied => write!(
            f,
            "port {port}: no permission; ports below 1024 are the system's, choose a higher --port"
        ),
        io::ErrorKind::AddrNotAvailable => {
            let host = address.ip();
            write!(f, "--host {host}: this machine has no such address; 0.0.0.0 is all of them")
        }
        _ => write!(f, "{address}: {source}"),
    }
}

/// Does a proxy like this one listen there? It names itself in `Cache-Status`. Anything else, silence
/// included, is "another program".
fn is_another_proxy(address: SocketAddr) -> bool {
    // All addresses of this machine cannot be connected to; its loopback address can.
    let ip =
        if address.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { address.ip() };
    // The program at that port may be anything, and may not answer: an error message is not worth a
    // long wait.
    let limit = Duration::from_millis(300);
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        // TRACE is refused without asking the origin server.
        stream.write_all(b"TRACE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 1024];
        let count = io::Read::read(&mut stream, &mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..count]).contains("Cache-Status: proxy"))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_address_is_said_with_the_remedy() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let told =
            |kind: io::ErrorKind| StartError::Listen { address, source: kind.into() }.to_string();
        let low =
            "port 80: no permission; ports below 1024 are the system's, choose a higher --port";
        assert_eq!(told(io::ErrorKind::PermissionDenied), low);
        let none = "--host 127.0.0.1: this machine has no such address; 0.0.0.0 is all of them";
        assert_eq!(told(io::ErrorKind::AddrNotAvailable), none);
    }
}
