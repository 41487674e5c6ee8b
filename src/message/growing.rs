//! A body that grows while any number of clients read it, each at its own pace.
//!
//! One thread writes: it fetches the body from the origin server. While all of the body is kept, to be
//! stored, no reader can hold anybody up: it reads what it has not had yet whenever it likes. A body
//! that turns out too large to be stored is let go of: then only a window of it is kept, the writer
//! waits for the slowest reader, and a reader that takes nothing while others wait for it is given up,
//! so that one stalled client delays nobody for long. No body ends well unless its writer says so.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::message::body::{Growing, Grown};
use crate::message::buffer::Buffer;

/// The bounds of a body that is not kept.
#[derive(Clone, Copy, Debug)]
pub struct GrowingLimits {
    /// How far the fastest reader may be ahead of the slowest before the next piece is fetched, in bytes.
    pub window_bytes: usize,
    /// For how long a reader may take nothing while others wait for it.
    pub stall_max: Duration,
}

impl Default for GrowingLimits {
    fn default() -> Self {
        // With the piece that is added to it, 256 KiB.
        Self { window_bytes: 192 * 1024, stall_max: Duration::from_secs(5) }
    }
}

/// What writer and readers share.
pub struct Shared {
    length: Option<u64>,
    state: Mutex<State>,
    /// Something was written, or the end came.
    grown: Condvar,
    /// A reader has read something, or is gone.
    read: Condvar,
}

/// Guarded by [`Shared::state`].
struct State {
    held: Held,
    /// Bytes that readers may see; the last ones are there before that.
    total: u64,
    end: Option<End>,
    /// By number.
    readers: HashMap<u64, Slot>,
    next_number: u64,
}

/// Which bytes are there.
enum Held {
    /// All that have come.
    All(Buffer),
    /// All there are.
    Whole(Bytes),
    /// Those from `from` on.
    Window { from: u64, bytes: VecDeque<u8> },
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum End {
    Whole,
    Cut,
}

/// A reader, as the writer sees it.
#[derive(Default)]
struct Slot {
    position: u64,
    wake: Option<Box<dyn Fn() + Send + Sync>>,
    /// It took nothing while others waited for it.
    given_up: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A reader that begins at the front; `None` if the front is not there any more, or the body is
    /// cut.
    pub fn reader(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.lock();
        // Under the lock that `let_go` and `trim` take: the front cannot go between the look and the entry.
        if matches!(state.held, Held::Window { from, .. } if from > 0)
            || state.end == Some(End::Cut)
        {
            return None;
        }
        let number = state.next_number;
        state.next_number += 1;
        state.readers.insert(number, Slot::default());
        drop(state);
        Some(Reader { shared: Arc::clone(self), number, position: 0 })
    }
}

impl State {
    /// Wakes event loops; threads wait on the condition variables. Called with the lock held, so a waker must
    /// take no lock that is held while this one is taken.
    fn announce(&self) {
        for reader in self.readers.values() {
            if let Some(wake) = &reader.wake {
                wake();
            }
        }
    }

    /// Where the slowest reader is that has not been given up; `None` if there is none.
    fn slowest(&self) -> Option<u64> {
        self.readers.values().filter(|reader| !reader.given_up).map(|reader| reader.position).min()
    }

