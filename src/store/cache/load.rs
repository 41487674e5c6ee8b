//! Filling memory after a start (`--warm-start`): what was used lately in the store behind memory is brought into
//! it, little by little, so that the first clients find it there.
//!
//! Each response comes the way on which a request recalls it: its fetch is noted first, so what is purged meanwhile
//! stays out. Requests come first: a look is short, and most of the time passes between two of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::backing::LoadPosition;
use crate::store::cache::Cache;
use crate::store::tiers::backed::Backed;

/// How many keys one look is for.
const LOOK_KEYS: usize = 32;
/// A look ends after this, with as many of them as were read.
const LOOK_MAX: Duration = Duration::from_millis(1);
/// How many responses are considered at most, for one in this many bytes that may be brought.
const BYTES_EACH: u64 = 256;
/// How often it is asked whether memory is full.
const LOADED_BETWEEN: u64 = 4096;

/// How much is brought.
#[derive(Clone, Copy, Debug)]
pub struct LoadBounds {
    /// Bytes of memory.
    pub bytes: u64,
    /// Responses; `None` without a bound.
    pub responses: Option<u64>,
}

/// How far memory has been filled after the start.
#[derive(Debug, Default)]
pub(super) struct LoadProgress {
    loaded: AtomicU64,
    is_under_way: AtomicBool,
}

impl LoadProgress {
    pub(super) fn loaded(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.is_under_way.load(Ordering::Acquire)
    }
}

/// Dropped, it says that memory is filled, or will not be.
struct LoadEnding<'a>(&'a LoadProgress);

impl Drop for LoadEnding<'_> {
    fn drop(&mut self) {
        self.0.is_under_way.store(false, Ordering::Release);
    }
}

impl Cache {
    /// Memory is about to be filled, which counts as under way from here on; or is not, after all.
    pub fn note_load(&self, is_under_way: bool) {
        self.load.is_under_way.store(is_under_way, Ordering::Release);
    }

    /// Fills memory, as far as there is something behind it that is fresh. `now` says the time, and `pause` is called
    /// between two looks, with how long the last one took: it waits, and says whether to go on.
    pub fn load(
        &self,
        bounds: LoadBounds,
        now: impl Fn() -> Timestamp,
        mut pause: impl FnMut(Duration) -> bool,
    ) {
        let _ending = LoadEnding(&self.load);
        let Some(backed) = self.backed() else { return };
        let (mut left, mut considered) = (bounds, 0);
        let mut next = Some(LoadPosition::default());
        while let Some(position) = next.take()
            && considered <= bounds.bytes / BYTES_EACH
            && !backed.queue.is_closed()
            && let Ok(page) = backed.backing.most_valuable(position, now())
        {
            considered += page.considered;
            next = page.next;
            let goes_on = self.load_keys(backed, &page.keys, &mut left, &now, &mut pause);
            if !goes_on {
                return;
            }
        }
    }

    /// Brings what is stored for these; `false` if that was all that may be brought.
    fn load_keys(
        &self,
        backed: &Backed,
        mut keys: &[CacheKey],
        left: &mut LoadBounds,
        now: &impl Fn() -> Timestamp,
        pause: &mut impl FnMut(Duration) -> bool,
    ) -> bool {
        loop {
            let begun = Instant::now();
            let Some(done) = self.load_some(&keys[..keys.len().min(LOOK_KEYS)], left, now()) else {
                return false;
            };
            keys = &keys[done..];
            if !pause(begun.elapsed()) || backed.queue.is_closed() {
                return false;
            }
            if keys.is_empty() {
                return true;
            }
        }
    }

    /// The same for the first of them; how many these were.
    fn load_some(&self, keys: &[CacheKey], left: &mut LoadBounds, now: Timestamp) -> Option<usize> {
        // What a request has brought, or stored anew, is as good.
        let is_missing = |key: &&CacheKey| self.memory.get(key.as_str()).is_none();
        let missing: Vec<_> = keys.iter().filter(is_missing).collect();
        if missing.is_empty() {
            return Some(keys.len());
        }
        // Noted before the look: what is purged from here on stays out.
        let asked = missing.iter().map(|key| (*key, self.note(key))).collect();
        let found = self.recall_together(asked, Instant::now() + LOOK_MAX);
        let read = found.len();
        for (key, found) in missing.iter().zip(found) {
            // One that changes just now, or that the store says nothing about, is not worth a wait.
            let Some((begun, found)) = found else { continue };
            for response in found.variants.iter().filter(|response| response.is_fresh(now)) {
                if response.content.here().is_none() {
                    continue;
                }
                if !take_from(left, key, response) {
                    return None;
                }
                self.bring(key, response, &begun);
                let loaded = self.load.loaded.fetch_add(1, Ordering::Relaxed) + 1;
                // Requests fill memory, too. What they have brought must not go for what nobody has asked for yet.
                if loaded.is_multiple_of(LOADED_BETWEEN) && self.memory.usage().evicted > 0 {
                    return None;
                }
            }
        }
        // Those that were not read are the next, and those that were in memory are passed over once more.
        let last = missing.get(read).and_then(|next| keys.iter().position(|key| key == *next));
        Some(last.unwrap_or(keys.len()))
    }
}

/// Takes what this needs from what is left; `false` if that is too little.
fn take_from(left: &mut LoadBounds, key: &CacheKey, response: &Arc<StoredResponse>) -> bool {
    let bytes = left.bytes.checked_sub(response.memory_bytes(key) as u64);
    let responses = left.responses.map(|responses| responses.checked_sub(1));
    match (bytes, responses) {
        (None, _) | (_, Some(None)) => false,
        (Some(bytes), responses) => {
            *left = LoadBounds { bytes, responses: responses.flatten() };
            true
        }
    }
}
