//! A body on its way into a backing store: how far it has come, and how it ended.
//!
//! The writing end (`tiers/spool.rs`) hands in pieces, the store says what it has written, and any number of
//! readers follow. This file knows neither the queue between them nor the store.

use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::message::body::Arriving;
use crate::message::distant::Distant;
use crate::policy::key::CacheKey;

/// What is known of such a body: shared by its writing end, the store and its readers.
///
/// Its lock is held for one look, taken last, and never while the store is read.
pub struct Spooled {
    key: CacheKey,
    /// Its length, where the origin server stated it.
    length: Option<u64>,
    state: Mutex<SpoolState>,
    /// The state has changed.
    moved: Condvar,
}

/// Guarded by [`Spooled::state`].
#[derive(Default)]
struct SpoolState {
    /// The store's own numbers for it, once there are some: its row or number, and its salt.
    place: Option<(u64, u64)>,
    /// Pieces that the store has been given.
    chunks: u64,
    /// What reads the bytes that are in the store.
    content: Option<Arc<dyn Distant>>,
    /// So many bytes are in the store.
    bytes: u64,
    end: Option<SpoolEnd>,
    /// How many read it.
    readers: usize,
    /// What wakes those who wait for more, without a thread.
    wakes: Vec<Box<dyn FnOnce() + Send>>,
}

/// How such a body ended.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(in crate::store) enum SpoolEnd {
    /// All of it is in the store, and the origin server's framing has proven that it is all.
    Whole,
    /// Bytes are missing.
    Cut,
}

impl Spooled {
    /// Nothing of it has come yet.
    pub(in crate::store) fn new(key: CacheKey, length: Option<u64>) -> Self {
        Self { key, length, state: Mutex::default(), moved: Condvar::new() }
    }

    /// Its length, where the origin server stated it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

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
        // A transaction that was rolled back may have given its number to another: the second attempt is of
        // the same body, and brings the number that counts.
        let mut state = self.state.lock();
        (state.place, state.content) = (Some((number, salt)), Some(content));
    }

    /// So many more bytes are in the store, for good: readers may have them now. In a transaction, called
    /// after it is committed.
    pub fn grown(&self, bytes: u64) {
        debug_assert!(self.place().is_some(), "the store has begun to keep it before it grows");
        let mut state = self.state.lock();
        state.bytes += bytes;
        self.wake_all(state);
    }

    /// It will not be stored, and cannot be read any further.
    pub fn fail(&self) {
        self.end(SpoolEnd::Cut);
    }

    /// The first word about the end holds.
    pub(in crate::store) fn end(&self, end: SpoolEnd) {
        // A piece that failed after the writing end had called it whole must not be overruled, nor the other
        // way round: readers may have acted on the first.
        let mut state = self.state.lock();
        state.end.get_or_insert(end);
        self.wake_all(state);
    }

    /// Wakes those who wait for what has changed.
    fn wake_all(&self, mut state: MutexGuard<'_, SpoolState>) {
        let wakes = std::mem::take(&mut state.wakes);
        // Without the lock: whoever is woken may read at once.
        drop(state);
        self.moved.notify_all();
        for wake in wakes {
            wake();
        }
    }

    /// Was some of it not written, so that nothing may be made of the rest?
    pub fn has_failed(&self) -> bool {
        self.state.lock().end == Some(SpoolEnd::Cut)
    }

    /// Reads it from the front, as it comes; `None` if it has failed.
    pub fn reader(self: &Arc<Self>) -> Option<Follower> {
        let mut state = self.state.lock();
        if state.end == Some(SpoolEnd::Cut) {
            return None;
        }
        state.readers += 1;
        Some(Follower { spooled: Arc::clone(self), at: 0 })
    }

    /// How many read it now: as long as there are any, all of it is to be fetched, stored or not.
    pub fn readers(&self) -> usize {
        self.state.lock().readers
    }
}

/// One reader of such a body; waits for what has not come yet.
pub struct Follower {
    spooled: Arc<Spooled>,
    at: u64,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.spooled.state.lock().readers -= 1;
    }
}

impl Arriving for Follower {
    fn length(&self) -> Option<u64> {
        self.spooled.length
    }

    fn would_wait(&mut self, wake: Box<dyn FnOnce() + Send>) -> bool {
        let mut state = self.spooled.state.lock();
        let waits = state.bytes == self.at && state.end.is_none();
        if waits {
            state.wakes.push(wake);
        }
        waits
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.spooled.state.lock();
        while state.bytes == self.at && state.end.is_none() {
            self.spooled.moved.wait(&mut state);
        }
        assert!(state.bytes >= self.at, "a body grows, and is read no further than it has come");
        let there = state.bytes - self.at;
        if there == 0 {
            return match state.end {
                Some(SpoolEnd::Whole) => Ok(0),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let content = state.content.clone().ok_or(io::ErrorKind::UnexpectedEof)?;
        // The store is read without the lock: its writer needs it to say that more has come.
        drop(state);
        let most = buffer.len().min(usize::try_from(there).unwrap_or(usize::MAX));
        let count = content.read_at(self.at, &mut buffer[..most])?;
        // Bytes that were there are gone: an end here would look like the end of the body.
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}
