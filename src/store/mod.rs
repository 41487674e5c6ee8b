//! Where stored responses live, and what every store owes the engine.
//!
//! A store holds complete responses, and parts that are marked as such. It decides what to drop
//! when it is full, never what may be reused: that is the policy's business. The rest of the program knows one
//! type, [`cache::Cache`]: memory ([`Store`]; `memory/`) and, where there is one, a backing store that lasts or
//! is shared ([`backing::Backing`]; `sqlite/`, `redis/`).

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::partial::displaced;
use crate::policy::purging::Selector;
use crate::policy::stored::StoredResponse;
use crate::store::backing::Listed;
use crate::store::underway::Begun;

mod arrivals;
pub mod backing;
pub mod cache;
pub mod codec;
pub mod memory;
pub mod outcome;
mod overlay;
mod packing;
pub mod recording;
#[cfg(feature = "redis")]
pub mod redis;
pub mod salt;
pub mod spooled;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod tiers;
pub mod underway;

pub use crate::policy::partial::VARIANTS_MAX;
pub use arrivals::Reservation;
pub use outcome::{Purged, Put};

/// The responses stored for one target URI, the most recent first.
pub type Variants = Arc<[Arc<StoredResponse>]>;

/// How much a store holds, and what it has dropped since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Stored responses.
    pub responses: u64,
    /// Bytes they take: keys, fields, content and bookkeeping.
    pub bytes: u64,
    /// Bytes of content on their way in.
    pub arriving_bytes: u64,
    /// Responses dropped to make space.
    pub evicted: u64,
    /// Requests on their way whose response may be stored.
    pub under_way: u64,
}

/// What a memory does. All methods may be called from any thread, and none waits.
pub trait Store: Send + Sync {
    /// All responses stored for `key`, a cache key as text; `None` if there are none.
    fn get(&self, key: &str) -> Option<Variants>;

    /// The same without a use.
    fn peek(&self, key: &CacheKey) -> Option<Variants> {
        self.get(key.as_str())
    }

    /// Puts `new`, which is the same response in another form, in the place of `old`, if that is stored; `false` if it is
    /// not. It is no use, and no change of what is stored.
    fn reform(&self, key: &CacheKey, old: &Arc<StoredResponse>, new: Arc<StoredResponse>) -> bool;

    /// Is so much stored that compressing it would save something from being evicted soon?
    fn is_nearly_full(&self) -> bool {
        false
    }

    /// A response was selected and reused: it is the most recently used one now.
    fn touch(&self, key: &str, response: &Arc<StoredResponse>);

    /// Stores a response, in the place of those that `policy::partial` says it displaces, unless it was
    /// invalidated since `begun`.
    fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: &Begun) -> Put;

    /// The same for `new`, which was made from `old`, if that is still stored (RFC 9111 §4.3.4): what has come
    /// while the origin server was asked about `old` is newer than both.
    fn replace(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put;

    /// Removes one response, if it is still the one stored.
    fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>);

    /// Removes all responses stored for `key`, and lets none in that was asked for before; how many
    /// there were. `own` may come in all the same: it is the fetch whose response invalidates the others
    /// (RFC 9111 §4.4).
    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize;

    /// Removes what is of no use at `now`; how many there were. Never holds up a request for long.
    fn sweep(&self, now: Timestamp) -> usize;

    /// Removes what is selected at `now`, and lets nothing of it in that was asked for before; how many
    /// there were.
    fn purge(&self, selector: &Selector, now: Timestamp) -> usize;

    /// At most `most` stored responses, those that come after `after`: [`Listed::after`] of the last one that is
    /// known, or its key. All variants of a key together; in the order of their keys, unless the store has none.
    fn list(&self, after: &str, most: usize) -> Vec<Listed>;

    /// Notes that a request for `key` begins whose response may be stored.
    fn begin(&self, key: &CacheKey) -> Begun;

    /// Memory for a body on its way in, none at first. It grows with [`Reservation::grow`] and ends when it is
    /// dropped.
    fn reserve(&self) -> Reservation;

    /// The largest content in bytes that can be stored.
    fn content_bytes_max(&self) -> u64;

    /// What the store holds.
    fn usage(&self) -> Usage;
}

/// Is the content in memory, and no larger than this?
fn fits(response: &StoredResponse, content_bytes_max: u64) -> bool {
    response.content.memory_bytes().is_some() && response.content.len() <= content_bytes_max
}

fn listed_of(key: &CacheKey, response: &StoredResponse) -> Listed {
    let head = response.head().clone();
    let (bytes, reuses) = (response.content.len(), response.reuses());
    Listed { key: key.clone(), head, bytes, reuses, cursor: None }
}

/// Puts `response` among `variants` by the time it came, in the place of those that it displaces; gives
/// what had to go.
fn with_variant(
    variants: &[Arc<StoredResponse>],
    response: Arc<StoredResponse>,
) -> (Vec<Arc<StoredResponse>>, Vec<Arc<StoredResponse>>) {
    let goes = displaced(&response, variants.iter().map(|other| other.head()));
    let (mut kept, mut gone) = (Vec::with_capacity(variants.len() + 1), Vec::new());
    for (other, goes) in variants.iter().zip(goes) {
        if goes { &mut gone } else { &mut kept }.push(Arc::clone(other));
    }
    // What is recalled from the backing store may be older than what is here.
    let newer = kept.iter().take_while(|other| other.response_time > response.response_time);
    kept.insert(newer.count(), response);
    (kept, gone)
}
