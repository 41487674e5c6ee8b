//! A body that is too large for memory, on its way into the store behind it: piece by piece, and read
//! by others meanwhile. It becomes a stored response when all of it has come, or nothing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::message::body::Arriving;
use crate::message::content::Distant;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredHead;
use crate::store::Put;
use crate::store::behind::{CHUNK_BYTES, Change, Stamp};
use crate::store::queue::Queue;

/// For how long the last word about a body is waited for.
const COMMIT_MAX: Duration = Duration::from_secs(10);

/// What is known of such a body, to who writes it, to the store, and to who reads it.
pub struct Spooled {
    key: CacheKey,
    /// Its length, where the origin server stated it.
    length: Option<u64>,
    state: Mutex<State>,
    /// The state has changed.
    moved: Condvar,
}

/// Guarded by [`Spooled::state`].
#[derive(Default)]
struct State {
    /// The store's own numbers for it, once there are some.
    place: Option<(u64, u64)>,
    /// Pieces that the store has been given.
    chunks: u64,
    /// What reads the bytes that are in the store.
    content: Option<Arc<dyn Distant>>,
    /// So many bytes are in the store.
    bytes: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum End {
    Whole,
    Cut,
}

impl Spooled {
    /// The key that it is to be stored under.
    pub fn key(&self) -> &CacheKey {
        &self.key
    }

    /// The store's own number for it.
    pub fn number(&self) -> Option<u64> {
        self.place().map(|(number, _)| number)
    }

    /// The same, and the number that makes its checksums its own.
    pub fn place(&self) -> Option<(u64, u64)> {
        self.state.lock().place
    }

    /// The number of the next piece.
    pub fn next_chunk(&self) -> u64 {
        let mut state = self.state.lock();
        state.chunks += 1;
        state.chunks - 1
    }

    /// Bytes that are in the store.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// The store has begun to keep it.
    pub fn begun(&self, number: u64, salt: u64, content: Arc<dyn Distant>) {
        let mut state = self.state.lock();
        (state.place, state.content) = (Some((number, salt)), Some(content));
    }

    /// So many more bytes are in the store, for good.
    pub fn grown(&self, bytes: u64) {
        self.state.lock().bytes += bytes;
        self.moved.notify_all();
    }

    /// It will not be stored, and cannot be read any further.
    pub fn fail(&self) {
        self.end(End::Cut);
    }

    fn end(&self, end: End) {
        self.state.lock().end.get_or_insert(end);
        self.moved.notify_all();
    }

    fn has_failed(&self) -> bool {
        self.state.lock().end == Some(End::Cut)
    }

    /// Reads it from the front, as it comes; `None` if it has failed.
    pub fn reader(self: &Arc<Self>) -> Option<Follower> {
        (!self.has_failed()).then(|| Follower { spooled: Arc::clone(self), at: 0 })
    }
}

/// The writing end. Dropped without a word, it abandons the body.
pub struct Spool {
    queue: Arc<Queue>,
    spooled: Arc<Spooled>,
    /// What does not fill a piece yet.
    rest: Vec<u8>,
    committed: bool,
}

impl Spool {
    pub(super) fn new(queue: &Arc<Queue>, key: CacheKey, length: Option<u64>) -> Self {
        let (state, moved) = (Mutex::default(), Condvar::new());
        let spooled = Arc::new(Spooled { key, length, state, moved });
        Self { queue: Arc::clone(queue), spooled, rest: Vec::new(), committed: false }
    }

    /// What others read it by.
    pub fn spooled(&self) -> &Arc<Spooled> {
        &self.spooled
    }

    /// Adds bytes; waits while the store has too much before it. `false` if it cannot be stored any more.
    pub fn write(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.rest.capacity() == 0 {
                // A short body needs no more than its length.
                let most = self.spooled.length.map_or(CHUNK_BYTES, |length| {
                    usize::try_from(length).unwrap_or(usize::MAX).min(CHUNK_BYTES)
                });
                self.rest.reserve_exact(most);
            }
            let count = bytes.len().min(CHUNK_BYTES - self.rest.len());
            self.rest.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.rest.len() == CHUNK_BYTES && !self.send() {
                return false;
            }
        }
        !self.spooled.has_failed()
    }

    fn send(&mut self) -> bool {
        let bytes = Bytes::from(std::mem::take(&mut self.rest));
        let spooled = Arc::clone(&self.spooled);
        !self.spooled.has_failed() && self.queue.send_waiting(Change::Chunk { spooled, bytes })
    }

    /// Hands in what is left; waits as [`Spool::write`] does.
    pub(super) fn flush(&mut self) -> bool {
        self.rest.is_empty() || self.send()
    }

    /// All of it has come: a stored response is to be made of it, unless it was invalidated, and `begun`
    /// is `None`. Waits for nothing.
    pub(super) fn send_whole(&mut self, head: StoredHead, begun: Option<Stamp>) -> Receiver<u64> {
        let (reply, told) = sync_channel(1);
        let (spooled, head) = (Arc::clone(&self.spooled), Box::new(head));
        self.queue.send(Change::Whole { spooled, head, begun }, Some(reply));
        self.committed = true;
        told
    }

    /// Waits until that is done.
    pub(super) fn settle(self, told: &Receiver<u64>) -> Put {
        let put = match told.recv_timeout(COMMIT_MAX) {
            Ok(0) => Put::Cleared,
            Ok(_) => Put::Stored,
            Err(_) => Put::TooLarge,
        };
        // Whoever has read along has had all of it, stored or not.
        self.spooled.end(if self.spooled.has_failed() { End::Cut } else { End::Whole });
        put
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.committed {
            self.spooled.fail();
            self.queue.send(Change::Abandon { spooled: Arc::clone(&self.spooled) }, None);
        }
    }
}

/// One reader of such a body; waits for what has not come yet.
pub struct Follower {
    spooled: Arc<Spooled>,
    at: u64,
}

impl Arriving for Follower {
    fn length(&self) -> Option<u64> {
        self.spooled.length
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.spooled.state.lock();
        while state.bytes == self.at && state.end.is_none() {
            self.spooled.moved.wait(&mut state);
        }
        let there = state.bytes - self.at;
        if there == 0 {
            return match state.end {
                Some(End::Whole) => Ok(0),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let content = state.content.clone().ok_or(io::ErrorKind::UnexpectedEof)?;
        drop(state);
        let most = buffer.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        let count = content.read_at(self.at, &mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}
