//! The sockets of clients, reached from outside of the server library that owns them.
//!
//! tiny_http keeps its sockets to itself, and has neither timeouts nor a way to cut a connection. All
//! of a process's descriptors are listed under `/dev/fd`, though, and a client's is known by its two
//! addresses. A descriptor found there may be closed and reused by another thread at any moment, so
//! it is duplicated first, by sending it to ourselves, and only a duplicate that still has the right
//! addresses is touched.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{
    ControlMessage, MsgFlags, Shutdown, SockaddrStorage, getpeername, getsockname, recv, send,
    sendmsg, shutdown,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, connect_unspec, recvmsg};

/// The sockets that belong to one listening address.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The addresses of connected clients and their descriptors; each connection may appear more than
    /// once.
    pub clients: Vec<(SocketAddr, RawFd)>,
    /// The number of descriptors that listen.
    pub listening: usize,
}

/// Looks through all descriptors for those of the listener at `local`.
pub(super) fn survey(local: SocketAddr) -> Survey {
    let mut survey = Survey::default();
    for descriptor in descriptors() {
        if !is_local(descriptor, local) {
            continue;
        }
        // A socket with our address and no peer is the listener's.
        match getpeername::<SockaddrStorage>(descriptor) {
            Ok(peer) => survey.clients.extend(to_address(&peer).map(|peer| (peer, descriptor))),
            Err(_) => survey.listening += 1,
        }
    }
    survey
}

/// A duplicate of a client's socket; dropped, the duplicate is closed and the connection goes on.
#[derive(Debug)]
pub(super) struct ClientSocket(OwnedFd);

impl ClientSocket {
    /// The socket of the client at `peer`, connected to the listener at `local`, if `descriptor` is it.
    pub(super) fn at(descriptor: RawFd, local: SocketAddr, peer: SocketAddr) -> Option<Self> {
        let is_it = |descriptor: RawFd| {
            let address = getpeername::<SockaddrStorage>(descriptor).ok();
            address.and_then(|address| to_address(&address)) == Some(peer)
                && is_local(descriptor, local)
        };
        if !is_it(descriptor) {
            return None;
        }
        // Looked at again, because the number may have been closed and given to another socket between
        // the look and the copy. What has been duplicated stays what it is.
        duplicate(descriptor).ok().filter(|client| is_it(client.descriptor()))
    }

    /// The number of the descriptor, for waiting until it can be written to.
    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Sends what the system takes at once, and gives the number of bytes. `WouldBlock` if it takes
    /// none.
    pub(super) fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            // DONTWAIT for this call alone: the flag of the socket is its owner's, which expects to
            // block.
            match send(self.descriptor(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(count) => return Ok(count),
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the connection in both directions: reads and writes of its owner fail from now on.
    pub(super) fn cut(&self) {
        let _ = shutdown(self.descriptor(), Shutdown::Both);
    }

    /// The same so that the client sees an error, and not an end. What it has not been sent yet is dropped.
    pub(super) fn reset(&self) {
        // A socket that is closed without lingering would be reset, too, but its owner shuts it down before that, which
        // is an end. Not every system takes a connection back.
        if connect_unspec(&self.0).is_err() {
            self.cut();
        }
    }

    /// Sends all bytes, and waits for the client to take them.
    pub(super) fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(self.descriptor(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends bytes past the connection's owner, as many as the system takes at once; `WouldBlock` if
    /// that is not all.
    pub(super) fn send_now(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.send_some(bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Has the client closed its side, with nothing left to read?
    pub(super) fn has_ended(&self) -> bool {
        let mut byte = [0];
        recv(self.descriptor(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) == Ok(0)
    }
}

/// The numbers of all open descriptors; one of them is that of the listing itself.
fn descriptors() -> Vec<RawFd> {
    let Ok(entries) = std::fs::read_dir("/dev/fd") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Is this a socket of the listener at `local`?
fn is_local(descriptor: RawFd, local: SocketAddr) -> bool {
    let address = getsockname::<SockaddrStorage>(descriptor).ok();
    address.and_then(|address| to_address(&address)).is_some_and(|address| {
        // A listener on all addresses has clients on each of them.
        address.port() == local.port()
            && (local.ip().is_unspecified() || address.ip() == local.ip())
    })
}

/// The address in the standard library's form; `None` for other families.
fn to_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::from((v4.ip(), v4.port()))),
        (_, Some(v6)) => Some(SocketAddr::from((v6.ip(), v6.port()))),
        _ => None,
    }
}

/// Duplicates a descriptor of which only the number is known. dup(2) would want a borrowed descriptor,
/// and nobody here may borrow it without `unsafe`; the system copies what is sent.
fn duplicate(descriptor: RawFd) -> io::Result<ClientSocket> {
    let (sender, receiver) = UnixStream::pair()?;
    let rights = [descriptor];
    sendmsg::<()>(
        sender.as_raw_fd(),
        &[IoSlice::new(&[0])],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut received = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&receiver, &mut slices, &mut received, RecvFlags::CMSG_CLOEXEC)?;
    for message in received.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(duplicate) = descriptors.next()
        {
            return Ok(ClientSocket(duplicate));
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_found_and_cut_from_outside() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let local = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(local).expect("a connection");
        let peer = client.local_addr().expect("an address");
        let (mut accepted, _) = listener.accept().expect("a connection");
        let survey = survey(local);
        let [(found, descriptor)] = survey.clients[..] else { panic!("{survey:?}") };
        assert_eq!((found, survey.listening), (peer, 1));
        assert!(ClientSocket::at(0, local, peer).is_none(), "that is another one");
        let found = ClientSocket::at(descriptor, local, peer).expect("it is connected");
        assert!(!found.has_ended());
        found.send_now(b"abc").expect("it is connected");
        found.cut();
        let mut received = String::new();
        client.read_to_string(&mut received).expect("the end is clean");
        assert_eq!(received, "abc");
        assert_eq!(accepted.read(&mut [0]).ok(), Some(0));
        assert!(found.has_ended());
    }

    #[test]
    fn a_connection_that_is_reset_has_no_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let local = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(local).expect("a connection");
        let peer = client.local_addr().expect("an address");
        let (accepted, _) = listener.accept().expect("a connection");
        let found = ClientSocket::at(accepted.as_raw_fd(), local, peer).expect("it is connected");
        found.reset();
        drop(accepted);
        let end = client.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
        // As long as anybody has it open it is taken for a listener's, as one that the client has reset is.
        drop(found);
        let survey = survey(local);
        assert_eq!((survey.clients.len(), survey.listening), (0, 1));
    }
}
