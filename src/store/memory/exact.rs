//! The exact eviction policies: `lru`, `entire` and `none`, over one index behind one lock.
//!
//! Every response, each variant by itself, has a number. The index finds responses by key, by how
//! recently they were used, and by when they become useless; so evicting and sweeping touch only
//! what goes. The lock is held for one such step, never while a body is copied.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::policy::stored::StoredResponse;
use crate::store::arrivals::Arrivals;
use crate::store::backing::Listed;
use crate::store::memory::key_index::KeyIndex;
use crate::store::memory::limits::{Eviction, MemoryLimits};
use crate::store::underway::{Begun, Underway};
use crate::store::{Put, Reservation, Store, Usage, Variants, fits, with_variant};

/// How many useless responses a sweep removes before it lets go of the lock.
const SWEEP_BATCH: usize = 256;

/// A store that evicts exactly what its policy says.
pub(in crate::store) struct Exact {
    held: Arc<Held>,
    responses_max: u64,
    content_bytes_max: u64,
    underway: Arc<Underway>,
    keys: Arc<KeyIndex>,
}

/// What memory is used for.
struct Held {
    eviction: Eviction,
    /// For all of it.
    bytes_max: u64,
    /// What is left of that when all that can be is on its way in.
    stored_bytes_max: u64,
    /// Everything that is stored.
    index: Mutex<Index>,
}

/// Guarded by [`Held::index`].
struct Index {
    arriving_bytes: u64,
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
        // Two holders: the index under its lock, and lists without it.
        let keys = Arc::new(KeyIndex::default());
        let index = Index {
            arriving_bytes: 0,
            keys: Arc::clone(&keys),
            by_key: HashMap::new(),
            by_use: LruCache::unbounded(),
            by_uselessness: BTreeSet::new(),
            bytes: 0,
            next_number: 0,
            evicted: 0,
        };
        let held = Held {
            eviction,
            bytes_max: limits.bytes,
            stored_bytes_max: limits.stored_bytes(),
            index: Mutex::new(index),
        };
        Self {
            held: Arc::new(held),
            responses_max: limits.responses.unwrap_or(u64::MAX),
            content_bytes_max: limits.content_bytes_max(),
            underway: Arc::default(),
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
        let mut index = self.held.index.lock();
        // An invalidation marks what is under way before it takes this lock: it either keeps the response
        // out, or finds it.
        if !begun.admits(&response) {
            return Put::Cleared;
        }
        if old.is_some_and(|old| index.number_of(key.as_str(), old).is_none()) {
            return Put::Replaced;
        }
        if bytes > self.held.stored_bytes_max || !fits(&response, self.content_bytes_max) {
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
        while index.bytes + bytes > self.held.space(&index)
            || index.by_use.len() as u64 >= self.responses_max
        {
            let evicted = self.held.evict(&mut index);
            // Empty: the response is the only one, and fits alone.
            if evicted.is_empty() {
                break;
            }
            gone.extend(evicted);
        }
        index.add(key, response, bytes);
        debug_assert!(index.bytes <= self.held.space(&index), "space was made before it was taken");
        drop(index);
        drop(gone);
        Put::Stored
    }
}

impl Held {
    /// Bytes that what is stored may take at present.
    fn space(&self, index: &Index) -> u64 {
        match self.eviction {
            Eviction::Lru => self.bytes_max - index.arriving_bytes,
            // Their quarter is not lent: to take it back would mean to remove everything, or nothing.
            _ => self.stored_bytes_max,
        }
    }

