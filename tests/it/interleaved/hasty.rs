//! Memory in which something else happens right after a look, as another thread would have it: what was found is
//! purged, or content that was on its way has come. And no fetch takes any time: what one costs would depend on how
//! busy the machine is, and what is evicted on that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use caching_proxy::clock::Timestamp;
use caching_proxy::policy::key::CacheKey;
use caching_proxy::policy::purging::Selector;
use caching_proxy::policy::stored::StoredResponse;
use caching_proxy::store::backing::Listed;
use caching_proxy::store::underway::Begun;
use caching_proxy::store::{Put, Reservation, Store, Usage, Variants};
use parking_lot::Mutex;

/// What happens after a look for this key.
type Meanwhile = Box<dyn FnMut(&str) + Send>;

/// The memory.
pub struct HastyMemory {
    memory: Arc<dyn Store>,
    meanwhile: Mutex<Option<Meanwhile>>,
    /// Only then something happens.
    is_hasty: AtomicBool,
}

impl HastyMemory {
    pub fn new(memory: Arc<dyn Store>) -> Arc<Self> {
        let (meanwhile, is_hasty) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { memory, meanwhile, is_hasty })
    }

    /// What happens from now on. It must not hold this memory.
    pub fn set(&self, meanwhile: Meanwhile) {
        *self.meanwhile.lock() = Some(meanwhile);
    }

    pub fn set_hasty(&self, is_hasty: bool) {
        self.is_hasty.store(is_hasty, Ordering::Relaxed);
    }
}

impl Store for HastyMemory {
    fn get(&self, key: &str) -> Option<Variants> {
        let found = self.memory.get(key);
        // What happens may look itself.
        if self.is_hasty.load(Ordering::Relaxed)
            && let Some(mut meanwhile) = self.meanwhile.try_lock()
            && let Some(meanwhile) = meanwhile.as_mut()
        {
            meanwhile(key);
        }
        found
    }

    fn reform(&self, key: &CacheKey, old: &Arc<StoredResponse>, new: Arc<StoredResponse>) -> bool {
        self.memory.reform(key, old, new)
    }

    fn touch(&self, key: &str, response: &Arc<StoredResponse>) {
        self.memory.touch(key, response);
    }

    fn put(&self, key: &CacheKey, response: Arc<StoredResponse>, begun: &Begun) -> Put {
        self.memory.put(key, response, begun)
    }

    fn replace(
        &self,
        key: &CacheKey,
        old: &Arc<StoredResponse>,
        new: Arc<StoredResponse>,
        begun: &Begun,
    ) -> Put {
        self.memory.replace(key, old, new, begun)
    }

    fn remove(&self, key: &CacheKey, response: &Arc<StoredResponse>) {
        self.memory.remove(key, response);
    }

    fn remove_all_but(&self, key: &CacheKey, own: Option<&Begun>) -> usize {
        self.memory.remove_all_but(key, own)
    }

    fn sweep(&self, now: Timestamp) -> usize {
        self.memory.sweep(now)
    }

    fn purge(&self, selector: &Selector, now: Timestamp) -> usize {
        self.memory.purge(selector, now)
    }

    fn list(&self, after: &str, most: usize) -> Vec<Listed> {
        self.memory.list(after, most)
    }

    fn begin(&self, key: &CacheKey) -> Begun {
        // What is before its beginning took nothing.
        self.memory.begin(key).since(Instant::now() + Duration::from_secs(3600))
    }

    fn reserve(&self) -> Reservation {
        self.memory.reserve()
    }

    fn content_bytes_max(&self) -> u64 {
        self.memory.content_bytes_max()
    }

    fn usage(&self) -> Usage {
        self.memory.usage()
    }
}
