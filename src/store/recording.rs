//! A response on its way into the cache: in memory while it fits there, else behind it, else not at all.
//! RFC 9111 §3, §3.3, §3.4.
//!
//! Nothing here waits but what says so ([`Recording::wait_for_space`], [`Settling::wait`]). Where the content is to
//! be is decided in one place, by [`Cache::begin`]; a body of unknown length begins in memory and may turn out too
//! large for it ([`Recording::overflow`]). Dropped before it is committed, nothing is stored.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use crate::message::buffer::Buffer;
use crate::policy::key::CacheKey;
use crate::policy::partial::{union, without_digests};
use crate::policy::reason::Detail;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::store::cache::Cache;
use crate::store::outcome::Put;
use crate::store::spooled::Spooled;
use crate::store::tiers::spool::Spool;
use crate::store::underway::Begun;
use crate::store::{Reservation, Variants};

/// What a response that is being stored will be, and where.
pub struct Recording {
    cache: Arc<Cache>,
    key: CacheKey,
    head: StoredHead,
    begun: Begun,
    /// The memory that its content takes, or has taken before it went on behind memory.
    room: Reservation,
    place: RecordingPlace,
}

/// Where the content is.
enum RecordingPlace {
    /// In memory: the caller has it, and hands it in at the end.
    Memory,
    /// On its way behind memory.
    Behind(Spool),
}

/// What has become of a response that was committed.
#[must_use]
pub enum Commit {
    /// This.
    Done(Put),
    /// It is on its way behind memory.
    Pending(Box<Settling>),
}

impl Commit {
    /// The outcome; waits for it.
    pub fn wait(self) -> Put {
        match self {
            Self::Done(put) => put,
            Self::Pending(settling) => settling.wait(),
        }
    }
}

impl Cache {
    /// Begins to store a response of `length` bytes, where that is known: in memory if there is room, else
    /// behind it, else not at all. The buffer is for what is kept in memory.
    pub fn begin(
        self: &Arc<Self>,
        key: CacheKey,
        head: StoredHead,
        begun: Begun,
        length: Option<u64>,
    ) -> Result<(Recording, Buffer), Detail> {
        if length.is_some_and(|length| length > self.content_bytes_max()) {
            return Err(Detail::TooLarge);
        }
        let fits = length.is_none_or(|length| length <= self.memory_content_bytes_max());
        // Memory is asked once, and what it answers decides where the body goes.
        let memory = if fits { memory_for(self, length.unwrap_or(0)) } else { None };
        let (room, content, place) = match memory {
            Some((room, content)) => (room, content, RecordingPlace::Memory),
            None => match spool_for(self, &key, &head, length) {
                Some(spool) => (self.reserve(), Buffer::default(), RecordingPlace::Behind(spool)),
                None => return Err(if fits { Detail::Memory } else { Detail::TooLarge }),
            },
        };
        let cache = Arc::clone(self);
        Ok((Recording { cache, key, head, begun, room, place }, content))
    }
}

impl Recording {
    /// What the response will be.
    pub fn head(&self) -> &StoredHead {
        &self.head
    }

    /// Its key.
    pub fn key(&self) -> &CacheKey {
        &self.key
    }

    /// Was it invalidated since the request for it began? Then it will not be stored.
    pub fn is_cleared(&self) -> bool {
        !self.begun.admits(&self.head)
    }

    /// What others read it by, if it goes behind memory.
    pub fn spooled(&self) -> Option<&Arc<Spooled>> {
        match &self.place {
            RecordingPlace::Memory => None,
            RecordingPlace::Behind(spool) => Some(spool.spooled()),
        }
    }

    /// Makes room in `buffer` for `more` bytes; `false` if that is too much. For content in memory.
    pub fn grow(&mut self, buffer: &mut Buffer, more: usize) -> bool {
        let bytes_max = self.cache.memory_content_bytes_max();
        if (buffer.len() + more) as u64 > bytes_max {
            return false;
        }
        let before = buffer.capacity();
        let capacity = buffer.capacity_for(more, bytes_max as usize);
        let has_space = capacity <= before || self.room.grow((capacity - before) as u64);
        has_space && buffer.grow(capacity)
    }

