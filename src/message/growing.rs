//! A body that grows while any number of clients read it, each at its own pace.
//!
//! One writer adds what the origin server sends. While all of the body is kept, to be stored, no reader can
//! hold anybody up: it reads what it has not had yet whenever it likes. A body that turns out too large to
//! be stored is let go of: then only a window of it is kept, from what the slowest reader has had on. The
//! window has room or it has not: a driver that may block waits for room before it reads the next piece
//! ([`Writer::wait_for_space`]); an event loop asks ([`Writer::has_space`]) and is woken
//! ([`Writer::on_space`]). Adding a piece waits for nothing. A reader that takes nothing while others wait
//! for it is given up, so that one stalled client delays nobody for long. No body ends well unless its
//! writer says so.
//!
//! One reader alone takes what is in the window out of it, and uses it without a copy. What it is sent may also go through
//! a pipe of the system ([`Writer::may_pipe`]): then only the numbers of bytes pass here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::message::buffer::Buffer;
use crate::message::fields::Fields;
use crate::message::pipe::BodyPipe;

mod pace;
mod reader;

use self::pace::WindowPace;
pub use self::pace::{WIDE_BYTES, WideWindows};
pub use self::reader::Reader;

/// The window of a body that one client alone reads.
const ONE_READER_BYTES: usize = 16 * 1024;

/// Less space than this is not waited for: whoever takes a few bytes at a time would have as few fetched at a time.
fn least_space(window_bytes: usize) -> usize {
    (window_bytes / 4).max(1)
}

/// The bounds of a body that is not kept.
#[derive(Clone, Copy, Debug)]
pub struct GrowingLimits {
    /// How far the fastest reader may be ahead of the slowest, in bytes.
    pub window_bytes: usize,
    /// For how long a reader may take nothing while others wait for it.
    pub stall_max: Duration,
}

impl Default for GrowingLimits {
    fn default() -> Self {
        Self { window_bytes: 256 * 1024, stall_max: Duration::from_secs(5) }
    }
}

/// A body that has not ended yet: what its writer and its readers share.
pub struct GrowingBody {
    length: Option<u64>,
    state: Mutex<GrowingState>,
    /// Something was written, or the end came; waited for with `state`.
    grown: Condvar,
    /// A reader has taken something, or is gone; waited for with `state`.
    taken: Condvar,
}

/// Guarded by [`GrowingBody::state`].
struct GrowingState {
    bytes: GrowingBytes,
    /// Bytes that readers may see; the last ones are there before that.
    total: u64,
    end: Option<GrowingEnd>,
    /// What has come behind the content.
    trailers: Fields,
    /// By number.
    readers: HashMap<u64, ReaderState>,
    next_number: u64,
    /// How far the fastest reader may be ahead of the slowest.
    window_bytes: usize,
    /// By what the window of one reader is wide or narrow.
    pace: Option<WindowPace>,
    piped: Piped,
    /// Wakes a writer that waits in an event loop for space for a piece.
    writer_waker: Option<Box<dyn Fn() + Send + Sync>>,
}

/// Content that goes through a pipe to a lone reader, and counts as if it were in the window.
#[derive(Default)]
struct Piped {
    /// The reader takes it from there.
    is_accepted: bool,
    /// While there is something in it.
    pipe: Option<Arc<BodyPipe>>,
    /// How much that is. It comes before what is in the window.
    count: usize,
}

