//! Where the content of a response goes: to all who read it, and into memory or the backing store.
//! RFC 9111 §3.3.
//!
//! A sink takes pieces, and then a proven end or, by its drop, a failure. It waits in [`Sink::wait_for_space`]
//! alone: a driver that fetches asks for space before each piece. The requests that follow the fetch get their
//! outcome here, once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::message::buffer::Buffer;
use crate::message::fields::Fields;
use crate::message::growing::{Reader, WIDE_BYTES, WideWindows, Writer};
use crate::message::pipe::BodyPipe;
use crate::policy::reason::Detail;
use crate::policy::stored::StoredHead;
use crate::proxy::collapse::{Duty, Outcome, Scope, Shareable};
use crate::proxy::fill::PIECE_BYTES;
use crate::store::recording::{Commit, Recording, Settling};
use crate::store::{Put, Reservation};

/// How much is fetched at a time of content that waits in a window for its readers.
pub const WINDOW_PIECE_BYTES: usize = 16 * 1024;
/// After this time the queue of the backing store is asked for space once more, by a driver that must not wait.
const QUEUE_ASKED_AGAIN: Duration = Duration::from_millis(2);

/// The content of one response on its way.
pub struct Sink {
    // Before the writer, and so dropped before it: a client that learns of a cut, and asks again, must not find
    // the fetch that is over.
    pub(super) keeping: Keeping,
    pub(super) writer: Writer,
    /// Where the head states it.
    length: Option<u64>,
    /// How many bytes have come.
    total: u64,
    /// What followers are given; `None` before the head is passed on, and if nobody else may have the response.
    pub(super) shareable: Option<Arc<Shareable>>,
    /// Since when the queue of the backing store has had no space.
    full_since: Option<Instant>,
    /// How far what comes is compared with what has come before, byte for byte: the origin server was
    /// asked once more. Equal to `total` otherwise.
    compared: u64,
    /// What has come behind the content.
    trailers: Fields,
}

/// Whether the content is stored, beside being passed on.
pub(super) enum Keeping {
    /// It is to be stored, and that is owed to others.
    Owed(Box<Recording>, Duty),
    /// It has turned out too large. What was kept until then may be read for long, and takes its memory
    /// until the end.
    LetGo(#[expect(dead_code, reason = "held until it is dropped")] Reservation),
    /// It is for one client, and not stored.
    Nothing,
}

/// What [`Sink::take`] has done with a piece, or a driver's step with the content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// The piece is taken; more is to come.
    More,
    /// All of it has come, and its end is proven.
    Whole,
    /// The content was cut short, or nobody wants the rest of it: stop fetching.
    Lost,
    /// The piece is not what has come before: [`Proxy::cut`](crate::proxy::Proxy::cut).
    Differs,
}

/// A body whose proven end has come.
pub enum Ending {
    /// The response is stored, or not.
    Done(Ended),
    /// The backing store has yet to say: [`SettlingSink::wait`].
    Settle(Box<SettlingSink>),
}

/// The outcome of a body whose end has come.
pub struct Ended {
    /// All the content; `None` if it was not kept in memory.
    pub whole: Option<Bytes>,
    /// Why it is not stored; `None` if it is.
    pub refusal: Option<Detail>,
}

impl Keeping {
    fn recording(&self) -> Option<&Recording> {
        match self {
            Self::Owed(recording, _) => Some(recording),
            Self::LetGo(_) | Self::Nothing => None,
        }
    }