    /// Removes what goes first, which the caller drops when it has released the lock; nothing if nothing is stored.
    fn evict(&self, index: &mut Index) -> Vec<Arc<StoredResponse>> {
        let gone = if self.eviction == Eviction::Entire {
            index.empty()
        } else {
            let number = index.by_use.peek_lru().map(|(number, _)| *number);
            let gone = number.and_then(|number| index.take_out(number));
            gone.map(|(_, response)| response).into_iter().collect()
        };
        index.evicted += gone.len() as u64;
        gone
    }
}

impl Arrivals for Held {
    fn take(&self, bytes: u64) -> bool {
        let mut gone = Vec::new();
        let mut index = self.index.lock();
        let all = index.arriving_bytes.checked_add(bytes);
        let Some(all) = all.filter(|all| *all <= self.bytes_max - self.stored_bytes_max) else {
            return false;
        };
        // Space is made before it is taken: the bound holds at every moment. Where the quarter is not lent, it is there.
        while self.eviction == Eviction::Lru && index.bytes + bytes > self.space(&index) {
            let evicted = self.evict(&mut index);
            assert!(!evicted.is_empty(), "a quarter is no more than all of it");
            gone.extend(evicted);
        }
        index.arriving_bytes = all;
        drop(index);
        drop(gone);
        true
    }

    fn give_back(&self, bytes: u64) {
        let mut index = self.index.lock();
        debug_assert!(index.arriving_bytes >= bytes, "no more is given back than was taken");
        index.arriving_bytes -= bytes;
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
        *variants = with_variant(variants, response).0.into();
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
            *variants = kept.cloned().collect();
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
            self.by_use.peek(number).is_some_and(|(_, other)| other.is_same(response))
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
        self.held.index.lock().by_key.get(key).map(|(variants, _)| Arc::clone(variants))
    }

    /// Where it stands among the others by use stays.
    fn reform(&self, key: &CacheKey, old: &Arc<StoredResponse>, new: Arc<StoredResponse>) -> bool {
        let mut index = self.held.index.lock();
        let Some(number) = index.number_of(key.as_str(), old) else { return false };
        // Another thread may have brought it into another form already.
        let is_present =
            index.by_use.peek(&number).is_some_and(|(_, present)| Arc::ptr_eq(present, old));
        let (more, less) = (new.memory_bytes(key) as u64, old.memory_bytes(key) as u64);
        // What is expanded takes more: if there is no space, it stays as it is.
        if !is_present || index.bytes + more > self.held.space(&index) + less {
            return false;
        }
        let Some((_, present)) = index.by_use.peek_mut(&number) else { return false };
        let gone = std::mem::replace(present, Arc::clone(&new));
        index.bytes = index.bytes - less + more;
        if let Some((variants, _)) = index.by_key.get_mut(key) {
            let swap = |other: &Arc<StoredResponse>| {
                Arc::clone(if Arc::ptr_eq(other, old) { &new } else { other })
            };
            *variants = variants.iter().map(swap).collect();
        }
        drop(index);
        drop(gone);
        true
    }

    fn is_nearly_full(&self) -> bool {
        let index = self.held.index.lock();
        // Without a bound it never is.
        index.bytes > self.held.space(&index) / 4 * 3
    }

    fn touch(&self, key: &str, response: &Arc<StoredResponse>) {
        // The other policies do not look at use; a hit needs no second lock with them.
        if self.held.eviction == Eviction::Lru {
            let mut index = self.held.index.lock();
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
        let mut index = self.held.index.lock();
        let number = index.number_of(key.as_str(), response);
        let gone = number.and_then(|number| index.take_out(number));
        drop(index);
        drop(gone);
    }

    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        // Marks first, without the lock: what was let in before it is found below, what comes later sees them.
        self.underway.invalidate(key, own);
        let mut index = self.held.index.lock();
        let numbers = index.by_key.get(key).map(|(_, numbers)| numbers.clone()).unwrap_or_default();
        let gone: Vec<_> = numbers.iter().filter_map(|number| index.take_out(*number)).collect();
        drop(index);
        gone.len()
    }

    fn sweep(&self, now: Timestamp) -> usize {
        let mut swept = 0;
        loop {
            let mut index = self.held.index.lock();
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
        let mut index = self.held.index.lock();
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
        Reservation::of(Arc::clone(&self.held) as Arc<dyn Arrivals>)
    }

    fn content_bytes_max(&self) -> u64 {
        self.content_bytes_max
    }

    fn usage(&self) -> Usage {
        let under_way = self.underway.count() as u64;
        let index = self.held.index.lock();
        Usage {
            responses: index.by_use.len() as u64,
            bytes: index.bytes,
            arriving_bytes: index.arriving_bytes,
            evicted: index.evicted,
            under_way,
        }
    }
}