    /// It does not fit into memory: goes on behind it, where `kept` is the beginning of its content. `false` if
    /// there is no such place, and it cannot be stored any more.
    pub fn overflow(&mut self, kept: Bytes, length: Option<u64>) -> bool {
        assert!(self.spooled().is_none(), "it goes behind memory once");
        let Some(mut spool) = spool_for(&self.cache, &self.key, &self.head, length) else {
            return false;
        };
        // `kept` stays in the room that it has taken until the queue has had all of it.
        let is_taken = spool.begin_with(kept);
        self.place = RecordingPlace::Behind(spool);
        is_taken
    }

    /// Adds to what goes behind memory. Full pieces that the queue does not take now are kept back, at most what
    /// one call brings: the next call is for when there is room again ([`Recording::has_space`]), or brings nothing
    /// and tries once more. `false` if it cannot be stored any more.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let most = self.cache.content_bytes_max();
        match &mut self.place {
            RecordingPlace::Memory => false,
            RecordingPlace::Behind(spool) => {
                spool.bytes() + bytes.len() as u64 <= most && spool.write(bytes)
            }
        }
    }

    /// Is nothing kept back of what goes behind memory?
    pub fn has_space(&self) -> bool {
        match &self.place {
            RecordingPlace::Memory => true,
            RecordingPlace::Behind(spool) => spool.has_space(),
        }
    }

    /// For how long what is kept back may wait.
    pub fn space_wait(&self) -> Duration {
        match &self.place {
            RecordingPlace::Memory => Duration::ZERO,
            RecordingPlace::Behind(spool) => spool.space_wait(),
        }
    }

    /// Waits until nothing is kept back, which is the backpressure on the origin server's connection. `false` if
    /// that takes too long, or the backing store has failed: it cannot be stored any more.
    pub fn wait_for_space(&mut self) -> bool {
        match &mut self.place {
            RecordingPlace::Memory => true,
            RecordingPlace::Behind(spool) => spool.wait_for_space(),
        }
    }

    /// The body is whole: stores the response. `content` is all of it, unless it has gone behind memory; then the
    /// rest is handed in as far as the queue takes it now.
    pub fn commit(self, content: Bytes) -> Commit {
        let Self { cache, key, mut head, begun, mut room, place } = self;
        if let RecordingPlace::Behind(spool) = place {
            // Parts do not go there: what has come is all of it.
            as_whole(&mut head);
            let stage = SettlingStage::HandingIn(Box::new(head));
            let mut settling = Settling { cache, begun, spool, stage, _room: room };
            settling.hand_in();
            return Commit::Pending(Box::new(settling));
        }
        let mut content = content;
        if let Some(part) = head.part {
            if !part.admits(content.len() as u64) {
                return Commit::Done(Put::TooLarge);
            }
            (head, content) = combined(&cache, &key, &mut room, head, content);
        }
        let stored = Arc::new(StoredResponse::new(head, content));
        Commit::Done(cache.put(&key, stored, &begun))
    }

    /// It is let go of: nothing is stored. What was kept may be read for long; the memory is given back when its
    /// readers are done.
    pub fn into_reservation(self) -> Reservation {
        self.room
    }
}

/// A response whose content goes behind memory, and has come. Dropped before that is carried out, it is given up:
/// nothing is stored.
pub struct Settling {
    cache: Arc<Cache>,
    begun: Begun,
    spool: Spool,
    stage: SettlingStage,
    /// Held until it is over.
    _room: Reservation,
}

/// How far it has come.
enum SettlingStage {
    /// Some of the content is kept back. The head is for its end.
    HandingIn(Box<StoredHead>),
    /// All was handed in; the outcome will come.
    HandedIn(Receiver<u64>),
    /// It is over.
    Over,
}