/// Which bytes are there.
enum GrowingBytes {
    /// All that have come.
    All(Buffer),
    /// All there are.
    Whole(Bytes),
    /// Those from `from` on. What comes before them a lone reader may have taken out, and not had yet.
    Window { from: u64, bytes: VecDeque<u8> },
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum GrowingEnd {
    Whole,
    Cut,
}

/// A reader, as the writer sees it.
#[derive(Default)]
struct ReaderState {
    position: u64,
    waker: Option<Box<dyn Fn() + Send + Sync>>,
    /// It took nothing while others waited for it.
    given_up: bool,
}

/// The slowest reader keeps all others waiting.
#[derive(Clone, Copy)]
struct Stall {
    /// How far the slowest reader has come.
    position: u64,
    /// Since when it has been there, as far as anybody has looked.
    since: Instant,
}

impl GrowingBody {
    fn begin(
        length: Option<u64>,
        bytes: GrowingBytes,
        total: u64,
        window_bytes: usize,
    ) -> (Arc<Self>, Reader) {
        let state = GrowingState {
            bytes,
            total,
            end: None,
            trailers: Fields::new(),
            readers: HashMap::from([(0, ReaderState::default())]),
            next_number: 1,
            window_bytes,
            pace: None,
            piped: Piped::default(),
            writer_waker: None,
        };
        let (state, grown, taken) = (Mutex::new(state), Condvar::new(), Condvar::new());
        let body = Arc::new(Self { length, state, grown, taken });
        let reader = Reader::new(&body, 0);
        (body, reader)
    }

    fn lock(&self) -> MutexGuard<'_, GrowingState> {
        self.state.lock()
    }

    /// A reader that begins at the front; `None` if the front is not there any more, or the body is
    /// cut.
    pub fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.lock();
        // Under the lock that `let_go` and `trim` take: the front cannot go between the look and the entry.
        if matches!(state.bytes, GrowingBytes::Window { from, .. } if from > 0)
            || state.end == Some(GrowingEnd::Cut)
        {
            return None;
        }
        let number = state.next_number;
        state.next_number += 1;
        state.readers.insert(number, ReaderState::default());
        drop(state);
        Some(Reader::new(self, number))
    }

    /// Gives up the slowest reader if it has been where it is since `stall_max` ago; `stall` is what the
    /// last look has seen. When to look again; `None` if there is no reader left to be waited for.
    fn give_up_stalled(
        &self,
        state: &mut GrowingState,
        stall: &mut Option<Stall>,
        stall_max: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let position = state.slowest()?;
        // Any reader wakes the writer, the slowest or not; the time is counted from the last step of the
        // slowest.
        let seen = stall.filter(|stall| stall.position == position);
        let since = stall.insert(seen.unwrap_or(Stall { position, since: now })).since;
        if now < since + stall_max {
            return Some(since + stall_max);
        }
        // A lone reader is never given up: nobody waits for it but the origin server. One that was given up
        // and is not gone yet waits for nothing.
        if state.readers.values().filter(|reader| !reader.given_up).count() == 1 {
            return Some(now + stall_max);
        }
        for reader in state.readers.values_mut().filter(|one| one.position == position) {
            reader.given_up = true;
        }
        // They may be waiting for bytes of their own: woken, they find that they were given up.
        state.announce();
        self.grown.notify_all();
        // The next slowest has as long as the last one had.
        *stall = state.slowest().map(|position| Stall { position, since: now });
        stall.map(|stall| stall.since + stall_max)
    }
}

impl GrowingState {
    /// Wakes event loops; threads wait on the condition variables. Called with the lock held, so a waker must
    /// take no lock that is held while this one is taken.
    fn announce(&self) {
        for reader in self.readers.values() {
            if let Some(wake) = &reader.waker {
                wake();
            }
        }
    }

    /// Where the slowest reader is that has not been given up; `None` if there is none.
    fn slowest(&self) -> Option<u64> {
        self.readers.values().filter(|reader| !reader.given_up).map(|reader| reader.position).min()
    }

    /// Can the window take `count` bytes more? A piece of any size fits into an empty one, and all that is
    /// kept has room as far as its buffer grows.
    fn fits(&self, count: usize) -> bool {
        self.space().is_none_or(|space| space == self.window_bytes || space >= count)
    }

    /// Is there space for a piece that is worth its while?
    fn has_space(&self) -> bool {
        self.fits(least_space(self.window_bytes))
    }

    /// How much the window has space for; `None` for all that comes, since all of it is kept.
    fn space(&self) -> Option<usize> {
        if !matches!(self.bytes, GrowingBytes::Window { .. }) {
            return None;
        }
        if self.piped.count > 0 {
            // What is read behind it would have to wait for it.
            return Some(0);
        }
        let slowest = self.slowest().unwrap_or(self.total);
        Some(self.window_bytes.saturating_sub((self.total - slowest) as usize))
    }

