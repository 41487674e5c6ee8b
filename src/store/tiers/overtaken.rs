//! Keys by their hash: how often what is stored for each has changed (a purge counts for all), and what was stored later than anything
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
        &self.0[Self::slot(key)]
    }

    fn slot(key: &CacheKey) -> usize {
        // Another salt than that of the stripes in `memory.rs`: keys that share a lock need not share a slot.
        codec::checksum(1, 0, key.as_str().as_bytes()) as usize % SLOTS
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

/// How often what is stored for a key has changed: stored, freshened, removed, purged, cleared.
///
/// What memory evicts is not counted: it is gone from there, and nothing else has changed.
#[derive(Debug, Default)]
pub(in crate::store) struct Moments {
    by_key: Slots,
    /// Changes that may concern any key: purges, clears, sweeps.
    all: AtomicU64,
    /// What was brought into memory from behind it. That is news to who looks into memory, and none to who recalls:
    /// two variants of a key may be brought at a time.
    brought: Slots,
}

impl Moments {
    /// What is stored for `key` changes until the guard is dropped. Where there is a backing store, the caller
    /// holds the key's stripe for as long.
    pub(in crate::store) fn changing(&self, key: &CacheKey) -> Counted<'_> {
        Counted::begin(self.by_key.of(key))
    }

    /// What is stored for any key changes until the guard is dropped.
    pub(in crate::store) fn changing_all(&self) -> Counted<'_> {
        Counted::begin(&self.all)
    }

    /// What is behind memory for `key` is brought into it until the guard is dropped.
    pub(in crate::store) fn bringing(&self, key: &CacheKey) -> Counted<'_> {
        Counted::begin(self.brought.of(key))
    }

    /// How often so far, for who looks into memory: with purges, and with what was brought into it.
    pub(in crate::store) fn looked(&self, key: &CacheKey) -> u64 {
        let (slot, all) = (Slots::slot(key), self.all.load(Ordering::Acquire));
        let of = |slots: &Slots| slots.0[slot].load(Ordering::Acquire);
        // Each only ever grows, so two sums are the same only if all the numbers are.
        of(&self.by_key) + of(&self.brought) + all
    }

    /// How often so far, for who recalls; without the stripe, the answer may be outdated at once, and is compared
    /// later. Purges do not count: what they select is kept out by their marks, and of the rest nothing changes.
    pub(in crate::store) fn now(&self, key: &CacheKey) -> u64 {
        self.by_key.of(key).load(Ordering::Acquire)
    }
}

/// A change that is being made. It is counted twice, before and after: who reads the count and then the store
/// while it is made must not see the old state with the count of the new one, nor the other way round.
pub(in crate::store) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn begin(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
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
