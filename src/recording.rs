//! A body on its way from the origin server to its readers, and into the store. RFC 9111 §3.3.
//!
//! What may be stored is fetched by a [`Filler`], at the origin server's pace, into a body that grows
//! while clients read it. Only the end that the framing proves makes a stored response out of it; an
//! error, a body that grows too large, or want of memory drops what was kept, and the clients never
//! notice. Clients that go away do not stop what is worth keeping. What may not be stored is
//! [`Relayed`] to the one client that asked.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::flight::{Leader, Shareable};
use crate::growing::Writer;
use crate::message::body::{Arriving, Body, Growing, Grown};
use crate::message::buffer::Buffer;
use crate::origin::OriginBody;
use crate::policy::key::CacheKey;
use crate::policy::partial::{union, without_digests};
use crate::policy::reason::Detail;
use crate::policy::stored::{StoredHead, StoredResponse};
use crate::recording::again::Again;
use crate::stats::{Event, Stats};
use crate::store::spool::Spool;
use crate::store::tiers::{Claim, Tiers};
use crate::store::{Generation, Put, Room, Store};

pub mod again;

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
}

impl Relayed {
    /// The body for the one client. Of a short one the first piece is read here and now: most come
    /// with the head, and if nothing comes there is still time to say so.
    pub fn body(
        body: Option<Box<dyn OriginBody>>,
        length: Option<u64>,
        stats: &Arc<Stats>,
    ) -> io::Result<Body> {
        let Some(body) = body else { return Ok(Body::None { length }) };
        let mut relayed =
            Self { body, length, received: 0, first: Bytes::new(), stats: Arc::clone(stats) };
        if let Some(length) = length.filter(|length| *length <= PIECE_BYTES as u64) {
            let mut piece = vec![0; length.max(1) as usize];
            let count = relayed.read(&mut piece)?;
            piece.truncate(count);
            if count as u64 == length {
                return Ok(Body::Whole(piece.into()));
            }
            relayed.first = piece.into();
        }
        Ok(Body::Arriving(Box::new(relayed)))
    }
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
        let mut result = self.body.read(buffer);
        if let Ok(count) = &result {
            self.received += *count as u64;
            // Who knows the length may ask again as soon as the last byte is here; the connection to
            // the origin server, which goes back to its pool at the end, is to be there by then.
            if *count > 0 && self.length == Some(self.received) {
                result = self.body.read(&mut [0]).map(|_| *count);
            }
        }
        result.inspect_err(|_| self.stats.count(Event::Truncated))
    }
}

/// What a response that is being stored will be, and where.
pub struct Recording {
    store: Arc<dyn Store>,
    key: CacheKey,
    head: StoredHead,
    generation: Generation,
    room: Room,
    bytes_max: u64,
    /// The way into the store behind memory, for what is too large for memory.
    spool: Option<Spool>,
    /// Other proxies may wait for it.
    claim: Option<Claim>,
}

impl Recording {
    /// Begins to store a response of `length` bytes, where that is known, and makes room for it.
    pub fn begin(
        store: &Arc<dyn Store>,
        key: CacheKey,
        head: StoredHead,
        generation: Generation,
        length: Option<u64>,
    ) -> Result<(Self, Buffer), Detail> {
        let tiers = store.tiers();
        let bytes_max =
            tiers.map_or_else(|| store.content_bytes_max(), Tiers::memory_content_bytes_max);
        let mut room = store.room();
        let mut content = None;
        match length {
            Some(length) if length > store.content_bytes_max() => return Err(Detail::TooLarge),
            Some(length) if length > bytes_max && tiers.is_some() => {}
            Some(length) if !room.grow(length) && tiers.is_none() => return Err(Detail::Memory),
            _ => content = Buffer::with_capacity(length.unwrap_or(0) as usize),
        }
        let spool = match (&content, tiers) {
            (None, Some(tiers)) if will_be_whole(&head, length) => {
                Some(tiers.spool(key.clone(), length))
            }
            (None, _) => return Err(Detail::Memory),
            (Some(_), _) => None,
        };
        let store = Arc::clone(store);
        let recording = Self { store, key, head, generation, room, bytes_max, spool, claim: None };
        Ok((recording, content.unwrap_or_default()))
    }

    /// It does not fit into memory: where else it is kept from now on, if there is such a place.
    fn overflow(&mut self, length: Option<u64>) -> Option<&mut Spool> {
        let tiers = self.store.tiers().filter(|_| will_be_whole(&self.head, length))?;
        self.spool = Some(tiers.spool(self.key.clone(), length));
        self.bytes_max = self.store.content_bytes_max();
        self.spool.as_mut()
    }

    /// The same; other proxies are told when it is over.
    #[must_use]
    pub fn under(mut self, claim: Option<Claim>) -> Self {
        self.claim = claim;
        self
    }