    /// Drops from a window what every reader has had.
    fn trim(&mut self) {
        let slowest = self.slowest().unwrap_or(self.total);
        // A reader that was given up is behind the window from now on, and reads no more of it.
        if let GrowingBytes::Window { from, bytes } = &mut self.bytes {
            assert!(
                slowest >= *from || self.readers.len() == 1,
                "a window keeps what a reader has not had yet"
            );
            let had = slowest.saturating_sub(*from);
            bytes.drain(..had as usize);
            *from += had;
        }
    }

    /// A lone reader has had all that has come: if its window is not to be wide any more, its memory goes back.
    fn rest(&mut self) {
        if let (GrowingBytes::Window { bytes, .. }, Some(pace)) = (&mut self.bytes, &mut self.pace)
            && pace.rest()
        {
            self.window_bytes = pace.window_bytes();
            bytes.shrink_to(self.window_bytes);
        }
    }

    /// Tells the writer's event loop if there is room. Called with the lock held, as `announce` is.
    fn wake_writer(&self) {
        if let Some(wake) = &self.writer_waker
            && self.has_space()
        {
            wake();
        }
    }
}

/// The writing end. Dropped without a word, it cuts the body.
pub struct Writer {
    body: Arc<GrowingBody>,
    /// For how long a reader may take nothing while others wait for it.
    stall_max: Duration,
    /// What the last look at the slowest reader has seen; `None` while there is room.
    stall: Option<Stall>,
}

impl Writer {
    /// A body of `length` bytes, where that is known, and its first reader; `content` is the room for
    /// it, and may hold its beginning.
    ///
    /// The reader is there before the first byte is written: a window keeps only what a reader has not
    /// had yet, so that a reader that came later would find the front gone.
    pub fn new(length: Option<u64>, content: Buffer) -> (Self, Reader) {
        Self::within(length, content, GrowingLimits::default())
    }

    /// The same within these bounds.
    pub fn within(length: Option<u64>, content: Buffer, limits: GrowingLimits) -> (Self, Reader) {
        let total = content.len() as u64;
        let GrowingLimits { window_bytes, stall_max } = limits;
        let all = GrowingBytes::All(content);
        let (body, reader) = GrowingBody::begin(length, all, total, window_bytes);
        (Self { body, stall_max, stall: None }, reader)
    }

    /// A body that is passed on to one client and not stored, and its reader: never more of it is kept than a window of
    /// 16 KiB, and the piece that goes beyond it. The systems on both sides keep more of it than that.
    pub fn passing(length: Option<u64>) -> (Self, Reader) {
        let window_bytes = ONE_READER_BYTES;
        Self::passing_within(length, GrowingLimits { window_bytes, ..GrowingLimits::default() })
    }

    /// The same, whose window is wider while both sides are fast, as far as `wide` permits.
    pub fn passing_fast(length: Option<u64>, wide: &Arc<WideWindows>) -> (Self, Reader) {
        let (writer, reader) = Self::passing(length);
        let pace = WindowPace::new(wide, length.is_none());
        let mut state = writer.body.lock();
        state.window_bytes = pace.window_bytes();
        state.pace = Some(pace);
        drop(state);
        (writer, reader)
    }

    /// The same within these bounds.
    pub fn passing_within(length: Option<u64>, limits: GrowingLimits) -> (Self, Reader) {
        let window = GrowingBytes::Window { from: 0, bytes: VecDeque::new() };
        let GrowingLimits { window_bytes, stall_max } = limits;
        let (body, reader) = GrowingBody::begin(length, window, 0, window_bytes);
        (Self { body, stall_max, stall: None }, reader)
    }

    /// What readers are made of.
    pub fn shared(&self) -> &Arc<GrowingBody> {
        &self.body
    }

    /// How many read it.
    pub fn readers(&self) -> usize {
        self.body.lock().readers.len()
    }

