//! A body on its way from the origin server to a client, and into the store. RFC 9111 §3.3.
//!
//! The bytes are kept aside as they pass. Only the end that the framing proves makes a stored
//! response out of them; an error, a body that grows too large, or want of memory drops them, and
//! the client never notices. A client that goes away does not stop what is worth keeping.

use std::io;
use std::sync::Arc;

use crate::flight::Leader;
use crate::message::body::{Arriving, Body};
use crate::message::buffer::Buffer;
use crate::origin::OriginBody;
use crate::policy::key::CacheKey;
use crate::policy::reason::Detail;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::stats::{Event, Stats};
use crate::store::{Generation, Put, Room, Store};

/// How much is read at a time when nobody listens any more.
const SCRATCH_BYTES: usize = 64 * 1024;

/// What passes through, on its way to a client.
pub struct Relayed {
    /// The origin server's body; `None` where there is none.
    pub body: Option<Box<dyn OriginBody>>,
    /// Its length, where the head stated it.
    pub length: Option<u64>,
    /// Counts bodies that are cut short.
    pub stats: Arc<Stats>,
    /// What is kept of it.
    pub recording: Option<Recording>,
    /// Bytes that have come so far.
    pub received: u64,
}

impl Relayed {
    /// The body for the client. One without content is stored here and now.
    pub fn into_body(mut self) -> Body {
        if self.body.is_some() {
            return Body::Arriving(Box::new(self));
        }
        if let Some(recording) = self.recording.take() {
            recording.commit();
        }
        Body::None { length: self.length }
    }

    /// Reads from the origin server; at the end, stores the response.
    fn read_more(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(body) = &mut self.body else { return Ok(0) };
        let result = body.read(buffer);
        match &result {
            Ok(0) => {
                self.body = None;
                if let Some(recording) = self.recording.take() {
                    recording.commit();
                }
            }
            Ok(_) => {}
            Err(_) => {
                self.stats.count(Event::Truncated);
                self.recording = None;
                self.body = None;
            }
        }
        result
    }
}

impl Arriving for Relayed {
    fn length(&self) -> Option<u64> {
        self.length
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_more(buffer)?;
        if count > 0 {
            self.received += count as u64;
            let full =
                self.recording.as_mut().is_some_and(|recording| !recording.keep(&buffer[..count]));
            if full && let Some(recording) = self.recording.take() {
                recording.give_up();
            }
            if self.length == Some(self.received) {
                // The client knows the length, and may ask again as soon as it has the last byte:
                // so the response is stored before that byte is sent.
                self.read_more(&mut [0])?;
            }
        }
        Ok(count)
    }

    fn abandon(mut self: Box<Self>) {
        let mut scratch = vec![0; SCRATCH_BYTES];
        while self.recording.is_some() && self.read(&mut scratch).is_ok_and(|count| count > 0) {}
    }
}

/// A response that is being stored.
pub struct Recording {
    store: Arc<dyn Store>,
    key: CacheKey,
    head: StoredHead,
    generation: Generation,
    content: Buffer,
    room: Room,
    bytes_max: u64,
    leader: Option<Leader>,
}

impl Recording {
    /// Begins to store a response of `length` bytes, where that is known. Those who wait for it are
    /// sent away at once if there is no room.
    pub fn begin(
        store: &Arc<dyn Store>,
        key: CacheKey,
        head: StoredHead,
        generation: Generation,
        length: Option<u64>,
        leader: Option<Leader>,
    ) -> Result<Self, Detail> {
        let bytes_max = store.content_bytes_max();
        let mut room = store.room();
        let refused = match length {
            Some(length) if length > bytes_max => Some(Detail::TooLarge),
            Some(length) if !room.grow(length) => Some(Detail::Memory),
            _ => None,
        };
        if let Some(detail) = refused {
            if let Some(leader) = leader {
                leader.unshareable();
            }
            return Err(detail);
        }
        let Some(content) = Buffer::with_capacity(length.unwrap_or(0) as usize) else {
            return Err(Detail::Memory);
        };
        let store = Arc::clone(store);
        Ok(Self { store, key, head, generation, content, room, bytes_max, leader })
    }

    /// Keeps what has come; `false` if it is too much.
    fn keep(&mut self, bytes: &[u8]) -> bool {
        if (self.content.len() + bytes.len()) as u64 > self.bytes_max {
            return false;
        }
        let before = self.content.capacity();
        let capacity = self.content.capacity_for(bytes.len(), self.bytes_max as usize);
        let has_room = capacity <= before || self.room.grow((capacity - before) as u64);
        if !has_room || !self.content.grow(capacity) {
            return false;
        }
        self.content.extend(bytes);
        true
    }

    /// The body is whole: stores the response and tells those who wait.
    fn commit(self) {
        let stored = Arc::new(StoredResponse::new(self.head, self.content.into_bytes()));
        let put = self.store.put(&self.key, stored, self.generation);
        drop(self.room);
        match (put, self.leader) {
            (Put::Stored, Some(leader)) => leader.stored(),
            (Put::TooLarge, Some(leader)) => leader.unshareable(),
            _ => {}
        }
    }

    /// The body is too large after all.
    fn give_up(self) {
        if let Some(leader) = self.leader {
            leader.unshareable();
        }
    }
}
