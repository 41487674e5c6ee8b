//! The `s3-fifo` eviction policy: quick_cache's own, a CLOCK-Pro of a hot part and a cold one.
//!
//! quick_cache splits its capacity over shards and refuses what is heavier than almost a whole one,
//! so the shards here are few: each holds two of the largest responses that may be stored. A limit
//! on the number of responses becomes a least weight: when each weighs at least an N-th of the
//! capacity, there is space for N.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::arrivals::{Arrivals, ReservedMemory};
use crate::store::memory::by_key::{ByKey, EntryWritten, KeyedEntries};
use crate::store::memory::key_index::KeyIndex;
use crate::store::memory::limits::MemoryLimits;
use crate::store::underway::Begun;
use crate::store::{Usage, Variants};

/// quick_cache's own share of a shard for what has proven useful.
const HOT_SHARE: f64 = 0.90;
/// The most shards; more than this many threads do not meet on one lock often.
const SHARDS_MAX: u64 = 64;

/// Entries that quick_cache evicts.
pub(super) struct S3Fifo {
    cache: Cache<CacheKey, WeighedEntry, Weight, DefaultHashBuilder, Counting>,
    evicted: Arc<AtomicU64>,
    /// The least weight of a response, by which their number is bounded.
    least_weight: u64,
    /// quick_cache refuses an entry that weighs more.
    entry_weight_max: u64,
    arrivals: Arc<ReservedMemory>,
    keys: Arc<KeyIndex>,
}

/// The variants of one target URI and their weight.
#[derive(Clone)]
struct WeighedEntry {
    variants: Variants,
    weight: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<CacheKey, WeighedEntry> for Weight {
    fn weight(&self, _: &CacheKey, entry: &WeighedEntry) -> u64 {
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

impl Lifecycle<CacheKey, WeighedEntry> for Counting {
    type RequestState = Vec<WeighedEntry>;

    fn on_evict(&self, gone: &mut Vec<WeighedEntry>, key: CacheKey, entry: WeighedEntry) {
        self.keys.remove(&key);
        self.evicted.fetch_add(entry.variants.len() as u64, Ordering::Relaxed);
        gone.push(entry);
    }
}

impl S3Fifo {
    /// A store with these bounds.
    pub(super) fn store(limits: MemoryLimits) -> ByKey<Self> {
        /// What a response usually weighs, as far as one can know; it sizes the ghost queue.
        const USUAL_BYTES: u64 = 4096;
        let (stored_bytes_max, content_bytes_max) =
            (limits.stored_bytes(), limits.content_bytes_max());
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
        let arrivals = Arc::new(ReservedMemory::new(limits.arriving_bytes()));
        let entries = Self { cache, evicted, least_weight, entry_weight_max, arrivals, keys };
        ByKey::new(entries, content_bytes_max)
    }

    /// The entry of these variants; the oldest are left out where all together weigh too much.
    /// `None` if the first alone does.
    fn entry(
        &self,
        key: &CacheKey,
        mut variants: Vec<Arc<StoredResponse>>,
    ) -> Option<WeighedEntry> {
        let weight_of = |response: &Arc<StoredResponse>| {
            (response.memory_bytes(key) as u64).max(self.least_weight)
        };
        let mut weight: u64 = variants.iter().map(weight_of).sum();
        while weight > self.entry_weight_max {
            weight -= variants.pop().as_ref().map(weight_of)?;
        }
        (!variants.is_empty()).then(|| WeighedEntry { variants: variants.into(), weight })
    }
}

impl KeyedEntries for S3Fifo {
    fn get(&self, key: &str) -> Option<Variants> {
        self.cache.get(key).map(|entry| entry.variants)
    }

    fn peek(&self, key: &CacheKey) -> Option<Variants> {
        self.cache.peek(key).map(|entry| entry.variants)
    }

    fn write(
        &self,
        key: &CacheKey,
        present: Option<&Variants>,
        variants: Vec<Arc<StoredResponse>>,
        _: Option<&Begun>,
    ) -> EntryWritten {
        let Some(entry) = self.entry(key, variants) else { return EntryWritten::TooLarge };
        if present.is_none() {
            self.cache.insert(key.clone(), entry);
        } else if self.cache.replace(key.clone(), entry, true).is_err() {
            return EntryWritten::Gone;
        }
        self.keys.add(key);
        // It may have been evicted between the two; what is evicted from now on takes its name along.
        if self.cache.peek(key).is_none() {
            self.keys.remove(key);
        }
        EntryWritten::Written
    }

    fn fits(&self, key: &CacheKey, variants: &[Arc<StoredResponse>]) -> bool {
        self.entry(key, variants.to_vec())
            .is_some_and(|entry| entry.variants.len() == variants.len())
    }

    fn remove(&self, key: &CacheKey) {
        drop(self.cache.remove(key));
        self.keys.remove(key);
    }

    fn clear(&self) {
        // In this order: a key whose name goes while its entry stays would be stored and never listed. The
        // other way round is mended by a list.
        self.keys.clear();
        self.cache.clear();
    }

    fn iter(&self) -> impl Iterator<Item = (CacheKey, Variants)> {
        // The iterator holds a shard's lock for one step at a time.
        self.cache.iter().map(|(key, entry)| (key, entry.variants))
    }

    fn keys(&self) -> &KeyIndex {
        &self.keys
    }

    fn arrivals(&self) -> Arc<dyn Arrivals> {
        Arc::clone(&self.arrivals) as Arc<dyn Arrivals>
    }

    fn is_nearly_full(&self) -> bool {
        self.cache.weight() > self.cache.capacity() / 4 * 3
    }

    fn usage(&self) -> Usage {
        let mut usage = Usage {
            arriving_bytes: self.arrivals.bytes(),
            evicted: self.evicted.load(Ordering::Relaxed),
            ..Usage::default()
        };
        for (key, variants) in self.iter() {
            usage.responses += variants.len() as u64;
            let bytes = variants.iter().map(|response| response.memory_bytes(&key) as u64);
            usage.bytes += bytes.sum::<u64>();
        }
        usage
    }
}
