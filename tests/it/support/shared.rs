//! Stores that share a Redis, without a proxy around them.

use std::sync::Arc;

use caching_proxy::policy::key::CacheKey;
use caching_proxy::store::cache::Cache;
use caching_proxy::store::memory::{Eviction, MemoryLimits, store};
use caching_proxy::store::redis::{Address, Redis, RedisLimits};

use super::PATIENCE;

pub const MEMORY: MemoryLimits =
    MemoryLimits { bytes: 16 << 20, responses: None, content_bytes: 4 << 20 };

pub fn open(url: &str) -> Arc<Cache> {
    open_with(url, MEMORY)
}

pub fn open_with(url: &str, limits: MemoryLimits) -> Arc<Cache> {
    let wanted =
        RedisLimits { prefix: "test:".to_string(), content_bytes: 64 << 20, answer_max: PATIENCE };
    let backing = Redis::open(Address::read(url).expect("an address"), wanted).expect("a store");
    let memory = store(Eviction::Lru, limits);
    Arc::new(Cache::with_backing(memory, Arc::new(backing), 4 << 20, false).expect("a thread"))
}

pub fn flush(store: &Arc<Cache>) {
    assert!(store.flush(PATIENCE));
}

/// Brings what is behind memory into it, unless news of it come just then.
pub fn promote(store: &Arc<Cache>, key: &str) {
    let key = CacheKey::from(key);
    let mut begun = store.note(&key);
    for found in store.recall(&key, &mut begun, false).variants {
        store.bring(&key, &found, &begun).expect("it is whole");
    }
}
