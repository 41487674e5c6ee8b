//! Fetching a body that is being stored: from the origin server, piece by piece, to all who read it, and
//! into memory or the store behind it. RFC 9111 §3.3.
//!
//! A body and its first reader are made together, before the first byte is taken: so nothing that has come
//! can be gone when the client that asked for it begins to read.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::message::body::{Arriving, Body, Growing, Grown};
use crate::message::buffer::Buffer;
use crate::message::growing::Writer;
use crate::origin::OriginBody;
use crate::policy::key::CacheKey;
use crate::policy::reason::Detail;
use crate::proxy::collapse::{Leader, Outcome, Shareable};
use crate::proxy::fill::again::Again;
use crate::proxy::fill::{PIECE_BYTES, tell_of_cut};
use crate::stats::{Counter, Stats};
use crate::store::recording::Recording;
use crate::store::{Put, Reservation};

/// What moves a body along, from the origin server to all who read it.
pub struct Filler {
    body: Box<dyn OriginBody>,
    length: Option<u64>,
    writer: Option<Writer>,
    /// `None` once it is let go of, or stored.
    recording: Option<Recording>,
    /// What was kept until then may be read for long, and takes its room until the end.
    room: Option<Reservation>,
    leader: Option<Leader>,
    /// How to ask once more, should the connection die.
    again: Option<Again>,
    stats: Arc<Stats>,
    /// What others who ask the same are given.
    shareable: Option<Arc<Shareable>>,
    whole: Option<Bytes>,
    /// Whether it is stored, once that is known.
    put: Option<Put>,
    /// What it is, for the log.
    key: CacheKey,
    /// Its head is passed on, so that the client cannot be told any more that the rest did not come.
    is_begun: bool,
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// There is more.
    More,
    /// All of it has come, and its end is proven.
    Whole,
    /// It was cut short, or nobody wants the rest of it.
    Lost,
}

impl Filler {
    /// Begins to fetch `body`, whose content begins with what `content` holds already.
    pub fn begin(
        body: Box<dyn OriginBody>,
        length: Option<u64>,
        recording: Recording,
        content: Buffer,
        leader: Option<Leader>,
        again: Option<Again>,
        stats: &Arc<Stats>,
    ) -> Fetched {
        let (mut writer, reader) = Writer::new(length, content);
        if recording.spooled().is_some() {
            writer.let_go();
        }
        let key = recording.key().clone();
        let (writer, recording, stats) = (Some(writer), Some(recording), Arc::clone(stats));
        let filler = Self {
            body,
            length,
            writer,
            recording,
            room: None,
            leader,
            again,
            stats,
            shareable: None,
            whole: None,
            put: None,
            key,
            is_begun: false,
        };
        Fetched { filler: Box::new(filler), reader: Box::new(reader) }
    }

    /// The length in bytes, where it is known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// All the content, once it has come.
    pub fn whole(&mut self) -> Option<Bytes> {
        self.whole.take()
    }

    /// Why it is not stored, or will not be, as far as that is known.
    pub fn refusal(&self) -> Option<Detail> {
        let is_cleared = || self.recording.as_ref().is_some_and(Recording::is_cleared);
        match self.put {
            Some(put) => put.refusal(),
            None => is_cleared().then_some(Detail::Cleared),
        }
    }

    /// Gives back the lead of a fetch that has failed.
    pub fn leader(&mut self) -> Option<Leader> {
        self.leader.take()
    }

    /// Its head is passed on from here on.
    pub fn begin_to_pass_on(&mut self) {
        self.is_begun = true;
    }

    /// What others who ask the same may be given, while it grows.
    pub fn share(&mut self) {
        if let (Some(leader), Some(recording), Some(writer)) =
            (&mut self.leader, &self.recording, &self.writer)
        {
            let (head, body) = (recording.head().clone(), Arc::clone(writer.shared()));
            let spooled = OnceLock::new();
            if let Some(behind) = recording.spooled() {
                let _ = spooled.set(Arc::clone(behind));
            }
            let shareable = Arc::new(Shareable { head, body, spooled });
            leader.share(&shareable);
            self.shareable = Some(shareable);
        }
    }

    /// Nobody else may be given it: whoever waits asks for himself.
    pub fn keep_to_oneself(&mut self) {
        self.land(&Outcome::NotNow);
    }

    /// Those who wait are told what came of it, unless they have been.
    fn land(&mut self, outcome: &Outcome) {
        if let Some(leader) = self.leader.take() {
            leader.land(outcome);
        }
    }