impl Settling {
    /// Hands in what is kept back, as far as the queue takes it now; is everything handed in? Never waits.
    pub fn hand_in(&mut self) -> bool {
        if matches!(self.stage, SettlingStage::HandingIn(_)) && self.spool.flush_now() {
            self.end();
        }
        !matches!(self.stage, SettlingStage::HandingIn(_))
    }

    /// Waits for the outcome.
    pub fn wait(mut self) -> Put {
        // The last piece may wait seconds for space in the queue. That is done before the locks are taken:
        // under them, every other change of the key, and every purge, would wait with it.
        if matches!(self.stage, SettlingStage::HandingIn(_)) {
            if !self.spool.flush() {
                self.stage = SettlingStage::Over;
                return Put::TooLarge;
            }
            self.end();
        }
        let SettlingStage::HandedIn(outcome) =
            std::mem::replace(&mut self.stage, SettlingStage::Over)
        else {
            return Put::TooLarge;
        };
        let put = self.spool.settle(&outcome);
        if put == Put::Stored {
            self.cache.forget_in_memory(self.spool.spooled().key());
        }
        put
    }

    fn end(&mut self) {
        if let SettlingStage::HandingIn(head) =
            std::mem::replace(&mut self.stage, SettlingStage::Over)
        {
            let outcome = self.cache.hand_in_end(&mut self.spool, *head, &self.begun);
            self.stage = SettlingStage::HandedIn(outcome);
        }
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        // It may be stored by now: what memory has from before must not outlive it.
        if matches!(self.stage, SettlingStage::HandedIn(_)) {
            self.cache.forget_in_memory(self.spool.spooled().key());
        }
    }
}

/// Will a response of `length` bytes be the whole representation?
fn will_be_whole(head: &StoredHead, length: Option<u64>) -> bool {
    head.part.is_none_or(|part| length.is_some_and(|length| part.is_whole(length)))
}

/// The head of a whole response, in the place of that of a part which has turned out to be all there is.
fn as_whole(head: &mut StoredHead) {
    if head.part.take().is_some() {
        head.status = StatusCode::OK;
    }
}

/// Room in memory for `length` bytes, if there is any.
fn memory_for(cache: &Cache, length: u64) -> Option<(Reservation, Buffer)> {
    let mut room = cache.reserve();
    if !room.grow(length) {
        return None;
    }
    Buffer::with_capacity(length as usize).map(|content| (room, content))
}

/// The way behind memory, if there is one that takes it. A part is put together with others in memory, so it is
/// kept there or not at all, unless it holds everything.
fn spool_for(
    cache: &Cache,
    key: &CacheKey,
    head: &StoredHead,
    length: Option<u64>,
) -> Option<Spool> {
    if will_be_whole(head, length) { cache.spool(key, length) } else { None }
}

/// The part that has come, together with one that is stored where they belong together; the whole
/// response if nothing is missing any more (§3.4).
fn combined(
    cache: &Cache,
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
    let variants: Option<Variants> = cache.look_at(key.as_str());
    for old in variants.iter().flat_map(|variants| variants.iter()) {
        let Some(union) = union(&head, content.len() as u64, old) else { continue };
        let Some(old) = old.content.here() else { continue };
        let length = union.part.span.length();
        if length > cache.content_bytes_max() || !room.grow(length) {
            continue;
        }
        let Some(mut both) = Buffer::with_capacity(length as usize) else { continue };
        let (low, high) = if union.new_first { (&content, old) } else { (old, &content) };
        both.extend(low);
        both.extend(&high[union.from as usize..]);
        content = both.into_bytes();
        head.part = Some(union.part);
        let mut fields = head.fields.to_fields();
        without_digests(&mut fields);
        head.fields = fields.into();
        if union.is_whole() {
            as_whole(&mut head);
            break;
        }
    }
    (head, content)
}