    /// Is all that has come the beginning of `other`, or the other way round? Only a body that is kept
    /// can say; `from` is where `other` begins in it.
    pub fn agrees(&self, from: u64, other: &[u8]) -> bool {
        let state = self.body.lock();
        let GrowingBytes::All(buffer) = &state.bytes else { return false };
        let Some(own) = buffer.as_slice().get(from as usize..) else { return false };
        let both = own.len().min(other.len());
        own[..both] == other[..both]
    }

    /// Adds bytes to a body that is kept, which `grow` makes room for, given the buffer and what must
    /// fit into it; `false` if it does not. The `last` ones are shown to nobody before
    /// [`Writer::finish`].
    pub fn keep(
        &mut self,
        bytes: &[u8],
        last: bool,
        grow: impl FnOnce(&mut Buffer, usize) -> bool,
    ) -> bool {
        let mut state = self.body.lock();
        let GrowingBytes::All(buffer) = &mut state.bytes else { return false };
        if !grow(buffer, bytes.len()) {
            return false;
        }
        buffer.extend(bytes);
        // The last bytes are held back until the response is stored: a client that has all of it may ask
        // again at once, and is to find it.
        if !last {
            state.total += bytes.len() as u64;
            state.announce();
            drop(state);
            self.body.grown.notify_all();
        }
        true
    }

    /// The body is too large to be kept: only a window of it is, from now on. Gives what was kept.
    pub fn let_go(&mut self) -> Bytes {
        let mut state = self.body.lock();
        let from = state.slowest().unwrap_or(state.total);
        let GrowingBytes::All(buffer) = &mut state.bytes else { return Bytes::new() };
        // The window is a copy, since `kept` goes to the caller: it may be written to the backing store.
        let kept = std::mem::take(buffer).into_bytes();
        assert_eq!(
            kept.len() as u64,
            state.total,
            "the last bytes are held back of what is stored"
        );
        let bytes = kept[from as usize..].to_vec().into();
        state.bytes = GrowingBytes::Window { from, bytes };
        kept
    }

    /// Is a quarter of the window free, so that a piece may be fetched? Always true of a body that is kept, and where
    /// nobody reads.
    pub fn has_space(&self) -> bool {
        self.body.lock().has_space()
    }

    /// How many bytes the window has space for; `None` for any number, since all that comes is kept.
    pub fn space(&self) -> Option<usize> {
        self.body.lock().space()
    }

    /// Is the window of one reader to be wide or narrow from `now` on? For a driver that is about to ask for space.
    pub fn set_pace(&mut self, now: Instant) {
        let mut state = self.body.lock();
        let GrowingState { bytes, total, window_bytes, pace, readers, .. } = &mut *state;
        let (GrowingBytes::Window { from, bytes }, Some(pace)) = (bytes, pace) else { return };
        if readers.values().all(|reader| reader.position == *total) {
            *window_bytes = pace.note_taken(now, *total);
            // All that is in it has been had. A window that is narrow again keeps no memory of a wide one.
            *from = *total;
            bytes.clear();
            bytes.shrink_to(*window_bytes);
        }
    }

    /// May content be put into a pipe instead, which must be empty? Only for a lone reader that takes it from there and
    /// has had all that has come, with a wide window: so there are no more pipes than these.
    pub fn may_pipe(&self) -> bool {
        let state = self.body.lock();
        state.piped.is_accepted
            && state.piped.count == 0
            && state.pace.as_ref().is_some_and(WindowPace::is_wide)
            && state.readers.len() == 1
            && state.slowest() == Some(state.total)
    }

    /// `count` bytes have been put into `pipe`, as [`Writer::may_pipe`] permits; `false` if no reader is left.
    pub fn note_piped(&mut self, pipe: &Arc<BodyPipe>, count: usize) -> bool {
        let mut state = self.body.lock();
        assert!(state.piped.count == 0, "there is nothing in the pipe before");
        let state = &mut *state;
        state.total += count as u64;
        if let GrowingBytes::Window { from, bytes } = &mut state.bytes {
            // What is left in the window has been had.
            bytes.clear();
            *from = state.total;
        }
        (state.piped.pipe, state.piped.count) = (Some(Arc::clone(pipe)), count);
        state.announce();
        self.body.grown.notify_all();
        state.slowest().is_some()
    }