    /// What the response will be.
    pub fn head(&self) -> &StoredHead {
        &self.head
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
            // What it takes the place of must not be found in memory any more.
            let put = spool.commit(self.head, self.generation.behind());
            if put == Put::Stored
                && let Some(tiers) = self.store.tiers()
            {
                tiers.forget_in_memory(&self.key);
            }
            return put;
        }
        let (mut head, mut content) = (self.head, content);
        if let Some(part) = head.part {
            if !part.admits(content.len() as u64) {
                return Put::TooLarge;
            }
            (head, content) = combined(&*self.store, &self.key, &mut self.room, head, content);
        }
        let stored = Arc::new(StoredResponse::new(head, content));
        self.store.put(&self.key, stored, self.generation)
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

/// The part that has come, together with one that is stored where they belong together; the whole
/// response if nothing is missing any more (§3.4).
fn combined(
    store: &dyn Store,
    key: &CacheKey,
    room: &mut Room,
    mut head: StoredHead,
    mut content: Bytes,
) -> (StoredHead, Bytes) {
    // RFC 9110 §15.3.7: asked for `bytes=0-`, an origin server sends everything as a part.
    if will_be_whole(&head, Some(content.len() as u64)) {
        as_whole(&mut head);
        return (head, content);
    }
    let variants = store.get(key.as_str());
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

/// What moves a body along, from the origin server to all who read it.
pub struct Filler {
    body: Box<dyn OriginBody>,
    length: Option<u64>,
    writer: Option<Writer>,
    /// `None` once it is let go of, or stored.
    recording: Option<Recording>,
    /// What was kept until then may be read for long, and takes its room until the end.
    room: Option<Room>,
    leader: Option<Leader>,
    /// How to ask once more, should the connection die.
    again: Option<Again>,
    stats: Arc<Stats>,
    /// What others who ask the same are given.
    shareable: Option<Arc<Shareable>>,
    whole: Option<Bytes>,
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// There is more.
    More,
    /// Its end has been reached, well or not.
    Ended,
}

impl Filler {
    /// Fetches `body`, whose content begins with what `content` holds already.
    pub fn new(
        body: Box<dyn OriginBody>,
        length: Option<u64>,
        recording: Recording,
        content: Buffer,
        leader: Option<Leader>,
        again: Option<Again>,
        stats: &Arc<Stats>,
    ) -> Self {
        let (writer, recording) = (Some(Writer::new(length, content)), Some(recording));
        let stats = Arc::clone(stats);
        let (room, shareable, whole) = (None, None, None);
        let mut filler =
            Self { body, length, writer, recording, room, leader, again, stats, shareable, whole };
        if filler.spool().is_some()
            && let Some(writer) = &mut filler.writer
        {
            writer.let_go();
        }
        filler
    }

    /// The length in bytes, where it is known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// All the content, once it has come.
    pub fn whole(&mut self) -> Option<Bytes> {
        self.whole.take()
    }

    /// Gives back the lead of a fetch that has failed.
    pub fn leader(&mut self) -> Option<Leader> {
        self.leader.take()
    }

    /// What others who ask the same may be given, while it grows.
    pub fn share(&mut self) {
        if let (Some(leader), Some(recording), Some(writer)) =
            (&mut self.leader, &self.recording, &self.writer)
        {
            let (head, body) = (recording.head.clone(), Arc::clone(writer.shared()));
            let spooled = OnceLock::new();
            if let Some(spool) = &recording.spool {
                let _ = spooled.set(Arc::clone(spool.spooled()));
            }
            let shareable = Arc::new(Shareable { head, body, spooled });
            leader.share(&shareable);
            self.shareable = Some(shareable);
        }
    }

    /// Nobody else may be given it: whoever waits asks for himself.
    pub fn keep_to_oneself(&mut self) {
        if let Some(leader) = self.leader.take() {
            leader.released();
        }
    }

    /// A reader from the front.
    pub fn reader(&self) -> Option<Box<dyn Growing>> {
        Some(Box::new(self.writer.as_ref()?.shared().reader()?))
    }

    /// Reads from the origin server once, and waits for it. `piece` is room to read into.
    pub fn step(&mut self, piece: &mut [u8]) -> Progress {
        let Some(writer) = &mut self.writer else { return Progress::Ended };
        let mut count = match self.body.read(piece) {
            Ok(0) => return self.complete(),
            Ok(count) => count,
            Err(_) => return self.resume(),
        };
        // Who knows the length may ask again as soon as the last byte is here: so that byte is not
        // shown to anybody before the end is proven and the response is stored.
        let at_end = self.length == Some(writer.total() + count as u64);
        if at_end && !matches!(self.body.read(&mut [0]), Ok(0)) {
            return self.resume();
        }
        if let Some(recording) =
            self.recording.as_mut().filter(|recording| recording.spool.is_none())
        {
            let grow = |buffer: &mut Buffer, more| recording.grow(buffer, more);
            if writer.keep(&piece[..count], at_end, grow) {
                count = 0;
            } else {
                self.overflow();
            }
        }
        if count > 0 {
            self.spool_on(&piece[..count], at_end);
            let read = self.writer.as_mut().is_some_and(|writer| writer.pass_on(&piece[..count]));
            if !read && self.spool().is_none() && !at_end {
                // Nobody reads it, and it is not worth keeping.
                self.writer = None;
                return Progress::Ended;
            }
        }
        if at_end { self.complete() } else { Progress::More }
    }

    fn spool(&mut self) -> Option<&mut Spool> {
        self.recording.as_mut()?.spool.as_mut()
    }

    /// It is too large for memory: it goes on into the store behind it, or is let go of.
    fn overflow(&mut self) {
        let (Some(writer), Some(recording)) = (&mut self.writer, &mut self.recording) else {
            return;
        };
        let Some(spool) = recording.overflow(self.length) else { return self.let_go() };
        let spooled = Arc::clone(spool.spooled());
        let kept = writer.let_go();
        if !spool.write(&kept) {
            return self.let_go();
        }
        if let Some(shareable) = &self.shareable {
            let _ = shareable.spooled.set(spooled);
        }
    }

    /// Adds to what is stored behind memory, and stores the response with the last of it.
    fn spool_on(&mut self, piece: &[u8], at_end: bool) {
        let most =
            self.recording.as_ref().map_or(0, |recording| recording.store.content_bytes_max());
        let so_far = self.writer.as_ref().map_or(0, Writer::total);
        let Some(spool) = self.spool() else { return };
        if so_far + piece.len() as u64 > most || !spool.write(piece) {
            return self.let_go();
        }
        if at_end {
            self.land_spooled();
        }
    }

    /// The last byte has come of what is stored behind memory.
    fn land_spooled(&mut self) {
        let Some(recording) = self.recording.take() else { return };
        let put = recording.commit(Bytes::new());
        match (put, self.leader.take()) {
            // It is not in memory: each looks behind it for himself.
            (Put::Stored, Some(leader)) => leader.released(),
            (_, Some(leader)) => leader.unshareable(),
            _ => {}
        }
    }

    /// Fetches what is left, whoever reads it.
    pub fn run(mut self) {
        let mut piece = vec![0; PIECE_BYTES];
        while self.step(&mut piece) == Progress::More {}
    }

    /// It is too large after all.
    fn let_go(&mut self) {
        self.room = self.recording.take().map(|recording| recording.room);
        if let Some(leader) = self.leader.take() {
            leader.unshareable();
        }
        if let Some(writer) = &mut self.writer {
            writer.let_go();
        }
    }

    fn complete(&mut self) -> Progress {
        if self.spool().is_some() {
            self.land_spooled();
        }
        let Some(mut writer) = self.writer.take() else { return Progress::Ended };
        let put = match (self.recording.take(), writer.whole()) {
            (Some(recording), Some(whole)) => {
                self.whole = Some(whole.clone());
                Some(recording.commit(whole))
            }
            _ => None,
        };
        match (put, self.leader.take()) {
            (Some(Put::Stored), Some(leader)) => leader.stored(),
            (_, Some(leader)) => leader.unshareable(),
            _ => {}
        }
        writer.finish();
        Progress::Ended
    }

    /// The connection has died. Where others read along, the origin server is asked once more, and
    /// what it sends is taken for the rest if all that has come before is the same, byte for byte.
    fn resume(&mut self) -> Progress {
        let (Some(writer), Some(recording)) = (&self.writer, &self.recording) else {
            return self.cut();
        };
        let again = self.again.take();
        let again = again.filter(|_| self.shareable.is_some() && writer.readers() > 1);
        // Its turn at the origin server is over, and may be the only one (`--origin-concurrency`).
        self.body = Box::new(Ended);
        let body = again.and_then(|again| again.ask(recording.head(), self.length, writer));
        match body {
            Some(body) => {
                self.body = body;
                Progress::More
            }
            None => self.cut(),
        }
    }

    fn cut(&mut self) -> Progress {
        self.stats.count(Event::Truncated);
        self.recording = None;
        if self.shareable.is_some() {
            // Whoever comes now begins anew.
            self.leader = None;
        }
        self.writer = None;
        Progress::Ended
    }
}

/// What is left of a body whose connection has died.
struct Ended;

impl OriginBody for Ended {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A body that is fetched and read by one and the same thread, which can wait.
pub struct Fetched {
    /// What moves it along.
    pub filler: Filler,
    /// What reads it.
    pub reader: Box<dyn Growing>,
}

impl Fetched {
    /// The body.
    pub fn into_body(self) -> Body {
        Body::Arriving(Box::new(self))
    }
}

impl Arriving for Fetched {
    fn length(&self) -> Option<u64> {
        self.reader.length()
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.reader.peek(buffer)? {
                Grown::Bytes(count) => {
                    self.reader.consume(count);
                    return Ok(count);
                }
                Grown::End => return Ok(0),
                Grown::NotYet => _ = self.filler.step(&mut piece),
            }
        }
    }

    fn abandon(self: Box<Self>) {
        let Self { filler, reader } = *self;
        drop(reader);
        filler.run();
    }
}
