//! The exact eviction policies: `lru`, `entire` and `none`, over one index behind one lock.
//!
//! Every response, each variant by itself, has a number. The index finds responses by key, by how
//! recently they were used, and by when they become useless; so evicting and sweeping touch only
//! what goes. The lock is held for one such step, never while a body is copied.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lru::LruCache;
use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::policy::stored::StoredResponse;
use crate::store::backing::Listed;
use crate::store::memory::key_index::KeyIndex;
use crate::store::memory::limits::{Eviction, MemoryLimits};
use crate::store::underway::{Begun, Underway};
use crate::store::{Arrivals, Put, Reservation, Store, Usage, Variants, fits, with_variant};

/// How many useless responses a sweep removes before it lets go of the lock.
const SWEEP_BATCH: usize = 256;

/// A store that evicts exactly what its policy says.
pub(in crate::store) struct Exact {
    eviction: Eviction,
    stored_bytes_max: u64,
    responses_max: u64,
    content_bytes_max: u64,
    arriving: Arc<Arrivals>,
    underway: Arc<Underway>,
    /// Everything that is stored.
    index: Mutex<Index>,
    keys: Arc<KeyIndex>,
}

/// Guarded by [`Exact::index`].
struct Index {
    by_key: HashMap<CacheKey, (Variants, Vec<u64>)>,
    /// By number, the most recently used first. Its own capacity is not used.
    by_use: LruCache<u64, (CacheKey, Arc<StoredResponse>)>,
    by_uselessness: BTreeSet<(Timestamp, u64)>,
    /// The same keys in order, for lists.
    keys: Arc<KeyIndex>,
    bytes: u64,
    next_number: u64,
    evicted: u64,
}

impl Exact {
    pub(in crate::store) fn new(eviction: Eviction, limits: MemoryLimits) -> Self {
        let limits = match eviction {
            Eviction::None => MemoryLimits { bytes: u64::MAX, responses: None, ..limits },
            _ => limits,
        };
        let (stored_bytes_max, content_bytes_max, arriving) = limits.parts();
        // Two holders: the index under its lock, and lists without it.
        let keys = Arc::new(KeyIndex::default());
        let index = Index {
            keys: Arc::clone(&keys),
            by_key: HashMap::new(),
            by_use: LruCache::unbounded(),
            by_uselessness: BTreeSet::new(),
            bytes: 0,
            next_number: 0,
            evicted: 0,
        };
        Self {
            eviction,
            stored_bytes_max,
            responses_max: limits.responses.unwrap_or(u64::MAX),
            content_bytes_max,
            arriving,
            underway: Arc::default(),
            index: Mutex::new(index),
            keys,
        }
    }

    /// Stores a response, if `old`, where there is one, is stored. Called without a lock, or under those of the
    /// cache; takes the index's, and under it those of the marks and of the key index.
    fn let_in(
        &self,
        key: &CacheKey,
        old: Option<&Arc<StoredResponse>>,
        response: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        let bytes = response.memory_bytes(key) as u64;
        // What goes is dropped after the lock is released: freeing a large body takes time.
        let mut gone = Vec::new();
        let mut index = self.index.lock();
        // An invalidation marks what is under way before it takes this lock: it either keeps the response
        // out, or finds it.
        if !begun.admits(&response) {
            return Put::Cleared;
        }
        if old.is_some_and(|old| index.number_of(key.as_str(), old).is_none()) {
            return Put::Replaced;
        }
        if bytes > self.stored_bytes_max || !fits(&response, self.content_bytes_max) {
            return Put::TooLarge;
        }
        // Nothing is evicted before it is certain that the response fits.
        let present = index.by_key.get(key).map(|(variants, _)| Arc::clone(variants));
        let (_, displaced) = with_variant(&present.unwrap_or_default(), Arc::clone(&response));
        for other in displaced {
            if let Some(number) = index.number_of(key.as_str(), &other) {
                gone.extend(index.take_out(number).map(|(_, response)| response));
            }
        }
        while index.bytes + bytes > self.stored_bytes_max
            || index.by_use.len() as u64 >= self.responses_max
        {
            let before = gone.len();
            if self.eviction == Eviction::Entire {
                gone.extend(index.empty());
            } else {
                // Empty: the response is the only one, and fits alone.
                let Some(number) = index.by_use.peek_lru().map(|(number, _)| *number) else {
                    break;
                };
                gone.extend(index.take_out(number).map(|(_, response)| response));
            }
            index.evicted += (gone.len() - before) as u64;
        }
        index.add(key, response, bytes);
        debug_assert!(index.bytes <= self.stored_bytes_max, "space was made before it was taken");
        drop(index);
        drop(gone);
        Put::Stored
    }
}

impl Index {
    /// Adds a response to all parts of the index; space for its `bytes` has been made.
    fn add(&mut self, key: &CacheKey, response: Arc<StoredResponse>, bytes: u64) {
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += bytes;
        self.by_uselessness.insert((response.useful_until, number));
        self.by_use.put(number, (key.clone(), Arc::clone(&response)));
        let (variants, numbers) = self.by_key.entry(key.clone()).or_default();
        *variants = Arc::new(with_variant(variants, response).0);
        numbers.push(number);
        if numbers.len() == 1 {
            self.keys.add(key);
        }
    }

