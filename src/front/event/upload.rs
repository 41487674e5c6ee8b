//! A request's content on its way from an event loop to the worker that sends it on: a short piece of
//! it at a time. The loop does not read what there is no room for, so the client waits.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// How much of it is kept at a time.
const UPLOAD_BYTES: usize = 64 * 1024;

/// Content between a loop and a worker.
pub(super) struct Upload {
    state: Mutex<UploadState>,
    /// Something came, or the end.
    moved: Condvar,
    /// Tells the loop that content is waited for.
    want: Box<dyn Fn() + Send + Sync>,
}

/// Guarded by [`Upload::state`].
#[derive(Default)]
struct UploadState {
    bytes: VecDeque<u8>,
    end: Option<Result<(), io::ErrorKind>>,
    /// The worker has begun to read.
    wanted: bool,
    /// The loop has met a full buffer, or one that nobody reads, and is to be told.
    held_up: bool,
}

impl UploadState {
    fn room(&self) -> usize {
        if self.wanted { UPLOAD_BYTES.saturating_sub(self.bytes.len()) } else { 0 }
    }
}

impl Upload {
    pub(super) fn new(want: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), moved: Condvar::new(), want })
    }

    /// For how many bytes there is room.
    pub(super) fn room(&self) -> usize {
        self.state.lock().room()
    }

    /// The same, of a loop that has bytes to give: where there is no room, it is told when there is. Only
    /// the reader, who tells it, takes that back; a loop that merely looked would wait for ever.
    pub(super) fn room_or_wait(&self) -> usize {
        let mut state = self.state.lock();
        let room = state.room();
        state.held_up |= room == 0;
        room
    }

    /// Adds content, no more than there was room for.
    pub(super) fn push(&self, bytes: &[u8]) {
        self.state.lock().bytes.extend(bytes);
        self.moved.notify_one();
    }

    /// All of it has come; or never will.
    pub(super) fn end(&self, how: Result<(), io::ErrorKind>) {
        self.state.lock().end.get_or_insert(how);
        self.moved.notify_one();
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
                // Half of it, so that the loop is not woken for every few bytes.
                if state.held_up && state.bytes.len() <= UPLOAD_BYTES / 2 {
                    state.held_up = false;
                    drop(state);
                    (self.0.want)();
                }
                return Ok(count);
            }
            match state.end {
                Some(Ok(())) => return Ok(0),
                Some(Err(kind)) => return Err(kind.into()),
                None => {}
            }
            if !state.wanted || state.held_up {
                (state.wanted, state.held_up) = (true, false);
                drop(state);
                (self.0.want)();
                state = self.0.state.lock();
                continue;
            }
            self.0.moved.wait(&mut state);
        }
    }
}

impl Drop for UploadReader {
    /// Nobody reads it any more: there is no room.
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.bytes = VecDeque::new();
        state.wanted = false;
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
        assert_eq!(upload.room(), 0, "nobody reads yet");
        let mut reader = UploadReader(Arc::clone(&upload));
        let worker = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let content: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let mut left = &content[..];
        while !left.is_empty() {
            let room = upload.room_or_wait();
            assert!(room <= UPLOAD_BYTES);
            let (now, later) = left.split_at(room.min(left.len()));
            upload.push(now);
            left = later;
            if room == 0 {
                thread::yield_now();
            }
        }
        upload.end(Ok(()));
        let got = worker.join().expect("no panic").expect("it is whole");
        assert!(got == content);
        assert!(wants.load(Ordering::Acquire) > 0);
    }

    /// A loop that has bytes to give is told of room, however often it has looked in between.
    #[test]
    fn a_look_at_the_room_takes_nothing_back() {
        let (upload, wants) = upload();
        let mut reader = UploadReader(Arc::clone(&upload));
        upload.push(b"a");
        assert_eq!(upload.room_or_wait(), 0);
        let mut byte = [0];
        assert_eq!(reader.read(&mut byte).ok(), Some(1));
        upload.state.lock().wanted = true;
        upload.push(&vec![0; upload.room()]);
        assert_eq!(upload.room_or_wait(), 0);
        let told = wants.load(Ordering::Acquire);
        let mut left = UPLOAD_BYTES;
        while left > UPLOAD_BYTES / 2 {
            left -= reader.read(&mut [0; 4096]).expect("content");
            assert!(upload.room() > 0);
        }
        assert_eq!(wants.load(Ordering::Acquire), told + 1);
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
}
