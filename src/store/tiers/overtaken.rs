//! Keys by their hash: how often what is stored for each has changed, and what was stored later than anything
//! that the backing store has.
//!
//! Bounded, and without a lock. Two keys in one slot cost a miss now and then, and nothing else: each number
//! only ever grows, and a larger one only rules out more.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredHead;
use crate::store::codec;

/// How many keys have a number of their own, as a rule.
const SLOTS: usize = 4096;

/// A number for each key.
#[derive(Debug)]
struct Slots(Box<[AtomicU64]>);

impl Slots {
    fn of(&self, key: &CacheKey) -> &AtomicU64 {
        // Another salt than that of the stripes in `memory.rs`: keys that share a lock need not share a slot.
        &self.0[codec::checksum(1, 0, key.as_str().as_bytes()) as usize % SLOTS]
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

/// How often what is stored for a key has changed.
#[derive(Debug, Default)]
pub(in crate::store) struct Moments(Slots);

impl Moments {
    /// It changes, in the backing store, too. The caller holds the key's stripe.
    pub(in crate::store) fn next(&self, key: &CacheKey) {
        self.0.of(key).fetch_add(1, Ordering::AcqRel);
    }

    /// How often so far; without the stripe, the answer may be outdated at once, and is compared later.
    pub(in crate::store) fn now(&self, key: &CacheKey) -> u64 {
        self.0.of(key).load(Ordering::Acquire)
    }
}

/// Responses that were stored in memory and did not reach the backing store: what that has from before is
/// not used any more.
#[derive(Debug, Default)]
pub(in crate::store) struct Overtaken(Slots);

impl Overtaken {
    /// One that came at `time` is not in the backing store.
    pub(in crate::store) fn note(&self, key: &CacheKey, time: Timestamp) {
        // A time of 0 would mean that there is none.
        self.0.of(key).fetch_max(time.0.max(1), Ordering::AcqRel);
    }

    /// Has a later one than this, which is in the backing store, not got there?
    pub(in crate::store) fn has(&self, key: &CacheKey, head: &StoredHead) -> bool {
        let last = self.0.of(key).load(Ordering::Acquire);
        // Of the same moment: which came first is not known, and the one that is stored may be the old one.
        last > 0 && head.response_time.0 <= last
    }
}