    /// Takes a response out of all parts of the index, which hold the same responses before and after. The
    /// caller drops it when it has released the lock.
    fn take_out(&mut self, number: u64) -> Option<(CacheKey, Arc<StoredResponse>)> {
        let (key, response) = self.by_use.pop(&number)?;
        self.by_uselessness.remove(&(response.useful_until, number));
        self.bytes -= response.memory_bytes(&key) as u64;
        if let Some((variants, numbers)) = self.by_key.get_mut(&key) {
            let kept = variants.iter().filter(|other| !Arc::ptr_eq(other, &response));
            *variants = Arc::new(kept.cloned().collect());
            numbers.retain(|other| *other != number);
            if variants.is_empty() {
                self.by_key.remove(&key);
                self.keys.remove(&key);
            }
        }
        Some((key, response))
    }

    fn number_of(&self, key: &str, response: &Arc<StoredResponse>) -> Option<u64> {
        let (_, numbers) = self.by_key.get(key)?;
        let holds = |number: &&u64| {
            self.by_use.peek(number).is_some_and(|(_, other)| Arc::ptr_eq(other, response))
        };
        numbers.iter().find(holds).copied()
    }

    /// Empties the index; how many responses there were. What it held is dropped by the caller.
    fn empty(&mut self) -> Vec<Arc<StoredResponse>> {
        self.by_key = HashMap::new();
        self.keys.clear();
        self.by_uselessness = BTreeSet::new();
        self.bytes = 0;
        let held = std::mem::replace(&mut self.by_use, LruCache::unbounded());
        held.into_iter().map(|(_, (_, response))| response).collect()
    }
}

impl Store for Exact {
    fn get(&self, key: &str) -> Option<Variants> {
        self.index.lock().by_key.get(key).map(|(variants, _)| Arc::clone(variants))
    }

    fn touch(&self, key: &str, response: &Arc<StoredResponse>) {
        // The other policies do not look at use; a hit needs no second lock with them.
        if self.eviction == Eviction::Lru {
            let mut index = self.index.lock();
            if let Some(number) = index.number_of(key, response) {
                index.by_use.promote(&number);
            }
        }
    }

    fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: &Begun) -> Put {
        self.let_in(key, None, response, begun)
    }

    fn replace(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        self.let_in(key, Some(old), new, begun)
    }

    fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        let mut index = self.index.lock();
        let number = index.number_of(key.as_str(), response);
        let gone = number.and_then(|number| index.take_out(number));
        drop(index);
        drop(gone);
    }

    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        // Marks first, without the lock: what was let in before it is found below, what comes later sees them.
        self.underway.invalidate(key, own);
        let mut index = self.index.lock();
        let numbers = index.by_key.get(key).map(|(_, numbers)| numbers.clone()).unwrap_or_default();
        let gone: Vec<_> = numbers.iter().filter_map(|number| index.take_out(*number)).collect();
        drop(index);
        gone.len()
    }

    fn sweep(&self, now: Timestamp) -> usize {
        let mut swept = 0;
        loop {
            let mut index = self.index.lock();
            let useless: Vec<u64> = index
                .by_uselessness
                .iter()
                .take_while(|(until, _)| *until <= now)
                .take(SWEEP_BATCH)
                .map(|(_, number)| *number)
                .collect();
            let gone: Vec<_> =
                useless.iter().filter_map(|number| index.take_out(*number)).collect();
            // Between two batches, hits get the lock.
            drop(index);
            swept += gone.len();
            if gone.len() < SWEEP_BATCH {
                return swept;
            }
        }
    }

    fn purge(&self, selector: &Selector, now: Timestamp) -> usize {
        if let Selector::Uri(uri) = selector {
            return self.remove_all_but(&CacheKey::from(uri.as_str()), None);
        }
        self.underway.purge(selector, now);
        let mut index = self.index.lock();
        let gone = if *selector == Selector::All {
            index.empty()
        } else {
            let selected = |(_, (key, response)): &(&u64, &(CacheKey, Arc<StoredResponse>))| {
                selector.selects(key.as_str(), response, now)
            };
            let numbers: Vec<u64> =
                index.by_use.iter().filter(selected).map(|(number, _)| *number).collect();
            let taken = numbers.into_iter().filter_map(|number| index.take_out(number));
            taken.map(|(_, response)| response).collect()
        };
        drop(index);
        gone.len()
    }

    fn list(&self, after: &str, most: usize) -> Vec<Listed> {
        self.keys.page(after, most, |key| self.get(key.as_str()))
    }

    fn begin(&self, key: &CacheKey) -> Begun {
        self.underway.begin(key)
    }

    fn reserve(&self) -> Reservation {
        Reservation { arriving: Arc::clone(&self.arriving), bytes: 0 }
    }

    fn content_bytes_max(&self) -> u64 {
        self.content_bytes_max
    }

    fn usage(&self) -> Usage {
        let under_way = self.underway.count() as u64;
        let index = self.index.lock();
        Usage {
            responses: index.by_use.len() as u64,
            bytes: index.bytes,
            arriving_bytes: self.arriving.bytes.load(Ordering::Relaxed),
            evicted: index.evicted,
            under_way,
        }
    }
}
