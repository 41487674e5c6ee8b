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
use crate::message::buffer::Buffer;
use crate::origin::OriginBody;
use crate::policy::key::CacheKey;
use crate::policy::partial::{union, without_digests};
use crate::policy::reason::Detail;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::stats::{Counter, Stats};
use crate::store::cache::Cache;
use crate::store::tiers::FetchClaim;
use crate::store::tiers::spool::Spool;
use crate::store::underway::Begun;
use crate::store::{Put, Reservation};

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

/// What a response that is being stored will be, and where.
pub struct Recording {
    store: Arc<Cache>,
    key: CacheKey,
    head: StoredHead,
    begun: Begun,
    room: Reservation,
    bytes_max: u64,
    /// The way into the store behind memory, for what is too large for memory.
    spool: Option<Spool>,
    /// Other proxies may wait for it.
    claim: FetchClaim,
}

impl Recording {
    /// Begins to store a response of `length` bytes, where that is known: in memory if there is room, else
    /// behind it, else not at all. The buffer is for what is kept in memory.
    pub fn begin(
        store: &Arc<Cache>,
        key: CacheKey,
        head: StoredHead,
        begun: Begun,
        length: Option<u64>,
    ) -> Result<(Self, Buffer), Detail> {
        let bytes_max = store.memory_content_bytes_max();
        if length.is_some_and(|length| length > store.content_bytes_max()) {
            return Err(Detail::TooLarge);
        }
        let fits = length.is_none_or(|length| length <= bytes_max);
        // Memory is asked once, and what it answers decides where the body goes.
        let memory = if fits { memory_for(store, length.unwrap_or(0)) } else { None };
        let (room, content, spool) = match memory {
            Some((room, content)) => (room, content, None),
            None => match spool_for(store, &key, &head, length) {
                Some(spool) => (store.reserve(), Buffer::default(), Some(spool)),
                None => return Err(if fits { Detail::Memory } else { Detail::TooLarge }),
            },
        };
        let store = Arc::clone(store);
        let recording =
            Self { store, key, head, begun, room, bytes_max, spool, claim: FetchClaim::None };
        Ok((recording, content))
    }

    /// It does not fit into memory: where else it is kept from now on, if there is such a place.
    fn overflow(&mut self, length: Option<u64>) -> Option<&mut Spool> {
        self.spool = spool_for(&self.store, &self.key, &self.head, length);
        self.spool.as_mut()
    }

    /// The same; other proxies are told when it is over.
    #[must_use]
    pub fn under(mut self, claim: FetchClaim) -> Self {
        self.claim = claim;
        self
    }

    /// What the response will be.
    pub fn head(&self) -> &StoredHead {
        &self.head
    }

    /// Was it invalidated since the request for it began? Then it will not be stored.
    pub fn is_cleared(&self) -> bool {
        !self.begun.admits(&self.head)
    }

    /// Makes room in `buffer` for `more` bytes; `false` if that is too much.
    fn grow(&mut self, buffer: &mut Buffer, more: usize) -> bool {
        if (buffer.len() + more) as u64 > self.bytes_max {
            return false;
        }
        let before = buffer.capacity();
        let capacity = buffer.capacity_for(more, self.bytes_max as usize);
        let has_room = capacity <= before || self.room.grow((capacity - before) as u64);
        has_room && buffer.grow(capacity)
    }

    /// The body is whole: stores the response. `content` is all of it, unless it was spooled.
    pub fn commit(mut self, content: Bytes) -> Put {
        if let Some(spool) = self.spool.take() {
            // Parts are not spooled: what has come is all of it.
            as_whole(&mut self.head);
            return self.store.commit(spool, self.head, &self.begun);
        }
        let (mut head, mut content) = (self.head, content);
        if let Some(part) = head.part {
            if !part.admits(content.len() as u64) {
                return Put::TooLarge;
            }
            (head, content) = combined(&self.store, &self.key, &mut self.room, head, content);
        }
        let stored = Arc::new(StoredResponse::new(head, content));
        self.store.put(&self.key, stored, &self.begun)
    }
}

/// Will a response of `length` bytes be the whole representation?
fn will_be_whole(head: &StoredHead, length: Option<u64>) -> bool {
    head.part.is_none_or(|part| length.is_some_and(|length| part.is_whole(length)))
}

/// The head of a whole response, in the place of that of a part which has turned out to be all there is.
fn as_whole(head: &mut StoredHead) {
    if head.part.take().is_some() {
        head.status = http::StatusCode::OK;
    }
}

/// Room in memory for `length` bytes, if there is any.
fn memory_for(store: &Cache, length: u64) -> Option<(Reservation, Buffer)> {
    let mut room = store.reserve();
    if !room.grow(length) {
        return None;
    }
    Buffer::with_capacity(length as usize).map(|content| (room, content))
}

/// The way into the store behind memory, if there is one that takes it. A part is put together with
/// others in memory, so it is kept there or not at all, unless it holds everything.
fn spool_for(
    store: &Cache,
    key: &CacheKey,
    head: &StoredHead,
    length: Option<u64>,
) -> Option<Spool> {
    if will_be_whole(head, length) { store.spool(key.clone(), length) } else { None }
}

/// The part that has come, together with one that is stored where they belong together; the whole
/// response if nothing is missing any more (§3.4).
fn combined(
    store: &Cache,
    key: &CacheKey,
    room: &mut Reservation,
    mut head: StoredHead,
    mut content: Bytes,
) -> (StoredHead, Bytes) {
    // RFC 9110 §15.3.7: asked for `bytes=0-`, an origin server sends everything as a part.
    if will_be_whole(&head, Some(content.len() as u64)) {
        as_whole(&mut head);
        return (head, content);
    }
    let variants = store.look_at(key.as_str());
    for old in variants.iter().flat_map(|variants| variants.iter()) {
        let Some(union) = union(&head, content.len() as u64, old) else { continue };
        let Some(old) = old.content.here() else { continue };
        let length = union.part.span.length();
        if length > store.content_bytes_max() || !room.grow(length) {
            continue;
        }
        let Some(mut both) = Buffer::with_capacity(length as usize) else { continue };
        let (low, high) = if union.new_first { (&content, old) } else { (old, &content) };
        both.extend(low);
        both.extend(&high[union.from as usize..]);
        content = both.into_bytes();
        head.part = Some(union.part);
        without_digests(&mut head.fields);
        if union.is_whole() {
            as_whole(&mut head);
            break;
        }
    }
    (head, content)
}
