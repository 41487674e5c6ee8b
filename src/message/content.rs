//! The content of a stored response: in memory, or at a distance, in a store that has to be waited for.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::message::body::{Arriving, Body};
use crate::message::buffer;
use crate::message::distant::Distant;
use crate::message::packed::Packed;

/// The content of a stored response, or of a part of one.
#[derive(Clone)]
pub enum Content {
    /// In memory.
    Here(Bytes),
    /// In memory, compressed.
    Packed(Arc<Packed>),
    /// In a store behind memory, to be read piece by piece by a thread that can wait.
    Distant(Arc<dyn Distant>),
}

impl Content {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::Packed(packed) => packed.len(),
            Self::Distant(distant) => distant.length(),
        }
    }

    /// Bytes of memory that it takes; `None` if it is not in memory.
    pub fn memory_bytes(&self) -> Option<usize> {
        match self {
            Self::Here(bytes) => Some(buffer::memory_bytes(bytes.len())),
            Self::Packed(packed) => Some(packed.memory_bytes()),
            Self::Distant(_) => None,
        }
    }

    /// All of it, if it is in memory, be it compressed or not. An error if there is no memory to expand it.
    pub fn in_memory(&self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Here(bytes) => Ok(Some(bytes.clone())),
            Self::Packed(packed) => packed.expand().map(Some),
            Self::Distant(_) => Ok(None),
        }
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if they are in memory as they came.
    pub fn here(&self) -> Option<&Bytes> {
        match self {
            Self::Here(bytes) => Some(bytes),
            Self::Packed(_) | Self::Distant(_) => None,
        }
    }

    /// All of it, as a body.
    pub fn body(&self) -> Body {
        self.slice(0, self.len()).into_body()
    }

    /// `length` bytes from `first` on; the content must have them.
    pub fn slice(&self, first: u64, length: u64) -> Slice {
        // Cheap: bytes are shared, and nothing is read before somebody asks; or short, and expanded at once.
        let piece =
            |bytes: &Bytes| Slice::Here(bytes.slice(first as usize..(first + length) as usize));
        let distant =
            |distant| Slice::Distant(DistantReader { distant, length, at: first, left: length });
        match self {
            Self::Here(bytes) => piece(bytes),
            Self::Packed(packed) if packed.is_short() => match packed.expand() {
                Ok(bytes) => piece(&bytes),
                // It cannot be, and the reader will say so.
                Err(_) => distant(Arc::clone(packed) as Arc<dyn Distant>),
            },
            Self::Packed(packed) => distant(Arc::clone(packed) as Arc<dyn Distant>),
            Self::Distant(content) => distant(Arc::clone(content)),
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Here(bytes)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Self::Here(_) => "here",
            Self::Packed(_) => "packed",
            Self::Distant(_) => "distant",
        };
        write!(f, "Content({} bytes, {place})", self.len())
    }
}

/// A piece of content, read from front to back.
pub enum Slice {
    /// In memory.
    Here(Bytes),
    /// Not in memory.
    Distant(DistantReader),
}

impl Slice {
    /// The piece, as a body.
    pub(crate) fn into_body(self) -> Body {
        match self {
            Self::Here(bytes) => Body::Whole(bytes),
            Self::Distant(reader) => Body::Arriving(Box::new(reader)),
        }
    }

    /// Reads on; `Ok(0)` at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Here(bytes) => {
                let count = bytes.len().min(buffer.len());
                bytes.copy_to_slice(&mut buffer[..count]);
                Ok(count)
            }
            Self::Distant(reader) => reader.read(buffer),
        }
    }

    /// Bytes that are left of it.
    pub fn len(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::Distant(reader) => reader.left,
        }
    }

    /// Is nothing left of it?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads a piece of distant content.
pub struct DistantReader {
    distant: Arc<dyn Distant>,
    length: u64,
    at: u64,
    left: u64,
}

impl Arriving for DistantReader {
    fn length(&self) -> Option<u64> {
        Some(self.length)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // An empty buffer must not look like the end, nor the end like an empty read: both give 0 and
        // nothing is asked of the store.
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.distant.read_at(self.at, &mut buffer[..most])?;
        // The store ended before the length that the client was promised: the answer must not look
        // complete.
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
