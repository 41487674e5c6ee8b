//! The `cost` eviction policy: what goes is worth least for each byte of it (`worth.rs`). quick_cache is the shared cache, and
//! evicts nothing by itself.
//!
//! A hit takes the lock of a shard for reading, and counts a use in the stored response. What changes takes the lock of
//! the order as well, and under it those of the shards. The bound holds at every moment: space is made before it is taken, and
//! what is on its way in is counted with what is stored.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};

use crate::policy::key::CacheKey;
use crate::policy::stored::StoredResponse;
use crate::store::arrivals::Arrivals;
use crate::store::memory::by_key::{ByKey, EntryWritten, KeyedEntries};
use crate::store::memory::key_index::KeyIndex;
use crate::store::memory::limits::MemoryLimits;
use crate::store::memory::worth::WorthOrder;
use crate::store::underway::Begun;
use crate::store::{Usage, Variants};

/// More than this many threads do not meet on one lock often.
const SHARDS: usize = 64;
/// quick_cache makes fewer shards for fewer entries than these.
const SHARD_ENTRIES: usize = 32;

/// Entries in the order of their worth.
pub(super) struct Cost(Arc<CostEntries>);

struct CostEntries {
    cache: Cache<CacheKey, RankedEntry>,
    order: Mutex<Ordered>,
    bytes_max: u64,
    arriving_bytes_max: u64,
    entry_bytes_max: u64,
    responses_max: u64,
    hasher: RandomState,
    keys: KeyIndex,
}

/// Guarded by [`CostEntries::order`].
struct Ordered {
    worth: WorthOrder,
    arriving_bytes: u64,
    evicted: u64,
}

/// The variants of one target URI, and their number in the order.
#[derive(Clone)]
struct RankedEntry {
    variants: Variants,
    number: u32,
}

impl Cost {
    /// A store with these bounds.
    pub(super) fn store(limits: MemoryLimits) -> ByKey<Self> {
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            // It never comes to that: entries weigh one each, and are removed before.
            .weight_capacity(u64::MAX / 2)
            .estimated_items_capacity(SHARDS * SHARD_ENTRIES)
            .build()
            .expect("capacity and item count are given");
        let hash_builder = DefaultHashBuilder::default();
        let cache =
            Cache::with_options(options, UnitWeighter, hash_builder, DefaultLifecycle::default());
        let ordered = Ordered { worth: WorthOrder::new(), arriving_bytes: 0, evicted: 0 };
        let entries = CostEntries {
            cache,
            order: Mutex::new(ordered),
            bytes_max: limits.bytes,
            arriving_bytes_max: limits.arriving_bytes(),
            // What is on its way in can take the rest at any time.
            entry_bytes_max: limits.stored_bytes().saturating_sub(WorthOrder::BYTES_MIN),
            responses_max: limits.responses.unwrap_or(u64::MAX),
            hasher: RandomState::new(),
            keys: KeyIndex::default(),
        };
        ByKey::new(Self(Arc::new(entries)), limits.content_bytes_max())
    }
}

impl CostEntries {
    /// Removes what is worth least until there is space for `bytes` more and for `responses` more. What goes is to be
    /// dropped when the lock is released: freeing a large body takes time.
    fn make_space(&self, order: &mut Ordered, bytes: u64, responses: u64) -> Vec<Variants> {
        let mut gone = Vec::new();
        while order.worth.bytes() + order.arriving_bytes + bytes > self.bytes_max
            || order.worth.responses() + responses > self.responses_max
        {
            let Some((key, variants)) = order.worth.evict(|key| self.hasher.hash_one(key)) else {
                // Empty: what comes is bounded, and fits beside all that can be on its way in.
                order.worth.forget();
                break;
            };
            // If it has been replaced, the new entry has another number and stays.
            self.cache.remove_if(&key, |entry| Arc::ptr_eq(&entry.variants, &variants));
            self.keys.remove(&key);
            order.evicted += variants.len() as u64;
            gone.push(variants);
        }
        gone
    }
}

impl KeyedEntries for Cost {
    fn get(&self, key: &str) -> Option<Variants> {
        // `peek`: quick_cache has nothing to note.
        self.0.cache.peek(key).map(|entry| entry.variants)
    }

