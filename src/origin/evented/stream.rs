//! A connection that never waits: TCP, with TLS over it where the URL asks for it, and TLS over that where an
//! egress proxy is itself reached by https. RFC 8446 §6.1, RFC 9110 §4.3.4.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;

use crate::origin::trust::TlsSession;

#[cfg(all(test, feature = "tls"))]
mod tests;

/// A connection to the origin server, or to an egress proxy.
///
/// `S` is the socket, which does not block.
pub enum Stream<S> {
    /// Without TLS.
    Plain(S),
    /// With it.
    Secure(Box<SecureStream<S>>),
}

/// A socket that does not block.
pub trait OriginSocket: Read + Write {
    /// Ends this side: FIN.
    fn end(&mut self);
}

impl OriginSocket for TcpStream {
    fn end(&mut self) {
        // It fails where the other side is gone already, and then there is nothing to end.
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// TLS over a connection.
pub struct SecureStream<S> {
    below: Stream<S>,
    session: TlsSession,
    /// What came with the last read and the session has not taken, no more than one read brings: it takes nothing
    /// while it has more than a record of decrypted bytes.
    kept: Vec<u8>,
    /// Decrypted bytes are kept that have not been read.
    has_plaintext: bool,
    /// The last read has taken all that the socket had.
    is_drained: bool,
}

impl<S: OriginSocket> Stream<S> {
    /// The same connection with TLS over it; [`Stream::advance`] begins the handshake.
    #[must_use]
    pub fn secured(self, session: TlsSession) -> Self {
        let (kept, has_plaintext, is_drained) = (Vec::new(), false, false);
        let below = self;
        Self::Secure(Box::new(SecureStream { below, session, kept, has_plaintext, is_drained }))
    }

    /// Goes on with the handshake; `true` if there is none going on. An error ends the connection, one of the kind
    /// `InvalidData` is TLS's own.
    pub fn advance(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        let Self::Secure(secure) = self else { return Ok(true) };
        if !secure.below.advance(scratch)? {
            return Ok(false);
        }
        while secure.session.is_handshaking() {
            match secure.send_session().and_then(|()| secure.receive_session(scratch)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        match secure.send_session() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(!secure.session.is_handshaking()),
        }
    }

    /// Has a read that brought `count` bytes of at most `most` taken all that there was, so that only new bytes bring
    /// new ones? `false` if that is not known.
    pub fn is_drained(&self, count: usize, most: usize) -> bool {
        match self {
            Self::Plain(_) => count < most,
            // TLS decrypts a record as a whole, and hands it out as it is read.
            Self::Secure(secure) => {
                secure.is_drained && secure.kept.is_empty() && !secure.has_plaintext
            }
        }
    }

    /// Is nothing kept of what was written, so that all of it is with the system?
    pub fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Secure(secure) => !secure.session.wants_write() && secure.below.is_flushed(),
        }
    }

    /// Sends what is kept of what was written; `true` if nothing is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        let Self::Secure(secure) = self else { return Ok(true) };
        match secure.send_session() {
            Ok(()) => secure.below.flush(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what has come. `Ok(0)` is an end that the other side has announced: FIN, and close_notify where there
    /// is TLS. TLS that ends without one is an error, since anybody on the way can cause such an end. `scratch` is
    /// for what is encrypted.
    pub fn read(&mut self, buffer: &mut [u8], scratch: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Secure(secure) => secure.read(buffer, scratch),
        }
    }

    /// Writes as much as is taken at once.
    pub fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => write_slices(socket, slices),
            Self::Secure(secure) => secure.write(slices),
        }
    }

    /// Ends this side: FIN, after close_notify where there is TLS.
    pub fn end(&mut self) {
        match self {
            Self::Plain(socket) => socket.end(),
            Self::Secure(secure) => {
                secure.session.send_close_notify();
                // What the system does not take now is lost: nobody waits for it.
                let _ = secure.send_session();
                secure.below.end();
            }
        }
    }
}

/// One slice is written as it is: the system need not be given a list.
fn write_slices(socket: &mut impl Write, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut full = slices.iter().filter(|slice| !slice.is_empty());
    match (full.next(), full.next()) {
        (None, _) => Ok(0),
        (Some(only), None) => socket.write(only),
        _ => socket.write_vectored(slices),
    }
}

impl<S: OriginSocket> SecureStream<S> {
    /// Sends what the session has to send.
    fn send_session(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            let mut below = SessionOutput(&mut self.below);
            if self.session.write_tls(&mut below)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Reads once from below, and decrypts it as far as the session has space for it; how many bytes these were.
    fn receive_session(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        if !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            self.hand_in(&kept)?;
            return Ok(kept.len());
        }
        let most = scratch.len().min(RECEIVED_MAX);
        let (mine, deeper) = scratch.split_at_mut(most);
        let count = match &mut self.below {
            Stream::Plain(socket) => socket.read(mine)?,
            below @ Stream::Secure(_) => below.read(mine, deeper)?,
        };
        self.is_drained = self.below.is_drained(count, most);
        self.hand_in(&mine[..count])?;
        Ok(count)
    }

    /// Gives the session what has come, and keeps what it does not take; nothing is the end of the connection.
    fn hand_in(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.session.read_tls(&mut bytes) {
                // Behind a close_notify nothing counts (RFC 8446 §6.1).
                Ok(0) => bytes = &[],
                Ok(_) => {}
                // Short records behind a long one: together they are more than it decrypts ahead.
                Err(_) if self.has_plaintext => {
                    self.kept = bytes.to_vec();
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            let state = self.session.process_new_packets().map_err(|error| {
                // The other side is told what was wrong, if it listens.
                let _ = self.session.write_tls(&mut SessionOutput(&mut self.below));
                io::Error::new(io::ErrorKind::InvalidData, error)
            })?;
            self.has_plaintext = state.plaintext_bytes_to_read() > 0;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8], scratch: &mut [u8]) -> io::Result<usize> {
        // Bytes may have come since the socket was read last, and their readiness been seen: what is decrypted already
        // says nothing about them.
        self.is_drained = false;
        let mut filled = 0;
        loop {
            match self.session.reader().read(&mut buffer[filled..]) {
                Ok(count) if count > 0 => {
                    filled += count;
                    if filled == buffer.len() {
                        // More may be left of the record.
                        return Ok(filled);
                    }
                    continue;
                }
                // The announced end: it is read once more when what came before it is used up.
                Ok(_) => {
                    self.has_plaintext = filled > 0;
                    return Ok(filled);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // An end that nobody has announced comes behind the bytes before it, too.
                Err(_) if filled > 0 => {
                    self.has_plaintext = true;
                    return Ok(filled);
                }
                Err(error) => return Err(error),
            }
            self.has_plaintext = false;
            if filled > 0 {
                return Ok(filled);
            }
            // Nothing is left of earlier records: more is read from below.
            self.receive_session(scratch)?;
            // A handshake message behind the handshake (a key that is renewed) may have to be answered.
            match self.send_session() {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // What the session keeps goes out first: with that left nothing more is taken, so that it keeps no more than
        // one call brings.
        self.send_session()?;
        let mut count = 0;
        for slice in slices {
            let taken = self.session.writer().write(slice)?;
            count += taken;
            if taken < slice.len() {
                break;
            }
        }
        match self.send_session() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }
}

/// How much is read from below at a time: a record is 16 KiB at most.
const RECEIVED_MAX: usize = 16 * 1024;

/// What is below a session, as it writes to it.
struct SessionOutput<'a, S>(&'a mut Stream<S>);

impl<S: OriginSocket> Write for SessionOutput<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
