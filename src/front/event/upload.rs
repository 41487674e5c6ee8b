//! A request's content on its way from a client's connection to whoever sends it on, an exchange of the same event loop
//! or a worker: a short piece of it at a time. The loop does not read what there is no space for, so the client waits.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::origin::evented::ContentTaken;

/// How much of it is kept at a time: as much as is sent on at a time. What there is beyond it stays with the systems of
/// the client and of this side.
const UPLOAD_BYTES: usize = 16 * 1024;

/// Content between a loop and a worker.
pub(super) struct Upload {
    state: Mutex<UploadState>,
    /// Bytes have come, or the end.
    changed: Condvar,
    /// Sends the loop a message: content is waited for.
    ask_loop: Box<dyn Fn() + Send + Sync>,
}

/// Tells a reader that must not wait that there is more.
type Wake = Arc<dyn Fn() + Send + Sync>;

/// Guarded by [`Upload::state`].
#[derive(Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one thing that one side waits for or has done"
)]
struct UploadState {
    bytes: VecDeque<u8>,
    end: Option<Result<(), io::ErrorKind>>,
    reading: ReadingStage,
    /// The loop has found no space, and waits for a message.
    loop_waits: bool,
    /// Wakes a reader that must not wait; `None` for one that may.
    wake: Option<Wake>,
    /// That reader has found nothing, and is to be woken.
    reader_waits: bool,
}

/// How far its reader has come.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum ReadingStage {
    #[default]
    NotBegun,
    Reads,
    /// It had begun, and reads no more.
    Over,
}

impl UploadState {
    fn space(&self) -> usize {
        // Before the worker reads, bytes stay with the connection, which may still throw them away.
        match self.reading {
            ReadingStage::Reads => UPLOAD_BYTES.saturating_sub(self.bytes.len()),
            ReadingStage::NotBegun | ReadingStage::Over => 0,
        }
    }
}

impl Upload {
    pub(super) fn new(ask_loop: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), ask_loop })
    }

    /// How many bytes can be added now.
    pub(super) fn space(&self) -> usize {
        self.state.lock().space()
    }

    /// The same, for a loop that has bytes to add: where there is no space, the worker wakes the loop when
    /// there is some. Only the worker takes that back: a loop that merely asked would wait for ever.
    pub(super) fn space_or_wait(&self) -> usize {
        let mut state = self.state.lock();
        let space = state.space();
        state.loop_waits |= space == 0;
        space
    }

    /// Adds content, no more than there was space for.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        state.bytes.extend(bytes);
        // The worker only makes space meanwhile, so what there was space for still fits.
        assert!(state.bytes.len() <= UPLOAD_BYTES, "no more is added than there is space for");
        self.tell_reader(state);
    }

    /// All of it has come; or never will.
    pub(super) fn end(&self, how: Result<(), io::ErrorKind>) {
        // The first word counts: a connection that is closed behind whole content does not cut it.
        let mut state = self.state.lock();
        state.end.get_or_insert(how);
        self.tell_reader(state);
    }

    /// There is something to read, or the end.
    fn tell_reader(&self, mut state: MutexGuard<'_, UploadState>) {
        let wake = if std::mem::take(&mut state.reader_waits) { state.wake.clone() } else { None };
        // Not under the lock: whoever is told looks at once.
        drop(state);
        match wake {
            Some(wake) => wake(),
            None => _ = self.changed.notify_one(),
        }
    }

    /// Is it sent on by an event loop, which may do so while the response goes to the client?
    pub(super) fn continues(&self) -> bool {
        self.state.lock().wake.is_some()
    }

    /// Has any of it been asked for?
    pub(super) fn was_read(&self) -> bool {
        self.state.lock().reading != ReadingStage::NotBegun
    }

    /// From now on its reader does not wait, and is woken by `wake` when there is more.
    pub(super) fn listen(&self, wake: Box<dyn Fn() + Send + Sync>) {
        self.state.lock().wake = Some(wake.into());
    }

    /// Adds content to `out`, at most `most` bytes of it; for a reader that does not wait.
    pub(super) fn take(&self, out: &mut Vec<u8>, most: usize) -> io::Result<ContentTaken> {
        let mut state = self.state.lock();
        let count = state.bytes.len().min(most);
        if count > 0 {
            out.extend(state.bytes.drain(..count));
            self.ask_for_more(state);
            return Ok(ContentTaken::Bytes);
        }
        // Behind all bytes: those that came before a cut are the reader's, too.
        match state.end {
            Some(Ok(())) => return Ok(ContentTaken::End),
            Some(Err(kind)) => return Err(kind.into()),
            None => state.reader_waits = true,
        }
        // Before the first byte the loop must be asked: it reads no content that nobody waits for.
        if state.reading != ReadingStage::Reads || state.loop_waits {
            (state.reading, state.loop_waits) = (ReadingStage::Reads, false);
            drop(state);
            (self.ask_loop)();
        }
        Ok(ContentTaken::NotYet)
    }

    /// Asks a loop that has found no space, if there is enough again.
    fn ask_for_more(&self, mut state: MutexGuard<'_, UploadState>) {
        // Half of it, so that the loop is not woken for every few bytes.
        if state.loop_waits && state.bytes.len() <= UPLOAD_BYTES / 2 {
            state.loop_waits = false;
            drop(state);
            (self.ask_loop)();
        }
    }

    /// Nobody reads any more: there is no space from now on.
    pub(super) fn drop_reader(&self) {
        let mut state = self.state.lock();
        // The loop's connection keeps the upload until the request is answered: its memory is given back now.
        state.bytes = VecDeque::new();
        if state.reading == ReadingStage::Reads {
            state.reading = ReadingStage::Over;
        }
        (state.reader_waits, state.wake) = (false, None);
    }
}

