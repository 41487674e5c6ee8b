//! The `s3-fifo` eviction policy: quick_cache, one entry a target URI with all its variants.
//!
//! quick_cache splits its capacity over shards and refuses what is heavier than almost a whole one,
//! so the shards here are few: each holds two of the largest responses that may be stored. A limit
//! on the number of responses becomes a least weight: when each weighs at least an N-th of the
//! capacity, there is space for N.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::policy::stored::StoredResponse;
use crate::store::backing::Listed;
use crate::store::memory::key_index::KeyIndex;
use crate::store::memory::limits::MemoryLimits;
use crate::store::underway::{Begun, Underway};
use crate::store::{Arrivals, Put, Reservation, Store, Usage, Variants, fits, with_variant};

/// quick_cache's own share of a shard for what has proven useful.
const HOT_SHARE: f64 = 0.97;
/// The most shards; more than this many threads do not meet on one lock often.
const SHARDS_MAX: u64 = 64;
/// How many keys can be changed at a time; a key's lock is chosen by its hash.
const STRIPES: usize = 512;

/// A store that evicts by S3-FIFO.
pub(in crate::store) struct S3Fifo {
    cache: Cache<CacheKey, Entry, Weight, DefaultHashBuilder, Counting>,
    evicted: Arc<AtomicU64>,
    /// The least weight of a response, by which their number is bounded.
    least_weight: u64,
    /// quick_cache refuses an entry that weighs more.
    entry_weight_max: u64,
    content_bytes_max: u64,
    arriving: Arc<Arrivals>,
    hasher: RandomState,
    /// One is held while an entry with that hash is read, changed and written back, so that two new
    /// variants do not overwrite each other.
    changes: Vec<Mutex<()>>,
    underway: Arc<Underway>,
    /// The keys in order, for lists.
    keys: Arc<KeyIndex>,
}

/// The variants of one target URI and their weight.
#[derive(Clone)]
struct Entry {
    variants: Variants,
    weight: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<CacheKey, Entry> for Weight {
    fn weight(&self, _: &CacheKey, entry: &Entry) -> u64 {
        entry.weight
    }
}

/// Counts what is evicted, and keeps it until the shard's lock is let go of: freeing a large body
/// takes time.
#[derive(Clone)]
struct Counting {
    evicted: Arc<AtomicU64>,
    keys: Arc<KeyIndex>,
}

impl Lifecycle<CacheKey, Entry> for Counting {
    type RequestState = Vec<Entry>;

    fn on_evict(&self, gone: &mut Vec<Entry>, key: CacheKey, entry: Entry) {
        self.keys.remove(&key);
        self.evicted.fetch_add(entry.variants.len() as u64, Ordering::Relaxed);
        gone.push(entry);
    }
}

impl S3Fifo {
    pub(in crate::store) fn new(limits: MemoryLimits) -> Self {
        /// What a response usually weighs, as far as one can know; it sizes the ghost queue.
        const USUAL_BYTES: u64 = 4096;
        let (stored_bytes_max, content_bytes_max, arriving) = limits.parts();
        let (shards, hot_share, items) = if let Some(most) = limits.responses {
            (1, HOT_SHARE.min((most - 1) as f64 / most as f64), most)
        } else {
            let shards = stored_bytes_max / (2 * content_bytes_max).max(1);
            let shards = shards.clamp(1, SHARDS_MAX);
            // quick_cache rounds up to a power of two, and the shards must not shrink by it.
            let shards = 1 << shards.ilog2();
            (shards, HOT_SHARE, (stored_bytes_max / USUAL_BYTES).max(32 * shards))
        };
        let least_weight = limits.responses.map_or(1, |most| (stored_bytes_max / most).max(1));
        let evicted = Arc::new(AtomicU64::new(0));
        let options = OptionsBuilder::new()
            .shards(shards as usize)
            .hot_allocation(hot_share)
            // Where responses are counted, a whole multiple of the least weight.
            .weight_capacity(limits.responses.map_or(stored_bytes_max, |most| least_weight * most))
            .estimated_items_capacity(items.min(1 << 20) as usize)
            .build()
            .expect("capacity and item count are given");
        let keys = Arc::new(KeyIndex::default());
        let lifecycle = Counting { evicted: Arc::clone(&evicted), keys: Arc::clone(&keys) };
        let hash_builder = DefaultHashBuilder::default();
        let cache = Cache::with_options(options, Weight, hash_builder, lifecycle);
        // The share is less than one, so the product is no larger than the capacity.
        #[allow(clippy::cast_sign_loss)]
        let entry_weight_max = (cache.shard_capacity() as f64 * hot_share) as u64;
        Self {
            cache,
            evicted,
            least_weight,
            entry_weight_max,
            content_bytes_max,
            arriving,
            hasher: RandomState::new(),
            changes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            underway: Arc::default(),
            keys,
        }
    }

    /// The entry of these variants; the oldest are left out where all together weigh too much.
    /// `None` if the first alone does.
    fn entry(&self, key: &CacheKey, mut variants: Vec<Arc<StoredResponse>>) -> Option<Entry> {
        let weight_of = |response: &Arc<StoredResponse>| {
            (response.memory_bytes(key) as u64).max(self.least_weight)
        };
        let mut weight: u64 = variants.iter().map(weight_of).sum();
        while weight > self.entry_weight_max {
            weight -= variants.pop().as_ref().map(weight_of)?;
        }
        (!variants.is_empty()).then(|| Entry { variants: Arc::new(variants), weight })
    }