    fn recording_mut(&mut self) -> Option<&mut Recording> {
        match self {
            Self::Owed(recording, _) => Some(recording),
            Self::LetGo(_) | Self::Nothing => None,
        }
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Nothing)
    }

    /// Settles the duty with this outcome, unless that is done. Gives the recording, if there still is one.
    ///
    /// The only other settlement is by [`Sink::finish`], which consumes the sink.
    fn settle(&mut self, outcome: &Outcome) -> Option<Recording> {
        match self.take() {
            Self::Owed(recording, duty) => {
                duty.settle(outcome);
                Some(*recording)
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Sink {
    /// A sink for a response that is to be stored, and the reader of the client that asked. `content` is the
    /// buffer for it. If it is not `shareable`, followers ask for themselves.
    pub(in crate::proxy) fn storing(
        length: Option<u64>,
        recording: Recording,
        content: Buffer,
        duty: Duty,
        shareable: bool,
    ) -> (Self, Reader) {
        // A body and its first reader are made together, before the first byte is taken: so nothing that
        // has come can be gone when the client that asked for it begins to read.
        let (mut writer, reader) = Writer::new(length, content);
        // It goes past memory from its first byte on: readers get a window.
        if recording.spooled().is_some() {
            writer.let_go();
        }
        // Now, not at the end: it must be validated before each reuse, so to follow it gains nothing.
        let for_nobody_else = Outcome::Unshareable(Scope::Request);
        let duty = if shareable { duty } else { duty.without_followers(&for_nobody_else) };
        let keeping = Keeping::Owed(Box::new(recording), duty);
        (
            Self {
                writer,
                keeping,
                length,
                total: 0,
                shareable: None,
                full_since: None,
                compared: 0,
                trailers: Fields::new(),
            },
            reader,
        )
    }

    /// A sink for a response that is passed on to one client; `first` has come of it.
    pub(in crate::proxy) fn passing(
        length: Option<u64>,
        first: &[u8],
        wide: &Arc<WideWindows>,
    ) -> (Self, Reader) {
        let (mut writer, reader) = Writer::passing_fast(length, wide);
        if !first.is_empty() {
            writer.push(first);
        }
        let (keeping, total) = (Keeping::Nothing, first.len() as u64);
        (
            Self {
                keeping,
                writer,
                length,
                total,
                shareable: None,
                full_since: None,
                compared: total,
                trailers: Fields::new(),
            },
            reader,
        )
    }

    /// Do `count` bytes more make the content as long as the head has announced? Then they are to be given to
    /// [`Sink::finish`], with the proven end.
    pub fn completes(&self, count: usize) -> bool {
        // A client that knows the length may ask again as soon as it has the last byte: no reader sees that
        // byte before the end is proven and the response is stored.
        self.length == Some(self.compared + count as u64)
    }

    /// May a piece be fetched? Never waits.
    pub fn has_space(&self) -> bool {
        self.writer.has_space() && !self.keeps_back()
    }

    /// Does content that has come wait for the queue of the backing store? Its readers there wait with it.
    pub fn keeps_back(&self) -> bool {
        self.keeping.recording().is_some_and(|recording| !recording.has_space())
    }

    /// Waits until one may: for the slowest reader, within a bound, and for the queue of the backing store, within
    /// another; what that does not take in time is let go of.
    pub fn wait_for_space(&mut self) {
        // A body on its way behind memory has both bounds: its slowest reader, and the queue of the
        // backing store.
        self.writer.wait_for_space();
        if let Some(recording) = self.keeping.recording_mut()
            && !recording.wait_for_space()
        {
            self.let_go();
        }
    }

    /// Is there space at `now`? If not, when to ask again, although nothing has called what [`Sink::on_space`] was
    /// given. Never waits: what the backing store does not take in time is let go of, and a reader that keeps the
    /// others waiting is given up.
    pub fn space_or_until(&mut self, now: Instant) -> Option<Instant> {
        if let Some(until) = self.writer.give_up_stalled(now) {
            return Some(until);
        }
        let recording = self.keeping.recording_mut()?;
        // What was kept back is handed in, as far as the queue takes it now.
        if recording.has_space() || recording.write(b"") && recording.has_space() {
            self.full_since = None;
            return None;
        }
        let since = *self.full_since.get_or_insert(now);
        if now < since + recording.space_wait() {
            // The queue calls nobody: it is asked again.
            return Some(now + QUEUE_ASKED_AGAIN);
        }
        self.full_since = None;
        self.let_go();
        None
    }

    /// For a driver that is about to ask for space at `now`: the window of one reader is wide or narrow from then on.
    pub fn set_pace(&mut self, now: Instant) {
        self.writer.set_pace(now);
    }

    /// How much is to be fetched next, where there is space: no more than there is space for.
    pub fn piece_bytes(&self) -> usize {
        let most = match self.keeping {
            // It waits in a window for its readers.
            Keeping::Owed(..) | Keeping::LetGo(_) => PIECE_BYTES,
            // It is for one client; how wide the window is, depends on how fast both sides are.
            Keeping::Nothing => WIDE_BYTES,
        };
        self.writer.space().map_or(most, |space| space.clamp(1, most))
    }

    /// For a driver that must not wait: from now on `wake` is called when there may be space again. It is
    /// called on another thread, with the lock of the body held, and must not block.
    pub fn on_space(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        self.writer.on_space(wake);
    }

    /// The clock's part of [`Sink::wait_for_space`], for a driver that must not wait: gives up a reader that
    /// has taken nothing for too long while others wait for it. When to call it again; `None` while there is
    /// space.
    pub fn give_up_stalled(&mut self, now: Instant) -> Option<Instant> {
        self.writer.give_up_stalled(now)
    }

    /// A piece has come that is not the last one.
    pub fn take(&mut self, piece: &[u8]) -> Progress {
        assert!(!self.completes(piece.len()), "the last piece goes with its proven end");
        // Asked before each piece: the last reader may have left, and a purge come, since the one before.
        if self.is_in_vain() {
            return self.give_up();
        }
        // No more than was announced: a client would take what is beyond it for the next response.
        if self.length.is_some_and(|length| self.compared + piece.len() as u64 > length) {
            return Progress::Differs;
        }
        let Some(piece) = self.compare(piece) else { return Progress::Differs };
        // Empty, if the origin server was asked once more and has brought nothing yet that is new.
        if piece.is_empty() || self.keep(piece, false) {
            return Progress::More;
        }
        // Shown even if the backing store does not take it: the clients do not notice that it is not
        // stored.
        let is_spooled = self.spool(piece);
        if self.writer.push(piece) || is_spooled { Progress::More } else { self.give_up() }
    }

    /// May content be put into an empty pipe, instead of being taken piece by piece? Only what is passed on to one
    /// client, and not its end.
    pub fn may_pipe(&self) -> bool {
        matches!(self.keeping, Keeping::Nothing)
            && self.compared == self.total
            && self.writer.may_pipe()
    }

    /// `count` bytes have been put into `pipe`, which are not the last.
    pub fn take_piped(&mut self, pipe: &Arc<BodyPipe>, count: usize) -> Progress {
        assert!(self.compared == self.total, "what has come before is compared byte for byte");
        self.total += count as u64;
        self.compared = self.total;
        assert!(self.length.is_none_or(|length| self.total < length), "the end comes as a piece");
        if self.writer.note_piped(pipe, count) { Progress::More } else { self.give_up() }
    }

    /// These fields have come behind the content, for the clients that take them, unless the response is stored.
    pub fn bring_trailers(&mut self, trailers: Fields) {
        self.trailers = trailers;
    }

    /// The last piece has come, which may be empty, and the framing has proven that it is. The sink comes
    /// back if it is not what has come before, or not all that the head has announced: a part and the rest of
    /// it have one head and two framings (§3.3, §3.4).
    pub fn finish(mut self, piece: &[u8]) -> Result<Ending, Box<Self>> {
        let is_all = self.length.is_none_or(|_| self.completes(piece.len()));
        let Some(piece) = self.compare(piece).filter(|_| is_all && self.compared == self.total)
        else {
            return Err(Box::new(self));
        };
        // The last bytes stay hidden until the response is stored: who has all of it may ask again at once.
        let is_kept = piece.is_empty() || self.keep(piece, true);
        if !is_kept && !self.spool(piece) {
            self.writer.push(piece);
        }
        let is_cleared = self.keeping.recording().is_some_and(Recording::is_cleared);
        let is_spooled = self.is_spooled();
        // Some followers may have what is cleared all the same; no other request will. And what is
        // spooled they read along: to look for it in the backing store would take each of them a wait.
        if is_cleared || is_spooled {
            self.share();
        }
        if is_spooled {
            let last = if is_kept { Bytes::new() } else { Bytes::copy_from_slice(piece) };
            return Ok(self.settle_spooled(last));
        }
        // Stored before `writer.finish`: a client that has all of the content may ask again at once,
        // and is to find it.
        let whole = self.writer.whole();
        let refusal = match (self.keeping.take(), &whole) {
            (Keeping::Owed(recording, duty), Some(whole)) => {
                let put = commit_in_memory(*recording, whole.clone());
                duty.settle(&put.into());
                // What is stored has none, and so nobody is given any.
                self.trailers = Fields::new();
                put.refusal()
            }
            (Keeping::LetGo(_), _) => Some(Detail::TooLarge),
            // For one client: why it is not stored is known from its head.
            _ => None,
        };
        // After the commit, for the same reason.
        self.writer.finish_with(self.trailers);
        Ok(Ending::Done(Ended { whole, refusal }))
    }

    /// Adds to what is kept in memory; `false` if the content is not kept there (any more). No reader sees the
    /// `last` piece before the end.
    fn keep(&mut self, piece: &[u8], last: bool) -> bool {
        let recording = self.keeping.recording_mut();
        let Some(recording) = recording.filter(|recording| recording.spooled().is_none()) else {
            return false;
        };
        let grow = |buffer: &mut Buffer, more| recording.grow(buffer, more);
        if self.writer.keep(piece, last, grow) {
            return true;
        }
        self.overflow();
        false
    }

    /// The content is too large for memory: it goes on into the backing store, or is let go of.
    fn overflow(&mut self) {
        // A window of it stays for the readers; all of it goes to the backing store, or nowhere.
        let kept = self.writer.let_go();
        let length = self.length;
        let Some(recording) = self.keeping.recording_mut() else { return };
        if !recording.overflow(kept, length) {
            return self.let_go();
        }
        if let (Some(shareable), Some(spooled)) = (&self.shareable, recording.spooled()) {
            // Once only: it goes past memory once.
            let _ = shareable.spooled.set(Arc::clone(spooled));
        }
    }

    fn is_spooled(&self) -> bool {
        self.keeping.recording().is_some_and(|recording| recording.spooled().is_some())
    }

    /// Adds to what goes into the backing store; `false` if the content does not go there (any more).
    fn spool(&mut self, piece: &[u8]) -> bool {
        if !self.is_spooled() {
            return false;
        }
        let is_written =
            self.keeping.recording_mut().is_some_and(|recording| recording.write(piece));
        if !is_written {
            self.let_go();
        }
        is_written
    }

    /// The content is too large for every store: it is passed on alone from here on.
    fn let_go(&mut self) {
        // Those who wait ask for themselves from now on: the front of it is gone for whoever joins later.
        if let Some(recording) = self.keeping.settle(&Outcome::TooLarge) {
            self.keeping = Keeping::LetGo(recording.into_reservation());
        }
        self.writer.let_go();
    }

    /// It will not be stored, because it may not or was invalidated, and nobody reads it any more. A driver asks
    /// before it waits for the next piece: that may take minutes, and the connection be needed for others.
    pub fn is_in_vain(&self) -> bool {
        if self.writer.readers() > 0 {
            return false;
        }
        // Read in the backing store counts as well: such a client would have its body cut.
        self.keeping.recording().is_none_or(|recording| {
            recording.is_cleared()
                && recording.spooled().is_none_or(|spooled| spooled.readers() == 0)
        })
    }

    /// Nobody reads it, and it is not worth keeping.
    pub fn give_up(&mut self) -> Progress {
        self.keeping.settle(&Outcome::Cleared);
        Progress::Lost
    }

    /// From here on followers are given the content as it grows, if it may be shared. Once.
    pub(super) fn share(&mut self) {
        let Keeping::Owed(recording, duty) = &self.keeping else { return };
        // Shared once; and of a request that nobody can follow, nothing has to be shared.
        if self.shareable.is_some() || !duty.leads() {
            return;
        }
        let spooled = OnceLock::new();
        if let Some(on_its_way) = recording.spooled() {
            let _ = spooled.set(Arc::clone(on_its_way));
        }
        // Followers get the head as it is stored, not as this client gets it: each is rewritten and
        // conditioned by itself.
        let (head, body) = (recording.head().clone(), Arc::clone(self.writer.shared()));
        let shareable = Arc::new(Shareable { head, body, spooled });
        duty.share(&shareable);
        self.shareable = Some(shareable);
    }

    /// The last byte has come of content that goes into the backing store.
    fn settle_spooled(mut self, last: Bytes) -> Ending {
        let Keeping::Owed(recording, duty) = self.keeping.take() else {
            unreachable!("a recording has said that it is spooled")
        };
        let writer = self.writer;
        // The content has gone there piece by piece.
        match recording.commit(Bytes::new()) {
            Commit::Pending(settling) => {
                Ending::Settle(Box::new(SettlingSink { settling, duty, writer, last }))
            }
            Commit::Done(put) => Ending::Done(settled(put, writer, duty, &last)),
        }
    }

    /// Why the response will not be stored, as far as that is known now; `None` also for one that is for one
    /// client.
    pub(super) fn refusal(&self) -> Option<Detail> {
        match &self.keeping {
            Keeping::Owed(recording, _) => recording.is_cleared().then_some(Detail::Cleared),
            Keeping::LetGo(_) => Some(Detail::TooLarge),
            Keeping::Nothing => None,
        }
    }

    /// The duty of a fetch that has failed before anything was passed on; `None` if it is settled.
    pub(super) fn into_duty(mut self) -> Option<Duty> {
        match self.keeping.take() {
            Keeping::Owed(_, duty) => Some(duty),
            _ => None,
        }
    }

    /// Is the origin server to be asked once more, should the connection die: do others read along, and is all
    /// that has come kept, for comparison?
    pub(super) fn may_resume(&self) -> bool {
        self.shareable.is_some()
            && self.writer.readers() > 1
            && matches!(self.keeping, Keeping::Owed(..))
    }

    /// The length in bytes; `None` where the head does not state it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The head of the response, as it is to be stored; `None` if it is not.
    pub(super) fn head(&self) -> Option<&StoredHead> {
        self.keeping.recording().map(Recording::head)
    }

    /// The origin server is asked once more: what comes now begins at the front.
    pub(super) fn begin_to_compare(&mut self) {
        let is_kept = matches!(self.keeping, Keeping::Owed(..));
        assert!(is_kept, "only a body that is kept can be compared");
        self.compared = 0;
    }

    /// The bytes of `piece` that have not come before; `None` if those that have differ.
    fn compare<'a>(&mut self, piece: &'a [u8]) -> Option<&'a [u8]> {
        let known = (self.total - self.compared).min(piece.len() as u64) as usize;
        // Only a body that is kept can say; `known` is 0 unless it is compared.
        if known > 0 && !self.writer.agrees(self.compared, &piece[..known]) {
            return None;
        }
        self.compared += piece.len() as u64;
        // Both are equal again once the new connection has brought as much as the old one.
        self.total = self.total.max(self.compared);
        Some(&piece[known..])
    }
}

/// Stores a response whose content is in memory: one that [`Cache::begin`](crate::store::cache::Cache::begin) has
/// put there, which it always does without content, and that has not gone on behind it since.
pub(in crate::proxy) fn commit_in_memory(recording: Recording, content: Bytes) -> Put {
    match recording.commit(content) {
        Commit::Done(put) => put,
        Commit::Pending(_) => unreachable!("memory has it at once"),
    }
}

/// A body whose proven end has come, and of which the backing store has yet to say whether it is stored.
pub struct SettlingSink {
    settling: Box<Settling>,
    // Dropped before the writer, as in a sink.
    duty: Duty,
    writer: Writer,
    /// The last piece, which nobody has seen yet.
    last: Bytes,
}

impl SettlingSink {
    /// Waits until the response is stored, or is not.
    pub fn wait(self) -> Ended {
        settled(self.settling.wait(), self.writer, self.duty, &self.last)
    }
}

/// The backing store has said what became of the response: now the last piece is shown.
fn settled(put: Put, mut writer: Writer, duty: Duty, last: &[u8]) -> Ended {
    let is_stored = put == Put::Stored;
    duty.settle(&if is_stored { Outcome::StoredInBacking } else { put.into() });
    if !last.is_empty() {
        writer.push(last);
    }
    writer.finish();
    Ended { whole: None, refusal: put.refusal() }
}
