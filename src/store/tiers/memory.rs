//! The first tier, and the locks under which it changes together with the backing store.
//!
//! Order of locks, from the first: `purging`, a key's stripe, then whatever the store in memory, the marks
//! of fetches under way and the queue lock by themselves. None is held while a thread waits for the backing
//! store.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::clock::Timestamp;
use crate::policy::key::CacheKey;
use crate::policy::purging::Selector;
use crate::store::backing::Invalidations;
use crate::store::tiers::overtaken::{Counted, Moments};
use crate::store::{Store, codec};

/// How many keys can be changed at a time.
const STRIPES: usize = 64;

/// The first tier.
pub(in crate::store) struct MemoryTier {
    pub memory: Arc<dyn Store>,
    /// One is held while a key changes in memory and its change is handed to the queue, so that both tiers
    /// see the changes of a key in one order.
    changing: Vec<Mutex<()>>,
    /// Held for reading by a change that may store something, for writing while a purge removes from memory
    /// and is handed to the queue: so a purge comes before both halves of a change, or after both.
    pub purging: RwLock<()>,
    /// Counted up whenever what is stored for a key changes, under its stripe; read with or without it.
    pub moments: Moments,
}

impl MemoryTier {
    pub(in crate::store) fn new(memory: Arc<dyn Store>) -> Self {
        let changing = (0..STRIPES).map(|_| Mutex::default()).collect();
        let (purging, moments) = (RwLock::default(), Moments::default());
        Self { memory, changing, purging, moments }
    }

    /// The lock of `key`, and of all others with that hash: no thread takes a second one while it holds one.
    pub(in crate::store) fn stripe(&self, key: &CacheKey) -> &Mutex<()> {
        let hash = codec::checksum(0, 0, key.as_str().as_bytes());
        &self.changing[hash as usize % STRIPES]
    }

    /// What is stored for `key` changes, or is about to; no other thread changes it until the guard is dropped.
    ///
    /// Called without the key's lock; the one of purges may be held.
    pub(in crate::store) fn change(&self, key: &CacheKey) -> KeyChange<'_> {
        let stripe = self.stripe(key).lock();
        KeyChange { _counted: self.moments.changing(key), _stripe: stripe }
    }

    /// The same for a key whose stripe the caller has taken.
    pub(in crate::store) fn change_under<'a>(
        &'a self,
        stripe: MutexGuard<'a, ()>,
        key: &CacheKey,
    ) -> KeyChange<'a> {
        KeyChange { _counted: self.moments.changing(key), _stripe: stripe }
    }
}

/// That a key changes. Held until the change has been handed to the queue.
pub(in crate::store) struct KeyChange<'a> {
    // In this order: the second count is made under the lock.
    _counted: Counted<'a>,
    _stripe: MutexGuard<'a, ()>,
}

/// What other proxies have done to a shared store is done to memory, too. Called by the thread that listens
/// for news, without a lock; nothing is handed to the queue, since the store has it already.
impl Invalidations for MemoryTier {
    fn changed(&self, key: &CacheKey, number: Option<u64>) {
        let _changing = self.change(key);
        let present = self.memory.get(key.as_str()).unwrap_or_default();
        // It is here already, stored or recalled by this proxy: the news is of what it has.
        if number.is_some() && present.iter().any(|response| response.place().number() == number) {
            return;
        }
        if number.is_some() {
            // Something newer is stored: what was here goes, but nothing is wrong with what is on its way,
            // which may be that very response, read a moment before its news came. Marking the fetch had
            // one response in three fetched twice where several proxies share a store.
            for other in present.iter() {
                self.memory.remove(key, other);
            }
            return;
        }
        self.memory.remove_all_but(key, None);
    }

    fn purged(&self, selector: &Selector, now: Timestamp) {
        let _purging = self.purging.write();
        let _counted = self.moments.changing_all();
        self.memory.purge(selector, now);
    }

    /// Memory cannot tell what it has missed, so all of it goes; the backing store still has what is good.
    fn missed(&self) {
        self.purged(&Selector::All, Timestamp::MAX);
    }
}
