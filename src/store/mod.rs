//! Where stored responses live, and what every store owes the engine.
//!
//! A store holds complete responses, and parts that are marked as such. It decides what to drop
//! when it is full, never what may be reused: that is the policy's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::partial::displaces;
use crate::policy::stored::StoredResponse;

pub mod codec;
mod exact;
pub mod memory;
mod s3_fifo;

/// The most stored responses for one target URI; the oldest variant makes room for a new one.
pub const VARIANTS_MAX: usize = 64;

/// The responses stored for one target URI, the most recent first.
pub type Variants = Arc<Vec<Arc<StoredResponse>>>;

/// A moment between two clears, and between two invalidations of one key. A response that was asked
/// for in an earlier one is not stored: neither can be undone by what was on its way.
///
/// Keys share their counters with some others, so now and then a response is not stored in vain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Generation {
    cleared: u64,
    invalidated: u64,
}

/// How many counters of invalidations there are; a key's is chosen by its hash.
const STRIPES: usize = 512;

/// What became of a response that was to be stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Put {
    /// It is stored.
    Stored,
    /// The store was cleared, or the key invalidated, since the request for it began.
    Cleared,
    /// It does not fit.
    TooLarge,
}

/// How much a store holds, and what it has dropped since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Stored responses.
    pub responses: u64,
    /// Bytes they take: keys, fields, content and bookkeeping.
    pub bytes: u64,
    /// Bytes of content on their way in.
    pub arriving_bytes: u64,
    /// Responses dropped to make room.
    pub evicted: u64,
}

/// A place that keeps stored responses. All methods may be called from any thread.
pub trait Store: Send + Sync {
    /// All responses stored for `key`, a cache key as text; `None` if there are none. Never waits.
    fn get(&self, key: &str) -> Option<Variants>;

    /// A response was selected and reused: it is the most recently used one now.
    fn touch(&self, key: &str, response: &Arc<StoredResponse>);

    /// Stores a response, in the place of those that `policy::partial` says it displaces.
    fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: Generation) -> Put;

    /// Removes one response, if it is still the one stored.
    fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>);

    /// Removes all responses stored for `key`, and lets none in that was asked for before; how many
    /// there were.
    fn remove_all(&self, key: &CacheKey) -> usize;

    /// Removes what is of no use at `now`; how many there were. Never holds up a request for long.
    fn sweep(&self, now: Timestamp) -> usize;

    /// Removes everything, and lets nothing in that was asked for before; how many there were.
    fn clear(&self) -> usize;

    /// The present generation for `key`, to be noted when a request begins.
    fn generation(&self, key: &CacheKey) -> Generation;

    /// Room for a body on its way in. It grows with [`Room::grow`] and ends when it is dropped.
    fn room(&self) -> Room;

    /// The largest content in bytes that can be stored.
    fn content_bytes_max(&self) -> u64;

    /// What the store holds.
    fn usage(&self) -> Usage;
}

/// A share of the memory for bodies on their way in, given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    arriving: Arc<Arrivals>,
    bytes: u64,
}

impl Room {
    /// Takes `bytes` more; `false` if there is no room for them.
    pub fn grow(&mut self, bytes: u64) -> bool {
        let most = self.arriving.bytes_max;
        let taken = |all: u64| all.checked_add(bytes).filter(|all| *all <= most);
        let done =
            self.arriving.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok();
        if done {
            self.bytes += bytes;
        }
        done
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.arriving.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of content on their way into a store, and their bound.
#[derive(Debug)]
struct Arrivals {
    bytes: AtomicU64,
    bytes_max: u64,
}

/// Puts `response` first among `variants`, in the place of those that it displaces; gives what had to
/// go.
fn with_variant(
    variants: &[Arc<StoredResponse>],
    response: Arc<StoredResponse>,
) -> (Vec<Arc<StoredResponse>>, Vec<Arc<StoredResponse>>) {
    let mut kept = vec![response];
    let mut displaced = Vec::new();
    let mut newer_parts = 1;
    for other in variants {
        if displaces(&kept[0], other, newer_parts) || kept.len() == VARIANTS_MAX {
            displaced.push(Arc::clone(other));
        } else {
            newer_parts +=
                usize::from(other.part.is_some() && other.selecting == kept[0].selecting);
            kept.push(Arc::clone(other));
        }
    }
    (kept, displaced)
}