    /// Drops from a window what every reader has had; how many bytes are left in it.
    fn trim(&mut self) -> usize {
        let slowest = self.slowest().unwrap_or(self.total);
        // A reader that was given up is behind the window from now on, and reads no more of it.
        match &mut self.held {
            Held::Window { from, bytes } => {
                debug_assert!(slowest >= *from, "a window keeps what a reader has not had yet");
                bytes.drain(..(slowest - *from) as usize);
                *from = slowest;
                bytes.len()
            }
            _ => 0,
        }
    }
}

/// The writing end. Dropped without a word, it cuts the body.
pub struct Writer {
    shared: Arc<Shared>,
    limits: GrowingLimits,
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
        let state = State {
            total: content.len() as u64,
            held: Held::All(content),
            end: None,
            readers: HashMap::from([(0, Slot::default())]),
            next_number: 1,
        };
        let (grown, read) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { length, state: Mutex::new(state), grown, read });
        let reader = Reader { shared: Arc::clone(&shared), number: 0, position: 0 };
        (Self { shared, limits }, reader)
    }

    /// A body of which no more than a window is ever kept, and its one reader.
    pub fn passing(length: Option<u64>) -> (Self, Reader) {
        let (mut writer, reader) = Self::new(length, Buffer::default());
        writer.let_go();
        (writer, reader)
    }

    /// What readers are made of.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How many read it.
    pub fn readers(&self) -> usize {
        self.shared.lock().readers.len()
    }

    /// Is all that has come the beginning of `other`, or the other way round? Only a body that is kept
    /// can say; `from` is where `other` begins in it.
    pub fn agrees(&self, from: u64, other: &[u8]) -> bool {
        let state = self.shared.lock();
        let Held::All(buffer) = &state.held else { return false };
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
        let mut state = self.shared.lock();
        let Held::All(buffer) = &mut state.held else { return false };
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
            self.shared.grown.notify_all();
        }
        true
    }

    /// The body is too large to be kept: only a window of it is, from now on. Gives what was kept.
    pub fn let_go(&mut self) -> Bytes {
        let mut state = self.shared.lock();
        let from = state.slowest().unwrap_or(state.total);
        let Held::All(buffer) = &mut state.held else { return Bytes::new() };
        // The window is a copy, since `kept` goes to the caller: it may be written to the backing store.
        let kept = std::mem::take(buffer).into_bytes();
        let bytes = kept[from as usize..].to_vec().into();
        state.held = Held::Window { from, bytes };
        kept
    }

    /// Is there room for one more piece: is less than a window kept of a body that was let go of? A body that is kept has room always: no reader can hold it up.
    pub fn has_space(&self) -> bool {
        let mut state = self.shared.lock();
        state.trim() < self.limits.window_bytes || state.slowest().is_none()
    }

    /// Waits until there is room; gives up readers that take nothing while others wait for them. Called
    /// without a lock, by a thread that may wait.
    pub fn wait_for_space(&mut self) {
        let stall_max = self.limits.stall_max;
        let mut state = self.shared.lock();
        let mut waited_since = Instant::now();
        loop {
            let left = state.trim();
            let Some(slowest) = state.slowest() else { return };
            if left < self.limits.window_bytes {
                return;
            }
            // Woken by any reader, the slowest or not; the time is counted from the last step of the slowest.
            self.shared.read.wait_for(&mut state, stall_max);
            if state.slowest() != Some(slowest) {
                waited_since = Instant::now();
            } else if waited_since.elapsed() >= stall_max && state.readers.len() > 1 {
                // A lone reader is never given up: nobody waits for it but the origin server.
                for reader in state.readers.values_mut().filter(|one| one.position == slowest) {
                    reader.given_up = true;
                }
                // They may be waiting for bytes of their own: woken, they find that they were given up.
                state.announce();
                self.shared.grown.notify_all();
            }
        }
    }

    /// Adds bytes to a body that was let go of; never waits. `false` if it has no reader left, and the bytes
    /// are gone. What is kept for the slowest reader is at most a window and one piece, if the caller asks
    /// for room before each piece.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let mut state = self.shared.lock();
        state.trim();
        if state.slowest().is_none() {
            // It may be worth fetching all the same: the backing store may be taking it. An empty window
            // whose front is gone lets no reader join.
            state.total += bytes.len() as u64;
            state.held = Held::Window { from: state.total, bytes: VecDeque::new() };
            return false;
        }
        if let Held::Window { bytes: window, .. } = &mut state.held {
            window.extend(bytes);
        }
        state.total += bytes.len() as u64;
        state.announce();
        drop(state);
        self.shared.grown.notify_all();
        true
    }

    /// All the content, if it was kept; readers go on reading it.
    pub fn whole(&mut self) -> Option<Bytes> {
        let mut state = self.shared.lock();
        let Held::All(buffer) = &mut state.held else { return None };
        let whole = std::mem::take(buffer).into_bytes();
        state.held = Held::Whole(whole.clone());
        Some(whole)
    }

    /// The end has come, and the framing has proven it.
    pub fn finish(self) {
        self.end(End::Whole);
    }

    fn end(&self, end: End) {
        let mut state = self.shared.lock();
        // `finish` consumes the writer, whose drop would call this body cut: the first word holds.
        if state.end.is_none() {
            if let (End::Whole, Held::Whole(bytes)) = (end, &state.held) {
                state.total = bytes.len() as u64;
            }
            state.end = Some(end);
            state.announce();
        }
        drop(state);
        self.shared.grown.notify_all();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end(End::Cut);
    }
}