    /// Stores a response, if `old`, where there is one, is stored. Called without a lock, or under those of the
    /// cache; takes the key's change lock, under which quick_cache takes a shard's.
    fn let_in(
        &self,
        key: &CacheKey,
        old: Option<&Arc<StoredResponse>>,
        response: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        let changing = self.change_lock(key).lock();
        // An invalidation marks what is under way before it takes the locks of the changes: it either
        // keeps the response out, or finds it.
        if !begun.admits(&response) {
            return Put::Cleared;
        }
        // `peek`, not `get`: to store is not to use.
        let present = self.cache.peek(key).map(|entry| entry.variants).unwrap_or_default();
        let is_there = |old| present.iter().any(|other| Arc::ptr_eq(other, old));
        if old.is_some_and(|old| !is_there(old)) {
            return Put::Replaced;
        }
        if !fits(&response, self.content_bytes_max) {
            return Put::TooLarge;
        }
        let (variants, _) = with_variant(&present, response);
        let Some(entry) = self.entry(key, variants) else { return Put::TooLarge };
        // An entry that is evicted at once has been stored all the same: nothing else was promised.
        self.insert(key, entry);
        drop(changing);
        Put::Stored
    }

    fn change_lock(&self, key: &CacheKey) -> &Mutex<()> {
        &self.changes[self.hasher.hash_one(key) as usize % STRIPES]
    }

    /// Writes an entry, whose change lock is held.
    fn insert(&self, key: &CacheKey, entry: Entry) {
        self.cache.insert(key.clone(), entry);
        self.keys.add(key);
        // It may have been evicted between the two; what is evicted from now on takes its name along.
        if self.cache.peek(key).is_none() {
            self.keys.remove(key);
        }
    }

    /// Removes the responses that `drops` says yes to; how many there were.
    fn remove_where(&self, key: &CacheKey, drops: impl Fn(&Arc<StoredResponse>) -> bool) -> usize {
        let _changing = self.change_lock(key).lock();
        // An eviction takes no change lock: the entry may be gone by the time that it is written back, and then
        // comes back without what was dropped.
        let Some(entry) = self.cache.peek(key) else { return 0 };
        let kept: Vec<_> =
            entry.variants.iter().filter(|response| !drops(response)).cloned().collect();
        let gone = entry.variants.len() - kept.len();
        match self.entry(key, kept) {
            _ if gone == 0 => {}
            Some(entry) => self.insert(key, entry),
            None => {
                drop(self.cache.remove(key));
                self.keys.remove(key);
            }
        }
        gone
    }
}

impl Store for S3Fifo {
    fn get(&self, key: &str) -> Option<Variants> {
        self.cache.get(key).map(|entry| entry.variants)
    }

    /// Nothing to do: quick_cache notes each use in [`S3Fifo::get`].
    fn touch(&self, _: &str, _: &Arc<StoredResponse>) {}

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
        self.remove_where(key, |other| Arc::ptr_eq(other, response));
    }

    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        self.underway.invalidate(key, own);
        self.remove_where(key, |_| true)
    }

    /// The iterator holds a shard's lock for one step at a time.
    fn sweep(&self, now: Timestamp) -> usize {
        let useless = |response: &Arc<StoredResponse>| response.useful_until <= now;
        let mut swept = 0;
        for (key, entry) in self.cache.iter() {
            // Most have nothing useless, and cost no lock but the iterator's.
            if entry.variants.iter().any(useless) {
                swept += self.remove_where(&key, useless);
            }
        }
        swept
    }

    fn purge(&self, selector: &Selector, now: Timestamp) -> usize {
        if let Selector::Uri(uri) = selector {
            return self.remove_all_but(&CacheKey::from(uri.as_str()), None);
        }
        self.underway.purge(selector, now);
        // A put that has not seen the mark holds one of these until its response is in. Each is taken once, so
        // that all such puts are over before anything is removed.
        for change in &self.changes {
            drop(change.lock());
        }
        if *selector == Selector::All {
            let held = self.usage().responses as usize;
            // In this order: a key whose name goes while its entry stays would be stored and never listed. The
            // other way round is mended by `list`.
            self.keys.clear();
            self.cache.clear();
            return held;
        }
        let mut purged = 0;
        for (key, entry) in self.cache.iter() {
            let selected =
                |response: &Arc<StoredResponse>| selector.selects(key.as_str(), response, now);
            if entry.variants.iter().any(selected) {
                purged += self.remove_where(&key, selected);
            }
        }
        purged
    }

    fn list(&self, after: &str, most: usize) -> Vec<Listed> {
        self.keys.page(after, most, |key| {
            if let Some(entry) = self.cache.peek(key) {
                return Some(entry.variants);
            }
            // What came in while everything was cleared may have left its name. Looked at again under the change
            // lock, or the name of what is being inserted would be removed.
            let _changing = self.change_lock(key).lock();
            let entry = self.cache.peek(key);
            if entry.is_none() {
                self.keys.remove(key);
            }
            entry.map(|entry| entry.variants)
        })
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
        let mut usage = Usage {
            arriving_bytes: self.arriving.bytes.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            under_way: self.underway.count() as u64,
            ..Usage::default()
        };
        for (key, entry) in self.cache.iter() {
            usage.responses += entry.variants.len() as u64;
            let bytes = entry.variants.iter().map(|response| response.memory_bytes(&key) as u64);
            usage.bytes += bytes.sum::<u64>();
        }
        usage
    }
}
