//! The content of a response: whole, or still arriving. RFC 9110 §6.4.
//!
//! A body that still arrives is pulled: whoever sends it to the client reads it, and reading is what
//! moves it along. A body that grows is moved along by another thread, and read by any number of
//! clients, each at its own pace. Either ends well or it ends with an error, never in between: a reader
//! that sees an error must not let what it has sent look complete.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::message::fields::Fields;
use crate::message::pipe::BodyPipe;

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
    /// Growing while several clients read it.
    Growing(Box<dyn Growing>),
}

impl Body {
    /// The length in bytes, where it is known before the end.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::None { length } => *length,
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Arriving(body) => body.length(),
            Self::Growing(body) => body.length(),
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

    /// Would a read wait for what somebody else has yet to bring? If so, `wake` is called once it would not: on another
    /// thread, without a lock that reading takes. It must not block.
    fn would_wait(&mut self, _wake: Box<dyn FnOnce() + Send>) -> bool {
        false
    }

    /// The client is gone. A body that is worth keeping is read to its end all the same, by whoever
    /// implements this.
    fn abandon(self: Box<Self>) {}
}

/// What a growing body has for its reader at the moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grown {
    /// As many bytes were copied.
    Bytes(usize),
    /// There is nothing to read at the moment.
    NotYet,
    /// The proven end.
    End,
}

/// One reader's view of a body that grows.
pub trait Growing: Send {
    /// The length in bytes, where the origin server stated it.
    fn length(&self) -> Option<u64>;

    /// Copies what is there, and waits for nothing. An error means that the body is not whole and never
    /// will be, or that this reader has fallen too far behind.
    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<Grown>;

    /// `count` bytes of what was copied have been used; the next copy begins behind them.
    fn consume(&mut self, count: usize);

    /// All that is left, where the whole body is in memory: it can be sent without being copied.
    fn rest(&self) -> Option<&[u8]> {
        None
    }

    /// Some of what comes next, not empty, where it can be used without being copied; [`Growing::peek`] says what
    /// else there is.
    fn here(&mut self) -> Option<&[u8]> {
        None
    }

    /// Some of the content may come through a pipe from now on: [`Growing::piped`].
    fn accept_pipe(&mut self) {}

    /// How many bytes of what comes next are in a pipe, and in which: they come before all that is shown or here.
    fn piped(&self) -> Option<(Arc<BodyPipe>, usize)> {
        None
    }

    /// The trailer section behind the content, once the proven end has been seen; empty if there is none, or
    /// nobody wanted it (RFC 9110 §6.5).
    fn trailers(&self) -> Fields {
        Fields::new()
    }

    /// Waits until there is more to read, or an end.
    fn wait(&mut self);

    /// From now on `wake` is called whenever there is more to read, or an end: on another thread, and
    /// for the last time when the reader is dropped. It must not block.
    fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>);
}

/// A body that is whole, read piece by piece.
pub(crate) struct InMemory(pub Bytes);

impl Growing for InMemory {
    fn length(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }

    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<Grown> {
        let count = buffer.len().min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        Ok(if count == 0 { Grown::End } else { Grown::Bytes(count) })
    }

    fn consume(&mut self, count: usize) {
        self.0.advance(count);
    }

    fn rest(&self) -> Option<&[u8]> {
        Some(&self.0)
    }

    // All of it is here, so there is nothing to wait for, and nobody is ever woken.
    fn wait(&mut self) {}

    fn listen(&mut self, _: Box<dyn Fn() + Send + Sync>) {}
}

/// A growing body, read by a thread that can wait.
pub struct BlockingBody(pub Box<dyn Growing>);

impl Arriving for BlockingBody {
    fn length(&self) -> Option<u64> {
        self.0.length()
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Another reader may have been woken for the same bytes, or for an end that is not this body's:
        // look again.
        loop {
            match self.0.peek(buffer)? {
                Grown::Bytes(count) => {
                    self.0.consume(count);
                    return Ok(count);
                }
                Grown::End => return Ok(0),
                Grown::NotYet => self.0.wait(),
            }
        }
    }
}