    fn peek(&self, key: &CacheKey) -> Option<Variants> {
        self.get(key.as_str())
    }

    fn write(
        &self,
        key: &CacheKey,
        present: Option<&Variants>,
        mut variants: Vec<Arc<StoredResponse>>,
        begun: Option<&Begun>,
    ) -> EntryWritten {
        let entries = &*self.0;
        let bytes_of = |response: &Arc<StoredResponse>| response.memory_bytes(key) as u64;
        let mut bytes: u64 = variants.iter().map(bytes_of).sum();
        while bytes > entries.entry_bytes_max || variants.len() as u64 > entries.responses_max {
            let Some(oldest) = variants.pop() else { break };
            bytes -= bytes_of(&oldest);
        }
        if variants.is_empty() {
            return EntryWritten::TooLarge;
        }
        let variants = Variants::from(variants);
        let took = begun.map(Begun::elapsed);
        let mut order = entries.order.lock();
        let past = if let Some(present) = present {
            // The key's change lock is held: nobody else replaces it, but it may have been evicted or cleared.
            let entry = entries.cache.peek(key);
            let past = entry.and_then(|entry| order.worth.take_out(entry.number, present));
            let Some(past) = past else { return EntryWritten::Gone };
            past
        } else {
            order.worth.past(entries.hasher.hash_one(key))
        };
        let gone = entries.make_space(&mut order, bytes, variants.len() as u64);
        let number = order.worth.add(key, &variants, bytes, past, took);
        entries.cache.insert(key.clone(), RankedEntry { variants, number });
        entries.keys.add(key);
        drop(order);
        drop(gone);
        EntryWritten::Written
    }

    fn fits(&self, key: &CacheKey, variants: &[Arc<StoredResponse>]) -> bool {
        let bytes: usize = variants.iter().map(|response| response.memory_bytes(key)).sum();
        bytes as u64 <= self.0.entry_bytes_max
    }

    fn remove(&self, key: &CacheKey) {
        let entries = &*self.0;
        let mut order = entries.order.lock();
        let removed = entries.cache.remove(key);
        if let Some((_, entry)) = &removed {
            order.worth.take_out(entry.number, &entry.variants);
        }
        entries.keys.remove(key);
        drop(order);
        drop(removed);
    }

    fn clear(&self) {
        let entries = &*self.0;
        let mut order = entries.order.lock();
        entries.keys.clear();
        entries.cache.clear();
        let held = order.worth.clear();
        drop(order);
        drop(held);
    }

    fn iter(&self) -> impl Iterator<Item = (CacheKey, Variants)> {
        // The iterator holds a shard's lock for one step at a time.
        self.0.cache.iter().map(|(key, entry)| (key, entry.variants))
    }

    fn keys(&self) -> &KeyIndex {
        &self.0.keys
    }

    fn arrivals(&self) -> Arc<dyn Arrivals> {
        Arc::clone(&self.0) as Arc<dyn Arrivals>
    }

    fn is_nearly_full(&self) -> bool {
        let order = self.0.order.lock();
        order.worth.bytes() + order.arriving_bytes > self.0.bytes_max / 4 * 3
    }

    fn usage(&self) -> Usage {
        let order = self.0.order.lock();
        Usage {
            responses: order.worth.responses(),
            bytes: order.worth.stored_bytes(),
            arriving_bytes: order.arriving_bytes,
            evicted: order.evicted,
            ..Usage::default()
        }
    }
}

/// What is not taken by bodies on their way in is lent to what is stored.
impl Arrivals for CostEntries {
    fn take(&self, bytes: u64) -> bool {
        let mut order = self.order.lock();
        let fits = order
            .arriving_bytes
            .checked_add(bytes)
            .is_some_and(|all| all <= self.arriving_bytes_max);
        if fits {
            let gone = self.make_space(&mut order, bytes, 0);
            order.arriving_bytes += bytes;
            drop(order);
            drop(gone);
        }
        fits
    }

    fn give_back(&self, bytes: u64) {
        let mut order = self.order.lock();
        debug_assert!(order.arriving_bytes >= bytes, "no more is given back than was taken");
        order.arriving_bytes -= bytes;
    }
}