/// What a worker reads.
pub(super) struct UploadReader(pub Arc<Upload>);

impl Read for UploadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        loop {
            let (front, back) = state.bytes.as_slices();
            let from = if front.is_empty() { back } else { front };
            let count = from.len().min(buffer.len());
            if count > 0 || buffer.is_empty() {
                buffer[..count].copy_from_slice(&from[..count]);
                state.bytes.drain(..count);
                self.0.ask_for_more(state);
                return Ok(count);
            }
            // Behind all bytes: those that came before a cut are the worker's, too.
            match state.end {
                Some(Ok(())) => return Ok(0),
                Some(Err(kind)) => return Err(kind.into()),
                None => {}
            }
            // Before the first byte the loop must be asked: it reads no content that no worker waits for,
            // and a client may be waiting for its 100. The lock is not held while the loop is woken, which
            // takes the inbox's; so the state is looked at once more before the wait.
            if state.reading != ReadingStage::Reads || state.loop_waits {
                (state.reading, state.loop_waits) = (ReadingStage::Reads, false);
                drop(state);
                (self.0.ask_loop)();
                state = self.0.state.lock();
                continue;
            }
            self.0.changed.wait(&mut state);
        }
    }
}

impl Drop for UploadReader {
    /// The worker reads no more: there is no space from now on.
    fn drop(&mut self) {
        self.0.drop_reader();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn upload() -> (Arc<Upload>, Arc<AtomicUsize>) {
        let wants = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&wants);
        (Upload::new(Box::new(move || _ = counted.fetch_add(1, Ordering::Release))), wants)
    }

    #[test]
    fn content_passes_through_a_bounded_buffer() {
        let (upload, wants) = upload();
        assert_eq!(upload.space(), 0, "nobody reads yet");
        let mut reader = UploadReader(Arc::clone(&upload));
        let worker = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let content: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let mut left = &content[..];
        while !left.is_empty() {
            let space = upload.space_or_wait();
            assert!(space <= UPLOAD_BYTES);
            let (now, later) = left.split_at(space.min(left.len()));
            upload.push(now);
            left = later;
            if space == 0 {
                thread::yield_now();
            }
        }
        upload.end(Ok(()));
        let got = worker.join().expect("no panic").expect("it is whole");
        assert!(got == content);
        assert!(wants.load(Ordering::Acquire) > 0);
    }

    /// A loop that has bytes to add is woken once there is space, however often it has asked in between.
    #[test]
    fn asking_for_space_takes_nothing_back() {
        let (upload, wants) = upload();
        let mut reader = UploadReader(Arc::clone(&upload));
        upload.push(b"a");
        assert_eq!(upload.space_or_wait(), 0);
        let mut byte = [0];
        assert_eq!(reader.read(&mut byte).ok(), Some(1));
        upload.state.lock().reading = ReadingStage::Reads;
        upload.push(&vec![0; upload.space()]);
        assert_eq!(upload.space_or_wait(), 0);
        let before = wants.load(Ordering::Acquire);
        let mut left = UPLOAD_BYTES;
        while left > UPLOAD_BYTES / 2 {
            left -= reader.read(&mut [0; 4096]).expect("content");
            assert!(upload.space() > 0);
        }
        assert_eq!(wants.load(Ordering::Acquire), before + 1);
    }

    #[test]
    fn cut_content_is_an_error() {
        let (upload, _) = upload();
        let mut reader = UploadReader(Arc::clone(&upload));
        upload.push(b"abc");
        upload.end(Err(io::ErrorKind::UnexpectedEof));
        let mut all = Vec::new();
        let error = reader.read_to_end(&mut all).expect_err("it is cut");
        assert_eq!((&all[..], error.kind()), (&b"abc"[..], io::ErrorKind::UnexpectedEof));
    }

    #[test]
    #[should_panic(expected = "no more is added than there is space for")]
    fn content_beyond_the_bound_is_a_bug() {
        upload().0.push(&vec![0; UPLOAD_BYTES + 1]);
    }
}