/// A reading end.
pub struct Reader {
    shared: Arc<Shared>,
    number: u64,
    position: u64,
}

impl Growing for Reader {
    fn length(&self) -> Option<u64> {
        self.shared.length
    }

    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<Grown> {
        let state = self.shared.lock();
        if state.readers.get(&self.number).is_none_or(|slot| slot.given_up) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let at = self.position;
        let count = match &state.held {
            Held::All(bytes) => copy(&bytes.as_slice()[at as usize..state.total as usize], buffer),
            Held::Whole(bytes) => copy(&bytes[at as usize..state.total as usize], buffer),
            Held::Window { from, bytes } => {
                let (front, back) = bytes.as_slices();
                let skip = (at - from) as usize;
                let front = front.get(skip..).unwrap_or_default();
                let back = &back[skip.saturating_sub(bytes.as_slices().0.len()).min(back.len())..];
                let count = copy(front, buffer);
                count + copy(back, &mut buffer[count..])
            }
        };
        if count == 0 && !buffer.is_empty() {
            return match state.end {
                None => Ok(Grown::NotYet),
                Some(End::Whole) => Ok(Grown::End),
                Some(End::Cut) => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        Ok(Grown::Bytes(count))
    }

    fn consume(&mut self, count: usize) {
        self.position += count as u64;
        let position = self.position;
        let mut state = self.shared.lock();
        if let Some(slot) = state.readers.get_mut(&self.number) {
            slot.position = position;
        }
        drop(state);
        self.shared.read.notify_all();
    }

    fn wait(&mut self) {
        let mut state = self.shared.lock();
        loop {
            let given_up = state.readers.get(&self.number).is_none_or(|slot| slot.given_up);
            if state.total > self.position || state.end.is_some() || given_up {
                return;
            }
            self.shared.grown.wait(&mut state);
        }
    }

    fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        let mut state = self.shared.lock();
        if let Some(slot) = state.readers.get_mut(&self.number) {
            slot.wake = Some(wake);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.readers.remove(&self.number);
        drop(state);
        // The writer may be waiting for this reader alone.
        self.shared.read.notify_all();
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    count
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const WINDOW_BYTES: usize = 1000;

    fn writer(length: Option<u64>) -> Writer {
        let limits =
            GrowingLimits { window_bytes: WINDOW_BYTES, stall_max: Duration::from_millis(50) };
        Writer::within(length, Buffer::default(), limits).0
    }

    fn pass_on(writer: &mut Writer, bytes: &[u8]) -> bool {
        writer.wait_for_space();
        writer.push(bytes)
    }

    fn keep(writer: &mut Writer, bytes: &[u8]) {
        let grow = |buffer: &mut Buffer, more: usize| {
            let capacity = buffer.capacity_for(more, usize::MAX);
            buffer.grow(capacity)
        };
        assert!(writer.keep(bytes, false, grow));
    }

    /// What a reader has read, and why it stopped.
    fn read(reader: &mut Reader) -> (Vec<u8>, Result<Grown, io::ErrorKind>) {
        let (mut all, mut piece) = (Vec::new(), [0; 1000]);
        loop {
            match reader.peek(&mut piece) {
                Ok(Grown::Bytes(count)) => {
                    all.extend_from_slice(&piece[..count]);
                    reader.consume(count);
                }
                other => return (all, other.map_err(|error| error.kind())),
            }
        }
    }

    #[test]
    fn each_reads_at_its_own_pace() {
        let mut writer = writer(Some(6));
        keep(&mut writer, b"abc");
        let mut early = writer.shared().reader().expect("a reader");
        assert_eq!(read(&mut early), (b"abc".to_vec(), Ok(Grown::NotYet)));
        let grow = |buffer: &mut Buffer, more: usize| buffer.grow(buffer.len() + more);
        assert!(writer.keep(b"def", true, grow));
        assert_eq!(read(&mut early).0, b"", "the last bytes come when it is stored");
        let mut late = writer.shared().reader().expect("a reader");
        assert_eq!(writer.whole().as_deref(), Some(&b"abcdef"[..]));
        writer.finish();
        assert_eq!(read(&mut early), (b"def".to_vec(), Ok(Grown::End)));
        assert_eq!(read(&mut late), (b"abcdef".to_vec(), Ok(Grown::End)));
    }

    /// However little is kept: the reader that a body is born with has all of it.
    #[test]
    fn the_first_reader_misses_nothing() {
        for keeps in [true, false] {
            let (mut writer, mut reader) = Writer::new(None, Buffer::default());
            if keeps {
                keep(&mut writer, b"abc");
            } else {
                writer.let_go();
                assert!(pass_on(&mut writer, b"abc"));
            }
            writer.finish();
            assert_eq!(read(&mut reader), (b"abc".to_vec(), Ok(Grown::End)));
        }
    }

    #[test]
    fn a_body_without_a_proven_end_is_cut() {
        let mut writer = writer(None);
        keep(&mut writer, b"abc");
        let mut reader = writer.shared().reader().expect("a reader");
        let shared = Arc::clone(writer.shared());
        drop(writer);
        assert_eq!(read(&mut reader), (b"abc".to_vec(), Err(io::ErrorKind::UnexpectedEof)));
        assert!(shared.reader().is_none(), "nobody joins in");
    }

    #[test]
    fn listeners_are_told_of_all_that_happens() {
        let mut writer = writer(None);
        let mut reader = writer.shared().reader().expect("a reader");
        let told = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&told);
        reader.listen(Box::new(move || _ = counter.fetch_add(1, Ordering::Relaxed)));
        keep(&mut writer, b"a");
        writer.let_go();
        assert!(pass_on(&mut writer, b"b"));
        writer.finish();
        assert_eq!(told.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_body_that_is_let_go_of_keeps_to_its_window() {
        let mut writer = writer(None);
        keep(&mut writer, &vec![b'x'; WINDOW_BYTES]);
        let mut reader = writer.shared().reader().expect("a reader");
        writer.let_go();
        assert!(
            writer.whole().is_none() && writer.shared().reader().is_some(),
            "its front is there"
        );
        let fetching = thread::spawn(move || {
            for _ in 0..100 {
                assert!(pass_on(&mut writer, &vec![b'y'; WINDOW_BYTES / 4]));
                let state = writer.shared().lock();
                assert!(
                    matches!(&state.held, Held::Window { bytes, .. } if bytes.len() <= WINDOW_BYTES)
                );
            }
            let late = writer.shared().reader();
            assert!(late.is_none(), "who comes now cannot have it");
            writer.finish();
        });
        let mut total = 0;
        let end = loop {
            let (bytes, end) = read(&mut reader);
            total += bytes.len();
            match end {
                Ok(Grown::NotYet) => reader.wait(),
                end => break end,
            }
        };
        assert_eq!((total, end), (26 * WINDOW_BYTES, Ok(Grown::End)));
        fetching.join().expect("no panic");
    }

    #[test]
    fn who_takes_nothing_while_others_wait_is_given_up() {
        let mut writer = writer(None);
        keep(&mut writer, &vec![b'x'; WINDOW_BYTES]);
        let mut stalled = writer.shared().reader().expect("a reader");
        let mut quick = writer.shared().reader().expect("a reader");
        writer.let_go();
        assert!(read(&mut quick).1.is_ok());
        assert!(pass_on(&mut writer, b"more"), "it goes on after a while");
        assert_eq!(read(&mut stalled).1, Err(io::ErrorKind::TimedOut));
        assert_eq!(read(&mut quick), (b"more".to_vec(), Ok(Grown::NotYet)));
        drop((stalled, quick));
        assert!(!pass_on(&mut writer, b"for nobody"));
    }
}