    /// Adds bytes to a body that was let go of, and waits for nothing: a driver that fetches a piece only
    /// when there is space ([`Writer::has_space`]) goes beyond the window by that piece at most. `false` if no
    /// reader is left, and the bytes are gone.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let mut state = self.body.lock();
        state.trim();
        state.total += bytes.len() as u64;
        let (total, is_read) = (state.total, state.slowest().is_some());
        match &mut state.bytes {
            GrowingBytes::Window { bytes: window, .. } if is_read => window.extend(bytes),
            // It may be worth fetching all the same: the backing store may be taking it. An empty window
            // whose front is gone lets no reader join.
            GrowingBytes::Window { from, .. } => *from = total,
            _ => unreachable!("a body that is kept grows by `keep`"),
        }
        state.announce();
        drop(state);
        self.body.grown.notify_all();
        is_read
    }

    /// Waits until there is room for a piece. A reader that takes nothing meanwhile is given up, if there
    /// are others. Called without a lock, by a thread that may block.
    pub fn wait_for_space(&mut self) {
        // The time between two waits is not the readers': there was room, and nobody waited for them.
        self.stall = None;
        let mut state = self.body.lock();
        while !state.has_space() {
            let (stall, stall_max) = (&mut self.stall, self.stall_max);
            let next = self.body.give_up_stalled(&mut state, stall, stall_max, Instant::now());
            // If readers were given up, there may be room by now.
            if let Some(next) = next
                && !state.has_space()
            {
                self.body.taken.wait_until(&mut state, next);
            }
        }
    }

    /// From now on `wake` is called whenever a reader has taken something from the window, or is gone, and there is
    /// space for a piece: on another thread, with the body's lock held, and never after the writer is dropped. It must not
    /// block, and take no lock that is held while the body is read.
    pub fn on_space(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        self.body.lock().writer_waker = Some(wake);
    }

    /// The clock's part of [`Writer::wait_for_space`], for a driver that must not wait: gives up the slowest
    /// reader if it has taken nothing for too long while there was no room. When to call it again; `None`
    /// while there is room.
    ///
    /// The first call after the room has gone starts the time.
    pub fn give_up_stalled(&mut self, now: Instant) -> Option<Instant> {
        let mut state = self.body.lock();
        let next = if state.has_space() {
            None
        } else {
            self.body.give_up_stalled(&mut state, &mut self.stall, self.stall_max, now)
        };
        let next = next.filter(|_| !state.has_space());
        if next.is_none() {
            self.stall = None;
        }
        next
    }

    /// All the content, if it was kept; readers go on reading it.
    pub fn whole(&mut self) -> Option<Bytes> {
        let mut state = self.body.lock();
        let GrowingBytes::All(buffer) = &mut state.bytes else { return None };
        let whole = std::mem::take(buffer).into_bytes();
        state.bytes = GrowingBytes::Whole(whole.clone());
        Some(whole)
    }

    /// The end has come, and the framing has proven it.
    pub fn finish(self) {
        self.end(GrowingEnd::Whole);
    }

    /// The same, and these fields have come behind the content: for the readers that ask for them.
    pub fn finish_with(self, trailers: Fields) {
        self.body.lock().trailers = trailers;
        self.finish();
    }

    fn end(&self, end: GrowingEnd) {
        let mut state = self.body.lock();
        // `finish` consumes the writer, whose drop would call this body cut: the first word holds.
        if state.end.is_none() {
            if let (GrowingEnd::Whole, GrowingBytes::Whole(bytes)) = (end, &state.bytes) {
                state.total = bytes.len() as u64;
            }
            state.end = Some(end);
            state.announce();
        }
        drop(state);
        self.body.grown.notify_all();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(GrowingEnd::Cut);
        let waker = self.body.lock().writer_waker.take();
        // Without the lock: what it holds may be dropped with it, a reader of this body for one.
        drop(waker);
    }
}

#[cfg(test)]
mod tests;
