//! The reading end of a body that grows.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::{GrowingBody, GrowingBytes, GrowingEnd};
use crate::message::body::{Growing, Grown};
use crate::message::fields::Fields;
use crate::message::pipe::BodyPipe;

/// A reading end.
pub struct Reader {
    body: Arc<GrowingBody>,
    pub(super) number: u64,
    position: u64,
    /// What a lone reader has taken out of the window, from `position` on, so that it is used without a copy and
    /// without the body's lock.
    taken_out: VecDeque<u8>,
}

impl Reader {
    pub(super) fn new(body: &Arc<GrowingBody>, number: u64) -> Self {
        let (position, taken_out) = (0, VecDeque::new());
        Self { body: Arc::clone(body), number, position, taken_out }
    }

    /// Takes all out of the window, if nobody else reads it.
    fn take_out(&mut self) {
        assert!(self.taken_out.is_empty(), "what was taken out before comes first");
        let mut state = self.body.lock();
        // One that was given up has no place in the window any more: what stood there may be gone.
        let is_given_up = state.readers.get(&self.number).is_none_or(|reader| reader.given_up);
        // A reader that joins later finds the front gone.
        if state.readers.len() == 1
            && !is_given_up
            && state.piped.count == 0
            && let GrowingBytes::Window { from, bytes } = &mut state.bytes
        {
            bytes.drain(..(self.position - *from) as usize);
            *from = self.position + bytes.len() as u64;
            // Two buffers, in turn: one is filled while the other one is sent.
            std::mem::swap(bytes, &mut self.taken_out);
        }
    }
}

impl Growing for Reader {
    fn length(&self) -> Option<u64> {
        self.body.length
    }

    fn peek(&mut self, buffer: &mut [u8]) -> io::Result<Grown> {
        let state = self.body.lock();
        if state.readers.get(&self.number).is_none_or(|reader| reader.given_up) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !self.taken_out.is_empty() {
            let (front, back) = self.taken_out.as_slices();
            let count = copy(front, buffer);
            return Ok(Grown::Bytes(count + copy(back, &mut buffer[count..])));
        }
        assert!(state.piped.count == 0, "what is in the pipe comes first");
        let at = self.position;
        // What is kept may hold last bytes that are shown only once the response is stored: hence `total`.
        let count = match &state.bytes {
            GrowingBytes::All(bytes) => {
                copy(&bytes.as_slice()[at as usize..state.total as usize], buffer)
            }
            GrowingBytes::Whole(bytes) => copy(&bytes[at as usize..state.total as usize], buffer),
            GrowingBytes::Window { from, bytes } => {
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
                Some(GrowingEnd::Whole) => Ok(Grown::End),
                Some(GrowingEnd::Cut) => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        Ok(Grown::Bytes(count))
    }

    fn here(&mut self) -> Option<&[u8]> {
        if self.taken_out.is_empty() {
            self.take_out();
        }
        Some(self.taken_out.as_slices().0).filter(|here| !here.is_empty())
    }

    fn accept_pipe(&mut self) {
        self.body.lock().piped.is_accepted = true;
    }

    fn piped(&self) -> Option<(Arc<BodyPipe>, usize)> {
        let state = self.body.lock();
        state.piped.pipe.as_ref().map(|pipe| (Arc::clone(pipe), state.piped.count))
    }

    fn trailers(&self) -> Fields {
        self.body.lock().trailers.clone()
    }

    fn consume(&mut self, count: usize) {
        self.position += count as u64;
        let position = self.position;
        if !self.taken_out.is_empty() {
            self.taken_out.drain(..count);
        }
        let mut state = self.body.lock();
        assert!(position <= state.total, "a reader takes what it has been shown");
        if let Some(reader) = state.readers.get_mut(&self.number) {
            reader.position = position;
        }
        if let Some(left) = state.piped.count.checked_sub(count).filter(|_| state.piped.count > 0) {
            state.piped.count = left;
            state.piped.pipe = state.piped.pipe.take().filter(|_| left > 0);
        }
        if position == state.total && state.readers.len() == 1 {
            state.rest();
        }
        if self.taken_out.is_empty() {
            // The window may have been wide when these bytes came.
            self.taken_out.shrink_to(state.window_bytes);
        }
        // What is kept has room without that.
        if matches!(state.bytes, GrowingBytes::Window { .. }) {
            state.wake_writer();
        }
        drop(state);
        self.body.taken.notify_all();
    }

    fn wait(&mut self) {
        let mut state = self.body.lock();
        loop {
            let given_up = state.readers.get(&self.number).is_none_or(|reader| reader.given_up);
            if state.total > self.position || state.end.is_some() || given_up {
                return;
            }
            self.body.grown.wait(&mut state);
        }
    }

    fn listen(&mut self, wake: Box<dyn Fn() + Send + Sync>) {
        let mut state = self.body.lock();
        if let Some(reader) = state.readers.get_mut(&self.number) {
            reader.waker = Some(wake);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.body.lock();
        let reader = state.readers.remove(&self.number);
        // A lone reader has had what is in the pipe, or nobody wants it.
        let piped = std::mem::take(&mut state.piped);
        // The writer may be waiting for this reader alone; and what is kept may be wanted by nobody now.
        state.wake_writer();
        drop(state);
        // Without the lock: its waker may hold what takes locks of its own when it is dropped.
        drop((reader, piped));
        self.body.taken.notify_all();
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    count
}