    /// Reads from the origin server once, and waits for it. `piece` is room to read into.
    pub fn step(&mut self, piece: &mut [u8]) -> Progress {
        if self.is_in_vain() {
            return self.give_up();
        }
        let Some(writer) = &mut self.writer else { return Progress::Lost };
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
            self.recording.as_mut().filter(|recording| recording.spooled().is_none())
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
            if !read && !self.is_spooled() && !at_end {
                return self.give_up();
            }
        }
        if at_end { self.complete() } else { Progress::More }
    }

    /// It was invalidated, so that it will not be stored, and nobody reads it any more.
    fn is_in_vain(&self) -> bool {
        self.recording.as_ref().is_some_and(Recording::is_cleared)
            && self.writer.as_ref().is_some_and(|writer| writer.readers() == 0)
    }

    /// Nobody reads it, and it is not worth keeping.
    fn give_up(&mut self) -> Progress {
        self.land(&Outcome::Cleared);
        (self.recording, self.writer) = (None, None);
        Progress::Lost
    }

    fn is_spooled(&self) -> bool {
        self.recording.as_ref().is_some_and(|recording| recording.spooled().is_some())
    }

    /// It is too large for memory: it goes on into the store behind it, or is let go of.
    fn overflow(&mut self) {
        let (Some(writer), Some(recording)) = (&mut self.writer, &mut self.recording) else {
            return;
        };
        if !recording.overflow(writer.let_go(), self.length) || !recording.wait_for_room() {
            return self.let_go();
        }
        if let (Some(shareable), Some(spooled)) = (&self.shareable, recording.spooled()) {
            let _ = shareable.spooled.set(Arc::clone(spooled));
        }
    }

    /// Adds to what is stored behind memory, and stores the response with the last of it.
    fn spool_on(&mut self, piece: &[u8], at_end: bool) {
        let Some(recording) =
            self.recording.as_mut().filter(|recording| recording.spooled().is_some())
        else {
            return;
        };
        if !recording.write(piece) || !recording.wait_for_room() {
            return self.let_go();
        }
        if at_end {
            self.land_spooled();
        }
    }

    /// The last byte has come of what is stored behind memory.
    fn land_spooled(&mut self) {
        // Those who wait read along: to look for it behind memory would take each of them a wait.
        if self.shareable.is_none() {
            self.share();
        }
        let Some(recording) = self.recording.take() else { return };
        let put = recording.commit(Bytes::new()).wait();
        self.put = Some(put);
        self.land(&if put == Put::Stored { Outcome::Behind } else { put.into() });
    }

    /// Some of those who wait may have it all the same; nobody else will.
    fn share_what_is_cleared(&mut self) {
        if self.shareable.is_none() && self.recording.as_ref().is_some_and(Recording::is_cleared) {
            self.share();
        }
    }

    /// Fetches what is left, whoever reads it.
    pub fn run(mut self) {
        let mut piece = vec![0; PIECE_BYTES];
        while self.step(&mut piece) == Progress::More {}
    }

    /// It is too large after all.
    fn let_go(&mut self) {
        self.room = self.recording.take().map(Recording::into_reservation);
        self.put = Some(Put::TooLarge);
        self.land(&Outcome::TooLarge);
        if let Some(writer) = &mut self.writer {
            writer.let_go();
        }
    }

    fn complete(&mut self) -> Progress {
        if self.is_spooled() {
            self.land_spooled();
        }
        self.share_what_is_cleared();
        let Some(mut writer) = self.writer.take() else { return Progress::Lost };
        if let (Some(recording), Some(whole)) = (self.recording.take(), writer.whole()) {
            self.whole = Some(whole.clone());
            let put = recording.commit(whole).wait();
            self.put = Some(put);
            self.land(&put.into());
        }
        writer.finish();
        Progress::Whole
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
        self.stats.count(Counter::Truncated);
        if self.is_begun {
            tell_of_cut(&self.key);
        }
        self.recording = None;
        if self.shareable.is_some() {
            // Whoever comes now begins anew.
            self.leader = None;
        }
        self.writer = None;
        Progress::Lost
    }
}

/// What is left of a body whose connection has died.
struct Ended;

impl OriginBody for Ended {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// A body that is being fetched, with its first reader. As a body it is fetched and read by one and the
/// same thread, which can wait.
pub struct Fetched {
    /// What moves it along.
    pub filler: Box<Filler>,
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
