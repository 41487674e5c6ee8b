//! The content of a response: whole, or still arriving. RFC 9110 §6.4.
//!
//! A body that still arrives is pulled: whoever sends it to the client reads it, and reading is what
//! moves it along. A body ends well or it ends with an error, never in between: a reader that sees
//! an error must not let what it has sent look complete.

use std::fmt;
use std::io;

use bytes::Bytes;

/// The content of a response.
pub enum Body {
    /// No content. `length` is what `Content-Length` would say to a GET, for the answer to a HEAD
    /// (RFC 9110 §8.6); `None` leaves the field out.
    None {
        /// The length of the representation that is not sent.
        length: Option<u64>,
    },
    /// All of it, in memory.
    Whole(Bytes),
    /// Still arriving.
    Arriving(Box<dyn Arriving>),
}

impl Body {
    /// The length in bytes, where it is known before the end.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::None { length } => *length,
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Arriving(body) => body.length(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?})", self.length())
    }
}

/// A body that still arrives from the origin server.
pub trait Arriving: Send {
    /// The length in bytes, where the origin server stated it.
    fn length(&self) -> Option<u64>;

    /// Reads what has come, waiting for at least one byte. `Ok(0)` is the proven end; an error means
    /// that the body is not whole and never will be.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// The client is gone. A body that is worth keeping is read to its end all the same.
    fn abandon(self: Box<Self>) {}
}
