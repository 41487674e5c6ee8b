//! A memory over another one, for a single request: it reads what the other has for one key, and keeps its own
//! changes to itself. With it, `proxy explain` goes every way that a request goes, and changes nothing.
//!
//! What it gives out are copies: to count a reuse of one is not to count a reuse of the original. What a backing
//! store has is handed in ([`Overlay::show`]). Content on its way in has the bound of the other one, and pushes
//! nothing out of it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::policy::stored::StoredResponse;
use crate::store::arrivals::{Arrivals, ReservedMemory};
use crate::store::backing::Listed;
use crate::store::underway::{Begun, Underway};
use crate::store::{Put, Reservation, Store, Usage, Variants, fits, with_variant};

/// The memory over `below`.
pub(in crate::store) struct Overlay {
    /// The largest content that is stored, in memory or not: what would go past memory is shown as stored, too.
    content_bytes_max: u64,
    /// All that is seen. Its lock is held for one look or change.
    by_key: Mutex<HashMap<String, Variants>>,
    underway: Arc<Underway>,
    /// As much as the memory below would take of one response.
    arrivals: Arc<ReservedMemory>,
}

impl Overlay {
    /// Over `below`; of what that has in memory, the responses for `key` are seen.
    pub(in crate::store) fn new(
        below: &Arc<dyn Store>,
        content_bytes_max: u64,
        key: &CacheKey,
    ) -> Self {
        let (by_key, underway) = (Mutex::default(), Arc::default());
        let arrivals = Arc::new(ReservedMemory::new(below.content_bytes_max()));
        let overlay = Self { content_bytes_max, by_key, underway, arrivals };
        if let Some(here) = below.get(key.as_str()) {
            overlay.show(key, &here);
        }
        overlay
    }

    /// Shows copies of these for `key`, and nothing else.
    pub(in crate::store) fn show(&self, key: &CacheKey, variants: &[Arc<StoredResponse>]) {
        // Copies have counts of reuses of their own: an explanation must not use up what `--hit-ttl` leaves.
        let variants = variants.iter().map(|original| Arc::new(original.copied()));
        self.by_key.lock().insert(key.to_string(), variants.collect());
    }

    /// Puts `response` in, after `old` has gone; `false` if that was not there. One lock over both, as in a
    /// store that others share, so that an explanation goes the same way.
    fn change(
        &self,
        key: &CacheKey,
        old: Option<&Arc<StoredResponse>>,
        response: Option<Arc<StoredResponse>>,
    ) -> bool {
        let mut by_key = self.by_key.lock();
        let mut variants =
            by_key.get(key.as_str()).map(|present| present.to_vec()).unwrap_or_default();
        // By identity, as the other stores compare: an equal response may be a later one.
        if let Some(old) = old {
            let before = variants.len();
            variants.retain(|other| !Arc::ptr_eq(other, old));
            if variants.len() == before {
                return false;
            }
        }
        if let Some(response) = response {
            variants = with_variant(&variants, response).0;
        }
        if variants.is_empty() {
            by_key.remove(key.as_str());
        } else {
            by_key.insert(key.to_string(), variants.into());
        }
        true
    }
}

impl Store for Overlay {
    fn get(&self, key: &str) -> Option<Variants> {
        self.by_key.lock().get(key).cloned()
    }

    fn reform(&self, _: &CacheKey, _: &Arc<StoredResponse>, _: Arc<StoredResponse>) -> bool {
        false
    }

    fn touch(&self, _: &str, _: &Arc<StoredResponse>) {}

    fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: &Begun) -> Put {
        if !begun.admits(&response) {
            return Put::Cleared;
        }
        if !fits(&response, self.content_bytes_max()) {
            return Put::TooLarge;
        }
        self.change(key, None, Some(response));
        Put::Stored
    }

    fn replace(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        if !begun.admits(&new) {
            return Put::Cleared;
        }
        if self.change(key, Some(old), Some(new)) { Put::Stored } else { Put::Replaced }
    }

    fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        self.change(key, Some(response), None);
    }

    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        self.underway.invalidate(key, own);
        self.by_key.lock().remove(key.as_str()).map_or(0, |variants| variants.len())
    }

    fn sweep(&self, _: Timestamp) -> usize {
        0
    }

    /// Nothing: a purge means the store below.
    fn purge(&self, _: &Selector, _: Timestamp) -> usize {
        0
    }

    fn list(&self, _: &str, _: usize) -> Vec<Listed> {
        Vec::new()
    }

    fn begin(&self, key: &CacheKey) -> Begun {
        self.underway.begin(key)
    }

    fn reserve(&self) -> Reservation {
        // Its own: what an explanation fetches pushes nothing out of the memory below.
        Reservation::of(Arc::clone(&self.arrivals) as Arc<dyn Arrivals>)
    }

    fn content_bytes_max(&self) -> u64 {
        self.content_bytes_max
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
}
