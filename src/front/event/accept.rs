//! New clients, however scarce descriptors are.
//!
//! When there are as many clients as there may be, further ones wait in the kernel's queue. When the
//! process has no descriptor left, one that is kept for this is given up for a moment, so that a waiting
//! client learns of it instead of waiting for nothing.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};

use crate::origin::evented::is_out_of_descriptors;

/// How long to wait before accepting again after that has failed.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// The log has one warning of a failure in this span, at most.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// The answer where there is no descriptor for a client.
const NO_DESCRIPTOR: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n\
    Retry-After: 1\r\nX-Cache: MISS\r\nCache-Status: proxy; detail=full\r\nContent-Length: 40\r\n\
    Connection: close\r\n\r\nproxy: no descriptors left; see ulimit.\n";

/// Accepts clients.
pub(super) struct Acceptor {
    listeners: Vec<TcpListener>,
    /// The listener to ask next: each in its turn, so that none is served before the others.
    next: usize,
    /// The descriptor that is given up for a client that cannot be accepted otherwise.
    reserve: Option<File>,
    last_warning: Option<Instant>,
}

/// The outcome of accepting once.
pub(super) enum Accepted {
    Client(TcpStream, SocketAddr),
    /// No client is waiting.
    Nobody,
    /// Try again after [`PAUSE`].
    Later,
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<std::net::TcpListener>) -> io::Result<Self> {
        let mio = |listener: std::net::TcpListener| {
            listener.set_nonblocking(true).map(|()| TcpListener::from_std(listener))
        };
        let listeners = listeners.into_iter().map(mio).collect::<io::Result<Vec<_>>>()?;
        assert!(!listeners.is_empty(), "a front listens somewhere");
        Ok(Self { listeners, next: 0, reserve: reserve(), last_warning: None })
    }

    pub(super) fn listeners(&mut self) -> &mut [TcpListener] {
        &mut self.listeners
    }

    /// The next client.
    pub(super) fn next(&mut self) -> Accepted {
        // Listeners in a row at which no client waits.
        let mut quiet = 0;
        loop {
            match self.listeners[self.next].accept() {
                Ok((stream, peer)) => {
                    self.next = (self.next + 1) % self.listeners.len();
                    // It was given up, and could not be had again: now there are descriptors once more.
                    if self.reserve.is_none() {
                        self.reserve = reserve();
                    }
                    return Accepted::Client(stream, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    quiet += 1;
                    self.next = (self.next + 1) % self.listeners.len();
                    if quiet == self.listeners.len() {
                        return Accepted::Nobody;
                    }
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    self.warn(&error);
                    if is_out_of_descriptors(&error) {
                        self.refuse_one();
                    }
                    return Accepted::Later;
                }
            }
        }
    }

    /// Answers one client by means of the descriptor in reserve, and closes its connection.
    fn refuse_one(&mut self) {
        drop(self.reserve.take());
        // The system says that there is no descriptor before it asks whether a client waits: it may be at
        // another listener.
        for _ in 0..self.listeners.len() {
            let accepted = self.listeners[self.next].accept();
            self.next = (self.next + 1) % self.listeners.len();
            if let Ok((mut stream, _)) = accepted {
                // It fits into the socket's buffer, or the client is not there any more.
                let _ = stream.write(NO_DESCRIPTOR);
                break;
            }
        }
        self.reserve = reserve();
    }

    /// Writes a warning, unless there was one a short while ago: this fails again and again.
    fn warn(&mut self, error: &io::Error) {
        if self.last_warning.is_none_or(|last| last.elapsed() > WARNING_INTERVAL) {
            self.last_warning = Some(Instant::now());
            log::warn!("accepting connections: {error}; trying again");
        }
    }
}

/// A descriptor that can be given up.
fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Did the connection fail before it was accepted? The next one is not worse for that.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}
