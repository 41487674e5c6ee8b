//! A body on its way from the origin server to its readers, and into the store. RFC 9111 §3.3.
//!
//! What may be stored is fetched by a [`Filler`], at the origin server's pace, into a body that grows
//! while clients read it. Only the end that the framing proves makes a stored response out of it; an
//! error, a body that grows too large, or want of memory drops what was kept, and the clients never
//! notice. Clients that go away do not stop what is worth keeping. What may not be stored is
//! [`Relayed`] to the one client that asked.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::message::body::{Arriving, Body};
use crate::origin::OriginBody;
use crate::policy::key::CacheKey;
use crate::stats::{Counter, Stats};

pub mod again;
mod filling;

pub use filling::{Fetched, Filler, Progress};

/// How much is read at a time.
pub const PIECE_BYTES: usize = 64 * 1024;

/// A body that passes through to one client and is not kept.
pub struct Relayed {
    body: Box<dyn OriginBody>,
    /// Where the head stated it.
    length: Option<u64>,
    /// Bytes that have come so far.
    received: u64,
    /// What has come and not been read yet.
    first: Bytes,
    /// Counts bodies that are cut short.
    stats: Arc<Stats>,
    key: CacheKey,
}

impl Relayed {
    /// The body for the one client. Of a short one the first piece is read here and now: most come
    /// with the head, and if nothing comes there is still time to say so.
    pub fn body(
        body: Option<Box<dyn OriginBody>>,
        length: Option<u64>,
        key: &CacheKey,
        stats: &Arc<Stats>,
    ) -> io::Result<Body> {
        let Some(body) = body else { return Ok(Body::None { length }) };
        let (first, stats, key) = (Bytes::new(), Arc::clone(stats), key.clone());
        let mut relayed = Self { body, length, received: 0, first, stats, key };
        if let Some(length) = length.filter(|length| *length <= PIECE_BYTES as u64) {
            let mut piece = vec![0; length.max(1) as usize];
            let count = relayed.receive(&mut piece)?;
            piece.truncate(count);
            if count as u64 == length {
                return Ok(Body::Whole(piece.into()));
            }
            relayed.first = piece.into();
        }
        Ok(Body::Arriving(Box::new(relayed)))
    }

    /// Reads what comes from the origin server.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut result = self.body.read(buffer);
        if let Ok(count) = &result {
            self.received += *count as u64;
            // Who knows the length may ask again as soon as the last byte is here; the connection to
            // the origin server, which goes back to its pool at the end, is to be there by then.
            if *count > 0 && self.length == Some(self.received) {
                result = self.body.read(&mut [0]).map(|_| *count);
            }
        }
        result.inspect_err(|_| self.stats.count(Counter::Truncated))
    }
}

/// Tells the operator of a body that the origin server has cut after its head was passed on: the client
/// can be told no more than by an end that is none.
fn tell_of_cut(key: &CacheKey) {
    log::warn!(
        "{}: the origin server closed the connection in the middle of the response; it is cut for its \
         client, and not stored",
        key.redacted()
    );
}

impl Arriving for Relayed {
    fn length(&self) -> Option<u64> {
        self.length
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.first.is_empty() {
            let count = buffer.len().min(self.first.len());
            buffer[..count].copy_from_slice(&self.first.split_to(count));
            return Ok(count);
        }
        self.receive(buffer).inspect_err(|_| tell_of_cut(&self.key))
    }
}
